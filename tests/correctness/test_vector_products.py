"""Products of a matrix and a vector on the CPU: one dot, which reads the matrix once, priced by what comes from memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import fusecade
from fusecade.ir.target import get_target
from fusecade.passes.census import Dot, Transfer, Work
from fusecade.passes.cost import price


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / 4, dim=-1) @ v


def log_mean_exp_of_scores(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w).logsumexp(0)


def weighted_rows(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(x @ w, 0) @ v


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CASES = {
    "one query a head": (attention, [data(3, 1, 16), data(3, 301, 16, seed=1), data(3, 301, 16, seed=2)]),
    "one query": (attention, [data(1, 16), data(301, 16, seed=1), data(301, 24, seed=2)]),
    "scores": (log_mean_exp_of_scores, [data(301, 16), data(16, seed=1)]),
    "rows by scores": (weighted_rows, [data(301, 16), data(16, seed=1), data(301, 24, seed=2)]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_vector_is_one_row_of_a_dot(name: str, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    fn, args = CASES[name]
    kernel = fusecade.compile(fn, args, target="cpu", fuse="always", remainder="eager", strict=True)
    source = kernel.report.kernels[0].source
    assert ".unsqueeze(-2)" in source
    assert "torch.bmm(" in source or "torch.mm(" in source
    exact = fn(*(a.double() for a in args))
    wrong = (kernel(*args) - exact).abs().max()
    assert wrong <= 2 * (fn(*args) - exact).abs().max() + exact.abs().max() * torch.finfo(torch.float32).eps


def test_one_query_over_many_keys_is_fused_for_its_price():
    args = [torch.empty(shape, device="meta") for shape in ((8, 1, 64), (8, 65536, 64), (8, 65536, 64))]
    report = fusecade.explain(attention, *args, target="cpu")
    assert not report.refusals
    assert report.kernels[0].hbm_bytes < 1.01 * 2 * 8 * 65536 * 64 * 4


def test_the_matrix_comes_while_it_is_multiplied():
    """What is bound by memory takes the same time without arithmetic; what comes from cache does not."""
    target, elements = get_target("cpu"), 1 << 26
    read = Work(programs=8, loads=[Transfer("k", 4 * elements, 4 * elements)])
    both = replace(read, dots=[Dot("f32", 2.0 * elements, (1, 2048, 64))])
    assert price(both, target).us == price(read, target).us
    cached = replace(both, loads=[])
    assert 0 < price(cached, target).us < price(both, target).us
