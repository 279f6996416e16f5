"""A kernel run in parts of its streamed rank, and merged, computes what it computes whole: in float64, tile by tile."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from cases import CASES
from harness import agree, layouts, own_walk, program_of, run_lanes
from in_parts import in_parts, taking_turns
from torch import Tensor
from xdsl.dialects.builtin import StringAttr

from fusecade.ir import interpret, symbols, tile
from fusecade.ir.attributes import AccessMap
from fusecade.ir.cascade import KernelOp, ProgramOp
from fusecade.ir.interpret import run_program
from fusecade.ir.target import get_target
from fusecade.ir.verify import verify
from fusecade.passes.algebra.forms import Refused
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.emit_tiles import emit_tiles
from fusecade.passes.fuse import contiguous, fuse_program
from fusecade.passes.repair import repair_kernel
from fusecade.passes.split_reduction import Split, split_kernel
from fusecade.passes.walk import Parts, Walk

SPLIT = [
    "attention", "attention_boolean", "attention_additive", "attention_causal", "attention_window", "attention_and_lse",
    "attention_softcap", "attention_repeated", "sdpa", "sdpa_mask", "sdpa_causal", "logsumexp_of_linear", "kmeans",
    "max_pooled_head", "argmax_of_linear", "logsumexp", "argmin_ties", "minmax", "any_all", "count", "variance",
    "rms_norm_linear", "temperature_of_rows", "temperature_below_zero", "carried_by_winner", "carried_by_both",
    "relative_shift",
]  # fmt: skip


def repaired(fn: Callable, tensors: Sequence[Tensor], target: str = "sm_90") -> tuple[ProgramOp, list[KernelOp]]:
    """The program of a function with every kernel that can be made of it, repaired."""
    program = program_of(fn, tensors)
    canonicalise_program(program)
    machine = get_target(target)
    kernels = fuse_program(program, machine, always=True).kernels
    for kernel in kernels:
        repair_kernel(kernel, stream(kernel), machine)
    return program, kernels


def stream(kernel: KernelOp) -> str:
    found = kernel.attributes["stream"]
    assert isinstance(found, StringAttr)
    return found.data


def split_of(kernel: KernelOp, parts: int) -> Split:
    split = split_kernel(kernel, stream(kernel), parts)
    assert isinstance(split, Split), split
    return split


class InParts(interpret.ProgramRun):
    """A program whose kernels run as two tile kernels each."""

    parts: int
    choose: random.Random
    of: dict
    lanes: bool

    def block(self, block, arguments):
        if block not in self.of:
            return super().block(block, arguments)
        split: Split = self.of[block]
        first, second = lowered(split, self.choose, self.sizes, self.parts)
        run = run_lanes if self.lanes else interpret.run_kernel
        states = run(first, [arguments[n] for n in split.reads], self.sizes)
        return run(second, [*(arguments[n] for n in split.merge_reads), *states], self.sizes)


def lowered(split: Split, choose: random.Random, sizes, parts: int) -> tuple[tile.KernelOp, tile.KernelOp]:
    """Both kernels with walks of our own: small ragged tiles, the streamed rank in parts of whole tiles."""
    walk = own_walk(split.partial, choose, 0, sizes)
    cut = Parts(split.rank, split.part, "SPLIT")
    rows = [replace(r, role="loop", tile="BS") if r.name == split.rank else r for r in walk.table.data]
    rows.append(tile.TileRank(split.part, symbols.symbol("SPLIT"), "unit"))
    params = {k: v for k, v in walk.params.items() if k in {r.tile for r in rows}}
    walk = Walk(
        tile.TileRanks(tuple(rows)),
        (*(r for r in walk.grid if r != split.rank), split.part),
        {**params, "BS": choose.choice((1, 2, 3)), "SPLIT": parts},
        parts=cut,
    )
    outputs = []
    for value in split.partial.returned:
        whole = contiguous(value.type)  # type: ignore[arg-type]
        size = symbols.expr(1)
        for d in value.type.dims:  # type: ignore[union-attr]
            size = size * d
        shape, strides = (symbols.symbol("SPLIT"), *whole.shape.data), (size, *whole.strides.data)
        ranks = value.owner.out_ranks(value.index)  # type: ignore[union-attr]
        outputs.append((tile.BufferType.of(shape, strides, whole.element_type), AccessMap.of([split.part, *ranks])))
    first = emit_tiles(split.partial, walk, [contiguous(a.type) for a in split.partial.body.block.args], outputs)  # type: ignore[arg-type]
    second = emit_tiles(split.merge, own_walk(split.merge, choose, 2, sizes), *layouts(split.merge))
    for made in (first, second):
        assert not isinstance(made, Refused), made
        verify(made)
    return first, second  # type: ignore[return-value]


def check_parts(fn: Callable, tensors: Sequence[Tensor], parts: Sequence[int], target: str = "sm_90") -> None:
    program, kernels = repaired(fn, tensors, target)
    expected = run_program(program, tensors)
    shapes = [a.type.shape for a in program.body.block.args]  # type: ignore[union-attr]
    for n, count in enumerate(parts):
        run = InParts(interpret.infer_from(shapes, tensors, None), None, "fold")
        run.of = {k.body.block: split_of(k, count) for k in kernels}
        run.parts, run.choose, run.lanes = count, random.Random(count), n == 0
        found = run.block(program.body.block, [interpret.to_reference(t) for t in tensors])
        agree(found, expected, f"{count} parts")


@pytest.mark.parametrize(("name", "target"), taking_turns(SPLIT, ["cpu", "sm_90"]))
def test_parts_that_are_merged_are_the_whole(name: str, target: str):
    """16 parts of 5 to 11 elements: most of them are empty."""
    case = CASES[name]
    check_parts(case.fn, case.tensors, (3, 2, 1, 16) if target == "sm_90" else (2,), target)


@pytest.mark.parametrize("name", in_parts(SPLIT, 1))
def test_nan_and_infinities_come_out_as_of_the_whole(name: str):
    """In several parts, and in none that a mask of indices closes: whether those are visited is another pass's business."""
    case = CASES[name]
    by_index = name.endswith(("causal", "window"))
    for poison in (math.nan,) if by_index else (math.nan, math.inf, -math.inf):
        tensors = [t.clone() for t in case.tensors]
        for t in [t for t in tensors if t.dtype.is_floating_point][: 1 if by_index else None]:
            t.reshape(-1)[:: max(1, t.numel() // 3)] = poison
        check_parts(case.fn, tensors, (3,))


def masked(x: Tensor, keep: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(torch.where(keep, x, -math.inf), -1) @ v


def test_rows_that_are_masked_in_front_behind_and_everywhere():
    keep = torch.ones(4, 12, dtype=torch.bool)
    keep[0, :9], keep[1, 4:], keep[2] = False, False, False
    check_parts(masked, [torch.randn(4, 12), keep, torch.randn(12, 3)], (2, 3, 5))


@pytest.mark.parametrize("fn", [lambda x: x.var(-1), lambda x: (x.softmax(-1) * x).sum(-1), lambda x: x.logsumexp(-1)])
def test_far_from_zero(fn: Callable):
    check_parts(fn, [torch.randn(3, 40) + 1e4], (4,))


def test_what_takes_two_passes_far_from_zero_is_in_no_parts():
    """The mean of a softmax is known when all of it is: its variance is not expanded, which would lose it."""
    x = torch.randn(3, 40) + 1e4
    program, (kernel,) = repaired(lambda x: x.softmax(-1).var(-1), [x], "sm_90")
    agree(run_program(program, [x]), [x.double().softmax(-1).var(-1)], "whole")
    assert isinstance(split_kernel(kernel, kernel.streamed, 4), Refused)


def test_the_first_of_equal_extremes_wins_across_parts():
    x = torch.tensor([[3.0, 1, 2, 1, 1, 3], [2, 2, 2, 2, 2, 2], [5, 4, math.nan, 1, math.nan, 0]])
    check_parts(lambda x: (3 * x).argmin(-1), [x], (2, 3, 6))
    check_parts(lambda x: (2 * x).max(-1), [x], (2, 3, 6))


# --- refusals -----------------------------------------------------------------------------------------------------


def refusal(fn: Callable, tensors: Sequence[Tensor]) -> str:
    _, kernels = repaired(fn, tensors)
    found = [split_kernel(k, stream(k), 2) for k in kernels]
    assert len(found) == 1 and isinstance(found[0], Refused), found
    return found[0].reason


def test_two_passes_are_not_split():
    assert "needs what is reduced over" in refusal(
        lambda x: (x - x.mean(-1, keepdim=True)).abs().sum(-1), [torch.randn(5, 9)]
    )


def test_a_result_that_carries_the_rank_is_not_split():
    assert "carries" in refusal(lambda x: torch.softmax(x, -1), [torch.randn(5, 9)])


def test_both_halves_carry_what_makes_them_legal():
    _, (kernel,) = repaired(CASES["attention"].fn, CASES["attention"].tensors)
    certificates = [c.data for c in split_of(kernel, 2).merge.attributes["certificates"].data]  # type: ignore[union-attr]
    assert len(certificates) == 3 and sum("moved by its transport" in c for c in certificates) == 2
