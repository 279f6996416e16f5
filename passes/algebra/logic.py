"""any, all and prod: the reductions that are not sums or orders.

any_k (c and x) ->  c and any_k x           c without k; dually for or and all
any_k not x     ->  not all_k x
any_k x > h     ->  (max_k x) > h           NaN never compares as true, so NaNs are left out of the max
Π_k h x         ->  h**n Π_k x              n counts the elements
Π_k exp(z)      ->  exp(Σ_k z)
Π_k z**p        ->  (Π_k z)**p
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

from __future__ import annotations

import sympy as sp
from sympy import Expr, Mul, S

from . import expressions as ex
from .context import NotSeparable
from .exponentials import exponent
from .monotone import fold_order
from .sums import fold_sum
from .workspace import Workspace, lift_select

_DUAL = {"any": "all", "all": "any"}
# (comparison, combiner) -> the extremum whose comparison answers for all elements
_EXTREMUM = {
    (ex.gt, "any"): "max",
    (ex.ge, "any"): "max",
    (ex.lt, "any"): "min",
    (ex.le, "any"): "min",
    (ex.gt, "all"): "min",
    (ex.ge, "all"): "min",
    (ex.lt, "all"): "max",
    (ex.le, "all"): "max",
}
_MIRROR = {ex.gt: ex.lt, ex.lt: ex.gt, ex.ge: ex.le, ex.le: ex.ge}


def fold_logic(e: Expr, combiner: str, work: Workspace) -> Expr:
    """The readout of any_k e or all_k e.  Raises NotSeparable."""
    lifted = lift_select(e, work, lambda side: fold_logic(side, combiner, work))
    if lifted is not None:
        return lifted
    context = work.context
    if not context.carries_leaf(e):
        return e
    if not context.moves(e):
        return work.accumulate(combiner, e)
    if isinstance(e, ex.lnot):
        return ex.lnot(fold_logic(e.args[0], _DUAL[combiner], work))
    if isinstance(e, ex.land | ex.lor):
        a, b = e.args
        same = isinstance(e, ex.lor) == (combiner == "any")
        if same or not (context.carries_leaf(a) and context.carries_leaf(b)):
            return e.func(fold_logic(a, combiner, work), fold_logic(b, combiner, work))
    if e.func in _MIRROR:
        a, b = e.args
        f = e.func
        if not context.carries_leaf(a):
            a, b, f = b, a, _MIRROR[f]
        if not context.carries_leaf(b) and not context.moves(a):
            extremum = _EXTREMUM[f, combiner]
            loser = -sp.oo if f in (ex.gt, ex.ge) else sp.oo
            return f(fold_order(ex.select(ex.eq(a, a), a, loser), extremum, work), b)
    raise NotSeparable(f"{e.func.__name__} ties {context.ties(e)} in {e}")


def fold_product(e: Expr, work: Workspace) -> Expr:
    """The readout of Π_k e.  Raises NotSeparable."""
    lifted = lift_select(e, work, lambda side: fold_product(side, work))
    if lifted is not None:
        return lifted
    context = work.context
    if not context.carries_leaf(e):
        return e ** work.accumulate("sum", S.One)
    if not context.moves(e):
        return work.accumulate("prod", e)
    if e.is_Mul:
        outer = [a for a in e.args if not context.carries_leaf(a)]
        free = [a for a in e.args if context.carries_leaf(a) and not context.moves(a)]
        mixed = [a for a in e.args if context.mixed(a)]
        parts = [Mul(*outer)] if outer else []
        parts += [Mul(*free)] if free else []
        return Mul(*[fold_product(a, work) for a in [*parts, *mixed]])
    z = exponent(e, context)
    if z is not None:
        return sp.exp(fold_sum(z, work))
    if e.is_Pow and not context.kind(e.exp) and (e.exp.is_integer or e.base.is_nonnegative):
        return fold_product(e.base, work) ** e.exp
    if isinstance(e, sp.Abs):
        return sp.Abs(fold_product(e.args[0], work))
    t = work.separator.single(e)
    if t.gauge != 0:
        raise NotSeparable(f"{e}: a product of rescaled values")
    return (t.phi * sp.exp(t.shift)) ** work.accumulate("sum", S.One) * work.accumulate("prod", t.psi)
