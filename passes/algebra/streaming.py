"""Running a derived cascade on plain arrays: tiles of any size, partial states merged in any tree, many rows at once.

The oracle of the engine and the reference of what generated code has to do:

    step(state, tile):   for each reduction, in order (A moves further where its `moves` says so):
        s     = the new running values of what its gauges name, infinities replaced by 0
        A     = A * exp(gauge(s) - gauge(old)) (+) fold of psi(tile; s)
        value = readout(A)                      # the running value that later gauges use
    merge(state, state'): the same, with A' * exp(gauge(s) - gauge(old')) in place of the tile's fold

Infinities: a row whose first tiles are masked has a running max of -inf, and exp(-inf - -inf) is NaN.  Only the *new*
reference is made finite; the old one stays, so that exp(gauge(new) - gauge(old)) is 0 there.  An accumulator that still
equals its identity is never multiplied (0 * inf).  NaN is not touched.

Running leaves (`ordered`): a part counts them from its own first element, and `merge` tells the right part what lies
before it.  `prefixes` gives the values at every element, from the states of parts.

Rows: a leaf has shape (..., K), a constant of the row is a number or has shape (..., 1); results have shape (...).
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sympy import Symbol

from .forms import Accumulator, Cascade, OnlineForm, Reduction, Refused, moved_to
from .levels import Levels
from .numeric import IDENTITY, evaluate, fold
from .ordered import before, shifts
from .transport import transport_exponent

Data = Mapping[Symbol, np.ndarray]
Running = Mapping[Symbol, Symbol]
_ARG = ("argmax", "argmin")
FIRST = 16
"""An anchor is the mean of so many elements: one alone may lie far out, and what is subtracted grows with its square."""


@dataclass
class _State:
    """A partial result, arrays of shape (..., 1): running values of the reductions, accumulators (for argmax: keys), and
    positions."""

    values: dict[Symbol, np.ndarray] = field(default_factory=dict)
    folded: dict[Symbol, np.ndarray] = field(default_factory=dict)
    position: dict[Symbol, np.ndarray] = field(default_factory=dict)


def reference(
    cascade: Cascade, data: Data, dtype: type = np.float64, running: Running | None = None
) -> dict[Symbol, np.ndarray]:
    """The reductions, one after another, by definition; every step rounded to dtype."""
    running = running or {}
    extent, rows = _extent(cascade, data, running)
    env = dict(data)
    for r in cascade.reductions:
        values = evaluate(r.expr, env, dtype=dtype)
        env[r.name] = np.broadcast_to(fold(r.combiner, values, extent), rows)[..., None]
        for p in (p for p, total in running.items() if total == r.name):
            env[p] = np.cumsum(np.broadcast_to(values, (*rows, extent)), axis=-1, dtype=dtype)
    return {r.name: env[r.name][..., 0] for r in cascade.reductions}


def run(
    cascade: Cascade,
    levels: Levels,
    data: Data,
    tile_sizes: Sequence[int] | None = None,
    rng: np.random.Generator | None = None,
    merge: str = "sequential",
    dtype: type = np.float64,
    stale: Mapping[Symbol, float] | None = None,
    running: Running | None = None,
) -> dict[Symbol, np.ndarray]:
    """The reductions by their online forms, `levels.passes` traversals at most.

    tile_sizes: used in turn, then repeated; without them, random ragged ones (`rng`).  merge: "sequential" streams all
    tiles through one state; "tree" gives each tile (or run of tiles) a state of its own and merges neighbours in random
    order.  dtype: what every step is rounded to.  stale: by how much the running value of a reduction may lag behind, for
    those that `gauge` proves free; the lagging value is then what its result says.  running: leaf -> the reduction whose
    running value it is (`ordered`); such leaves are not in `data`.
    """
    rng, running = rng or np.random.default_rng(0), running or {}
    extent, rows = _extent(cascade, data, running)
    finished: dict[Symbol, np.ndarray] = {}
    constants = {s: v for s, v in data.items() if s not in cascade.leaves}
    for n in range(1, levels.passes + 1):
        members = [r for r in cascade.reductions if levels.level[r.name] == n]
        if not members:
            continue
        known = {**constants, **finished}
        anchors = _anchors(members, levels, cascade, data, known, dtype)
        worker = _Traversal(members, levels, {**known, **anchors}, rows, dtype, stale or {}, running)
        tiles = _tiles(cascade, data, _bounds(extent, tile_sizes, rng), dtype)
        if merge == "sequential":
            state = worker.start()
            for offset, tile in tiles:
                state = worker.step(state, tile, offset)
        else:
            states = [worker.start()]
            for offset, tile in tiles:
                if rng.random() < 0.7:
                    states.append(worker.start())
                states[-1] = worker.step(states[-1], tile, offset)
            while len(states) > 1:
                i = int(rng.integers(len(states) - 1))
                states[i : i + 2] = [worker.merge(states[i], states[i + 1])]
            state = states[0]
        finished.update({r.name: state.values[r.name] for r in members})
    return {r.name: finished[r.name][..., 0] for r in cascade.reductions}


def prefixes(
    cascade: Cascade,
    levels: Levels,
    data: Data,
    tile_sizes: Sequence[int] | None = None,
    rng: np.random.Generator | None = None,
    dtype: type = np.float64,
    running: Running | None = None,
) -> dict[Symbol, np.ndarray]:
    """The reductions over the first k elements, for every k, shape (..., K): an ordered scan in chunks.

    Each chunk makes its states from the identity, and what lies before it is merged in.  Raises ValueError for a cascade
    of more than one traversal: a prefix of the second would need the whole first.
    """
    if levels.passes > 1:
        raise ValueError(f"{levels.passes} traversals have no running value")
    rng, running = rng or np.random.default_rng(0), running or {}
    extent, rows = _extent(cascade, data, running)
    constants = {s: v for s, v in data.items() if s not in cascade.leaves}
    anchors = _anchors(cascade.reductions, levels, cascade, data, constants, dtype)
    worker = _Traversal(cascade.reductions, levels, {**constants, **anchors}, rows, dtype, {}, running)
    found: dict[Symbol, list[np.ndarray]] = {r.name: [] for r in cascade.reductions}
    carried = worker.start()
    for a, b in _bounds(extent, tile_sizes, rng):
        local = worker.start()
        for offset, element in _tiles(cascade, data, [(k, k + 1) for k in range(a, b)], dtype):
            local = worker.step(local, element, offset)
            for name, value in worker.merge(carried, local).values.items():
                found[name].append(value)
        carried = worker.merge(carried, local)
    return {name: np.concatenate(values, axis=-1) for name, values in found.items()}


def _tiles(cascade: Cascade, data: Data, bounds: Sequence[tuple[int, int]], dtype: type) -> list[tuple[int, Data]]:
    """(first position, leaves) of each tile."""
    leaves = {s: np.asarray(data[s], dtype=dtype) for s in cascade.leaves if s in data}
    return [(a, {s: v[..., a:b] for s, v in leaves.items()}) for a, b in bounds]


def _anchors(
    members: Sequence[Reduction], levels: Levels, cascade: Cascade, data: Data, known: Mapping, dtype: type
) -> dict[Symbol, np.ndarray]:
    """Anchors that the data does not name: the mean over the first elements that are finite, or 0."""
    first = {s: np.asarray(data[s])[..., :FIRST] for s in cascade.leaves if s in data}
    anchors = {}
    for s, e in [pair for r in members for pair in levels.forms[r.name].anchors if pair[0] not in data]:
        value = evaluate(e, {**known, **first}, dtype=dtype)
        good = np.isfinite(value)
        total = np.sum(np.where(good, value, 0), axis=-1, keepdims=True)
        anchors[s] = total / np.maximum(1, np.sum(good, axis=-1, keepdims=True))
    return anchors


def _extent(cascade: Cascade, data: Data, running: Running) -> tuple[int, tuple[int, ...]]:
    """The extent of the rank, and the shape of the rows."""
    leaves = [np.atleast_1d(data[s]) for s in cascade.leaves - set(running)]
    extents = {v.shape[-1] for v in leaves}
    if len(extents) != 1:
        raise ValueError(f"leaves of one rank have one extent, not {sorted(extents)}")
    constants = [np.shape(data[s])[:-1] for s in data if s not in cascade.leaves]
    return extents.pop(), np.broadcast_shapes(*[v.shape[:-1] for v in leaves], *constants)


def _bounds(extent: int, sizes: Sequence[int] | None, rng: np.random.Generator) -> list[tuple[int, int]]:
    bounds, a, i = [], 0, 0
    while a < extent:
        size = sizes[i % len(sizes)] if sizes else int(rng.integers(1, max(2, extent // 2)))
        bounds.append((a, min(extent, a + size)))
        a, i = a + size, i + 1
    return bounds


def _finite(v: np.ndarray) -> np.ndarray:
    """A gauge reference: infinities become 0, NaN stays."""
    return np.where(np.isinf(v), np.zeros_like(v), v)


class _Traversal:
    """The reductions of one level, over values that are finished."""

    def __init__(
        self,
        members: Sequence[Reduction],
        levels: Levels,
        constants: Mapping[Symbol, np.ndarray],
        rows: tuple[int, ...],
        dtype: type,
        stale: Mapping[Symbol, float],
        running: Running,
    ):
        self.members: list[tuple[Reduction, OnlineForm]] = [(r, levels.forms[r.name]) for r in members]
        self.constants, self.stale, self.running = dict(constants), stale, running
        moved = shifts([form for _, form in self.members], running)
        if isinstance(moved, Refused):
            raise ValueError(moved.reason)
        self.shifts = moved
        self.shape, self.dtype = (*rows, 1), dtype
        self.fresh = {r.name: moved_to(r.name) for r in members}
        self.moves = {
            a.symbol: transport_exponent(a.gauge, self.fresh)
            for _, form in self.members
            for a in form.accumulators
            if a.gauge is not None
        }

    def start(self) -> _State:
        """The identity of `merge`."""
        state = _State()
        for r, form in self.members:
            for a in form.accumulators:
                state.folded[a.symbol] = np.full(self.shape, IDENTITY[a.combiner], dtype=self.dtype)
                state.position[a.symbol] = np.full(self.shape, np.inf)
            self._read(r, form, state)
        return state

    def step(self, state: _State, tile: Data, offset: int) -> _State:
        """The state after one more tile, whose first position is `offset`."""
        new = _State()
        size = next(iter(tile.values())).shape[-1]
        for r, form in self.members:
            moved = self._move(form, state, new)
            env = {**self.constants, **{s: _finite(v) for s, v in new.values.items()}, **tile}
            for p in (p for p, total in self.running.items() if total == r.name):
                tile = {**tile, p: state.values[r.name] + np.cumsum(evaluate(r.expr, env, dtype=self.dtype), axis=-1)}
            for a in form.accumulators:
                values = evaluate(a.psi, env, dtype=self.dtype)
                values = np.broadcast_to(values, (*self.shape[:-1], size))
                here, position = fold(a.combiner, values, size)[..., None], 0.0
                if a.combiner in _ARG:
                    position = here.astype(float) + offset
                    here = np.take_along_axis(values, here.astype(int), axis=-1)
                self._join(a, new, (moved[a.symbol], state.position[a.symbol]), (here, position))
            self._read(r, form, new, state)
        return new

    def merge(self, left: _State, right: _State) -> _State:
        """The state of two neighbouring parts."""
        right, new = self._behind(left, right), _State()
        for r, form in self.members:
            parts = [(self._move(form, s, new), s) for s in (left, right)]
            for a in form.accumulators:
                self._join(a, new, *[(moved[a.symbol], s.position[a.symbol]) for moved, s in parts])
            self._read(r, form, new, left)
        return new

    def _behind(self, left: _State, right: _State) -> _State:
        """The right part's state, once it knows what lies before it."""
        if not self.running:
            return right
        known = {before(total): left.values[total] for total in self.running.values()}
        new = _State({}, {}, dict(right.position))
        for r, form in self.members:
            for a in form.accumulators:
                value, delta = right.folded[a.symbol], self.shifts.get(a.symbol)
                if delta is not None:
                    by = evaluate(delta, known, dtype=self.dtype)
                    moved = value + by if a.combiner in ("max", "min") else value * np.exp(by)
                    value = np.where(value == self.dtype(IDENTITY[a.combiner]), value, moved)
                new.folded[a.symbol] = value
            self._read(r, form, new)
            if r.name in self.running.values():
                new.values[r.name] = left.values[r.name] + new.values[r.name]
        return new

    def _move(self, form: OnlineForm, old: _State, new: _State) -> dict[Symbol, np.ndarray]:
        """The accumulators of `old`, moved to the gauge of `new`."""
        target = {self.fresh[s]: _finite(v) for s, v in new.values.items()}
        moved = {a.symbol: self._scaled(a, old, target) for a in form.accumulators}
        env = {**self.constants, **old.values, **target, **moved}
        further = {a.symbol: evaluate(a.moves, env, dtype=self.dtype) for a in form.accumulators if a.moves is not None}
        return moved | further

    def _scaled(self, a: Accumulator, old: _State, target: Data) -> np.ndarray:
        value = old.folded[a.symbol]
        if a.gauge is None:
            return value
        source = evaluate(a.gauge, {**self.constants, **old.values})
        step = evaluate(self.moves[a.symbol], {**self.constants, **old.values, **target}, dtype=self.dtype)
        if np.any(np.isinf(source)):  # not the identity, so it was folded under the finite stand-in
            stand_in = {s: _finite(v) for s, v in old.values.items()}
            other = evaluate(self.moves[a.symbol], {**self.constants, **stand_in, **target}, dtype=self.dtype)
            step = np.where(np.isinf(source), other, step)
        with np.errstate(all="ignore"):
            moved = np.asarray(value * np.exp(step), dtype=self.dtype)
        return np.where(value == self.dtype(IDENTITY[a.combiner]), value, moved)

    @staticmethod
    def _join(a: Accumulator, new: _State, left: tuple, right: tuple) -> None:
        (x, i), (y, j) = left, right
        pair = np.concatenate([x, y], axis=-1)
        if a.combiner in _ARG:
            chosen = fold(a.combiner, pair, 2)[..., None] != 0
            chosen = np.where(
                x == y, j < i, chosen
            )  # a tie goes to the first; a part that has seen nothing is at infinity
            new.folded[a.symbol], new.position[a.symbol] = np.where(chosen, y, x), np.where(chosen, j, i)
        else:
            new.folded[a.symbol], new.position[a.symbol] = fold(a.combiner, pair, 2)[..., None], np.zeros_like(x)

    def _read(self, r: Reduction, form: OnlineForm, state: _State, before: _State | None = None) -> None:
        arg = {a.symbol for a in form.accumulators if a.combiner in _ARG}
        found = {s: state.position[s] if s in arg else state.folded[s] for a in form.accumulators for s in [a.symbol]}
        value = evaluate(form.readout, {**self.constants, **state.values, **found}, dtype=self.dtype)
        if before is not None and r.name in self.stale:  # an infinite reference is none
            old = before.values[r.name]
            value = np.where(np.isfinite(old) & (value <= old + self.stale[r.name]), old, value)
        state.values[r.name] = np.broadcast_to(value, self.shape)
