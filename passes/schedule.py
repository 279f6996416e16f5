"""schedule: each kernel becomes a tile program whose walk and tile sizes are the cheapest that the IO model knows.

When: on every `cascade.kernel`.

Before:  cascade.kernel @k { einsums over ranks }
After:   tile.kernel @k [i = n grid BI, j = m loop BJ, ...] params {BI = 128, BJ = 64} { loads, dots, loops, stores }

Roles come from how contractions use a rank, never from what the operations are called:

    batch ranks of every contraction          one element a program (unit)
    the streamed rank                         a loop, or whole where the row fits
    other reduced ranks                       whole where they fit, else a loop inside
    batch ranks of some contractions          one element a step of a loop, on a GPU: its matrix units take no batches
    output ranks that some contraction lacks  whole: a grid over them would repeat that contraction; the grid where
                                              nothing else fits
    other output ranks                        the grid, tiled

Why legal: a walk only orders independent work; reductions that cannot be split along a rank are never split.
The parameter space is what the tuner searches; its order is the predicted cost.

Where the programs are too few to fill the target, the streamed rank is also cut into parts, a few numbers of them, each
with a kernel that merges the parts (`split_reduction.py`); what both kernels take together decides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import sympy
from xdsl.ir import SSAValue

from ..ir import symbols, tile
from ..ir.attributes import AccessMap
from ..ir.cascade import EinsumOp, KernelOp, OnlineOp
from ..ir.target import Target
from .algebra.forms import Refused
from .bands import band_ranks
from .census import Census, Work
from .closed_tiles import ALL, MASKS, NEVER
from .contraction import Contraction, contractions
from .cost import Price, price
from .emit_tiles import SKIPPED, VISITED, emit_tiles
from .idle_loops import drop_idle_loops
from .split_reduction import Split, split_kernel
from .walk import LoopOptions, Parts, Walk

EACH = "each"  # the role of a rank that a loop walks element by element: in tables a unit rank, without the grid
EXHAUSTIVE = 500  # more bindings of tile sizes than this are not all priced
INNER = 64  # longest step of a loop inside a loop: as wide as shared memory is swizzled; more only holds addresses
AROUND = 256  # of the loop around it, which has no operands to keep
LONG_ROW = 8192  # elements that eight warps hold with registers to spare
WORTH_A_LOOP = 1.005  # a loop without the mask is kept where the mask in all tiles would cost more than this
# A side of a contraction with fewer is not yet worth a tile of its own: further ranks go into the same tile.
FEW_ROWS = 64
WORTH_ASKING = 1.03  # asking data whether a tile is closed may be predicted to cost this much where no tile is
LARGE = 4096  # stands for a size that is not known when it is needed for a decision
ALIKE = 1.02  # prices whose ratio is less do not decide between what moves
MUCH_LESS = 0.75  # times the bytes
SHORTEST_PART = 256  # elements of a streamed rank: a shorter part is all beginning and end
SPLIT_GAIN = 0.95  # two kernels must be predicted to take less than this part of one
MOST_PARTS = 256  # that a program of the merge holds whole


@dataclass(frozen=True)
class Scheduled:
    """A tile kernel with its parameters bound to the cheapest choice, what it does, what that costs.

    space: every admissible binding, the chosen one first, then cheapest first, as (parameters, predicted microseconds of
    the whole call).  walk: how its ranks are walked.  outputs: the layouts and accesses of the results that it was
    scheduled for.  filled: microseconds that some binding would take if its programs filled the target, and how many
    programs that binding has.
    merge: where the streamed rank is cut into parts, so that the results are their states: what follows.
    """

    kernel: tile.KernelOp
    work: Work
    price: Price
    space: tuple[tuple[tuple[tuple[str, int], ...], float], ...]
    walk: Walk
    outputs: tuple[tuple[tile.BufferType, AccessMap], ...]
    filled: tuple[float, int]
    merge: Merge | None = None

    @property
    def us(self) -> float:
        """Predicted microseconds of the whole call."""
        return self.price.us + (self.merge.scheduled.us if self.merge is not None else 0.0)


@dataclass(frozen=True)
class Merge:
    """The kernel behind one that computes the states of parts.

    split: the two as cascades, and what each reads.  states: the layouts between them.  parts: how many.
    """

    split: Split
    states: tuple[tile.BufferType, ...]
    parts: int
    scheduled: Scheduled

    @property
    def text(self) -> str:
        """A line for a derivation."""
        return f"  {'split':8} {self.split.rank} over {self.parts} parts, merged by a second kernel"


def schedule_kernel(
    kernel: KernelOp,
    target: Target,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
    sizes: Mapping[str, int] | None = None,
    parts: int | None = None,
    options: LoopOptions | None = None,
) -> Scheduled | Refused:
    """The cheapest schedule of one kernel.

    sizes: values (or guesses) of symbolic sizes, for pricing only.  parts: into how many its streamed rank is cut, where
    that is not to be decided (0: it is left in one).  Refused when no walk fits the target.
    """
    if parts:
        return _schedule_parts(kernel, target, inputs, outputs, sizes, parts, options)
    whole = _schedule_whole(kernel, target, inputs, outputs, sizes, options=options)
    if isinstance(whole, Refused) or parts == 0:
        return whole
    best, found = whole, []
    for count in _part_counts(kernel, target, whole, sizes):
        split = _schedule_parts(kernel, target, inputs, outputs, sizes, count, options)
        if isinstance(split, Refused):
            break
        if split.us <= SPLIT_GAIN * whole.us:
            found.append(split)
        elif target.kind == "cpu":
            break
    if found:
        best = min(found, key=lambda s: s.us)
        leanest = min((s for s in found if s.us <= ALIKE * best.us), key=lambda s: _moved(s.work))
        if target.kind != "cpu" and _moved(leanest.work) < MUCH_LESS * _moved(best.work):
            best = leanest
    rest = [*best.space[1:], *(row for s in (whole, *found) if s is not best for row in s.space)]
    return replace(best, space=(best.space[0], *sorted(rest, key=lambda row: (row[1], row[0]))))


def _part_counts(kernel: KernelOp, target: Target, whole: Scheduled, sizes: Mapping[str, int] | None) -> list[int]:
    """Into how many parts the streamed rank may be worth cutting: powers of two, that which fills the target twice first.

    On a GPU all fewer as well: with larger tiles than those of one kernel, programs may be too few for either.
    On a CPU not fewer: the workers take programs only where there are two for each.
    """
    us, programs = whole.filled
    if us + target.launch_us > SPLIT_GAIN * whole.us or not kernel.streamed:
        return []
    rank = next((r for r in whole.walk.table.data if r.role == "loop" and r.name == kernel.streamed), None)
    if rank is None:
        return []
    extent = symbols.evaluate(rank.extent, dict.fromkeys(symbols.names(rank.extent), LARGE) | dict(sizes or {}))
    visited = extent * whole.work.visits.get(rank.name, 1.0)  # what is cut
    longest = min(MOST_PARTS, int(visited) // SHORTEST_PART)
    wanted = 1 << max(1, math.ceil(math.log2(2 * target.sms / max(1, programs))))
    fewest = wanted if target.kind == "cpu" else 2
    first = min(wanted, 1 << (max(1, longest).bit_length() - 1))
    fewer = [first // 2] if target.kind == "cpu" else [first >> n for n in range(1, first.bit_length())]
    return [p for p in (first, *fewer, 2 * first) if fewest <= p <= longest]


def _filled(us: float, programs: int, target: Target) -> float:
    """Microseconds of a launch if none of the target stayed idle: as `price` has it, in the last wave or for want of draw."""
    waves = max(1, programs) / target.sms
    idle = math.ceil(waves) / waves
    return target.launch_us + max(0.0, us - target.launch_us) / max(idle, 1 / min(1.0, 2 * waves))


def _schedule_parts(
    kernel: KernelOp,
    target: Target,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
    sizes: Mapping[str, int] | None,
    count: int,
    options: LoopOptions | None,
) -> Scheduled | Refused:
    """The cheapest schedule with the streamed rank cut into `count` parts."""
    if not kernel.streamed:
        return Refused("no rank is streamed")
    split = split_kernel(kernel, kernel.streamed, count)
    if isinstance(split, Refused):
        return split
    parts = Parts(split.rank, split.part, f"SPLIT_{split.rank.upper()}")
    states = [_state(v, sympy.Integer(count)) for v in split.partial.returned]
    written = [
        (_state(v, symbols.symbol(parts.count)), AccessMap.of([parts.part, *v.owner.out_ranks(v.index)]))  # pyright: ignore
        for v in split.partial.returned
    ]
    reads = [inputs[n] for n in split.reads]
    first = _schedule_whole(split.partial, target, reads, written, sizes, (parts, count), options)
    if isinstance(first, Refused):
        return first
    merge_inputs = [*(inputs[n] for n in split.merge_reads), *states]
    second = _schedule_whole(split.merge, target, merge_inputs, outputs, sizes)
    if isinstance(second, Refused):
        return second
    space = tuple((params, us + second.us) for params, us in first.space)
    return replace(first, space=space, merge=Merge(split, tuple(states), count, second))


def _state(value: SSAValue, parts: sympy.Expr) -> tile.BufferType:
    """The layout of the states of all parts: the parts outermost, so that a program writes what lies together."""
    dims = [parts, *value.type.dims]  # pyright: ignore
    strides = [sympy.Mul(*dims[n + 1 :]) for n in range(len(dims))]
    return tile.BufferType.of(dims, strides, value.type.element_type)  # pyright: ignore


def _schedule_whole(
    kernel: KernelOp,
    target: Target,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
    sizes: Mapping[str, int] | None,
    parts: tuple[Parts, int] | None = None,
    options: LoopOptions | None = None,
) -> Scheduled | Refused:
    """The cheapest schedule of one kernel as one kernel; parts: how its streamed rank is cut, and into how many."""
    skip = (options or LoopOptions()).skip
    shape = _Shape(kernel, target, dict(sizes or {}), parts)
    best: Scheduled | None = None
    filled = math.inf, 0
    reasons: list[str] = []
    seen: list[dict[str, str]] = []
    for roles, last_resort in (*((r, False) for r in shape.variants()), *((r, True) for r in shape.variants(True))):
        if roles in seen or (last_resort and best is not None):
            continue
        seen.append(roles)
        walk = Walk(
            shape.table(roles),
            shape.grid(roles),
            dict.fromkeys(shape.parameters(roles), 1) | {"num_warps": 4, "num_stages": 2} | shape.counts,
            target.kind != "cpu",
            shape.parts,
            vector_dots=shape.vectors,
            skip=ALL if skip == "always" else NEVER,
            lazy=options is not None and options.lazy,
        )
        emitted = emit_tiles(kernel, walk, inputs, outputs)
        if isinstance(emitted, Refused):
            reasons.append(emitted.reason)
            continue
        priced = _price_bindings(shape, roles, Census(emitted, shape.sizes, 2 * target.sms))
        if not priced:
            reasons.append("no tile sizes fit the target's registers and shared memory")
            continue
        priced.sort(key=_preference)
        if not shape.cpu:
            _leanest_first(priced)
        filled = min(filled, *((_filled(us, w.programs, target), w.programs) for us, _, w, _ in priced))
        us, params, w, p = priced[0]
        asks = best is not None and SKIPPED in best.kernel.attributes  # only where that is wanted at any price
        if best is None or (SKIPPED in emitted.attributes, -us) > (asks, -best.price.us):
            emitted.params = _params(dict(params))
            space = tuple((params, us) for us, params, _, _ in priced)
            best = Scheduled(emitted, w, p, space, walk, tuple(outputs), filled)
    if best is None:
        return Refused("; ".join(dict.fromkeys(reasons)) or "nothing to walk")
    best = _masked_throughout(best, kernel, shape, inputs)
    if skip == "by_cost":
        best = _asking(best, kernel, shape, inputs)
    drop_idle_loops(best.kernel)
    return replace(best, filled=filled)


def _masked_throughout(
    best: Scheduled, kernel: KernelOp, shape: _Shape, inputs: Sequence[tile.BufferType]
) -> Scheduled:
    """The schedule without loops of their own for full tiles, where these do not make it cheaper: they may be few."""
    if VISITED not in best.kernel.attributes:
        return best
    other = _walked(best, replace(best.walk, full_tiles=False), kernel, shape, inputs)
    return best if other is None or other.price.us > best.price.us * WORTH_A_LOOP else other


def _asking(best: Scheduled, kernel: KernelOp, shape: _Shape, inputs: Sequence[tile.BufferType]) -> Scheduled:
    """The schedule that asks data whether a tile is closed before it is loaded, where that is cheap if none is."""
    loops = any(r.role == "loop" for r in best.walk.table.data)
    other = _walked(best, replace(best.walk, skip=MASKS), kernel, shape, inputs) if loops else None
    if other is None or SKIPPED not in other.kernel.attributes or other.price.us > best.price.us * WORTH_ASKING:
        return best
    return other


def _walked(
    best: Scheduled, walk: Walk, kernel: KernelOp, shape: _Shape, inputs: Sequence[tile.BufferType]
) -> Scheduled | None:
    """The schedule with the same parameters, walked in another way."""
    emitted = emit_tiles(kernel, walk, inputs, best.outputs)
    if isinstance(emitted, Refused):
        return None
    emitted.params = best.kernel.params
    params = emitted.parameters
    w = Census(emitted, shape.sizes, 2 * shape.target.sms).count(params)
    p = price(w, shape.target, params.get("num_warps", 4), params.get("num_stages", 2))
    p = replace(p, us=p.us * shape.unevenness(params))
    return replace(best, kernel=emitted, work=w, price=p, walk=walk)


def laid_out(
    scheduled: Scheduled,
    kernel: KernelOp,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
) -> Scheduled | Refused | None:
    """The same schedule of the same kernel for tensors of other strides: the choice does not depend on them.

    None when the results are of another kind (other ranks, or more elements), so that the choice has to be made again.
    """
    if scheduled.merge is not None:
        return _parts_laid_out(scheduled, scheduled.merge, inputs, outputs)
    for (old, at), (new, there) in zip(scheduled.outputs, outputs, strict=True):
        if set(at.ranks) != set(there.ranks) or _elements(old) != _elements(new):
            return None
    emitted = emit_tiles(kernel, scheduled.walk, inputs, outputs)
    if isinstance(emitted, Refused):
        return emitted
    emitted.params = scheduled.kernel.params
    drop_idle_loops(emitted)
    return replace(scheduled, kernel=emitted, outputs=tuple(outputs))


def _parts_laid_out(
    scheduled: Scheduled,
    merge: Merge,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
) -> Scheduled | Refused | None:
    split = merge.split
    first = laid_out(replace(scheduled, merge=None), split.partial, [inputs[n] for n in split.reads], scheduled.outputs)
    second = laid_out(merge.scheduled, split.merge, [*(inputs[n] for n in split.merge_reads), *merge.states], outputs)
    if not isinstance(first, Scheduled) or not isinstance(second, Scheduled):
        return first if not isinstance(first, Scheduled) else second
    return replace(first, merge=replace(merge, scheduled=second))


def _elements(kind: tile.BufferType) -> sympy.Expr:
    return sympy.expand(sympy.Mul(*kind.shape.data))


def _price_bindings(shape: _Shape, roles: Mapping[str, str], census: Census) -> list[tuple[float, tuple, Work, Price]]:
    """(microseconds, parameters, work, price) of the admissible bindings: all of them, or a walk one parameter at a time."""
    seen: dict[tuple, tuple[float, tuple, Work, Price]] = {}
    counted: dict[tuple[int, ...], Work] = {}  # by tile sizes: warps and stages do not change the work
    tiles = [_parameter(r) for r, role in roles.items() if role in ("grid", "loop")]

    def look(params: dict[str, int]) -> float:
        key = tuple(sorted(params.items()))
        if key not in seen:
            sizes = tuple(params[t] for t in tiles)
            if sizes not in counted:
                counted[sizes] = census.count(params)
            w = counted[sizes]
            p = price(w, shape.target, params.get("num_warps", 4), params.get("num_stages", 2))
            p = replace(p, us=p.us * shape.unevenness(params))
            seen[key] = (p.us, key, w, p)
        us, _, _, p = seen[key]
        return us if p.fits else math.inf

    choices = shape.choices(roles) | {name: [value] for name, value in shape.counts.items()}
    if math.prod(len(choices[t]) for t in tiles) <= EXHAUSTIVE:
        for values in itertools.product(*choices.values()):
            look(dict(zip(choices, values, strict=True)))
    else:
        for middle in (False, True):  # from the smallest tiles, and from tiles of middle size
            best = {name: values[len(values) // 2 if middle else 0] for name, values in choices.items()}
            for _ in range(3):
                for name, values in choices.items():
                    best[name] = min(values, key=lambda v, name=name, best=best: look(best | {name: v}))
    return [row for row in seen.values() if row[3].fits]


def _preference(row: tuple[float, tuple, Work, Price]) -> tuple:
    """Order of bindings: by time, then by what else is busy; a loop inside another starts often, with more stages ready."""
    us, params, w, p = row
    return us, p.busy_us, -dict(params).get("num_stages", 0) if w.nested else 0, params


def _leanest_first(priced: list[tuple[float, tuple, Work, Price]]) -> None:
    """Of bindings whose prices are all but the same, one that moves much less goes first: prices are not that exact."""
    alike = [row for row in priced if row[0] <= ALIKE * priced[0][0]]
    leanest = min(alike, key=lambda row: _moved(row[2]))
    if _moved(leanest[2]) < MUCH_LESS * _moved(priced[0][2]):
        priced.remove(leanest)
        priced.insert(0, leanest)


def _moved(w: Work) -> int:
    return w.load_bytes + w.store_bytes


def _params(values: dict[str, int]):
    from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, i64

    return DictionaryAttr({k: IntegerAttr(v, i64) for k, v in sorted(values.items())})


class _Shape:
    """What the choice of a walk depends on: ranks, contractions, extents, target."""

    def __init__(self, kernel: KernelOp, target: Target, sizes: dict[str, int], parts: tuple[Parts, int] | None = None):
        self.kernel, self.target = kernel, target
        self.parts = parts[0] if parts is not None else None
        self.counts = {parts[0].count: parts[1]} if parts is not None else {}
        self.extents: dict[str, sympy.Expr] = {}
        for op in kernel.body.block.ops:
            if isinstance(op, EinsumOp | OnlineOp):
                for name, extent in op.extents.items():
                    self.extents.setdefault(name, extent)
        if self.parts is not None:
            self.extents[self.parts.part] = symbols.symbol(self.parts.count)
        self.sizes = {**sizes, **self.counts}
        for e in self.extents.values():
            for n in symbols.names(e):
                self.sizes.setdefault(n, LARGE)
        for arg in kernel.body.block.args:
            for e in arg.type.dims:  # pyright: ignore
                for n in symbols.names(e):
                    self.sizes.setdefault(n, LARGE)
        self.dots: list[Contraction] = contractions(kernel)
        self.bands = band_ranks(kernel)
        # A matrix unit has no use for a single row; a library's product on a CPU reads the matrix once for it.
        self.vectors = target.kind == "cpu" and not self.dots
        if self.vectors:
            self.dots = contractions(kernel, vectors=True)
        self.out: list[str] = list(dict.fromkeys(r for v in kernel.returned for r in v.owner.out_ranks(v.index)))  # pyright: ignore
        self.reduced: set[str] = set()
        for op in kernel.body.block.ops:
            if isinstance(op, EinsumOp):
                self.reduced |= set(op.reduced)
            elif isinstance(op, OnlineOp):
                self.reduced.add(op.over.data)
        self.stream = kernel.streamed
        self.cpu = target.kind == "cpu"
        self.whole_limit = 1024 if self.cpu else 256

    def value(self, rank: str) -> int:
        return symbols.evaluate(self.extents[rank], self.sizes)

    def unevenness(self, params: Mapping[str, int]) -> float:
        """How much longer the longest part takes than a part of equal share."""
        if self.parts is None:
            return 1.0
        extent, count = self.value(self.parts.rank), params[self.parts.count]
        step = params[_parameter(self.parts.rank)]
        return -(-extent // (step * count)) * step * count / max(1, extent)

    def static(self, rank: str) -> bool:
        return self.extents[rank].is_Integer is True

    def may_be_whole(self, rank: str, limit: int | None = None) -> bool:
        return self.static(rank) and self.value(rank) <= (limit or self.whole_limit)

    def _longest_row(self) -> int:
        """Elements of a row that a program of a GPU may hold: in shared memory, or, with many warps, in half the registers."""
        return max(self.target.sram_bytes // 16, 0 if self.dots else self.target.registers // 2)

    def variants(self, last_resort: bool = False) -> Iterator[dict[str, str]]:
        """Assignments of roles to ranks that make sense, a few; or those that repeat work, to hold less at once."""
        fixed: dict[str, str] = {}
        choices: dict[str, list[str]] = {}
        for rank in self.extents:
            options = self._options(rank, last_resort)
            if len(options) == 1:
                fixed[rank] = options[0]
            else:
                choices[rank] = options
        for combination in itertools.islice(itertools.product(*choices.values()), 12):
            yield {r: {**fixed, **dict(zip(choices, combination, strict=True))}[r] for r in self.extents}

    def _options(self, rank: str, last_resort: bool) -> list[str]:
        if rank in self.reduced or (rank == self.stream):
            limit = self._longest_row() if rank not in {d.over for d in self.dots} and not self.cpu else None
            whole = self.may_be_whole(rank, limit)
            if self.parts is not None and rank == self.parts.rank:
                return ["loop"]
            if whole and rank != self.stream and not last_resort:
                return ["whole"]
            loop = EACH if self._one_by_one(rank) else "loop"
            return [loop, "whole"] if whole else [loop]
        if rank in self.bands:
            return ["band"]
        if self.parts is not None and rank == self.parts.part:
            return ["unit"]
        if self._batch(rank):  # on a CPU, the innermost batch rank is folded: a few dots in one call
            return ["grid"] if self.cpu and rank == [r for r in self.out if self._batch(r)][-1] else ["unit"]
        lacking = [d for d in self.dots if rank not in d.ranks]
        carrying = [d for d in self.dots if rank in d.ranks]
        if lacking and carrying:
            if self.may_be_whole(rank):
                return ["whole", "grid"] if last_resort else ["whole"]
            return ["grid"]
        return ["grid"] if rank in self._tiled() else ["unit"]

    def _one_by_one(self, rank: str) -> bool:
        """Whether a reduced rank is walked element by element: a batch of some product, of which no element is chosen."""
        choosing = any(
            isinstance(op, EinsumOp) and rank in op.reduced and any("arg" in c for c in op.combiner_names)
            for op in self.kernel.body.block.ops
        )
        batch = any(rank in d.batch for d in self.dots) and all(rank != d.over for d in self.dots)
        return not self.cpu and batch and not choosing

    def _batch(self, rank: str) -> bool:
        """A rank that both sides of every contraction that has it carry."""
        dots = [d for d in self.dots if not d.ranks & self.bands.keys()] or self.dots
        having = [d for d in dots if rank in d.ranks]
        return bool(having) and all(rank in d.batch for d in having) and not any(rank not in d.ranks for d in dots)

    def _tiled(self) -> set[str]:
        """Which output ranks get tiles: the largest on each side of the contractions; without any, the innermost."""
        candidates = [r for r in self.out if r not in self.reduced and not self._batch(r)]
        if not self.dots:
            streams = bool(self.reduced and self.stream)  # else what is reduced is held whole: a merge
            return set(candidates[-1:]) if streams else set(candidates[-2:])
        tiled: set[str] = set()
        for d in self.dots:
            for side in (d.lhs - d.rhs, d.rhs - d.lhs):
                mine = [r for r in candidates if r in side]
                walked = side & self.reduced  # the streamed rank gives this side its tile
                if mine and (self.cpu or not walked):
                    tiled.update(self._together(mine))
        return tiled

    def _together(self, ranks: Sequence[str]) -> list[str]:
        """Which free ranks of one side share its tile, the largest first: further ones as long as the tile has few rows.

        What the other side has is loaded once for all of them: keys and values once for a group of heads and their queries.
        """
        first, *rest = sorted(ranks, key=lambda r: (-self.value(r), ranks.index(r)))
        found, rows = [first], self.value(first)
        for r in rest:
            if not self.static(r) or rows * self.value(r) > FEW_ROWS:
                break
            found.append(r)
            rows *= self.value(r)
        return found

    # --- tables --------------------------------------------------------------------------------------------------

    def table(self, roles: Mapping[str, str]) -> tile.TileRanks:
        """Ranks in the order in which tiles have them: for each contraction the rows, then the columns."""
        order: dict[str, None] = dict.fromkeys(r for r in self.out if roles[r] == "unit" or self._batch(r))
        rank_at = {r: n for n, r in enumerate(dict.fromkeys([*self.out, *self.extents]))}
        last = dict.fromkeys((r for r in roles if roles[r] == "unit" and not self.cpu), len(rank_at))
        for d in self.dots:  # units are no part of a tile: they do not make a side the rows of a matrix unit
            sides = [d.lhs - d.rhs, d.rhs - d.lhs]
            sides.sort(key=lambda side: min((rank_at[r] + last.get(r, 0) for r in side), default=0))
            for side in sides:
                order.update(dict.fromkeys(r for r in [*self.out, *self.extents] if r in side))
        order.update(dict.fromkeys([*self.out, *self.extents]))
        return tile.TileRanks(
            tuple(
                tile.TileRank(
                    r,
                    self.extents[r],
                    "unit" if roles[r] == EACH else roles[r],
                    _parameter(r) if roles[r] in ("grid", "loop") else None,
                    self.bands.get(r),
                )
                for r in order
                if r in self.extents
            )
        )

    def grid(self, roles: Mapping[str, str]) -> tuple[str, ...]:
        """Batch ranks outermost; then the ranks with more programs outside, so that the wider operand is reused inside."""
        ranks = [r for r in self.table(roles).names if roles[r] in ("unit", "grid")]
        outer = [r for r in ranks if self._batch(r)]
        if self.parts is not None:  # programs that walk the same part run at the same time, and share it in the cache
            outer.append(self.parts.part)
        inner = sorted((r for r in ranks if r not in outer), key=lambda r: -self.value(r))
        return (*outer, *inner)

    def parameters(self, roles: Mapping[str, str]) -> list[str]:
        return [_parameter(r) for r in roles if roles[r] in ("grid", "loop")]

    def choices(self, roles: Mapping[str, str]) -> dict[str, list[int]]:
        """The values that each parameter may take."""
        loops = {r for r, role in roles.items() if role in ("loop", EACH)}
        inner = {d.over for d in self.dots if d.over in loops and loops & d.ranks - {d.over}}
        around = loops & {r for d in self.dots if d.over in inner for r in d.ranks} - inner
        longest = {**dict.fromkeys(inner, INNER), **dict.fromkeys(around, AROUND)}
        found = {
            _parameter(r): self._sizes_of(r, role, longest.get(r, 128))
            for r, role in roles.items()
            if role in ("grid", "loop")
        }
        found |= self._shared_sizes([r for r, role in roles.items() if role == "grid" and not self._batch(r)])
        return found if self.cpu else found | {"num_warps": self._warps(roles), "num_stages": [2, 3]}

    def _warps(self, roles: Mapping[str, str]) -> list[int]:
        """More than eight only where a row is held that leaves fewer threads no registers."""
        row = max((self.value(r) for r, role in roles.items() if role == "whole"), default=0)
        alone = not self.dots and "loop" not in roles.values() and row > LONG_ROW
        return [
            w for w in ((4, 8, 16, 32) if alone else (4, 8)) if w * self.target.warp_size <= self.target.max_threads
        ]

    def _shared_sizes(self, grid: Sequence[str]) -> dict[str, list[int]]:
        """Sizes of the ranks that share a tile: all of each, and at least what fills a dot."""
        found: dict[str, list[int]] = {}
        for d in self.dots:
            for side in (d.lhs - d.rhs, d.rhs - d.lhs):
                first, *rest = self._together(mine) if (mine := [r for r in grid if r in side]) else [""]
                if not rest:
                    continue
                whole = {r: self.value(r) if self.cpu else 1 << (self.value(r) - 1).bit_length() for r in rest}
                found |= {_parameter(r): [n] for r, n in whole.items()}
                if not self.cpu:
                    least = max(1, 16 // math.prod(whole.values()))
                    found[_parameter(first)] = [max(least, 1 << (self.value(first) - 1).bit_length())]
        return found

    def _sizes_of(self, rank: str, role: str, longest: int) -> list[int]:
        """longest: step of a loop beside contractions on a GPU."""
        extent = max(1, self.value(rank))
        if self.cpu and self._batch(rank):
            return sorted({s for s in (1, 2, 4, 8, extent) if s <= min(extent, 16)})
        if self.cpu:
            steps = [64, 128, 256, 512, 1024, 2048] if role == "loop" else [16, 32, 64, 128, 256, 512, 1024]
            if self.vectors and role == "loop":  # a matrix that is read once need not stay in cache
                steps += [4096, 8192, 16384]
            kept = [s for s in steps if s < extent]
            return [*kept, extent] if extent <= steps[-1] and self.static(rank) else kept or [steps[0]]
        low = 16 if any(rank in d.ranks for d in self.dots) else 1
        steps = [s for s in (1, 2, 4, 8, 16, 32, 64, 128, 256) if s >= low]
        ceiling = max(low, 1 << (extent - 1).bit_length())
        if role == "loop":
            steps = [s for s in (16, 32, 64, 128, 256, 512, 1024) if s <= (longest if self.dots else 1024)]
        return [s for s in steps if s <= ceiling] or [low]


def _parameter(rank: str) -> str:
    return f"B{rank.upper()}"
