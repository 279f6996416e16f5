"""`fusecade export-c`: the GPU kernels of a package as a folder of C."""

from __future__ import annotations

from argparse import Namespace

from rich.console import Console

from .. import aot
from . import exits
from .program import sizes


def run(chosen: Namespace, console: Console) -> int:
    example = None if chosen.example is None else sizes(chosen.example)
    folder = aot.export_c(chosen.package, chosen.out, prefix=chosen.prefix, example=example)
    console.print(f"{folder}: C source, and an example", markup=False, highlight=False, soft_wrap=True)
    return exits.FINE
