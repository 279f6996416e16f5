"""Every stage of the pipeline against the one before it, in float64.

`check(fn, tensors)` imports `fn` and compares what the interpreter makes of: the function itself, the program as
imported, with known indices where they are read, canonicalised, with masks of -inf, with its segments apart, with kernels
in place, with the kernels repaired, and the kernels lowered to tiles: under the scheduler's walk and under walks of our own
(every role that a rank may have, small ragged tiles).  Tile kernels run with tiles cut at their extents, as torch sees them,
and with fixed blocks whose lanes beyond the extent hold what a GPU would hold there (`run_lanes`).
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Block, SSAValue

from fusecade.frontend.capture import capture
from fusecade.frontend.importer import import_graph
from fusecade.ir import interpret, tile
from fusecade.ir.attributes import AccessMap
from fusecade.ir.cascade import EinsumOp, KernelOp, OnlineOp, ProgramOp
from fusecade.ir.interpret import Named, run_program, to_reference
from fusecade.ir.target import get_target
from fusecade.ir.text import parse_module, print_module
from fusecade.ir.verify import verify
from fusecade.passes.algebra.forms import Refused
from fusecade.passes.bands import band_ranks
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.closed_tiles import ALL, MASKS, NEVER
from fusecade.passes.emit_tiles import emit_tiles
from fusecade.passes.finite_masks import finite_masks
from fusecade.passes.fuse import contiguous, fuse_program
from fusecade.passes.known_indices import known_indices
from fusecade.passes.needed_reads import needed_reads
from fusecade.passes.repair import repair_kernel
from fusecade.passes.schedule import schedule_kernel
from fusecade.passes.scheduled import Scheduled
from fusecade.passes.split_segments import split_segments
from fusecade.passes.walk import Walk

RTOL = 2e-6  # constants of a map region are rounded to f32: log2(e) is off by 1e-8


@dataclass
class Checked:
    """What a check saw, for a test to assert on.

    kernels: repaired.  scheduled: their schedules, or why there is none.  refusals: what fusion left apart.  unfused:
    einsums outside of kernels.  seconds: of fusion, which prices (so derives and schedules) each candidate.
    """

    kernels: list[KernelOp] = field(default_factory=list)
    scheduled: list[Scheduled | Refused] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    unfused: list[EinsumOp] = field(default_factory=list)
    walks: int = 0
    refused_walks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def loops(self, n: int = 0) -> list[str]:
        """The ranks of the loops in scheduled kernel `n`, in order."""
        scheduled = self.scheduled[n]
        assert isinstance(scheduled, Scheduled)
        return [o.rank.data for o in scheduled.kernel.walk() if isinstance(o, tile.ForOp)]

    def roles(self, n: int = 0) -> dict[str, str]:
        """The role of each rank in scheduled kernel `n`."""
        scheduled = self.scheduled[n]
        assert isinstance(scheduled, Scheduled)
        return {r.name: r.role for r in scheduled.kernel.ranks.data}

    def count(self, kind: type, n: int = 0) -> int:
        """How many operations of a kind scheduled kernel `n` has."""
        scheduled = self.scheduled[n]
        assert isinstance(scheduled, Scheduled)
        return sum(isinstance(o, kind) for o in scheduled.kernel.walk())


def agree(actual: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    """Equal to rounding, NaN at the same places; integers and booleans exactly."""
    assert len(actual) == len(expected), what
    for n, (a, given) in enumerate(zip(actual, expected, strict=True)):
        e, here = to_reference(given), f"{what}, output {n}"
        assert a.shape == e.shape, f"{what}, output {n}: shape {tuple(a.shape)}, expected {tuple(e.shape)}"
        if e.dtype == torch.float64:
            finite = e[e.isfinite()]
            scale = float(finite.abs().max()) if finite.numel() else 1.0
            torch.testing.assert_close(
                a,
                e,
                rtol=RTOL,
                atol=RTOL * max(scale, 1e-300),
                equal_nan=True,
                msg=lambda m, here=here: f"{here}: {m}",
            )
        else:
            assert torch.equal(a.to(e.dtype), e), f"{what}, output {n}: {a} expected {e}"


def program_of(source: Callable | str, tensors: Sequence[Tensor], dynamic=None) -> ProgramOp:
    """A program from its text or from a PyTorch function."""
    if isinstance(source, str):
        module = parse_module(source)
    else:
        captured = capture(source, list(tensors), {}, dynamic=dynamic)
        module = import_graph(captured.gm, size_names=captured.size_names).module
    program = next(o for o in module.body.block.ops if isinstance(o, ProgramOp))
    _ALIVE.append(module)
    return program


_ALIVE: list = []  # modules own their operations


def check(
    source: Callable | str,
    tensors: Sequence[Tensor],
    target: str = "sm_90",
    *,
    dynamic=None,
    sizes: Mapping[str, int] | None = None,
    always_fuse: bool = True,
    walks: int = 4,
    seed: int = 0,
    eager: bool = True,
    others: Sequence[Sequence[Tensor]] = (),
) -> Checked:
    """Compare all stages; see the module's text.

    always_fuse: take every candidate that can be lowered, whatever it costs (the tensors of a test are small).
    others: further tensors of the same shapes and types, for which every stage is run as well.
    """
    seen = Checked()
    program = program_of(source, tensors, dynamic)
    verify(program)
    given = [tensors, *others]
    expected = [run_program(program, x, sizes) for x in given]

    def compare(run: Callable[[Sequence[Tensor]], Sequence[Tensor]], what: str) -> None:
        for n, (x, wanted) in enumerate(zip(given, expected, strict=True)):
            agree(run(x), wanted, f"{what}, input {n}" if n else what)

    if eager and not isinstance(source, str):
        for x, results in zip(given, expected, strict=True):
            outs, _ = pytree.tree_flatten(source(*[_doubled(t) for t in x]))
            agree(results, outs, "as imported")
    if known_indices(program):
        verify(program)
        compare(lambda x: run_program(program, x, sizes), "known indices")
    canonicalise_program(program)
    verify(program)
    compare(lambda x: run_program(program, x, sizes), "canonicalised")
    if finite_masks(program):
        verify(program)
        compare(lambda x: run_program(program, x, sizes), "masks with -inf")
    if split_segments(program):
        verify(program)
        compare(lambda x: run_program(program, x, sizes), "segments apart")
    if needed_reads(program):
        verify(program)
        compare(lambda x: run_program(program, x, sizes), "reads that are needed")
    machine = get_target(target)
    start = time.perf_counter()
    fused = fuse_program(program, machine, dict(sizes or {}), always=always_fuse)
    seen.seconds = time.perf_counter() - start
    seen.refusals = [f"{' '.join(r.what)}: {r.reason}" for r in fused.refusals]
    verify(program)
    compare(lambda x: run_program(program, x, sizes), "fused")
    seen.unfused = [o for o in program.body.block.ops if isinstance(o, EinsumOp)]
    for kernel in fused.kernels:
        stream = kernel.attributes["stream"]
        assert isinstance(stream, StringAttr)
        repair_kernel(kernel, stream.data, machine)
        seen.kernels.append(kernel)
    verify(program)
    for chunk in (None, 1, (2, 5)):
        compare(lambda x, chunk=chunk: run_program(program, x, sizes, chunk=chunk), f"repaired, in chunks of {chunk}")
    compare(lambda x: run_program(program, x, sizes, chunk=2, merge="tree"), "repaired, merged as a tree")
    lowered: dict[KernelOp, tile.KernelOp] = {}
    for kernel in seen.kernels:
        scheduled = schedule_kernel(
            kernel, machine, *layouts(kernel), dict(sizes or {}), parts=0
        )  # split: its own test
        seen.scheduled.append(scheduled)
        if isinstance(scheduled, Scheduled):
            verify(scheduled.kernel)
            lowered[kernel] = scheduled.kernel
    bound = interpret.infer_from([a.type.shape for a in program.body.block.args], tensors, sizes)  # type: ignore
    compare(lambda x: run_tiles(program, lowered, x, sizes), "scheduled")
    compare(lambda x: run_tiles(program, lowered, x, sizes, lanes=True), "scheduled, with lanes")
    choose = random.Random(seed)
    for turn in range(walks):
        lowered = {}
        for kernel in seen.kernels:
            walk = own_walk(kernel, choose, turn, bound)
            emitted = emit_tiles(kernel, walk, *layouts(kernel))
            if isinstance(emitted, Refused):
                seen.refused_walks.append(f"{walk.table.text()}: {emitted.reason}")
                continue
            verify(emitted)
            if turn == 0:
                _round_trip(emitted)
            lowered[kernel] = emitted
            seen.walks += 1
        shown = "\n".join(k.ranks.text() + str(k.parameters) for k in lowered.values())
        if turn % 2 == 0:
            compare(lambda x, made=lowered: run_tiles(program, made, x, sizes), f"walk {turn} {shown}")
        compare(
            lambda x, made=lowered: run_tiles(program, made, x, sizes, lanes=True), f"walk {turn} with lanes {shown}"
        )
    return seen


def _doubled(t: Tensor) -> Tensor:
    return t.double() if t.dtype.is_floating_point else t


def _round_trip(kernel: tile.KernelOp) -> None:
    text = print_module(kernel)
    assert print_module(next(iter(parse_module(text).body.block.ops))) == text


def layouts(kernel: KernelOp):
    """Row-major inputs and outputs, as `emit_tiles` and `schedule_kernel` take them."""
    inputs = [contiguous(a.type) for a in kernel.body.block.args]  # type: ignore[arg-type]
    outputs = [
        (contiguous(v.type), AccessMap.of(v.owner.out_ranks(v.index)))  # type: ignore
        for v in kernel.returned
    ]
    return inputs, outputs


# --- walks --------------------------------------------------------------------------------------------------------


def ranks_of(kernel: KernelOp) -> tuple[dict, list[str], set[str]]:
    """All extents of a kernel, the ranks of its results, and the reduced ranks."""
    extents: dict = {}
    reduced: set[str] = set()
    for op in kernel.body.block.ops:
        if isinstance(op, EinsumOp | OnlineOp):
            for name, extent in op.extents.items():
                extents.setdefault(name, extent)
            reduced |= set(op.reduced) if isinstance(op, EinsumOp) else {op.over.data}
    out = list(dict.fromkeys(r for v in kernel.returned for r in v.owner.out_ranks(v.index)))  # type: ignore
    return extents, out, reduced


STEPS = 24  # programs times loop steps that a walk of our own may take: the interpreter is not fast


def own_walk(kernel: KernelOp, choose: random.Random, turn: int, sizes: Mapping[str, int]) -> Walk:
    """A walk: the first four are extreme (units and loops; grids and loops; all whole; grids and any), then any."""
    extents, out, reduced = ranks_of(kernel)
    order = [r for r in out if r in extents] + [r for r in extents if r not in out]
    roles: dict[str, str] = {}
    bands = band_ranks(kernel)
    for r in order:
        inner = ("loop", "whole")
        outer = ("unit", "grid", "whole")
        if r in bands:
            roles[r] = "band"
        elif r in reduced:
            roles[r] = {0: "loop", 1: "loop", 2: "whole"}.get(turn) or choose.choice(inner)
        else:
            everywhere = all(r in v.owner.out_ranks(v.index) for v in kernel.returned)  # type: ignore
            allowed = outer if everywhere else ("whole", "grid", "unit")
            roles[r] = {0: "unit", 1: "grid", 2: "whole", 3: "grid"}.get(turn) or choose.choice(allowed)
    extent = {r: interpret.size_of(e, sizes) for r, e in extents.items()}
    tiles = {r: choose.choice((1, 2, 3, 4, 8)) for r in order if roles[r] in ("grid", "loop")}
    while True:
        trips = {r: -(-extent[r] // tiles[r]) if r in tiles else extent[r] if roles[r] == "unit" else 1 for r in order}
        if math.prod(trips.values()) <= STEPS:
            break
        longest = max(trips, key=lambda r: trips[r])
        if longest not in tiles:
            roles[longest], tiles[longest] = "grid", 2
        else:
            tiles[longest] += 1 + tiles[longest] // 2
    params = {f"B{r.upper()}": t for r, t in tiles.items()}
    table = [
        tile.TileRank(r, extents[r], roles[r], f"B{r.upper()}" if r in tiles else None, bands.get(r)) for r in order
    ]
    grid = [r for r in order if roles[r] in ("unit", "grid")]
    choose.shuffle(grid)
    skip = choose.choice((NEVER, MASKS, ALL))
    return Walk(tile.TileRanks(tuple(table)), tuple(grid), params, low_precision_dots=bool(turn % 2), skip=skip)


# --- running ------------------------------------------------------------------------------------------------------


class _TileRun(interpret.ProgramRun):
    """A program in which some kernels run as tiles."""

    lowered: dict[Block, tile.KernelOp]
    lanes = False

    def block(self, block: Block, arguments: Sequence[Tensor]) -> list[Tensor]:
        if block not in self.lowered:
            return super().block(block, arguments)
        kernel = self.lowered[block]
        if self.lanes:
            return run_lanes(kernel, arguments, self.sizes)
        return interpret.run_kernel(kernel, arguments, self.sizes)


def run_tiles(
    program: ProgramOp,
    lowered: Mapping[KernelOp, tile.KernelOp],
    tensors: Sequence[Tensor],
    sizes: Mapping[str, int] | None = None,
    lanes: bool = False,
) -> list[Tensor]:
    """The results of a program whose kernels run as their tile kernels."""
    shapes = [a.type.shape for a in program.body.block.args]  # type: ignore
    run = _TileRun(interpret.infer_from(shapes, tensors, sizes), None, "fold")
    run.lowered = {k.body.block: t for k, t in lowered.items()}
    run.lanes = lanes
    return run.block(program.body.block, [to_reference(t) for t in tensors])


def run_lanes(kernel: tile.KernelOp, inputs: Sequence[Tensor], sizes: Mapping[str, int] | None = None) -> list[Tensor]:
    """`run_kernel`, with blocks of fixed shape: a power of two wide where the rank is whole, `tile` wide elsewhere.

    Lanes beyond a rank's extent take part in everything, as they do in Triton: a load that guards a rank gives zero
    there, one that does not must not leave its buffer; `tile.pad` overwrites them; a store leaves them out.
    """
    with patch.object(interpret.kernels, "TileProgram", _Lanes):
        return interpret.run_kernel(kernel, inputs, sizes)


class _Lanes(interpret.TileProgram):
    @staticmethod
    def run_grid(kernel: tile.KernelOp, buffers, sizes, tiles):
        ranks = [kernel.ranks[name] for name in kernel.grid_ranks]
        extents = [interpret.size_of(r.extent, sizes) for r in ranks]
        steps = [tiles[r.tile] if r.tile else 1 for r in ranks]
        share = kernel.share
        shares = tile.Shares.of(share, kernel.ranks, kernel.grid_ranks, sizes) if share is not None else None
        places = itertools.product(*(range(0, e, s) for e, s in zip(extents, steps, strict=True)))
        for number, starts in enumerate(places):
            space, here = {}, dict(sizes)
            if share is not None and shares is not None:
                here[share.ahead] = shares.ahead(number // extents[-1])
            for rank, step, start in zip(ranks, steps, starts, strict=True):
                here[rank.name] = start
                if rank.role == "grid":
                    space[rank.name] = range(start, start + step)
            for rank in kernel.ranks.data:
                if rank.role == "whole":
                    extent = interpret.size_of(rank.extent, here)
                    space[rank.name] = range(1 << (max(1, extent) - 1).bit_length())
            program = _Lanes(kernel, buffers, here, tiles)
            program.block(kernel.body.block, {}, program.with_bands(space))

    def valid(self, rank: str, space) -> Named:
        extent = interpret.size_of(self.kernel.ranks[rank].extent, self.sizes)
        part = space[rank]
        at = torch.arange(part.start, part.stop)
        return Named((at >= 0) & (at < extent), (rank,))

    def everywhere(self, ranks: Sequence[str], space) -> Named:
        total = Named(torch.tensor(True), ())
        for r in ranks:
            if r in space:
                total = interpret.apply(torch.logical_and, total, self.valid(r, space))
        return total

    def compute(self, op, values, space):
        if isinstance(op, tile.LoadOp):
            source = self.buffers[op.buffer]
            guard = self.everywhere(op.guards, space)
            table = self.table(space)
            index = [interpret.index_value(e, table) for e in op.access.data]
            bounds = guard
            for n, size in zip(index, source.shape, strict=True):
                bounds = interpret.apply(
                    torch.logical_and, bounds, interpret.apply(lambda x, s=size: (x >= 0) & (x < s), n)
                )
            if op.checked is None:
                escaped = interpret.apply(lambda g, b: g & ~b, guard, bounds)
                assert not bool(escaped.tensor.any()), f"{op} leaves its buffer"
            if 0 in source.shape:
                return [interpret.apply(lambda g: torch.zeros(g.shape, dtype=source.dtype), bounds)]
            clamped = [
                interpret.apply(lambda x, s=size: x.clamp(0, s - 1), n)
                for n, size in zip(index, source.shape, strict=True)
            ]
            ranks = tuple(dict.fromkeys(r for n in (*clamped, bounds) for r in n.ranks))
            read = source[tuple(n.over(ranks) for n in clamped)] if clamped else source
            return [Named(torch.where(bounds.over(ranks), read, torch.zeros((), dtype=source.dtype)), ranks)]
        if isinstance(op, tile.PadOp):
            value = self.named(op.value, values)
            fill = torch.tensor(op.python_fill, dtype=value.tensor.dtype)
            keep = self.everywhere(op.over_ranks, space)
            return [interpret.apply(lambda k, v: torch.where(k, v, fill), keep, value)]
        return super().compute(op, values, space)

    def loop(self, op: tile.ForOp, values: Mapping[SSAValue, Tensor], space) -> list[Tensor]:
        rank = self.kernel.ranks[op.rank.data]
        step = self.tiles[rank.tile] if rank.tile else 1
        lower, upper = (interpret.size_of(e, self.sizes) for e in op.bounds)
        if op.within:
            first, last = (int(values[v]) for v in op.within)
            lower, upper = max(lower, first // step * step), min(upper, last)
        state = [values[v] for v in op.init]
        for start in range(lower, upper, step):
            inner = {**space, rank.name: range(start, start + step)}
            program = _Lanes(self.kernel, self.buffers, {**self.sizes, rank.name: start}, self.tiles)
            inner = program.with_bands(inner)
            state = program.block(op.body.block, {**values, **dict(zip(op.body.block.args, state, strict=True))}, inner)
        return state

    def store(self, op: tile.StoreOp, value: Named, space) -> None:
        buffer = self.buffers[op.buffer]
        table = self.table(space)
        index = [interpret.index_value(e, table) for e in op.access.data]
        if not index:
            buffer.copy_(value.tensor)
            return
        guard = self.everywhere(op.guards, space)
        ranks = tuple(dict.fromkeys(r for n in (*index, guard) for r in n.ranks))
        keep = guard.over(ranks)
        full = torch.broadcast_shapes(keep.shape, *(n.over(ranks).shape for n in index))
        keep = keep.expand(full)
        at = tuple(n.over(ranks).expand(full)[keep] for n in index)
        for n, size in zip(at, buffer.shape, strict=True):
            assert not bool(((n < 0) | (n >= size)).any()), f"{op} writes outside its buffer"
        buffer[at] = value.over(ranks).expand(full)[keep].to(buffer.dtype)
