"""How a kernel's ranks are walked: the record that scheduling decides and lowering obeys."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sympy

from ..ir import symbols
from ..ir.tile import TileRanks
from .index_predicates import TRUE, Predicate, Range, Segment, segments


@dataclass(frozen=True)
class Walk:
    """Roles of all ranks, the grid order (outermost first), and the binding of the tile parameters.

    full_tiles: where a mask of indices leaves tiles without anything masked, walk those in a loop without the mask.
    low_precision_dots: multiply 16-bit operands as they are (tensor cores), accumulating in fp32; otherwise widen first.
    """

    table: TileRanks
    grid: tuple[str, ...]
    params: dict[str, int]
    low_precision_dots: bool = True
    full_tiles: bool = True

    def segments(self, rank: str, visited: Predicate, around: Collection[str]) -> list[Segment]:
        """The loops over `rank`, one after the other, inside of those over `around`: all of it that is visited."""
        extent = self.table[rank].extent
        if visited == TRUE:
            return [Segment(sympy.Integer(0), extent, False)]
        reach: dict[str, Range] = {}
        for r in self.table.data:
            first = symbols.symbol(r.name)
            if r.role == "unit":
                reach[r.name] = first, first
            elif r.role == "grid" or r.name in around:
                reach[r.name] = first, first + symbols.symbol(r.tile or "") - 1
            else:
                reach[r.name] = sympy.Integer(0), r.extent - 1
        return segments(visited, rank, extent, symbols.symbol(self.table[rank].tile or ""), reach, self.full_tiles)
