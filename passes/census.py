"""What a tile kernel moves and computes, counted: the input of the cost model.

Traffic between SRAM and the next level is exact, before any cache: every load and store is counted once per program
and loop step that executes it, tiles cut at their extents.  `fusecade.testing.count_io` measures the same number.

    bytes(load) = element size x product of the extents of the ranks it reads
                  x product of the trip counts of the loops and grid ranks around it that it does not read

and where a loop has bounds, the sum of that over the programs (`trips.py`).  An operation without a rule raises; nothing is
free by default.

What is in a conditional counts as if its condition always held, and a loop within loaded bounds as if those were all of its
rank: an upper bound of what is moved.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..ir import tile
from .bands import loaded, sides_of
from .held_tiles import HeldTiles, Nested
from .kernel_listing import Entry, Listing, product
from .share_of_steps import ahead_of, programs_of, shares_of
from .trips import Bounds, Trips

FLIGHT = 2 * 132  # programs that run at the same time, where no target says it
ALONE = 96 << 10  # bytes of tiles that leave no registers for a second program: more than half, with what else it holds


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
class Dot:
    """A dot of a kernel: what it multiplies, floating-point operations of all its executions, (m, n, k) of one of them.

    batch: products in one of them, 0 where it has no batch ranks.  stepped: whether both operands are loaded, a step of the
    contracted rank at a time.
    """

    dtype: str
    flops: float
    shape: tuple[int, int, int]
    batch: int = 0
    stepped: bool = False


@dataclass
class Work:
    """What one launch of a kernel does.

    loads, stores: traffic.  dot_flops: by operand dtype.  map_elements, transcendental_elements, reduce_elements: tile
    elements processed.  operations: tile operations executed.  programs: size of the grid.  live_bytes: the largest sum
    of tiles alive in one program.  loop_load_bytes: tiles loaded in one step of the innermost loops (to be pipelined).
    nested: of loops inside loops.  kept_bytes: of tiles that must outlive a reduction, in a kernel without loops and dots.
    waits: how often a program waits for tiles that nothing has asked for in advance: each time that an innermost loop
    starts, for each load in a loop around it, and for each in a conditional.
    short_loads: of tiles in a loop whose rows begin anywhere: how many rows, in how many loads, of how many bytes.
    address_registers: of all threads, for what is loaded in a step of an innermost loop: a 64-bit address for every 16
    bytes, and where a tile is cut at an extent, what says whether they are there.
    skippable_load_bytes: of the loads, what conditionals and loaded bounds may leave out; everything is counted as if they
    left out nothing.
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
    behind_bytes: int = 0
    short_loads: list[tuple[int, float, int]] = field(default_factory=list)
    address_registers: float = 0.0
    nested: Nested | None = None
    kept_bytes: int | None = None
    column_elements: int = 0  # `Held.column_elements`
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


@dataclass(frozen=True, eq=False)
class _Counted:
    """What is known of an entry whatever the parameters.

    elements: of one full walk, without those along a band.  repeats: the ranks whose trips multiply that.  walk, points,
    piece: numbers that entries share which are in the same loops with the same bounds, which are over the same ranks there,
    and whose transfers may continue each other.  ranks: but for the band.
    """

    entry: Entry
    elements: int
    repeats: tuple[str, ...]
    walk: int
    points: int
    piece: int
    band: str | None
    ranks: tuple[str, ...]


class Census:
    """A kernel's operations, listed once, so that many parameter bindings can be counted quickly."""

    def __init__(self, kernel: tile.KernelOp, sizes: Mapping[str, int], flight: int = FLIGHT):
        """flight: programs that run at the same time."""
        self.flight = flight
        self.kernel = kernel
        self.listing = Listing(kernel, sizes)
        self.held = HeldTiles(kernel, self.listing)
        self.sums: dict[tuple, int] = {}
        # The loops around operations, with the bounds of those that have some: each pair once.
        self.walks: list[tuple[tuple[str, ...], tuple[Bounds, ...]]] = []
        self.counted: list[_Counted] = []
        numbers: dict[tuple, int] = {}
        extent, bands, grid = self.listing.extent, self.listing.bands, self.listing.grid
        for e in self.listing.entries:
            if e.kind == "carry":
                continue
            at = (e.loops, e.bounds)
            if at not in self.walks:
                self.walks.append(at)
            walk = self.walks.index(at)
            points = numbers.setdefault((frozenset(e.ranks), walk), len(numbers))
            piece = numbers.setdefault((e.kind, e.buffer, e.access, e.loops, e.skippable), len(numbers))
            band = next((r for r in e.ranks if r in bands), None)
            ranks = tuple(r for r in e.ranks if r != band)
            repeats = tuple(r for r in (*grid, *e.loops) if r not in e.ranks)
            elements = math.prod(extent[r] for r in e.ranks if r not in bands)
            self.counted.append(_Counted(e, elements, repeats, walk, points, piece, band, ranks))
        self.operations = Counter(c.walk for c in self.counted)
        self.bounded: dict[str, set[int]] = {}  # by rank: the walks of it with bounds that go on from no other
        for c in self.counted:
            if c.entry.bounds and not c.entry.continues:
                self.bounded.setdefault(c.entry.loops[-1], set()).add(c.walk)

    def _at_once(self, trips: Mapping[str, int], flight: int) -> dict[str, int]:
        """Of each grid rank, how many of its tiles `flight` programs have at the same time."""
        at_once: dict[str, int] = {}
        left = flight
        for r in reversed(self.listing.grid):
            at_once[r] = max(1, min(trips[r], left))
            left = -(-left // at_once[r])
        return at_once

    def _again(
        self,
        e: Entry,
        repeats: tuple[str, ...],
        trips: Mapping[str, int],
        tile_of: Mapping[str, int],
        at_once: Mapping[str, int],
        touched: dict[str, int],
    ) -> tuple[tuple[int, int], ...]:
        """`Transfer.again` of one load, with so many tiles of the grid ranks at the same time.

        touched: by all transfers inside one step of a rank, as far as it was asked before; it grows.
        """
        found = []
        for r in repeats:
            returns = -(-trips[r] // at_once.get(r, 1))
            if returns > 1:
                if r not in touched:
                    touched[r] = sum(self._touched(o, r, at_once, tile_of) for o in self.listing.transfers)
                found.append((returns, touched[r]))
        return tuple(found)

    def _touched(self, o: Entry, r: str, at_once: Mapping[str, int], tile_of: Mapping[str, int]) -> int:
        """Bytes that a transfer touches while everything inside one step of rank `r` runs once."""
        nest = (*self.listing.grid, *o.loops)
        inside = set(nest[nest.index(r) + 1 :]) if r in nest else set()
        n = o.width
        for q in o.ranks:
            if q in inside or q not in nest:
                n *= self.listing.extent[q]
            else:
                n *= min(self.listing.extent[q], tile_of[q] * at_once.get(q, 1))
        return min(n, o.distinct * o.width)

    @staticmethod
    def _steps(e: Entry, loops: tuple[str, ...], walk: Trips, trips: Mapping[str, int], programs: int) -> float:
        """How many steps of these loops around an entry a program takes, on average."""
        bounds = [b for b in e.bounds if b.rank in loops]
        return walk.total((), loops, bounds) / max(1, programs) if bounds else product(trips, loops)

    def _single_steps(self, walk: Trips) -> set[str]:
        """The ranks of which every program takes one step of a loop: parts that are one tile long."""
        found = {}
        if not any(len(e.loops) > 1 for e in self.listing.entries):
            return set()
        for e in self.listing.entries:
            if len(e.loops) == 1 and e.bounds and e.loops not in found:
                steps = walk.by_tile((), e.loops, e.bounds)
                found[e.loops] = steps.min() == steps.max() == 1
        return {at[0] for at, single in found.items() if single}

    def count(self, params: Mapping[str, int]) -> Work:
        """The work of one launch with these parameters bound."""
        extent = self.listing.extent
        size = {
            r.name: 1 if r.role == "unit" else extent[r.name] if r.role == "whole" else params[r.tile or ""]
            for r in self.listing.ranks
            if r.of is None
        }
        size |= {r: tile.band_width(sides_of(of, size), "num_warps" in params) for r, of in self.listing.bands.items()}
        trips = {r: -(-extent[r] // size[r]) if size[r] else 0 for r in extent}
        tile_of = {r: size[r] if r in self.listing.bands else min(size[r], extent[r]) for r in extent}
        programs = product(trips, self.listing.grid)
        known = {**self.listing.sizes, **params}
        shares = shares_of(self.kernel, known) if self.kernel.share is not None else None
        ahead = ahead_of(shares, self.kernel) if shares is not None else None
        walk = Trips(self.listing.grid, extent, size, known, ahead, self.sums)
        runs = [walk.total((), *at) if at[1] else programs * product(trips, at[0]) for at in self.walks]
        waiting: dict[tuple[str, ...], float] = {}  # by innermost loop with loads: how often a program starts it
        holds = self.held.at(tile_of, self._single_steps(walk))
        w = Work(
            programs=programs,
            carried_bytes=holds.carried_bytes,
            temporary_bytes=holds.temporary_bytes,
            held_bytes=holds.held_bytes,
            behind_bytes=holds.behind_bytes,
            nested=holds.nested,
            kept_bytes=holds.kept_bytes,
            column_elements=holds.column_elements,
            operations=float(sum(n * runs[at] for at, n in self.operations.items())),
        )
        totals: dict[int, int] = {}  # of elements in loops with bounds
        pieces: dict[int, int] = {}  # the loads of loops that others may continue: where they are in `w.loads`
        made_operands: dict[int, list[tuple[int, int, bool]]] = {}
        alone = w.nested is not None and w.nested.held_bytes > ALONE  # one program on each multiprocessor, not two
        at_once = self._at_once(trips, self.flight // 2 if alone else self.flight)
        touched: dict[str, int] = {}
        for c in self.counted:
            e, at, band = c.entry, self.walks[c.walk], c.band
            repeated = product(trips, c.repeats)
            long = 1 if band is None else size[band]
            if e.kind in ("load", "store"):
                again = self._again(e, c.repeats, trips, tile_of, at_once, touched) if e.kind == "load" else ()
                together = product(at_once, tuple(r for r in self.listing.grid if r not in e.ranks))
                points = walk.total(c.ranks, *at, e.inside) if e.bounds else e.points * repeated
                if band is not None:
                    points = loaded(walk, band, self.listing.bands[band], e.ranks, *at)
                transfer = Transfer(e.buffer, points * e.width, min(points, e.distinct) * e.width, again, together)
                moved = w.loads if e.kind == "load" else w.stores
                left_out = e.kind == "load" and (e.skippable or e.narrowed)
                w.skippable_load_bytes += transfer.bytes if left_out else 0
                if e.continues and c.piece in pieces:  # of the same walk: what it touches there may be the same
                    before = moved[pieces[c.piece]]
                    total = before.bytes + transfer.bytes
                    distinct = min(total, e.distinct * e.width)
                    moved[pieces[c.piece]] = replace(before, bytes=total, distinct=distinct)
                    continue
                pieces[c.piece] = len(moved)
                moved.append(transfer)
                if e.kind == "load":
                    held = e.width * product(tile_of, e.swept[-1])
                    if e.skippable:  # not known to be needed before the condition is: nothing asks for it in advance
                        w.kept_load_bytes += held
                        w.waits += product(trips, e.loops)
                    elif e.loops in self.listing.innermost:
                        w.loop_load_bytes += held
                        if e.together < 8:
                            rows = product(tile_of, e.swept[-1][:-1])
                            w.short_loads.append((rows, held / e.together, e.together))
                        cut = any(extent[r] % size[r] for r in e.swept[-1] if size[r] and r not in self.listing.bands)
                        w.address_registers += held / 16 * (4 if cut else 2)
                        waiting[e.loops] = self._steps(e, e.loops[:-1], walk, trips, programs)
                    else:
                        w.kept_load_bytes += held
                        w.waits += self._steps(e, e.loops, walk, trips, programs) if e.loops else 0
                continue
            total = c.elements * repeated * long
            if e.bounds:
                if c.points not in totals:
                    totals[c.points] = walk.total(c.ranks, *at) * long
                total = totals[c.points]
            if e.kind == "dot":
                w.dot_flops[e.dtype] = w.dot_flops.get(e.dtype, 0.0) + 2.0 * total
                shape = (product(size, e.rows), product(size, e.columns), size[e.over])
                stepped = e.over in e.loops and not e.made
                w.dots.append(Dot(e.dtype, 2.0 * total, shape, product(size, e.batch) if e.batch else 0, stepped))
                made = [(product(tile_of, r), shape[0], shared) for r, shared in e.made]
                made_operands.setdefault(c.walk, []).extend(made)
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
                w.picked_bytes = max(w.picked_bytes, 4 * product(tile_of, e.swept[0]))
            if e.kind == "special":
                w.transcendental_elements += total
        w.waits += sum(waiting.values())
        w.made_operands = {self.walks[n]: made for n, made in made_operands.items()}
        self._weigh(w, walk, trips, shares)
        return w

    def _weigh(self, w: Work, walk: Trips, trips: Mapping[str, int], shares: tile.Shares | None) -> None:
        """Of loops with bounds: how much of their ranks they walk, and how unevenly that falls to programs."""
        bodies = {at: n for at, n in self.operations.items() if self.walks[at][1]}
        if not bodies or not w.programs:
            return
        apart = float(
            sum(n * product(trips, self.walks[at][0]) for at, n in self.operations.items() if at not in bodies)
        )
        heavy: dict[tuple[str, ...], np.ndarray] = {}  # operations, by tile of the grid ranks that bounds mention
        for at, operations in bodies.items():
            loops, bounds = self.walks[at]
            axes = walk.axes(loops, bounds)
            steps = walk.by_tile((), loops, bounds)
            steps = steps.sum(tuple(n for n, r in enumerate(axes) if r not in self.listing.grid))
            around = math.prod(trips[r] for r in loops if r not in axes and all(b.rank != r for b in bounds))
            rows = tuple(r for r in axes if r in self.listing.grid)
            heavy[rows] = heavy.get(rows, np.zeros(())) + steps * (around * operations)
            if loops[-1] in self.bounded:
                whole = len(self.bounded[loops[-1]]) * product(trips, loops) * max(1, steps.size)
                w.visits[loops[-1]] = w.visits.get(loops[-1], 0.0) + float(steps.sum() * around / whole)
        if shares is not None:
            pieces = sum((n if rows == self.listing.grid else n.mean() for rows, n in heavy.items()), np.zeros(()))
            self._share_out(w, shares, apart + pieces)
            return
        mean = apart + sum(float(n.mean()) for n in heavy.values())
        w.heaviest = (apart + sum(float(n.max()) for n in heavy.values())) / mean if mean else 1.0

    def _share_out(self, w: Work, shares: tile.Shares, operations: np.ndarray) -> None:
        """What programs with equal shares do.  operations: of each piece of each tile."""
        number = programs_of(shares, w.programs // max(1, shares.tiles))
        done = np.bincount(number.ravel(), np.broadcast_to(operations.ravel(), number.size), shares.programs)
        w.waits *= w.programs / shares.programs
        w.programs = shares.programs
        w.heaviest = float(done.max() / done.mean())
