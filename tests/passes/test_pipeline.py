"""Plain PyTorch functions through every stage of the pipeline, in float64; what breaks here is wrong, not slow."""

from __future__ import annotations

import math

import pytest
import torch
from cases import CASES
from harness import check

from fusecade.passes.schedule import Scheduled

ROWWISE = [
    "attention", "attention_boolean", "attention_additive", "attention_causal", "attention_window", "attention_and_lse",
    "attention_softcap", "attention_repeated", "sdpa", "sdpa_mask", "sdpa_causal", "self_attention",
    "logsumexp_of_linear", "kmeans", "max_pooled_head", "argmax_of_linear", "topmost_and_where", "softmax",
    "log_softmax", "logsumexp", "argmin_ties", "minmax", "any_all", "count", "linear_gelu", "mlp", "rms_norm",
    "rms_norm_linear", "layer_norm", "variance", "mean_deviation", "quantised",
]  # fmt: skip


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
@pytest.mark.parametrize("name", CASES)
def test_every_stage_computes_the_same(name: str, target: str):
    case = CASES[name]
    seen = check(case.fn, case.tensors, target, walks=6 if target == "sm_90" else 2, seed=len(name))
    assert all(isinstance(s, Scheduled) for s in seen.scheduled), seen.scheduled
    if case.kernels is not None:
        assert len(seen.kernels) == case.kernels, seen.refusals


@pytest.mark.parametrize("name", ROWWISE)
def test_in_double_precision(name: str):
    case = CASES[name]
    check(case.fn, [t.double() if t.dtype.is_floating_point else t for t in case.tensors], walks=2)


@pytest.mark.parametrize("name", ROWWISE)
def test_in_half_precision(name: str):
    """Nothing is rounded by the interpreter; this is about types."""
    case = CASES[name]
    check(case.fn, [t.half() if t.dtype.is_floating_point else t for t in case.tensors], walks=2, eager=False)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ROWWISE)
def test_nan_and_infinities_come_out_as_in_eager(name: str, poison: float):
    """One element of each floating input is not finite; another place each time."""
    case = CASES[name]
    for place in (0, -1):
        tensors = [t.clone() for t in case.tensors]
        for t in tensors[: 1 if place else 2]:
            if t.dtype.is_floating_point:
                t.view(-1)[place] = poison
        check(case.fn, tensors, walks=2, seed=place)
