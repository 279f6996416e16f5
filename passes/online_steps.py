"""One step of an online fold: the gauges move to what the tile holds, the other accumulators are measured from there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from xdsl.dialects.builtin import f64, i1
from xdsl.ir import BlockArgument, SSAValue

from ..ir import scalar, tile
from ..ir.cascade import OnlineOp, YieldOp
from .online_writer import LAG
from .scalar_tiles import Env, ScalarTiles
from .tile_builder import TileBuilder
from .tile_folds import TileFolds, combining, is_arg
from .walk import Walk

FLOAT32_MAX = (2.0 - 2.0**-23) * 2.0**127


class OnlineSteps:
    """Writes steps of online folds into a kernel under construction."""

    def __init__(self, walk: Walk, tiles: TileBuilder, scalars: ScalarTiles, folds: TileFolds):
        self.walk, self.tiles, self.scalars, self.folds = walk, tiles, scalars, folds

    def step(self, op: OnlineOp, base: Env, state: Sequence[Sequence[SSAValue]] | None) -> list[list[SSAValue]]:
        """The state after one more tile; without a state, the result of the one tile that holds the whole rank.

        base: what the inputs of the step stand for.  A result is one value; the index of an extreme is two, with the extreme
        first.
        """
        rank = op.over.data
        gauges = op.gauge_indices
        count = len(op.inputs)
        last = op.step.block.last_op
        assert isinstance(last, YieldOp)
        rest = [n for n in range(len(op.results)) if n not in gauges]
        result: dict[int, list[SSAValue]] = {}
        moved: dict[int, SSAValue] | None = None
        if state is not None and self.walk.lazy and LAG in op.attributes:
            moved = self._lazily_moved(op, gauges[0], base, state)
            result[gauges[0]] = [moved[gauges[0]]]
        for g in [g for g in gauges if g not in result]:
            result[g] = self.folds.fold(
                op.combiner_names[g], last.values[g], base, (rank,), state[g] if state else None
            )
        finite = {g: self._finite(op.combiner_names[g], result[g][-1]) for g in gauges}
        make, ranks, storage = dict(base.make), dict(base.ranks), dict(base.storage)
        for g in gauges:
            x = last.values[g]
            if isinstance(x, BlockArgument) and not is_arg(
                op.combiner_names[g]
            ):  # the lanes that the extreme must not see vanish from the rest as well
                make[x] = lambda x=x, g=g: self.tiles.pad(
                    self.scalars.scalar(x, base), rank, scalar.identity(op.combiner_names[g], x.type)
                )
        for n, g in enumerate(gauges):
            arg = op.step.block.args[count + n]
            make[arg] = lambda g=g: finite[g]
            ranks[arg] = frozenset(tile.tile_type(finite[g]).names)
            storage[arg] = tile.tile_type(finite[g]).element_type
        env = Env(make, ranks, storage)
        if state is None:
            for r in rest:
                result[r] = self.folds.fold(op.combiner_names[r], last.values[r], env, (rank,), None)
            return [result[n] for n in range(len(op.results))]
        transported = self._transported(op, state, base, finite) if moved is None else moved.__getitem__
        for r in rest:
            result[r] = self.folds.fold(op.combiner_names[r], last.values[r], env, (rank,), [transported(r)])
        return [result[n] for n in range(len(op.results))]

    def _transported(
        self, op: OnlineOp, state: Sequence[list[SSAValue]], base: Env, finite: Mapping[int, SSAValue]
    ) -> Callable[[int], SSAValue]:
        """An accumulator that is no gauge, by its result's number, measured from the new gauges."""
        gauges = op.gauge_indices
        rest = [n for n in range(len(op.results)) if n not in gauges]
        args = op.transport.block.args
        env = Env(
            {
                **{args[n]: (lambda g=g: state[g][-1]) for n, g in enumerate(gauges)},
                **{args[len(gauges) + n]: (lambda g=g: finite[g]) for n, g in enumerate(gauges)},
                **{args[2 * len(gauges) + n]: (lambda r=r: state[r][0]) for n, r in enumerate(rest)},
                **{
                    args[len(gauges) + len(op.results) + n]: base.make[op.step.block.args[i]]
                    for n, i in enumerate(op.row_inputs)
                },
            },
            {},
            {},
        )
        ending = op.transport.block.last_op
        assert isinstance(ending, YieldOp)
        return lambda r: self.scalars.scalar(ending.values[rest.index(r)], env)

    def _lazily_moved(self, op: OnlineOp, g: int, base: Env, state: Sequence[list[SSAValue]]) -> dict[int, SSAValue]:
        """The state, by result, before this tile is added: moved to this tile's extreme if that exceeds the gauge by more
        than the gauge may lag, in any row.  A first extreme exceeds the infinite gauge of a row that has seen nothing.
        """
        last = op.step.block.last_op
        assert isinstance(last, YieldOp)
        combiner, rank = op.combiner_names[g], op.over.data
        (extreme,) = self.folds.fold(combiner, last.values[g], base, (rank,), None)
        before = [held[0] for held in state]  # a gauge that may lag is no place: one value for each result
        kind, lag = tile.tile_type(extreme).element_type, op.attributes[LAG].value.data  # pyright: ignore
        reach = self.tiles.map("add" if combiner == "max" else "sub", [before[g], self.tiles.constant(lag, kind)], kind)
        condition = self.tiles.map("gt" if combiner == "max" else "lt", [extreme, reach], i1)
        for r in tile.tile_type(condition).names:
            condition = self.tiles.pad(condition, r, False)
        scope = self.tiles.scope_for([condition, *before])
        branch = self.tiles.open_branch(scope, before)
        given = list(branch.block.args)
        for a, v in zip(given, before, strict=True):
            self.tiles.scope_of[a], a.name_hint = branch, v.name_hint
        gauge = self.tiles.map(combining(combiner, kind), [given[g], extreme], kind)
        transported = self._transported(op, [[v] for v in given], base, {g: self._finite(combiner, gauge)})
        moved = [gauge if n == g else transported(n) for n in range(len(given))]
        results = self.tiles.close_branch(branch, scope, "any", condition, before, moved)
        return dict(enumerate(results))

    def _finite(self, combiner: str, value: SSAValue) -> SSAValue:
        """The gauge that contributions are taken at: finite while nothing but the neutral element was seen.

        Any finite value does, since all that is measured against it is infinitely far away.
        """
        if combiner not in ("max", "min"):
            return value
        kind = tile.tile_type(value).element_type
        largest = sys.float_info.max if kind == f64 else FLOAT32_MAX
        if combiner == "max":
            return self.tiles.map("maximum", [value, self.tiles.constant(-largest, kind)], kind)
        return self.tiles.map("minimum", [value, self.tiles.constant(largest, kind)], kind)
