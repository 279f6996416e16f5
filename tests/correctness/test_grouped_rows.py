"""Free ranks of one side of a contraction in one tile: keys and values are read once for a group of heads and its queries."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from in_parts import in_parts
from torch import Tensor

import fusecade
from fusecade.testing import count_io


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def grouped_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The queries are the last ones of the keys' positions: a draft that is verified."""
    i = torch.arange(q.shape[2])[:, None] + (k.shape[2] - q.shape[2])
    keep = torch.arange(k.shape[2]) <= i
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, enable_gqa=True)


def best_of_experts(x: Tensor, w: Tensor) -> Tensor:
    """No softmax, no heads: [a, b, d] against [n, d], the best of n for each."""
    return (x @ w.T).amax(-1)


def data(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def heads(group: int, queries: int, dtype: torch.dtype, keys: int = 150) -> list[Tensor]:
    return [data(2, 2 * group, queries, 16, dtype=dtype), *(data(2, 2, keys, 16, seed=n, dtype=dtype) for n in (1, 2))]


def close(found: Tensor, fn, args: list[Tensor]) -> None:
    exact = fn(*(a.double() for a in args))
    eager = fn(*args).double()
    allowed = 2 * (eager - exact).abs().max() + 2 * exact.abs().max() * torch.finfo(found.dtype).eps
    assert (found.double() - exact).abs().max() <= allowed


def compiled(fn, args, target: str, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    return fusecade.compile(fn, tuple(args), target=target, fuse="always", remainder="eager", strict=True)


SIZES = [(4, 1), (4, 4), (3, 5), (8, 2), (2, 100)]  # (heads of a group, queries)


@pytest.mark.parametrize("fn", [grouped, grouped_causal])
@pytest.mark.parametrize(
    ("target", "dtype", "group", "queries"),
    [
        pytest.param(target, dtype, *size, marks=[pytest.mark.slow] if target == "sm_90" and size == (2, 100) else [])
        for target, dtype in (("cpu", torch.float32), ("sm_90", torch.float16))
        for size in SIZES
    ],
)
def test_results(fn, group: int, queries: int, target: str, dtype: torch.dtype, monkeypatch, tmp_path):
    args = heads(group, queries, dtype)
    close(compiled(fn, args, target, monkeypatch, tmp_path)(*args), fn, args)


@pytest.mark.parametrize(("group", "queries"), [(4, 1), (4, 4), (3, 5), (8, 2)])
def test_keys_and_values_are_read_once_a_group(group: int, queries: int, monkeypatch, tmp_path):
    """Counted under the interpreter, per pointer; a program a head would read them `group` times, one a query more often."""
    args = heads(group, queries, torch.float16)
    kernel = compiled(grouped, args, "sm_90", monkeypatch, tmp_path)
    [launch] = count_io(kernel, *args).launches
    once = [a.numel() * a.element_size() for a in args]
    assert sorted(launch.loads_by_pointer_arg.values()) == sorted(once)
    [row] = kernel.report.kernels
    assert row.sram_load_bytes == sum(once)


def test_rows_of_two_ranks_without_heads(monkeypatch, tmp_path):
    args = [data(3, 7, 16, dtype=torch.float16), data(90, 16, seed=1, dtype=torch.float16)]
    kernel = compiled(best_of_experts, args, "sm_90", monkeypatch, tmp_path)
    close(kernel(*args), best_of_experts, args)
    [launch] = count_io(kernel, *args).launches
    assert sorted(launch.loads_by_pointer_arg.values()) == sorted(2 * a.numel() for a in args)


@pytest.mark.parametrize("fn", [grouped, grouped_causal])
@pytest.mark.parametrize(("group", "queries"), in_parts([(4, 1), (4, 4), (8, 8)], 1))
def test_tensor_cores_without_spills(fn, group: int, queries: int, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    shapes = [(8, 8 * group, queries, 128), (8, 8, 8192, 128), (8, 8, 8192, 128)]
    report = fusecade.explain(fn, *(torch.empty(s, dtype=torch.float16, device="meta") for s in shapes), target="sm_90")
    first = report.kernels[0]
    assert first.spills == 0
    assert "tl.dot(" in first.source
    assert math.prod(first.params.get(f"B{r}", 1) for r in "GI") >= 16
    compulsory = sum(2 * math.prod(s) for s in (shapes[0], *shapes))
    assert first.sram_load_bytes + first.sram_store_bytes <= 1.01 * compulsory
