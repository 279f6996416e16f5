"""How a kernel's ranks are walked: the record that scheduling decides and lowering obeys."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import sympy

from ..ir import symbols
from ..ir.launch import Given
from ..ir.tile import Share, TileRanks, ahead
from .closed_tiles import NEVER
from .index_predicates import TRUE, Predicate, Range, Segment, segments


@dataclass(frozen=True)
class Parts:
    """A streamed rank that is cut into parts: `part` is a grid rank whose programs walk one part each.

    count: the parameter that says how many parts there are; `part`'s extent.
    """

    rank: str
    part: str
    count: str

    def cut(self, found: Sequence[Segment], tile: str) -> list[Segment]:
        """What loops over `found`, one after the other, walk of a part, over the part and the parameters.

        It is what is visited that is cut, not the whole rank: where a mask of indices leaves few tiles, each part has its
        share of them.  Parts have whole tiles, equally many but for the last parts.  Parts behind the last element begin
        where they end, or later: they have no elements.
        """
        begin, end = found[0].lower, found[-1].upper
        step = symbols.symbol(tile)
        length = step * symbols.ceildiv(end - begin, step * symbols.symbol(self.count))
        first = begin + symbols.symbol(self.part) * length
        return [
            replace(
                s,
                lower=first if s.lower == begin else sympy.Max(s.lower, first),
                upper=sympy.Min(s.upper, first + length),
            )
            for s in found
        ]


@dataclass(frozen=True)
class Shares(Parts):
    """A streamed rank that is cut where shares of equally many steps end (`ir/tile/shares.py`): parts are pieces of a tile.

    each: the parameter that says how many steps a share has.
    """

    each: str = ""

    def cut(self, found: Sequence[Segment], tile: str) -> list[Segment]:
        """What loops over `found` walk of a piece."""
        begin, step, each = found[0].lower, symbols.symbol(tile), symbols.symbol(self.each)
        first = symbols.symbol(self.part) * each - symbols.symbol(ahead(self.part))
        return [
            replace(
                s,
                lower=sympy.Max(s.lower, begin + step * first),
                upper=sympy.Min(s.upper, begin + step * (first + each)),
            )
            for s in found
        ]

    def share(self, found: Sequence[Segment], tile: str) -> Share:
        """With the steps of a tile, over the first indices of grid ranks: what lies between the ends of loops over `found`."""
        length = sympy.expand(found[-1].upper - found[0].lower)
        return Share((self.part, self.each, sympy.Max(1, symbols.ceildiv(length, symbols.symbol(tile)))))


@dataclass(frozen=True)
class Within:
    """A rank whose loops keep within bounds that are loaded (`data_bounds.py`).

    first: which argument of the kernel holds the first index of each row, one past the last is in the next.  rows: the
    ranks of both.  asked: what holds of some element there, as text.
    """

    rank: str
    first: int
    rows: tuple[str, ...]
    asked: str


@dataclass(frozen=True)
class Pinned:
    """A walk that is not to be chosen.  roles: of each rank.  values: of its parameters, those that are not to be chosen."""

    roles: tuple[tuple[str, str], ...]
    values: tuple[tuple[str, int], ...] = ()

    def narrow(self, choices: Mapping[str, Sequence[int]]) -> dict[str, list[int]] | None:
        """The choices of parameters that are left; None where a value is none of them."""
        values = dict(self.values)
        if any(n in values and values[n] not in found for n, found in choices.items()):
            return None
        return {n: [values[n]] if n in values else list(found) for n, found in choices.items()}


@dataclass(frozen=True)
class LoopOptions:
    """What a user may choose of loops, and of launches.

    skip: ask data whether a tile is closed before it is loaded (`closed_tiles.py`): "by_cost" where there is a boolean
    to ask and asking is predicted to cost next to nothing, "always" wherever there is something to ask, "never".
    "bounds": find where data leaves something open ahead of the kernel, which walks no further (`data_bounds.py`).
    lazy: move a running gauge, and the state with it, only when it is exceeded by more than it may lag.
    launch: launch parameters that are given (`ir/launch.py`); warps and stages are chosen by price where they are not.
    pinned: the walk, and parameters of it, where a tuner has chosen them; of a kernel with others around it, its own.
    """

    skip: str = "by_cost"
    lazy: bool = False
    launch: Given = ()
    pinned: Pinned | None = None


@dataclass(frozen=True)
class Walk:
    """Roles of all ranks, the grid order (outermost first), and the binding of the tile parameters.

    full_tiles: where a mask of indices leaves tiles without anything masked, walk those in a loop without the mask.
    vector_dots: products of a matrix and a vector are dots as well.
    low_precision_dots: multiply 16-bit operands as they are (tensor cores), accumulating in fp32; otherwise widen first.
    parts: the streamed rank that is cut into parts, if one is.  Unit ranks that are not in the grid are walked by loops.
    skip: what is asked of data before a step is taken (`closed_tiles.py`): nothing, booleans, or additive masks as well.
    lazy: as in `LoopOptions`, for the forms that say by how much their gauge may lag.
    within: the rank whose bounds are loaded, if one's are.
    """

    table: TileRanks
    grid: tuple[str, ...]
    params: dict[str, int]
    low_precision_dots: bool = True
    parts: Parts | None = None
    full_tiles: bool = True
    vector_dots: bool = False
    skip: str = NEVER
    lazy: bool = False
    within: Within | None = None

    def loops(self, rank: str) -> bool:
        """Whether a rank is walked by loops."""
        role = self.table[rank].role
        return role == "loop" or (role == "unit" and rank not in self.grid)

    def segments(self, rank: str, visited: Predicate, around: Collection[str]) -> list[Segment]:
        """The loops over `rank`, inside of those over `around`, one after the other: what is visited of it, or of a part."""
        found = self._segments(rank, visited, around)
        of = self.table[rank]
        if self.parts is None or self.parts.rank != rank or of.tile is None:
            return found
        return self.parts.cut(found, of.tile)

    def share(self, rank: str, visited: Predicate, around: Collection[str]) -> Share | None:
        """The shares of which the loops over `rank` walk the pieces, if they do."""
        of = self.table[rank]
        if not isinstance(self.parts, Shares) or self.parts.rank != rank or of.tile is None:
            return None
        return self.parts.share(self._segments(rank, visited, around), of.tile)

    def _segments(self, rank: str, visited: Predicate, around: Collection[str]) -> list[Segment]:
        extent = self.table[rank].extent
        if visited == TRUE:
            return [Segment(sympy.Integer(0), extent, False)]
        reach: dict[str, Range] = {}
        for r in self.table.data:
            first = symbols.symbol(r.name)
            if r.role == "unit" and (r.name in self.grid or r.name in around):
                reach[r.name] = first, first
            elif r.role == "grid" or r.name in around:
                reach[r.name] = first, first + symbols.symbol(r.tile or "") - 1
            else:
                reach[r.name] = sympy.Integer(0), r.extent - 1
        return segments(visited, rank, extent, symbols.symbol(self.table[rank].tile or ""), reach, self.full_tiles)
