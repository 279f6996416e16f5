"""derive-online: cascaded reductions over one rank become reductions that run in one pass.

When: in a kernel that streams a rank (attribute `stream`), a reduction over that rank reads the result of an earlier one,
directly or through maps, so that as written the second pass can only start when the first has ended.

Before:  m = max_j x;  l = Σ_j exp(x - m);  o = Σ_j exp(x - m) / l · v
After:   m, l', o' = online over j { x;  e = exp(x - m) with m running;  e · v }  transported by exp(m_old - m_new);
         o = o' / l'

Why legal: the derivation engine (`passes/algebra`) rewrites each map as Σ φ(earlier results) ψ(leaves) and checks the
identity numerically; φ leaves the reduction because reductions are linear (or monotone, for max and min).  What has no
such form keeps its place and costs a pass.  Each rewrite leaves its certificate in the kernel's `certificates`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.cascade import KernelOp
from .algebra.levels import Levels, count
from .free_gauges import free_gauges, lags, put_numbers
from .hoist_monotone import free_extremes, hoist_monotone
from .hoist_picks import hoist_picks
from .online_writer import OnlineWriter, note
from .order import sort_block
from .pass_classes import StreamedPass
from .row_algebra import RowAlgebra


@dataclass(frozen=True)
class DeriveOnline(StreamedPass):
    """Rewrite the cascades of every kernel that streams a rank.

    lazy: note on the online forms by how much their gauges may lag (`lag`), where any gauge gives the same results.
    """

    name = "derive-online"
    lazy: bool = False

    def on_stream(self, kernel: KernelOp, stream: str) -> None:
        derive_kernel(kernel, stream, self.lazy)


def derive_kernel(kernel: KernelOp, rank: str, lazy: bool = False) -> Levels:
    """Rewrite one kernel in place; returns the levels that were found (passes over `rank` and the forms used)."""
    note(kernel, "certificates", hoist_picks(kernel, rank))
    free_extremes(kernel, rank)
    algebra = RowAlgebra(kernel, rank)
    cascade, ops = algebra.cascade()
    levels = count(cascade, "full", anchored=True)
    freed = free_gauges(algebra, cascade, levels, ops)
    writer = OnlineWriter(kernel, rank, algebra, freed.cascade, freed.levels, ops)
    writer.lags = lags(algebra, freed) if lazy else {}
    writer.note("certificates", freed.certificates)
    writer.run()
    writer.note("derivation", freed.derivation)
    put_numbers(algebra, freed)
    hoist_monotone(kernel, rank)
    sort_block(kernel.body.block)
    return levels
