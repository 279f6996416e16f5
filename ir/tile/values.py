"""Operations on tiles, without effects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sympy
from xdsl.dialects.builtin import ArrayAttr, FloatAttr, IntegerAttr, StringAttr, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from .. import scalar
from ..attributes import AccessMap
from ..cascade import REDUCTIONS
from .types import TileType, number, python_number, rank_names, strings, tile_type


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
        return rank_names(self.over)

    @property
    def python_fill(self) -> float | int | bool:
        return python_number(self.fill)


@irdl_op_definition
class PickOp(IRDLOperation):
    """`%s = tile.pick %x at "r" : T -> T`: of a tile along a band, what each point of the tile that it belongs to reads.

    With r the band of j - i, and %x over [i, r], the element of %s at i and j is that of %x at i and j - i.
    """

    name = "tile.pick"
    value = operand_def(TileType)
    band = prop_def(StringAttr)
    result = result_def(TileType)
    assembly_format = "$value `at` $band attr-dict `:` type($value) `->` type($result)"
    traits = traits_def(Pure())

    def __init__(self, value: SSAValue, band: str, ranks: Iterable[str]):
        """ranks: those of the result, in order."""
        super().__init__(
            operands=[value],
            properties={"band": StringAttr(band)},
            result_types=[TileType.of(ranks, tile_type(value).element_type)],
        )

    def verify_(self) -> None:
        names, picked = set(tile_type(self.value).names), set(tile_type(self.result).names)
        if self.band.data not in names or self.band.data in picked:
            raise VerifyException(f"'{self.band.data}' must be a rank of the tile and none of the result")
        if not names - {self.band.data} <= picked:
            raise VerifyException("the result must have the other ranks of the tile")
        if tile_type(self.value).element_type != tile_type(self.result).element_type:
            raise VerifyException("picking does not change the element type")


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
