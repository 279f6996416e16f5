"""Memory plans: no two live buffers share a byte, and the arena is between the bound and what no sharing would take."""

from __future__ import annotations

import itertools

import pytest
import torch
from harness import layouts, program_of
from hypothesis import example, given
from hypothesis import strategies as st

from fusecade.ir import tile
from fusecade.ir.target import get_target
from fusecade.passes.arena import ALIGNMENT, METHODS, PUBLISHED, Interval, extent, lower_bound
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.fuse import fuse_program
from fusecade.passes.in_place import in_place
from fusecade.passes.plan_memory import Uses, plan, plan_memory
from fusecade.passes.repair import repair_kernel
from fusecade.passes.schedule import schedule_kernel
from fusecade.passes.scheduled import Scheduled

buffers = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 12), st.integers(0, 5)), min_size=0, max_size=14).map(
    lambda rows: [Interval(f"b{n}", size, first, first + length) for n, (size, first, length) in enumerate(rows)]
)


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def disjoint(intervals: list[Interval], offsets: dict[str, int]) -> None:
    assert set(offsets) == {b.name for b in intervals}
    for a, b in itertools.combinations(intervals, 2):
        if a.overlaps(b) and a.size and b.size:
            apart = offsets[a.name] + a.size <= offsets[b.name] or offsets[b.name] + b.size <= offsets[a.name]
            assert apart, (a, b, offsets)


@given(buffers)
@example([])
@example([Interval("a", 64, 0, 1), Interval("b", 128, 1, 2), Interval("c", 64, 2, 3)])
def test_live_buffers_do_not_overlap(intervals: list[Interval]):
    found = plan(intervals)
    disjoint(intervals, found.offsets)
    for method in METHODS.values():
        disjoint(intervals, method(intervals))
    assert all(offset % ALIGNMENT == 0 for offset in found.offsets.values())
    assert lower_bound(intervals) == found.bound <= found.total <= sum(aligned(b.size) for b in intervals)
    assert all(found.offsets[b.name] + b.size <= found.total for b in intervals)


@given(buffers)
def test_no_published_heuristic_is_better(intervals: list[Interval]):
    assert plan(intervals).total <= min(extent(intervals, METHODS[name](intervals)) for name in PUBLISHED)


def test_the_tightest_gap_is_taken():
    """Between a and c there is room for d, below a there is more: d goes where it wastes nothing."""
    fixed = [Interval("a", 6400, 0, 9), Interval("b", 1280, 0, 1), Interval("c", 640, 0, 9), Interval("d", 128, 0, 9)]
    offsets = METHODS["offsets by size"](fixed)
    disjoint(fixed, offsets)
    assert extent(fixed, offsets) == lower_bound(fixed)


@given(buffers)
def test_the_bound_is_what_is_alive_at_once(intervals: list[Interval]):
    moments = range(20)
    assert lower_bound(intervals) == max(
        sum(aligned(b.size) for b in intervals if b.first <= m <= b.last) for m in moments
    )


def test_buffers_of_a_chain_share_two_places():
    chain = [Interval(f"b{n}", 640, n, n + 1) for n in range(9)]
    assert plan(chain).total == plan(chain).bound == 1280


def test_intermediates_of_a_program():
    """Arguments and results are not in the arena; an intermediate lives until its last reader."""

    def f(x, w):
        y = torch.sort(x, -1).values
        z = torch.sort(y @ w, -1).values
        return torch.sort(z, 0).values

    program = program_of(f, [torch.randn(4, 32), torch.randn(32, 16)])
    found = plan_memory(program)
    assert found.total >= found.bound >= 4 * 32 * 4 + 4 * 16 * 4


# --- in the place of an input -----------------------------------------------------------------------------------------


def kernel_of(fn, *shapes: tuple[int, ...], target: str = "cpu") -> tile.KernelOp:
    program = program_of(fn, [torch.empty(s, device="meta") for s in shapes])
    canonicalise_program(program)
    (kernel,) = fuse_program(program, get_target(target), always=True).kernels
    repair_kernel(kernel, kernel.streamed, get_target(target))
    scheduled = schedule_kernel(kernel, get_target(target), *layouts(kernel), {})
    assert isinstance(scheduled, Scheduled)
    return scheduled.kernel


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
@pytest.mark.parametrize(
    ("fn", "shapes", "expected"),
    [
        (lambda x: torch.softmax(x, -1), [(512, 4096)], {(0, 0)}),
        (lambda x, y: torch.softmax(x, -1) * y, [(512, 4096)] * 2, {(0, 0), (0, 1)}),
        (lambda x, g: x / x.sum(-1, keepdim=True) * g, [(512, 512), (512,)], {(0, 0)}),
        (lambda x: torch.logsumexp(x, -1), [(512, 4096)], set()),
        (lambda x: torch.softmax(x, -1).T, [(512, 512)], set()),
        (lambda x, w: torch.relu(x @ w).amax(1, keepdim=True) * x, [(512, 64), (64, 64)], {(0, 0)}),
        (lambda x: torch.softmax(x @ x.T, -1) @ x, [(512, 64)], set()),
    ],
    ids=["softmax", "two inputs", "a row beside", "smaller", "transposed", "read whole, then scaled", "read by all"],
)
def test_what_a_program_reads_and_then_writes_may_be_one_buffer(fn, shapes, expected, target: str):
    kernel = kernel_of(fn, *shapes, target=target)
    inputs = {n for n, a in enumerate(kernel.inputs) if a.type == kernel.written[0].type}
    assert set(in_place(kernel)) == {(r, n) for r, n in expected if n in inputs}


def test_a_result_in_the_place_of_its_operand_costs_nothing():
    def f(x):
        y = torch.sort(x, -1).values
        z = torch.sort(y, 0).values
        return torch.sort(z, -1).values

    program = program_of(f, [torch.randn(64, 32)])
    apart = plan_memory(program)
    ops = [op for op in program.body.block.ops if op.results]
    beside = plan_memory(program, uses={op: Uses(in_place=((0, 0),)) for op in ops if len(op.operands) == 1})
    assert beside.in_place
    assert beside.total < apart.total
    assert beside.total == beside.bound


def test_an_operand_that_is_read_later_is_not_written_over():
    def f(x):
        y = torch.sort(x, -1).values
        return torch.sort(torch.sort(y, 0).values, -1).values.mm(y.T)

    program = program_of(f, [torch.randn(64, 64)])
    ops = [op for op in program.body.block.ops if op.results and len(op.operands) == 1]
    found = plan_memory(program, uses={op: Uses(in_place=((0, 0),)) for op in ops})
    first = next(name for name in found.offsets)
    assert first not in found.in_place.values()


def test_a_workspace_lives_while_its_kernel_runs():
    def f(x):
        y = torch.sort(x, -1).values
        return torch.sort(torch.sort(y, 0).values, -1).values

    program = program_of(f, [torch.randn(64, 32)])
    op = [op for op in program.body.block.ops if op.results][1]
    without, found = plan_memory(program), plan_memory(program, uses={op: Uses(workspace_bytes=1 << 20)})
    assert found.bound >= without.bound + (1 << 20)
    assert len(found.offsets) == len(without.offsets) + 1
