"""Loops with bounds: what the IO model counts is what the interpreter does, for random bounds, tiles and extents."""

from __future__ import annotations

import math
from typing import ClassVar
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_cost import Counting

from fusecade.ir import interpret, tile
from fusecade.ir.text import parse_module
from fusecade.passes import census
from fusecade.passes.idle_loops import drop_idle_loops

# rows of q against the keys of a loop: a dot, a load beside it that may leave its buffer, a reduction
TEXT = """
tile.kernel @k [h = {h} unit, p = {p} unit, i = {n} grid BI, j = {m} loop BJ, d = 3 whole] grid ({grid})
  params {{BI = {bi}, BJ = {bj}}} (
  %q : !tile.buffer<[{h}, {n}, 3], [{n} * 3, 3, 1], f16>,
  %k : !tile.buffer<[{h}, {m}, 3], [{m} * 3, 3, 1], f32>,
  %near : !tile.buffer<[{w}], [1], f64>
) -> (%o : !tile.buffer<[{h}, {p}, {n}], [{p} * {n}, {n}, 1], f32>) {{
  %q_1 = tile.load %q<[h, i, d]> guard ["i", "d"] : !tile.buffer<[{h}, {n}, 3], [{n} * 3, 3, 1], f16> -> !tile.tile<[i, d], f16>
  %q_2 = tile.cast %q_1 : !tile.tile<[i, d], f16> -> !tile.tile<[i, d], f32>
  %zero = tile.fill 0.0 : f32 -> !tile.tile<[i], f32>
  {loops}
  tile.store %s{last}, %o<[h, p, i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[{h}, {p}, {n}], [{p} * {n}, {n}, 1], f32>
  tile.return
}}
"""

LOOP = """
  %s{at} = tile.for j from {lower} to {upper} (%t = {start} : !tile.tile<[i], f32>) {{
    %k_1 = tile.load %k<[h, j, d]> guard ["j", "d"] : !tile.buffer<[{h}, {m}, 3], [{m} * 3, 3, 1], f32> -> {key}
    %x = tile.dot %q_2, %k_1 over "d" precision "ieee" : !tile.tile<[i, d], f32>, {key} -> {x}
    %b = tile.load %near<[{access}]> guard ["i", "j"] checked : !tile.buffer<[{w}], [1], f64> -> !tile.tile<[i, j], f64>
    %c = tile.cast %b : !tile.tile<[i, j], f64> -> {x}
    %y = tile.map "add"(%x, %c) : ({x}, {x}) -> {x}
    %e = tile.map "exp"(%y) : ({x}) -> {x}
    %z = tile.pad %e over ["j"] with 0.0 : f32 : {x} -> {x}
    %r = tile.reduce "sum" %z over "j" : ({x}) -> !tile.tile<[i], f32>
    %u = tile.map "add"(%t, %r) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    tile.yield %u : !tile.tile<[i], f32>
  }}
"""


class Watching(Counting):
    """Counts operations and elements as well."""

    seen: ClassVar[dict[str, float]] = {}

    def compute(self, op, values, space):
        seen = Watching.seen
        names = tile.tile_type(op.value if isinstance(op, tile.ReduceOp) else op.results[0]).names
        if isinstance(op, tile.DotOp):
            names = (*names, op.over.data)
        elements = math.prod(len(space[r]) for r in names)
        kind = type(op).__name__
        seen[kind] = seen.get(kind, 0) + (elements if not isinstance(op, tile.LoadOp) else 0)
        seen["operations"] = seen.get("operations", 0) + 1
        return super().compute(op, values, space)

    def store(self, op, value, space) -> None:
        Watching.seen["operations"] += 1
        super().store(op, value, space)


@st.composite
def bounded(draw) -> str:
    """A kernel whose one or two loops have bounds: causal, a window, a part of the rank for each program, or none."""
    n, m, bi, bj, h, w, c, off = (draw(st.integers(1, most)) for most in (13, 13, 5, 5, 2, 9, 3, 6))
    p = -(-m // (c * bj))
    rounded = f"(min({m}, max(0, i + {off} - 3)) floordiv {bj}) * {bj}"
    last = f"min({m}, max(0, i + BI + {off} - 3))"
    cases = {
        "causal": [("0", last)],
        "window": [(rounded, last)],
        "split": [(f"p * {c * bj}", f"min({m}, (p + 1) * {c * bj})")],
        "both": [(f"p * {c} * BJ", f"min({m}, (p + 1) * {c} * BJ, max(0, i + {bi}))")],
        "two": [("0", rounded), (rounded, last)],
        "three": [("0", f"({m} floordiv {2 * bj}) * BJ"), (f"({m} floordiv {2 * bj}) * BJ", f"{m}")],
        "blocks": [
            (f"((i floordiv {c * bj}) * {c} * BJ)", f"min({m}, ((i + BI - 1) floordiv {c * bj} + 1) * {c * bj})")
        ],
        "all": [("0", str(m))],
    }
    chosen = draw(st.sampled_from(sorted(cases)))
    access = draw(st.sampled_from(["j - i + 4", "i - j", "i + j + p", "i + 2 * j - 3"]))
    tiles = {"x": "!tile.tile<[i, j], f32>", "key": "!tile.tile<[j, d], f32>"}
    shape = {"h": h, "n": n, "m": m, "w": w, "access": access}
    loops = ""
    for at, (lower, upper) in enumerate(cases[chosen]):
        start = f"%s{at - 1}" if at else "%zero"
        loops += LOOP.format(**shape, **tiles, lower=lower, upper=upper, at=at, start=start)
    grid = ", ".join(draw(st.permutations(["h", "p", "i"])))
    return TEXT.format(**shape, p=p, bi=bi, bj=bj, grid=grid, loops=loops, last=len(cases[chosen]) - 1)


def run(text: str) -> tuple[census.Work, dict[str, float]]:
    kernel = next(iter(parse_module(text).body.block.ops))
    assert isinstance(kernel, tile.KernelOp)
    inputs = [torch.zeros([int(d) for d in a.type.shape.data]) for a in kernel.inputs]  # type: ignore
    Counting.moved, Watching.seen = {}, {}
    with patch.object(interpret.kernels, "TileProgram", Watching):
        interpret.run_kernel(kernel, inputs)
    return census.work(kernel), {**Watching.seen, **Counting.moved}


@given(text=bounded())
def test_what_is_counted_is_what_the_interpreter_does(text: str):
    work, seen = run(text)
    assert work.load_bytes == seen.get("load", 0)
    assert work.store_bytes == seen.get("store", 0)
    assert [t.buffer for t in work.loads].count("k") == 1, "loops that go on where others stop are one walk"
    assert work.operations == seen["operations"]
    assert sum(work.dot_flops.values()) == 2 * seen.get("DotOp", 0)
    fills = seen.get("PadOp", 0) + seen.get("FillOp", 0)
    assert work.map_elements == seen.get("MapOp", 0) + seen.get("CastOp", 0) + fills
    assert work.reduce_elements == seen.get("ReduceOp", 0)
    assert work.transcendental_elements == work.elements.get("exp", 0)


@given(bounded(), st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=5))
def test_a_binding_counts_the_same_whatever_was_counted_before(text: str, bindings: list[tuple[int, int]]):
    """Sums over walks are kept from one binding of tile sizes to the next."""
    kernel = next(iter(parse_module(text).body.block.ops))
    assert isinstance(kernel, tile.KernelOp)
    kept = census.Census(kernel, kernel.parameters)
    for bi, bj in bindings:
        binding = {"BI": bi, "BJ": bj}
        assert kept.count(binding) == census.Census(kernel, kernel.parameters).count(binding)


def kernel_of(n: int, bi: int, bj: int, *walks: tuple[str, str]) -> tile.KernelOp:
    """n rows against n keys in loops with these bounds, one head."""
    shape = {"h": 1, "n": n, "m": n, "w": 9, "access": "i - j"}
    tiles = {"x": "!tile.tile<[i, j], f32>", "key": "!tile.tile<[j, d], f32>"}
    loops = ""
    for at, (lower, upper) in enumerate(walks):
        start = f"%s{at - 1}" if at else "%zero"
        loops += LOOP.format(**shape, **tiles, lower=lower, upper=upper, at=at, start=start)
    text = TEXT.format(**shape, p=1, bi=bi, bj=bj, grid="h, p, i", loops=loops, last=len(walks) - 1)
    kernel = parse_module(text).body.block.first_op
    assert isinstance(kernel, tile.KernelOp)
    kernel.detach()
    return kernel


def test_how_much_is_visited_and_how_unevenly():
    """Row tile i of 8 takes i + 1 steps: 36 of 64 in all, the last 8 where 4.5 are the mean."""
    work = census.work(kernel_of(16, 2, 2, ("0", "i"), ("i", "i + 2")))
    assert work.visits == {"j": 36 / 64}
    inside, outside = 9, 4  # operations
    assert work.heaviest == (8 * inside + outside) / (4.5 * inside + outside)


@pytest.mark.parametrize(("bj", "left"), [(2, 1), (4, 1), (3, 2)])
def test_loops_that_no_program_enters_go(bj: int, left: int):
    kernel = kernel_of(8, 2, bj, ("0", "8 floordiv BJ * BJ"), ("8 floordiv BJ * BJ", "8"))
    inputs = [torch.randn([int(d) for d in a.type.shape.data]) for a in kernel.inputs]  # type: ignore
    [before] = interpret.run_kernel(kernel, inputs)
    drop_idle_loops(kernel)
    assert sum(isinstance(op, tile.ForOp) for op in kernel.walk()) == left
    [after] = interpret.run_kernel(kernel, inputs)
    torch.testing.assert_close(after, before)
