"""Plain evaluation of map expressions, in float64 or as float32 would do it.  One row per function; no compilation."""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
import sympy as sp

from . import expressions as ex

_erf = np.vectorize(math.erf, otypes=[float])


def _power(b: np.ndarray, p: np.ndarray) -> np.ndarray:
    if np.ndim(p) == 0 and float(p) == 0.5:
        return np.sqrt(b)
    return np.power(np.asarray(b), p)


def _to_bits(x: np.ndarray, bits: int) -> np.ndarray:
    """x rounded to so many significant bits, ties to even."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 2.0**bits) * 2.0**-bits, exponent)


FUNCTIONS: dict[type, Callable] = {
    sp.Add: lambda *a: functools.reduce(np.add, a),
    sp.Mul: lambda *a: functools.reduce(np.multiply, a),
    sp.Pow: _power,
    sp.exp: np.exp,
    sp.log: np.log,
    sp.tanh: np.tanh,
    sp.sinh: np.sinh,
    sp.cosh: np.cosh,
    sp.sin: np.sin,
    sp.cos: np.cos,
    sp.tan: np.tan,
    sp.atan: np.arctan,
    sp.erf: _erf,
    sp.Abs: np.abs,
    sp.sign: np.sign,
    sp.floor: np.floor,
    sp.ceiling: np.ceil,
    sp.Max: lambda *a: functools.reduce(np.maximum, a),
    sp.Min: lambda *a: functools.reduce(np.minimum, a),
    ex.select: lambda c, a, b: np.where(np.not_equal(c, 0), a, b),
    ex.lt: lambda a, b: np.less(a, b) * 1.0,
    ex.le: lambda a, b: np.less_equal(a, b) * 1.0,
    ex.gt: lambda a, b: np.greater(a, b) * 1.0,
    ex.ge: lambda a, b: np.greater_equal(a, b) * 1.0,
    ex.eq: lambda a, b: np.equal(a, b) * 1.0,
    ex.ne: lambda a, b: np.not_equal(a, b) * 1.0,
    ex.land: lambda a, b: np.logical_and(a, b) * 1.0,
    ex.lor: lambda a, b: np.logical_or(a, b) * 1.0,
    ex.lxor: lambda a, b: np.logical_xor(a, b) * 1.0,
    ex.lnot: lambda a: np.logical_not(a) * 1.0,
    ex.round_: np.rint,
    ex.cast_int: np.trunc,
    ex.trunc: np.trunc,
    ex.to_bf16: lambda x: _to_bits(x, 8),
    ex.to_f16: lambda x: np.asarray(x, np.float16),
    ex.floordiv: np.floor_divide,
    ex.irem: np.fmod,
    ex.exp2: np.exp2,
    ex.sigmoid: lambda x: 1 / (1 + np.exp(-x)),
    ex.rsqrt: lambda x: 1 / np.sqrt(x),
    ex.log1p: np.log1p,
    ex.log2: np.log2,
    ex.expm1: np.expm1,
    ex.relu: lambda x: np.maximum(x, 0),
}


def evaluate(
    e: sp.Expr, env: Mapping[sp.Symbol, np.ndarray | float], memo: dict | None = None, dtype: type = np.float64
) -> np.ndarray:
    """The value of e; every intermediate result is rounded to dtype.

    memo: values of subexpressions, for calls with the same env and dtype.  Raises KeyError for a symbol or a function
    that is not known.
    """
    memo = {} if memo is None else memo
    with np.errstate(all="ignore"):
        return _evaluate(e, env, memo, dtype)


def _evaluate(e: sp.Basic, env: Mapping, memo: dict, dtype: type) -> np.ndarray:
    known = memo.get(e)
    if known is not None:
        return known
    if e.is_Symbol:
        value = env[e]
    elif isinstance(e, sp.Piecewise):
        value = _evaluate(ex.from_piecewise(e), env, memo, dtype)
    elif e in (sp.S.true, sp.S.false):
        value = float(e == sp.S.true)
    elif not e.args:
        value = float(e)
    else:
        value = FUNCTIONS[e.func](*[_evaluate(a, env, memo, dtype) for a in e.args])
    memo[e] = value = np.asarray(value, dtype=dtype)
    return value


_FOLDS: dict[str, Callable] = {
    "sum": np.sum,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
    "any": lambda v, axis: np.any(v != 0, axis=axis) * 1.0,
    "all": lambda v, axis: np.all(v != 0, axis=axis) * 1.0,
    "argmax": lambda v, axis: np.argmax(v, axis=axis) * 1.0,
    "argmin": lambda v, axis: np.argmin(v, axis=axis) * 1.0,
}

IDENTITY: dict[str, float] = {
    "sum": 0.0,
    "prod": 1.0,
    "max": -math.inf,
    "min": math.inf,
    "any": 0.0,
    "all": 1.0,
    "argmax": -math.inf,
    "argmin": math.inf,
}


def fold(combiner: str, values: np.ndarray, extent: int, axis: int = -1) -> np.ndarray:
    """Reduce one axis; a value without that axis is repeated `extent` times first.  argmax gives the first position."""
    values = np.asarray(values)
    if values.ndim == 0 or values.shape[axis] != extent:
        shape = (*values.shape[:-1], extent) if values.ndim else (extent,)
        values = np.broadcast_to(values, shape)
    with np.errstate(all="ignore"):
        return np.asarray(_FOLDS[combiner](values, axis=axis), dtype=values.dtype)
