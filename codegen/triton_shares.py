"""The loop of a program that has a share of the steps of all tiles (`ir/tile/shares.py`), in a printed Triton function.

    share = tl.program_id(0)
    nth = tl.arange(0, 64)                                      the tiles of a row, which is repeated
    steps = tl.where(nth < 60, (nth * BI + BI + BJ - 1) // BJ, 0)
    ends = tl.cumsum(steps, 0)
    first = ...                                                 the pieces of tiles that are this share's
    last = ...
    for pid in tl.range(first, last):
        ahead_p = ...

Where all tiles have equally many steps there is no row, only numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import tile
from .text import NotPrintable, index_text, tiles_of
from .triton_functions import SPELLING
from .triton_indices import NARROW, Indices

LONGEST_ROW = 4096  # tiles whose steps a program counts to find its own


@dataclass(frozen=True)
class ShareLoop:
    """Lines in front of the loop over pieces (its header is the last of them), and at the beginning of its body."""

    outside: list[str]
    inside: list[str]
    programs: int


def share_loop(printer: Indices, share: tile.Share) -> ShareLoop:
    """Raises NotPrintable where sizes are not known, or a row of tiles is too long."""
    kernel = printer.kernel
    try:
        shares = tile.Shares.of(share, kernel.ranks, kernel.grid_ranks, kernel.parameters)
    except KeyError as unknown:
        raise NotPrintable(f"equal shares of steps for a size that is not known, {unknown.args[0]}") from None
    pieces = int(kernel.ranks[share.part].extent)
    if shares.steps + shares.each >= NARROW or shares.tiles * pieces >= NARROW or printer.wide:
        raise NotPrintable("equal shares of more steps than 32 bits count")
    if shares.most_pieces > pieces:
        raise NotPrintable(f"a tile is cut into {shares.most_pieces} pieces, and {share.part} has {pieces}")
    uneven = len(set(shares.row)) > 1
    row = _Row(printer, share, shares) if uneven else None
    tiles, steps = (len(shares.row), sum(shares.row)) if uneven else (1, shares.row[0])
    each, fresh = share.each, printer.names.fresh

    def piece(at: str, number: str) -> list[str]:
        """Lines, the last of them an expression: the piece in which step `at` is, where share `number` begins or goes on."""
        turn = f"{at} // {steps}"
        if row is None:
            return [f"{turn} * {pieces} + {number} - {turn} * {steps} // {each}"]
        done = fresh("done")
        before = f"({turn} * {steps} + {row.sum(done)}) // {each}"
        tile_ = f"({turn} * {tiles} + tl.sum({done}.to(tl.int32), 0))"
        return [f"{done} = {row.ends} <= {at} % {steps}", f"{tile_} * {pieces} + {number} - {before}"]

    number, begun, first, ended, last = (fresh(n) for n in ("share", "begun", "first", "ended", "last"))
    *found, text = piece(begun, number)
    outside = [
        f"{number} = tl.program_id(0)",
        *(row.lines if row is not None else []),
        f"{begun} = {number} * {each}",
        *found,
        f"{first} = {text}",
        f"{ended} = tl.minimum({begun} + {each}, {shares.steps})",
    ]
    *found, text = piece(ended, f"{number} + 1")
    outside += [*found, f"{last} = tl.minimum({text}, {shares.tiles * pieces})"]
    outside.append(f"for pid in tl.range({first}, {last}):")
    at = f"pid // {pieces}" if pieces != 1 else "pid"
    before = f"{at} * {steps}" if row is None else f"({at} // {tiles} * {steps} + {row.before(f'{at} % {tiles}')})"
    return ShareLoop(outside, [f"{share.ahead} = {before} % {each}"], shares.programs)


class _Row:
    """The steps of the tiles of a row, and where each tile ends."""

    def __init__(self, printer: Indices, share: tile.Share, shares: tile.Shares):
        if len(shares.row) > LONGEST_ROW:
            raise NotPrintable(f"the steps of {len(shares.row)} tiles differ: too many for equal shares")
        self.nth, self.steps, self.ends = (printer.names.fresh(n) for n in ("nth", "steps", "ends"))
        table, stride = {}, 1
        for name in reversed(printer.kernel.grid_ranks[-1 - shares.uneven : -1]):
            rank = printer.ranks[name]
            count = int(tiles_of(printer.kernel, rank))
            at = self.nth if stride == 1 else f"{self.nth} // {stride}"
            if stride * count < len(shares.row):
                at = f"{at} % {count}"
            table[name] = f"({at} * {rank.tile})" if rank.tile else f"({at})"
            stride *= count
        text = index_text(share.steps, lambda n: table.get(n, n), SPELLING)
        if "floordiv(" in text:
            printer.helpers.add("floordiv")
        self.lines = [
            f"{self.nth} = tl.arange(0, {1 << (len(shares.row) - 1).bit_length()})",
            f"{self.steps} = tl.where({self.nth} < {len(shares.row)}, {text}, 0)",
            f"{self.ends} = tl.cumsum({self.steps}, 0)",
        ]

    def sum(self, where: str) -> str:
        return f"tl.sum(tl.where({where}, {self.steps}, 0), 0)"

    def before(self, tile_: str) -> str:
        """The steps of the tiles before one of the row."""
        return self.sum(f"{self.nth} < {tile_}")
