"""How often the loops of a tile kernel run, and how many elements they walk, summed over its grid.

A loop from 0 to its rank's extent takes the same steps in every program; then sums are products of extents and trip
counts.  A loop with bounds takes other steps in other programs: the ranks that its bounds mention are enumerated, tile by
tile, and everything else stays a product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import sympy

from ..ir import symbols


@dataclass(frozen=True)
class Bounds:
    """A loop over `rank` from `lower` to `upper`, index expressions as `tile.for` has them."""

    rank: str
    lower: sympy.Expr
    upper: sympy.Expr

    @cached_property
    def names(self) -> frozenset[str]:
        """The sizes, parameters and ranks that are mentioned."""
        return frozenset(symbols.names(self.lower) | symbols.names(self.upper))


@dataclass(frozen=True, eq=False)
class Points:
    """The points of some ranks at which a checked access stays inside its buffer: `inside` has a dimension a rank."""

    ranks: tuple[str, ...]
    inside: np.ndarray


@dataclass(frozen=True)
class Trips:
    """The walk of one kernel with its parameters bound.

    grid: the grid and unit ranks.  extent, size: of each rank and of its tile (1 for a unit rank).  known: values of
    sizes and parameters.  ahead: of a kernel whose programs have shares of steps, `Share.ahead` and its value for each tile
    of the grid.
    """

    grid: tuple[str, ...]
    extent: Mapping[str, int]
    size: Mapping[str, int]
    known: Mapping[str, int]
    ahead: tuple[str, np.ndarray] | None = None
    sums: dict[tuple, int] = field(default_factory=dict)  # of `by_tile`, of walks of one kernel with any parameters

    def total(
        self,
        ranks: Sequence[str],
        loops: Sequence[str],
        bounds: Sequence[Bounds],
        points: Sequence[Points] = (),
    ) -> int:
        """Elements of the tiles over `ranks` in all programs and all steps of `loops`, outermost first; with no ranks,
        the number of those steps.  bounds: of those of the loops that have some.  points: what counts of some ranks."""
        return self._sum(ranks, loops, bounds, points) * self._factor(ranks, loops, bounds, points)

    def _sum(
        self, ranks: Sequence[str], loops: Sequence[str], bounds: Sequence[Bounds], points: Sequence[Points]
    ) -> int:
        """The sum of `by_tile`, which most bindings of parameters have in common with others."""
        if self.ahead is not None:
            return int(self.by_tile(ranks, loops, bounds, points).sum())
        axes = self.axes(loops, bounds)
        mentioned = sorted({n for b in bounds for n in b.names if n not in axes})
        sizes = [self.size[r] for r in (*axes, *(b.rank for b in bounds))]
        values = [self.known.get(n) for n in mentioned]
        key = (tuple(ranks), tuple(loops), tuple(bounds), tuple(map(id, points)), *sizes, *values)
        if key not in self.sums:
            self.sums[key] = int(self.by_tile(ranks, loops, bounds, points).sum())
        return self.sums[key]

    def by_tile(
        self,
        ranks: Sequence[str],
        loops: Sequence[str],
        bounds: Sequence[Bounds],
        points: Sequence[Points] = (),
    ) -> np.ndarray:
        """The part of `total` that differs, for each tile of the ranks that the bounds mention (an axis each)."""
        of = {b.rank: b for b in bounds}
        axes = self.axes(loops, bounds)
        starts = {r: self._along(np.arange(self._trips(r)) * self.size[r], n, len(axes)) for n, r in enumerate(axes)}
        table = {**self.known, **starts}
        if self.ahead is not None and set(self.grid) <= set(axes):
            name, values = self.ahead
            shape = [self._trips(r) if r in self.grid[:-1] else 1 for r in axes]
            table[name] = values.reshape(shape)  # axes are in the order of the grid
        counts = np.ones([self._trips(r) for r in axes], np.int64)
        spans: dict[str, tuple[Any, Any]] = {}
        single = set(ranks) - {r for p in points for r in p.ranks}
        for r, start in starts.items():
            if r in of:
                counts = counts * ((start >= evaluated(of[r].lower, table)) & (start < evaluated(of[r].upper, table)))
            if r in single:
                counts = counts * np.clip(self.extent[r] - start, 0, self.size[r])
        for r, b in of.items():
            if r in starts:
                continue
            lower, upper = evaluated(b.lower, table), evaluated(b.upper, table)
            steps = np.maximum(0, -((lower - upper) // self.size[r]))
            first, last = (np.clip(e, 0, self.extent[r]) for e in (lower, lower + steps * self.size[r]))
            spans[r] = first, last
            if r in single:
                counts = counts * (last - first)
            elif r not in ranks:
                counts = counts * steps
        for p in points:
            counts = counts * self._inside(p, axes, spans)
        return counts

    def axes(self, loops: Sequence[str], bounds: Sequence[Bounds]) -> list[str]:
        """The grid ranks and loops that the bounds mention."""
        mentioned = {n for b in bounds for n in b.names}
        if self.ahead is not None and self.ahead[0] in mentioned:
            mentioned |= set(self.grid)
        return [r for r in (*self.grid, *loops) if r in mentioned]

    def _factor(
        self, ranks: Sequence[str], loops: Sequence[str], bounds: Sequence[Bounds], points: Sequence[Points]
    ) -> int:
        """The product over the ranks that no bounds have to do with."""
        apart = {*self.axes(loops, bounds), *(b.rank for b in bounds)}
        counted = {r for p in points for r in p.ranks}
        walked = math.prod(self._trips(r) for r in (*self.grid, *loops) if r not in apart and r not in ranks)
        return walked * math.prod(self.extent[r] for r in ranks if r not in apart and r not in counted)

    def _inside(self, points: Points, axes: Sequence[str], spans: Mapping[str, tuple[Any, Any]]) -> np.ndarray:
        """How many of the points each tile of `axes` has, in the spans of the loops."""
        counts: np.ndarray = points.inside.astype(np.int64)
        ahead = [r for r in axes if r in points.ranks]
        walked = [r for r in points.ranks if r in spans]
        for n, r in enumerate(points.ranks):
            if r in ahead:
                counts = np.add.reduceat(counts, np.arange(self._trips(r)) * self.size[r], n)
            elif r in walked:  # sums over everything before an element
                width = [(1, 0) if m == n else (0, 0) for m in range(counts.ndim)]
                counts = np.pad(counts.cumsum(n), width)
            else:
                counts = counts.sum(n, keepdims=True)
        order = [points.ranks.index(r) for r in (*ahead, *walked)]
        counts = counts.transpose([*order, *(n for n in range(counts.ndim) if n not in order)])
        shape = [self._trips(r) if r in ahead else 1 for r in axes]
        counts = counts.reshape([*shape, *counts.shape[len(ahead) : len(order)]])
        for r in walked:
            first, last = (
                np.asarray(s).reshape(
                    *([1] * (len(axes) - np.ndim(s))), *np.shape(s), *([1] * (counts.ndim - len(axes)))
                )
                for s in spans[r]
            )
            at = len(axes)
            counts = (_take(counts, last, at) - _take(counts, first, at)).squeeze(at)
        return counts

    def _trips(self, rank: str) -> int:
        return -(-self.extent[rank] // self.size[rank]) if self.size[rank] else 0

    @staticmethod
    def _along(values: np.ndarray, axis: int, of: int) -> np.ndarray:
        return values.reshape([-1 if n == axis else 1 for n in range(of)])


def _take(values: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """The elements of `values` at positions `at` along one axis, broadcast over the others."""
    shape = np.broadcast_shapes(values.shape[:axis], at.shape[:axis])
    spread = np.broadcast_to(values, (*shape, *values.shape[axis:]))
    return np.take_along_axis(spread, np.broadcast_to(at, (*shape, *at.shape[axis:])), axis)


def evaluated(e: sympy.Expr, table: Mapping[str, Any]) -> Any:
    """The value of an index expression, with arrays for some of its symbols: they broadcast."""
    return _compiled(e)(table)


@lru_cache(maxsize=4096)
def _compiled(e: sympy.Expr) -> Callable[[Mapping[str, Any]], Any]:
    """An index expression as a function of the values of its symbols: integers, or arrays that broadcast."""
    if e.is_Integer:
        number = int(e)
        return lambda table: number
    if isinstance(e, sympy.Symbol):
        name = e.name
        return lambda table: table[name]
    if isinstance(e, sympy.floor | sympy.ceiling):
        top, bottom = (_compiled(part) for part in symbols.fraction(e))
        if isinstance(e, sympy.floor):
            return lambda table: top(table) // bottom(table)
        return lambda table: -(-top(table) // bottom(table))
    functions: dict[type, Callable] = {
        sympy.Add: np.add,
        sympy.Mul: np.multiply,
        sympy.Pow: np.power,
        sympy.Mod: np.mod,
        sympy.Min: np.minimum,
        sympy.Max: np.maximum,
    }
    for kind, function in functions.items():
        if isinstance(e, kind):
            first, *rest = (_compiled(cast(sympy.Expr, a)) for a in e.args)

            def fold(table: Mapping[str, Any], function=function, first=first, rest=rest) -> Any:
                value = first(table)
                for other in rest:
                    value = function(value, other(table))
                return value

            return fold
    raise ValueError(f"{e} is not an index expression")
