"""Exponentials: recognising them in any spelling, and keeping them from overflowing."""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

from __future__ import annotations

import sympy as sp
from sympy import Add, Expr, Mul, S

from . import expressions as ex
from .context import Context
from .expressions import select


def exponent(e: Expr, context: Context) -> Expr | None:
    """z when e is exp(z) in some spelling (exp, exp2, a power of a positive constant of the row), else None."""
    if isinstance(e, sp.exp):
        return e.args[0]
    if isinstance(e, ex.exp2):
        return e.args[0] * sp.log(2)
    if e.is_Pow and context.kind(e.exp) and not context.kind(e.base) and e.base.is_positive:
        return e.exp * sp.log(e.base)
    return None


def as_powers(e: Expr) -> Expr:
    """exp(z log b) is b**z again, as it was written: in fp32 the product is rounded, and its error is the exponent's."""
    swaps = {}
    for n in e.atoms(sp.exp):
        factors = Mul.make_args(n.args[0])
        bases = [f.args[0] for f in factors if isinstance(f, sp.log) and f.args[0].is_positive]
        if len(bases) == 1:
            swaps[n] = bases[0] ** Mul(*[f for f in factors if not (isinstance(f, sp.log) and f.args[0] == bases[0])])
    return e.xreplace(swaps)


def unguarded(e: Expr, context: Context) -> Expr:
    """In an exponent, a moving m that is guarded as `select(eq(m, -oo), 0, m)` is m, and one whose guard also covers +oo is
    `above(m)`: m with 0 in the place of +oo.

    Whoever moves a gauge makes a reference of -oo finite, and has to see that the old one was infinite, which the guard of
    the program would hide.  A reference of +oo is not touched there: exp(x - m) is NaN without a guard of the program's own.
    """
    swaps = {}
    for n in e.atoms(select):
        condition, a, b = n.args
        guarded, other = (b, a) if isinstance(condition, ex.eq) else (a, b)
        if isinstance(condition, ex.eq | ex.ne) and other == 0 and guarded in context.in_flight:
            compared = set(condition.args) - {guarded, sp.Abs(guarded)}
            if len(compared) == 1 and (infinity := compared.pop()) in (S.Infinity, S.NegativeInfinity):
                both = sp.Abs(guarded) in condition.args
                if not (both and infinity is S.NegativeInfinity):  # |m| is never -oo
                    swaps[n] = above(guarded) if infinity is S.Infinity else guarded
    return e.xreplace(swaps)


def finite(e: Expr) -> Expr | None:
    """m when e is m with 0 in the place of an infinity, or of both; else None."""
    if not isinstance(e, select):
        return None
    condition, a, b = e.args
    m, other = (b, a) if isinstance(condition, ex.eq) else (a, b)
    if not isinstance(condition, ex.eq | ex.ne) or other != 0:
        return None
    compared = set(condition.args) - {m, sp.Abs(m)}
    return m if compared in ({S.Infinity}, {S.NegativeInfinity}) else None


def above(m: Expr) -> Expr:
    """m, and 0 in the place of +oo."""
    return select(ex.eq(m, S.Infinity), 0, m)


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


def stabilised(e: Expr, context: Context) -> bool:
    """Does every exponential of a leaf in e have something subtracted from it?"""
    return not any(
        (z := exponent(n, context)) is not None and context.carries_leaf(z) and not z.free_symbols - context.leaves
        for n in sp.preorder_traversal(e)
        if n.is_Function or n.is_Pow
    )
