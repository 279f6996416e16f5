"""inline-maps: a map that only one other map reads becomes part of it.

When: inside a kernel, where both are read at their own ranks.

Before:  a = map { x * c };  b = map ins(a, y) { a + y }
After:   b = map ins(x, y) { x * c + y }

Why legal: composition of functions.  Storage types between the two are not rounded to (a chain of maps rounds once).
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import SSAValue
from xdsl.rewriter import Rewriter

from ..ir.cascade import EinsumOp, KernelOp, YieldOp
from .pass_classes import KernelPass
from .replace_einsum import replace_einsum


@dataclass(frozen=True)
class InlineMaps(KernelPass):
    """`inline-maps` on every kernel of a module."""

    name = "inline-maps"

    def on_kernel(self, kernel: KernelOp) -> None:
        inline_maps(kernel)


def inline_maps(kernel: KernelOp) -> None:
    """Inline until no map has a single reader that is a map."""
    for op in list(kernel.body.block.ops):
        if isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1:
            uses = list(op.results[0].uses)
            if len(uses) == 1 and isinstance(uses[0].operation, EinsumOp) and uses[0].operation.is_map:
                _inline(op, uses[0].operation, uses[0].index)


def _inline(inner: EinsumOp, outer: EinsumOp, index: int) -> None:
    """Replace input `index` of `outer` by the region of `inner`."""
    body = outer.body.clone()
    block = body.block
    kept = [pair for n, pair in enumerate(outer.operand_accesses) if n != index]
    inputs = [*kept, *inner.operand_accesses]
    mapping: dict[SSAValue, SSAValue] = {}
    for arg in inner.body.block.args:
        mapping[arg] = block.insert_arg(arg.type, len(block.args))
    first = block.first_op
    assert first is not None
    for op in inner.body.block.ops:
        if isinstance(op, YieldOp):
            continue
        copy = op.clone(dict(mapping))
        block.insert_op_before(copy, first)
        mapping.update(zip(op.results, copy.results, strict=True))
    old = block.args[index]
    old.replace_all_uses_with(mapping.get(inner.yields[0], inner.yields[0]))
    block.erase_arg(old)
    replace_einsum(outer, inputs, body)
    Rewriter.erase_op(inner)
