"""Memory plans: no two live buffers share a byte, and the arena is between the bound and what no sharing would take."""

from __future__ import annotations

import itertools

import torch
from harness import program_of
from hypothesis import example, given
from hypothesis import strategies as st

from fusecade.passes.plan_memory import (
    ALIGNMENT,
    Interval,
    lower_bound,
    objects_by_breadth,
    offsets_by_size,
    plan,
    plan_memory,
)

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
    disjoint(intervals, offsets_by_size(intervals))
    disjoint(intervals, objects_by_breadth(intervals))
    assert all(offset % ALIGNMENT == 0 for offset in found.offsets.values())
    assert lower_bound(intervals) == found.bound <= found.total <= sum(aligned(b.size) for b in intervals)
    assert all(found.offsets[b.name] + b.size <= found.total for b in intervals)


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
