"""How a kernel's ranks are walked: the record that scheduling decides and lowering obeys."""

from __future__ import annotations

from dataclasses import dataclass

import sympy

from ..ir import symbols
from ..ir.tile import TileRanks


@dataclass(frozen=True)
class Parts:
    """A streamed rank that is cut into parts: `part` is a grid rank whose programs walk one part each.

    count: the parameter that says how many parts there are; `part`'s extent.
    """

    rank: str
    part: str
    count: str

    def cut(self, lower: sympy.Expr, upper: sympy.Expr, extent: sympy.Expr, tile: str) -> tuple[sympy.Expr, sympy.Expr]:
        """What a loop from `lower` to `upper` walks of a part, over the part and the parameters.

        Parts have whole tiles, equally many but for the last parts.  Parts behind the last element begin where they end,
        or later: they have no elements.
        """
        length = symbols.symbol(tile) * symbols.ceildiv(extent, symbols.symbol(tile) * symbols.symbol(self.count))
        first = symbols.symbol(self.part) * length
        last = sympy.Min(upper, first + length)
        return (first if lower == 0 else sympy.Max(lower, first)), last


@dataclass(frozen=True)
class Walk:
    """Roles of all ranks, the grid order (outermost first), and the binding of the tile parameters.

    low_precision_dots: multiply 16-bit operands as they are (tensor cores), accumulating in fp32; otherwise widen first.
    parts: the streamed rank that is cut into parts, if one is.
    """

    table: TileRanks
    grid: tuple[str, ...]
    params: dict[str, int]
    low_precision_dots: bool = True
    parts: Parts | None = None

    def loop_bounds(self, rank: str) -> tuple[sympy.Expr, sympy.Expr]:
        """Where a program's loop over a rank begins and ends."""
        of = self.table[rank]
        if self.parts is not None and self.parts.rank == rank and of.tile is not None:
            return self.parts.cut(sympy.Integer(0), of.extent, of.extent, of.tile)
        return sympy.Integer(0), of.extent
