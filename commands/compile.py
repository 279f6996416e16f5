"""`fusecade compile`: a function's kernels for one or more targets, in a folder.

DIR/<target>/<kernel>.py              the source
DIR/<target>/<kernel>.mlir            the tile program it was printed from
DIR/<target>/<kernel>.cubin, .ptx     the binary and its assembly (.hsaco, .amdgcn on AMD)
DIR/<target>/explain.txt, explain.json

With `-o FILE.fcade`, one package for all targets instead, as `fusecade.export` writes it; with `--format c`, DIR is C; with
`--spec`, a library of packages (`library.py`).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .. import aot, api
from ..errors import InvalidArgument
from ..ir.target import get_target
from ..report import KernelReport, Report, counted_noun
from ..runtime.files import write_whole
from . import exits, library
from .program import DEFAULT_TARGET, Shape, arguments, check_arguments, find_function, parameters, sizes

PACKAGE = ".fcade"


def run(chosen: Namespace, console: Console) -> int:
    if chosen.spec is not None:
        _check_spec(chosen)
        return library.run(chosen, console)
    _check_one(chosen)
    function = find_function(chosen.program, chosen.factory)
    tensors, dynamic = arguments([Shape.read(text, chosen.dtype) for text in chosen.shape])
    check_arguments(function, chosen.program, tensors)
    if chosen.format == "c":
        if chosen.keep or chosen.out.suffix == PACKAGE:
            raise InvalidArgument(
                f"--format c writes a folder: {'--keep is' if chosen.keep else f'a name in {PACKAGE} is'} for packages",
                next_step=f"leave it out; `fusecade export-c FILE{PACKAGE} -o DIR` makes C of a package",
            )
        return _export(function, tensors, dynamic, chosen, console, format="c")
    if chosen.prefix is not None or chosen.example is not None:
        raise InvalidArgument("--prefix and --example are for C", next_step="add --format c, or leave them out")
    if chosen.out.suffix == PACKAGE:
        return _export(function, tensors, dynamic, chosen, console, format="package")
    if chosen.bucket or chosen.keep:
        raise InvalidArgument(
            "--bucket and --keep are for packages", next_step=f"give -o a name that ends in {PACKAGE}"
        )
    _make_folder(chosen.out)  # before the work, not after it
    missing: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for target in chosen.target or [DEFAULT_TARGET]:
            task = progress.add_task(f"{target}: planning", total=None)

            def tick(done: int, total: int, task: object = task, target: str = target) -> None:
                progress.update(task, description=f"{target}: binaries", completed=done, total=total)  # type: ignore[arg-type]

            report = api.explain(
                function, *tensors, target=target, dynamic=dynamic or None, fuse=chosen.fuse,
                remainder=chosen.remainder or "eager", parameters=parameters(chosen.parameter),
                compile_binaries=not chosen.no_binaries, on_progress=tick,
            )  # fmt: skip
            missing += write(report, chosen.out / target, binaries=not chosen.no_binaries)
            progress.remove_task(task)
            console.print(_line(report, chosen.out / target), markup=False, highlight=False, soft_wrap=True)
    for what in missing:
        console.print(f"no binary of {what}", markup=False, highlight=False)
    return exits.INCOMPLETE if missing else exits.FINE


def _check_spec(chosen: Namespace) -> None:
    """Raises InvalidArgument for options that a specification has instead."""
    given = {
        "MODULE:FUNCTION": chosen.program, "--shape": chosen.shape, "--target": chosen.target, "--bucket": chosen.bucket,
        "--keep": chosen.keep, "--parameter": chosen.parameter, "--factory": chosen.factory,
        "--no-binaries": chosen.no_binaries, "--fuse": chosen.fuse != "by_cost", "--dtype": chosen.dtype != "f32",
        "--remainder": chosen.remainder,
        "--format": chosen.format != "files", "--prefix": chosen.prefix, "--example": chosen.example,
    }  # fmt: skip
    for name, value in given.items():
        if value:
            raise InvalidArgument(f"{chosen.spec} says what {name} says", next_step=f"leave out {name}, or --spec")


def _check_one(chosen: Namespace) -> None:
    """Raises InvalidArgument for options of libraries, and where there is nothing to compile or no place for it."""
    given = {"--jobs": chosen.jobs, "--dry-run": chosen.dry_run, "--check": chosen.check, "--prune": chosen.prune,
             "--json": chosen.json}  # fmt: skip
    for name, value in given.items():
        if value:
            raise InvalidArgument(f"{name} is for libraries", next_step="give --spec FILE.toml, or leave it out")
    if chosen.program is None or chosen.out is None:
        lacks = "MODULE:FUNCTION" if chosen.program is None else "-o DIR|FILE.fcade"
        raise InvalidArgument(f"there is no {lacks}", next_step="give both, or --spec FILE.toml for a library")


def _export(
    function: Callable[..., Any],
    tensors: Sequence[Any],
    dynamic: Mapping[Any, Any],
    chosen: Namespace,
    console: Console,
    format: str,
) -> int:
    """A package, or a folder of C."""
    if chosen.no_binaries:
        what = "a package" if format == "package" else "C"
        raise InvalidArgument(f"{what} has binaries", next_step="leave out --no-binaries, or give -o a folder")
    _make_folder(chosen.out.parent if format == "package" else chosen.out)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("planning", total=None)

        def tick(target: str, done: int, total: int) -> None:
            progress.update(task, description=f"{target}: binaries", completed=done, total=total)

        made = aot.export(
            function, tensors, chosen.out, targets=chosen.target or [DEFAULT_TARGET], dynamic=dynamic or None,
            buckets=[sizes(text) for text in chosen.bucket], keep=chosen.keep, fuse=chosen.fuse,
            remainder=chosen.remainder,
            parameters=parameters(chosen.parameter), on_progress=tick, format=format, prefix=chosen.prefix,
            example=None if chosen.example is None else sizes(chosen.example),
        )  # fmt: skip
    for target, reports in made.reports.items():
        kernels = sum(len(report.kernels) for report in reports)
        buckets = f" for {counted_noun(len(reports), 'bucket')}" if len(reports) > 1 else ""
        left = ", which have no form in C" if format == "c" and get_target(target).kind == "cpu" else ""
        console.print(f"{target}: {counted_noun(kernels, 'kernel')}{buckets}{left}", markup=False, highlight=False)
    if format == "c":
        line = f"{made.path}: C source, and an example; digest of the package {made.digest}"
    else:
        line = f"{made.path}: {made.path.stat().st_size} bytes, digest {made.digest}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    return exits.FINE


def write(report: Report, folder: Path, *, binaries: bool = True) -> list[str]:
    """Write everything about one target; returns the kernels that have no binary, with the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for kernel in report.kernels:
        _write(folder / f"{kernel.name}.py", kernel.source)
        _write(folder / f"{kernel.name}.mlir", kernel.tile)
        if kernel.binary is not None:
            write_whole(folder / f"{kernel.name}.{kernel.binary_suffix}", kernel.binary)
            _write(folder / f"{kernel.name}.{kernel.assembly_suffix}", kernel.assembly or "")
        elif binaries and kernel.kind == "triton":
            missing.append(f"{kernel.name} for {kernel.target}: {kernel.not_compiled}")
    _write(folder / "explain.txt", str(report) + "\n")
    _write(folder / "explain.json", report.to_json() + "\n")
    return missing


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(
            f"the folder {folder} cannot be made: {error.strerror}", next_step="give -o a folder that you can write to"
        ) from error


def _write(path: Path, text: str) -> None:
    write_whole(path, text.encode())


def _line(report: Report, folder: Path) -> str:
    kernels = report.kernels
    built: list[KernelReport] = [k for k in kernels if k.binary is not None]
    counts = (counted_noun(len(kernels), "kernel"), f"{len(built)} {'binary' if len(built) == 1 else 'binaries'}")
    return f"{report.target}: {', '.join(counts)}, {counted_noun(len(report.externs), 'extern')}, in {folder}"
