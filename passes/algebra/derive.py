"""From a cascaded reduction to its online form: the entry point of the engine.

    r = ⊕_k g(x; d)      d: results that are still being reduced
    =>  A_j = ⊕_k ψ_j(x; s),  r = Σ_j φ_j(d) A_j

when: g splits (see `sums`, `monotone`, `logic`); why legal: the certificate of the form, checked at sampled points.
Structure accepts, numbers reject: no form leaves here that has not computed its reduction on random data.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import sympy as sp
from sympy import Expr, Symbol

from . import probe
from .context import Context, NotSeparable
from .exponentials import as_powers, stabilised
from .expressions import select
from .forms import OnlineForm, Reduction, Refused
from .logic import fold_logic, fold_product
from .monotone import fold_arg, fold_order
from .sums import fold_sum
from .workspace import Workspace

_MAX_RETRY_OPERATIONS = 60


@lru_cache(maxsize=4096)
def derive(reduction: Reduction, in_flight: frozenset[Symbol], leaves: frozenset[Symbol]) -> OnlineForm | Refused:
    """How to compute `reduction` in the same traversal as the reductions named in `in_flight`, or why it cannot be.

    Earlier reductions that are not in flight are finished, hence constants.  Deterministic, and cached.
    """
    context = Context(leaves, in_flight & reduction.expr.free_symbols)
    reasons = []
    for spelling in _spellings(reduction, context):
        work = Workspace(reduction, context)
        try:
            readout = _fold(Reduction(reduction.name, reduction.combiner, spelling), work)
        except NotSeparable as reason:
            reasons.append(str(reason))
            continue
        form = _form(reduction, readout, work)
        wrong = probe.agrees(reduction, form, leaves, in_flight)
        if not wrong:
            return form
        reasons.append(f"the self-check failed: {wrong}")
    return Refused(reasons[0])


def _spellings(r: Reduction, context: Context) -> Iterator[Expr]:
    """The map as written; then, only if samples say that it separates at all, other ways to write it."""
    e = r.expr
    yield e
    if not context.mixed(e) or e.count_ops() > _MAX_RETRY_OPERATIONS:
        return
    rank = probe.rank(e, context.leaves, context.in_flight)
    if rank is None or (rank > 2 and r.combiner != "sum"):  # an order takes h1(d) x + h0(d) at most
        return
    seen = {e}
    for rewrite in (_select_outside, sp.factor, sp.cancel, _exponentials, _expanded):
        try:
            other = rewrite(e)
        except (sp.PolynomialError, NotImplementedError, TypeError):
            continue
        if other not in seen:
            seen.add(other)
            yield other


def _select_outside(e: Expr) -> Expr:
    """f(select(c, a, b)) = select(c, f(a), f(b)), for every condition in turn, outermost first."""
    conditions = []
    for n in sp.preorder_traversal(e):
        if isinstance(n, select) and n.args[0] not in conditions and not n.args[0].has(select):
            conditions.append(n.args[0])
    for c in reversed(conditions[:3]):
        sides = []
        for i in (1, 2):
            side = e
            while swaps := {n: n.args[i] for n in side.atoms(select) if n.args[0] == c}:
                side = side.xreplace(swaps)
            sides.append(side)
        e = select(c, *sides)
    return e


def _exponentials(e: Expr) -> Expr:
    return sp.expand(e.rewrite(sp.exp))


def _expanded(e: Expr) -> Expr:
    return sp.expand(e, trig=True)


def _fold(r: Reduction, work: Workspace) -> Expr:
    if r.combiner == "sum":
        return fold_sum(r.expr, work)
    if r.combiner == "prod":
        return fold_product(r.expr, work)
    if r.combiner in ("max", "min"):
        if not work.context.carries_leaf(r.expr):
            return work.accumulate(r.combiner, r.expr) if not work.context.moves(r.expr) else r.expr
        return fold_order(r.expr, r.combiner, work)
    if r.combiner in ("any", "all"):
        return fold_logic(r.expr, r.combiner, work)
    return fold_arg(r.expr, r.combiner, work)


def _form(r: Reduction, readout: Expr, work: Workspace) -> OnlineForm:
    accumulators = tuple(a for a in work.accumulators() if readout.has(a.symbol))
    gauged = any(a.gauge is not None for a in accumulators)
    moves = work.context.moves(r.expr)
    plain = readout.is_Symbol
    readout = as_powers(readout)
    order = r.combiner != "sum" and r.combiner != "prod"
    if any(a.moves is not None for a in accumulators):
        form = "carried"
    elif not moves:
        as_written = plain and all(a.psi == r.expr for a in accumulators)
        form = "monotone" if order and not as_written else "independent"
    elif len(accumulators) > 1:
        form = "monotone" if order else "moments"
    elif gauged:
        form = "rescale" if plain else "rescale+defer"
    else:
        form = "independent" if plain and not order else "defer"
    return OnlineForm(r.name, form, accumulators, readout, _certificate(r, accumulators, readout, work))


def _certificate(r: Reduction, accumulators, readout: Expr, work: Workspace) -> str:
    folds = ", ".join(f"{a.symbol} = {a.combiner} {a.psi}" for a in accumulators)
    text = f"{r.combiner} {r.expr} = {readout} with {folds}"
    gauges = sorted({str(a.gauge) for a in accumulators if a.gauge is not None})
    if gauges:
        text += "; moved by exp of the change of " + ", ".join(gauges)
    if any(a.moves is not None for a in accumulators):
        text += "; the winner keeps what it carries"
    if stabilised(r.expr, work.context) and not all(stabilised(a.psi, work.context) for a in accumulators):
        text += "; caution: an accumulator holds an exponential that nothing stabilises"
    return text
