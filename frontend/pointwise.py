"""Pointwise operators: one `map` einsum each.  A row is a formula over scalars.

A formula gets `f`, which brings an argument (tensor or number) into the type of computation, and the bound arguments.
The rule says what that type is, as in ATen: `same`, that of the result; `compare`, the promotion of the operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from xdsl.dialects.builtin import i1
from xdsl.ir import Attribute

from .builder import Einsum, Out, Scalar, Tensor, View
from .roundings import ROUNDINGS, is_rounding
from .sizes import Opaque, compute_dtype, element_type

aten = torch.ops.aten
prims = torch.ops.prims


class Formula:
    """Brings the arguments of one call into its einsum."""

    def __init__(self, e: Einsum, dims: list[str], kind: Attribute):
        self.e, self.dims, self.kind = e, dims, kind

    def __call__(self, x: Any, kind: Attribute | None = None) -> Scalar:
        """An argument in the type of computation, or in `kind`."""
        kind = kind or self.kind
        return self.raw(x).to(kind) if isinstance(x, Tensor) else self.e.number(x, kind)

    def raw(self, x: Tensor) -> Scalar:
        """A tensor argument in its own compute type."""
        return self.e.broadcast(x, self.dims)


def promoted(*arguments: Any) -> torch.dtype:
    """The dtype to which operands are brought before a comparison."""
    from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND, elementwise_dtypes

    dtypes = {x.dtype for x in arguments if isinstance(x, Tensor)}
    if len(dtypes) == 1 and all(isinstance(x, Tensor) for x in arguments):
        return dtypes.pop()
    stand_ins = [
        torch.empty([1] * len(x.shape), dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x for x in arguments
    ]
    return elementwise_dtypes(*stand_ins, type_promotion_kind=ELEMENTWISE_TYPE_PROMOTION_KIND.DEFAULT)[0]


def same(formula: Callable[[Formula, Any], Scalar]):
    """A row that computes in the type of its result."""

    def row(t, node: fx.Node, a) -> View:
        e, dims = t.elementwise(node)
        x = formula(Formula(e, dims, compute_dtype(t.dtype(node))), a)
        return e.finish([Out("map", x, dims, t.dtype(node))])[0]

    return row


def compare(name: str):
    """A row that compares `self` with `other` in their common type."""

    def row(t, node: fx.Node, a) -> View:
        e, dims = t.elementwise(node)
        common = promoted(a.self, a.other)
        f = Formula(e, dims, compute_dtype(common))
        x, y = f(a.self), f(a.other)
        if isinstance(a.other, int) and common in (torch.int8, torch.uint8, torch.int16, torch.int32):
            y = y.wrapped(common)  # a number becomes an element of the common type
        return e.finish([Out("map", x.compare(name, y), dims, torch.bool)])[0]

    return row


def unary(name: str):
    return same(lambda f, a: f(a.self).call(name))


def condition(formula: Callable[[Scalar], Scalar]):
    """A row that asks something of one float; integers are always finite."""

    def row(t, node: fx.Node, a) -> View:
        e, dims = t.elementwise(node)
        x = Formula(e, dims, i1).raw(a.self)
        return e.finish([Out("map", formula(x), dims, torch.bool)])[0]

    return row


# --- formulas -----------------------------------------------------------------------------------------------------


def add(f: Formula, a) -> Scalar:
    if f.kind == i1:
        return f(a.self) | f(a.other)
    x, other = f(a.self), f(a.other)
    return x + (other if a.alpha == 1 else other * f(a.alpha))


def sub(f: Formula, a) -> Scalar:
    x, other = f(a.self), f(a.other)
    return x - (other if a.alpha == 1 else other * f(a.alpha))


def rsub(f: Formula, a) -> Scalar:
    x = f(a.self)
    return f(a.other) - (x if a.alpha == 1 else x * f(a.alpha))


def mul(f: Formula, a) -> Scalar:
    return f(a.self) & f(a.other) if f.kind == i1 else f(a.self) * f(a.other)


def div(f: Formula, a) -> Scalar:
    mode = getattr(a, "rounding_mode", None)
    x, y = f(a.self), f(a.other)
    if mode is None:
        return x / y
    if not x.floating:
        if mode == "floor":
            return x.call("ifloordiv", y)
        return (x - x.call("irem", y)).call("ifloordiv", y)
    return (x / y).floor() if mode == "floor" else (x / y).trunc()


def floor_divide(f: Formula, a) -> Scalar:
    x, y = f(a.self), f(a.other)
    return (x / y).floor() if x.floating else x.call("ifloordiv", y)


def remainder(f: Formula, a) -> Scalar:
    x, y = f(a.self), f(a.other)
    return x - (x / y).floor() * y if x.floating else x - x.call("ifloordiv", y) * y


def fmod(f: Formula, a) -> Scalar:
    x, y = f(a.self), f(a.other)
    return x - (x / y).trunc() * y if x.floating else x.call("irem", y)


def power(f: Formula, a) -> Scalar:
    x, n = a.self, a.exponent
    if not isinstance(n, Tensor) and not isinstance(n, torch.SymInt | torch.SymFloat):
        return _power(f(x), n)
    base = f(x)
    if not base.floating:
        raise Opaque("an integer power of integers whose exponent is data")
    return base.call("pow", f(n))


def _power(x: Scalar, n: float) -> Scalar:
    if n == 0:
        return x.of(1)
    if float(n).is_integer() and 0 < abs(n) <= 8:
        total: Scalar | None = None
        square, left = x, int(abs(n))
        while left:
            if left & 1:
                total = square if total is None else total * square
            left >>= 1
            if left:
                square = square * square
        assert total is not None
        if n < 0:
            if not x.floating:
                raise Opaque("a negative power of integers")
            return 1.0 / total
        return total
    if not x.floating:
        raise Opaque(f"the power {n} of integers")
    if n == 0.5:
        return x.sqrt()
    if n == -0.5:
        return x.rsqrt()
    return x.call("pow", float(n))


def sigmoid(x: Scalar) -> Scalar:
    return 1.0 / ((-x).exp() + 1.0)


def gelu(f: Formula, a) -> Scalar:
    x = f(a.self)
    if a.approximate == "tanh":
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        return x * 0.5 * (inner.tanh() + 1.0)
    return x * 0.5 * ((x * math.sqrt(0.5)).erf() + 1.0)


def relu(f: Formula, a) -> Scalar:
    return f(a.self).maximum(0)


def clamp(f: Formula, a) -> Scalar:
    x = f(a.self)
    if getattr(a, "min", None) is not None:
        x = x.maximum(f(a.min))
    if getattr(a, "max", None) is not None:
        x = x.minimum(f(a.max))
    return x


def sign(f: Formula, a) -> Scalar:
    x = f(a.self)
    if x.type == i1:
        return x
    return (x > 0).select(x.of(1), (x < 0).select(x.of(-1), x.of(0)))


def leaky_relu(f: Formula, a) -> Scalar:
    x = f(a.self)
    return (x > 0).select(x, x * f(a.negative_slope))


def elu(f: Formula, a) -> Scalar:
    x = f(a.self)
    low = (x * f(a.input_scale)).expm1() * f(a.alpha)
    return (x > 0).select(x, low) * f(a.scale)


def softplus(f: Formula, a) -> Scalar:
    x = f(a.self)
    scaled = x * f(a.beta)
    return (scaled > f(a.threshold)).select(x, scaled.exp().log1p() / f(a.beta))


def where(f: Formula, a) -> Scalar:
    return f(a.condition, i1).select(f(a.self), f(a.other))


def masked_fill(f: Formula, a) -> Scalar:
    return f(a.mask, i1).select(f(a.value), f(a.self))


def logical(name: str):
    def row(t, node: fx.Node, a) -> View:
        e, dims = t.elementwise(node)
        f = Formula(e, dims, i1)
        return e.finish([Out("map", f(a.self).call(name, f(a.other)), dims, torch.bool)])[0]

    return row


def bitwise_not(f: Formula, a) -> Scalar:
    x = f(a.self)
    return x ^ (True if x.type == i1 else -1)


def shift(direction: str):
    def formula(f: Formula, a) -> Scalar:
        n = a.other
        if isinstance(n, Tensor) or not 0 <= n < 63:
            raise Opaque("a shift by data is not in the scalar table")
        x = f(a.self)
        return x * (1 << n) if direction == "left" else x.call("ifloordiv", 1 << n)

    return same(formula)


def negate(f: Formula, a) -> Scalar:
    return -f(a.self)


def magnitude(f: Formula, a) -> Scalar:
    x = f(a.self)
    return x.abs() if x.floating else (x < 0).select(-x, x)


def rounded(name: str):
    """floor, ceil, trunc, round: the identity on integers."""

    def formula(f: Formula, a) -> Scalar:
        x = f(a.self)
        if getattr(a, "decimals", 0):
            raise Opaque("rounding to decimals")
        return x.call(name) if x.floating else x

    return same(formula)


def addcmul(f: Formula, a) -> Scalar:
    product = f(a.tensor1) * f(a.tensor2)
    return f(a.self) + (product if a.value == 1 else product * f(a.value))


def addcdiv(f: Formula, a) -> Scalar:
    return f(a.self) + f(a.tensor1) / f(a.tensor2) * f(a.value)


def lerp(f: Formula, a) -> Scalar:
    x, y = f(a.self), f(a.end)
    return x + (y - x) * f(a.weight)


def hardtanh(f: Formula, a) -> Scalar:
    return f(a.self).maximum(f(a.min_val)).minimum(f(a.max_val))


def hardsigmoid(f: Formula, a) -> Scalar:
    return (f(a.self) + 3.0).maximum(0.0).minimum(6.0) / 6.0


def hardswish(f: Formula, a) -> Scalar:
    x = f(a.self)
    return x * (x + 3.0).maximum(0.0).minimum(6.0) / 6.0


def fmin(name: str):
    """fmax, fmin: the operand that is a number, where one is NaN."""

    def formula(f: Formula, a) -> Scalar:
        x, y = f(a.self), f(a.other)
        if not x.floating:
            return x.maximum(y) if name == "maximum" else x.minimum(y)
        return (x != x).select(y, (y != y).select(x, x.call(name, y)))

    return same(formula)


def cast(t, node: fx.Node, a) -> View:
    """A cast to another dtype; to the same one, the same elements."""
    source: Tensor = a.self if hasattr(a, "self") else a.a
    dtype = t.dtype(node)
    if source.dtype == dtype:
        return source.view
    if is_rounding(node, source.dtype, dtype):
        return same(lambda f, _: f.raw(source).rounded(ROUNDINGS[dtype], element_type(dtype)))(t, node, a)
    return same(lambda f, _: f(source))(t, node, a)


TABLE: dict[Any, Callable[..., Any]] = {
    aten.add: same(add),
    aten.sub: same(sub),
    aten.rsub: same(rsub),
    aten.mul: same(mul),
    aten.div: same(div),
    aten.true_divide: same(div),
    aten.floor_divide: same(floor_divide),
    aten.remainder: same(remainder),
    aten.fmod: same(fmod),
    aten.pow: same(power),
    aten.addcmul: same(addcmul),
    aten.addcdiv: same(addcdiv),
    aten.lerp: same(lerp),
    aten.maximum: same(lambda f, a: f(a.self).maximum(f(a.other)) if f.kind != i1 else f(a.self) | f(a.other)),
    aten.minimum: same(lambda f, a: f(a.self).minimum(f(a.other)) if f.kind != i1 else f(a.self) & f(a.other)),
    aten.fmax: fmin("maximum"),
    aten.fmin: fmin("minimum"),
    **{getattr(aten, n): compare(n) for n in ("lt", "le", "gt", "ge", "eq", "ne")},
    **{
        getattr(aten, n): unary(n)
        for n in ("exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "tanh", "sin", "cos", "erf")
    },
    **{getattr(aten, n): rounded(n) for n in ("floor", "ceil", "trunc", "round")},
    aten.neg: same(negate),
    aten.abs: same(magnitude),
    aten.sign: same(sign),
    aten.sgn: same(sign),
    aten.reciprocal: same(lambda f, a: 1.0 / f(a.self)),
    aten.square: same(lambda f, a: f(a.self).square()),
    aten.log10: same(lambda f, a: f(a.self).log() * (1 / math.log(10))),
    aten.frac: same(lambda f, a: f(a.self) - f(a.self).trunc()),
    aten.sigmoid: same(lambda f, a: sigmoid(f(a.self))),
    aten.silu: same(lambda f, a: f(a.self) * sigmoid(f(a.self))),
    aten.gelu: same(gelu),
    aten.relu: same(relu),
    aten.relu6: same(lambda f, a: f(a.self).maximum(0).minimum(6)),
    aten.leaky_relu: same(leaky_relu),
    aten.elu: same(elu),
    aten.softplus: same(softplus),
    aten.mish: same(lambda f, a: f(a.self) * f(a.self).exp().log1p().tanh()),
    aten.hardtanh: same(hardtanh),
    aten.hardsigmoid: same(hardsigmoid),
    aten.hardswish: same(hardswish),
    aten.clamp: same(clamp),
    aten.clamp_min: same(clamp),
    aten.clamp_max: same(clamp),
    aten.threshold: same(lambda f, a: (f(a.self) <= f(a.threshold)).select(f(a.value), f(a.self))),
    aten.where: same(where),
    aten.masked_fill: same(masked_fill),
    aten.isnan: condition(lambda x: x != x),
    aten.isinf: condition(lambda x: x.abs() == math.inf if x.floating else x.compare("ne", x)),
    aten.isfinite: condition(lambda x: x.abs() < math.inf if x.floating else x.compare("eq", x)),
    aten.isposinf: condition(lambda x: x == math.inf if x.floating else x.compare("ne", x)),
    aten.isneginf: condition(lambda x: x == -math.inf if x.floating else x.compare("ne", x)),
    aten.signbit: condition(lambda x: x < 0),
    aten.logical_not: condition(lambda x: x.logical_not()),
    aten.logical_and: logical("and"),
    aten.logical_or: logical("or"),
    aten.logical_xor: logical("xor"),
    **dict.fromkeys((aten.bitwise_and, aten.__and__), same(lambda f, a: f(a.self) & f(a.other))),
    **dict.fromkeys((aten.bitwise_or, aten.__or__), same(lambda f, a: f(a.self) | f(a.other))),
    **dict.fromkeys((aten.bitwise_xor, aten.__xor__), same(lambda f, a: f(a.self) ^ f(a.other))),
    aten.bitwise_not: same(bitwise_not),
    **dict.fromkeys((aten.bitwise_left_shift, aten.__lshift__), shift("left")),
    **dict.fromkeys((aten.bitwise_right_shift, aten.__rshift__), shift("right")),
    **dict.fromkeys((aten._to_copy, aten.to, prims.convert_element_type), cast),
}
