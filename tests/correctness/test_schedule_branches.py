"""Every branch of a schedule, for real: masks x grouped heads x types x ragged sizes x parts, as Triton interprets them.

Sizes are such that a program meets tiles that a mask leaves whole, tiles that it cuts, tiles that it closes, and a last
tile that is not full; with parts, the last one is shorter. The slow suite runs the whole product; the other one a cover
in which each pair of values meets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product

import pytest
import torch
from correctness.forced import close, compiled, data
from torch import Tensor

import fusecade

WINDOW = 37


def attend(
    seen: Callable[[Tensor, Tensor], Tensor] | None, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None
):
    """q [b, h, n, d], k, v [b, g, m, d], h a multiple of g; keep [b, 1, n, m]."""
    group = q.shape[1] // k.shape[1]
    s = q @ k.repeat_interleave(group, 1).transpose(-1, -2) / q.shape[-1] ** 0.5
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]
    if seen is not None:
        s = s.masked_fill(~seen(i, j), -math.inf)
    if keep is not None:
        s = s.masked_fill(~keep, -math.inf)
    return torch.softmax(s, -1) @ v.repeat_interleave(group, 1)


def plain(q, k, v):
    return attend(None, q, k, v)


def causal(q, k, v):
    return attend(lambda i, j: j <= i, q, k, v)


def window(q, k, v):
    return attend(lambda i, j: (j <= i) & (i - j < WINDOW), q, k, v)


def kept(q, k, v, keep):
    return attend(None, q, k, v, keep)


def kept_causal(q, k, v, keep):
    return attend(lambda i, j: j <= i, q, k, v, keep)


AXES: dict[str, tuple] = {
    "mask": (plain, causal, window, kept, kept_causal),
    "heads": ((2, 2), (4, 2), (4, 1)),
    "dtype": (torch.float32, torch.float16),  # bfloat16 has its test below: the interpreter cannot multiply it
    "sizes": ((320, 320), (139, 261), (1, 290)),
    "parts": (1, 2, 5),
}


def cover() -> set[tuple]:
    """Choices such that each two values of two axes meet, found greedily."""
    names = list(AXES)
    every = list(product(*AXES.values()))

    def pairs(choice: tuple) -> set[tuple]:
        return {(a, choice[a], b, choice[b]) for a, b in combinations(range(len(names)), 2)}

    open_pairs = set().union(*map(pairs, every))
    chosen = set()
    while open_pairs:
        best = max(every, key=lambda choice: len(pairs(choice) & open_pairs))
        chosen.add(best)
        open_pairs -= pairs(best)
    return chosen


def named(choice: tuple) -> str:
    mask, (heads, groups), dtype, (rows, keys), parts = choice
    return f"{mask.__name__}-{heads}x{groups}-{str(dtype).removeprefix('torch.')}-{rows}x{keys}-{parts}"


IN_CI = sorted(cover(), key=named)[1::2]  # half of the cover, which still has each value; all choices with --slow


CHOICES = [
    pytest.param(*choice, id=named(choice), marks=() if choice in IN_CI else pytest.mark.slow)
    for choice in product(*AXES.values())
]


@pytest.mark.parametrize(tuple(AXES), CHOICES)
def test_a_branch(mask: Callable, heads: tuple, dtype: torch.dtype, sizes: tuple, parts: int, monkeypatch, tmp_path):
    (h, g), (n, m), d = heads, sizes, 16
    args = [
        data(1, h, n, d, dtype=dtype),
        data(1, g, m, d, seed=1, dtype=dtype),
        data(1, g, m, d, seed=2, dtype=dtype),
    ]
    if mask in (kept, kept_causal):
        keep = torch.rand(1, 1, n, m, generator=torch.Generator().manual_seed(3)) > 0.3
        keep[0, :, n // 2] = False  # a row that sees nothing: NaN, as in eager
        keep[0, :, n // 3 :, : m // 2] = False  # whole tiles
        args.append(keep)
    if parts > 1:
        kernel = compiled(mask, args, parts, "sm_90", monkeypatch, tmp_path)
    else:
        monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
        kernel = fusecade.compile(mask, args, target="sm_90", fuse="always", remainder="eager", strict=True)
    assert max(kernel.report.kernels[0].passes.values()) == 1
    if mask in (causal, window, kept_causal) and n == m:
        assert kernel.report.kernels[0].visits, "tiles that the mask closes are not visited"
    close(kernel(*args), mask, args)


@pytest.mark.parametrize("parts", [1, 3])
def test_bfloat16_on_the_cpu_and_not_under_the_interpreter(parts: int, monkeypatch, tmp_path):
    args = [data(2, 2, 77, 16, seed=n, dtype=torch.bfloat16) for n in range(3)]
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    on_cpu, on_triton = (
        compiled(causal, args, parts, target, monkeypatch, tmp_path)
        if parts > 1
        else fusecade.compile(causal, args, target=target, fuse="always", remainder="eager", strict=True)
        for target in ("cpu", "sm_90")
    )
    close(on_cpu(*args), causal, args)
    with pytest.raises(fusecade.UserError, match="float16 or float32"):
        on_triton(*args)
