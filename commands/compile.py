"""`fusecade compile`: a function's kernels for one or more targets, in a folder.

DIR/<target>/<kernel>.py              the source
DIR/<target>/<kernel>.mlir            the tile program it was printed from
DIR/<target>/<kernel>.cubin, .ptx     the binary and its assembly (.hsaco, .amdgcn on AMD)
DIR/<target>/explain.txt, explain.json
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .. import api
from ..errors import InvalidArgument
from ..report import KernelReport, Report, counted_noun
from ..runtime.files import write_whole
from . import exits
from .program import DEFAULT_TARGET, Shape, arguments, check_arguments, find_function, parameters


def run(chosen: Namespace, console: Console) -> int:
    function = find_function(chosen.program, chosen.factory)
    tensors, dynamic = arguments([Shape.read(text, chosen.dtype) for text in chosen.shape])
    check_arguments(function, chosen.program, tensors)
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
                parameters=parameters(chosen.parameter), compile_binaries=not chosen.no_binaries, on_progress=tick,
            )  # fmt: skip
            missing += write(report, chosen.out / target, binaries=not chosen.no_binaries)
            progress.remove_task(task)
            console.print(_line(report, chosen.out / target), markup=False, highlight=False, soft_wrap=True)
    for what in missing:
        console.print(f"no binary of {what}", markup=False, highlight=False)
    return exits.INCOMPLETE if missing else exits.FINE


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
