"""Ranges in `torch.profiler`: one for each call of a kernel, with a name that says what it computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from programs import attend, compiled, qkv

import fusecade


def ranges(run, *inputs) -> dict[str, int]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run(*inputs)
    return {e.key: e.count for e in profile.key_averages() if e.key.startswith("fusecade::k")}


@pytest.mark.parametrize("remainder", ["eager", "inductor"])
def test_a_kernel_has_a_range_with_its_operations(remainder: str):
    def fn(q, k, v):
        return torch.cumsum(attend(q, k, v), -1)

    run, inputs = compiled(fn, remainder), qkv(4, 64, 64)
    run(*inputs)
    assert ranges(run, *inputs) == {"fusecade::k0_bmm_div_softmax_bmm": 1}


def test_a_compiled_function_has_ranges_too():
    inputs = qkv(4, 64, 64)
    run = fusecade.compile(attend, inputs, fuse="always")
    assert ranges(run, *inputs) == {"fusecade::k0_bmm_div_softmax_bmm": 1}


@pytest.mark.parametrize("dynamic", [{}, {0: {1: "n"}}], ids=["fixed", "dynamic"])
def test_so_have_functions_of_packages(dynamic, tmp_path: Path):
    def with_another_operator(q, k, v):
        return torch.cumsum(attend(q, k, v), -1)

    inputs = qkv(4, 64, 64)
    for fn in (attend, with_another_operator):
        fusecade.export(fn, inputs, tmp_path / "p.fcade", fuse="always", dynamic=dynamic)
        run = fusecade.load(tmp_path / "p.fcade")
        for called in (run, torch.compile(lambda *x, run=run: run(*x), backend="aot_eager", fullgraph=True)):
            called(*inputs)
            assert ranges(called, *inputs) == {"fusecade::k0_bmm_div_softmax_bmm": 1}
