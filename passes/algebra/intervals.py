"""Interval analysis: between which numbers a map expression lies, whatever its leaves are."""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import sympy as sp
from sympy import Expr, Symbol

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
        low, high = 1.0, 1.0
        for a in e.args:
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
