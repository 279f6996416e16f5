"""The scalar table: every row builds, is recognised, and evaluates as torch does."""

from __future__ import annotations

import math

import pytest
import torch
from xdsl.dialects import arith
from xdsl.dialects.builtin import IndexType, bf16, f16, f32, f64, i1, i8, i32, i64
from xdsl.dialects.test import TestOp as Source
from xdsl.utils.exceptions import VerifyException

from fusecade.ir import scalar
from fusecade.ir.attributes import compute_type, element_bits
from fusecade.ir.interpret import torch_function

X = [-2.5, -1.0, -0.5, 0.0, 0.5, 1.5, 2.5, math.inf, -math.inf, math.nan]
Y = [1.0, -1.0, 2.0, 0.5, 0.5, 3.0, -2.0, math.inf, 1.0, 2.0]
INTEGERS = ([-7, -1, 0, 3, 7, 8], [2, -3, 5, 3, -2, 3])
BOOLEANS = ([False, False, True, True], [False, True, False, True])

# What each row means, written down a second time.
MEANING = {
    "ifloordiv": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "irem": torch.fmod,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "div": torch.div,
    "iadd": torch.add,
    "isub": torch.sub,
    "imul": torch.mul,
    "imaximum": torch.maximum,
    "iminimum": torch.minimum,
    "ilt": torch.lt,
    "ile": torch.le,
    "igt": torch.gt,
    "ige": torch.ge,
    "ieq": torch.eq,
    "ine": torch.ne,
    "inside": lambda a, b: torch.logical_and(a >= 0, a < b),
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
    "int_to_float": lambda a: a.to(torch.float64),
    "bool_to_float": lambda a: a.to(torch.float64),
    "float_to_int": lambda a: a.to(torch.int64),
    "bool_to_int": lambda a: a.to(torch.int64),
    "widen": lambda a: a,
    "narrow": lambda a: a,
    "to_bf16": lambda a: a.to(torch.bfloat16).to(a.dtype),
    "to_f16": lambda a: a.to(torch.float16).to(a.dtype),
    "select": torch.where,
}
CASTS = {
    "int_to_float": (i64, f32),
    "bool_to_float": (i1, f32),
    "float_to_int": (f32, i64),
    "bool_to_int": (i1, i64),
    "widen": (f32, f64),
    "narrow": (f64, f32),
    "to_bf16": (f32, bf16),
    "to_f16": (f32, f16),
}


def operand_types(name: str) -> list:
    row = scalar.SCALARS[name]
    if name in CASTS:
        return [CASTS[name][0]]
    if name == "select":
        return [i1, f32, f32]
    kind = i1 if name in ("and", "or", "xor") else i64 if MEANING.get(name) and name[0] == "i" else f32
    return [kind] * row.arity


def operands(types: list) -> list[torch.Tensor]:
    if types == [i1, f32, f32]:
        return [torch.tensor([x > 0 for x in X]), torch.tensor(X).double(), torch.tensor(Y).double()]
    if types[0] == f32 or types[0] == f64:
        return [torch.tensor(v, dtype=torch.float64) for v in (X, Y)][: len(types)]
    values = INTEGERS if types[0] == i64 else BOOLEANS
    return [torch.tensor(v) for v in values][: len(types)]


@pytest.mark.parametrize("name", scalar.SCALARS)
def test_a_row_builds_an_operation_that_is_recognised(name: str):
    types = operand_types(name)
    values = Source(result_types=types).results
    cast_to = CASTS[name][1] if name in CASTS else None
    op = scalar.build(name, values, cast_to)
    op.verify()
    assert scalar.name_of(op) == name
    assert op.results[0].type == scalar.result_type(name, types, cast_to)


@pytest.mark.parametrize("name", scalar.SCALARS)
def test_a_row_evaluates_as_torch_does(name: str):
    values = operands(operand_types(name))
    if name == "float_to_int":
        values = [v[v.isfinite()] for v in values]
    meaning = MEANING.get(name) or getattr(torch, name)
    torch.testing.assert_close(torch_function(name)(*values), meaning(*values), equal_nan=True, rtol=0, atol=0)


def test_comparisons_with_nan():
    nan = torch.tensor(math.nan)
    assert [name for name in ("lt", "le", "gt", "ge", "eq", "ne") if torch_function(name)(nan, nan)] == ["ne"]


def test_a_wrong_number_of_operands_is_refused():
    values = Source(result_types=[f32, f32]).results
    with pytest.raises(ValueError, match="exp takes 1 operands, 2 given"):
        scalar.build("exp", values)
    with pytest.raises(KeyError):
        scalar.build("gelu", values)


@pytest.mark.parametrize(
    ("value", "kind"), [(0.5, f32), (-math.inf, f32), (math.inf, f64), (7, i64), (True, i1), (False, i1)]
)
def test_a_constant_keeps_its_value(value, kind):
    op = scalar.constant(value, kind)
    assert scalar.name_of(op) == scalar.CONSTANT
    assert scalar.constant_value(op) == value
    assert type(scalar.constant_value(op)) is type(value)


def test_an_operation_outside_the_table_has_no_name():
    values = Source(result_types=[i64, i64]).results
    assert scalar.name_of(arith.ShLIOp(values[0], values[1])) is None
    assert scalar.name_of(Source()) is None


@pytest.mark.parametrize("combiner", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("kind", [f32, i64])
def test_identities_are_neutral(combiner: str, kind):
    combine = {"sum": torch.add, "prod": torch.mul, "max": torch.maximum, "min": torch.minimum}[combiner]
    x = torch.tensor(X[:-1]).double() if kind == f32 else torch.tensor(INTEGERS[0])
    assert torch.equal(combine(x, torch.tensor(scalar.identity(combiner, kind), dtype=x.dtype)), x)


@pytest.mark.parametrize(
    ("element", "computes", "bits"),
    [(f16, f32, 16), (bf16, f32, 16), (f32, f32, 32), (f64, f64, 64), (i1, i1, 8), (i8, i64, 8), (i32, i64, 32)],
)
def test_element_types(element, computes, bits: int):
    assert compute_type(element) == computes
    assert element_bits(element) == bits


def test_other_types_are_no_element_types():
    with pytest.raises(VerifyException, match="not an element type"):
        compute_type(IndexType())
