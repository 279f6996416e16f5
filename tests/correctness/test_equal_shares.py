"""Kernels whose programs have equal shares of the steps of all tiles: results, bytes, evenness, and when they are chosen.

How many shares there are is given, so that small tensors are shared out; everything else is the compiler's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import pytest
import torch
from correctness.forced import close, data
from in_parts import in_parts
from torch import Tensor

import fusecade
from fusecade import driver
from fusecade.passes import fuse, schedule
from fusecade.passes.kernel_shape import KernelShape
from fusecade.testing import count_io


def attention(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v


def causal(q, k, v):
    keep = torch.arange(k.shape[-2]) <= torch.arange(q.shape[-2])[:, None]
    return torch.softmax(torch.where(keep, q @ k.transpose(-1, -2) * 0.25, -math.inf), -1) @ v


def window(q, k, v):
    far = torch.arange(q.shape[-2])[:, None] - torch.arange(k.shape[-2])
    return torch.softmax(torch.where((far >= 0) & (far < 40), q @ k.transpose(-1, -2) * 0.25, -math.inf), -1) @ v


def blind_rows(q, k, v):
    """The first rows see nothing at all: NaN, as in PyTorch."""
    keep = torch.arange(k.shape[-2]) <= torch.arange(q.shape[-2])[:, None] - 40
    return torch.softmax(torch.where(keep, q @ k.transpose(-1, -2) * 0.25, -math.inf), -1) @ v


def grouped(q, k, v):
    """Three heads share keys and values."""
    return torch.softmax(q @ k.transpose(-1, -2)[:, None] * 0.25, -1) @ v[:, None]


def logsumexp(x):
    return x.logsumexp(-1)


def sums(x):
    return (x * x).sum(-1)


def variance(x):
    return x.float().var(-1)


def best_word(x, w):
    return (x @ w.T).argmax(-1)


def rows(n: int, m: int) -> Callable[[torch.dtype], list[Tensor]]:
    return lambda t: [data(2, n, 16, dtype=t), data(2, m, 16, seed=1, dtype=t), data(2, m, 16, seed=2, dtype=t)]


def matrix(n: int, m: int) -> Callable[[torch.dtype], list[Tensor]]:
    return lambda t: [data(n, m, dtype=t)]


CASES: dict[str, tuple[Callable, Callable[[torch.dtype], list[Tensor]]]] = {
    "rows alike": (attention, rows(37, 90)),
    "causal": (causal, rows(75, 75)),
    "causal, more keys": (causal, rows(50, 90)),
    "window": (window, rows(110, 110)),
    "rows that see nothing": (blind_rows, rows(90, 90)),
    "groups of heads": (
        grouped,
        lambda t: [data(2, 3, 5, 16, dtype=t), data(2, 90, 16, seed=1, dtype=t), data(2, 90, 16, seed=2, dtype=t)],
    ),
    "logsumexp": (logsumexp, matrix(7, 500)),
    "sums": (sums, matrix(7, 500)),
    "variance": (variance, matrix(5, 300)),
    "best word": (best_word, lambda t: [data(5, 16, dtype=t), data(301, 16, seed=1, dtype=t)]),
}


def shared(fn: Callable, args, programs: int, monkeypatch, tmp_path, largest: int = 32):
    """Everything is fused, for so many programs, with small tiles: there are several of both kinds."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    forced = partial(schedule.schedule_kernel, shares=programs)
    found = KernelShape.choices

    def small(self: KernelShape, roles):
        return {
            name: values if name.startswith("num_") else [v for v in values if v <= largest] or values[:1]
            for name, values in found(self, roles).items()
        }

    with (
        patch.object(fuse, "schedule_kernel", forced),
        patch.object(driver, "schedule_kernel", forced),
        patch.object(KernelShape, "choices", small),
    ):
        kernel = fusecade.compile(fn, tuple(args), target="sm_90", fuse="always", remainder="eager", strict=True)
    assert [k.name for k in kernel.report.kernels] == ["k0", "k0_merge"]
    assert " share p" in kernel.report.kernels[0].tile
    return kernel


@pytest.mark.parametrize(
    ("programs", "dtype"), [(3, torch.float32), pytest.param(7, torch.float16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", in_parts(CASES, of=2))
def test_results(name: str, programs: int, dtype: torch.dtype, monkeypatch, tmp_path):
    fn, make = CASES[name]
    args = make(dtype)
    close(shared(fn, args, programs, monkeypatch, tmp_path)(*args), fn, args)


@pytest.mark.parametrize("programs", [1, 1000])
def test_one_share_and_more_shares_than_steps(programs: int, monkeypatch, tmp_path):
    args = rows(40, 70)(torch.float16)
    kernel = shared(causal, args, programs, monkeypatch, tmp_path)
    assert (kernel.report.kernels[0].params["SHARE_K"] == 1) == (programs == 1000)
    close(kernel(*args), causal, args)


@pytest.mark.parametrize("name", ["rows alike", "causal", "logsumexp"])
def test_the_counted_bytes_are_the_predicted_ones(name: str, monkeypatch, tmp_path):
    fn, make = CASES[name]
    args = make(torch.float32)
    kernel = shared(fn, args, 5, monkeypatch, tmp_path)
    found = [
        (sum(x.loads_by_pointer_arg.values()), sum(x.stores_by_pointer_arg.values()))
        for x in count_io(kernel, *args).launches
    ]
    lines = kernel.report.kernels
    assert found == [(k.sram_load_bytes, k.sram_store_bytes) for k in lines]
    assert lines[1].workspace_bytes == lines[0].sram_store_bytes


def test_programs_load_alike_where_rows_do_not(monkeypatch, tmp_path):
    """Of keys and values, a causal mask leaves the last rows thirteen times what it leaves the first."""
    args = rows(208, 208)(torch.float16)
    kernel = shared(causal, args, 6, monkeypatch, tmp_path, largest=16)
    params = kernel.report.kernels[0].params
    assert params["BI"] == params["BK"] == 16
    launch = count_io(kernel, *args).launches[0]
    steps = 2 * sum(range(1, 14))
    assert len(launch.loads_by_program) == 6 and params["SHARE_K"] == -(-steps // 6)
    of_keys = 2 * 16 * 16 * 2  # bytes of keys and values in a step
    own = 16 * 16 * 2  # of the rows of a tile
    least = min(launch.loads_by_program.values())
    most = max(launch.loads_by_program.values())
    last = (6 * params["SHARE_K"] - steps) * of_keys  # what the last share has less
    assert most - least <= last + 13 * params["SPLIT_K"] * own


def test_the_same_every_time(monkeypatch, tmp_path):
    args = CASES["causal"][1](torch.float16)
    kernel = shared(causal, args, 7, monkeypatch, tmp_path)
    assert torch.equal(kernel(*args), kernel(*args))


def test_what_cannot_be_shared_out_says_why():
    """A CPU's workers take tiles when they are free; sizes that are not known cannot be cut beforehand."""
    args = rows(64, 64)(torch.float16)
    forced = partial(schedule.schedule_kernel, shares=4)
    for target, dynamic, why in (
        ("cpu", None, "workers"),
        ("sm_90", {1: {1: "n"}, 2: {1: "n"}}, "sizes that are known"),
    ):
        with patch.object(fuse, "schedule_kernel", forced), patch.object(driver, "schedule_kernel", forced):
            given = {"dynamic": dynamic} if dynamic else {}
            kernel = fusecade.compile(
                attention, tuple(args), target=target, fuse="always", remainder="eager", strict=False, **given
            )
        assert not kernel.report.kernels and any(why in reason for _, reason in kernel.report.refusals)


def chosen(fn: Callable, heads: int, n: int, m: int, d: int = 128) -> list:
    shapes = ((heads, n, d), (heads, m, d), (heads, m, d))
    args = [torch.empty(s, dtype=torch.float16, device="meta") for s in shapes]
    return fusecade.explain(fn, *args, target="sm_90", compile_binaries=False).kernels


@pytest.mark.parametrize(("fn", "heads", "n", "m"), [(attention, 9, 2048, 8192)])
def test_they_are_chosen_for_their_price(fn: Callable, heads: int, n: int, m: int, monkeypatch, tmp_path):
    """144 tiles on 132 multiprocessors."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "shares"))
    first, second = chosen(fn, heads, n, m)
    assert any(name.startswith("SHARE_") for name in first.params) and "shares" in " ".join(first.derivation)
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(schedule, "share_counts", lambda *_: [])
    assert first.predicted_us + second.predicted_us < 0.96 * sum(k.predicted_us for k in chosen(fn, heads, n, m))


def test_few_tiles_with_unequal_work_are_cut(monkeypatch, tmp_path):
    """The last tiles have much more to do than the first: in shares or in parts, by price, and faster than in one."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cut"))
    first, second = chosen(causal, 1, 8192, 8192)
    assert any(name.startswith(("SHARE_", "SPLIT_")) for name in first.params)
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "none"))
    for counts in ("share_counts", "part_counts"):
        monkeypatch.setattr(schedule, counts, lambda *_: [])
    [whole] = chosen(causal, 1, 8192, 8192)
    assert first.predicted_us + second.predicted_us < 0.96 * whole.predicted_us


def test_many_tiles_are_not_shared_out(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    assert len(chosen(causal, 64, 2048, 2048)) == 1
