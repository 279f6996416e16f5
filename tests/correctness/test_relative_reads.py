"""Products read at a difference of ranks, compiled: the results are eager's, bytes are as predicted, nothing large is left."""

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


def shifted(x: torch.Tensor) -> torch.Tensor:
    """x [b, n, 2 n - 1] at i and j - i + n - 1."""
    b, n, m = x.shape
    flat = F.pad(F.pad(x, (0, 1)).reshape(b, n * (m + 1)), (0, n - 1))
    return flat.reshape(b, n + 1, m)[:, :n, n - 1 :]


def causal(q, k, v, e):
    """Of e [2 n - 1, d], the first n rows: an embedding for each distance, the farthest first."""
    x = F.pad(q @ e[: q.shape[1]].T, (1, 0))
    b, n, m = x.shape
    s = (q @ k.mT + x.reshape(b, m, n)[:, 1:]) / q.shape[-1] ** 0.5
    return torch.softmax(s.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -math.inf), -1) @ v


def everywhere(q, k, v, e):
    return torch.softmax((q @ k.mT + shifted(q @ e.T)) / q.shape[-1] ** 0.5, -1) @ v


def by_key(q, k, v, e):
    return torch.softmax((q @ k.mT + shifted(k @ e.T).mT) / q.shape[-1] ** 0.5, -1) @ v


def backwards(q, k, v, e):
    return torch.softmax((q @ k.mT + shifted(q @ e.T).flip(-1)) / q.shape[-1] ** 0.5, -1) @ v


FUNCTIONS = {f.__name__: f for f in (causal, everywhere, by_key, backwards)}


def inputs_of(n: int, d: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return [torch.randn(s, generator=generator) for s in ((2, n, d), (2, n, d), (2, n, d), (2 * n - 1, d))]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A cache of its own."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))


def as_good_as_eager(found: torch.Tensor, fn: Callable, inputs: list[torch.Tensor]) -> None:
    right = fn(*[t.double() for t in inputs])
    limit = 2 * (fn(*inputs) - right).abs().max() + torch.finfo(torch.float32).eps * right.abs().max()
    assert (found - right).abs().max() <= limit


@pytest.mark.parametrize("n", in_parts([1, 150, 2, 600], of=2))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_those_of_eager(name: str, n: int):
    fn, inputs = FUNCTIONS[name], inputs_of(n)
    kernel = fusecade.compile(fn, inputs, target="cpu", fuse="always", remainder="eager")
    as_good_as_eager(kernel(*inputs), fn, inputs)
    if n > 2:
        (report,) = kernel.report.kernels
        assert " band " in report.tile and not kernel.report.fallbacks
        assert kernel.report.peak_intermediate_bytes == 0


IN_CI = {("causal", 330), ("by_key", 330)}  # each takes 10 to 30 s


@pytest.mark.parametrize(
    ("name", "n"),
    [
        pytest.param(name, n, id=f"{name}-{size}", marks=[pytest.mark.slow] if (name, n) not in IN_CI else [])
        for name in FUNCTIONS
        for size, n in (("even", 288), ("ragged", 330))
    ],
)
def test_under_the_interpreter_to_the_byte(name: str, n: int):
    fn, inputs = FUNCTIONS[name], inputs_of(n)
    kernel = fusecade.compile(fn, inputs, target="sm_90", fuse="always", remainder="eager")
    found: list[torch.Tensor] = []
    count, [report] = count_io_of_launch(lambda: found.append(kernel(*inputs))), kernel.report.kernels
    assert " band " in report.tile and "tl.gather" in report.source
    as_good_as_eager(found[0], fn, inputs)
    assert (count.load_bytes, count.store_bytes) == (report.sram_load_bytes, report.sram_store_bytes)


def test_a_program_reads_a_band_of_rows_for_each_tile():
    """Rows in tiles of BI and keys in tiles of BK: BI + BK - 1 embeddings, less where the diagonal cuts a tile."""
    n, d = 512, 16
    inputs = [t.half() for t in inputs_of(n, d)]
    kernel = fusecade.compile(causal, inputs, target="sm_90", fuse="always", remainder="eager")
    [report] = kernel.report.kernels
    rows, keys = report.params["BI"], report.params["BK"]
    tiles = [(i, k) for i in range(0, n, rows) for k in range(0, min(n, i + rows), keys)]
    bands = sum(min(k + keys - 1 - i + n, n) - (k - (i + rows - 1) + n - 1) for i, k in tiles)
    assert report.sram_load_bytes == 2 * 2 * d * (n + 2 * keys * len(tiles) + bands)


def test_it_is_fused_by_cost_where_that_is_cheaper():
    """16 heads of 4096: the products with the embeddings alone would be half a gigabyte."""
    meta = [torch.empty(s, device="meta", dtype=torch.bfloat16) for s in ((16, 4096, 64),) * 3]
    e = torch.empty(2 * 4096 - 1, 64, device="meta", dtype=torch.bfloat16)
    report = fusecade.explain(causal, *meta, e, target="sm_90", compile_binaries=False)
    [kernel] = report.kernels
    assert "mm" in kernel.nodes and report.peak_intermediate_bytes == 0
    assert report.hbm_bytes == 4 * 16 * 4096 * 64 * 2 + 4096 * 64 * 2
