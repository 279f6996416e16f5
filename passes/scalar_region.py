"""From algebra back to map regions: a sympy expression becomes scalar operations in a block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import sympy as sp
from xdsl.dialects.builtin import BFloat16Type, Float16Type, f32, f64, i1, i64
from xdsl.ir import Attribute, Block, Operation, SSAValue

from ..ir import scalar

_UNARY = {
    "exp": "exp", "log": "log", "tanh": "tanh", "sin": "sin", "cos": "cos", "erf": "erf", "Abs": "abs",
    "floor": "floor", "ceiling": "ceil", "exp2": "exp2", "log2": "log2", "log1p": "log1p", "expm1": "expm1",
    "rsqrt": "rsqrt", "trunc": "trunc", "round_": "round",
}  # fmt: skip
_COMPARE = ("lt", "le", "gt", "ge", "eq", "ne")
_ROUNDED: dict[str, Attribute] = {"to_bf16": BFloat16Type(), "to_f16": Float16Type()}
_LOGIC = {"land": "and", "lor": "or", "lxor": "xor"}


class Inexpressible(Exception):
    """A formula has a function that the scalar table has not."""


class RegionWriter:
    """Writes expressions into `block`; equal subexpressions are computed once.

    env: what each symbol is in the block.  floating: the type in which real arithmetic is done.
    """

    def __init__(self, block: Block, env: Mapping[sp.Symbol, SSAValue], floating: Attribute = f32):
        self.block = block
        self.env = dict(env)
        self.floating = f64 if any(v.type == f64 for v in self.env.values()) else floating
        self.close: list[tuple[sp.Expr, sp.Expr]] = []  # values of about the same size: their difference is taken first
        self.lazy: dict[sp.Symbol, Callable[[], Operation]] = {}  # symbols that become an operation when first used
        self._memo: dict[sp.Expr, SSAValue] = {}

    def op(self, name: str, *operands: SSAValue, cast_to: Attribute | None = None) -> SSAValue:
        operation = scalar.build(name, operands, cast_to)
        self.block.add_op(operation)
        return operation.results[0]

    def number(self, value: float) -> SSAValue:
        key = sp.Symbol(f"#{value!r}")
        if key not in self._memo:
            operation = scalar.constant(value, self.floating)
            self.block.add_op(operation)
            self._memo[key] = operation.results[0]
        return self._memo[key]

    def real(self, value: SSAValue) -> SSAValue:
        """`value` as a real number of the region's floating type."""
        if value.type == self.floating:
            return value
        if value.type == i1:
            return self.op("bool_to_float", value, cast_to=self.floating)
        if value.type == i64:
            return self.op("int_to_float", value, cast_to=self.floating)
        return self.op("widen" if self.floating == f64 else "narrow", value, cast_to=self.floating)

    def truth(self, value: SSAValue) -> SSAValue:
        """`value` as a boolean."""
        return value if value.type == i1 else self.op("ne", value, self.number(0.0))

    def write(self, e: sp.Expr) -> SSAValue:
        """The value of `e` at the end of the block."""
        if e not in self._memo:
            self._memo[e] = self._write(e)
        return self._memo[e]

    def r(self, e: sp.Expr) -> SSAValue:
        return self.real(self.write(e))

    def _write(self, e: sp.Expr) -> SSAValue:
        if e in self.env:
            return self.env[e]
        if e in self.lazy:
            operation = self.lazy[e]()
            self.block.add_op(operation)
            return operation.results[0]
        if e in (sp.true, sp.false):
            operation = scalar.constant(e == sp.true, i1)
            self.block.add_op(operation)
            return operation.results[0]
        if e == sp.oo or e == -sp.oo:
            return self.number(math.inf if e == sp.oo else -math.inf)
        if e is sp.nan:
            return self.number(math.nan)
        if e.is_Number or e.is_NumberSymbol or (not e.free_symbols and e.is_real):
            return self.number(float(e))
        if isinstance(e, sp.Add):
            return self._sum(e)
        if isinstance(e, sp.Mul):
            return self._product(e)
        if isinstance(e, sp.Pow):
            return self._power(e.base, e.exp)
        if isinstance(e, sp.Max | sp.Min):
            values = [self.r(a) for a in sorted(e.args, key=sp.default_sort_key)]
            total = values[0]
            for v in values[1:]:
                total = self.op("maximum" if isinstance(e, sp.Max) else "minimum", total, v)
            return total
        name = type(e).__name__
        if name in _UNARY:
            return self.op(_UNARY[name], self.r(e.args[0]))
        if name in _COMPARE:
            integers = [self.write(a) if a.is_Symbol else None for a in e.args]
            if all(v is not None and v.type == i64 for v in integers):
                return self.op(f"i{name}", *integers)  # pyright: ignore
            return self.op(name, self.r(e.args[0]), self.r(e.args[1]))
        if name in _LOGIC:
            return self.op(_LOGIC[name], *(self.truth(self.write(a)) for a in e.args))
        if name == "lnot":
            inner = self.truth(self.write(e.args[0]))
            return self.op("xor", inner, self.truth(self.write(sp.true)))
        if name == "select":
            cond = self.truth(self.write(e.args[0]))
            return self.op("select", cond, self.r(e.args[1]), self.r(e.args[2]))
        if name == "sigmoid":
            one = self.number(1.0)
            return self.op("div", one, self.op("add", one, self.op("exp", self.op("neg", self.r(e.args[0])))))
        if name == "relu":
            return self.op("maximum", self.r(e.args[0]), self.number(0.0))
        if name == "sign":
            x, zero = self.r(e.args[0]), self.number(0.0)
            up = self.real(self.op("gt", x, zero))
            return self.op("sub", up, self.real(self.op("lt", x, zero)))
        if name in _ROUNDED:
            return self.op("widen", self.op(name, self.r(e.args[0]), cast_to=_ROUNDED[name]), cast_to=self.floating)
        if name == "cast_int":
            return self.op("trunc", self.r(e.args[0]))
        raise Inexpressible(f"no scalar operation for {name} in {e}")

    def _sum(self, e: sp.Add) -> SSAValue:
        factor, e = self._common_factor(e)
        if factor != 1:
            return self.op("mul", self.r(e), self.r(factor))
        terms = sorted(e.args, key=lambda t: (t.could_extract_minus_sign(), sp.default_sort_key(t)))
        total: SSAValue | None = None
        for a, b in self.close:
            for sign in (1, -1):
                pair = [*(sign * t for t in sp.Add.make_args(a)), *(-sign * t for t in sp.Add.make_args(b))]
                if all(t in terms for t in pair):
                    terms = [t for t in terms if t not in pair]
                    value = self.op("sub", self.r(a), self.r(b)) if sign == 1 else self.op("sub", self.r(b), self.r(a))
                    total = value if total is None else self.op("add", total, value)
        for a, b in self.close:
            shared, rest = self._shared_factor(a, b, terms)
            if shared is not None:
                terms = [t for t in terms if t not in rest]
                inner = sp.Add(*[t / shared for t in rest])
                value = self.op("mul", self.r(inner), self.r(shared))
                total = value if total is None else self.op("add", total, value)
        for t in terms:
            if t.could_extract_minus_sign():
                value = self.r(-t)
                total = self.op("neg", value) if total is None else self.op("sub", total, value)
            else:
                value = self.r(t)
                total = value if total is None else self.op("add", total, value)
        assert total is not None
        return total

    def _shared_factor(self, a: sp.Expr, b: sp.Expr, terms: list[sp.Expr]) -> tuple[sp.Expr | None, list[sp.Expr]]:
        """(n, the terms that hold it) where n a and -n b are among the terms: n (a - b) is not as large as n a."""
        for t in terms:
            n = t / a
            if n.free_symbols & (a.free_symbols | b.free_symbols) or abs(n) == 1 or -n * b not in terms:
                continue
            if n.is_Number:
                return n, [u for u in terms if abs(u.as_coeff_Mul()[0]) == abs(n)]
            return n, [t, -n * b, *(u for u in terms if u not in (t, -n * b) and not (u / n).has(*n.free_symbols))]
        return None, []

    def _common_factor(self, e: sp.Add) -> tuple[sp.Expr, sp.Expr]:
        """(c, rest) with e = c * rest for a number c that all terms share up to sign.

        sympy distributes c (x - m) as c x - c m, where each product is rounded at the size of x; x - m is exact for close x, m.
        """
        numbers = [t.as_independent(*(t.free_symbols - set(self.lazy)), as_Add=False)[0] for t in e.args]
        size = abs(numbers[0])
        if size == 1 or any(abs(n) != size for n in numbers):
            return sp.S.One, e
        return size, sp.Add(*[t / size for t in e.args])

    def _product(self, e: sp.Mul) -> SSAValue:
        top, bottom, negative = [], [], False
        for f in sorted(e.args, key=sp.default_sort_key):
            if f == -1:
                negative = True
            elif isinstance(f, sp.Pow) and f.exp.could_extract_minus_sign() and f.exp != sp.Rational(-1, 2):
                bottom.append(sp.Pow(f.base, -f.exp))
            elif f.is_Rational and f.p in (1, -1) and f.q != 1 and (f.q & (f.q - 1)) != 0:
                bottom.append(sp.Integer(f.q))
                negative = negative or f.p == -1
            else:
                top.append(f)
        value = self._chain(top) if top else self.number(1.0)
        if bottom:
            value = self.op("div", value, self._chain(bottom))
        return self.op("neg", value) if negative else value

    def _chain(self, factors: list[sp.Expr]) -> SSAValue:
        value = self.r(factors[0])
        for f in factors[1:]:
            value = self.op("mul", value, self.r(f))
        return value

    def _power(self, base: sp.Expr, exponent: sp.Expr) -> SSAValue:
        if exponent == sp.Rational(1, 2):
            return self.op("sqrt", self.r(base))
        if exponent == sp.Rational(-1, 2):
            return self.op("rsqrt", self.r(base))
        if exponent.is_Rational and exponent.could_extract_minus_sign():
            return self.op("div", self.number(1.0), self.r(sp.Pow(base, -exponent)))
        if exponent.is_Rational and exponent.q == 2:
            whole = sp.Pow(base, sp.Integer(exponent.p // 2))
            return self.op("mul", self.r(whole), self.op("sqrt", self.r(base)))
        if exponent.is_Integer and 1 < int(exponent) <= 8:
            n = int(exponent)
            half = self.r(sp.Pow(base, n // 2)) if n // 2 > 1 else self.r(base)
            square = self.op("mul", half, half)
            return self.op("mul", square, self.r(base)) if n % 2 else square
        return self.op("pow", self.r(base), self.r(exponent))
