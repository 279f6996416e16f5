"""absorb-scales: a constant factor on a contraction's result moves to the contraction's smaller operand.

When: a contraction's result is read once, as `result · c`, and operands are multiplied in full precision (a 16-bit operand
would be rounded once more).

Before:  s = Σ_d q k;   x = s · c
After:   s = Σ_d (c · q) k;   x = s

Why legal: sums are linear.  Why cheaper: |q| multiplications, outside the loop over the other side, instead of |s| inside.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import Operation
from xdsl.rewriter import Rewriter

from ..ir import scalar
from ..ir.cascade import EinsumOp, KernelOp, OnlineOp, YieldOp
from .contraction import contractions
from .pass_classes import KernelPass


@dataclass(frozen=True)
class AbsorbScales(KernelPass):
    """`absorb-scales` on every kernel of a module."""

    name = "absorb-scales"

    def on_kernel(self, kernel: KernelOp) -> None:
        absorb_scales(kernel)


def absorb_scales(kernel: KernelOp) -> None:
    """Rewrite every contraction of a kernel for which it is legal."""
    for contraction in contractions(kernel):
        op = contraction.op
        if isinstance(op, EinsumOp) and len(op.results) == 1:
            _absorb(op)


def _absorb(op: EinsumOp) -> None:
    uses = list(op.results[0].uses)
    if len(uses) != 1:
        return
    reader = uses[0].operation
    if not isinstance(reader, EinsumOp | OnlineOp):
        return
    region = reader.body if isinstance(reader, EinsumOp) else reader.step
    inside = list(region.block.args[uses[0].index].uses)
    if len(inside) != 1 or scalar.name_of(inside[0].operation) != "mul":
        return
    product = inside[0].operation
    other = product.operands[1 - inside[0].index].owner
    if not isinstance(other, Operation) or scalar.name_of(other) != scalar.CONSTANT:
        return
    last = op.body.block.last_op
    assert isinstance(last, YieldOp)
    factor = scalar.constant(scalar.constant_value(other), last.values[0].type)
    times = scalar.build("mul", [last.values[0], factor.results[0]])
    op.body.block.insert_ops_before([factor, times], last)
    last.operands[0] = times.results[0]
    product.results[0].replace_all_uses_with(product.operands[inside[0].index])
    Rewriter.erase_op(product)
