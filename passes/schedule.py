"""schedule: each kernel becomes a tile program whose walk and tile sizes are the cheapest that the IO model knows.

When: on every `cascade.kernel`.

Before:  cascade.kernel @k { einsums over ranks }
After:   tile.kernel @k [i = n grid BI, j = m loop BJ, ...] params {BI = 128, BJ = 64} { loads, dots, loops, stores }

The roles that ranks may have, and the sizes of tiles: `kernel_shape.py`.

Why legal: a walk only orders independent work; reductions that cannot be split along a rank are never split.
The parameter space is what the tuner searches; its order is the predicted cost.

Where the programs are too few to fill the target, the streamed rank is also cut into parts, a few numbers of them, each
with a kernel that merges the parts (`split_reduction.py`); what both kernels take together decides.  On a GPU, where tiles
have unequal work or do not divide among the multiprocessors, the steps of all tiles are cut into equal shares as well.
Where data says which steps are needed, a kernel ahead may find the bounds of the loop (`data_bounds.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import sympy
from xdsl.ir import SSAValue

from ..ir import symbols, tile
from ..ir.attributes import AccessMap
from ..ir.cascade import KernelOp
from ..ir.launch import Given, available
from ..ir.target import Target
from .algebra.forms import Refused
from .census import Census, Work
from .closed_tiles import ALL, MASKS, NEVER
from .cost import Price, price_with
from .data_bounds import DataBounds, data_bounds
from .emit_tiles import SKIPPED, VISITED, WITHIN, emit_tiles
from .idle_loops import drop_idle_loops
from .kernel_shape import LARGE, KernelShape, parameter
from .scheduled import Before, Merge, Scheduled
from .share_bindings import ShareBinding, share_bindings
from .split_reduction import split_kernel
from .walk import LoopOptions, Parts, Pinned, Shares, Walk

EXHAUSTIVE = 500  # more bindings of tile sizes than this are not all priced
WORTH_A_LOOP = 1.005  # a loop without the mask is kept where the mask in all tiles would cost more than this
WORTH_ASKING = 1.03  # asking data which tiles are closed, in the loop or ahead, may be predicted to cost this much
ALIKE = 1.02  # prices whose ratio is less do not decide between what moves
MUCH_LESS = 0.8  # times the bytes
AS_GOOD = 1.1  # prices whose ratio is less: what larger sizes than are likely may cost the likely ones
FAR_LESS = 0.6  # times the bytes, where a launch comes with it
SHORTEST_PART = 256  # elements of a streamed rank: a shorter part is all beginning and end
SPLIT_GAIN = 0.95  # two kernels must be predicted to take less than this part of one
PRICED = ("num_warps", "num_stages", "share_operations")  # the launch parameters that change a price
MOST_PARTS = 256  # that a program of the merge holds whole
WIDE_TILES = (256, 128)  # of a streamed rank that the products of a loop inside spread over


def schedule_kernel(
    kernel: KernelOp,
    target: Target,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
    sizes: Mapping[str, int] | None = None,
    parts: int | None = None,
    options: LoopOptions | None = None,
    shares: int | None = None,
) -> Scheduled | Refused:
    """The cheapest schedule of one kernel.

    sizes: values (or guesses) of symbolic sizes, for pricing only.  parts: into how many its streamed rank is cut, where
    that is not to be decided (0: it is left in one).  shares: into how many equal shares the steps of all tiles are, where
    that is not to be decided.  Refused when no walk fits the target.
    """
    if shares:
        return schedule_shares(kernel, target, inputs, outputs, sizes, shares, options)
    if parts:
        return schedule_parts(kernel, target, inputs, outputs, sizes, parts, options)
    whole = schedule_whole(kernel, target, inputs, outputs, sizes, options=options)
    if isinstance(whole, Refused) or parts == 0:
        return whole
    best, found = whole, []
    for count in (*part_counts(kernel, target, whole, sizes), *single_steps(kernel, target, whole, sizes)):
        split = schedule_parts(kernel, target, inputs, outputs, sizes, count, options)
        if isinstance(split, Refused):
            break
        if split.us <= SPLIT_GAIN * whole.us or _leaner(split, whole, target):
            found.append(split)
        elif target.kind == "cpu":
            break
    if found:
        best = min(found, key=lambda s: s.us)
        best = min((s for s in found if s is best or _leaner(s, best, target)), key=lambda s: _moved(s.work))
    # What a user asks of a launch is asked of tiles, not of shares; a walk within loaded bounds has no known steps.
    chosen = (options is not None and bool(options.launch)) or best.before is not None
    for programs in [] if chosen else share_counts(target, whole):
        shared = schedule_shares(kernel, target, inputs, outputs, sizes, programs, options, SHORTEST_PART)
        if isinstance(shared, Refused):
            break
        found.append(shared)
        if shared.us <= SPLIT_GAIN * best.us or _leaner(shared, best, target):
            best = shared
    rest = [*best.space[1:], *(row for s in (whole, *found) if s is not best for row in s.space)]
    return replace(best, space=(best.space[0], *sorted(rest, key=lambda row: (row[1], row[0]))))


def _leaner(one: Scheduled, other: Scheduled, target: Target) -> bool:
    """Whether a call takes as long as another, as far as prices tell, and moves much less; far less where it has a kernel
    more.  Not on a CPU, whose prices count all moves."""
    less = FAR_LESS if one.merge is not None and other.merge is None else MUCH_LESS
    alike = one.us <= ALIKE * other.us and target.kind != "cpu"
    return alike and _moved(one.work) < less * _moved(other.work)


def _narrowed(whole: Scheduled, target: Target) -> bool:
    """Whether larger tiles, which move less, may only be missing because their programs would not fill the target."""
    return target.kind != "cpu" and whole.work.programs < 2 * target.sms and bool(whole.work.dots)


def part_counts(kernel: KernelOp, target: Target, whole: Scheduled, sizes: Mapping[str, int] | None) -> list[int]:
    """Into how many parts the streamed rank may be worth cutting: powers of two, that which fills the target twice first.

    On a GPU all fewer as well: with larger tiles than those of one kernel, programs may be too few for either.
    On a CPU not fewer: the workers take programs only where there are two for each.
    """
    us, programs = whole.filled
    pays = us + target.launch_us <= SPLIT_GAIN * whole.us
    if not kernel.streamed or not (pays or _narrowed(whole, target)):
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


def single_steps(kernel: KernelOp, target: Target, whole: Scheduled, sizes: Mapping[str, int] | None) -> list[int]:
    """Into how many parts the streamed rank is cut so that each is one tile: no loop is around the inner one then.

    Where a loop is in a loop, that leaves registers for larger tiles, and all programs start with loads at once.
    """
    if target.kind == "cpu" or whole.work.nested is None or not kernel.streamed:
        return []
    rank = whole.walk.table[kernel.streamed]
    extent = symbols.evaluate(rank.extent, dict.fromkeys(symbols.names(rank.extent), LARGE) | dict(sizes or {}))
    counts = (-(-extent // tile_size) for tile_size in WIDE_TILES)
    return [count for count in counts if 1 < count <= MOST_PARTS] if rank.role == "loop" else []


def share_counts(target: Target, whole: Scheduled) -> list[int]:
    """Into how many equal shares the steps of all tiles may be worth cutting: one or two programs a multiprocessor.

    None where programs of a tile each leave too little idle to pay for a launch, whatever the tiles.
    """
    if target.kind == "cpu" or not any(r.role == "loop" for r in whole.walk.table.data):
        return []
    pays = whole.even + target.launch_us <= SPLIT_GAIN * whole.us
    return [target.sms, 2 * target.sms] if pays or _narrowed(whole, target) else []


def _filled(us: float, programs: int, target: Target) -> float:
    """Microseconds of a launch if none of the target stayed idle: as `price` has it, in the last wave or for want of draw."""
    waves = max(1, programs) / target.sms
    idle = math.ceil(waves) / waves
    return target.launch_us + max(0.0, us - target.launch_us) / max(idle, 1 / min(1.0, 2 * waves))


def schedule_parts(
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
    first = schedule_whole(split.partial, target, reads, written, sizes, (parts, count), options)
    if isinstance(first, Refused):
        return first
    merge_inputs = [*(inputs[n] for n in split.merge_reads), *states]
    launch = LoopOptions(launch=options.launch) if options is not None else None
    second = schedule_whole(split.merge, target, merge_inputs, outputs, sizes, options=launch)
    if isinstance(second, Refused):
        return second
    space = tuple((params, us + second.us) for params, us in first.space)
    return replace(first, space=space, merge=Merge(split, tuple(states), count, second))


def _even(us: float, w: Work, target: Target) -> float:
    """Microseconds of a launch if all multiprocessors had the same to do."""
    waves = max(1, w.programs) / target.sms
    return target.launch_us + max(0.0, us - target.launch_us) / (max(math.ceil(waves), w.heaviest) / waves)


def schedule_shares(
    kernel: KernelOp,
    target: Target,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
    sizes: Mapping[str, int] | None,
    programs: int,
    options: LoopOptions | None,
    shortest: int = 0,
) -> Scheduled | Refused:
    """The cheapest schedule with the steps of all tiles in equal shares for (at most) so many programs.

    shortest: elements of the streamed rank that a share has at least.
    """
    if not kernel.streamed:
        return Refused("no rank is streamed")
    split = split_kernel(kernel, kernel.streamed, 1)
    if isinstance(split, Refused):
        return split
    name = split.rank.upper()
    shares = Shares(split.rank, split.part, f"SPLIT_{name}", f"SHARE_{name}")
    written = [
        (_state(v, symbols.symbol(shares.count)), AccessMap.of([shares.part, *v.owner.out_ranks(v.index)]))  # pyright: ignore
        for v in split.partial.returned
    ]
    reads = [inputs[n] for n in split.reads]
    shape = KernelShape(split.partial, target, dict(sizes or {}), (shares, 1))
    found = share_bindings(split.partial, shape, shares, reads, written, programs, options or LoopOptions(), shortest)
    if isinstance(found, Refused):
        return found
    merges: dict[int, Merge | None] = {}
    rows: list[tuple[float, ShareBinding]] = []
    for binding in sorted(found, key=lambda b: (b.price.us, b.price.busy_us, b.params)):
        pieces = binding.pieces
        if pieces not in merges:
            if rows and binding.price.us > ALIKE * min(us for us, _ in rows):  # whatever its merge takes
                continue
            merges[pieces] = _merge_of(kernel, target, inputs, outputs, sizes, pieces) if pieces <= MOST_PARTS else None
        merge = merges[pieces]
        if merge is not None:
            rows.append((binding.price.us + merge.scheduled.us, binding))
    if not rows:
        return Refused("tiles are cut into more pieces than a merge holds")
    rows.sort(key=lambda row: row[0])
    leanest = min((row for row in rows if row[0] <= ALIKE * rows[0][0]), key=lambda row: _moved(row[1].work))
    if _moved(leanest[1].work) < MUCH_LESS * _moved(rows[0][1].work):
        rows.remove(leanest)
        rows.insert(0, leanest)
    first, params = rows[0][1], dict(rows[0][1].params)
    merge = merges[first.pieces]
    assert merge is not None
    first.kernel.params = _params(params)
    shape.sizes |= {shares.count: first.pieces}
    space = tuple((b.params, us) for us, b in rows)
    filled = first.price.us, first.work.programs
    best = Scheduled(
        first.kernel, first.work, first.price, space, first.walk, tuple(written), filled, roles=first.roles
    )
    best = _masked_throughout(best, split.partial, shape, reads)
    drop_idle_loops(best.kernel)
    return replace(best, merge=replace(merge, each=params[shares.each]))


def _merge_of(
    kernel: KernelOp,
    target: Target,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
    sizes: Mapping[str, int] | None,
    count: int,
) -> Merge | None:
    """The kernel behind so many parts of the streamed rank, scheduled."""
    split = split_kernel(kernel, kernel.streamed, count)
    if isinstance(split, Refused):
        return None
    states = tuple(_state(v, sympy.Integer(count)) for v in split.partial.returned)
    given = [*(inputs[n] for n in split.merge_reads), *states]
    scheduled = schedule_whole(split.merge, target, given, outputs, sizes)
    return Merge(split, states, count, scheduled) if isinstance(scheduled, Scheduled) else None


def _state(value: SSAValue, parts: sympy.Expr) -> tile.BufferType:
    """The layout of the states of all parts: the parts outermost, so that a program writes what lies together."""
    return _row_major(value, parts)


def schedule_whole(
    kernel: KernelOp,
    target: Target,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
    sizes: Mapping[str, int] | None,
    parts: tuple[Parts, int] | None = None,
    options: LoopOptions | None = None,
) -> Scheduled | Refused:
    """The cheapest schedule of one kernel as one kernel; parts: how its streamed rank is cut, and into how many."""
    options = options or LoopOptions()
    skip, pinned = options.skip, options.pinned
    found: DataBounds | Refused | None = None
    if kernel.streamed and skip in ("bounds", "by_cost"):
        found = data_bounds(kernel, kernel.streamed, ALL if skip == "bounds" else MASKS)
        found = None if isinstance(found, Refused) else found
    shape = KernelShape(kernel, target, dict(sizes or {}), parts)
    best: Scheduled | None = None
    left_out = False
    filled, even = (math.inf, 0), math.inf
    reasons: list[str] = []
    seen: list[dict[str, str]] = []
    for roles, last_resort in (*((r, False) for r in shape.variants()), *((r, True) for r in shape.variants(True))):
        if roles in seen or (last_resort and best is not None):
            continue
        seen.append(roles)
        if pinned is not None and dict(pinned.roles) != roles:
            continue
        walk = Walk(
            shape.table(roles),
            shape.grid(roles),
            dict.fromkeys(shape.parameters(roles), 1) | {"num_warps": 4, "num_stages": 2} | shape.counts,
            target.kind != "cpu",
            shape.parts,
            vector_dots=shape.vectors,
            skip=ALL if skip == "always" else NEVER,
            lazy=options.lazy,
        )
        emitted = emit_tiles(kernel, walk, inputs, outputs)
        if isinstance(emitted, Refused):
            reasons.append(emitted.reason)
            continue
        census = Census(emitted, shape.sizes, 2 * target.sms)
        priced = _price_bindings(shape, roles, census, options.launch, pinned)
        if not priced:
            reasons.append("no tile sizes fit the target's registers and shared memory")
            continue
        priced.sort(key=_preference)
        if not shape.cpu:
            _leanest_first(priced)
        if shape.far:
            _best_from_afar_first(priced, Census(emitted, shape.far, 2 * target.sms), shape)
        filled = min(filled, *((_filled(us, w.programs, target), w.programs) for us, _, w, _ in priced))
        even = min(even, *(_even(us, w, target) for us, _, w, _ in priced))
        us, _, w, p = priced[0]
        # What is left out of a loop counts first, only where that is wanted at any price.
        leaves_out = SKIPPED in emitted.attributes or (skip == "bounds" and found and roles[kernel.streamed] == "loop")
        if best is None or (bool(leaves_out), -us) > (left_out, -best.price.us):
            left_out = bool(leaves_out)
            known = all(symbols.names(shape.extents[r]) <= set(shape.counts) for r in emitted.grid_ranks)
            space = tuple((_launched(row, target, options.launch, known), row[0]) for row in priced)
            emitted.params = _params(dict(space[0][0]))
            choices = _choices(shape, roles, emitted.parameters, p, w.programs)
            best = Scheduled(emitted, w, p, space, walk, tuple(outputs), filled, choices, roles=tuple(roles.items()))
    if best is None:
        return Refused("; ".join(dict.fromkeys(reasons)) or "nothing to walk")
    best = _masked_throughout(best, kernel, shape, inputs)
    if skip == "by_cost":
        best = _asking(best, kernel, shape, inputs)
    if found is not None and SKIPPED not in best.kernel.attributes:
        best = _bounded(best, found, shape, inputs, skip == "bounds")
    drop_idle_loops(best.kernel)
    return replace(best, filled=filled, even=even)


def _masked_throughout(
    best: Scheduled, kernel: KernelOp, shape: KernelShape, inputs: Sequence[tile.BufferType]
) -> Scheduled:
    """The schedule without loops of their own for full tiles, where these do not make it cheaper: they may be few."""
    if VISITED not in best.kernel.attributes:
        return best
    other = _walked(best, replace(best.walk, full_tiles=False), kernel, shape, inputs)
    if other is None or other.price.us > best.price.us * WORTH_A_LOOP:
        return best
    if shape.far:  # of a length that is likely there may be no full tile, and many of a longer one
        with_loop, without = (_far_us(Census(s.kernel, shape.far), s.kernel.parameters, shape) for s in (best, other))
        if without > with_loop * WORTH_A_LOOP:
            return best
    return other


def _asking(best: Scheduled, kernel: KernelOp, shape: KernelShape, inputs: Sequence[tile.BufferType]) -> Scheduled:
    """The schedule that asks data whether a tile is closed before it is loaded, where that is cheap if none is."""
    loops = any(r.role == "loop" for r in best.walk.table.data)
    other = _walked(best, replace(best.walk, skip=MASKS), kernel, shape, inputs) if loops else None
    if other is None or SKIPPED not in other.kernel.attributes or other.price.us > best.price.us * WORTH_ASKING:
        return best
    return other


def _bounded(
    best: Scheduled, found: DataBounds, shape: KernelShape, inputs: Sequence[tile.BufferType], wanted: bool
) -> Scheduled:
    """The schedule within bounds that a kernel ahead finds in data, where that is wanted, or cheap if nothing is closed."""
    if not any(r.name == found.within.rank and r.role == "loop" for r in best.walk.table.data):
        return best
    if not wanted and not _in_runs(found, best.walk):
        return best
    states = [_row_major(v) for v in found.find.returned]
    written = [(b, AccessMap.of(found.within.rows)) for b in states]
    options = LoopOptions("never")
    reads = [inputs[n] for n in found.reads]
    first = schedule_whole(found.find, shape.target, reads, written, shape.sizes, options=options)
    if isinstance(first, Refused) or (not wanted and first.us > (WORTH_ASKING - 1) * best.price.us):
        return best
    walk = replace(best.walk, within=found.within)
    other = _walked(best, walk, found.walk, shape, [*inputs, *states])
    if other is None or WITHIN not in other.kernel.attributes:
        return best
    if wanted:
        other = _asking(other, found.walk, shape, [*inputs, *states])
    elif other.price.us + first.us > best.price.us * WORTH_ASKING:
        return best
    space = tuple((params, us + first.us) for params, us in other.space)
    return replace(other, space=space, before=Before(found, tuple(states), first))


def _in_runs(found: DataBounds, walk: Walk) -> bool:
    """Whether what data leaves out is likely at the ends of a rank: where rows and indices have data of their own (ids).

    It is as likely anywhere where each pair of a row and an index has its own (a mask), and where all rows have the same.
    """
    if not found.within.rows:
        return False
    rank = symbols.symbol(found.within.rank)
    tiled = {symbols.symbol(r) for r in found.within.rows if walk.table[r].role == "grid"}
    return not any(rank in access.data and tiled & set(access.data) for access in found.accesses)


def _row_major(value: SSAValue, *outer: sympy.Expr) -> tile.BufferType:
    dims = [*outer, *value.type.dims]  # pyright: ignore
    strides = [sympy.Mul(*dims[n + 1 :]) for n in range(len(dims))]
    return tile.BufferType.of(dims, strides, value.type.element_type)  # pyright: ignore


def _walked(
    best: Scheduled, walk: Walk, kernel: KernelOp, shape: KernelShape, inputs: Sequence[tile.BufferType]
) -> Scheduled | None:
    """The schedule with the same parameters, walked in another way."""
    emitted = emit_tiles(kernel, walk, inputs, best.outputs)
    if isinstance(emitted, Refused):
        return None
    emitted.params = best.kernel.params
    params = emitted.parameters
    w = Census(emitted, shape.sizes, 2 * shape.target.sms).count(params)
    p = price_with(w, shape.target, params)
    p = replace(p, us=p.us * shape.unevenness(params, shape.sizes))
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
    if scheduled.before is not None:
        return _bounds_laid_out(scheduled, scheduled.before, inputs, outputs)
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


def _bounds_laid_out(
    scheduled: Scheduled,
    before: Before,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
) -> Scheduled | Refused | None:
    found = before.found
    first = laid_out(before.scheduled, found.find, [inputs[n] for n in found.reads], before.scheduled.outputs)
    second = laid_out(replace(scheduled, before=None), found.walk, [*inputs, *before.states], outputs)
    if not isinstance(first, Scheduled) or not isinstance(second, Scheduled):
        return first if not isinstance(first, Scheduled) else second
    return replace(second, before=replace(before, scheduled=first))


def _elements(kind: tile.BufferType) -> sympy.Expr:
    return sympy.expand(sympy.Mul(*kind.shape.data))


def _launched(
    row: tuple[float, tuple, Work, Price], target: Target, given: Given, known: bool
) -> tuple[tuple[str, int], ...]:
    """The parameters of a binding, with those that are given and that price says nothing of.

    `persistent`: as many programs as run at once; none are, where that is known to be all.
    """
    _, params, w, p = row
    more = {n: int(v) for n, v in given if n not in PRICED}
    if dict(given).get("persistent") is True:
        at_once = target.sms * p.beside
        more["persistent"] = 0 if known and w.programs <= at_once else at_once
    return tuple(sorted({**dict(params), **more}.items())) if more else params


def _choices(
    shape: KernelShape, roles: Mapping[str, str], chosen: Mapping[str, int], p: Price, programs: int
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Of each parameter the values that a tuner may try, the chosen one first."""
    found: dict[str, list[int]] = dict(shape.choices(roles))
    there = available(shape.target)
    at_once = shape.target.sms * p.beside
    if "persistent" in there and programs > at_once:
        found["persistent"] = [0, *(n for n in (at_once, 2 * at_once) if n < programs)]
    if "warp_specialize" in there and "loop" in roles.values():
        found["warp_specialize"] = [0, 1]
    return tuple((n, tuple(dict.fromkeys((chosen.get(n, values[0]), *values)))) for n, values in found.items())


def _price_bindings(
    shape: KernelShape, roles: Mapping[str, str], census: Census, given: Given = (), pinned: Pinned | None = None
) -> list[tuple[float, tuple, Work, Price]]:
    """(microseconds, parameters, work, price) of the admissible bindings: all of them, or a walk one parameter at a time."""
    seen: dict[tuple, tuple[float, tuple, Work, Price]] = {}
    counted: dict[tuple[int, ...], Work] = {}  # by tile sizes: warps and stages do not change the work
    tiles = [parameter(r) for r, role in roles.items() if role in ("grid", "loop")]

    def look(params: dict[str, int]) -> float:
        key = tuple(sorted(params.items()))
        if key not in seen:
            sizes = tuple(params[t] for t in tiles)
            if sizes not in counted:
                counted[sizes] = census.count(params)
            w = counted[sizes]
            p = price_with(w, shape.target, {"persistent": persistent, **params})
            p = replace(p, us=p.us * shape.unevenness(params, shape.sizes))
            seen[key] = (p.us, key, w, p)
        us, _, _, p = seen[key]
        return us if p.fits else math.inf

    choices = shape.choices(roles)
    if pinned is not None:
        choices = pinned.narrow(choices)
        if choices is None:
            return []
    choices |= {name: [value] for name, value in shape.counts.items()}
    choices |= {name: [value] for name, value in given if name in PRICED}
    persistent = bool(dict(given).get("persistent"))
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


def _best_from_afar_first(priced: list[tuple[float, tuple, Work, Price]], far: Census, shape: KernelShape) -> None:
    """Of bindings that are about as good for the likely sizes, the one goes first that is the cheapest for larger ones."""
    rows = [row for row in priced if row[0] <= AS_GOOD * priced[0][0]]
    best = min(rows, key=lambda row: _far_us(far, dict(row[1]), shape))
    priced.remove(best)
    priced.insert(0, best)


def _far_us(far: Census, params: Mapping[str, int], shape: KernelShape) -> float:
    """Microseconds on a CPU for larger sizes than are likely.  far: counts for these."""
    return price_with(far.count(params), shape.target, params).us * shape.unevenness(params, shape.far or shape.sizes)


def _moved(w: Work) -> int:
    return w.load_bytes + w.store_bytes


def _params(values: dict[str, int]):
    from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, i64

    return DictionaryAttr({k: IntegerAttr(v, i64) for k, v in sorted(values.items())})
