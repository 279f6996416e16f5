"""Comparisons of a tile's index with 64-bit integers, as Triton has them cheapest.

    before:  start_k + lane_k == t                             an addition and a 64-bit comparison for each element
    after:   near = clamp(max(t, -1) - start_k, -1, BK) in 32 bits       once for each t
             lane_k == near                                              the lanes are constants of the instructions

The rank k is that of a loop or of the grid.

The lanes are 0 ... BK - 1, so what lies outside of that may be moved to -1 or BK: every comparison stays what it was.  The
first maximum keeps the difference from overflowing.
"""

from __future__ import annotations

from typing import Protocol

import sympy
from xdsl.dialects.builtin import i64
from xdsl.ir import BlockArgument, Operation, SSAValue

from ..ir import tile

COMPARISONS = frozenset({"ilt", "ile", "igt", "ige", "ieq", "ine"})
_KEEP = frozenset({"imaximum", "iminimum", "select"})


class Fits(Protocol):
    """Whether an index expression stays within 32 bits."""

    def __call__(self, e: sympy.Expr) -> bool: ...


def compared_only(op: tile.IndexOp, ranks: tile.TileRanks, fits: Fits) -> str | None:
    """The tiled rank whose element `op` is, if all that is done with it is to compare it with 64-bit integers without it."""
    names = tile.tile_type(op.result).names
    if len(names) != 1 or not isinstance(op.expr, sympy.Symbol) or op.expr.name != names[0] or not fits(op.expr):
        return None
    (rank,) = names
    if ranks[rank].role not in ("loop", "grid") or not op.result.first_use:
        return None
    for use in op.result.uses:
        user = use.operation
        if not isinstance(user, tile.MapOp) or user.function.data not in COMPARISONS:
            return None
        other = user.operands[1 - use.index]
        if rank in tile.tile_type(other).names or not _held_in_64_bits(other, fits):
            return None
    return rank


def _held_in_64_bits(value: SSAValue, fits: Fits) -> bool:
    """Whether an integer comes from memory, or from arithmetic on what does, rather than from ranks."""
    kind = tile.tile_type(value).element_type
    if kind != i64:
        return False
    if isinstance(value, BlockArgument):
        return True
    op = value.owner
    assert isinstance(op, Operation)
    match op:
        case tile.IndexOp():
            return not fits(op.expr)
        case tile.FillOp():
            return False
        case tile.MapOp() if op.function.data in _KEEP:
            return any(_held_in_64_bits(o, fits) for o in op.operands)
        case tile.MapOp():
            return any(tile.tile_type(o).element_type != i64 or _held_in_64_bits(o, fits) for o in op.operands)
        case tile.ReduceOp():
            return _held_in_64_bits(op.value, fits)
    return True
