"""`fusecade explain`: the report of a function for a target, on the terminal, as JSON or as a page."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from rich.console import Console

from .. import api
from ..errors import InvalidArgument
from . import exits
from .program import DEFAULT_TARGET, Shape, arguments, check_arguments, find_function, parameters


def run(chosen: Namespace, console: Console) -> int:
    function = find_function(chosen.program, chosen.factory)
    tensors, dynamic = arguments([Shape.read(text, chosen.dtype) for text in chosen.shape])
    check_arguments(function, chosen.program, tensors)
    if chosen.html and not chosen.html.parent.is_dir():
        raise InvalidArgument(
            f"{chosen.html} cannot be written: there is no folder {chosen.html.parent}",
            next_step="make the folder first, or give --html another path",
        )
    status = exits.FINE
    targets = chosen.target or [DEFAULT_TARGET]
    for target in targets:
        report = api.explain(
            function, *tensors, target=target, dynamic=dynamic or None, fuse=chosen.fuse,
            remainder=chosen.remainder or "eager", parameters=parameters(chosen.parameter),
            compile_binaries=not chosen.no_binaries,
        )  # fmt: skip
        if chosen.json:
            console.print(report.to_json(), markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(str(report), markup=False, highlight=False, soft_wrap=True)
        if chosen.html:
            path = report.to_html(_of_target(chosen.html, target, len(targets) > 1))
            console.print(f"written to {path}", markup=False, highlight=False)
        if report.fallbacks or any(k.not_compiled and k.binary is None for k in report.kernels):
            status = exits.INCOMPLETE
    return status


def _of_target(path: Path, target: str, several: bool) -> Path:
    return path.with_name(f"{path.stem}.{target}{path.suffix}") if several else path
