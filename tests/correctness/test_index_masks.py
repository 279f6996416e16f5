"""Masks of indices, compiled: the results are eager's, what is masked everywhere is not read, bytes are as predicted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from in_parts import in_parts

import fusecade
from fusecade.testing import count_io_of_launch


def masked(seen: Callable, fill: float = -math.inf) -> Callable:
    def attend(q, k, v):
        s = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]
        return torch.softmax(torch.where(seen(i, j), s, fill), -1) @ v

    return attend


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def grouped(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def biased(q, k, v):
    """Causal, with a bias by distance."""
    s = q @ k.transpose(-1, -2)
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]
    return torch.softmax((s - 0.25 * (i - j).abs()).masked_fill(j > i, -math.inf), -1) @ v


MASKS = {
    "window": masked(lambda i, j: (j <= i) & (i - j < 20)),
    "band": masked(lambda i, j: (i - j).abs() <= 9),
    "prefix": masked(lambda i, j: (j <= i) | (j < 40)),
    "blocks": masked(lambda i, j: i // 24 == j // 24),
    "chunks": masked(lambda i, j: (i // 16 - j // 16 <= 1) & (j <= i)),
    "to_the_end": masked(lambda i, j: j <= i + 37),
    "earlier": masked(lambda i, j: j < i),
    "later": masked(lambda i, j: j > i),
}

CASES = [
    *((name, causal, [(2, n, 16), (2, m, 16), (2, m, 16)]) for name, n, m in (
        ("causal", 130, 130), ("even", 128, 128), ("one", 1, 1), ("few_keys", 130, 33), ("few_rows", 33, 130))),
    ("grouped", grouped, [(1, 4, 150, 16), (1, 2, 150, 16), (1, 2, 150, 16)]),
    ("biased", biased, [(2, 150, 16)] * 3),
    *((name, fn, [(2, 150, 16)] * 3) for name, fn in MASKS.items()),
]  # fmt: skip


@pytest.fixture(autouse=True)
def fused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A cache of its own."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(("fn", "shapes"), in_parts([c[1:] for c in CASES], of=2), ids=[c[0] for c in CASES])
def test_results_are_those_of_eager(fn: Callable, shapes: list[tuple[int, ...]]):
    inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n, shape in enumerate(shapes)]
    kernel = fusecade.compile(fn, inputs, target="cpu", fuse="always")
    assert len(kernel.report.kernels) == 1
    torch.testing.assert_close(kernel(*inputs), fn(*inputs), atol=2e-5, rtol=2e-5, equal_nan=True)


@pytest.mark.parametrize("name", in_parts(["causal", "prefix", "window", "blocks", "earlier"], of=2))
def test_under_the_interpreter_to_the_byte(name: str):
    fn = {"causal": causal, **MASKS}[name]
    inputs = [torch.randn(1, 300, 16, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    kernel = fusecade.compile(fn, inputs, target="sm_90", fuse="always")
    found: list[torch.Tensor] = []
    count, [report] = count_io_of_launch(lambda: found.append(kernel(*inputs))), kernel.report.kernels
    torch.testing.assert_close(found[0], fn(*inputs), atol=2e-5, rtol=2e-5, equal_nan=True)
    assert (count.load_bytes, count.store_bytes) == (report.sram_load_bytes, report.sram_store_bytes)
    assert report.visits, "some tiles are left out"


def test_half_precision_moves_the_bytes_of_what_is_seen():
    """Rows in tiles of 16 and keys in tiles of 16 or more: a causal mask leaves little over half of the tiles."""
    n = 320
    inputs = [torch.randn(1, n, 16).half() for _ in range(3)]
    kernel = fusecade.compile(causal, inputs, target="sm_90", fuse="always")
    found: list[torch.Tensor] = []
    count, [report] = count_io_of_launch(lambda: found.append(kernel(*inputs))), kernel.report.kernels
    assert count.load_bytes == report.sram_load_bytes
    rows, keys = report.params["BI"], report.params["BK"]
    tiles = sum(min(n, -(-(i + rows) // keys) * keys) for i in range(0, n, rows))
    assert count.load_bytes == 16 * 2 * (n + 2 * tiles)
    torch.testing.assert_close(found[0], causal(*inputs), atol=4e-3, rtol=4e-3)


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_sizes_known_only_when_it_runs(target: str):
    made = torch.randn(2, 64, 16)
    kernel = fusecade.compile(
        causal, [made] * 3, target=target, dynamic={key: {1: "n"} for key in range(3)}, fuse="always"
    )
    assert any("k <= i" in line for r in kernel.report.kernels for line in r.visits)
    for n in (64, 2, 45, 130):
        q, k, v = torch.randn(3, 2, n, 16)
        torch.testing.assert_close(kernel(q, k, v), causal(q, k, v), atol=2e-5, rtol=2e-5)


def test_a_finite_fill_is_read_everywhere():
    """Where a row sees nothing, the mean of all values comes out: they have to be read."""
    fn, inputs = masked(lambda i, j: j < i, -1e9), [torch.randn(2, 40, 16) for _ in range(3)]
    kernel = fusecade.compile(fn, inputs, target="cpu", fuse="always")
    torch.testing.assert_close(kernel(*inputs), fn(*inputs), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(kernel(*inputs)[:, 0], inputs[2].mean(1), atol=2e-5, rtol=2e-5)
    assert not any(r.visits for r in kernel.report.kernels)


def test_the_report_says_what_is_visited():
    meta = [torch.empty(8, 2048, 64, device="meta", dtype=torch.float16)] * 3
    report = fusecade.explain(causal, *meta, target="sm_90", compile_binaries=False, fuse="always")
    [kernel] = report.kernels
    [line] = kernel.visits
    share, why = line.removeprefix("visits ").split(" % of the tiles of k: ")
    assert why == "k <= i"
    assert 50 < float(share) < 60
    assert line in str(report)
    everything = fusecade.explain(
        F.scaled_dot_product_attention, *meta, target="sm_90", compile_binaries=False, fuse="always"
    )
    assert kernel.flops < 0.7 * everything.kernels[0].flops
