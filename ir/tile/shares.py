"""Shares of equal work: the steps of all tiles of a kernel, one after the other, cut into runs of equal length.

    tile            0               1         2                     (tile 1 has fewer steps, as indices leave them)
    steps           . . . . . . .   . . . .   . . . . . . .
    share, each 5   0 0 0 0 0 1 1   1 1 1 2   2 2 2 2 3 3 3
    piece           0 0 0 0 0 1 1   0 0 0 1   0 0 0 0 1 1 1
    ahead           0               2         1                     what others have had of the tile's first share

A program has one share: it may begin in the middle of a tile, go through whole ones, and end in another.  `piece` p of a tile
begins at step `p * each - ahead`, and is a rank of the grid, the last one: a kernel is still one program for each tile and
piece, of which a share runs several, one after the other.  Pieces beyond a tile's last step have no steps; the share that
ends the tile runs them too, so that everything is written once.  Tiles are cut at other places each, so that what
is stored has all ranks of the grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import sympy
from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from .. import symbols
from .types import TileRanks


@irdl_attr_definition
class Share(Data[tuple[str, str, sympy.Expr]]):
    """`#tile.share<p each SHARE_J of max(1, (i + BI) ceildiv BJ)>`.

    That is the rank of the pieces, the parameter that says how many steps a share has, and the steps of a tile: at least
    one, over the first indices of grid ranks, parameters and sizes.
    """

    name = "tile.share"

    @property
    def part(self) -> str:
        return self.data[0]

    @property
    def each(self) -> str:
        return self.data[1]

    @property
    def steps(self) -> sympy.Expr:
        return self.data[2]

    @property
    def ahead(self) -> str:
        """The name that bounds of loops have for how many steps of a tile's first share are other tiles'."""
        return ahead(self.part)

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[str, str, sympy.Expr]:
        with parser.in_angle_brackets():
            return cls.parse_bare(parser).data

    @classmethod
    def parse_bare(cls, parser: AttrParser) -> Share:
        part = parser.parse_identifier(" for the rank of the pieces")
        parser.parse_keyword("each")
        each = parser.parse_identifier(" for a parameter")
        parser.parse_keyword("of")
        return cls((part, each, symbols.parse(parser)))

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(self.text())

    def text(self) -> str:
        return f"{self.part} each {self.each} of {symbols.to_text(self.steps)}"


def ahead(part: str) -> str:
    """`Share.ahead` for pieces of a rank."""
    return f"ahead_{part}"


@dataclass(frozen=True)
class Shares:
    """The shares of a kernel when everything has a number.

    uneven: how many of the last grid ranks it takes to know a tile's steps.  row: the steps of each tile along those, which
    come again for each index of the ranks before.  tiles: of the grid, without pieces.  each: steps of a share.
    """

    uneven: int
    row: tuple[int, ...]
    tiles: int
    each: int

    @staticmethod
    def of(share: Share, ranks: TileRanks, grid: Sequence[str], known: Mapping[str, int]) -> Shares:
        """known: parameters and sizes.  Raises KeyError with the name of a size that is not known."""
        names = [r for r in grid if r != share.part]
        mentioned = symbols.names(share.steps)
        first = next((n for n, r in enumerate(names) if r in mentioned), len(names))
        extents = [symbols.evaluate(ranks[r].extent, known) for r in names]
        sizes = [known[tile] if (tile := ranks[r].tile) else 1 for r in names]
        text = compile(str(symbols.to_python(share.steps)), "<steps>", "eval")
        table: dict = {"__builtins__": {"min": min, "max": max}, **known}
        row = []
        walked = [range(0, e, s) for e, s in zip(extents[first:], sizes[first:], strict=True)]
        try:
            for at in itertools.product(*walked):
                row.append(int(eval(text, table, dict(zip(names[first:], at, strict=True)))))
        except NameError as unknown:
            raise KeyError(unknown.name) from None
        tiles = math.prod(-(-e // s) for e, s in zip(extents, sizes, strict=True))
        return Shares(len(names) - first, tuple(row), tiles, known[share.each])

    @cached_property
    def _begins(self) -> tuple[int, ...]:
        return tuple(accumulate(self.row, initial=0))

    @property
    def steps(self) -> int:
        """Of all tiles."""
        return self._begins[-1] * (self.tiles // max(1, len(self.row)))

    @property
    def programs(self) -> int:
        return -(-self.steps // self.each)

    def before(self, tile: int) -> int:
        """The steps of the tiles before one."""
        turn, at = divmod(tile, len(self.row))
        return turn * self._begins[-1] + self._begins[at]

    def ahead(self, tile: int) -> int:
        """Steps of the share in which a tile begins that are other tiles'."""
        return self.before(tile) % self.each

    def pieces(self, tile: int) -> int:
        """Into how many pieces a tile is cut."""
        return -(-(self.ahead(tile) + self.row[tile % len(self.row)]) // self.each)

    @cached_property
    def most_pieces(self) -> int:
        """Of any tile."""
        return max(map(self.pieces, range(self.tiles)), default=0)


__all__ = ["Share", "Shares", "ahead"]
