"""Running a derived cascade on plain float64 arrays: tiles of any size, partial states merged in any tree.

The oracle of the engine and the reference of what generated code has to do:

    step(state, tile):   for each reduction, in order:
        s     = the new running values of what its gauges name, infinities replaced by 0
        A     = A * exp(gauge(s) - gauge(old)) (+) fold of psi(tile; s)
        value = readout(A)                      # the running value that later gauges use
    merge(state, state'): the same, with A' * exp(gauge(s) - gauge(old')) in place of the tile's fold

Infinities: a row whose first tiles are masked has a running max of -inf, and exp(-inf - -inf) is NaN.  Only the *new*
reference is made finite; the old one stays, so that exp(gauge(new) - gauge(old)) is 0 there.  An accumulator that still
equals its identity is never multiplied (0 * inf).  NaN is not touched.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sympy import Symbol

from .forms import Accumulator, Cascade, OnlineForm, Reduction
from .levels import Levels
from .numeric import IDENTITY, evaluate, fold

Data = Mapping[Symbol, np.ndarray]


@dataclass
class _State:
    """A partial result: running values of the reductions, accumulator values (for argmax: keys), positions."""

    values: dict[Symbol, float] = field(default_factory=dict)
    folded: dict[Symbol, float] = field(default_factory=dict)
    position: dict[Symbol, float] = field(default_factory=dict)


def reference(cascade: Cascade, data: Data) -> dict[Symbol, np.ndarray]:
    """The reductions, one after another, by definition."""
    extent = _extent(cascade, data)
    env = dict(data)
    results = {}
    for r in cascade.reductions:
        env[r.name] = results[r.name] = fold(r.combiner, evaluate(r.expr, env), extent)
    return results


def run(
    cascade: Cascade,
    levels: Levels,
    data: Data,
    tile_sizes: Sequence[int] | None = None,
    rng: np.random.Generator | None = None,
    merge: str = "sequential",
) -> dict[Symbol, np.ndarray]:
    """The reductions by their online forms, `levels.passes` traversals at most.

    data: float64 arrays of one extent for the leaves, numbers for the constants.  tile_sizes: used in turn, then
    repeated; without them, random ragged ones (`rng`).  merge: "sequential" streams all tiles through one state; "tree"
    gives each tile (or run of tiles) a state of its own and merges neighbours in random order.
    """
    rng = rng or np.random.default_rng(0)
    extent = _extent(cascade, data)
    finished: dict[Symbol, np.ndarray] = {}
    constants = {s: v for s, v in data.items() if s not in cascade.leaves}
    for n in range(1, levels.passes + 1):
        members = [r for r in cascade.reductions if levels.level[r.name] == n]
        if not members:
            continue
        known = {**constants, **finished}
        worker = _Traversal(members, levels, {**known, **_anchors(members, levels, data, known)})
        bounds = _bounds(extent, tile_sizes, rng)
        tiles = [(a, {s: np.asarray(data[s], dtype=float)[a:b] for s in cascade.leaves}) for a, b in bounds]
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
    return {r.name: np.asarray(finished[r.name]) for r in cascade.reductions}


def _anchors(members: Sequence[Reduction], levels: Levels, data: Data, known: Mapping) -> dict[Symbol, np.ndarray]:
    """Anchors that the data does not name: taken at the first element, or 0 where that is not finite."""
    first = {s: np.asarray(v, dtype=float).reshape(-1)[0] for s, v in data.items()}
    wanted = [(s, e) for r in members for s, e in levels.forms[r.name].anchors if s not in data]
    values = {s: evaluate(e, {**first, **known}) for s, e in wanted}
    return {s: np.where(np.isfinite(v), v, 0.0) for s, v in values.items()}


def _extent(cascade: Cascade, data: Data) -> int:
    extents = {len(np.atleast_1d(data[s])) for s in cascade.leaves}
    if len(extents) != 1:
        raise ValueError(f"leaves of one rank have one extent, not {sorted(extents)}")
    return extents.pop()


def _bounds(extent: int, sizes: Sequence[int] | None, rng: np.random.Generator) -> list[tuple[int, int]]:
    bounds, a, i = [], 0, 0
    while a < extent:
        size = sizes[i % len(sizes)] if sizes else int(rng.integers(1, max(2, extent // 2)))
        bounds.append((a, min(extent, a + size)))
        a, i = a + size, i + 1
    return bounds


def _finite(v: float | np.ndarray) -> np.ndarray:
    """A gauge reference: infinities become 0, NaN stays."""
    return np.where(np.isinf(v), 0.0, v)


class _Traversal:
    """The reductions of one level, over values that are finished."""

    def __init__(self, members: Sequence[Reduction], levels: Levels, constants: Mapping[Symbol, np.ndarray]):
        self.members: list[tuple[Reduction, OnlineForm]] = [(r, levels.forms[r.name]) for r in members]
        self.constants = dict(constants)

    def start(self) -> _State:
        """The identity of `merge`."""
        state = _State()
        for r, form in self.members:
            for a in form.accumulators:
                state.folded[a.symbol], state.position[a.symbol] = IDENTITY[a.combiner], np.inf
            self._read(r, form, state)
        return state

    def step(self, state: _State, tile: Data, offset: int) -> _State:
        """The state after one more tile, whose first position is `offset`."""
        new = _State()
        size = len(next(iter(tile.values())))
        for r, form in self.members:
            for a in form.accumulators:
                env = {**self.constants, **{s: _finite(v) for s, v in new.values.items()}, **tile}
                moved = self._move(a, state, new)
                values = np.broadcast_to(evaluate(a.psi, env), (size,))
                if a.combiner in ("argmax", "argmin"):
                    here = int(fold(a.combiner, values, size))
                    self._join(a, new, (moved, state.position[a.symbol]), (values[here], float(here + offset)))
                else:
                    self._join(a, new, (moved, 0.0), (float(fold(a.combiner, values, size)), 0.0))
            self._read(r, form, new)
        return new

    def merge(self, left: _State, right: _State) -> _State:
        """The state of two neighbouring parts."""
        new = _State()
        for r, form in self.members:
            for a in form.accumulators:
                sides = [(self._move(a, s, new), s.position[a.symbol]) for s in (left, right)]
                self._join(a, new, *sides)
            self._read(r, form, new)
        return new

    def _move(self, a: Accumulator, old: _State, new: _State) -> float:
        """The accumulator of `old`, moved to the gauge of `new`."""
        value = old.folded[a.symbol]
        if a.gauge is None or value == IDENTITY[a.combiner]:
            return value
        target = evaluate(a.gauge, {**self.constants, **{s: _finite(v) for s, v in new.values.items()}})
        source = evaluate(a.gauge, {**self.constants, **old.values})
        if np.isinf(source):  # not the identity, so it was folded under the finite stand-in
            source = evaluate(a.gauge, {**self.constants, **{s: _finite(v) for s, v in old.values.items()}})
        with np.errstate(all="ignore"):
            return float(value * np.exp(target - source))

    @staticmethod
    def _join(a: Accumulator, new: _State, left: tuple[float, float], right: tuple[float, float]) -> None:
        if a.combiner in ("argmax", "argmin"):
            if left[0] == right[0]:  # a tie goes to the first position; a part that has seen nothing is at infinity
                chosen = min(left, right, key=lambda side: side[1])
            else:
                chosen = (left, right)[int(fold(a.combiner, np.array([left[0], right[0]]), 2))]
            new.folded[a.symbol], new.position[a.symbol] = chosen
        else:
            pair = np.array([left[0], right[0]])
            new.folded[a.symbol], new.position[a.symbol] = float(fold(a.combiner, pair, 2)), 0.0

    def _read(self, r: Reduction, form: OnlineForm, state: _State) -> None:
        arg = {a.symbol for a in form.accumulators if a.combiner in ("argmax", "argmin")}
        found = {s: state.position[s] if s in arg else state.folded[s] for a in form.accumulators for s in [a.symbol]}
        state.values[r.name] = evaluate(form.readout, {**self.constants, **state.values, **found})
