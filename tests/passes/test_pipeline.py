"""Plain PyTorch functions through every stage of the pipeline, in float64; what breaks here is wrong, not slow."""

from __future__ import annotations

import math
import random

import pytest
import torch
from cases import CASES
from harness import agree, check, layouts, own_walk, program_of, ranks_of, run_lanes
from in_parts import in_parts, taking_turns

from fusecade.ir import tile
from fusecade.ir.attributes import AccessMap, TensorType
from fusecade.ir.interpret import run_program
from fusecade.ir.target import get_target
from fusecade.passes.algebra.forms import Refused
from fusecade.passes.emit_tiles import emit_tiles
from fusecade.passes.fuse import contiguous, fuse_program
from fusecade.passes.repair import repair_kernel
from fusecade.passes.scheduled import Scheduled
from fusecade.passes.walk import Walk

ROWWISE = [
    "attention", "attention_boolean", "attention_additive", "attention_causal", "attention_window", "attention_and_lse",
    "attention_softcap", "attention_repeated", "sdpa", "sdpa_mask", "sdpa_causal", "self_attention",
    "attention_sink_column", "attention_padded", "logsumexp_and_one", "logsumexp_and_another",
    "logsumexp_of_linear", "kmeans", "max_pooled_head", "argmax_of_linear", "topmost_and_where", "softmax",
    "log_softmax", "logsumexp", "argmin_ties", "minmax", "any_all", "count", "linear_gelu", "mlp", "rms_norm",
    "rms_norm_linear", "layer_norm", "variance", "mean_deviation", "quantised", "picked_probability",
    "picked_log_probabilities",
]  # fmt: skip


@pytest.mark.parametrize(("name", "target"), taking_turns(CASES, ["cpu", "sm_90"]))
def test_every_stage_computes_the_same(name: str, target: str):
    case = CASES[name]
    walks = 4 if len(name) % 2 else 2  # six of all cases: the slow test below
    seen = check(case.fn, case.tensors, target, walks=walks if target == "sm_90" else 1, seed=len(name))
    assert all(isinstance(s, Scheduled) for s in seen.scheduled), seen.scheduled
    if case.kernels is not None:
        assert len(seen.kernels) == case.kernels, seen.refusals


@pytest.mark.slow  # two or four walks are seen in CI: the extreme ones
@pytest.mark.parametrize("name", CASES)
def test_walks_of_any_kind_compute_the_same(name: str):
    check(CASES[name].fn, CASES[name].tensors, walks=6, seed=len(name))


@pytest.mark.parametrize("name", in_parts(ROWWISE, 0))
def test_in_double_precision(name: str):
    case = CASES[name]
    check(case.fn, [t.double() if t.dtype.is_floating_point else t for t in case.tensors], walks=1)


@pytest.mark.parametrize("name", in_parts(ROWWISE, 1))
def test_in_half_precision(name: str):
    """Nothing is rounded by the interpreter; this is about types."""
    case = CASES[name]
    check(case.fn, [t.half() if t.dtype.is_floating_point else t for t in case.tensors], walks=1, eager=False)


@pytest.mark.parametrize("name", in_parts(ROWWISE, 2, of=4))
def test_nan_and_infinities_come_out_as_in_eager(name: str):
    """The first element of the first two floating inputs is not finite."""
    poisoned = []
    for poison in (math.nan, math.inf, -math.inf):
        tensors = [t.clone() for t in CASES[name].tensors]
        for t in [t for t in tensors if t.dtype.is_floating_point][:2]:
            t.view(-1)[0] = poison
        poisoned.append(tensors)
    check(CASES[name].fn, poisoned[0], walks=1, seed=1, others=poisoned[1:])


# --- sizes, layouts, what cannot be lowered -----------------------------------------------------------------------


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
@pytest.mark.parametrize(
    "name", ["attention", "attention_causal", "kmeans", "softmax", "linear_gelu", "layer_norm_linear"]
)
def test_sizes_known_only_when_it_runs(name: str, target: str):
    """The outermost rows of the first tensor are dynamic; tile programs are made once and run for another size."""
    case = CASES[name]
    rows = case.tensors[0].dim() - 2
    check(case.fn, case.tensors, target, dynamic={0: {rows: "rows"}}, walks=3)


@pytest.mark.parametrize("name", ["attention", "kmeans", "logsumexp_of_linear", "max_pooled_head"])
def test_streamed_ranks_known_only_when_it_runs(name: str):
    case = CASES[name]
    streamed = {"kmeans": {1: {0: "s"}}, "logsumexp_of_linear": {1: {1: "s"}}, "max_pooled_head": {0: {1: "s"}}}
    dynamic = streamed.get(name, {1: {1: "s"}, 2: {1: "s"}})
    check(case.fn, case.tensors, dynamic=dynamic, walks=4)


def test_results_can_be_stored_in_another_order():
    """An output's access is a map over the value's ranks: here transposed."""
    case = CASES["attention"]
    program = program_of(case.fn, case.tensors)
    expected = run_program(program, case.tensors)[0]
    (kernel,) = fuse_program(program, get_target("cpu"), {}, always=True).kernels
    repair_kernel(kernel, kernel.streamed, get_target("cpu"))
    inputs, _ = layouts(kernel)
    (value,) = kernel.returned
    ranks = value.owner.out_ranks(0)[::-1]  # type: ignore
    kind = TensorType.of(value.type.dims[::-1], value.type.element_type)  # type: ignore
    for turn in range(4):
        walk = own_walk(kernel, random.Random(turn), turn, {})
        emitted = emit_tiles(kernel, walk, inputs, [(contiguous(kind), AccessMap.of(ranks))])
        assert emitted
        agree(run_lanes(emitted, case.tensors), [expected.permute(2, 1, 0)], f"walk {turn}")


def test_what_cannot_be_lowered_is_refused_with_a_reason():
    """The row is streamed, and the result carries both it and another streamed rank."""
    case = CASES["self_attention"]
    program = program_of(case.fn, case.tensors)
    (kernel,) = fuse_program(program, get_target("cpu"), {}, always=True).kernels
    extents, _, _ = ranks_of(kernel)
    table = tuple(tile.TileRank(r, e, "loop", "B") for r, e in extents.items())
    refused = emit_tiles(kernel, Walk(tile.TileRanks(table), (), {"B": 2}), *layouts(kernel))
    assert isinstance(refused, Refused) and refused.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0])
@pytest.mark.parametrize("fn", [torch.argmin, torch.argmax])
def test_the_first_of_equal_extremes_wins_across_tiles(fn, value: float):
    """Ties within a tile and between tiles; a NaN is more extreme than any number, the first NaN wins."""
    x = torch.full((3, 9), value)
    x[0, 4], x[1, 7] = 1.0, -1.0
    x[2, 3:] = torch.tensor([2.0, math.nan, 2.0, -2.0, math.nan, -2.0])
    check(lambda x: fn(x * 1.5 + 0.0, -1), [x], walks=6)
