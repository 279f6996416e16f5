"""Where indices leave only some of a streamed rank to visit, each part has its share of that, not of the whole rank."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import fusecade
from fusecade import driver
from fusecade.passes import fuse, schedule
from fusecade.testing import count_io

KEYS, SEEN = 1024, 256


def last_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A window that ends with the cache."""
    keep = torch.arange(KEYS) >= KEYS - SEEN
    return torch.softmax(torch.where(keep, q @ k.transpose(-1, -2) / 4, -math.inf), -1) @ v


def first_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A cache that is not full."""
    keep = torch.arange(KEYS) < SEEN
    return torch.softmax(torch.where(keep, q @ k.transpose(-1, -2) / 4, -math.inf), -1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Rows that see more and more."""
    keep = torch.arange(k.shape[-2]) <= 16 * torch.arange(q.shape[-2])[:, None] + 15
    return torch.softmax(torch.where(keep, q @ k.transpose(-1, -2) / 4, -math.inf), -1) @ v


def inputs(rows: int, dtype: torch.dtype) -> list[Tensor]:
    shapes = ((2, rows, 16), (2, KEYS, 16), (2, KEYS, 16))
    made = [torch.randn(*s, generator=torch.Generator().manual_seed(n)) for n, s in enumerate(shapes)]
    return [t.to(dtype) for t in made]


def in_parts(parts: int, fn: Callable, args, target: str, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    forced = partial(schedule.schedule_kernel, parts=parts)
    with patch.object(fuse, "schedule_kernel", forced), patch.object(driver, "schedule_kernel", forced):
        kernel = fusecade.compile(fn, tuple(args), target=target, fuse="always", remainder="eager", strict=True)
    assert [k.name for k in kernel.report.kernels] == ["k0", "k0_merge"]
    return kernel


@pytest.mark.parametrize(("target", "dtype"), [("cpu", torch.float32), ("sm_90", torch.float16)])
@pytest.mark.parametrize("fn", [last_keys, first_keys, causal])
def test_results(fn: Callable, target: str, dtype: torch.dtype, monkeypatch, tmp_path):
    args = inputs(64 if fn is causal else 4, dtype)
    exact, eager = fn(*(a.double() for a in args)), fn(*args).double()
    found = in_parts(3, fn, args, target, monkeypatch, tmp_path)(*args).double()
    assert (found - exact).abs().max() <= 2 * (eager - exact).abs().max() + 2 * exact.abs().max() * torch.finfo(
        dtype
    ).eps


@pytest.mark.parametrize("fn", [last_keys, first_keys])
def test_each_part_has_its_share_of_what_is_visited(fn: Callable, monkeypatch, tmp_path):
    args = inputs(4, torch.float16)
    kernel = in_parts(2, fn, args, "sm_90", monkeypatch, tmp_path)
    first = count_io(kernel, *args).launches[0]
    q, seen = 4 * 16 * 2, SEEN * 16 * 2
    assert set(first.loads_by_program.values()) == {q + seen}  # of K and of V half of what is seen: 4 programs alike
    assert kernel.report.kernels[0].sram_load_bytes == 4 * (q + seen)


def test_rows_that_see_more_share_it_too(monkeypatch, tmp_path):
    """Both parts of a tile of rows load alike, but for a tile of keys."""
    args = inputs(64, torch.float16)
    kernel = in_parts(2, causal, args, "sm_90", monkeypatch, tmp_path)
    row = kernel.report.kernels[0]
    loads = count_io(kernel, *args).launches[0].loads_by_program
    assert sum(loads.values()) == row.sram_load_bytes
    tiles = -(-64 // row.params["BI"])
    of_parts = [[n for at, n in sorted(loads.items()) if at[0] // tiles == part] for part in range(4)]
    for a, b in ((0, 1), (2, 3)):  # of a batch
        for x, y in zip(of_parts[a], of_parts[b], strict=True):
            assert abs(x - y) <= 2 * row.params["BK"] * 16 * 2


def test_a_window_over_a_long_cache_is_cut_for_its_price():
    """4,096 of 65,536 keys: parts of the window, as many as keep the machine busy and are worth their beginning and end."""

    def window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n = k.shape[-2]
        return torch.softmax(torch.where(torch.arange(n) >= n - 4096, q @ k.transpose(-1, -2), -math.inf), -1) @ v

    shapes = ((8, 16, 128), (8, 65536, 128), (8, 65536, 128))
    args = [torch.empty(s, dtype=torch.float16, device="meta") for s in shapes]
    report = fusecade.explain(window, *args, target="sm_90", compile_binaries=False)
    first = report.kernels[0]
    assert 1 < first.params["SPLIT_K"] <= 4096 // 256
    assert first.hbm_bytes < 1.1 * 2 * 8 * 4096 * 128 * 2
