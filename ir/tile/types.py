"""The rank table of a kernel, tile and buffer types, and constants of element types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import sympy
from xdsl.dialects.builtin import ArrayAttr, FloatAttr, IntegerAttr, IntegerType, StringAttr, i1
from xdsl.ir import Attribute, Data, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from .. import symbols
from ..attributes import AccessMap, element_bits, is_float

ROLES = ("unit", "grid", "loop", "whole", "band")


@dataclass(frozen=True)
class TileRank:
    """One rank of a kernel: `extent` elements walked as `role`, `tile` elements at a time (a parameter's name).

    `tile` is None for `unit` (one element), `whole` (the extent) and `band`: of that, a program has the elements `of` for the
    present tiles of other ranks, from the least to the greatest, also those below 0 or beyond the extent.  A unit rank is one
    of the grid, or walked by loops: one element a program, or a step of a loop.
    """

    name: str
    extent: sympy.Expr
    role: str
    tile: str | None = None
    of: sympy.Expr | None = None


@irdl_attr_definition
class TileRanks(Data[tuple[TileRank, ...]]):
    """The rank table of a kernel: `#tile.ranks<[i = n grid BI, d = 64 whole]>`."""

    name = "tile.ranks"

    def __getitem__(self, name: str) -> TileRank:
        for rank in self.data:
            if rank.name == name:
                return rank
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(r.name for r in self.data)

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        """`names` without duplicates and without unit ranks, in table order: the shape of a broadcast."""
        wanted = set(names)
        return tuple(r.name for r in self.data if r.name in wanted and r.role != "unit")

    def sides(self, rank: TileRank) -> dict[TileRank, int]:
        """The ranks of the table that a band follows from, each with 1 or -1; none for ranks that are no band."""
        linear = symbols.affine(rank.of, self.names) if rank.of is not None else None
        return {self[n]: int(c) for n, c in linear[0].items()} if linear is not None else {}

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[TileRank, ...]:
        with parser.in_angle_brackets():
            return cls.parse_bare(parser).data

    @classmethod
    def parse_bare(cls, parser: AttrParser) -> TileRanks:
        def one() -> TileRank:
            name = parser.parse_identifier(" for a rank")
            parser.parse_punctuation("=")
            extent = symbols.parse(parser)
            role = parser.parse_identifier(" for a rank's role")
            if role not in ROLES:
                parser.raise_error(f"'{role}' is not a role; use one of {', '.join(ROLES)}")
            tile = parser.parse_identifier(" for a tile parameter") if role in ("grid", "loop") else None
            return TileRank(name, extent, role, tile, symbols.parse(parser) if role == "band" else None)

        return cls(tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, one)))

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(self.text())

    def text(self) -> str:
        return (
            "["
            + ", ".join(
                f"{r.name} = {symbols.to_text(r.extent)} {r.role}"
                + (f" {r.tile}" if r.tile else "")
                + (f" {symbols.to_text(r.of)}" if r.of is not None else "")
                for r in self.data
            )
            + "]"
        )


@irdl_attr_definition
class TileType(ParametrizedAttribute, TypeAttribute):
    """A block of values over named ranks: `!tile.tile<[i, j], f32>`; `[]` is a scalar of the program."""

    name = "tile.tile"
    ranks: AccessMap = param_def()
    element_type: Attribute = param_def()

    @staticmethod
    def of(ranks: Iterable[str], element_type: Attribute) -> TileType:
        return TileType(AccessMap.of(ranks), element_type)

    @property
    def names(self) -> tuple[str, ...]:
        return self.ranks.bare() or ()

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> tuple[Attribute, ...]:
        with parser.in_angle_brackets():
            ranks = AccessMap.parse_bare(parser)
            parser.parse_punctuation(",")
            return ranks, parser.parse_type()

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(self.ranks.text() + ", ")
            printer.print_attribute(self.element_type)

    def verify(self) -> None:
        element_bits(self.element_type)
        if self.ranks.bare() is None:
            raise VerifyException(f"a tile's dimensions are rank names, not {self.ranks.text()}")


@irdl_attr_definition
class BufferType(ParametrizedAttribute, TypeAttribute):
    """Memory with a layout: `!tile.buffer<[n, 64], [64, 1], f16>`: extents, strides in elements, element type."""

    name = "tile.buffer"
    shape: AccessMap = param_def()
    strides: AccessMap = param_def()
    element_type: Attribute = param_def()

    @staticmethod
    def of(
        shape: Sequence[sympy.Expr | int | str], strides: Sequence[sympy.Expr | int | str], element_type: Attribute
    ) -> BufferType:
        return BufferType(AccessMap.of(shape), AccessMap.of(strides), element_type)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> tuple[Attribute, ...]:
        with parser.in_angle_brackets():
            shape = AccessMap.parse_bare(parser)
            parser.parse_punctuation(",")
            strides = AccessMap.parse_bare(parser)
            parser.parse_punctuation(",")
            return shape, strides, parser.parse_type()

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(f"{self.shape.text()}, {self.strides.text()}, ")
            printer.print_attribute(self.element_type)

    def verify(self) -> None:
        element_bits(self.element_type)
        if len(self.shape.data) != len(self.strides.data):
            raise VerifyException("a buffer has one stride per dimension")


LEAST_DOT = 16  # lanes along each side of a dot, where blocks have fixed shapes


def band_width(lengths: Iterable[int], fixed: bool) -> int:
    """How many elements a band has.  lengths: of the tiles that it follows from.  fixed: blocks are powers of two."""
    exact = sum(n - 1 for n in lengths) + 1
    return max(1 << (exact - 1).bit_length(), LEAST_DOT) if fixed else exact


def tile_type(value: SSAValue) -> TileType:
    """The type of a tile value."""
    assert isinstance(value.type, TileType), value.type
    return value.type


def rank_names(attribute: ArrayAttr[StringAttr] | None) -> tuple[str, ...]:
    return tuple(a.data for a in attribute.data) if attribute is not None else ()


def strings(names: Iterable[str]) -> ArrayAttr[StringAttr]:
    return ArrayAttr([StringAttr(n) for n in names])


def number(value: float | int | bool, element: Attribute) -> FloatAttr | IntegerAttr:
    """A constant attribute of an element type."""
    if is_float(element):
        return FloatAttr(float(value), element)  # pyright: ignore
    assert isinstance(element, IntegerType)
    return IntegerAttr(int(value) if element != i1 else (-1 if value else 0), element)


def python_number(attribute: FloatAttr | IntegerAttr) -> float | int | bool:
    """The Python value of a constant attribute."""
    if isinstance(attribute, FloatAttr):
        return attribute.value.data
    if attribute.type == i1:
        return bool(attribute.value.data)
    return attribute.value.data


def with_role(rank: TileRank, role: str, tile: str | None) -> TileRank:
    return replace(rank, role=role, tile=tile)
