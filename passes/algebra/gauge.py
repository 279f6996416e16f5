"""Gauge freedom: the running maximum that stabilises exponentials need not be the maximum.

before:  l = Σ exp(x - m), o = Σ v exp(x - m) with m the running maximum, moved whenever m moves
after:   the same with any finite s in the place of m: an older maximum (fewer moves), or 0 (no maximum at all)
when:    every final value is the same for every s
why:     moving the gauge multiplies each accumulator by exp(E(s') - E(s)), so dA/ds = E'(s) A.  A final value F(s, A(s))
         does not depend on s iff  ∂F/∂s + Σ ∂F/∂A_j E_j'(s) A_j = 0,  which is decided symbolically and then sampled.

Exact in real arithmetic for every s; in floating point as long as nothing overflows or vanishes, which is what the
threshold of an older maximum, or bounds of the exponents, are for.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import sympy as sp
from sympy import Expr, S, Symbol

from .expressions import eq, ne, select
from .forms import Cascade, OnlineForm, Refused
from .intervals import Interval, bounds
from .levels import Levels
from .numeric import evaluate

STALE = 8 * math.log(2)
"""How far (in an exponent) the reference may lag: what is folded is at most 256 times larger than it would be."""
LIMIT = {"fp32": 64.0, "fp64": 512.0}
"""How large an exponent may be without a reference: exp(64) = 6e27 leaves room for 1e10 terms of fp32, exp(-64) is far
from subnormal."""


@dataclass(frozen=True)
class FreeGauge:
    """The proof that `reference` (a reduction, or a Max of one and a constant of the row) may be any finite value.

    slope: at most how fast an exponent moves with the reference.  stale: by how much the reference may lag behind the
    maximum.  constant: the value to use instead of any maximum, or None; exponent: the bounds that allow it.
    forms: with the constant in place of the reference; no accumulator that the reference alone moved has a gauge left.
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
        """An output, map or later reduction with the constant in place of the reference."""
        return e if self.constant is None else _swapped(e, self.reference, self.constant)


def free_gauge(
    cascade: Cascade,
    levels: Levels,
    name: Symbol,
    known: Mapping[Symbol, Interval] | None = None,
    dtype: str = "fp32",
) -> FreeGauge | Refused:
    """Is the final value of the cascade free of the running value `name`, and what may stand in its place?

    Final values: the cascade's outputs, its maps, and the reductions of later traversals.  known: bounds of symbols, for
    `constant` (see `intervals.bounds`).
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
            return _found(cascade, levels, name, reference, s, rates, finals, here, known, dtype)
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
        if isinstance(condition, eq | ne) and reference in condition.args:
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


def _conditions(e: Expr) -> frozenset[Symbol]:
    return frozenset().union(*(n.args[0].free_symbols for n in e.atoms(select)))


def _depends(
    final: Expr, reference: Expr, name: Symbol, s: Symbol, rates: Mapping[Symbol, Expr], here: Mapping, levels: Levels
) -> str:
    """Why `final` depends on s, or ""."""
    for f in _branches(_unfolded(final, reference, name, s, here, levels)):
        if name in f.free_symbols:
            return f"{final} uses {name} itself, not only {reference}"
        slope = sp.diff(f, s) + sum(sp.diff(f, a) * rate * a for a, rate in rates.items())
        if slope == 0 or sp.expand(slope) == 0:
            continue
        try:
            slope = sp.cancel(sp.together(sp.expand(slope)))
        except (sp.PolynomialError, NotImplementedError):
            pass
        if slope != 0:
            return f"{final} depends on {reference}: it changes by {slope}"
    return ""


def _found(
    cascade: Cascade,
    levels: Levels,
    name: Symbol,
    reference: Expr,
    s: Symbol,
    rates: Mapping[Symbol, Expr],
    finals: list[Expr],
    here: Mapping,
    known: Mapping[Symbol, Interval] | None,
    dtype: str,
) -> FreeGauge | Refused:
    unfolded = [_unfolded(f, reference, name, s, here, levels) for f in finals]
    if wrong := _sampled(unfolded, s, rates, {a: _swapped(_gauge(levels, a), reference, s) for a in rates}):
        return Refused(f"the self-check failed: {wrong}")
    steepest = [bounds(r, known) for r in rates.values()]
    slope = max(abs(v) for b in steepest for v in b)
    low, high = bounds(here[name].expr, known, masked=True)
    if reference != name:  # what else is exponentiated: the sink
        others = [bounds(a, known) for a in reference.args if a != name]
        low, high = min([low, *(a for a, _ in others)]), max([high, *(b for _, b in others)])
    exponent = (slope * low, slope * high)
    asked = any(name in _conditions(e) for e in [*finals, *(f.readout for f in levels.forms.values())])
    fits = max(map(abs, exponent)) <= LIMIT[dtype] if math.isfinite(slope) else False
    constant = S.Zero if fits and not asked else None
    forms = {n: _without(levels.forms[n], reference, name) for n in here if n != name} if constant is not None else {}
    text = f"d/d{s} of {', '.join(map(str, finals))} is 0 when " + ", ".join(
        f"d{a}/d{s} = {r}*{a}" for a, r in rates.items()
    )
    text += f": any finite {reference} is exact; one that lags by less than {STALE:.3g} in the exponent cannot overflow"
    if constant is not None:
        text += f"; exponents stay within {exponent[0]:.4g} and {exponent[1]:.4g}, so 0 will do, without {name}"
    lag = STALE / slope if math.isfinite(slope) and slope else 0.0
    return FreeGauge(name, reference, slope, lag, constant, exponent, forms, text)


def _gauge(levels: Levels, accumulator: Symbol) -> Expr:
    return next(a.gauge for f in levels.forms.values() for a in f.accumulators if a.symbol == accumulator)


def _without(form: OnlineForm, reference: Expr, name: Symbol) -> OnlineForm:
    """The form with 0 for the reference."""
    accumulators = []
    for a in form.accumulators:
        gauge = None if a.gauge is None else _swapped(a.gauge, reference, S.Zero)
        still = gauge is None or (not gauge.free_symbols & {name} and gauge.is_number)
        psi = _swapped(a.psi, reference, S.Zero)
        accumulators.append(replace(a, psi=psi, gauge=None if still else gauge))
    return replace(form, accumulators=tuple(accumulators), readout=_swapped(form.readout, reference, S.Zero))


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
