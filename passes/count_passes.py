"""count-passes: how many traversals over each reduced rank a kernel needs, as written and after repair.

When: on every kernel; an analysis, it changes nothing but the attribute `passes`.

A pass over rank k is one traversal of all elements of a k-fibre.  A revisit that can only start after all elements were
visited is another pass under every mapping.  The engine (`passes/algebra/levels.py`) levels the reductions: a reduction
that reads an earlier one starts a new pass unless the algebra repairs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, i64

from ..ir.cascade import EinsumOp, KernelOp
from .algebra.levels import count
from .pass_classes import KernelPass
from .row_algebra import RowAlgebra


@dataclass
class Counted:
    """Passes over each reduced rank: after repair, as written, and why there is more than one."""

    passes: dict[str, int] = field(default_factory=dict)
    as_written: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class CountPasses(KernelPass):
    """Annotate every kernel with its pass counts."""

    name = "count-passes"

    def on_kernel(self, kernel: KernelOp) -> None:
        counted = count_kernel(kernel)
        kernel.attributes["passes"] = DictionaryAttr({r: IntegerAttr(n, i64) for r, n in counted.passes.items()})


def count_kernel(kernel: KernelOp) -> Counted:
    """Pass counts of a kernel that is not yet rewritten."""
    result = Counted()
    ranks = list(dict.fromkeys(r for o in kernel.body.block.ops if isinstance(o, EinsumOp) for r in o.reduced))
    for rank in ranks:
        algebra = RowAlgebra(kernel, rank)
        cascade, _ = algebra.cascade()
        unreachable = [f"{v.name_hint or 'a reduction'} {why}" for v, why in algebra.blocked.items()]
        if not cascade.reductions:
            result.passes[rank] = result.as_written[rank] = 1
            continue
        full = count(cascade, "full", anchored=True)
        result.passes[rank] = full.passes
        result.as_written[rank] = count(cascade, "none").passes
        reasons = [*(f"{name}: {why}" for name, why in full.reasons.items()), *unreachable]
        if reasons:
            result.reasons[rank] = reasons
    return result
