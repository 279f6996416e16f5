"""Names and notes of kernels: what a program computes does not depend on them."""

from __future__ import annotations

from typing import TypeVar

from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.ir import Operation

from . import tile
from .cascade import KernelOp

Kernel = TypeVar("Kernel", KernelOp, tile.KernelOp)


def rename(kernel: KernelOp | tile.KernelOp, name: str) -> None:
    kernel.sym_name = StringAttr(name)


def note(op: Operation, key: str) -> str:
    """An attribute that is a string; "" where there is none."""
    found = op.attributes.get(key)
    return found.data if isinstance(found, StringAttr) else ""


def notes(op: Operation, key: str) -> list[str]:
    """An attribute that is a list of strings."""
    found = op.attributes.get(key)
    return [line.data for line in found.data if isinstance(line, StringAttr)] if isinstance(found, ArrayAttr) else []


def anonymous(kernel: Kernel) -> Kernel:
    """A copy without names: equal kernels of different layers are one."""
    copy = kernel.clone()
    rename(copy, "_")
    for op in copy.walk():
        for value in [*op.results, *(a for r in op.regions for b in r.blocks for a in b.args)]:
            value.name_hint = None
    return copy
