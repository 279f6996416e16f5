"""Masks that are data, compiled: results are eager's, closed tiles are not loaded, and bytes are as predicted less those."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fusecade
from fusecade.errors import InvalidArgument
from fusecade.testing import count_io_of_launch


def chosen(q, k, v, mask):
    return torch.softmax(torch.where(mask, q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -math.inf), -1) @ v


def padded(q, k, v, mask):
    """A mask of keys, the same for all queries."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, :])


def added(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def grouped(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def causal_too(q, k, v, mask):
    seen = mask & torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def weighted_sum(x, w, mask):
    """No softmax: what the mask rules out is zero."""
    return torch.where(mask, x, 0.0) @ w


def open_tiles(*shape: int, block: int, seed: int = 0, share: float = 0.3) -> torch.Tensor:
    """A mask over [..., rows, columns] made of open and closed squares, and some holes; row 1 is closed altogether."""
    g = torch.Generator().manual_seed(seed)
    *batch, rows, columns = shape
    tiles = torch.rand(*batch, -(-rows // block), -(-columns // block), generator=g) < share
    mask = tiles.repeat_interleave(block, -2).repeat_interleave(block, -1)[..., :rows, :columns]
    mask = mask & (torch.rand(shape, generator=g) < 0.7)
    mask[..., 1, :] = False
    return mask.contiguous()


def normal(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(s, generator=torch.Generator().manual_seed(n)) for n, s in enumerate(shapes)]


def additive(mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, torch.randn(mask.shape, generator=torch.Generator().manual_seed(9)), -math.inf)


CASES: list[tuple[str, Callable, list[torch.Tensor]]] = [
    ("chosen", chosen, [*normal(*[(2, 192, 16)] * 3), open_tiles(192, 192, block=64)]),
    ("ragged", chosen, [*normal((1, 45, 16), (1, 205, 16), (1, 205, 16)), open_tiles(45, 205, block=64)]),
    ("a mask a head", chosen, [*normal(*[(2, 192, 16)] * 3), open_tiles(2, 192, 192, block=64)]),
    ("keys", padded, [*normal(*[(2, 192, 16)] * 3), open_tiles(2, 192, block=64)]),
    ("additive", added, [*normal(*[(2, 192, 16)] * 3), additive(open_tiles(192, 192, block=64))]),
    ("groups", grouped, [*normal((1, 4, 192, 16), *[(1, 2, 192, 16)] * 2), open_tiles(192, 192, block=64)]),
    ("causal too", causal_too, [*normal(*[(2, 192, 16)] * 3), open_tiles(192, 192, block=64)]),
    ("sums", weighted_sum, [*normal((100, 192), (192, 24)), open_tiles(100, 192, block=64)]),
]  # fmt: skip

INTERPRETED = {"ragged", "additive", "groups"}  # the others are as quick to print as they are slow to interpret


@pytest.fixture(autouse=True)
def fused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A cache of its own."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))


def asks(report) -> list[str]:
    return [line for k in report.kernels for line in k.visits if line.startswith("loads a tile")]


@pytest.mark.parametrize(
    ("fn", "inputs", "target"),
    [
        pytest.param(
            fn,
            inputs,
            target,
            id=f"{name}-{target}",
            marks=[pytest.mark.slow] if (name, target) == ("additive", "sm_90") else [],
        )
        for name, fn, inputs in CASES
        for target in ("cpu", "sm_90")
        if target == "cpu" or name in INTERPRETED
    ],
)
def test_results_are_those_of_eager(fn: Callable, inputs: list[torch.Tensor], target: str):
    kernel = fusecade.compile(fn, inputs, target=target, fuse="always", skip="always", remainder="eager")
    assert asks(kernel.report), "nothing is asked of the mask"
    expected = fn(*inputs)
    if fn is chosen:
        assert expected[..., 1, :].isnan().all(), "a row without keys"
    torch.testing.assert_close(kernel(*inputs), expected, atol=2e-5, rtol=2e-5, equal_nan=True)
    closed = [*inputs[:-1], torch.zeros_like(inputs[-1]) if inputs[-1].dtype == torch.bool else -math.inf + inputs[-1]]
    torch.testing.assert_close(kernel(*closed), fn(*closed), atol=2e-5, rtol=2e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype):
    inputs = [*(x.to(dtype) for x in normal(*[(2, 192, 16)] * 3)), open_tiles(192, 192, block=64)]
    kernel = fusecade.compile(padded_rows, inputs, target="cpu", fuse="always", skip="always", remainder="eager")
    assert asks(kernel.report)
    exact = padded_rows(*(x.double() if x.dtype == dtype else x for x in inputs))
    eager = (padded_rows(*inputs).double() - exact).abs().max()
    assert (kernel(*inputs).double() - exact).abs().max() <= 2 * eager + torch.finfo(dtype).eps * exact.abs().max()


def padded_rows(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@pytest.mark.parametrize("heads", [1])
def test_bytes_are_as_predicted_less_those_of_closed_tiles(heads: int):
    """Even tiles: what is counted is the prediction less the keys and values of each closed tile; with none, all of it."""
    n, d = 384, 16
    inputs = normal(*[(heads, n, d)] * 3)
    mask = open_tiles(n, n, block=128)
    kernel = fusecade.compile(chosen, [*inputs, mask], target="sm_90", fuse="always", skip="always")
    [report] = kernel.report.kernels
    rows, keys = report.params["BI"], report.params["BK"]
    tiles = mask.view(n // rows, rows, n // keys, keys).any(3).any(1)
    closed = int((~tiles).sum())
    assert 0 < closed < tiles.numel()
    assert report.skippable_load_bytes == heads * tiles.numel() * keys * 2 * d * 4
    for given, left_out in ((mask, closed), (torch.ones_like(mask), 0), (torch.zeros_like(mask), tiles.numel())):
        found: list[torch.Tensor] = []
        count = count_io_of_launch(lambda given=given, found=found: found.append(kernel(*inputs, given)))
        assert count.load_bytes == report.sram_load_bytes - heads * left_out * keys * 2 * d * 4
        assert count.store_bytes == report.sram_store_bytes
        torch.testing.assert_close(found[0], chosen(*inputs, given), atol=2e-5, rtol=2e-5, equal_nan=True)


def test_what_is_masked_does_not_reach_a_row():
    """As for masks of indices: a NaN among the values of a closed tile is not waited for."""
    q, k, v = normal(*[(1, 512, 16)] * 3)
    mask = torch.zeros(512, 512, dtype=torch.bool)
    mask[:, :128] = True
    v[:, 384:] = k[:, 384:] = math.nan
    kernel = fusecade.compile(chosen, [q, k, v, mask], target="sm_90", fuse="always", skip="always")
    expected = chosen(q, k[:, :128], v[:, :128], mask[:, :128])
    torch.testing.assert_close(kernel(q, k, v, mask), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("fn", "inputs"),
    [
        (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v), normal(*[(1, 512, 16)] * 4)),
        (lambda q, k, v, m: torch.softmax(torch.where(m, q @ k.mT, -1e9), -1) @ v,
         [*normal(*[(1, 512, 16)] * 3), open_tiles(512, 512, block=64)]),
        (lambda x, m: torch.where(m, x, -math.inf).logsumexp(-1), [*normal((64, 4096)), open_tiles(64, 4096, block=64)]),
    ],
    ids=["no mask", "a finite fill", "no operand but the mask's"],
)  # fmt: skip
def test_nothing_is_asked_without_a_reason(fn: Callable, inputs: list[torch.Tensor]):
    kernel = fusecade.compile(fn, inputs, target="sm_90", fuse="always", skip="always")
    lines = asks(kernel.report)
    assert not lines or (len(inputs) == 2 and "m" in lines[0])


def test_the_report_says_what_is_asked_and_by_cost_who_asks():
    meta = [
        *[torch.empty(8, 4096, 64, device="meta", dtype=torch.float16)] * 3,
        torch.empty(4096, 4096, dtype=torch.bool),
    ]
    found = {
        (target, skip): fusecade.explain(chosen, *meta, target=target, compile_binaries=False, fuse="always", skip=skip)
        for target, skip in (("sm_90", "always"), ("sm_90", "by_cost"), ("cpu", "by_cost"), ("cpu", "never"))
    }
    assert [bool(asks(r)) for r in found.values()] == [True, False, True, False]
    [line] = asks(found["sm_90", "always"])
    assert re.fullmatch(
        r"loads a tile of k only where, somewhere in it, arg3: \d+ % of the bytes loaded, counted as if all were", line
    )
    assert line in str(found["sm_90", "always"]).replace("\n", " ")
    with pytest.raises(InvalidArgument, match="skip"):
        fusecade.explain(chosen, *meta, skip="sometimes")


def test_a_block_mask_that_is_repeated_over_its_elements():
    """The product contracts two ranks, one of which is a batch of the other's dot: its groups do not lie together."""

    def attend(q, k, v, blocks):
        open_ = blocks.repeat_interleave(16, 0).repeat_interleave(16, 1)
        s = (q @ k.transpose(-1, -2)).masked_fill(~open_, -torch.inf)
        return torch.softmax(s, -1) @ v

    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 16, generator=g) for n in (64, 208, 208))
    blocks = torch.rand(4, 13, generator=g) > 0.4
    kernel = fusecade.compile(attend, (q, k, v, blocks), fuse="always", strict=True, remainder="eager")
    assert kernel.report.kernels
    torch.testing.assert_close(kernel(q, k, v, blocks), attend(q, k, v, blocks), atol=2e-6, rtol=2e-5)
