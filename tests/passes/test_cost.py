"""The IO model against the interpreter: bytes are counted where a tile program really moves them."""

from __future__ import annotations

import functools
import itertools
import math
import random
from dataclasses import replace
from typing import ClassVar
from unittest.mock import patch

import pytest
import torch
from cases import CASES
from harness import layouts, own_walk, program_of
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecade.errors import InternalCompilerError
from fusecade.ir import interpret, symbols, tile
from fusecade.ir.attributes import element_bits
from fusecade.ir.cascade import KernelOp
from fusecade.ir.target import get_target
from fusecade.passes import census, cost
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.emit_tiles import emit_tiles
from fusecade.passes.fuse import fuse_program
from fusecade.passes.least_cost import least_us
from fusecade.passes.likely_sizes import LikelySizes
from fusecade.passes.repair import repair_kernel
from fusecade.passes.scheduled import Scheduled

COUNTED = [
    "max_pooled_head",
    "attention", "attention_grouped", "attention_alibi", "attention_and_lse", "attention_and_probabilities", "kmeans",
    "rms_norm_linear", "layer_norm", "softmax", "linear_gelu", "mlp", "gram", "padded", "concatenated",
    "sliced_input", "contract_two", "minmax", "count", "self_attention", "two_matmuls", "quantised",
]  # fmt: skip


class Counting(interpret.TileProgram):
    """Counts the bytes of every load and store that the interpreter runs."""

    moved: ClassVar[dict[str, int]] = {}

    def compute(self, op, values, space):
        if isinstance(op, tile.LoadOp):
            shape = self.buffers[op.buffer].shape
            ranks = [r for r in op.access.ranks if r in space]
            points = itertools.product(*(space[r] for r in ranks))
            if op.checked is None:
                elements = math.prod(len(space[r]) for r in ranks)
            else:
                elements = sum(self.inside(op, shape, dict(zip(ranks, p, strict=True))) for p in points)
            self.count("load", op.buffer, elements)
        return super().compute(op, values, space)

    def inside(self, op, shape, at) -> bool:
        index = [symbols.evaluate(e, {**self.sizes, **at}) for e in op.access.data]
        return all(0 <= i < n for i, n in zip(index, shape, strict=True))

    def store(self, op, value, space) -> None:
        self.count("store", op.buffer, math.prod(len(space[r]) for r in op.access.ranks if r in space))
        super().store(op, value, space)

    def count(self, kind: str, buffer, elements: int) -> None:
        Counting.moved[kind] = Counting.moved.get(kind, 0) + elements * element_bits(buffer.type.element_type) // 8


def kernels_of(name: str, target: str = "sm_90") -> list[KernelOp]:
    case = CASES[name]
    program = program_of(case.fn, case.tensors)
    canonicalise_program(program)
    kernels = fuse_program(program, get_target(target), {}, always=True).kernels
    for kernel in kernels:
        repair_kernel(kernel, kernel.streamed, get_target(target))
    return kernels


@functools.cache
def counted(name: str) -> list[KernelOp]:
    return kernels_of(name)


@settings(max_examples=settings.default.max_examples // 2)  # type: ignore
@given(name=st.sampled_from(COUNTED), seed=st.integers(0, 1000))
def test_bytes_are_those_that_the_interpreter_moves(name: str, seed: int):
    for kernel in counted(name):
        walk = own_walk(kernel, random.Random(seed), seed % 7, {})
        emitted = emit_tiles(kernel, walk, *layouts(kernel))
        if not emitted:
            continue
        inputs = [torch.zeros([int(d) for d in a.type.dims]) for a in kernel.body.block.args]  # type: ignore
        Counting.moved = {}
        with patch.object(interpret.kernels, "TileProgram", Counting):
            interpret.run_kernel(emitted, inputs)
        work = census.work(emitted)
        assert work.load_bytes == Counting.moved.get("load", 0), walk.table.text()
        assert work.store_bytes == Counting.moved.get("store", 0), walk.table.text()


def test_a_gemm_reads_each_operand_once_per_tile_of_the_other():
    """Traffic of a tiled product: M K ceil(N / BN) + K N ceil(M / BM), writes M N."""
    (kernel,) = kernels_of("linear_gelu")
    walk = own_walk(kernel, random.Random(0), 1, {})
    emitted = emit_tiles(kernel, walk, *layouts(kernel))
    assert emitted
    rank_m, rank_n = (v.owner.out_ranks(0) for v in kernel.returned).__next__()  # type: ignore
    bm, bn = (emitted.parameters[emitted.ranks[r].tile] for r in (rank_m, rank_n))  # type: ignore
    m, n, k = 6, 5, 9
    bias = n * 4 * -(-m // bm)
    assert census.work(emitted).load_bytes == 4 * (m * k * -(-n // bn) + k * n * -(-m // bm)) + bias
    assert census.work(emitted).store_bytes == 4 * m * n


def test_an_operation_without_a_rule_is_an_error():
    (kernel,) = kernels_of("softmax")
    emitted = emit_tiles(kernel, own_walk(kernel, random.Random(0), 1, {}), *layouts(kernel))
    assert emitted
    with patch.object(tile, "MapOp", tile.DotOp), pytest.raises(InternalCompilerError, match=r"no rule for tile\.map"):
        census.work(emitted)


# --- a loop inside a loop -------------------------------------------------------------------------------------------


@functools.cache
def wide_head() -> Scheduled:
    """The greatest logit of each word over the rows of a batch; 768 features are a loop inside the loop over the rows."""
    shapes = [(32, 512, 768), (30522, 768), (32, 512, 1)]
    tensors = [torch.empty(s, dtype=torch.bfloat16, device="meta") for s in shapes]
    program = program_of(lambda h, e, mask: ((h @ e.T) * mask).amax(1), tensors)
    canonicalise_program(program)
    fused = fuse_program(program, get_target("sm_90"), {})
    (kernel,) = fused.kernels
    return fused.trials[kernel].scheduled


def wide_work(rows: int, words: int, features: int) -> census.Work:
    kernel = wide_head().kernel
    s, w, d = (kernel.ranks[r].tile for r in ("d1", "d2", "k"))
    return census.work(kernel, {str(s): rows, str(w): words, str(d): features})


def test_a_wide_head_moves_its_operands_once_per_tile_of_the_other():
    work = wide_work(256, 128, 64)
    tiles = -(-30522 // 128)
    features = 2 * 768 * (32 * 512 * tiles + 32 * 30522 * (512 // 256))
    assert work.load_bytes == features + 2 * 32 * 512 * tiles
    assert work.waits == 2 * (1 + 1)  # each step over the rows starts the inner loop and loads the mask


def test_the_tile_of_a_product_counts_once_around_its_loop():
    """256 x 128 sums are 128 registers of each thread in 8 warps; vectors along the columns and addresses come on top."""
    target = get_target("sm_90")
    work = wide_work(256, 128, 64)
    assert work.nested == census.Nested(held_bytes=4 * (256 * 128 + 128), column_elements=256, points=256 * 128)
    assert cost.price(work, target, warps=8, stages=3).fits
    assert not cost.price(work, target, warps=4, stages=3).fits
    assert not cost.price(wide_work(256, 256, 64), target, warps=8, stages=2).fits


def test_a_matrix_unit_that_reads_registers_has_room_for_smaller_tiles():
    assert not cost.price(wide_work(256, 128, 64), get_target("sm_80"), warps=8).fits
    assert cost.price(wide_work(128, 128, 64), get_target("sm_80"), warps=8).fits


def test_no_more_arrives_than_was_asked_for():
    """Short steps in two stages leave the way from the shared cache empty; longer steps or a third stage fill it."""
    target = get_target("sm_90")
    short = cost.price(wide_work(256, 128, 16), target, warps=8, stages=2)
    deeper = cost.price(wide_work(256, 128, 16), target, warps=8, stages=3)
    longer = cost.price(wide_work(256, 128, 64), target, warps=8, stages=2)
    assert short.bound_by == "L2"
    assert short.us > 1.5 * deeper.us
    assert deeper.us > longer.us


# --- products whose operands lie in the shared cache --------------------------------------------------------------


@functools.cache
def epilogues() -> dict[str, Scheduled]:
    """A product of 8192 x 4096 x 4096 with a scale of its rows, with another tile added, and through erf."""
    functions = {
        "scale": (lambda x, w, r: (x @ w) * r, (8192, 1)),
        "residual": (lambda x, w, r: (x @ w) + r, (8192, 4096)),
        "erf": (lambda x, w, r: torch.erf((x @ w) * r), (8192, 1)),
    }
    found = {}
    for name, (fn, last) in functions.items():
        tensors = [torch.empty(s, dtype=torch.bfloat16, device="meta") for s in ((8192, 4096), (4096, 4096), last)]
        program = program_of(fn, tensors)
        canonicalise_program(program)
        fused = fuse_program(program, get_target("sm_90"), {}, always=True)
        (kernel,) = fused.kernels
        found[name] = fused.trials[kernel].scheduled
    return found


def work_of(name: str, rows: int, columns: int) -> census.Work:
    kernel = epilogues()[name].kernel
    tiles = {r.name: str(r.tile) for r in kernel.ranks.data}
    row, column = (r for r in kernel.ranks.names if r in kernel.grid_ranks)
    return census.work(
        kernel, {tiles[row]: rows, tiles[column]: columns, **{t: 64 for r, t in tiles.items() if r == "k"}}
    )


@pytest.mark.parametrize(("name", "fits"), [("scale", True), ("residual", False), ("erf", False)])
def test_a_wide_tile_fits_where_its_epilogue_holds_nothing_else(name: str, fits: bool):
    """Compiled for sm_90, 128 x 256 in 8 warps takes 163 to 191 registers with scales behind it, and else spills at 255."""
    price = cost.price(work_of(name, 128, 256), get_target("sm_90"), warps=8, stages=3)
    assert price.fits is fits
    assert cost.price(work_of(name, 128, 128), get_target("sm_90"), warps=8, stages=3).fits


def test_what_several_programs_read_together_leaves_the_cache_less_often():
    target = get_target("sm_90")
    work = work_of("scale", 128, 128)
    assert all(t.together > 1 for t in work.loads if t.again or t.bytes > t.distinct)
    plain = cost.price(work, replace(target, l2_merge=1.0), warps=8, stages=3)
    assert plain.bound_by == "L2"
    assert plain.us > 1.3 * cost.price(work, target, warps=8, stages=3).us


# --- dots -------------------------------------------------------------------------------------------------------------


def test_a_small_dot_does_not_slow_a_large_one():
    """Each dot has the efficiency of its own tiles."""
    large = census.Dot("bf16", 1e12, (128, 128, 64))
    small = census.Dot("bf16", 1e9, (64, 16, 16))
    alone, both = (
        cost.price(census.Work(dots=dots, programs=1320), get_target("sm_90")).us for dots in ([large], [large, small])
    )
    assert alone < both < 1.05 * alone


def test_computed_operands_of_dots_take_registers():
    """One is among the tiles that a loop holds anyway; warps that share rows hold it once each."""
    target = get_target("sm_90")
    operand = (64 * 128, 64, False)
    held = [
        cost.price(census.Work(made_operands={(): made}, programs=1), target, warps).register_bytes
        for made, warps in (([operand], 4), ([operand], 8), ([operand] * 2, 4), ([operand, (64 * 128, 64, True)], 4))
    ]
    assert held == [0, 2 * 64 * 128, 6 * 64 * 128, 6 * 64 * 128]


@pytest.mark.parametrize(
    "name", [*COUNTED[:8], *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(set(CASES) - set(COUNTED[:8])))]
)
def test_no_schedule_on_a_cpu_is_cheaper_than_what_a_kernel_costs_at_least(name: str):
    case, machine = CASES[name], get_target("cpu")
    program = program_of(case.fn, case.tensors)
    canonicalise_program(program)
    for trial in fuse_program(program, machine, always=True).trials.values():
        assert least_us(trial.kernel, machine, LikelySizes({})) <= trial.scheduled.us


@pytest.mark.parametrize(
    ("batch", "flops", "shares"),
    [(0, 1e9, True), (0, 1e11, False), (1, 1e11, False), (2, 1e11, True), (3, 1e11, False), (64, 1e11, True)],
)
def test_cores_share_a_product_that_can_be_cut_between_its_matrices(batch: int, flops: float, shares: bool):
    """A product of one head would be cut in two, and what follows finds half of its rows in another core's cache."""
    dots = [census.Dot("f32", flops, (256, 1024, 64), batch)]
    work = census.Work(dots=dots, elements={"exp": 1e8}, operations=600, programs=64)
    own, shared = (cost.price_with(work, get_target("cpu"), {"share_operations": n}).us for n in (0, 1))
    assert (shared < own) == shares


def test_cores_share_short_operations_only_where_each_is_enough_for_all():
    sizes = {"large": 100, "small": 10000}  # calls, for the same elements
    best = {}
    for name, operations in sizes.items():
        work = census.Work(elements={"exp": 1e7}, operations=operations, programs=100)
        own, shared = (cost.price_with(work, get_target("cpu"), {"share_operations": n}) for n in (0, 1))
        best[name] = shared.us < own.us
        assert shared.us > 0 and own.us > 0
    assert best["large"]
    few = census.Work(elements={"exp": 1e5}, operations=36, programs=4)
    own, shared = (cost.price_with(few, get_target("cpu"), {"share_operations": n}).us for n in (0, 1))
    assert shared < own / 1.5  # measured: 0.25 ms against 0.6
