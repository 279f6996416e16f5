"""Order reductions: what may leave a max, min, argmax or argmin.

    max_k f(x)      ->  f(max_k x)              f nondecreasing; a nonincreasing f swaps max and min
    max_k (x + h)   ->  max_k x + h             h without k
    max_k (h x)     ->  h max_k x               h >= 0;  h <= 0 swaps;  unknown sign: Max(h max x, h min x)
    max_k |z|       ->  Max(max_k z, -min_k z)
    max_k Max(a, b) ->  Max(max_k a, max_k b)
    argmax_k f(x)   ->  argmax_k x              f *strictly* increasing (a weakly monotone f makes ties); a strictly
                                                decreasing f swaps argmax and argmin; translations are dropped

Why: a max is one of its elements, and a nondecreasing f maps the largest argument to the largest value.  Rounding keeps
this exact: floating-point evaluation of these functions is nondecreasing too.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import sympy as sp
from sympy import Add, Expr, Mul, S

from . import expressions as ex
from .context import Context, NotSeparable
from .workspace import Workspace, lift_select, shielded, unless_nothing

_SWAPPED = {"max": "min", "min": "max", "argmax": "argmin", "argmin": "argmax"}
_OUTER = {"max": sp.Max, "min": sp.Min}


def monotone_argument(e: Expr, context: Context) -> tuple[Expr, bool, bool, object] | None:
    """(z, increasing, strictly, rebuild) when e = f(z) for a monotone f and z holds all leaves of e; else None."""
    f = e.func
    if f in ex.INCREASING:
        return e.args[0], True, ex.INCREASING[f], f
    if f in ex.INCREASING_ON_NONNEGATIVE and e.args[0].is_nonnegative:
        return e.args[0], True, ex.INCREASING_ON_NONNEGATIVE[f], f
    if f is ex.rsqrt and e.args[0].is_positive:
        return e.args[0], False, True, f
    if f is ex.lnot:
        return e.args[0], False, False, f
    if e.is_Pow and not context.kind(e.exp):
        base, p = e.base, e.exp
        rebuild = lambda z: z**p  # noqa: E731
        if p.is_integer and p.is_odd and p.is_positive:
            return base, True, True, rebuild
        if base.is_nonnegative and p.is_positive:
            return base, True, True, rebuild
        if base.is_positive and p.is_negative:
            return base, False, True, rebuild
    if e.is_Pow and not context.kind(e.base) and (e.base - 1).is_positive:
        return e.exp, True, True, lambda z: e.base**z
    if f in (sp.Max, sp.Min):
        inner = [a for a in e.args if context.carries_leaf(a)]
        outer = [a for a in e.args if not context.carries_leaf(a)]
        if len(inner) == 1 and outer:
            return inner[0], True, False, lambda z: f(z, *outer)
    return None


def _affine(e: Expr, context: Context) -> tuple[Expr, Expr, Expr] | None:
    """(h1, z, h0) with e = h1 * z + h0, h1 and h0 without leaves and not both trivial; else None."""
    if e.is_Add:
        outer = [a for a in e.args if not context.carries_leaf(a)]
        if outer:
            return S.One, Add(*[a for a in e.args if context.carries_leaf(a)]), Add(*outer)
    if e.is_Mul:
        outer = [a for a in e.args if not context.carries_leaf(a)]
        if outer:
            return Mul(*outer), Mul(*[a for a in e.args if context.carries_leaf(a)]), S.Zero
    return None


def fold_order(e: Expr, combiner: str, work: Workspace) -> Expr:
    """The readout of max_k e or min_k e.  Raises NotSeparable."""
    lifted = lift_select(e, work, lambda side: fold_order(side, combiner, work))
    if lifted is not None:
        return lifted
    context = work.context
    if not context.carries_leaf(e):
        return e
    mixed = context.mixed(e)
    affine = _affine(e, context)
    if affine is not None:
        h1, z, h0 = affine
        if (
            h1 == 1
            or (h1.is_nonnegative and (mixed or h1.is_positive))
            or (h1.is_nonpositive and mixed)
            or h1.is_negative
        ):
            inner = _SWAPPED[combiner] if h1 != 1 and h1.is_nonpositive else combiner
            return h1 * fold_order(z, inner, work) + h0
        if mixed:
            both = [h1 * fold_order(z, c, work) for c in ("max", "min")]
            return _OUTER[combiner](*both)
    step = monotone_argument(e, context)
    if step is not None:
        z, increasing, _, rebuild = step
        return rebuild(fold_order(z, combiner if increasing else _SWAPPED[combiner], work))
    if not mixed:
        return work.accumulate(combiner, e)
    return _fold_mixed(e, combiner, work)


def _fold_mixed(e: Expr, combiner: str, work: Workspace) -> Expr:
    h1, psi, gauge, h0, reason = _separated(e, work)
    if psi is not None:
        if h1.is_nonnegative:
            a = work.accumulate(combiner, psi, gauge)
            nothing = S.NegativeInfinity if combiner == "max" else S.Infinity
            return unless_nothing(nothing, a, h1 * a + h0, psi, shielded(e, work.context))
        if h1.is_nonpositive:
            return h1 * work.accumulate(_SWAPPED[combiner], psi, gauge) + h0
        both = [h1 * work.accumulate(c, psi, gauge) for c in ("max", "min")]
        return _OUTER[combiner](*both) + h0
    if e.func is _OUTER[combiner]:
        return e.func(*[fold_order(a, combiner, work) for a in e.args])
    if combiner == "max":
        if isinstance(e, sp.Abs):
            return sp.Max(*[s * fold_order(e.args[0], c, work) for s, c in ((1, "max"), (-1, "min"))])
        if e.is_Pow and e.exp.is_integer and e.exp.is_even and e.exp.is_positive:
            return fold_order(sp.Abs(e.base), combiner, work) ** e.exp
    raise NotSeparable(reason)


def _separated(e: Expr, work: Workspace) -> tuple[Expr, Expr | None, Expr, Expr, str]:
    """(h1, ψ, gauge, h0, "") with e = h1 ψ + h0; ψ is None, with the reason, when e is not of that shape."""
    try:
        terms = work.separator.shortest(work.separator.split(e))
    except NotSeparable as reason:
        return S.One, None, S.Zero, S.Zero, str(reason)
    scalars = [t for t in terms if t.psi == 1 and t.gauge == 0]
    rest = [t for t in terms if t not in scalars]
    if len(rest) != 1:
        return S.One, None, S.Zero, S.Zero, f"{e} is a sum of {len(rest)} products: an order does not add up"
    t = rest[0]
    h0 = Add(*[s.phi * sp.exp(s.shift) for s in scalars])
    return t.phi * sp.exp(t.shift), t.psi, t.gauge, h0, ""


def fold_arg(e: Expr, combiner: str, work: Workspace) -> Expr:
    """The readout of argmax_k e or argmin_k e: the position that the accumulator holds.  Raises NotSeparable."""
    lifted = lift_select(e, work, lambda side: fold_arg(side, combiner, work))
    if lifted is not None:
        return lifted
    context = work.context
    affine = _affine(e, context)
    if affine is not None:
        h1, z, _ = affine
        if h1.is_positive:
            return fold_arg(z, combiner, work)
        if h1.is_negative:
            return fold_arg(z, _SWAPPED[combiner], work)
    step = monotone_argument(e, context)
    if step is not None and step[2] and context.carries_leaf(e):
        return fold_arg(step[0], combiner if step[1] else _SWAPPED[combiner], work)
    if not context.moves(e):
        return work.accumulate(combiner, e)
    h1, psi, gauge, _, reason = _separated(e, work)
    if psi is None:
        raise NotSeparable(reason)
    if h1.is_positive:
        return work.accumulate(combiner, psi, gauge)
    if h1.is_negative:
        return work.accumulate(_SWAPPED[combiner], psi, gauge)
    raise NotSeparable(f"{e}: the sign of {h1} is not known to be strict, so its order is not known")
