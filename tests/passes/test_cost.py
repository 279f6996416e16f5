"""The IO model against the interpreter: bytes are counted where a tile program really moves them."""

from __future__ import annotations

import functools
import itertools
import math
import random
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
from fusecade.passes import cost, fuse
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.emit_tiles import emit_tiles
from fusecade.passes.repair import repair_kernel

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
    with patch.object(fuse, "GAIN", math.inf):
        kernels = fuse.fuse_program(program, get_target(target), {}).kernels
    for kernel in kernels:
        repair_kernel(kernel, kernel.attributes["stream"].data, get_target(target))  # type: ignore
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
        work = cost.work(emitted)
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
    assert cost.work(emitted).load_bytes == 4 * (m * k * -(-n // bn) + k * n * -(-m // bm)) + bias
    assert cost.work(emitted).store_bytes == 4 * m * n


def test_an_operation_without_a_rule_is_an_error():
    (kernel,) = kernels_of("softmax")
    emitted = emit_tiles(kernel, own_walk(kernel, random.Random(0), 1, {}), *layouts(kernel))
    assert emitted
    with patch.object(tile, "MapOp", tile.DotOp), pytest.raises(InternalCompilerError, match=r"no rule for tile\.map"):
        cost.work(emitted)


def test_a_small_dot_does_not_slow_a_large_one():
    """Each dot has the efficiency of its own tiles."""
    large = cost.Dot("bf16", 1e12, (128, 128, 64), False)
    small = cost.Dot("bf16", 1e9, (64, 16, 16), False)
    alone, both = (
        cost.price(cost.Work(dots=dots, programs=1320), get_target("sm_90")).us for dots in ([large], [large, small])
    )
    assert alone < both < 1.05 * alone


def test_computed_operands_of_dots_take_registers():
    """One is among the tiles that a loop holds anyway; warps that share rows hold it once each."""
    target = get_target("sm_90")
    operand = (64 * 128, 64, False)
    held = [
        cost.price(cost.Work(made_operands=made, programs=1), target, warps).register_bytes
        for made, warps in (([operand], 4), ([operand], 8), ([operand] * 2, 4), ([operand, (64 * 128, 64, True)], 4))
    ]
    assert held == [0, 2 * 64 * 128, 6 * 64 * 128, 6 * 64 * 128]
