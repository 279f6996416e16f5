"""What a cost model needs to know of equal shares of steps (`ir/tile/shares.py`): where tiles begin, who runs which piece."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..ir import tile


def shares_of(kernel: tile.KernelOp, known: Mapping[str, int]) -> tile.Shares:
    """The shares of a kernel that has some.  known: parameters and sizes."""
    assert kernel.share is not None
    return tile.Shares.of(kernel.share, kernel.ranks, kernel.grid_ranks, known)


def ahead_of(shares: tile.Shares, kernel: tile.KernelOp) -> tuple[str, np.ndarray]:
    """The name of what bounds of loops subtract, and its value for each tile of the grid."""
    assert kernel.share is not None
    return kernel.share.ahead, begins(shares) % shares.each


def begins(shares: tile.Shares) -> np.ndarray:
    """The step, of those of all tiles, at which each tile begins."""
    row = np.array(shares.row, np.int64)
    turns = np.arange(shares.tiles // max(1, len(row)), dtype=np.int64) * row.sum()
    return np.add.outer(turns, row.cumsum() - row).ravel()


def programs_of(shares: tile.Shares, pieces: int) -> np.ndarray:
    """The program that runs each piece of each tile: [tiles, pieces]."""
    first = begins(shares)
    last = first + np.tile(np.array(shares.row, np.int64), shares.tiles // max(1, len(shares.row))) - 1
    number = (first // shares.each)[:, None] + np.arange(pieces)
    return np.minimum(number, (last // shares.each)[:, None])


def most_pieces(shares: tile.Shares) -> int:
    """Of any tile."""
    row = np.tile(np.array(shares.row, np.int64), shares.tiles // max(1, len(shares.row)))
    return int((-(-(begins(shares) % shares.each + row) // shares.each)).max(initial=0))
