"""How many reductions over the same rank must have ended before each reduction of a kernel can start."""

from __future__ import annotations

from collections.abc import Mapping

from xdsl.ir import Operation, SSAValue

from ..ir.cascade import EinsumOp, KernelOp, OnlineOp


def levels(kernel: KernelOp) -> dict[Operation, int]:
    """For each reduction, the number of those that it waits for, one behind the other."""
    level: dict[Operation, int] = {}
    for op in kernel.body.block.ops:
        if isinstance(op, EinsumOp | OnlineOp) and reduced_ranks(op):
            level[op] = max((ended_before(level, v, r) for r in reduced_ranks(op) for v in op.inputs), default=0)
    return level


def ended_before(level: Mapping[Operation, int], value: SSAValue, rank: str) -> int:
    """How many reductions over `rank` must have ended, one behind the other, before `value` is known."""
    op = value.owner
    if not isinstance(op, EinsumOp | OnlineOp):
        return 0
    if rank in reduced_ranks(op):
        return level[op] + 1
    return max((ended_before(level, v, rank) for v in op.inputs), default=0)


def reduced_ranks(op: EinsumOp | OnlineOp) -> tuple[str, ...]:
    """The ranks that an operation reduces."""
    return op.reduced if isinstance(op, EinsumOp) else (op.over.data,)


__all__ = ["ended_before", "levels", "reduced_ranks"]
