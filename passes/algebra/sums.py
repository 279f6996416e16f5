"""Sums: Σ_k g(x; d) = Σ_j φ_j(d) · Σ_k ψ_j(x; s).

before:  a reduction whose map uses values that are still being reduced
after:   accumulators Σ ψ_j, moved by exp(gauge(new) - gauge(old)) when their gauge moves; readout Σ φ_j A_j
when:    g splits into products (see `separate`)
why:     a sum is linear: factors without k leave it, and multiplying all its terms multiplies it
but:     φ may be infinite where a mask kept g from looking at it; a sum of nothing stays 0 (`unless_nothing`)
"""

from __future__ import annotations

import sympy as sp
from sympy import Add, Expr

from .context import Context
from .exponentials import push_exponential
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


def fold_sum(e: Expr, work: Workspace) -> Expr:
    """The readout of Σ_k e; its accumulators are left in the workspace.  Raises NotSeparable."""
    lifted = lift_select(e, work, lambda side: fold_sum(side, work))
    if lifted is not None:
        return lifted
    separator, context = work.separator, work.context
    terms = separator.shortest([settle(t, context) for t in separator.split(e)])
    shields = shielded(e, context)
    read = []
    for t in terms:
        a = work.accumulate("sum", t.psi, t.gauge)
        read.append(unless_nothing(sp.S.Zero, a, t.phi * a, t.psi, shields) if context.moves(t.phi) else t.phi * a)
    return Add(*read)
