"""The scalar vocabulary of map regions: one row a function.

Everything that touches a scalar function looks it up here by name: the front end builds it (`build`), the reference
interpreter evaluates it (`interpret.torch_function`), passes translate it to algebra, the printers print it.  A
function that is not in the table does not exist.

A region computes in *compute types* (`attributes.compute_type`): f32, f64, i64, i1.
"""

from __future__ import annotations

import math as _math
from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import BFloat16Type, BoolAttr, Float16Type, FloatAttr, IntegerAttr, IntegerType, i1
from xdsl.ir import Attribute, Operation, SSAValue

from .attributes import is_float


@dataclass(frozen=True)
class Scalar:
    """One scalar function.

    name: the word used by passes, tile maps and printers.  arity: number of operands.  result: "same" (type of the last
    operand), "bool", or "cast" (given by the builder).  operation: the xDSL op class; predicate: for comparisons.
    """

    name: str
    arity: int
    operation: type[Operation]
    result: str = "same"
    predicate: int | None = None


_ROWS: tuple[Scalar, ...] = (
    Scalar("add", 2, arith.AddfOp),
    Scalar("sub", 2, arith.SubfOp),
    Scalar("mul", 2, arith.MulfOp),
    Scalar("div", 2, arith.DivfOp),
    Scalar("neg", 1, arith.NegfOp),
    Scalar("maximum", 2, arith.MaximumfOp),  # propagates NaN, as torch.maximum
    Scalar("minimum", 2, arith.MinimumfOp),
    Scalar("abs", 1, math.AbsFOp),
    Scalar("exp", 1, math.ExpOp),
    Scalar("exp2", 1, math.Exp2Op),
    Scalar("expm1", 1, math.ExpM1Op),
    Scalar("log", 1, math.LogOp),
    Scalar("log2", 1, math.Log2Op),
    Scalar("log1p", 1, math.Log1pOp),
    Scalar("sqrt", 1, math.SqrtOp),
    Scalar("rsqrt", 1, math.RsqrtOp),
    Scalar("tanh", 1, math.TanhOp),
    Scalar("sin", 1, math.SinOp),
    Scalar("cos", 1, math.CosOp),
    Scalar("erf", 1, math.ErfOp),
    Scalar("pow", 2, math.PowFOp),
    Scalar("floor", 1, math.FloorOp),
    Scalar("ceil", 1, math.CeilOp),
    Scalar("trunc", 1, math.TruncOp),
    Scalar("round", 1, math.RoundEvenOp),
    Scalar("lt", 2, arith.CmpfOp, "bool", 4),  # ordered predicates: false on NaN
    Scalar("le", 2, arith.CmpfOp, "bool", 5),
    Scalar("gt", 2, arith.CmpfOp, "bool", 2),
    Scalar("ge", 2, arith.CmpfOp, "bool", 3),
    Scalar("eq", 2, arith.CmpfOp, "bool", 1),
    Scalar("ne", 2, arith.CmpfOp, "bool", 13),  # unordered: NaN != NaN
    Scalar("iadd", 2, arith.AddiOp),
    Scalar("isub", 2, arith.SubiOp),
    Scalar("imul", 2, arith.MuliOp),
    Scalar("ifloordiv", 2, arith.FloorDivSIOp),
    Scalar("irem", 2, arith.RemSIOp),  # sign of the dividend
    Scalar("imaximum", 2, arith.MaxSIOp),
    Scalar("iminimum", 2, arith.MinSIOp),
    Scalar("ilt", 2, arith.CmpiOp, "bool", 2),
    Scalar("ile", 2, arith.CmpiOp, "bool", 3),
    Scalar("igt", 2, arith.CmpiOp, "bool", 4),
    Scalar("ige", 2, arith.CmpiOp, "bool", 5),
    Scalar("ieq", 2, arith.CmpiOp, "bool", 0),
    Scalar("ine", 2, arith.CmpiOp, "bool", 1),
    # 0 <= i < n for n >= 0, by a comparison without signs; a kernel for the CPU raises IndexError where it does not hold.
    Scalar("inside", 2, arith.CmpiOp, "bool", 6),
    Scalar("and", 2, arith.AndIOp),
    Scalar("or", 2, arith.OrIOp),
    Scalar("xor", 2, arith.XOrIOp),
    Scalar("select", 3, arith.SelectOp),
    Scalar("int_to_float", 1, arith.SIToFPOp, "cast"),
    Scalar("bool_to_float", 1, arith.UIToFPOp, "cast"),
    Scalar("float_to_int", 1, arith.FPToSIOp, "cast"),  # toward zero
    Scalar("bool_to_int", 1, arith.ExtUIOp, "cast"),
    Scalar("widen", 1, arith.ExtFOp, "cast"),
    Scalar("narrow", 1, arith.TruncFOp, "cast"),
    Scalar("to_bf16", 1, arith.TruncFOp, "cast"),  # a rounding that counts; `widen` brings it back to a compute type
    Scalar("to_f16", 1, arith.TruncFOp, "cast"),
)

SCALARS: dict[str, Scalar] = {row.name: row for row in _ROWS}

_BY_OPERATION: dict[tuple[type[Operation], int | None], Scalar] = {
    (r.operation, r.predicate): r for r in _ROWS if not r.name.startswith("to_")
}
_ROUNDINGS: dict[Attribute, str] = {BFloat16Type(): "to_bf16", Float16Type(): "to_f16"}

CONSTANT = "constant"


def name_of(op: Operation) -> str | None:
    """The table name of a scalar op, "constant" for a constant, None when it is not a scalar function."""
    if isinstance(op, arith.ConstantOp):
        return CONSTANT
    if isinstance(op, arith.TruncFOp):
        return _ROUNDINGS.get(op.result.type, "narrow")
    predicate = op.predicate.value.data if isinstance(op, arith.CmpfOp | arith.CmpiOp) else None
    row = _BY_OPERATION.get((type(op), predicate))
    return row.name if row else None


def constant_value(op: Operation) -> float | int | bool:
    """The Python value of an `arith.constant`."""
    assert isinstance(op, arith.ConstantOp)
    attribute = op.value
    if isinstance(attribute, FloatAttr):
        return attribute.value.data
    assert isinstance(attribute, IntegerAttr)
    if attribute.type == i1:
        return bool(attribute.value.data)
    return attribute.value.data


def constant(value: float | int | bool, type_: Attribute) -> arith.ConstantOp:
    """A constant of a compute type."""
    if is_float(type_):
        return arith.ConstantOp(FloatAttr(float(value), type_))  # pyright: ignore
    if type_ == i1:
        return arith.ConstantOp(BoolAttr.from_bool(bool(value)))
    assert isinstance(type_, IntegerType)
    return arith.ConstantOp(IntegerAttr(int(value), type_))


def result_type(name: str, operand_types: Sequence[Attribute], cast_to: Attribute | None = None) -> Attribute:
    row = SCALARS[name]
    if row.result == "bool":
        return i1
    if row.result == "cast":
        assert cast_to is not None, f"{name} needs the type to cast to"
        return cast_to
    return operand_types[-1]


def build(name: str, operands: Sequence[SSAValue], cast_to: Attribute | None = None) -> Operation:
    """The xDSL operation for a scalar function of the table.

    Raises KeyError for an unknown name and ValueError for a wrong number of operands.
    """
    row = SCALARS[name]
    if len(operands) != row.arity:
        raise ValueError(f"{name} takes {row.arity} operands, {len(operands)} given")
    if row.predicate is not None:
        return row.operation(*operands, row.predicate)  # pyright: ignore[reportCallIssue]
    if row.result == "cast":
        return row.operation(*operands, result_type(name, [o.type for o in operands], cast_to))  # pyright: ignore[reportCallIssue]
    return row.operation(*operands)


def identity(combiner: str, type_: Attribute) -> float | int | bool:
    """The neutral element of a combiner on a compute type."""
    floating = is_float(type_)
    if combiner in ("sum",):
        return 0.0 if floating else 0
    if combiner == "prod":
        return 1.0 if floating else 1
    if combiner in ("max", "argmax"):
        return -_math.inf if floating else -(2**63)
    if combiner in ("min", "argmin"):
        return _math.inf if floating else 2**63 - 1
    if combiner == "any":
        return False
    if combiner == "all":
        return True
    raise KeyError(combiner)
