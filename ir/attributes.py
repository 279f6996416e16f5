"""Attributes and types shared by the dialects: index expressions, rank spaces, access maps, tensor types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import sympy
from xdsl.dialects.builtin import (
    AnyFloat,
    BFloat16Type,
    ComplexType,
    Float16Type,
    Float32Type,
    Float64Type,
    IntegerType,
    f32,
    f64,
    i1,
    i64,
)
from xdsl.ir import Attribute, Data, ParametrizedAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from . import symbols


@irdl_attr_definition
class RankSpace(Data[tuple[tuple[str, sympy.Expr], ...]]):
    """Rank variables with their extents, in order: `#cascade.ranks<[i = 4096, j = s0]>`.

    Two ranks of equal extent are not the same rank.
    """

    name = "cascade.ranks"

    @staticmethod
    def of(extents: Mapping[str, sympy.Expr | int | str] | Iterable[tuple[str, sympy.Expr | int | str]]) -> RankSpace:
        items = cast(Mapping, extents).items() if isinstance(extents, Mapping) else extents
        return RankSpace(tuple((name, symbols.expr(extent)) for name, extent in items))

    @property
    def extents(self) -> dict[str, sympy.Expr]:
        return dict(self.data)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.data)

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[tuple[str, sympy.Expr], ...]:
        with parser.in_angle_brackets():
            return cls.parse_bare(parser).data

    @classmethod
    def parse_bare(cls, parser: AttrParser) -> RankSpace:
        def one() -> tuple[str, sympy.Expr]:
            name = parser.parse_identifier(" for a rank")
            parser.parse_punctuation("=")
            return name, symbols.parse(parser)

        return cls(tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, one)))

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(self.text())

    def text(self) -> str:
        return "[" + ", ".join(f"{n} = {symbols.to_text(e)}" for n, e in self.data) + "]"


@irdl_attr_definition
class AccessMap(Data[tuple[sympy.Expr, ...]]):
    """Which element of a tensor is touched, one index expression a dimension: `#cascade.access<[b, j - i + L - 1]>`.

    A read outside the tensor's bounds yields zero (pads and concatenations select around it).
    """

    name = "cascade.access"

    @staticmethod
    def of(exprs: Iterable[sympy.Expr | int | str]) -> AccessMap:
        return AccessMap(tuple(symbols.expr(e) for e in exprs))

    @property
    def ranks(self) -> tuple[str, ...]:
        """Names of the symbols in order of first occurrence (sizes included)."""
        seen: dict[str, None] = {}
        for e in self.data:
            for n in sorted(symbols.names(e)):
                seen.setdefault(n)
        return tuple(seen)

    def substitute(self, replacement: Mapping[str, sympy.Expr]) -> AccessMap:
        table = {symbols.symbol(n): symbols.expr(e) for n, e in replacement.items()}
        return AccessMap(tuple(symbols.substitute(e, table) for e in self.data))

    def bare(self) -> tuple[str, ...] | None:
        """The rank names when every index is one bare symbol, else None."""
        names: list[str] = []
        for e in self.data:
            if not isinstance(e, sympy.Symbol):
                return None
            names.append(e.name)
        return tuple(names)

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[sympy.Expr, ...]:
        with parser.in_angle_brackets():
            return cls.parse_bare(parser).data

    @classmethod
    def parse_bare(cls, parser: AttrParser) -> AccessMap:
        return cls(tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: symbols.parse(parser))))

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(self.text())

    def text(self) -> str:
        return "[" + ", ".join(symbols.to_text(e) for e in self.data) + "]"


@irdl_attr_definition
class TensorType(ParametrizedAttribute, TypeAttribute):
    """A tensor with symbolic extents: `!cascade.tensor<[8, s0, 64], f32>`.  It says nothing about layout."""

    name = "cascade.tensor"
    shape: AccessMap = param_def()
    element_type: Attribute = param_def()

    @staticmethod
    def of(shape: Sequence[sympy.Expr | int | str], element_type: Attribute) -> TensorType:
        return TensorType(AccessMap.of(shape), element_type)

    @property
    def dims(self) -> tuple[sympy.Expr, ...]:
        return self.shape.data

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> tuple[Attribute, ...]:
        with parser.in_angle_brackets():
            shape = AccessMap.parse_bare(parser)
            parser.parse_punctuation(",")
            return shape, parser.parse_type()

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(self.shape.text() + ", ")
            printer.print_attribute(self.element_type)

    def verify(self) -> None:
        element_bits(self.element_type)


def compute_type(element: Attribute) -> Attribute:
    """The type in which a map computes on elements of this storage type.

    f16, bf16 and f32 compute in f32 (so a chain of maps rounds once, when it is stored); f64 in f64; i1 in i1;
    every other integer in i64.  Regions wrap integers to a narrower width where they may leave it, by arithmetic.
    """
    if isinstance(element, Float16Type | BFloat16Type | Float32Type):
        return f32
    if isinstance(element, Float64Type):
        return f64
    if isinstance(element, IntegerType):
        return i1 if element.width.data == 1 else i64
    raise VerifyException(f"{element} is not an element type; use f16, bf16, f32, f64 or an integer")


def element_bits(element: Attribute) -> int:
    """Bits that one element takes in memory (a boolean takes 8)."""
    if isinstance(element, IntegerType):
        return max(8, element.width.data)
    if isinstance(element, ComplexType):  # passes from one extern to the next; nothing computes with it
        return 2 * element_bits(element.element_type)
    if isinstance(element, Float16Type | BFloat16Type | Float32Type | Float64Type):
        return cast(AnyFloat, element).bitwidth
    raise VerifyException(f"{element} is not an element type; use f16, bf16, f32, f64 or an integer")


def is_float(element: Attribute) -> bool:
    return isinstance(element, Float16Type | BFloat16Type | Float32Type | Float64Type)
