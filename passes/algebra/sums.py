"""Sums: Σ_k g(x; d) = Σ_j φ_j(d) · Σ_k ψ_j(x; s).

before:  a reduction whose map uses values that are still being reduced
after:   accumulators Σ ψ_j, moved by exp(gauge(new) - gauge(old)) when their gauge moves; readout Σ φ_j A_j
when:    g splits into products (see `separate`)
why:     a sum is linear: factors without k leave it, and multiplying all its terms multiplies it
also:    Σ_k [k = i] ψ(x), with i the running place of an extreme: the winner carries ψ along (`carried`)
but:     φ may be infinite where a mask kept g from looking at it; a sum of nothing stays 0 (`unless_nothing`)
"""

from __future__ import annotations

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportReturnType=false
import sympy as sp
from sympy import Add, Expr

from .context import Context
from .exponentials import push_exponential
from .expressions import Place, Position, eq, select
from .separate import Term
from .workspace import Workspace, lift_select, shielded, unless_nothing


def settle(t: Term, context: Context) -> Term:
    """Decide where the exponential factor of d goes: into ψ when it stabilises an exponential there, else into φ."""
    if t.shift == 0:
        return t
    pushed = push_exponential(t.psi, t.shift, context)
    if pushed is None:
        return Term(t.phi * sp.exp(t.shift), psi=t.psi, gauge=t.gauge)
    moving = Add(*[a for a in Add.make_args(t.shift) if context.moves(a)])
    return Term(t.phi, psi=pushed, gauge=t.gauge + moving)


def carried(e: Expr, context: Context) -> Place | None:
    """i, when e is ψ(x) at the running place i of an extreme, and 0 elsewhere; else None.

    before:  i = argmax_k f(x);  y = Σ_k { ψ(x) where k = i, else 0 }
    after:   the state is (i, y); where i moves to i', y becomes { y where i = i', else 0 }, and the new elements add ψ at i'
             (ψ may hold moving values: only its leaves are carried, and ψ is of them and of final values, once)
    why:     of the elements that were folded, none but that at i can win: Σ over them of [k = i'] ψ is the same sum at i when
             i' = i, and empty otherwise.  Dropping is linear, so parts merge in the same way: who wins keeps what it carries.
    """
    if not (isinstance(e, select) and e.args[2] == 0 and isinstance(e.args[0], eq)):
        return None
    condition, psi, _ = e.args
    places = [a for a in condition.args if isinstance(a, Place) and a in context.in_flight]
    at = [a for a in condition.args if isinstance(a, Position)]
    return places[0] if len(places) == len(at) == 1 and context.carries_leaf(psi) else None


def fold_sum(e: Expr, work: Workspace) -> Expr:
    """The readout of Σ_k e; its accumulators are left in the workspace.  Raises NotSeparable."""
    lifted = lift_select(e, work, lambda side: fold_sum(side, work))
    if lifted is not None:
        return lifted
    separator, context = work.separator, work.context
    if (place := carried(e, context)) is not None:
        condition, value, _ = e.args
        if not context.moves(value):
            return work.carry(e, place)
        leaves = sorted(value.free_symbols & context.leaves, key=str)
        return value.xreplace({x: work.carry(select(condition, x, 0), place) for x in leaves})
    terms = separator.shortest([settle(t, context) for t in separator.split(e)])
    shields = shielded(e, context)
    read = []
    for t in terms:
        a = work.accumulate("sum", t.psi, t.gauge)
        read.append(unless_nothing(sp.S.Zero, a, t.phi * a, t.psi, shields) if context.moves(t.phi) else t.phi * a)
    return Add(*read)
