"""A running maximum that lags: the same values, and the state moves only when it has to."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fusecade
from fusecade.errors import InvalidArgument


def attend(q, k, v, bias):
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias, -1) @ v


def safe(q, k, v, bias):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def logsumexp(q, k, v, bias):
    return (q @ k.transpose(-1, -2) + bias).logsumexp(-1)


def both(q, k, v, bias):
    """The maximum is a result of its own: it may not lag."""
    s = q @ k.transpose(-1, -2) + bias
    return s.amax(-1), torch.softmax(s, -1) @ v


BIASES = {
    "flat": lambda n, m: torch.zeros(n, m),
    "rising": lambda n, m: torch.linspace(0, 90, m).expand(n, m).contiguous(),
    "falling": lambda n, m: torch.linspace(90, 0, m).expand(n, m).contiguous(),
    "offset": lambda n, m: torch.full((n, m), 1e4),
    "starts late": lambda n, m: torch.where(torch.arange(m) >= torch.arange(n)[:, None] % m, 0.0, -math.inf),
    "rows without keys": lambda n, m: torch.where((torch.arange(n) % 3 > 0)[:, None], torch.zeros(n, m), -math.inf),
}

INTERPRETED = {"rising", "rows without keys"}  # the rest as on the CPU, but slowly


@pytest.fixture(autouse=True)
def fused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A cache of its own."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))


def derived(kernel) -> list[str]:
    return [line for k in kernel.report.kernels for line in k.derivation if line.strip().startswith("lazy")]


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
@pytest.mark.parametrize("fn", [attend, safe, logsumexp], ids=lambda f: f.__name__)
def test_results_are_those_of_eager(fn: Callable, target: str):
    n, m = (40, 5000) if target == "cpu" else (20, 1500)  # of several tiles, the last of them ragged
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, rows, 16, generator=g) for rows in (n, m, m))
    kernel = fusecade.compile(
        fn, (q, k, v, BIASES["flat"](n, m)), target=target, fuse="always", lazy="on", remainder="eager"
    )
    assert derived(kernel)
    assert any("if " in k.source for k in kernel.report.kernels)
    for name, bias in BIASES.items():
        if target != "cpu" and name not in INTERPRETED:
            continue
        inputs = (q, k, v, bias(n, m))
        exact = fn(*(x.double() for x in inputs))
        eager = (fn(*inputs).double() - exact).abs().nan_to_num().max()
        found = kernel(*inputs).double()
        assert torch.equal(found.isnan(), exact.isnan()), name
        same = torch.isfinite(exact)
        assert torch.equal(found[~same].nan_to_num(), exact[~same].nan_to_num()), name
        size = exact[same].abs().max()
        assert (found - exact)[same].abs().max() <= 2 * eager + 4 * torch.finfo(torch.float32).eps * size, name


def test_a_maximum_that_is_asked_for_does_not_lag():
    inputs = [torch.randn(1, 128, 16) for _ in range(3)] + [torch.zeros(128, 128)]
    kernel = fusecade.compile(both, inputs, target="sm_90", fuse="always", lazy="on")
    assert not derived(kernel)
    for a, b in zip(kernel(*inputs), both(*inputs), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_off_unless_asked_for():
    inputs = [torch.empty(1, 4096, 64, device="meta")] * 3 + [torch.empty(4096, 4096, device="meta")]
    sources = [
        [k.source for k in fusecade.explain(attend, *inputs, compile_binaries=False, fuse="always", **o).kernels]
        for o in ({}, {"lazy": "off"}, {"lazy": "on"})
    ]
    assert sources[0] == sources[1] != sources[2]
    with pytest.raises(InvalidArgument, match="lazy"):
        fusecade.explain(attend, *inputs, lazy="maybe")
