"""`fusecade inspect` of a library: its packages, as its index lists them; the files are compared with what it says."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import InvalidArgument, InvalidPackage
from ..report import counted_noun
from ..runtime.package.library import INDEX, Listed, open_index
from ..runtime.package.manifest import Package
from . import exits


def is_library(path: Path) -> bool:
    return path.is_dir() or path.name == INDEX


def run(chosen: Namespace, console: Console) -> int:
    """Exit status 1 where a package is not there, or not the one that the index says."""
    if chosen.kernel or chosen.source or chosen.sass:
        raise InvalidArgument(
            "--kernel, --source and --sass are for one package", next_step="give the file of a package of the library"
        )
    folder, digest, listed = open_index(chosen.package)
    problems = {x.package: _problem(folder, x) for x in listed}
    if chosen.json:
        packages = [{**asdict(x), "problem": problems[x.package]} for x in listed]
        print(json.dumps({"digest": digest, "packages": packages}, indent=1))
    else:
        _show(digest, listed, problems, console)
    return exits.INCOMPLETE if any(problems.values()) else exits.FINE


def _problem(folder: Path, listed: Listed) -> str | None:
    try:
        found = Package.open(folder / listed.package).digest
    except InvalidPackage as error:
        return error.message
    return None if found == listed.digest else f"it has the digest {found}"


def _show(digest: str, listed: tuple[Listed, ...], problems: dict[str, str | None], console: Console) -> None:
    say = lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    names = len(dict.fromkeys(x.name for x in listed))
    say(f"{counted_noun(names, 'function')} in {counted_noun(len(listed), 'package')}, sha256 of the index {digest}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "arguments", "targets", "sizes up to", "package", "digest"):
        table.add_column(heading, overflow="fold", min_width=12 if heading == "digest" else None)
    previous = ""
    for x in listed:
        name = x.name if x.name != previous else ""
        bounds = "; ".join(", ".join(f"{k}={v}" for k, v in sorted(b.items())) for b in x.buckets)
        table.add_row(*map(Text, (name, x.arguments, ", ".join(x.targets), bounds, x.package, x.digest[:12])))
        previous = x.name
    console.print(table)
    for package, problem in problems.items():
        if problem is not None:
            say(f"{package} is not what the index says: {problem}")
