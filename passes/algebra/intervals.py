"""Interval analysis: between which numbers a map expression lies, whatever its leaves are."""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import sympy as sp
from sympy import Expr, Mul, Symbol

from . import expressions as ex

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)

_RANGES: dict[type, Interval] = {
    sp.tanh: (-1.0, 1.0),
    ex.sigmoid: (0.0, 1.0),
    sp.sin: (-1.0, 1.0),
    sp.cos: (-1.0, 1.0),
    sp.erf: (-1.0, 1.0),
    sp.atan: (-math.pi / 2, math.pi / 2),
    sp.sign: (-1.0, 1.0),
}
_RISING: dict[type, Callable[[float], float]] = {
    sp.tanh: math.tanh,
    sp.erf: math.erf,
    sp.atan: math.atan,
    ex.sigmoid: lambda a: 1 / (1 + math.exp(-a)) if a > -700 else 0.0,
    ex.relu: lambda a: max(a, 0.0),
    sp.exp: lambda a: math.exp(a) if a < 700 else math.inf,
    ex.exp2: lambda a: 2.0**a if a < 1000 else math.inf,
    sp.log: lambda a: math.log(a) if a > 0 else -math.inf,
    ex.log2: lambda a: math.log2(a) if a > 0 else -math.inf,
    ex.log1p: lambda a: math.log1p(a) if a > -1 else -math.inf,
}


def bounds(e: Expr, known: Mapping[Symbol, Interval] | None = None, masked: bool = False) -> Interval:
    """(lowest, highest) value of e; infinite where nothing better is known.

    known: bounds of symbols (an inner product of unit vectors is within -1 and 1, a constant is what it is).
    masked: leave infinite branches of a select out, as elements that are not there.
    NaN lies between no numbers: bounds are those of the values that are not NaN.
    """
    known = known or {}
    f, within = e.func, lambda a: bounds(a, known, masked)
    if e.is_Symbol:
        return known.get(e, (0.0, math.inf) if e.is_nonnegative else (-math.inf, 0.0) if e.is_nonpositive else ANY)
    if e.is_number:
        value = float(e) if e.is_extended_real else math.nan
        return ANY if math.isnan(value) else (value, value)
    if e.is_Add:
        parts = [within(a) for a in e.args]
        return _numbers(sum(a for a, _ in parts), sum(b for _, b in parts))
    if e.is_Mul:
        low, high, left = 1.0, 1.0, list(e.args)
        for s in sorted((s for s in e.free_symbols if s.is_nonnegative), key=str):
            most, left = _ratio(s, left, within)
            low, high = _product((low, high), (0.0 if most is not None else 1.0, 1.0 if most is None else most))
        for a in left:
            low, high = _product((low, high), within(a))
        return low, high
    if isinstance(e, ex.select):
        kept = [a for a in e.args[1:] if not (masked and a.is_infinite)]
        return _hull([within(a) for a in kept]) if kept else ANY
    if f in (sp.Max, sp.Min):
        parts, choose = [within(a) for a in e.args], max if f is sp.Max else min
        return choose(a for a, _ in parts), choose(b for _, b in parts)
    if isinstance(e, sp.Abs):
        a, b = within(e.args[0])
        return (0.0 if a <= 0 <= b else min(abs(a), abs(b))), max(abs(a), abs(b))
    if f in _RISING:
        a, b = within(e.args[0])
        return _RISING[f](a), _RISING[f](b)
    if isinstance(e, ex.rsqrt):
        return _power(within(e.args[0]), sp.Rational(-1, 2))
    if e.is_Pow and e.exp.is_Rational:
        return _power(within(e.base), e.exp)
    return _RANGES.get(f, (0.0, math.inf) if e.is_nonnegative else ANY)


def _ratio(s: Symbol, factors: list[Expr], within: Callable[[Expr], Interval]) -> tuple[float | None, list[Expr]]:
    """An upper bound of a power of s >= 0 over what grows like it, and the factors that are left; (None, all) without one.

    s / (s/n + eps) is at most n, sqrt(s) / max(sqrt(s), eps) at most 1.
    """
    above = [f for f in factors if f == s or (f.is_Pow and f.base == s and f.exp.is_positive and f.exp.is_Rational)]
    below = [(f, z) for f in factors if f not in above and (z := _under(f)) is not None and s in z.free_symbols]
    if not above or not below:
        return None, factors
    power = sum((sp.Integer(1) if f == s else f.exp for f in above), sp.Integer(0))
    growth = _grows(Mul(*(z for _, z in below), evaluate=False), s, within)
    known = [c for c, p in growth if p == power and c > 0]
    if not known:
        return None, factors
    return 1 / max(known), [f for f in factors if f not in above and f not in [b for b, _ in below]]


def _under(e: Expr) -> Expr | None:
    """z with e = 1/z, or None."""
    if isinstance(e, ex.rsqrt):
        return sp.sqrt(e.args[0])
    return e.base**-e.exp if e.is_Pow and e.exp.is_Rational and e.exp.is_negative else None


def _grows(e: Expr, s: Symbol, within: Callable[[Expr], Interval]) -> list[tuple[float, Expr]]:
    """Pairs (c, p) with e >= c s**p for all s >= 0; c >= 0."""
    if s not in e.free_symbols:
        low = within(e)[0]
        return [(low, sp.Integer(0))] if 0 < low < math.inf else []
    if e == s:
        return [(1.0, sp.Integer(1))]
    if isinstance(e, sp.Max) or (e.is_Add and all(within(a)[0] >= 0 for a in e.args)):
        return [pair for a in e.args for pair in _grows(a, s, within)]
    if e.is_Mul:
        pairs: list[tuple[float, Expr]] = [(1.0, sp.Integer(0))]
        for a in e.args:
            pairs = [(c * d, p + q) for c, p in pairs for d, q in _grows(a, s, within)]
        return pairs
    if e.is_Pow and e.exp.is_Rational and e.exp.is_positive:
        return [(c ** float(e.exp), p * e.exp) for c, p in _grows(e.base, s, within)]
    return []


def _numbers(low: float, high: float) -> Interval:
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def _product(a: Interval, b: Interval) -> Interval:
    ends = [0.0 if 0.0 in (p, q) else p * q for p in a for q in b]
    return min(ends), max(ends)


def _power(base: Interval, exponent: sp.Rational) -> Interval:
    a, b = base
    if exponent.is_Integer and exponent > 0:
        ends = [_raised(a, int(exponent)), _raised(b, int(exponent))]
        return (0.0 if exponent.is_even and a <= 0 <= b else min(ends)), max(ends)
    if exponent.is_Integer and a < 0:
        return ANY
    # elsewhere a negative base gives NaN
    ends = [(math.inf if exponent < 0 else 0.0) if v <= 0 else _raised(v, float(exponent)) for v in base]
    return min(ends), max(ends)


def _raised(v: float, exponent: float) -> float:
    try:
        return float(v) ** exponent
    except OverflowError:
        return -math.inf if v < 0 and exponent % 2 else math.inf


def _hull(parts: list[Interval]) -> Interval:
    return min(a for a, _ in parts), max(b for _, b in parts)
