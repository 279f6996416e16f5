"""Folds: one tile of contributions reduced, and combined with what was folded before."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import i1
from xdsl.ir import Attribute, SSAValue

from ..ir import scalar, tile
from ..ir.attributes import is_float
from .scalar_tiles import Env, ScalarTiles
from .tile_builder import TileBuilder
from .tile_dots import TileDots
from .walk import Walk

_COMBINE = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and"}
_COMBINE_INT = {"sum": "iadd", "prod": "imul", "max": "imaximum", "min": "iminimum"}


def is_arg(combiner: str) -> bool:
    """Whether what is folded is the index of an extreme: it carries the extreme as well."""
    return combiner in ("argmax", "argmin")


def combining(combiner: str, kind: Attribute) -> str:
    """The scalar function that combines two folded values of a type."""
    return (_COMBINE if is_float(kind) or kind == i1 else _COMBINE_INT)[combiner]


class TileFolds:
    """Writes folds into a kernel under construction."""

    def __init__(self, walk: Walk, tiles: TileBuilder, scalars: ScalarTiles):
        self.tiles, self.scalars = tiles, scalars
        self.dots = TileDots(walk, tiles, scalars)

    def fold(
        self, combiner: str, value: SSAValue, env: Env, reduced: Sequence[str], state: Sequence[SSAValue] | None
    ) -> list[SSAValue]:
        """Fold one tile of contributions over `reduced` (into `state`, if there is one); argmax/argmin carry two values."""
        if combiner == "sum" and len(reduced) == 1 and is_float(value.type):
            dot = self.dots.dot(value, env, reduced[0], state[0] if state else None)
            if dot is not None:
                return [dot]
        contribution = self.scalars.scalar(value, env)
        kind = tile.tile_type(contribution).element_type
        neutral = scalar.identity(combiner, kind)
        extreme: list[SSAValue] = [contribution]
        reduced = [r for r in reduced if self.tiles.role(r) != "unit"]  # one element is what it is reduced to
        for r in reduced:
            if r not in tile.tile_type(contribution).names:
                contribution = self.tiles.broadcast(
                    contribution, self.tiles.table.ordered([*tile.tile_type(contribution).names, r])
                )
        for r in reversed(reduced):
            padded = self.tiles.pad(contribution, r, neutral)
            beside = self.tiles.scope_for([padded]).known.get(("reduce", f"arg{combiner}", r, padded))
            extreme = list(  # where the index of an extreme is found, the extreme is there as well
                beside[:1]
                if beside is not None
                else self.tiles.emit(
                    ("reduce", combiner, r), [padded], lambda p=padded, r=r: tile.ReduceOp(combiner, p, r)
                )
            )
            contribution = extreme[0]
        if state is None:
            return extreme
        if is_arg(combiner):
            return self._better(combiner, state, extreme)
        return [self.tiles.map(combining(combiner, kind), [state[0], extreme[0]], kind)]

    def _better(self, combiner: str, old: Sequence[SSAValue], new: Sequence[SSAValue]) -> list[SSAValue]:
        """The better of two (extreme, index) pairs; the earlier one on a tie; a NaN is better than any number."""
        kind = tile.tile_type(old[0]).element_type
        if is_float(kind):
            take = self.tiles.map("lt" if combiner == "argmin" else "gt", [new[0], old[0]], i1)
            is_nan = self.tiles.map("ne", [new[0], new[0]], i1)
            was_number = self.tiles.map("eq", [old[0], old[0]], i1)
            take = self.tiles.map("or", [take, self.tiles.map("and", [is_nan, was_number], i1)], i1)
        else:
            take = self.tiles.map("ilt" if combiner == "argmin" else "igt", [new[0], old[0]], i1)
        return [
            self.tiles.map("select", [take, n, o], tile.tile_type(o).element_type)
            for n, o in zip(new, old, strict=True)
        ]
