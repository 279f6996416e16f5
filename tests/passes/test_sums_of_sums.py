"""A loop over a rank that batches products: one element a step, one accumulator, and what is written along it on the way."""

from __future__ import annotations

import pytest
import torch
from harness import layouts, program_of
from xdsl.ir import BlockArgument

from fusecade.ir import interpret, tile
from fusecade.ir.target import get_target
from fusecade.ir.verify import verify
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.fuse import fuse_program
from fusecade.passes.repair import repair_kernel
from fusecade.passes.schedule import schedule_kernel
from fusecade.passes.scheduled import Scheduled


def peaks_and_sums(x, e):
    """[B, S, D], [V, D] -> the peak over s [B, V], and what is summed with it over b and s [V, D]."""
    scores = torch.relu(x @ e.T)
    peaks = scores.amax(1, keepdim=True)
    weights = scores * peaks
    return peaks.squeeze(1), torch.einsum("bsv,bsd->vd", weights, x)


def scheduled(target: str, dtype: torch.dtype, *shapes: tuple[int, ...]) -> Scheduled:
    machine = get_target(target)
    program = program_of(peaks_and_sums, [torch.empty(s, dtype=dtype, device="meta") for s in shapes])
    canonicalise_program(program)
    (kernel,) = fuse_program(program, machine, {}, always=True).kernels
    repair_kernel(kernel, kernel.attributes["stream"].data, machine)  # type: ignore
    found = schedule_kernel(kernel, machine, *layouts(kernel), {})
    assert isinstance(found, Scheduled)
    verify(found.kernel)
    return found


def loops_of(s: Scheduled) -> list[tile.ForOp]:
    return [op for op in s.kernel.walk() if isinstance(op, tile.ForOp)]


@pytest.fixture(scope="module")
def large() -> Scheduled:
    return scheduled("sm_90", torch.bfloat16, (32, 512, 128), (30522, 128))


def test_a_batch_is_walked_element_by_element(large: Scheduled):
    (outer,) = [op for op in loops_of(large) if op.parent_op() is large.kernel]
    rank = large.kernel.ranks[outer.rank.data]
    assert rank.role == "unit"
    assert rank.name not in large.kernel.grid_ranks
    dots = [op for op in large.kernel.walk() if isinstance(op, tile.DotOp)]
    assert dots
    assert not any(op.batch for op in dots)
    assert not any(d.batch > 1 for d in large.work.dots)


def test_a_sum_of_sums_has_one_accumulator(large: Scheduled):
    """The inner loop goes on from what the outer one carries; the cost model counts that tile once."""
    (outer,) = [op for op in loops_of(large) if op.parent_op() is large.kernel]
    sums = [
        op
        for op in loops_of(large)
        if any(isinstance(v, BlockArgument) and v.block is outer.body.block for v in op.init)
    ]
    assert len(sums) == 1
    (total,) = (v for v in outer.body.block.args if len(tile.tile_type(v).names) == 2)
    size = {r.name: large.kernel.parameters.get(r.tile or "", 128) for r in large.kernel.ranks.data}
    one = 4 * size[tile.tile_type(total).names[0]] * size[tile.tile_type(total).names[1]]
    assert one <= large.work.carried_bytes < 1.5 * one


def test_what_is_written_along_the_rank_needs_no_loop_of_its_own(large: Scheduled):
    (outer,) = [op for op in loops_of(large) if op.parent_op() is large.kernel]
    stores = [op for op in large.kernel.walk() if isinstance(op, tile.StoreOp)]
    assert [op.parent_op() is outer for op in stores] == [True, False]


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_it_computes_the_same(target: str):
    generator = torch.Generator().manual_seed(3)
    x, e = (torch.randn(s, generator=generator, dtype=torch.float64) for s in [(3, 300, 48), (50, 48)])
    s = scheduled(target, torch.float32, tuple(x.shape), tuple(e.shape))
    for got, want in zip(interpret.run_kernel(s.kernel, [x, e]), peaks_and_sums(x, e), strict=True):
        torch.testing.assert_close(got.reshape(want.shape), want)
