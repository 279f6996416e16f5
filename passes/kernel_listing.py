"""The operations of a tile kernel, each reduced to what counting its work needs (`census.py`, `held_tiles.py`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import sympy
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from ..errors import InternalCompilerError
from ..ir import symbols, tile
from ..ir.attributes import element_bits
from .rate_classes import TRANSCENDENTAL, dot_dtype
from .trips import Bounds, Points, evaluated


@dataclass(frozen=True)
class Entry:
    """One operation of a kernel, reduced to what counting needs."""

    function: str  # of a map or reduction
    kind: str  # "load", "store", "map", "special", "fill", "reduce", "dot", "carry"
    ranks: tuple[str, ...]  # of the result (map), operand (reduce), both operands (dot), or access (load, store)
    swept: tuple[tuple[str, ...], ...]  # ranks of every tile that is read or written
    loops: tuple[str, ...]
    width: int = 4
    dtype: str = "f32"
    buffer: str = ""
    points: int = 0  # of a transfer: elements touched by one full walk over its ranks
    distinct: int = 0
    rows: tuple[str, ...] = ()  # of a dot
    columns: tuple[str, ...] = ()
    over: str = ""
    batch: tuple[str, ...] = ()
    in_place: bool = False  # of a dot: into a tile that is carried anyway
    access: tuple[sympy.Expr, ...] = ()  # of a transfer
    bounds: tuple[Bounds, ...] = ()  # of the loops around that do not walk all of their rank
    inside: tuple[Points, ...] = ()  # of a checked load in such a loop
    continues: bool = False  # in a loop that goes on where another one over its rank has stopped
    skippable: bool = False  # in a conditional: counted as if its condition always held
    together: int = 16  # bytes that a thread loads at once: rows may begin where more cannot be
    narrowed: bool = False  # in a loop within loaded bounds: counted as if those were all of the rank
    made: tuple[tuple[tuple[str, ...], bool], ...] = ()  # of a dot in a loop: the operands that are computed there


class Listing:
    """A kernel's operations in the order in which they stand, and the ranks that they are over."""

    def __init__(self, kernel: tile.KernelOp, sizes: Mapping[str, int]):
        """sizes: of symbolic extents."""
        self.sizes = sizes
        self.ranks = kernel.ranks.data
        self.extent = {r.name: symbols.evaluate(r.extent, sizes) for r in self.ranks}
        self.grid = kernel.grid_ranks
        self.bands = {r.name: r.of for r in self.ranks if r.of is not None}
        self.all_of = {r.name: Bounds(r.name, sympy.Integer(0), r.extent) for r in self.ranks}
        self.names: dict[SSAValue, str] = {a: a.name_hint or f"arg{n}" for n, a in enumerate(kernel.arguments)}
        self.entries: list[Entry] = []
        self._block(kernel.body.block, ())
        self.transfers = [e for e in self.entries if e.kind in ("load", "store")]
        nests = {e.loops for e in self.entries}
        self.innermost = {at for at in nests if at and not any(o[: len(at)] == at for o in nests - {at})}

    def _block(self, block: Block, loops: tuple[str, ...]) -> None:
        stopped: dict[str, sympy.Expr] = {}  # where the last loop over a rank has
        for op in block.ops:
            first = len(self.entries)
            self._operation(op, loops)
            if isinstance(op, tile.ForOp):
                self._bounded(op, first, stopped)

    def _bounded(self, op: tile.ForOp, first: int, stopped: dict[str, sympy.Expr]) -> None:
        """Note on the entries of a loop, from the first, what its bounds are, and which loop it continues."""
        rank = op.rank.data
        bounds = Bounds(rank, *op.bounds)
        continues = stopped.get(rank) == bounds.lower
        stopped[rank] = bounds.upper
        if continues:
            self.entries[first:] = [replace(e, continues=True) for e in self.entries[first:]]
        if op.within:
            self.entries[first:] = [replace(e, narrowed=True) for e in self.entries[first:]]
        if bounds != self.all_of[rank]:
            self.entries[first:] = [replace(e, bounds=(bounds, *e.bounds)) for e in self.entries[first:]]

    def _operation(self, op: Operation, loops: tuple[str, ...]) -> None:
        add = self.entries.append
        swept = tuple(tile.tile_type(v).names for v in [*op.operands, *op.results] if isinstance(v.type, tile.TileType))
        match op:
            case tile.LoadOp() | tile.StoreOp():
                add(self._transfer(op, swept, loops))
            case tile.MapOp():
                kind = "special" if op.function.data in TRANSCENDENTAL else "map"
                add(Entry(op.function.data, kind, tile.tile_type(op.result).names, swept, loops))
            case tile.CastOp():
                add(Entry("cast", "map", tile.tile_type(op.result).names, swept, loops))
            case tile.PickOp():
                add(Entry("pick", "map", tile.tile_type(op.result).names, swept, loops))
            case tile.PadOp() | tile.IndexOp() | tile.FillOp():
                add(Entry("fill", "fill", tile.tile_type(op.results[0]).names, swept, loops))
            case tile.ReduceOp():
                add(
                    Entry(
                        op.combiner.data if "arg" in op.combiner.data else "reduce",
                        "reduce",
                        tile.tile_type(op.value).names,
                        swept,
                        loops,
                    )
                )
            case tile.DotOp():
                lhs, rhs, over = tile.tile_type(op.lhs), tile.tile_type(op.rhs), op.over.data
                shared = {over, *op.batch}
                add(
                    Entry(
                        "dot",
                        "dot",
                        tuple(dict.fromkeys([*lhs.names, *rhs.names])),
                        swept,
                        loops,
                        dtype=dot_dtype(lhs.element_type),
                        rows=tuple(r for r in lhs.names if r not in shared),
                        columns=tuple(r for r in rhs.names if r not in shared),
                        over=over,
                        batch=tuple(op.batch),
                        in_place=op.acc is not None,
                        made=_made(op) if loops else (),
                    )
                )
            case tile.ForOp():
                for arg, first in zip(op.body.block.args, op.init, strict=True):
                    if loops and isinstance(first, BlockArgument) and first.block is op.parent_block():
                        continue  # it goes on from what the loop around carries: one tile
                    add(Entry("carry", "carry", tile.tile_type(arg).names, (), (*loops, op.rank.data)))
                self._block(op.body.block, (*loops, op.rank.data))
            case tile.IfOp():
                add(Entry(op.quantifier.data, "reduce", tile.tile_type(op.condition).names, swept[:1], loops))
                first = len(self.entries)
                self._block(op.body.block, loops)
                self.entries[first:] = [replace(e, skippable=True) for e in self.entries[first:]]
            case tile.YieldOp() | tile.ReturnOp():
                pass
            case _:
                raise InternalCompilerError(f"the cost model has no rule for {op.name}", stage="schedule")

    def _transfer(self, op: tile.LoadOp | tile.StoreOp, swept, loops: tuple[str, ...]) -> Entry:
        kind = op.buffer.type
        assert isinstance(kind, tile.BufferType)
        width = element_bits(kind.element_type) // 8
        read = tuple(r for r in op.access.ranks if r in self.extent)
        points = math.prod(self.extent[r] for r in read)
        inside: tuple[Points, ...] = ()
        if isinstance(op, tile.LoadOp) and op.checked is not None:
            inside = self._valid_points(op, list(read))
            apart = set(read) - {r for p in inside for r in p.ranks}
            points = math.prod(int(p.inside.sum()) for p in inside) * math.prod(self.extent[r] for r in apart)
        distinct = min(points, math.prod(symbols.evaluate(d, self.sizes) for d in kind.shape.data))
        word = "load" if isinstance(op, tile.LoadOp) else "store"
        return Entry(
            word, word, read, swept, loops, width, "", self.names[op.buffer], points, distinct,
            access=op.access.data, inside=inside, together=_bytes_at_once(kind, width),
        )  # fmt: skip

    def _valid_points(self, op: tile.LoadOp, ranks: list[str]) -> tuple[Points, ...]:
        """Points whose access stays in bounds: groups of dimensions that share no rank are counted apart."""
        dims = [symbols.evaluate(d, self.sizes) for d in op.buffer.type.shape.data]  # pyright: ignore
        groups: list[tuple[set[str], list[tuple[sympy.Expr, int]]]] = []
        for e, dim in zip(op.access.data, dims, strict=True):
            merged: tuple[set[str], list] = ({r for r in ranks if symbols.symbol(r) in e.free_symbols}, [(e, dim)])
            for g in [g for g in groups if g[0] & merged[0]]:
                groups.remove(g)
                merged = (merged[0] | g[0], merged[1] + g[1])
            groups.append(merged)
        return tuple(p for used, checks in groups if (p := self._where_valid(sorted(used), checks)) is not None)

    def _where_valid(self, ranks: list[str], checks: list[tuple[sympy.Expr, int]]) -> Points | None:
        """Where the checks hold; None stands for everywhere."""
        if not ranks or math.prod(self.extent[r] for r in ranks) > 4_000_000:
            return None  # too many to count: an upper bound
        at = np.ogrid[tuple(slice(self.extent[r]) for r in ranks)]
        table = {**self.sizes, **dict(zip(ranks, at, strict=True))}
        inside = np.ones([self.extent[r] for r in ranks], bool)
        for e, dim in checks:
            index = evaluated(e, table)
            inside &= (index >= 0) & (index < dim)
        return Points(tuple(ranks), inside)


def _made(op: tile.DotOp) -> tuple[tuple[tuple[str, ...], bool], ...]:
    """The ranks of the operands of a 16-bit dot that are computed beside it, and whether the value of each is read again."""
    found = []
    for v in (op.lhs, op.rhs):
        names = tile.tile_type(v).names
        maker = v.owner
        if isinstance(maker, tile.PadOp):
            maker = maker.value.owner
        beside = isinstance(maker, tile.CastOp) and maker.parent_block() is op.parent_block()
        if beside and element_bits(tile.tile_type(v).element_type) == 16:
            found.append((names, sum(1 for _ in maker.value.uses) > 1))
    return tuple(found)


def product(of: Mapping[str, int], ranks: tuple[str, ...]) -> int:
    """Of tile sizes, trip counts or extents: their product over some ranks."""
    n = 1
    for r in ranks:
        n *= of[r]
    return n


def _bytes_at_once(kind: tile.BufferType, width: int) -> int:
    """How many bytes of a row a thread can load with one instruction: every row begins at a multiple of them."""
    steps = [int(s) for s in kind.strides.data if s.is_Integer and s != 1]
    return min(16, math.gcd(16, *(s * width for s in steps)))
