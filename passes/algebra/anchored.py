"""Moments that do not cancel: measure leaves from an anchor.

before:  Σ (x - μ)**2 = Σx**2 - 2 μ Σx + μ**2 Σ1
after:   Σ (x - μ)**2 = Σ(x - c)**2 + 2 (c - μ) Σ(x - c) + (c - μ)**2 Σ1      c: any constant of the row
when:    a form needs several accumulators because a leaf is compared with a moving value, outside of exponentials
why:     x - μ = (x - c) + (c - μ) for every c; c is as free as a gauge.  With c near the data, nothing large is
         subtracted from anything large: in fp32, raw moments of data at 1e4 lose all digits of the variance.

The anchor is a value of the data itself (one element of the row, say); all parts of a split have to use the same one.
Anything finite is exact; 0 gives the raw moments back.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import sympy as sp
from sympy import Add, Expr, Mul, Symbol

from .context import Context
from .derive import derive
from .exponentials import exponent
from .forms import OnlineForm, Reduction, Refused


def _common_factors(e: Expr) -> tuple[list[Expr], Expr]:
    """The factors that all terms of a sum share, and the sum of what is left: p x - p m is p (x - m)."""
    terms = [list(Mul.make_args(t)) for t in e.args]
    common = [f for f in terms[0] if not f.is_Number and all(f in t for t in terms)]
    for t in terms:
        for f in common:
            t.remove(f)
    content, rest = Add(*[Mul(*t) for t in terms]).as_content_primitive() if common else (sp.S.One, e)
    return common + [content] * (content != 1), rest


@lru_cache(maxsize=4096)
def derive_anchored(
    reduction: Reduction, in_flight: frozenset[Symbol], leaves: frozenset[Symbol]
) -> OnlineForm | Refused:
    """`derive`, with anchors where they help.  `OnlineForm.anchors` says what each anchor should be near; `cancels`, that
    they would help but do not separate."""
    raw = derive(reduction, in_flight, leaves)
    if isinstance(raw, Refused) or raw.form != "moments" or reduction.combiner not in ("sum", "prod"):
        return raw
    context = Context(leaves, in_flight & reduction.expr.free_symbols)
    if _has_counted_power(raw) or _small_differences(reduction.expr, context) > 1:
        return replace(raw, cancels=True)
    names = {str(s) for s in reduction.expr.free_symbols}
    shifted: dict[Expr, tuple[Symbol, Symbol]] = {}

    def symbols_for(z: Expr) -> tuple[Symbol, Symbol]:
        if z not in shifted:
            anchor = f"{reduction.name}_c{len(shifted)}"
            while anchor in names:
                anchor += "_"
            shifted[z] = Symbol(anchor + "'", real=True), Symbol(anchor, real=True)
        return shifted[z]

    def visit(e: Expr) -> Expr:
        stable = exponent(e, context) is not None and reduction.combiner == "sum"  # Π exp(z) is exp(Σ z)
        if not context.mixed(e) or stable or isinstance(e, sp.Piecewise):
            return e
        if e.is_Add:
            common, rest = _common_factors(e) if any(context.mixed(a) for a in e.args) else ([], e)
            return Mul(*[visit(f) for f in common], visit(rest)) if common else difference(e)
        return e.func(*[visit(a) for a in e.args])

    def difference(e: Expr) -> Expr:
        """A sum that holds leaves and moving values: its leaves, measured, where something without leaves is subtracted."""
        mixed = [a for a in e.args if context.mixed(a)]
        if not any(context.moves(a) for a in e.args if a not in mixed):
            return Add(*[visit(a) for a in e.args])
        leafy = [a for a in e.args if a not in mixed and context.carries_leaf(a)]
        terms = [a for a in e.args if not context.carries_leaf(a)]
        if leafy:
            terms += symbols_for(Add(*leafy))
        for a in mixed:
            h, z = _scaled_leaf(a, context) or (None, a)
            terms += [visit(a)] if h is None else [h * part for part in symbols_for(z)]
        return Add(*terms)

    moved = Reduction(reduction.name, reduction.combiner, visit(reduction.expr))
    if not shifted:
        return raw
    form = derive(moved, in_flight, leaves | {away for away, _ in shifted.values()})
    if isinstance(form, Refused):
        return replace(raw, cancels=True)
    back = {away: z - anchor for z, (away, anchor) in shifted.items()}
    accumulators = tuple(replace(a, psi=a.psi.xreplace(back)) for a in form.accumulators)
    anchors = tuple((anchor, z) for z, (_, anchor) in shifted.items())
    text = f"{reduction.combiner} {reduction.expr}: " + ", ".join(
        f"{z} = ({z - anchor}) + {anchor} for any {anchor}" for anchor, z in anchors
    )
    folds = ", ".join(f"{a.symbol} = {a.combiner} {a.psi}" for a in accumulators)
    return replace(
        form, accumulators=accumulators, anchors=anchors, certificate=f"{text}; = {form.readout} with {folds}"
    )


def _scaled_leaf(e: Expr, context: Context) -> tuple[Expr, Expr] | None:
    """(h, z) with e = h z, where h moves and carries no leaf, and z carries leaves and does not move; else None."""
    factors = Mul.make_args(e)
    if len(factors) < 2 or any(context.mixed(f) for f in factors):
        return None
    leafy = [f for f in factors if context.carries_leaf(f)]
    return Mul(*[f for f in factors if f not in leafy]), Mul(*leafy)


def _small_differences(e: Expr, context: Context) -> int:
    """How many factors of a product are differences that no anchor makes small: (exp(x - m)/l - μ)**2 has two.

    One may be expanded, for its terms are rounded like the difference itself.  A product of two is smaller than its terms by
    both differences.
    """
    if not context.mixed(e) or exponent(e, context) is not None:
        return 0
    if e.is_Mul:
        return sum(_small_differences(f, context) for f in e.args)
    if e.is_Pow:
        return e.exp * _small_differences(e.base, context) if e.exp.is_Integer and e.exp > 0 else 0
    if e.is_Add:
        common, rest = _common_factors(e)
        if common:
            return sum(_small_differences(f, context) for f in (*common, rest))
        inner = max(_small_differences(a, context) for a in e.args)
        return max(int(not _near_its_anchors(e, context)), inner)
    return 0


def _near_its_anchors(e: Expr, context: Context) -> bool:
    """Whether a sum is as small as one leaf, measured from its anchor: x r - μ is, x r - y q is not where x and y are alike.

    An exponential is measured from nothing but its gauge, and so is what is behind another function.
    """
    mixed = [a for a in e.args if context.mixed(a)]
    leafy = any(context.carries_leaf(a) and not context.moves(a) for a in e.args)
    return leafy + len(mixed) <= 1 and all(_scaled_leaf(a, context) or _measured(a, context) for a in mixed)


def _measured(e: Expr, context: Context) -> bool:
    """Whether e is a difference near its anchors, times what does not carry leaves."""
    mixed = [f for f in Mul.make_args(e) if context.carries_leaf(f)]
    return len(mixed) == 1 and mixed[0].is_Add and _near_its_anchors(mixed[0], context)


def _has_counted_power(form: OnlineForm) -> bool:
    """Whether the readout has a power of something other than a sign by an accumulator: Π h x = hⁿ Π x."""
    counts = {a.symbol for a in form.accumulators if a.combiner == "sum"}
    powers = form.readout.atoms(sp.Pow)
    return any(p.exp.free_symbols & counts and not isinstance(p.base, sp.sign) for p in powers)
