"""The `tile` dialect: the scheduled program, one op for one printed line.

    tile.kernel @k0 [b = 8 unit, i = n grid BI, j = m loop BJ, d = 64 whole] params {BI = 128, BJ = 64}
        (%q : !tile.buffer<[8, n, 64], [n * 64, 64, 1], f16>, ...) {
      %x = tile.load %q<[b, i, d]> guard ["i"] : !tile.buffer<...> -> !tile.tile<[i, d], f16>
      ...
      tile.store %y, %o<[b, i, d]> guard ["i"] : ...
      tile.return
    }

A tile's dimensions are ranks, named; operands of different ranks broadcast by name.  A rank's role says how it is
walked:

    unit   one element a program: a scalar index, in no tile's shape
    grid   a program handles `tile` elements; ceil(extent / tile) programs
    loop   streamed: `tile.for` walks it, `tile` elements a step
    whole  every program holds the whole extent

The tile sizes are named parameters; `params` binds them.  Edges: a tile is cut at its rank's extent.  Printers that
have fixed block shapes (Triton) carry lanes beyond it: `guard` on loads and stores lists the ranks whose edge may be
ragged, and `tile.pad` says with what those lanes are to be filled before a reduction; printers that can cut (torch)
skip it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import sympy
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FloatAttr,
    IntAttr,
    IntegerAttr,
    IntegerType,
    StringAttr,
    UnitAttr,
    i1,
    i64,
)
from xdsl.ir import Attribute, Block, Data, Dialect, ParametrizedAttribute, Region, SSAValue, TypeAttribute
from xdsl.irdl import (
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    param_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, IsTerminator, Pure, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

from . import scalar, symbols
from .attributes import AccessMap, element_bits, is_float
from .cascade import REDUCTIONS

ROLES = ("unit", "grid", "loop", "whole")


@dataclass(frozen=True)
class TileRank:
    """One rank of a kernel: `extent` elements walked as `role`, `tile` elements at a time (a parameter's name).

    `tile` is None exactly for `unit` (one element) and `whole` (the extent).
    """

    name: str
    extent: sympy.Expr
    role: str
    tile: str | None = None


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
            return TileRank(name, extent, role, tile)

        return cls(tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, one)))

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(self.text())

    def text(self) -> str:
        return (
            "["
            + ", ".join(
                f"{r.name} = {symbols.to_text(r.extent)} {r.role}" + (f" {r.tile}" if r.tile else "") for r in self.data
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


def tile_type(value: SSAValue) -> TileType:
    """The type of a tile value."""
    assert isinstance(value.type, TileType), value.type
    return value.type


def _names(attribute: ArrayAttr[StringAttr] | None) -> tuple[str, ...]:
    return tuple(a.data for a in attribute.data) if attribute is not None else ()


def strings(names: Iterable[str]) -> ArrayAttr[StringAttr]:
    return ArrayAttr([StringAttr(n) for n in names])


@irdl_op_definition
class LoadOp(IRDLOperation):
    """`%x = tile.load %q<[b, i, h * 32 + d]> guard ["i"] : B -> T`: the elements at this program's indices, as a tile.

    `checked`: the access itself may leave the buffer's bounds (a pad, a shifted window); such elements read as zero.
    """

    name = "tile.load"
    buffer = operand_def(BufferType)
    access = prop_def(AccessMap)
    guard = prop_def(ArrayAttr[StringAttr])
    checked = opt_prop_def(UnitAttr)
    result = result_def(TileType)
    assembly_format = (
        "$buffer `` $access `guard` $guard (`checked` $checked^)? attr-dict `:` type($buffer) `->` type($result)"
    )
    traits = traits_def(Pure())

    def __init__(self, buffer: SSAValue, access: AccessMap, result: TileType, guard: Iterable[str] = (), checked=False):
        super().__init__(
            operands=[buffer],
            properties={
                "access": access,
                "guard": strings(guard),
                **({"checked": UnitAttr()} if checked else {}),
            },
            result_types=[result],
        )

    @property
    def guards(self) -> tuple[str, ...]:
        return _names(self.guard)

    def verify_(self) -> None:
        _verify_access(self.buffer, self.access, self.result)


@irdl_op_definition
class StoreOp(IRDLOperation):
    """`tile.store %x, %o<[b, i, d]> guard ["i"] : T, B`: write a tile (converted to the buffer's element type)."""

    name = "tile.store"
    value = operand_def(TileType)
    buffer = operand_def(BufferType)
    access = prop_def(AccessMap)
    guard = prop_def(ArrayAttr[StringAttr])
    assembly_format = "$value `,` $buffer `` $access `guard` $guard attr-dict `:` type($value) `,` type($buffer)"

    def __init__(self, value: SSAValue, buffer: SSAValue, access: AccessMap, guard: Iterable[str] = ()):
        super().__init__(operands=[value, buffer], properties={"access": access, "guard": strings(guard)})

    @property
    def guards(self) -> tuple[str, ...]:
        return _names(self.guard)

    def verify_(self) -> None:
        _verify_access(self.buffer, self.access, self.value)


def _verify_access(buffer: SSAValue, access: AccessMap, tile: SSAValue) -> None:
    dims = cast(BufferType, buffer.type).shape.data
    if len(access.data) != len(dims):
        raise VerifyException(f"access {access.text()} has {len(access.data)} indices for a buffer of {len(dims)}")
    missing = set(tile_type(tile).names) - set(access.ranks)
    if missing:
        raise VerifyException(f"tile ranks {sorted(missing)} are not in the access {access.text()}")


@irdl_op_definition
class IndexOp(IRDLOperation):
    """`%p = tile.index<[i - j]> : !tile.tile<[i, j], i64>`: the value of an index expression at this tile's points."""

    name = "tile.index"
    expression = prop_def(AccessMap)
    result = result_def(TileType)
    assembly_format = "`` $expression attr-dict `:` type($result)"
    traits = traits_def(Pure())

    def __init__(self, expression: sympy.Expr | str, ranks: Iterable[str]):
        super().__init__(properties={"expression": AccessMap.of([expression])}, result_types=[TileType.of(ranks, i64)])

    @property
    def expr(self) -> sympy.Expr:
        return self.expression.data[0]


@irdl_op_definition
class FillOp(IRDLOperation):
    """`%z = tile.fill 0.0 : f32 -> !tile.tile<[i, d], f32>`: a tile of one constant; `[]` is a scalar constant."""

    name = "tile.fill"
    value = prop_def(FloatAttr | IntegerAttr)
    result = result_def(TileType)
    assembly_format = "$value attr-dict `->` type($result)"
    traits = traits_def(Pure())

    def __init__(self, value: float | int | bool, result: TileType):
        super().__init__(properties={"value": number(value, result.element_type)}, result_types=[result])

    @property
    def python_value(self) -> float | int | bool:
        return python_number(self.value)


@irdl_op_definition
class MapOp(IRDLOperation):
    """`%e = tile.map "exp"(%x) : (T) -> T`: one scalar-table function, elementwise; operands broadcast by rank name."""

    name = "tile.map"
    function = prop_def(StringAttr)
    operands_ = var_operand_def(TileType)
    result = result_def(TileType)
    assembly_format = "$function `(` $operands_ `)` attr-dict `:` functional-type($operands_, $result)"
    traits = traits_def(Pure())

    def __init__(self, function: str, operands: Sequence[SSAValue], result: TileType):
        super().__init__(operands=[operands], properties={"function": StringAttr(function)}, result_types=[result])

    def verify_(self) -> None:
        row = scalar.SCALARS.get(self.function.data)
        if row is None:
            raise VerifyException(f"'{self.function.data}' is not in the scalar table")
        if row.arity != len(self.operands):
            raise VerifyException(f"'{row.name}' takes {row.arity} operands, {len(self.operands)} given")
        union = {r for o in self.operands for r in tile_type(o).names}
        if set(tile_type(self.result).names) != union:
            raise VerifyException(f"the result's ranks must be the union of the operands' ranks, {sorted(union)}")


@irdl_op_definition
class CastOp(IRDLOperation):
    """`%h = tile.cast %x : T -> U`: convert the element type (rounding to nearest)."""

    name = "tile.cast"
    value = operand_def(TileType)
    result = result_def(TileType)
    assembly_format = "$value attr-dict `:` type($value) `->` type($result)"
    traits = traits_def(Pure())

    def __init__(self, value: SSAValue, element: Attribute):
        super().__init__(operands=[value], result_types=[TileType.of(tile_type(value).names, element)])


@irdl_op_definition
class PadOp(IRDLOperation):
    """`%p = tile.pad %x over ["j"] with 0.0 : f32 : T -> T`: lanes beyond these ranks' extents hold the constant."""

    name = "tile.pad"
    value = operand_def(TileType)
    over = prop_def(ArrayAttr[StringAttr])
    fill = prop_def(FloatAttr | IntegerAttr)
    result = result_def(TileType)
    assembly_format = "$value `over` $over `with` $fill attr-dict `:` type($value) `->` type($result)"
    traits = traits_def(Pure())

    def __init__(self, value: SSAValue, over: Iterable[str], fill: float | int | bool):
        kind = tile_type(value)
        super().__init__(
            operands=[value],
            properties={"over": strings(over), "fill": number(fill, kind.element_type)},
            result_types=[kind],
        )

    @property
    def over_ranks(self) -> tuple[str, ...]:
        return _names(self.over)

    @property
    def python_fill(self) -> float | int | bool:
        return python_number(self.fill)


@irdl_op_definition
class DotOp(IRDLOperation):
    """`%s = tile.dot %a, %b acc %c : T over "d" precision "ieee" : T, T -> T`: Σ_d a·b (+ c).

    It accumulates in the result's type.  Ranks that both operands and the result have are batch ranks.  precision:
    "ieee" (full fp32 products) or "tf32".
    """

    name = "tile.dot"
    lhs = operand_def(TileType)
    rhs = operand_def(TileType)
    acc = opt_operand_def(TileType)
    over = prop_def(StringAttr)
    precision = prop_def(StringAttr)
    result = result_def(TileType)
    assembly_format = (
        "$lhs `,` $rhs (`acc` $acc^ `:` type($acc))? `over` $over `precision` $precision attr-dict"
        " `:` type($lhs) `,` type($rhs) `->` type($result)"
    )
    traits = traits_def(Pure())

    def __init__(
        self,
        lhs: SSAValue,
        rhs: SSAValue,
        over: str,
        result: TileType,
        acc: SSAValue | None = None,
        precision: str = "ieee",
    ):
        super().__init__(
            operands=[lhs, rhs, acc],
            properties={"over": StringAttr(over), "precision": StringAttr(precision)},
            result_types=[result],
        )

    @property
    def batch(self) -> tuple[str, ...]:
        rhs = set(tile_type(self.rhs).names)
        kept = set(tile_type(self.result).names)
        return tuple(r for r in tile_type(self.lhs).names if r in rhs and r in kept)

    def verify_(self) -> None:
        k = self.over.data
        lhs, rhs, out = (set(tile_type(v).names) for v in (self.lhs, self.rhs, self.result))
        if k not in lhs or k not in rhs or k in out:
            raise VerifyException(f"'{k}' must be in both operands and not in the result")
        if out != (lhs | rhs) - {k}:
            raise VerifyException("the result's ranks must be the operands' ranks without the contracted one")
        if self.acc is not None and tile_type(self.acc) != tile_type(self.result):
            raise VerifyException("the accumulator must have the result's type")
        if self.precision.data not in ("ieee", "tf32"):
            raise VerifyException(f"precision '{self.precision.data}' is not ieee or tf32")


@irdl_op_definition
class ReduceOp(IRDLOperation):
    """`%m = tile.reduce "max" %s over "j" : (T) -> T`: combine a tile's elements along one rank.

    "argmax" and "argmin" give the extreme and its first index, counted in the rank (not in the tile).
    """

    name = "tile.reduce"
    combiner = prop_def(StringAttr)
    value = operand_def(TileType)
    over = prop_def(StringAttr)
    outs = var_result_def(TileType)
    assembly_format = "$combiner $value `over` $over attr-dict `:` functional-type($value, $outs)"
    traits = traits_def(Pure())

    def __init__(self, combiner: str, value: SSAValue, over: str):
        super().__init__(
            operands=[value],
            properties={"combiner": StringAttr(combiner), "over": StringAttr(over)},
            result_types=[self._types(combiner, tile_type(value), over)],
        )

    @staticmethod
    def _types(combiner: str, kind: TileType, over: str) -> list[TileType]:
        kept = [r for r in kind.names if r != over]
        extreme = TileType.of(kept, kind.element_type)
        return [extreme, TileType.of(kept, i64)] if combiner in ("argmax", "argmin") else [extreme]

    def verify_(self) -> None:
        if self.combiner.data not in REDUCTIONS:
            raise VerifyException(f"'{self.combiner.data}' is not a reduction")
        if self.over.data not in tile_type(self.value).names:
            raise VerifyException(f"'{self.over.data}' is not a rank of the tile")
        expected = self._types(self.combiner.data, tile_type(self.value), self.over.data)
        if [r.type for r in self.results] != expected:
            raise VerifyException(f"the results must be {', '.join(map(str, expected))}")


@irdl_op_definition
class YieldOp(IRDLOperation):
    """`tile.yield %m, %l : T, T` ends a loop body with the carried state."""

    name = "tile.yield"
    values = var_operand_def(TileType)
    assembly_format = "attr-dict ($values^ `:` type($values))?"
    traits = traits_def(IsTerminator())

    def __init__(self, *values: SSAValue):
        super().__init__(operands=[values])


@irdl_op_definition
class ForOp(IRDLOperation):
    """`%r:2 = tile.for j from 0 to n (%m = %m0 : T, %l = %l0 : T) { ... tile.yield }`: walk a loop rank, tile by tile.

    `from` and `to` are index expressions in elements; `from` is a multiple of the rank's tile.  In them a unit rank
    stands for its index, a grid rank (or the rank of a loop around this one) for its first index here, and a parameter
    for its value: `to min(n, i + BI)`.  The last tile is cut at the rank's extent, not at `to`.
    """

    name = "tile.for"
    init = var_operand_def(TileType)
    rank = prop_def(StringAttr)
    lower = prop_def(AccessMap)
    upper = prop_def(AccessMap)
    body = region_def("single_block")
    outs = var_result_def(TileType)

    def __init__(
        self,
        rank: str,
        init: Sequence[SSAValue],
        body: Region,
        lower: sympy.Expr | int,
        upper: sympy.Expr | int,
    ):
        super().__init__(
            operands=[init],
            properties={
                "rank": StringAttr(rank),
                "lower": AccessMap.of([lower]),
                "upper": AccessMap.of([upper]),
            },
            regions=[body],
            result_types=[[v.type for v in init]],
        )

    @property
    def bounds(self) -> tuple[sympy.Expr, sympy.Expr]:
        return self.lower.data[0], self.upper.data[0]

    def print(self, printer: Printer) -> None:
        lower, upper = self.bounds
        printer.print_string(f" {self.rank.data} from {symbols.to_text(lower)} to {symbols.to_text(upper)} (")
        for n, (arg, value) in enumerate(zip(self.body.block.args, self.init, strict=True)):
            if n:
                printer.print_string(", ")
            printer.print_ssa_value(arg)
            printer.print_string(" = ")
            printer.print_ssa_value(value)
            printer.print_string(" : ")
            printer.print_attribute(value.type)
        printer.print_string(") ")
        printer.print_region(self.body, print_entry_block_args=False)
        if self.attributes:
            printer.print_string(" attributes ")
            printer.print_attr_dict(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> ForOp:
        rank = parser.parse_identifier()
        parser.parse_keyword("from")
        lower = symbols.parse(parser)
        parser.parse_keyword("to")
        upper = symbols.parse(parser)

        def one() -> tuple[Parser.Argument, SSAValue]:
            inner = parser.parse_argument(expect_type=False)
            parser.parse_punctuation("=")
            unresolved = parser.parse_unresolved_operand()
            parser.parse_punctuation(":")
            kind = parser.parse_type()
            return inner.resolve(kind), parser.resolve_operand(unresolved, kind)

        pairs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, one)
        body = parser.parse_region([a for a, _ in pairs])
        op = cls(rank, [v for _, v in pairs], body, lower, upper)
        if parser.parse_optional_keyword("attributes") is not None:
            op.attributes.update(parser.parse_optional_dictionary_attr_dict())
        return op

    def verify_(self) -> None:
        block = self.body.block
        last = block.last_op
        if not isinstance(last, YieldOp):
            raise VerifyException("a loop body ends in tile.yield")
        expected = [v.type for v in self.init]
        if [a.type for a in block.args] != expected or [v.type for v in last.values] != expected:
            raise VerifyException("the carried state changes its type in the loop")


@irdl_op_definition
class ReturnOp(IRDLOperation):
    """`tile.return` ends a kernel."""

    name = "tile.return"
    assembly_format = "attr-dict"
    traits = traits_def(IsTerminator())

    def __init__(self):
        super().__init__()


@irdl_op_definition
class KernelOp(IRDLOperation):
    """One kernel: a rank table, parameters, buffers, a body.

    The last `outputs` arguments are written, the others read.

    `grid` is the order of the grid and unit ranks, outermost (slowest) first.
    """

    name = "tile.kernel"
    sym_name = prop_def(StringAttr)
    ranks = prop_def(TileRanks)
    grid = prop_def(ArrayAttr[StringAttr])
    params = prop_def(DictionaryAttr)
    outputs = prop_def(IntAttr)
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove(), SymbolOpInterface())

    def __init__(
        self,
        name: str,
        ranks: TileRanks,
        grid: Sequence[str],
        params: Mapping[str, int],
        outputs: int,
        body: Region,
        attributes: dict[str, Attribute] | None = None,
    ):
        super().__init__(
            properties={
                "sym_name": StringAttr(name),
                "ranks": ranks,
                "grid": strings(grid),
                "params": DictionaryAttr({k: IntegerAttr(v, i64) for k, v in sorted(params.items())}),
                "outputs": IntAttr(outputs),
            },
            regions=[body],
            attributes=attributes or {},
        )

    @property
    def grid_ranks(self) -> tuple[str, ...]:
        return _names(self.grid)

    @property
    def parameters(self) -> dict[str, int]:
        return {k: cast(IntegerAttr, v).value.data for k, v in self.params.data.items()}

    @property
    def arguments(self) -> tuple[SSAValue, ...]:
        return tuple(self.body.block.args)

    @property
    def inputs(self) -> tuple[SSAValue, ...]:
        return self.arguments[: len(self.arguments) - self.outputs.data]

    @property
    def written(self) -> tuple[SSAValue, ...]:
        return self.arguments[len(self.arguments) - self.outputs.data :]

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_symbol_name(self.sym_name.data)
        printer.print_string(f" {self.ranks.text()} grid ({', '.join(self.grid_ranks)}) params {{")
        printer.print_string(", ".join(f"{k} = {v}" for k, v in self.parameters.items()))
        printer.print_string("} (")
        reads, writes = (self.body.block.args[: len(self.inputs)], self.body.block.args[len(self.inputs) :])
        printer.print_list(reads, printer.print_block_argument)
        printer.print_string(") -> (")
        printer.print_list(writes, printer.print_block_argument)
        printer.print_string(") ")
        printer.print_region(self.body, print_entry_block_args=False)
        if self.attributes:
            printer.print_string(" attributes ")
            printer.print_attr_dict(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> KernelOp:
        name = parser.parse_symbol_name().data
        ranks = TileRanks.parse_bare(parser)
        parser.parse_keyword("grid")
        grid = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_identifier)

        def binding() -> tuple[str, int]:
            key = parser.parse_identifier()
            parser.parse_punctuation("=")
            return key, parser.parse_integer()

        parser.parse_keyword("params")
        params = dict(parser.parse_comma_separated_list(parser.Delimiter.BRACES, binding))
        reads = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_argument)
        parser.parse_punctuation("->")
        writes = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_argument)
        body = parser.parse_region([*reads, *writes])
        op = cls(name, ranks, grid, params, len(writes), body)
        if parser.parse_optional_keyword("attributes") is not None:
            op.attributes.update(parser.parse_optional_dictionary_attr_dict())
        return op

    def verify_(self) -> None:
        table = self.ranks.data
        if len(set(self.ranks.names)) != len(table):
            raise VerifyException("a rank is declared twice")
        expected = {r.name for r in table if r.role in ("unit", "grid")}
        if set(self.grid_ranks) != expected or len(self.grid_ranks) != len(expected):
            raise VerifyException(f"the grid must list the unit and grid ranks {sorted(expected)} once each")
        unbound = [r.tile for r in table if r.tile is not None and r.tile not in self.parameters]
        if unbound:
            raise VerifyException(f"parameters {unbound} are not bound")
        if not isinstance(self.body.block.last_op, ReturnOp):
            raise VerifyException("a kernel ends in tile.return")
        for op in self.body.walk():
            for kind in (r.type for r in op.results):
                wrong = [n for n in kind.names if not self._is_dimension(n)] if isinstance(kind, TileType) else []
                if wrong:
                    raise VerifyException(f"{op.name} gives a tile over {wrong}, no dimensions of {self.ranks.text()}")
            if isinstance(op, ForOp) and op.rank.data not in [r.name for r in table if r.role == "loop"]:
                raise VerifyException(f"tile.for walks '{op.rank.data}', which is no loop rank of {self.ranks.text()}")

    def _is_dimension(self, name: str) -> bool:
        """Whether tiles may have this rank: it is in the table, and more than one element a program."""
        return name in self.ranks.names and self.ranks[name].role != "unit"


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


def empty_body(arguments: Sequence[Attribute]) -> Region:
    return Region(Block(arg_types=arguments))


def with_role(rank: TileRank, role: str, tile: str | None) -> TileRank:
    return replace(rank, role=role, tile=tile)


Tile = Dialect(
    "tile",
    [
        LoadOp,
        StoreOp,
        IndexOp,
        FillOp,
        MapOp,
        CastOp,
        PadOp,
        DotOp,
        ReduceOp,
        YieldOp,
        ForOp,
        ReturnOp,
        KernelOp,
    ],
    [TileRanks, TileType, BufferType],
)
