"""Holds Fusecade's kernels against kernels that people wrote for the same functions; needs no GPU.

    python benchmarks/handwritten.py                     # all functions; JSON goes to benchmarks/results/
    python benchmarks/handwritten.py --case softmax --arch 90

The hand-written kernels come from packages on PyPI (`pip install fusecade[bench-handwritten]`; one that is missing is
left out, with a word), launched by their own launchers at their own default tiles, those of the GPU that is asked for.
An autotuner that has nothing to time takes the first configuration of its list, or the first with the tiles that
benchmarks/peers/functions.py names. Bytes are those between the SMs and L2 (`fusecade.testing`), counted under Triton's
interpreter in some programs of each grid and scaled; the rest is read from the binaries. What is wanted: at most 1.05
times the bytes of any hand-written kernel, no spills, and tensor cores of the same generation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from peers.functions import CASES
from rich import box
from rich.console import Console
from rich.table import Table
from run import RESULTS, versions

HERE = Path(__file__).parent
OURS = "fusecade"
WANTED = 1.05
Key = tuple[str, str, int]  # function, size, architecture


@dataclass(frozen=True)
class Row:
    """What one party's kernels for a function use; registers and spills are those of the kernel with the most.

    load_bytes, store_bytes: of all launches, between the SMs and L2.  predicted_bytes: what our cost model says of both.
    tiles: the constants of each launch.  chosen: what an autotuner took, of how many.  None: not known, for the reason.
    """

    case: str
    size: str
    arch: int
    whose: str
    load_bytes: int | None = None
    store_bytes: int | None = None
    predicted_bytes: int | None = None
    registers: int | None = None
    spills: int | None = None
    shared: int | None = None
    tensor_cores: dict[str, int] = field(default_factory=dict)
    kernels: list[str] = field(default_factory=list)
    tiles: list[dict[str, int]] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)
    also: str = ""
    reasons: list[str] = field(default_factory=list)
    missing: bool = False

    @property
    def bytes(self) -> int | None:
        return None if self.load_bytes is None or self.store_bytes is None else self.load_bytes + self.store_bytes

    @property
    def key(self) -> Key:
        return self.case, self.size, self.arch


def rows_of(answers: Iterable[dict[str, Any]]) -> list[Row]:
    """Both processes' answers, put together; in the order in which the functions stand."""
    also = {(case.name, peer.package): peer.also for case in CASES for peer in case.peers}
    found: dict[tuple[Key, str], dict[str, Any]] = {}
    for answer in answers:
        whose = answer["whose"]
        key = (answer["case"], answer["size"], answer["arch"])
        row = found.setdefault((key, whose), {"reasons": [], "also": also.get((answer["case"], whose), "")})
        if "reason" in answer:
            row["missing"] = answer.get("missing", False)
            if answer["reason"] not in row["reasons"]:
                row["reasons"].append(answer["reason"])
        if "loads" in answer:
            row |= {"load_bytes": answer["loads"], "store_bytes": answer["stores"]}
        if "launches" in answer:
            row |= _binaries(answer)
    order = {case.name: n for n, case in enumerate(CASES)}
    rows = [Row(*key, whose, **row) for (key, whose), row in found.items()]
    return sorted(rows, key=lambda row: (order.get(row.case, -1), row.size, row.arch))


def _binaries(answer: dict[str, Any]) -> dict[str, Any]:
    launches = answer["launches"]
    cores: dict[str, int] = {}
    for launch in launches:
        for name, number in launch["tensor_cores"].items():
            cores[name] = cores.get(name, 0) + number
    most = {
        name: max((launch[name] for launch in launches if launch[name] is not None), default=None)
        for name in ("registers", "spills", "shared")
    }
    return most | {
        "tensor_cores": cores,
        "kernels": [launch["kernel"] for launch in launches],
        "tiles": [launch["constants"] for launch in launches],
        "chosen": answer.get("chosen", []),
        "predicted_bytes": answer.get("predicted"),
    }


def shortfalls(ours: Row, theirs: Row) -> Iterator[str]:
    """Where our kernels do not come up to theirs."""
    if ours.bytes and theirs.bytes and ours.bytes > WANTED * theirs.bytes:
        yield f"{ours.bytes / theirs.bytes:.2f} times the bytes"
    if ours.spills:
        yield f"spills {ours.spills} bytes" + (" (theirs too)" if theirs.spills else "")
    if ours.kernels and theirs.tensor_cores and not ours.tensor_cores:
        yield "no tensor cores"
    elif ours.kernels and "HGMMA" in theirs.tensor_cores and "HGMMA" not in ours.tensor_cores:
        yield "no HGMMA"


def measure(what: str, cases: list[str], arch: int, programs: int) -> Iterator[dict[str, Any]]:
    """The answers of one process (peers/worker.py) as they come: packages keep what they once asked the device."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if what == "bytes":
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "peers.worker", what, str(arch), str(programs), *cases]
    with subprocess.Popen(
        command, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        with ThreadPoolExecutor(1) as reader:
            said = reader.submit(process.stderr.read)
            yield from map(json.loads, process.stdout)
            if process.wait() != 0:
                raise RuntimeError(f"the process that measures {what} failed:\n{said.result()[-3000:]}")


def table(rows: list[Row]) -> Table:
    made = Table(
        title="MB between the SMs and L2, of one call; registers of a thread, bytes of its spills, KiB of shared memory",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("function", "size", "sm", "whose", "tiles"):
        made.add_column(heading, no_wrap=heading != "tiles")
    for heading in ("MB", "ours/theirs", "registers", "spills", "shared"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("tensor cores")
    made.add_column("")
    before = None
    ours = {row.key: row for row in rows if row.whose == OURS}
    for row in rows:
        mine = ours.get(row.key)
        if row.missing:
            continue
        head = ("", "", "") if row.key == before else (row.case, row.size, str(row.arch))
        if row.key != before and before is not None:
            made.add_section()
        before = row.key
        ratio, short = "", list[str]()
        if mine is not None and row.whose != OURS:
            if mine.bytes and row.bytes:
                ratio = f"{mine.bytes / row.bytes:.2f}"
            short = list(shortfalls(mine, row))
        words = [*(f"[red]ours: {s}[/]" for s in short), *row.reasons, *([row.also] if row.also else [])]
        made.add_row(
            *head,
            row.whose,
            _tiles(row),
            _number(row.bytes, 1e6),
            f"[red]{ratio}[/]" if any("times" in s for s in short) else ratio,
            _number(row.registers),
            _number(row.spills),
            _number(row.shared, 1024),
            " ".join(f"{name} {n}" for name, n in row.tensor_cores.items()),
            "; ".join(words),
        )
    return made


def _tiles(row: Row) -> str:
    """The block sizes, warps and stages of each launch: 128×64 w4 s3."""
    return ", ".join(
        "×".join(str(n) for name, n in tiles.items() if _is_tile(name))
        + f" w{tiles.get('num_warps', '?')} s{tiles.get('num_stages', '?')}"
        for tiles in row.tiles
    )


def _is_tile(name: str) -> bool:
    return "block" in name.lower() or "tile" in name.lower() or (name[0] == "B" and len(name) <= 3 and name != "B")


def _number(value: int | None, unit: float = 1) -> str:
    return "" if value is None else f"{value:,}" if unit == 1 else f"{value / unit:,.1f}"


def package_versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in dict.fromkeys(peer.package for case in CASES for peer in case.peers):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def main(arguments: list[str] | None = None) -> int:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description="Hold Fusecade's kernels against hand-written ones, without a GPU.")
    parser.add_argument("--case", action="append", choices=names, help="only this function; may be repeated")
    parser.add_argument("--arch", action="append", type=int, choices=(80, 90), help="only sm_80 or only sm_90")
    parser.add_argument("--programs", type=int, default=0, help="programs of each grid to count bytes in")
    parser.add_argument("--json", type=Path, help="where the JSON file goes (default: benchmarks/results/)")
    chosen = parser.parse_args(arguments)
    cases, architectures = chosen.case or names, sorted(set(chosen.arch or (80, 90)))

    console = Console(width=max(200, Console().width))
    packages = package_versions()
    for package, version in packages.items():
        if version is None:
            console.print(f"{package} is not installed, and is left out: pip install {package}", highlight=False)
    answers: list[dict[str, Any]] = []

    def collect(what: str) -> None:
        for arch in architectures:
            for answer in measure(what, cases, arch, chosen.programs):
                answers.append(answer)
                print(*(answer[k] for k in ("what", "case", "size", "arch", "whose")), file=sys.stderr)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(collect, ("binaries", "bytes")))
    rows = rows_of(answers)
    ours = {row.key: row for row in rows if row.whose == OURS}
    short = [
        {"case": row.case, "size": row.size, "arch": row.arch, "against": row.whose, "ours": said}
        for row in rows
        if row.whose != OURS
        for said in shortfalls(ours[row.key], row)
    ]
    path = chosen.json or RESULTS / f"handwritten-{date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {"versions": versions(), "packages": packages, "programs": chosen.programs, "wanted": WANTED,
            "rows": [asdict(row) | {"bytes": row.bytes} for row in rows], "shortfalls": short}  # fmt: skip
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(table(rows))
    compared = sum(row.whose != OURS and bool(row.bytes) and bool(ours[row.key].bytes) for row in rows)
    console.print(f"{compared} comparisons, {len(short)} shortfalls; written to {path}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
