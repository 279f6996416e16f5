"""What comes of programs of real size, on tensors without data: kernels, loops, and what is read how often."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from cases import attention, attention_causal, kmeans
from harness import layouts, program_of
from in_parts import taking_turns

from fusecade.ir import tile
from fusecade.ir.cascade import EinsumOp
from fusecade.ir.target import get_target
from fusecade.passes import census, cost
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.fuse import fuse_program
from fusecade.passes.repair import repair_kernel
from fusecade.passes.schedule import ALIKE, schedule_kernel
from fusecade.passes.scheduled import Scheduled


def pooled(h, e):
    return torch.log1p(torch.relu(h @ e.T)).amax(1)


def compiled(
    fn, shapes, target: str, dtype=torch.float16, dynamic=None, sizes=None, always=False
) -> tuple[list[Scheduled], list[EinsumOp]]:
    """The scheduled kernels of a function, and the operations outside of them."""
    machine = get_target(target)
    program = program_of(fn, [torch.empty(s, dtype=dtype, device="meta") for s in shapes], dynamic)
    canonicalise_program(program)
    found = []
    for kernel in fuse_program(program, machine, sizes or {}, always=always).kernels:
        repair_kernel(kernel, kernel.streamed, machine)
        scheduled = schedule_kernel(kernel, machine, *layouts(kernel), sizes or {})
        assert isinstance(scheduled, Scheduled)
        found.append(scheduled)
    return found, [op for op in program.body.block.ops if isinstance(op, EinsumOp)]


ONE_PASS = {
    "attention": (attention, [(8, 4096, 64)] * 3),
    "causal": (attention_causal, [(8, 4096, 64)] * 3),
    "kmeans": (kmeans, [(65536, 64), (1024, 64)]),
    "pooled": (pooled, [(8, 256, 256), (30522, 256)]),
}


@pytest.mark.parametrize(("name", "target"), taking_turns(ONE_PASS, ["cpu", "sm_80", "sm_90"]))
def test_one_kernel_in_one_pass(name: str, target: str):
    """Whatever exists only between two operations stays in one kernel, which walks the streamed rank once."""
    fn, shapes = ONE_PASS[name]
    (s,), left = compiled(fn, shapes, target, torch.float32 if target == "cpu" else torch.float16)
    assert not left
    loops = [op for op in s.kernel.walk() if isinstance(op, tile.ForOp)]
    outermost = [op for op in loops if op.parent_op() is s.kernel]
    stops = {op.bounds[1] for op in outermost}
    walks = [op for op in outermost if op.bounds[0] not in stops]  # the others go on where one has stopped
    assert len({op.rank.data for op in outermost}) == len(walks) <= 1
    assert len(outermost) == (2 if name == "causal" else len(walks))
    assert s.work.programs >= 8
    assert s.price.fits


def shares(bound: float | None, minimum: bool = False):
    """Shares of causal rows whose maximum and sum are loaded, as a backward has them, times what belongs to the rows."""

    def run(q, k, m, s, o):
        at = torch.arange(q.shape[-2])
        x = torch.where(at[:, None] >= at, q @ k.transpose(-1, -2), -math.inf)
        total = s if bound is None else torch.minimum(s, torch.tensor(bound)) if minimum else s.clamp_min(bound)
        return (torch.exp(x - m) / total).transpose(-1, -2) @ o

    return run


@pytest.mark.parametrize(
    ("fn", "bounded"),
    [
        (shares(0.5), True),
        (shares(None), False),
        (shares(0.0), False),
        (shares(-1.0), False),
        (shares(2.0, True), False),
    ],
)
def test_zero_divided_by_what_cannot_be_zero_is_not_visited(fn, bounded: bool):
    """A quotient by a sum that might be zero is NaN where it is, and then no step may be left out."""
    rows, numbers = (8, 4096, 64), (8, 4096, 1)
    (s,), _ = compiled(fn, [rows, rows, numbers, numbers, rows], "sm_90")
    assert ("visited" in s.kernel.attributes) == bounded


def test_the_space_is_ordered_and_its_first_is_bound():
    (s,), _ = compiled(attention, [(8, 4096, 64)] * 3, "sm_90")
    first, *rest = [us for _, us in s.space]
    assert rest == sorted(rest) and len(rest) >= 10
    assert first <= ALIKE * rest[0]  # of those that take about the same time, one that moves much less
    assert dict(s.space[0][0]) == s.kernel.parameters


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_two_large_products_stay_apart(target: str):
    """An MLP recomputes nothing: 11008 hidden features do not fit one program."""
    found, left = compiled(lambda x, u, w: torch.relu(x @ u) @ w, [(8192, 4096), (4096, 11008), (11008, 4096)], target)
    products = [op for op in left if not op.is_map]
    dots = [sum(isinstance(o, tile.DotOp) for o in s.kernel.walk()) for s in found]
    assert len(products) + sum(dots) == 2 and max([*dots, 1]) == 1


def test_a_schedule_is_made_again_the_same():
    from fusecade.ir.text import print_module

    texts = {print_module(compiled(attention, [(8, 1024, 64)] * 3, "sm_90")[0][0].kernel) for _ in range(2)}
    assert len(texts) == 1


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
@pytest.mark.parametrize(
    ("fn", "shape"),
    [(lambda x: torch.logsumexp(x, 0), (1 << 26,)), (lambda x: torch.relu(x).amax(0), (1 << 20, 64))],
)
def test_one_program_does_not_draw_the_bandwidth_of_a_machine(fn, shape: tuple[int, ...], target: str):
    """A long reduction to a few numbers needs its rank split; while nothing splits it, it is no kernel of ours."""
    found, _ = compiled(fn, [shape], target)
    assert all(s.work.programs >= 16 for s in found)


@pytest.mark.parametrize(("fn", "likely"), [(attention, 128), (attention, 512), (attention_causal, 128)])
def test_tiles_of_a_dynamic_length_suit_lengths_far_above_the_likely_one(fn, likely: int):
    """As good for the likely length as its best, and within a tenth of what is best for 16 times as much."""
    dynamic = {name: {1: "n"} for name in "qkv"}

    def alone(length: int, sizes: dict[str, int]) -> Scheduled:
        (s,), _ = compiled(fn, [(8, length, 64)] * 3, "cpu", torch.float32, dynamic, sizes, always=True)
        return s

    def us(s: Scheduled, length: int) -> float:
        return cost.price_with(census.work(s.kernel, sizes={"n": length}), get_target("cpu"), s.kernel.parameters).us

    chosen, far = alone(likely, {"n": likely}), 16 * likely
    (fixed,), _ = compiled(fn, [(8, far, 64)] * 3, "cpu", torch.float32, always=True)
    assert us(chosen, far) <= 1.1 * fixed.price.us
    assert us(chosen, likely) <= 1.1 * min(price for _, price in chosen.space)


def test_more_programs_for_the_same_operations_are_not_cheaper_by_themselves():
    """Few run one behind the other, each operation on all cores, and so do many where that is chosen; else Python still makes
    one call at a time, and its lock is handed over at each."""
    target = get_target("cpu")
    (s,), _ = compiled(attention, [(12, 256, 64)] * 3, "cpu", torch.float32, always=True)
    w = census.work(s.kernel)
    few = 2 * target.sms - 1  # not the same number for each core
    works = [replace(w, programs=n, heaviest=1.0) for n in (1, few, 8 * target.sms)]
    one, some, many = (cost.price_with(work, target, {"share_operations": 0}).us for work in works)
    assert few % target.sms and one == some < many
    assert len({cost.price_with(work, target, {"share_operations": 1}).us for work in works}) == 1
