"""The `tile` dialect: the scheduled program, one op for one printed line.

    tile.kernel @k0 [b = 8 unit, i = n grid BI, j = m loop BJ, d = 64 whole] params {BI = 128, BJ = 64}
        (%q : !tile.buffer<[8, n, 64], [n * 64, 64, 1], f16>, ...) {
      %x = tile.load %q<[b, i, d]> guard ["i"] : !tile.buffer<...> -> !tile.tile<[i, d], f16>
      ...
      tile.store %y, %o<[b, i, d]> guard ["i"] : ...
      tile.return
    }

A tile's dimensions are ranks, named; operands of different ranks broadcast by name.  A rank's role says how it is
walked:

    unit   one element a program: a scalar index, in no tile's shape
    grid   a program handles `tile` elements; ceil(extent / tile) programs
    loop   streamed: `tile.for` walks it, `tile` elements a step
    whole  every program holds the whole extent

The tile sizes are named parameters; `params` binds them.  Edges: a tile is cut at its rank's extent.  Printers that
have fixed block shapes (Triton) carry lanes beyond it: `guard` on loads and stores lists the ranks whose edge may be
ragged, and `tile.pad` says with what those lanes are to be filled before a reduction; printers that can cut (torch)
skip it.
"""

from __future__ import annotations

from xdsl.ir import Dialect

from .control import ONCE, ForOp, IfOp, KernelOp, ReturnOp, YieldOp, empty_body
from .memory import LoadOp, StoreOp
from .shares import Share, Shares, ahead
from .types import (
    LEAST_DOT,
    ROLES,
    BufferType,
    TileRank,
    TileRanks,
    TileType,
    band_width,
    number,
    python_number,
    strings,
    tile_type,
    with_role,
)
from .values import CastOp, DotOp, FillOp, IndexOp, MapOp, PadOp, PickOp, ReduceOp

__all__ = [
    "LEAST_DOT",
    "ONCE",
    "ROLES",
    "BufferType",
    "CastOp",
    "DotOp",
    "FillOp",
    "ForOp",
    "IfOp",
    "IndexOp",
    "KernelOp",
    "LoadOp",
    "MapOp",
    "PadOp",
    "PickOp",
    "ReduceOp",
    "ReturnOp",
    "Share",
    "Shares",
    "StoreOp",
    "Tile",
    "TileRank",
    "TileRanks",
    "TileType",
    "YieldOp",
    "ahead",
    "band_width",
    "empty_body",
    "number",
    "python_number",
    "strings",
    "tile_type",
    "with_role",
]

Tile = Dialect(
    "tile",
    [
        LoadOp,
        StoreOp,
        IndexOp,
        FillOp,
        MapOp,
        CastOp,
        PadOp,
        PickOp,
        DotOp,
        ReduceOp,
        YieldOp,
        ForOp,
        IfOp,
        ReturnOp,
        KernelOp,
    ],
    [TileRanks, TileType, BufferType, Share],
)
