"""hoist-monotone: the map of an order reduction moves behind it.

When: a max, min, argmax or argmin over the streamed rank whose map is monotone in its leaves, and which is no gauge.

Before:  m = max_s log1p(relu(x))
After:   m = log1p(relu(max_s x))

Why legal: `max f(x) = f(max x)` for nondecreasing f.  Why cheaper: f runs once for each output instead of once for each
element.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.attributes import is_float
from ..ir.cascade import EinsumOp, KernelOp
from .algebra.derive import derive
from .algebra.forms import Cascade, Reduction, as_written
from .algebra.levels import Levels
from .algebra.mathematics import formula
from .canonicalise import erase_dead, share_equal
from .online_writer import ORDER, OnlineWriter
from .order import sort_block
from .pass_classes import StreamedPass
from .row_algebra import RowAlgebra, Unreachable

MAX_ROUNDS = 32  # one for each extreme that reads another


@dataclass(frozen=True)
class HoistMonotone(StreamedPass):
    """`hoist-monotone` on every kernel of a module that streams a rank."""

    name = "hoist-monotone"

    def on_stream(self, kernel: KernelOp, stream: str) -> None:
        hoist_monotone(kernel, stream)


def free_extremes(kernel: KernelOp, rank: str) -> None:
    """Order reductions that read earlier reductions over `rank` read them once, at the end: max (x - m) is (max x) - m.

    What is left over the rank is an order of its own, which later reductions may take as their gauge.
    """
    for _ in range(MAX_ROUNDS):
        algebra = RowAlgebra(kernel, rank)
        cascade, ops = algebra.cascade()
        names = {r.name for r in cascade.reductions}
        read = {s for v, s in algebra.name_of.items() if v.first_use}  # one of two results may be free already
        for r in cascade.reductions:
            moving = frozenset(r.expr.free_symbols & names)
            if r.combiner not in ORDER or r.name not in read or not moving or not is_float(ops[r.name].yields[0].type):
                continue
            form = derive(r, moving, cascade.leaves)
            if not form or any(a.gauge is not None or a.psi.free_symbols & names for a in form.accumulators):
                continue
            levels = Levels(1, dict.fromkeys(names, 1) | {r.name: 2}, {r.name: form}, {})
            writer = OnlineWriter(kernel, rank, algebra, cascade, levels, ops)
            writer.write_level([(r.name, form)])
            erase_dead(kernel.body.block)
            sort_block(kernel.body.block)
            share_equal(kernel.body.block)  # often there is a maximum of the same value already
            erase_dead(kernel.body.block)
            writer.note("certificates", writer.certificates)
            break
        else:
            return


def hoist_monotone(kernel: KernelOp, rank: str) -> None:
    """Hoist the maps of all order reductions over `rank`, in place."""
    for op in list(kernel.body.block.ops):
        if not (isinstance(op, EinsumOp) and op.reduced == (rank,) and len(op.results) == 1):
            continue
        if op.combiner_names[0] not in ORDER or not is_float(op.yields[0].type):
            continue
        algebra = RowAlgebra(kernel, rank, opaque=False)
        try:
            e = algebra.scalar(op.yields[0])
        except Unreachable:  # the reduction stays as written
            continue
        name = algebra._name(op.results[0], op, 0)
        if e in algebra.carried:
            continue
        form = derive(Reduction(name, op.combiner_names[0], e), frozenset(), frozenset(algebra.carried))
        if not form or as_written(form) or form.accumulators[0].psi == e:
            continue
        cascade = Cascade((Reduction(name, op.combiner_names[0], e),), (), (), frozenset(algebra.carried))
        levels = Levels(1, {name: 1}, {name: form}, {})
        writer = OnlineWriter(kernel, rank, algebra, cascade, levels, {name: op})
        writer.write_level([(name, form)])
        erase_dead(kernel.body.block)
        folds = ", ".join(f"{a.symbol} = {a.combiner}_{rank} {formula(a.psi)}" for a in form.accumulators)
        writer.note("certificates", writer.certificates)
        writer.note("derivation", [f"  {'hoisted':8} {name} = {formula(form.readout)} with {folds}"])
