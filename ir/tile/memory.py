"""Loads and stores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from xdsl.dialects.builtin import ArrayAttr, StringAttr, UnitAttr
from xdsl.ir import SSAValue
from xdsl.irdl import IRDLOperation, irdl_op_definition, operand_def, opt_prop_def, prop_def, result_def, traits_def
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from ..attributes import AccessMap
from .types import BufferType, TileType, rank_names, strings, tile_type


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
        return rank_names(self.guard)

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
        return rank_names(self.guard)

    def verify_(self) -> None:
        _verify_access(self.buffer, self.access, self.value)


def _verify_access(buffer: SSAValue, access: AccessMap, tile: SSAValue) -> None:
    dims = cast(BufferType, buffer.type).shape.data
    if len(access.data) != len(dims):
        raise VerifyException(f"access {access.text()} has {len(access.data)} indices for a buffer of {len(dims)}")
    missing = set(tile_type(tile).names) - set(access.ranks)
    if missing:
        raise VerifyException(f"tile ranks {sorted(missing)} are not in the access {access.text()}")
