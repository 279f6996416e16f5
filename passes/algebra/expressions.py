"""The function vocabulary of map expressions, and which facts about it the algebra may use.

sympy's own functions (`exp`, `log`, `tanh`, `Max`, ...) are used where sympy knows nothing that could hurt.  The
classes here are *opaque*: they evaluate only where numbers make the result exact, so that an expression keeps the
spelling of the program it came from (`log1p(x)` does not become `log(1 + x)`, which loses digits).  `REWRITES` says
what each of them equals; it is consulted only for a subexpression that mixes leaves with values still being reduced.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportIncompatibleMethodOverride=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable

import sympy as sp
from sympy import Expr, Function, S


class Position(sp.Symbol):
    """A leaf: the position of the element along the rank."""

    __slots__ = ()


class Place(sp.Symbol):
    """The position of an extreme (an argmax or argmin); while it is reduced, that of the best element so far."""

    __slots__ = ()


class _Real(Function):
    """A real-valued function that sympy evaluates at exact numbers only (`EXACT`)."""

    @classmethod
    def eval(cls, *args: Expr) -> Expr | None:
        if not all(a.is_Number and a is not S.NaN for a in args):
            return None
        exact = EXACT.get(cls)
        if exact is None:
            known = REWRITES[cls](*args) if cls in REWRITES and all(a.is_Rational for a in args) else None
            return known if known is not None and known.is_Rational else None
        if issubclass(cls, _Rounding) and args[0].is_infinite:
            return None
        value = exact(*args)
        return value if isinstance(value, Expr) else sp.Integer(int(value))

    def _eval_is_real(self) -> bool:
        return True

    def _eval_evalf(self, precision: int) -> Expr | None:
        rewrite = REWRITES.get(self.func)
        return rewrite(*self.args)._eval_evalf(precision) if rewrite else None


class _Truth(_Real):
    """A function with values 0 and 1.  Opaque to algebra."""

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _eval_is_integer(self) -> bool:
        return True


class lt(_Truth):
    """x < y, false on NaN."""

    nargs = 2


class le(_Truth):
    """x <= y, false on NaN."""

    nargs = 2


class gt(_Truth):
    """x > y, false on NaN."""

    nargs = 2


class ge(_Truth):
    """x >= y, false on NaN."""

    nargs = 2


class eq(_Truth):
    """x == y, false on NaN (so `eq(x, x)` asks whether x is a number)."""

    nargs = 2


class ne(_Truth):
    """x != y, true on NaN."""

    nargs = 2


class land(_Truth):
    """Logical and."""

    nargs = 2


class lor(_Truth):
    """Logical or."""

    nargs = 2


class lxor(_Truth):
    """Logical exclusive or."""

    nargs = 2


class lnot(_Truth):
    """Logical not."""

    nargs = 1


class select(_Real):
    """`select(c, a, b)` is a where c holds and b elsewhere; the branch not taken is never looked at (no 0 * inf)."""

    nargs = 3

    @classmethod
    def eval(cls, c: Expr, a: Expr, b: Expr) -> Expr | None:
        if a == b:
            return a
        if c.is_Number or c in (S.true, S.false):
            return a if c not in (S.Zero, S.false) else b
        return None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if all(a.is_nonnegative for a in self.args[1:]) else None

    def _eval_is_positive(self) -> bool | None:
        return True if all(a.is_positive for a in self.args[1:]) else None


class _Rounding(_Real):
    nargs = 1

    def _eval_is_integer(self) -> bool:
        return True

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None


class round_(_Rounding):
    """Round to nearest, ties to even."""


class cast_int(_Rounding):
    """Convert to an integer, toward zero."""


class trunc(_Rounding):
    """Drop the fraction."""


class to_bf16(_Real):
    """Round to 8 significant bits; only where a program asks for it."""

    nargs = 1


class to_f16(_Real):
    """Round to 11 significant bits and the range of a half; only where a program asks for it."""

    nargs = 1


class floordiv(_Real):
    """Integer division, rounded down."""

    nargs = 2


class irem(_Real):
    """Integer remainder with the sign of the dividend."""

    nargs = 2


class _Positive(_Real):
    nargs = 1

    def _eval_is_positive(self) -> bool:
        return True


class exp2(_Positive):
    """2**x."""


class sigmoid(_Positive):
    """1 / (1 + exp(-x))."""


class rsqrt(_Real):
    """x**(-1/2)."""

    nargs = 1

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None

    def _eval_is_positive(self) -> bool | None:
        return True if self.args[0].is_positive else None


class log1p(_Real):
    """log(1 + x)."""

    nargs = 1

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None


class log2(_Real):
    """log(x) / log(2)."""

    nargs = 1


class expm1(_Real):
    """exp(x) - 1."""

    nargs = 1

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None


class relu(_Real):
    """max(0, x)."""

    nargs = 1

    def _eval_is_nonnegative(self) -> bool:
        return True


def _nearest(a: Expr) -> int:
    low = sp.floor(a)
    rest = a - low
    half = sp.Rational(1, 2)
    return low + 1 if rest > half or (rest == half and low % 2) else low


def _same(a: Expr, b: Expr) -> bool:
    return a == b if a.is_infinite or b.is_infinite else bool(a - b == 0)


EXACT: dict[type, Callable[..., object]] = {
    lt: lambda a, b: bool(a < b),
    le: lambda a, b: bool(a <= b),
    gt: lambda a, b: bool(a > b),
    ge: lambda a, b: bool(a >= b),
    eq: _same,
    ne: lambda a, b: not _same(a, b),
    land: lambda a, b: a != 0 and b != 0,
    lor: lambda a, b: a != 0 or b != 0,
    lxor: lambda a, b: (a != 0) != (b != 0),
    lnot: lambda a: a == 0,
    round_: _nearest,
    cast_int: int,
    trunc: int,
    relu: lambda x: sp.Max(0, x),
}
"""The value at numbers, where it is exact."""

REWRITES: dict[type, Callable[..., Expr]] = {
    log1p: lambda x: sp.log(1 + x),
    log2: lambda x: sp.log(x) / sp.log(2),
    expm1: lambda x: sp.exp(x) - 1,
    exp2: lambda x: sp.exp(x * sp.log(2)),
    sigmoid: lambda x: 1 / (1 + sp.exp(-x)),
    rsqrt: lambda x: x ** sp.Rational(-1, 2),
    relu: lambda x: sp.Max(0, x),
    sp.sinh: lambda x: sp.exp(x) / 2 - sp.exp(-x) / 2,
    sp.cosh: lambda x: sp.exp(x) / 2 + sp.exp(-x) / 2,
    sp.tan: lambda x: sp.sin(x) / sp.cos(x),
}
"""What an opaque function equals in real arithmetic; for decisions on mixed subexpressions only."""

# name -> strictly? (nondecreasing on its real domain); a domain that is not all of R is checked by `monotone`
INCREASING: dict[type, bool] = {
    sp.exp: True,
    exp2: True,
    expm1: True,
    sp.sinh: True,
    sp.tanh: False,
    sp.atan: False,
    sp.erf: False,
    sigmoid: False,
    relu: False,
    sp.sign: False,
    sp.floor: False,
    sp.ceiling: False,
    round_: False,
    cast_int: False,
    trunc: False,
    to_bf16: False,
    to_f16: False,
}
"""Nondecreasing on all reals -> whether strictly, in floating point too: a function with a bound reaches it, and what was
apart is equal then (tanh(50) is 1, so that argmax tanh(x) is the first large x, not the largest)."""

INCREASING_ON_NONNEGATIVE: dict[type, bool] = {sp.log: True, log2: True, log1p: True}
"""Nondecreasing where the argument is known to be nonnegative (elsewhere the result may be NaN)."""

COMPARISONS = (lt, le, gt, ge, eq, ne)
_RELATIONS: dict[type, type] = {
    sp.StrictLessThan: lt,
    sp.LessThan: le,
    sp.StrictGreaterThan: gt,
    sp.GreaterThan: ge,
    sp.Equality: eq,
    sp.Unequality: ne,
}


def from_piecewise(e: sp.Piecewise) -> Expr:
    """A sympy `Piecewise` over plain relations as nested `select`s."""
    result: Expr = S.NaN
    for value, condition in reversed(e.args):
        kind = _RELATIONS.get(type(condition))
        test = kind(*condition.args) if kind else condition
        result = value if condition == S.true else select(test, value, result)
    return result
