"""Binding: parameters, sizes, and the edge work that goes when a rank is even."""

from __future__ import annotations

from typing import cast

import pytest

from fusecade.codegen.bind import bind
from fusecade.codegen.triton_source import print_triton
from fusecade.errors import InternalCompilerError
from fusecade.ir import tile


def guards(kernel: tile.KernelOp) -> list[tuple[str, ...]]:
    return [op.guards for op in kernel.body.walk() if isinstance(op, tile.LoadOp | tile.StoreOp)]


def pads(kernel: tile.KernelOp) -> list[tuple[str, ...]]:
    return [op.over_ranks for op in kernel.body.walk() if isinstance(op, tile.PadOp)]


def test_whole_ranks_of_a_power_of_two_are_not_guarded(runner):
    assert guards(runner.kernel("attention")) == [("i",), ("j",), ("j",), ("i",)]
    assert pads(runner.kernel("attention")) == [("j",)]


def test_sizes_that_are_multiples_of_their_tiles_need_no_edges(runner):
    bound = bind(runner.kernel("attention"), {"BI": 64, "BJ": 32}, {"n": 640, "m": 96})
    assert guards(bound) == [(), (), (), ()]
    assert pads(bound) == []
    assert bound.parameters["BI"] == 64


def test_one_ragged_rank_stays(runner):
    bound = bind(runner.kernel("attention"), {"BI": 64, "BJ": 32}, {"n": 640, "m": 97})
    assert guards(bound) == [(), ("j",), ("j",), ()]
    assert pads(bound) == [("j",)]


def test_known_multiples_of_sizes_that_stay_symbols(runner):
    bound = bind(runner.kernel("attention"), {"BI": 64, "BJ": 64}, multiples={"n": 128, "m": 16})
    assert guards(bound) == [(), ("j",), ("j",), ()]
    source = print_triton(bound)
    assert source.sizes == ("m", "n", "nb")
    assert set(source.divisible_by_16) - set(source.buffers) == {"m", "n"}


def test_sizes_become_literals_everywhere(runner):
    bound = bind(runner.kernel("causal"), sizes={"nb": 8, "n": 4096, "m": 4096})
    source = print_triton(bound)
    assert source.sizes == ()
    assert source.grid == "256"
    assert "tl.range(0, tl.minimum(BI + start_i, 4096), BJ" in source.text


@pytest.mark.parametrize(("m", "once"), [(16, True), (64, True), (65, False), (0, False)])
def test_a_loop_that_is_one_step_in_every_program_is_printed_straight(runner, m, once):
    bound = bind(runner.kernel("attention"), {"BI": 64, "BJ": 64}, {"n": 640, "m": m})
    (loop,) = [op for op in bound.body.walk() if isinstance(op, tile.ForOp)]
    assert (tile.ONCE in loop.attributes) == once
    assert ("in tl.range(" in print_triton(bound).text) == (not once)
    again = bind(bound, {"BJ": 16})
    (loop,) = [op for op in again.body.walk() if isinstance(op, tile.ForOp)]
    assert (tile.ONCE in loop.attributes) == (m == 16)


def test_binding_leaves_the_kernel_as_it_was(runner):
    kernel = runner.kernel("attention")
    before = str(kernel)
    bind(kernel, {"BI": 16}, {"n": 4096})
    assert str(kernel) == before


def test_a_parameter_that_is_not_there(runner):
    with pytest.raises(InternalCompilerError, match="BX"):
        bind(runner.kernel("attention"), {"BX": 16})


@pytest.mark.parametrize(("extent", "guarded"), [(8, True), (16, False), (24, True), (32, False)])
def test_whole_ranks_in_a_dot_have_at_least_16_lanes(runner, extent, guarded):
    kernel = runner.kernel("lm_head_max", replaced={"256": str(extent)})
    load = next(op for op in kernel.body.walk() if isinstance(op, tile.LoadOp))
    assert ("d" in cast(tile.LoadOp, load).guards) == guarded
