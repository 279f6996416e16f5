"""What a tile kernel moves and computes, counted: the input of the cost model.

Traffic between SRAM and the next level is exact, before any cache: every load and store is counted once per program
and loop step that executes it, tiles cut at their extents.  `fusecade.testing.count_io` measures the same number.

    bytes(load) = element size x product of the extents of the ranks it reads
                  x product of the trip counts of the loops and grid ranks around it that it does not read

and where a loop has bounds, the sum of that over the programs (`trips.py`).  An operation without a rule raises; nothing is
free by default.

What is in a conditional counts as if its condition always held: an upper bound of what is moved.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import sympy
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float64Type, i1
from xdsl.ir import Attribute, Block, BlockArgument, Operation, SSAValue

from ..errors import InternalCompilerError
from ..ir import symbols, tile
from ..ir.attributes import element_bits
from .bands import loaded, sides_of
from .trips import Bounds, Points, Trips, evaluated

FLIGHT = 2 * 132  # programs that run at the same time, where no target says it
ALONE = 96 << 10  # bytes of tiles that leave no registers for a second program: more than half, with what else it holds

TRANSCENDENTAL = {
    "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "tanh", "sin", "cos", "erf", "pow", "div",
}  # fmt: skip

STEPWISE = {"erf", "pow", "sin", "cos", "expm1", "log1p"}  # computed by many instructions, with registers of their own


# What a GPU does at the full rate of its vector units; the rest (comparisons, choices, extremes, integers) at half of it.
FULL_RATE = {"add", "sub", "mul", "neg", "abs", "cast", "widen", "narrow"}


@dataclass(frozen=True)
class Transfer:
    """Traffic of one load or store: `bytes` between SRAM and the next level, `distinct` bytes it touches at all.

    again: for each loop and grid rank that repeats it, how many times it comes back (programs that run at the same time
    count once), and how many bytes are touched in between: where the shared cache holds those, coming back is free.
    together: how many of the programs that run at the same time ask for the same.
    """

    buffer: str
    bytes: int
    distinct: int
    again: tuple[tuple[int, int], ...] = ()
    together: int = 1


@dataclass(frozen=True)
class Nested:
    """What a program holds around a dot of a loop inside another loop, to work on the dot's result.

    held_bytes: tiles.  column_elements: of vectors that are spread over the rows of the result.  points: of the result.
    """

    held_bytes: int
    column_elements: int
    points: int


@dataclass(frozen=True)
class Dot:
    """A dot of a kernel: what it multiplies, floating-point operations of all its executions, (m, n, k) of one of them.

    batched: whether its tiles have batch ranks, of more than one element.
    """

    dtype: str
    flops: float
    shape: tuple[int, int, int]
    batched: bool


@dataclass
class Work:
    """What one launch of a kernel does.

    loads, stores: traffic.  dot_flops: by operand dtype.  map_elements, transcendental_elements, reduce_elements: tile
    elements processed.  operations: tile operations executed.  programs: size of the grid.  live_bytes: the largest sum
    of tiles alive in one program.  loop_load_bytes: tiles loaded in one step of the innermost loops (to be pipelined).
    nested: of loops inside loops.  kept_bytes: of tiles that must outlive a reduction, in a kernel without loops and dots.
    waits: how often a program waits for tiles that nothing has asked for in advance: each time that an innermost loop
    starts, for each load in a loop around it, and for each in a conditional.
    skippable_load_bytes: of the loads, what conditionals may leave out; everything is counted as if they left out nothing.
    """

    loads: list[Transfer] = field(default_factory=list)
    stores: list[Transfer] = field(default_factory=list)
    dot_flops: dict[str, float] = field(default_factory=dict)
    map_elements: float = 0.0
    transcendental_elements: float = 0.0
    reduce_elements: float = 0.0
    elements: dict[str, float] = field(default_factory=dict)  # by function, tiles and rows alike
    operations: float = 0.0
    programs: int = 1
    carried_bytes: int = 0
    temporary_bytes: int = 0
    held_bytes: int = 0
    nested: Nested | None = None
    kept_bytes: int | None = None
    waits: float = 0.0
    skippable_load_bytes: int = 0
    loop_load_bytes: int = 0
    kept_load_bytes: int = 0
    dots: list[Dot] = field(default_factory=list)
    picked_bytes: int = 0  # of the largest tile that is picked from
    made_operands: dict[tuple, list[tuple[int, int, bool]]] = field(default_factory=dict)  # by loop: `_operand_bytes`
    wide_operand_bytes: int = 0  # of the largest dot on f32 or f64 operands
    heaviest: float = 1.0  # operations of the program that does most, in terms of their mean
    visits: dict[str, float] = field(default_factory=dict)  # of ranks with bounded loops: the part of the tiles walked

    @property
    def load_bytes(self) -> int:
        return sum(t.bytes for t in self.loads)

    @property
    def store_bytes(self) -> int:
        return sum(t.bytes for t in self.stores)

    @property
    def flops(self) -> float:
        return sum(self.dot_flops.values()) + self.map_elements + self.reduce_elements

    @property
    def hbm_bytes_bound(self) -> int:
        """Every buffer once: the least that any kernel with these inputs and outputs moves."""
        distinct: dict[str, int] = {}
        for t in [*self.loads, *self.stores]:
            distinct[t.buffer] = max(distinct.get(t.buffer, 0), t.distinct)
        return sum(distinct.values())


def work(
    kernel: tile.KernelOp, params: Mapping[str, int] | None = None, sizes: Mapping[str, int] | None = None
) -> Work:
    """Count what `kernel` does with these parameters (default: its own) and these sizes (for symbolic extents)."""
    bound = {**kernel.parameters, **(params or {})}
    return Census(kernel, {**bound, **(sizes or {})}).count(bound)


@dataclass(frozen=True)
class _Entry:
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
    made: tuple[tuple[tuple[str, ...], bool], ...] = ()  # of a dot in a loop: the operands that are computed there


class Census:
    """A kernel's operations, listed once, so that many parameter bindings can be counted quickly."""

    def __init__(self, kernel: tile.KernelOp, sizes: Mapping[str, int], flight: int = FLIGHT):
        """flight: programs that run at the same time."""
        self.sizes, self.flight = sizes, flight
        self.ranks = kernel.ranks.data
        self.extent = {r.name: symbols.evaluate(r.extent, sizes) for r in self.ranks}
        self.grid = kernel.grid_ranks
        self.bands = {r.name: r.of for r in self.ranks if r.of is not None}
        self.all_of = {r.name: Bounds(r.name, sympy.Integer(0), r.extent) for r in self.ranks}
        self.names: dict[SSAValue, str] = {a: a.name_hint or f"arg{n}" for n, a in enumerate(kernel.arguments)}
        self.entries: list[_Entry] = []
        self.columns: dict[
            tuple[str, ...], dict[SSAValue, str]
        ] = {}  # by the loops around: vectors along a tile's columns
        self.outside: dict[
            tuple[str, ...], list[tuple[str, ...]]
        ] = {}  # by loops: tiles from before that are read there
        self.waiting: dict[tuple[str, ...], dict[tuple[str, ...], int]] = {}  # by loops: see `_waiting`
        self._block(kernel.body.block, ())
        straight = not any(e.loops or e.kind == "dot" for e in self.entries)
        self.outliving = _outliving(kernel.body.block) if straight else None
        self._prepare()

    # --- listing -------------------------------------------------------------------------------------------------

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
        if bounds != self.all_of[rank]:
            self.entries[first:] = [replace(e, bounds=(bounds, *e.bounds)) for e in self.entries[first:]]

    def _operation(self, op: Operation, loops: tuple[str, ...]) -> None:
        add = self.entries.append
        swept = tuple(tile.tile_type(v).names for v in [*op.operands, *op.results] if isinstance(v.type, tile.TileType))
        match op:
            case tile.LoadOp() | tile.StoreOp():
                add(self._transfer(op, swept, loops))
            case tile.MapOp():
                names = tile.tile_type(op.result).names
                for v in op.operands:
                    if len(names) > 1 and tile.tile_type(v).names == names[-1:]:
                        self.columns.setdefault(loops, {})[v] = names[-1]
                kind = "special" if op.function.data in TRANSCENDENTAL else "map"
                add(_Entry(op.function.data, kind, tile.tile_type(op.result).names, swept, loops))
            case tile.CastOp():
                add(_Entry("cast", "map", tile.tile_type(op.result).names, swept, loops))
            case tile.PickOp():
                add(_Entry("pick", "map", tile.tile_type(op.result).names, swept, loops))
            case tile.PadOp() | tile.IndexOp() | tile.FillOp():
                add(_Entry("fill", "fill", tile.tile_type(op.results[0]).names, swept, loops))
            case tile.ReduceOp():
                add(
                    _Entry(
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
                    _Entry(
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
                self.outside[(*loops, op.rank.data)] = _read_from_outside(op)
                self.waiting[(*loops, op.rank.data)] = _waiting(op.body.block)
                for arg, first in zip(op.body.block.args, op.init, strict=True):
                    if loops and isinstance(first, BlockArgument) and first.block is op.parent_block():
                        continue  # it goes on from what the loop around carries: one tile
                    add(_Entry("carry", "carry", tile.tile_type(arg).names, (), (*loops, op.rank.data)))
                self._block(op.body.block, (*loops, op.rank.data))
            case tile.IfOp():
                add(_Entry(op.quantifier.data, "reduce", tile.tile_type(op.condition).names, swept[:1], loops))
                first = len(self.entries)
                self._block(op.body.block, loops)
                self.entries[first:] = [replace(e, skippable=True) for e in self.entries[first:]]
            case tile.YieldOp() | tile.ReturnOp():
                pass
            case _:
                raise InternalCompilerError(f"the cost model has no rule for {op.name}", stage="schedule")

    def _transfer(self, op: tile.LoadOp | tile.StoreOp, swept, loops: tuple[str, ...]) -> _Entry:
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
        return _Entry(
            word, word, read, swept, loops, width, "", self.names[op.buffer], points, distinct,
            access=op.access.data, inside=inside,
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

    # --- counting ------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """What does not depend on parameters: elements of one full walk, and the ranks whose trips multiply it."""
        self.counted: list[tuple[_Entry, int, tuple[str, ...]]] = []
        self.carried: dict[tuple[str, ...], list[tuple[str, ...]]] = {}  # by the loops around: tiles that they carry,
        self.computed: dict[tuple[str, ...], dict[tuple[str, ...], None]] = {
            (): {}
        }  # and tiles that are computed in them
        for e in self.entries:
            if e.kind == "carry" and e.continues:
                continue
            if e.kind == "carry":
                self.carried.setdefault(e.loops, []).append(e.ranks)
                continue
            elements = math.prod(self.extent[r] for r in e.ranks if r not in self.bands)
            repeats = tuple(r for r in (*self.grid, *e.loops) if r not in e.ranks)
            self.counted.append((e, elements, repeats))
            tiles = self.computed.setdefault(e.loops, {})
            if e.kind not in ("load", "store", "fill") and not e.in_place:
                tiles.setdefault(e.swept[-1] if e.kind != "reduce" else e.ranks)
        self.transfers = [e for e in self.entries if e.kind in ("load", "store")]
        nests = {e.loops for e in self.entries}
        self.innermost = {at for at in nests if at and not any(o[: len(at)] == at for o in nests - {at})}
        self.multiplied = {e.loops for e in self.entries if e.kind == "dot"}

    def _at_once(self, trips: Mapping[str, int], flight: int) -> dict[str, int]:
        """Of each grid rank, how many of its tiles `flight` programs have at the same time."""
        at_once: dict[str, int] = {}
        left = flight
        for r in reversed(self.grid):
            at_once[r] = max(1, min(trips[r], left))
            left = -(-left // at_once[r])
        return at_once

    def _again(
        self,
        e: _Entry,
        repeats: tuple[str, ...],
        trips: Mapping[str, int],
        tile_of: Mapping[str, int],
        at_once: Mapping[str, int],
    ) -> tuple[tuple[int, int], ...]:
        """`Transfer.again` of one load, with so many tiles of the grid ranks at the same time."""
        found = []
        for r in repeats:
            returns = -(-trips[r] // at_once.get(r, 1))
            if returns > 1:
                found.append((returns, sum(self._touched(o, r, at_once, tile_of) for o in self.transfers)))
        return tuple(found)

    def _touched(self, o: _Entry, r: str, at_once: Mapping[str, int], tile_of: Mapping[str, int]) -> int:
        """Bytes that a transfer touches while everything inside one step of rank `r` runs once."""
        nest = (*self.grid, *o.loops)
        inside = set(nest[nest.index(r) + 1 :]) if r in nest else set()
        n = o.width
        for q in o.ranks:
            if q in inside or q not in nest:
                n *= self.extent[q]
            else:
                n *= min(self.extent[q], tile_of[q] * at_once.get(q, 1))
        return min(n, o.distinct * o.width)

    def count(self, params: Mapping[str, int]) -> Work:
        """The work of one launch with these parameters bound."""
        extent = self.extent
        size = {
            r.name: 1 if r.role == "unit" else extent[r.name] if r.role == "whole" else params[r.tile or ""]
            for r in self.ranks
            if r.of is None
        }
        size |= {r: tile.band_width(sides_of(of, size), "num_warps" in params) for r, of in self.bands.items()}
        trips = {r: -(-extent[r] // size[r]) if size[r] else 0 for r in extent}
        tile_of = {r: size[r] if r in self.bands else min(size[r], extent[r]) for r in extent}
        programs = _product(trips, self.grid)
        walk = Trips(self.grid, extent, size, {**self.sizes, **params})
        runs_of: dict[tuple, int] = {}
        waiting: dict[tuple[str, ...], int] = {}  # by innermost loop with loads: how often a program starts it
        w = Work(programs=programs)
        totals: dict[tuple, int] = {}  # of elements in loops with bounds
        pieces: dict[tuple, int] = {}  # the loads of loops that others may continue: where they are in `w.loads`
        self._hold(w, tile_of)
        alone = w.nested is not None and w.nested.held_bytes > ALONE  # one program on each multiprocessor, not two
        at_once = self._at_once(trips, self.flight // 2 if alone else self.flight)
        for e, elements, repeats in self.counted:
            at = (e.loops, e.bounds)
            if at not in runs_of:
                runs_of[at] = walk.total((), *at) if e.bounds else programs * _product(trips, e.loops)
            w.operations += runs_of[at]
            repeated = _product(trips, repeats)
            band = next((r for r in e.ranks if r in self.bands), None)
            ranks = e.ranks if band is None else tuple(r for r in e.ranks if r != band)
            long = 1 if band is None else size[band]
            if e.kind in ("load", "store"):
                again = self._again(e, repeats, trips, tile_of, at_once) if e.kind == "load" else ()
                together = _product(at_once, tuple(r for r in self.grid if r not in e.ranks))
                points = walk.total(ranks, *at, e.inside) if e.bounds else e.points * repeated
                if band is not None:
                    points = loaded(walk, band, self.bands[band], e.ranks, *at)
                transfer = Transfer(e.buffer, points * e.width, min(points, e.distinct) * e.width, again, together)
                moved = w.loads if e.kind == "load" else w.stores
                w.skippable_load_bytes += transfer.bytes if e.skippable and e.kind == "load" else 0
                piece = (e.kind, e.buffer, e.access, e.loops, e.skippable)
                if e.continues and piece in pieces:  # of the same walk: what it touches there may be the same
                    before = moved[pieces[piece]]
                    total = before.bytes + transfer.bytes
                    distinct = min(total, e.distinct * e.width)
                    moved[pieces[piece]] = replace(before, bytes=total, distinct=distinct)
                    continue
                pieces[piece] = len(moved)
                moved.append(transfer)
                if e.kind == "load":
                    held = e.width * _product(tile_of, e.swept[-1])
                    if e.skippable:  # not known to be needed before the condition is: nothing asks for it in advance
                        w.kept_load_bytes += held
                        w.waits += _product(trips, e.loops)
                    elif e.loops in self.innermost:
                        w.loop_load_bytes += held
                        waiting[e.loops] = _product(trips, e.loops[:-1])
                    else:
                        w.kept_load_bytes += held
                        w.waits += _product(trips, e.loops) if e.loops else 0
                continue
            total = elements * repeated * long
            if e.bounds:
                key = (frozenset(e.ranks), at)
                if key not in totals:
                    totals[key] = walk.total(ranks, *at) * long
                total = totals[key]
            if e.kind == "dot":
                w.dot_flops[e.dtype] = w.dot_flops.get(e.dtype, 0.0) + 2.0 * total
                shape = (_product(size, e.rows), _product(size, e.columns), size[e.over])
                w.dots.append(Dot(e.dtype, 2.0 * total, shape, _product(size, e.batch) > 1))
                made = [(_product(tile_of, r), shape[0], shared) for r, shared in e.made]
                w.made_operands[at] = w.made_operands.get(at, []) + made
                if e.dtype in ("f32", "f64"):
                    m, n, k = shape
                    w.wide_operand_bytes = max(w.wide_operand_bytes, 4 * (m * k + k * n))
                continue
            w.elements[e.function] = w.elements.get(e.function, 0.0) + total
            if e.kind == "reduce":
                w.reduce_elements += total
            else:
                w.map_elements += total
            if e.function == "pick":
                w.picked_bytes = max(w.picked_bytes, 4 * _product(tile_of, e.swept[0]))
            if e.kind == "special":
                w.transcendental_elements += total
        w.waits += sum(waiting.values())
        self._weigh(w, walk, trips)
        return w

    def _weigh(self, w: Work, walk: Trips, trips: Mapping[str, int]) -> None:
        """Of loops with bounds: how much of their ranks they walk, and how unevenly that falls to programs."""
        bodies: dict[tuple[tuple[str, ...], tuple[Bounds, ...]], int] = {}  # with how many operations are in them
        walks: dict[str, set[tuple]] = {}
        apart = 0.0
        for e, _, _ in self.counted:
            if not e.bounds:
                apart += _product(trips, e.loops)
                continue
            bodies[e.loops, e.bounds] = bodies.get((e.loops, e.bounds), 0) + 1
            if not e.continues:
                walks.setdefault(e.loops[-1], set()).add((e.loops, e.bounds))
        if not bodies or not w.programs:
            return
        heavy: dict[tuple[str, ...], np.ndarray] = {}  # operations, by tile of the grid ranks that bounds mention
        for (loops, bounds), operations in bodies.items():
            axes = walk.axes(loops, bounds)
            steps = walk.by_tile((), loops, bounds)
            steps = steps.sum(tuple(n for n, r in enumerate(axes) if r not in self.grid))
            around = math.prod(trips[r] for r in loops if r not in axes and all(b.rank != r for b in bounds))
            rows = tuple(r for r in axes if r in self.grid)
            heavy[rows] = heavy.get(rows, np.zeros(())) + steps * (around * operations)
            if loops[-1] in walks:
                whole = len(walks[loops[-1]]) * _product(trips, loops) * max(1, steps.size)
                w.visits[loops[-1]] = w.visits.get(loops[-1], 0.0) + float(steps.sum() * around / whole)
        mean = apart + sum(float(n.mean()) for n in heavy.values())
        w.heaviest = (apart + sum(float(n.max()) for n in heavy.values())) / mean if mean else 1.0

    def _hold(self, w: Work, tile_of: Mapping[str, int]) -> None:
        """The tiles that a program holds at once: in each loop, what the loops around it carry and what it computes.

        In an innermost loop two tiles of the largest kind are alive, or all that wait for a reduction of such a tile;
        outside of all loops, the result of a loop is worked on in place, an element at a time, and narrowed in the end;
        `Nested` is what lies between.  (A product of 128 x 256 in 8 warps, compiled: 128 registers of each thread for it,
        163 to 191 in all with scales of rows and columns behind it; 255, and spills, with another tile of that size, or
        with erf.)
        """
        if self.outliving is not None:
            padded = {r: 1 << max(0, n - 1).bit_length() for r, n in tile_of.items()}
            tiles = [[width * _product(padded, ranks) for ranks, width in at] for at in self.outliving]
            w.kept_bytes = max(map(sum, tiles), default=0)
        carried = {at: sum(4 * _product(tile_of, r) for r in tiles) for at, tiles in self.carried.items()}
        w.carried_bytes = sum(carried.values())
        for at, made in self.computed.items():
            updated = self.carried.get(at, []) if at in self.innermost and at in self.multiplied else []
            tiles = [r for r in made if r not in updated]  # what is carried is rescaled where it is
            largest = max(tiles, key=lambda r: _product(tile_of, r), default=())
            size = 4 * _product(tile_of, largest) if tiles else 0
            held = sum(carried.get(at[:n], 0) for n in range(1, len(at) + 1))
            w.temporary_bytes = max(w.temporary_bytes, size)
            if at and at not in self.innermost:
                columns = sum(tile_of[r] for r in self.columns.get(at, {}).values())
                tiles_held = max(1, self.waiting.get(at, {}).get(largest, 1))
                held += size * tiles_held  # in place; narrowed where it is an operand
                held += size // 2 if at in self.multiplied else 0
                found = Nested(held, columns, size // 4)
                w.nested = max(w.nested or found, found, key=lambda n: n.held_bytes + 32 * n.column_elements)
            else:
                held += self._spread_bytes(at, tile_of) if at and not self.multiplied else 0
                tiles_held = max(2, self.waiting.get(at, {}).get(largest, 2))
                behind = size * 5 // 4 if self._plain_behind(largest) else size * 7 // 4
                w.held_bytes = max(w.held_bytes, held + (tiles_held * size if at else behind))

    def _plain_behind(self, largest: tuple[str, ...]) -> bool:
        """Whether nothing but short arithmetic with vectors is done to the largest tile outside of all loops.

        That is, it is carried by a loop, and no other tile over its ranks is loaded, nor reduced, nor any function computed
        that takes many steps.
        """
        if not any(set(largest) == set(r) for tiles in self.carried.values() for r in tiles):
            return False
        outside = [e for e, _, _ in self.counted if not e.loops and e.kind != "store"]
        return not any(
            e.kind == "dot"
            or e.function in STEPWISE
            or (e.kind in ("load", "reduce") and len(set(largest) & set(e.ranks)) > 1)
            for e in outside
        )

    def _spread_bytes(self, at: tuple[str, ...], tile_of: Mapping[str, int]) -> int:
        """What small tiles take in the loop `at` beyond their size, where no dot decides how tiles lie in registers.

        There a thread has a vector of neighbours from each of several rows, so that many threads hold each row's values: the
        carried ones as they were and as they become, the others once.
        """
        large = max(self.computed[at], key=lambda r: _product(tile_of, r), default=())
        vector = min(
            (16 // e.width for e in self.transfers if e.kind == "load" and e.loops == at and e.swept), default=1
        )
        total = 0
        for ranks, times in [*((r, 2) for r in self.carried.get(at, [])), *((r, 1) for r in self.outside.get(at, []))]:
            missing = [r for r in large if r not in ranks]
            spread = _product(tile_of, tuple(missing)) // vector if missing and ranks else 1
            total += times * 4 * _product(tile_of, ranks) * (max(1, spread) - 1)
        return total


def _waiting(block: Block) -> dict[tuple[str, ...], int]:
    """How many tiles of a loop's body are held, at most, until a tile like them is reduced: what follows reads them.

    By their ranks; flags are not counted.
    """
    most: dict[tuple[str, ...], int] = {}
    for reduction in block.ops:
        if not isinstance(reduction, tile.ReduceOp):
            continue
        names = tile.tile_type(reduction.value).names
        after: set[Operation] = {reduction}  # what waits for it
        held: set[SSAValue] = set()
        op = reduction.next_op
        while op is not None:
            if any(v.owner in after for o in op.walk() for v in o.operands):
                after.add(op)
            op = op.next_op
        for op in after - {reduction}:
            for v in op.operands:
                like = isinstance(v.type, tile.TileType) and v.type.names == names and v.type.element_type != i1
                if like and v.owner not in after and isinstance(v.owner, Operation) and v.owner.parent is block:
                    held.add(v)
        most[names] = max(most.get(names, 0), len(held))
    return most


def _outliving(block: Block) -> list[list[tuple[tuple[str, ...], int]]]:
    """For each reduction of a block: the ranks and bytes an element of the tiles from before it that are read after it.

    All threads of a program meet in a reduction, so these are in registers as a whole; the rest is worked on an element
    at a time.  What takes one step to make of such tiles and of rows is made again.
    """
    position = {op: n for n, op in enumerate(block.ops)}
    last: dict[SSAValue, int] = {}
    for op, n in position.items():
        last |= {_unpadded(v): n for v in op.operands if isinstance(v.type, tile.TileType)}
    found = []
    for op, n in position.items():
        if isinstance(op, tile.ReduceOp):
            live = {v for v, end in last.items() if position[v.owner] <= n < end}  # pyright: ignore
            kept = [tile.tile_type(v) for v in live if not _made_again(v, live)]
            found.append([(t.names, max(1, element_bits(t.element_type) // 8)) for t in kept if t.names])
    return found


def _made_again(v: SSAValue, live: Collection[SSAValue]) -> bool:
    """Whether an element of a tile comes in one step from those of others that are held, and from rows of fewer ranks."""
    op, names = v.owner, tile.tile_type(v).names
    if not isinstance(op, tile.MapOp) or op.function.data not in FULL_RATE:
        return False
    from_tiles = [_unpadded(x) for x in op.operands if tile.tile_type(x).names == names]
    return bool(from_tiles) and all(x in live for x in from_tiles)


def _unpadded(v: SSAValue) -> SSAValue:
    return _unpadded(v.owner.value) if isinstance(v.owner, tile.PadOp) else v


def _read_from_outside(loop: tile.ForOp) -> list[tuple[str, ...]]:
    """The ranks of the tiles that are computed before a loop and read in it."""
    body = loop.body.block
    inside = {r for op in body.walk() for r in op.results} | {
        a for op in body.walk() for g in op.regions for b in g.blocks for a in b.args
    }
    read = {
        v: None
        for op in body.walk()
        for v in op.operands
        if isinstance(v.type, tile.TileType) and v not in inside and v not in body.args
    }
    return [tile.tile_type(v).names for v in read]


def _product(of: Mapping[str, int], ranks: tuple[str, ...]) -> int:
    n = 1
    for r in ranks:
        n *= of[r]
    return n


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


def dot_dtype(element: Attribute) -> str:
    """The rate table's name for an operand type."""
    if isinstance(element, Float16Type):
        return "f16"
    if isinstance(element, BFloat16Type):
        return "bf16"
    return "f64" if isinstance(element, Float64Type) else "f32"
