"""What a kernel costs at least on a CPU, as it reads after its repair: known before there is a schedule.

There a kernel is calls on tiles, priced as their sum (`cost.py`): each scalar of each map is computed once for each of its
elements at least, in a call of its own at least.  Kernels that compare indices are left alone: loops may leave tiles out.
"""

from __future__ import annotations

from collections.abc import Iterable

from xdsl.ir import Block, SSAValue

from ..ir import scalar
from ..ir.cascade import EinsumOp, IndexOp, KernelOp, OnlineOp
from ..ir.target import Target
from .cost import CPU_MAP_RATE, CPU_RATES
from .likely_sizes import LikelySizes

FREE = {scalar.CONSTANT, "widen", "narrow"}  # no call, or none that always is one


def least_us(kernel: KernelOp, target: Target, sizes: LikelySizes) -> float:
    """Microseconds of sweeps over tiles and of calls under which no schedule of a kernel stays; its products not counted."""
    if target.kind != "cpu" or any(isinstance(op, IndexOp) for op in kernel.walk()):
        return 0.0
    seconds, calls = 0.0, len(kernel.returned)
    for op in kernel.body.block.ops:
        if isinstance(op, EinsumOp | OnlineOp):
            body = op.body if isinstance(op, EinsumOp) else op.step
            for name, ranks in _computed(op, body.block):
                if name == "mul" and not (isinstance(op, EinsumOp) and op.is_map):
                    continue  # of a product
                points = 1.0
                for r in ranks:
                    points *= sizes.value(op.extents[r])
                if not points:
                    return 0.0  # there may be no program
                seconds += points / CPU_RATES.get(name, CPU_MAP_RATE) / target.sms
                calls += 1
    return seconds * 1e6 + calls * target.launch_us


def _computed(op: EinsumOp | OnlineOp, block: Block) -> Iterable[tuple[str, frozenset[str]]]:
    """The functions of a region that something needs, each with the ranks of its tile."""
    known = frozenset(op.ranks.names)
    ranks: dict[SSAValue, frozenset[str]] = {
        a: known & set(access.ranks) for a, access in zip(block.args, op.accesses.data, strict=False)
    }
    for inner in block.ops:
        name = scalar.name_of(inner)
        over = frozenset[str]().union(*(ranks.get(v, frozenset()) for v in inner.operands))
        ranks.update(dict.fromkeys(inner.results, over))
        if name is not None and name not in FREE:
            yield name, over
