"""Bounds of a loop that data decides, compiled: results are float64's, and what lies outside of them is not loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from correctness.forced import close, data, in_parts
from torch import Tensor

import fusecade
from fusecade.passes.kernel_shape import KernelShape
from fusecade.testing import count_io_of_launch


def weighted(seen: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(torch.where(seen, q @ k.mT / 4, -math.inf), -1) @ v


def packed(q, k, v, ids):
    """Batches of sequences one behind the other: a query sees the keys of its own."""
    return weighted(ids[:, :, None] == ids[:, None, :], q, k, v)


def causal_too(q, k, v, ids):
    causal = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return weighted((ids[:, None] == ids[None, :]) & causal, q, k, v)


def of_two_sides(q, k, v, theirs, ours):
    return weighted(theirs[:, None] == ours[None, :], q, k, v)


def blocks(q, k, v, chosen):
    i, j = torch.arange(q.shape[-2]) // 16, torch.arange(k.shape[-2]) // 16
    return weighted(chosen[i[:, None], j[None, :]], q, k, v)


def masked(q, k, v, seen):
    return weighted(seen, q, k, v)


def added(q, k, v, bias):
    return torch.softmax(q @ k.mT / 4 + bias, -1) @ v


def nearest_of_its_kind(x, c, kinds, theirs):
    """No softmax: the least distance among the candidates of the same kind."""
    return torch.where(kinds[:, None] == theirs[None, :], (x @ c.mT).abs(), math.inf).amin(-1)


def ids(*shape: int, of: int = 5, shuffled: bool = False) -> Tensor:
    found = torch.randint(0, of, shape, generator=torch.Generator().manual_seed(3))
    return found if shuffled else found.sort(-1).values


def holes(rows: int, columns: int) -> Tensor:
    """A band of open elements; 40 rows at the end, and row 1, are closed altogether."""
    seen = (torch.arange(rows)[:, None] - torch.arange(columns)[None, :] // 2).abs() < 9
    seen &= torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) < 0.7
    seen[1], seen[-40:] = False, False
    return seen


def tensors(rows: int = 70, columns: int = 200, batch: int = 2) -> list[Tensor]:
    return [data(batch, n, 16, seed=s) for s, n in enumerate((rows, columns, columns))]


CASES: dict[str, tuple[Callable, list[Tensor]]] = {
    "packed": (packed, [*tensors(200), ids(2, 200)]),
    "shuffled": (packed, [*tensors(200), ids(2, 200, of=150, shuffled=True)]),
    "causal too": (causal_too, [*tensors(200), ids(200)]),
    "two sides": (of_two_sides, [*tensors(), ids(70), ids(200, of=3)]),  # two of the sides' ids have no keys
    "blocks": (blocks, [*tensors(), torch.eye(21, dtype=torch.bool)[:7]]),
    "mask": (masked, [*tensors(), holes(70, 200)]),
    "additive": (added, [*tensors(batch=1), torch.where(holes(70, 200), data(70, 200), -math.inf)]),
    "minimum": (nearest_of_its_kind, [data(70, 16), data(200, 16, seed=1), ids(70), ids(200, of=4, shuffled=True)]),
}
INTERPRETED = ("causal too", "mask")  # the others are as quick to print as they are slow to interpret


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Tiles of 64 wherever there may be, so that short loops have several steps; a cache of its own."""
    every = KernelShape._sizes_of

    def sizes(self: KernelShape, *args) -> list[int]:
        found = every(self, *args)
        return [64] if 64 in found else found

    monkeypatch.setattr(KernelShape, "_sizes_of", sizes)
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))


def compiled(fn: Callable, args: list[Tensor], target: str, **named):
    return fusecade.compile(
        fn, args, target=target, fuse="always", skip="bounds", remainder="eager", strict=True, **named
    )


def found_ahead(report) -> list[str]:
    return [line for k in report.kernels for line in k.visits if "found ahead" in line]


@pytest.mark.parametrize(
    ("name", "target"), [(n, t) for n in CASES for t in ("cpu", "sm_90") if t == "cpu" or n in INTERPRETED]
)
def test_results_are_those_in_float64(name: str, target: str):
    fn, args = CASES[name]
    kernel = compiled(fn, args, target)
    assert [k.name for k in kernel.report.kernels] == ["k0_bounds", "k0"]
    assert found_ahead(kernel.report)
    close(kernel(*args), fn, args)


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_parts_of_the_rank_keep_within_the_bounds(target: str):
    fn, args = CASES["two sides"]
    with in_parts(3):
        kernel = compiled(fn, args, target)
    assert [k.name for k in kernel.report.kernels] == ["k0_bounds", "k0", "k0_merge"]
    close(kernel(*args), fn, args)


def test_bytes_are_as_predicted_less_those_outside():
    """What is counted is the prediction less what lies outside of a tile's bounds; with one sequence, all of it."""
    n = 192
    args = tensors(n, n, batch=1)
    kernel = compiled(packed, [*args, ids(1, n)], "sm_90")
    ahead, report = kernel.report.kernels
    rows, keys = report.params["BI"], report.params["BK"]
    tiles = (n // rows) * (n // keys)
    predicted = ahead.sram_load_bytes + report.sram_load_bytes
    for given in ((torch.arange(n) // 48)[None], ids(1, n, of=1)):
        same = given[0, :, None] == given[0, None, :]
        walked = 0
        for tile in same.split(rows):
            at = tile.any(0).nonzero()
            walked += -(-int(at.max() + 1) // keys) - int(at.min()) // keys
        count = count_io_of_launch(lambda given=given: kernel(*args, given))
        assert count.load_bytes == predicted - report.skippable_load_bytes * (tiles - walked) // tiles
        assert count.store_bytes == ahead.sram_store_bytes + report.sram_store_bytes
        assert walked == tiles if given.max() == 0 else walked < tiles


def test_what_lies_outside_does_not_reach_a_row():
    """A NaN among the keys and values of another sequence, outside of the bounds of a tile, is not waited for."""
    q, k, v = tensors(256, 256, batch=1)
    given = (torch.arange(256) // 128)[None]
    kernel = compiled(packed, [q, k, v, given], "cpu")
    expected = packed(q, k, v, given)[:, :128]
    k[:, 128:] = v[:, 128:] = math.nan
    torch.testing.assert_close(kernel(q, k, v, given)[:, :128], expected, atol=2e-5, rtol=2e-5)


def test_ids_are_shared_by_heads_and_the_price_decides():
    """Two vectors and their comparison, once for all heads: with many heads that costs little beside them."""

    def heads(q, k, v, ids):
        return weighted((ids[:, None] == ids[None, :])[None], q, k, v)

    found = {}
    for count in (1, 64):
        meta = [torch.empty(count, 4096, 64, device="meta", dtype=torch.float16)] * 3
        given = torch.empty(4096, device="meta", dtype=torch.int32)
        found[count] = fusecade.explain(heads, *meta, given, target="sm_90", compile_binaries=False, fuse="always")
    assert not found_ahead(found[1])
    ahead, kernel = found[64].kernels
    assert ahead.sram_store_bytes == 2 * 8 * 4096
    assert ahead.predicted_us < 0.03 * kernel.predicted_us
    assert "first to the last tile" in str(found[64]).replace("\n", " ")


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (lambda q, k, v: weighted(torch.ones(70, 200, dtype=torch.bool).tril(), q, k, v), tensors()),
        (lambda q, k, v, m: torch.softmax(torch.where(m, q @ k.mT, -1e9), -1) @ v, [*tensors(), holes(70, 200)]),
        (lambda q, k, v: weighted(q @ k.mT > 1, q, k, v), tensors()),
    ],
    ids=["indices alone", "a finite fill", "data that is multiplied first"],
)
def test_without_a_reason_there_is_no_kernel_ahead(fn: Callable, args: list[Tensor]):
    kernel = compiled(fn, args, "cpu")
    assert not found_ahead(kernel.report)
    assert [k.name for k in kernel.report.kernels if "bounds" in k.name] == []
