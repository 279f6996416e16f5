"""Gauge freedom: the running maximum that stabilises exponentials need not be the maximum.

before:  l = Σ exp(x - m), o = Σ v exp(x - m) with m the running maximum, moved whenever m moves
after:   the same with any finite s in the place of m: an older maximum (fewer moves), or a constant (no maximum at all)
when:    every final value is the same for every s
why:     moving the gauge multiplies each accumulator by exp(E(s') - E(s)), so dA/ds = E'(s) A.  A final value F(s, A(s))
         does not depend on s iff  ∂F/∂s + Σ ∂F/∂A_j E_j'(s) A_j = 0,  which is decided symbolically and then sampled.

Exact in real arithmetic for every s; in floating point as long as nothing overflows or vanishes, which is what the
threshold of an older maximum, or bounds of the exponents, are for.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import sympy as sp
from sympy import Expr, S, Symbol

from .expressions import COMPARISONS, eq, exp2, ne, select
from .forms import Cascade, OnlineForm, Refused
from .intervals import ANY, Interval, bounds
from .levels import Levels
from .numeric import evaluate

STALE = 8 * math.log(2)
"""How far (in an exponent) the reference may lag: what is folded is at most 256 times larger than it would be."""
LIMIT = {"fp16": 9.0, "fp32": 50.0, "fp64": 500.0}
"""How far from 0 an exponent may be without a maximum, by the type that holds the exponential.  fp32: exp(50) = 5e21, and
2**31 terms of it times values of 1e7 are still finite; exp(-50) = 2e-22, times values of 1e-16, is not subnormal.  fp16,
as the operand of a product: exp(9) = 8103 of 65504, and exp(-9) = 1.2e-4 has all its digits."""


@dataclass(frozen=True)
class FreeGauge:
    """The proof that `reference` (a reduction, or a Max of one and a constant of the row) may be any finite value.

    slope: at most how fast an exponent moves with the reference.  stale: by how much the reference may lag behind the
    maximum.  constant: the value to use instead of the reduction, or None; exponent: the bounds of what is then
    exponentiated.  forms: all others, with the constant in place of the reduction; an accumulator that nothing else moved
    has no gauge.
    """

    reduction: Symbol
    reference: Expr
    slope: float
    stale: float
    constant: Expr | None
    exponent: Interval
    forms: Mapping[Symbol, OnlineForm]
    certificate: str

    def substitute(self, e: Expr) -> Expr:
        """An output, map or later reduction with the constant in place of the reduction."""
        return e if self.constant is None else e.xreplace({self.reduction: self.constant})


def free_gauge(
    cascade: Cascade,
    levels: Levels,
    name: Symbol,
    known: Mapping[Symbol, Interval] | None = None,
    dtype: str = "fp32",
    made_of: Mapping[Symbol, Expr] | None = None,
) -> FreeGauge | Refused:
    """Is the final value of the cascade free of the running value `name`, and what may stand in its place?

    Final values: the cascade's outputs, its maps, and the reductions of later traversals.  For `constant`: bounds of
    symbols (`known`, see `intervals.bounds`), what leaves are computed from (`made_of`), and what holds the exponentials.
    """
    here = {r.name: r for r in cascade.reductions if levels.level[r.name] == levels.level[name]}
    moved = [a for n in here for a in levels.forms[n].accumulators if a.gauge is not None and a.gauge.has(name)]
    if not moved:
        return Refused(f"{name} moves no accumulator")
    if any(a.moves is not None for a in moved):
        return Refused(f"an accumulator follows {name} by more than a factor")
    later = [r.expr for r in cascade.reductions if levels.level[r.name] > levels.level[name]]
    finals = [*cascade.outputs, *cascade.maps, *later]
    if not finals:
        return Refused("the cascade has no final value to prove anything about")
    reasons = []
    for reference in _references(name, [a.gauge for a in moved]):
        s = Symbol(f"{name}_s", real=True)
        rates = {a.symbol: sp.diff(_swapped(a.gauge, reference, s), s) for a in moved}
        if any(not r.is_number for r in rates.values()) and any(name in r.free_symbols for r in rates.values()):
            reasons.append(f"{name} moves an accumulator by more than {reference}")
            continue
        wrong = next((w for f in finals for w in [_depends(f, reference, name, s, rates, here, levels)] if w), "")
        if not wrong:
            bounded = _Exponents(known or {}, made_of or {}, LIMIT[dtype])
            return _found(levels, name, reference, s, rates, finals, here, bounded)
        reasons.append(wrong)
    return Refused(reasons[0])


def _references(name: Symbol, gauges: list[Expr]) -> Iterator[Expr]:
    """What may be replaced: a Max of the reduction and constants of the row, where the gauges hold it, or itself."""
    found = {n for g in gauges for n in g.atoms(sp.Max) if name in n.args}
    yield from sorted(found, key=sp.default_sort_key)
    yield name


def _swapped(e: Expr, reference: Expr, s: Expr) -> Expr:
    """e with s for the reference; a condition that asks whether the reference is infinite stays, its guard is s."""
    if e == reference:
        return s
    if isinstance(e, select):
        condition, a, b = e.args
        if isinstance(condition, eq | ne) and {reference, sp.Abs(reference)} & set(condition.args):
            guarded, other = (b, a) if isinstance(condition, eq) else (a, b)
            if guarded == reference and other == 0:
                return s
        return select(condition, _swapped(a, reference, s), _swapped(b, reference, s))
    if not e.args or not e.has(reference):
        return e
    return e.func(*[_swapped(a, reference, s) for a in e.args])


def _unfolded(e: Expr, reference: Expr, name: Symbol, s: Expr, here: Mapping, levels: Levels) -> Expr:
    """e over accumulators and s: reductions of this traversal are replaced by their readouts."""
    e = _swapped(e, reference, s)
    for n in reversed(list(here)):
        if n != name and e.has(n):
            e = e.xreplace({n: _swapped(levels.forms[n].readout, reference, s)})
    return e


def _branches(e: Expr) -> Iterator[Expr]:
    """e without selects, once for each way its conditions can turn out."""
    node = next((n for n in sp.preorder_traversal(e) if isinstance(n, select)), None)
    if node is None:
        yield e
        return
    for i in (1, 2):
        yield from _branches(e.xreplace({n: n.args[i] for n in e.atoms(select) if n.args[0] == node.args[0]}))


def _undecided(e: Expr, name: Symbol, s: Symbol, rates: Mapping[Symbol, Expr]) -> Expr | None:
    """A condition in e that can turn out differently when s moves, or None.

    It cannot where both sides stay what they are, or one is 0 and the other is multiplied by a positive factor, or where
    it asks whether the reference is infinite.
    """
    for condition in {n.args[0] for n in e.atoms(select)}:
        compared = [n for n in sp.preorder_traversal(condition) if isinstance(n, COMPARISONS)]
        inside = frozenset().union(*(n.free_symbols for n in compared))
        if (condition.free_symbols - inside) & {name, s, *rates}:
            return condition
        for n in compared:
            if name in n.free_symbols:
                if isinstance(n, eq | ne) and any(a.is_infinite for a in n.args):
                    continue
                return n
            slopes = [_slope(a, s, rates) for a in n.args]
            scaled = all(a == 0 or _simplest(k / a).is_number for a, k in zip(n.args, slopes, strict=True))
            if any(k != 0 for k in slopes) and not (S.Zero in n.args and scaled):
                return n
    return None


def _slope(e: Expr, s: Symbol, rates: Mapping[Symbol, Expr]) -> Expr:
    """How fast e changes with s, when the accumulators move along; 0 where that can be shown."""
    return _simplest(sp.diff(e, s) + sum(sp.diff(e, a) * rate * a for a, rate in rates.items()))


def _simplest(slope: Expr) -> Expr:
    if slope == 0 or sp.expand(slope) == 0:
        return S.Zero
    try:
        return sp.cancel(sp.together(sp.expand(slope)))
    except (sp.PolynomialError, NotImplementedError):
        return slope


def _depends(
    final: Expr, reference: Expr, name: Symbol, s: Symbol, rates: Mapping[Symbol, Expr], here: Mapping, levels: Levels
) -> str:
    """Why `final` depends on s, or ""."""
    whole = _unfolded(final, reference, name, s, here, levels)
    if (condition := _undecided(whole, name, s, rates)) is not None:
        return f"{final} depends on {reference}: it asks for {condition}"
    for f in _branches(whole):
        if name in f.free_symbols:
            return f"{final} uses {name} itself, not only {reference}"
        if (slope := _slope(f, s, rates)) != 0:
            return f"{final} depends on {reference}: it changes by {slope}"
    return ""


@dataclass(frozen=True)
class _Exponents:
    """Bounds of what is exponentiated: `known` and `made_of` as in `free_gauge`; limit: see LIMIT."""

    known: Mapping[Symbol, Interval]
    made_of: Mapping[Symbol, Expr]
    limit: float

    def span(self, exponents: list[Expr], name: Symbol, constant: Expr) -> Interval:
        """(lowest, highest) with `constant` for `name`.  Elements that are masked by -oo have no lowest exponent."""
        found = [] if exponents else [ANY]
        for z in exponents:
            z = z.xreplace({name: constant}).xreplace(dict(self.made_of))
            found.append((bounds(z, self.known, masked=True)[0], bounds(z, self.known)[1]))
        return min(a for a, _ in found), max(b for _, b in found)

    def fits(self, span: Interval) -> bool:
        return max(map(abs, span)) <= self.limit

    def constant(self, exponents: list[Expr], name: Symbol, slope: Expr) -> tuple[Expr | None, Interval]:
        """0, or else what puts the exponents around 0, if they fit; and their bounds.  slope: how fast they move."""
        span = self.span(exponents, name, S.Zero)
        if self.fits(span):
            return S.Zero, span
        if slope.is_number and math.isfinite(span[0]) and math.isfinite(span[1]):
            middle = sp.Integer(round(-(span[0] + span[1]) / 2 / float(slope)))
            around = self.span(exponents, name, middle)
            if self.fits(around):
                return middle, around
        return None, span


def _exponents_of(e: Expr, name: Symbol) -> Iterator[Expr]:
    """Exponents in e that `name` enters."""
    for n in sp.preorder_traversal(e):
        if name not in n.free_symbols:
            continue
        if isinstance(n, sp.exp):
            yield n.args[0]
        elif isinstance(n, exp2):
            yield n.args[0] * sp.log(2)
        elif n.is_Pow and name in n.exp.free_symbols:
            yield n.exp * sp.log(n.base)


def _found(
    levels: Levels,
    name: Symbol,
    reference: Expr,
    s: Symbol,
    rates: Mapping[Symbol, Expr],
    finals: list[Expr],
    here: Mapping,
    bounded: _Exponents,
) -> FreeGauge | Refused:
    unfolded = [_unfolded(f, reference, name, s, here, levels) for f in finals]
    if wrong := _sampled(unfolded, s, rates, {a: _swapped(_gauge(levels, a), reference, s) for a in rates}):
        return Refused(f"the self-check failed: {wrong}")
    forms = {n: levels.forms[n] for n in here if n != name}
    folded = [a.psi for f in forms.values() for a in f.accumulators]
    read = [*finals, *(f.readout for f in forms.values())]
    exponents = [z for psi in folded for z in _exponents_of(psi, name)]
    for e in read:  # what does not depend on the reference is as large as ever
        exponents += [z for z in _exponents_of(e, name) if _depends(z, reference, name, s, rates, here, levels)]
    steepest = [bounds(r, bounded.known) for r in rates.values()]
    slope = max(abs(v) for b in steepest for v in b)
    constant, span = bounded.constant(exponents, name, min(rates.values(), key=sp.default_sort_key))
    asked = any(
        name in n.args[0].free_symbols for e in (*folded, *read) for n in _swapped(e, reference, s).atoms(select)
    )
    centred = any(f.anchors and any(a.gauge is not None for a in f.accumulators) for f in forms.values())
    if asked or centred:  # it matters whether the maximum is infinite; or moments are measured from it
        constant = None
    text = f"d/d{s} of {', '.join(map(str, finals))} is 0 when " + ", ".join(
        f"d{a}/d{s} = {r}*{a}" for a, r in rates.items()
    )
    text += f": any finite {reference} is exact; "
    if constant is None:
        text += f"one that lags by less than {STALE:.3g} in the exponent cannot overflow"
    else:
        text += f"exponents stay within {span[0]:.4g} and {span[1]:.4g} with {name} = {constant}: no maximum is needed"
        forms = {n: _without(f, name, constant) for n, f in levels.forms.items() if n != name}
    lag = STALE / slope if math.isfinite(slope) and slope else 0.0
    return FreeGauge(name, reference, slope, lag, constant, span, forms if constant is not None else {}, text)


def _gauge(levels: Levels, accumulator: Symbol) -> Expr:
    return next(a.gauge for f in levels.forms.values() for a in f.accumulators if a.symbol == accumulator)


def _without(form: OnlineForm, name: Symbol, constant: Expr) -> OnlineForm:
    """The form with a constant for `name`."""
    at = {name: constant}
    accumulators = []
    for a in form.accumulators:
        gauge = None if a.gauge is None else a.gauge.xreplace(at)
        still = gauge is None or gauge.is_number
        accumulators.append(replace(a, psi=a.psi.xreplace(at), gauge=None if still else gauge))
    readout = form.readout.xreplace(at)
    if readout == form.readout and tuple(accumulators) == form.accumulators:
        return form
    text = f"{form.certificate}; with {name} = {constant}"
    return replace(form, accumulators=tuple(accumulators), readout=readout, certificate=text)


def _sampled(finals: list[Expr], s: Symbol, rates: Mapping[Symbol, Expr], gauges: Mapping[Symbol, Expr]) -> str:
    """Numbers that check the proof: final values before and after moving s by hand."""
    rng = np.random.default_rng(7)
    for f in [b for e in finals for b in _branches(e)]:
        env = {a: rng.uniform(0.5, 2.0, size=6) for a in sorted(f.free_symbols | {s, *rates}, key=str)}
        env |= {a: rng.uniform(0.5, 2.0, size=6) for g in gauges.values() for a in g.free_symbols - set(env)}
        there = {**env, s: env[s] + rng.uniform(-2.0, 2.0, size=6)}
        for a, g in gauges.items():
            there[a] = env[a] * np.exp(evaluate(g, there) - evaluate(g, env))
        before, after = evaluate(f, env), evaluate(f, there)
        good = np.isfinite(before)
        if np.any(np.abs(after - before)[good] > 1e-9 * (1 + np.abs(before[good]))):
            return f"{f} gives {after} instead of {before}"
    return ""
