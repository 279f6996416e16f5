"""Sizes: torch's symbolic integers as index expressions, dtypes as element types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import sympy
import torch
from torch.utils._sympy import functions as torch_sympy
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    IntegerType,
    Signedness,
    f32,
    f64,
    i1,
    i64,
)
from xdsl.ir import Attribute

from ..ir import symbols
from ..ir.attributes import is_float


class Opaque(Exception):
    """The reason why an ATen call cannot become cascade operations; the importer makes it an extern."""


_ELEMENTS: dict[torch.dtype, Attribute] = {
    torch.float16: Float16Type(),
    torch.bfloat16: BFloat16Type(),
    torch.float32: Float32Type(),
    torch.float64: Float64Type(),
    torch.bool: i1,
    torch.int8: IntegerType(8),
    torch.int16: IntegerType(16),
    torch.int32: IntegerType(32),
    torch.int64: i64,
    torch.uint8: IntegerType(8, Signedness.UNSIGNED),
}


def element_type(dtype: torch.dtype) -> Attribute:
    """The element type of a dtype.  Raises Opaque for complex, float8, quantised and wide unsigned ones."""
    if dtype in _ELEMENTS:
        return _ELEMENTS[dtype]
    if dtype.is_complex:
        raise Opaque("complex numbers are not in the scalar table")
    raise Opaque(f"{dtype} is not an element type")


def compute_dtype(dtype: torch.dtype) -> Attribute:
    """The type in which a map computes on elements of this dtype."""
    element = element_type(dtype)
    if is_float(element):
        return f64 if element == f64 else f32
    return i1 if element == i1 else i64


def size(value: int | torch.SymInt | sympy.Expr, names: Mapping[str, str] | None = None) -> sympy.Expr:
    """An index expression for a Python, symbolic or sympy integer.  `names` renames torch's symbols.

    Raises Opaque when the size depends on data in a way that an index expression cannot say.
    """
    if isinstance(value, torch.SymInt):
        return _convert(value.node.expr, names or {})
    if isinstance(value, sympy.Expr):
        return _convert(value, names or {})
    return sympy.Integer(int(value))


def _convert(e: sympy.Expr, names: Mapping[str, str]) -> sympy.Expr:
    if e.is_Integer:
        return sympy.Integer(int(e))
    if isinstance(e, sympy.Symbol):
        return symbols.symbol(names.get(e.name, e.name))
    args = [_convert(a, names) for a in cast(Any, e.args)]
    if isinstance(e, sympy.Add | sympy.Mul):
        return sympy.expand(e.func(*args))
    if isinstance(e, sympy.Pow) and e.exp.is_Integer and int(e.exp) > 0:
        return sympy.expand(args[0] ** int(e.exp))
    if isinstance(e, torch_sympy.FloorDiv | torch_sympy.CleanDiv):
        return symbols.floordiv(args[0], args[1])
    if isinstance(e, torch_sympy.Mod | torch_sympy.PythonMod | sympy.Mod):
        return sympy.Mod(args[0], args[1])
    if isinstance(e, torch_sympy.ModularIndexing):
        return sympy.Mod(symbols.floordiv(args[0], args[1]), args[2])
    if isinstance(e, sympy.Max | torch_sympy.Max):
        return sympy.Max(*args)
    if isinstance(e, sympy.Min | torch_sympy.Min):
        return sympy.Min(*args)
    if isinstance(e, torch_sympy.CeilToInt) and isinstance(e.args[0], torch_sympy.IntTrueDiv):
        return symbols.ceildiv(*(_convert(a, names) for a in cast(Any, e.args[0].args)))
    raise Opaque(f"the size {e} is not an index expression")


def is_number(x: Any) -> bool:
    return isinstance(x, bool | int | float | torch.SymInt | torch.SymFloat | torch.SymBool)
