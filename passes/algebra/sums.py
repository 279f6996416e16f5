"""Sums: Σ_k g(x; d) = Σ_j φ_j(d) · Σ_k ψ_j(x; s).

before:  a reduction whose map uses values that are still being reduced
after:   accumulators Σ ψ_j, moved by exp(gauge(new) - gauge(old)) when their gauge moves; a readout Σ φ_j A_j at the end
when:    g splits into products (see `separate`)
why:     a sum is linear: factors without k leave it, and multiplying all its terms multiplies it
"""

from __future__ import annotations

import sympy as sp
from sympy import Add, Expr, Mul

from .expressions import Context, select
from .separate import Term, exponent
from .workspace import Workspace, lift_select


def push_exponential(psi: Expr, shift: Expr, context: Context) -> Expr | None:
    """psi * exp(shift) with the shift inside the exponentials of psi, or None when psi has none at its top.

    An exponential of a leaf overflows unless something is subtracted first; so what can be subtracted is.
    """
    z = exponent(psi, context)
    if z is not None and context.carries_leaf(z):
        return sp.exp(z + shift)
    if psi.is_Add:
        parts = [push_exponential(a, shift, context) for a in psi.args]
        if all(p is None for p in parts):
            return None
        return Add(*[a * sp.exp(shift) if p is None else p for p, a in zip(parts, psi.args, strict=True)])
    if psi.is_Mul:
        for i, a in enumerate(psi.args):
            pushed = push_exponential(a, shift, context)
            if pushed is not None:
                return Mul(pushed, *psi.args[:i], *psi.args[i + 1 :])
        return None
    if isinstance(psi, select):
        parts = [push_exponential(a, shift, context) for a in psi.args[1:]]
        if all(p is None for p in parts):
            return None
        return select(
            psi.args[0], *[a * sp.exp(shift) if p is None else p for p, a in zip(parts, psi.args[1:], strict=True)]
        )
    return None


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
    return Add(*[t.phi * work.accumulate("sum", t.psi, t.gauge) for t in terms])


def stabilised(e: Expr, context: Context) -> bool:
    """Does every exponential of a leaf in e have something subtracted from it?"""
    return not any(
        (z := exponent(n, context)) is not None and context.carries_leaf(z) and not z.free_symbols - context.leaves
        for n in sp.preorder_traversal(e)
        if n.is_Function or n.is_Pow
    )
