"""The scalars of a map region as tiles: what a region computes of one element, computed of all elements of a tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue

from ..ir import scalar, tile
from ..ir.cascade import IndexOp
from .index_predicates import TRUE, Predicate
from .neutral import Neutral
from .tile_builder import TileBuilder


@dataclass(frozen=True)
class Env:
    """What the block arguments of a region stand for: a tile, made when it is asked for, and its ranks."""

    make: Mapping[SSAValue, Callable[[], SSAValue]]
    ranks: Mapping[SSAValue, frozenset[str]]
    storage: Mapping[SSAValue, Attribute]


class ScalarTiles:
    """Writes the scalars of map regions into a kernel under construction."""

    def __init__(self, tiles: TileBuilder, neutral: Neutral):
        self.tiles, self.neutral = tiles, neutral
        self.given: Predicate = TRUE  # what is known of the indices in the loops under construction

    def scalar(self, value: SSAValue, env: Env) -> SSAValue:
        """The tile of a scalar of a map region, in its compute type."""
        known = self.neutral.constant(value, self.given) if self.given != TRUE else None
        if known is not None:
            return self.tiles.constant(known, value.type)
        if isinstance(value, BlockArgument):
            return self.tiles.convert(env.make[value](), value.type)
        op = value.owner
        assert isinstance(op, Operation)
        if isinstance(op, IndexOp):
            ranks = self.tiles.table.ordered(op.expression.ranks)
            return self.tiles.emit(
                ("index", op.expression), [], lambda: tile.IndexOp(op.expr, ranks), op.expression.ranks
            )[0]
        name = scalar.name_of(op)
        if name == scalar.CONSTANT:
            return self.tiles.constant(scalar.constant_value(op), value.type)
        assert name is not None
        if self.given != TRUE and (same := self.neutral.passed_on(op, name, self.given)) is not None:
            return self.scalar(same, env)
        return self.tiles.map(name, [self.scalar(o, env) for o in op.operands], value.type, value.name_hint)

    def ranks(self, value: SSAValue, env: Env) -> frozenset[str]:
        """The ranks of the tile of a scalar."""
        if isinstance(value, BlockArgument):
            return env.ranks[value]
        op = value.owner
        if isinstance(op, IndexOp):
            return frozenset(self.tiles.table.ordered(op.expression.ranks))
        return frozenset().union(*(self.ranks(o, env) for o in op.operands)) if op.operands else frozenset()  # pyright: ignore
