"""Calls of two kernels, for real: a streamed rank in parts, merged by a second kernel; on torch and under Triton's interpreter.

How many parts there are is given, so that small tensors are split; everything else is the compiler's choice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from correctness.forced import close, compiled, data
from in_parts import in_parts
from torch import Tensor

import fusecade
from fusecade.runtime.cache import read_artifact
from fusecade.testing import count_io


def attention(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v


def masked_attention(q, k, v, keep):
    return torch.softmax(torch.where(keep, q @ k.transpose(-1, -2), -math.inf), -1) @ v


def best_word(x, w):
    return (x @ w.T).argmax(-1)


def logsumexp_of_words(x, w):
    return (x @ w.T).logsumexp(-1)


def variance(x):
    return x.float().var(-1)


KEYS = 301
CASES: dict[str, tuple[Callable, Callable[[torch.dtype], list[Tensor]]]] = {
    "attention": (
        attention,
        lambda t: [data(2, 5, 16, dtype=t), data(2, KEYS, 16, seed=1, dtype=t), data(2, KEYS, 16, seed=2, dtype=t)],
    ),
    "one query": (
        attention,
        lambda t: [data(2, 1, 16, dtype=t), data(2, KEYS, 16, seed=1, dtype=t), data(2, KEYS, 16, seed=2, dtype=t)],
    ),
    "best word": (best_word, lambda t: [data(5, 16, dtype=t), data(KEYS, 16, seed=1, dtype=t)]),
    "logsumexp": (logsumexp_of_words, lambda t: [data(5, 16, dtype=t), data(KEYS, 16, seed=1, dtype=t)]),
    "variance": (variance, lambda t: [data(3, 700, dtype=t) + (1e4 if t == torch.float32 else 50)]),
}


@pytest.mark.parametrize("parts", [2, 64])
@pytest.mark.parametrize("name", CASES)
def test_on_torch(name: str, parts: int, monkeypatch, tmp_path):
    fn, make = CASES[name]
    args = make(torch.float32)
    close(compiled(fn, args, parts, "cpu", monkeypatch, tmp_path)(*args), fn, args)


@pytest.mark.parametrize(("parts", "dtype"), [(1, torch.float32), (3, torch.float16), (7, torch.float32)])
@pytest.mark.parametrize("name", in_parts(CASES, of=2))
def test_on_triton(name: str, parts: int, dtype: torch.dtype, monkeypatch, tmp_path):
    fn, make = CASES[name]
    args = make(dtype)
    close(compiled(fn, args, parts, "sm_90", monkeypatch, tmp_path)(*args), fn, args)


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_rows_masked_in_front_behind_and_everywhere(target: str, monkeypatch, tmp_path):
    keep = torch.ones(2, 5, KEYS, dtype=torch.bool)
    keep[0, 0, :250], keep[0, 1, 20:], keep[1, 2] = False, False, False
    args = [data(2, 5, 16), data(2, KEYS, 16, seed=1), data(2, KEYS, 16, seed=2), keep]
    close(compiled(masked_attention, args, 3, target, monkeypatch, tmp_path)(*args), masked_attention, args)


def test_the_counted_bytes_are_the_predicted_ones(monkeypatch, tmp_path):
    """Of both kernels: parts of whole tiles, the last of them short, and the merge."""
    for name in ("attention", "logsumexp"):
        fn, make = CASES[name]
        args = make(torch.float32)
        for parts in (2, 3, 64):
            kernel = compiled(fn, args, parts, "sm_90", monkeypatch, tmp_path / name / str(parts))
            count = count_io(kernel, *args)
            found = [
                (sum(x.loads_by_pointer_arg.values()), sum(x.stores_by_pointer_arg.values())) for x in count.launches
            ]
            rows = kernel.report.kernels
            assert found == [(k.sram_load_bytes, k.sram_store_bytes) for k in rows]
            assert rows[1].workspace_bytes == rows[0].sram_store_bytes


@pytest.mark.parametrize(("target", "rank"), [("cpu", "keys"), ("cpu", "queries"), ("sm_90", "keys")])
def test_sizes_known_only_when_it_runs(target: str, rank: str, monkeypatch, tmp_path):
    dynamic = {"keys": {1: {1: "n"}, 2: {1: "n"}}, "queries": {0: {1: "n"}}}[rank]
    args = CASES["attention"][1](torch.float32)
    kernel = compiled(attention, args, 3, target, monkeypatch, tmp_path, dynamic=dynamic)
    for n in (301, 65, 2) if rank == "keys" else (17, 5, 2):
        q, k, v = args
        given = [q, k[:, :n].contiguous(), v[:, :n].contiguous()] if rank == "keys" else [data(2, n, 16), k, v]
        close(kernel(*given), attention, given)


def test_a_call_of_two_kernels_is_kept(monkeypatch, tmp_path):
    """As plain data, under one fingerprint, and in the cache of plans."""
    fn, make = CASES["attention"]
    args = make(torch.float32)
    first = compiled(fn, args, 3, "cpu", monkeypatch, tmp_path)
    (artifact,) = first.kernels
    again = read_artifact(json.loads(json.dumps(artifact.to_json())))
    assert again == artifact and again.fingerprint == artifact.fingerprint
    assert [k.name for k in artifact.kernels] == ["k0", "k0_merge"] and len(artifact.workspaces) == 3
    options = {"target": "cpu", "fuse": "always", "remainder": "eager", "strict": True}
    second = fusecade.compile(fn, tuple(args), **options)  # no number of parts is forced: from the cache
    assert [k.source for k in second.report.kernels] == [k.source for k in first.report.kernels]
    assert torch.equal(second(*args), first(*args))


@pytest.mark.parametrize("what", ["reads", "writes"])
def test_a_stage_that_does_not_fit_is_no_kernel(what: str, monkeypatch, tmp_path):
    fn, make = CASES["logsumexp"]
    (artifact,) = compiled(fn, make(torch.float32), 3, "cpu", monkeypatch, tmp_path).kernels
    body = json.loads(json.dumps(artifact.to_json()))
    body["stages"][1][what] = [99]
    with pytest.raises(ValueError, match="a stage"):
        read_artifact(body)


def test_the_report_has_a_row_of_its_own_for_the_merge(monkeypatch, tmp_path):
    fn, make = CASES["attention"]
    report = compiled(fn, make(torch.float32), 3, "cpu", monkeypatch, tmp_path).report
    text = str(report)
    assert "over 3 parts, merged by a second kernel" in text
    assert "k0_merge merges" in text
    assert any(k == "k0_merge" and "moved by its transport" in c for k, c in _rewrites(report))
    assert report.hbm_bytes == sum(k.hbm_bytes for k in report.kernels)


def _rewrites(report) -> list[tuple[str, str]]:
    return [(k.name, c) for k in report.kernels for c in k.certificates]


def meta(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.empty(s, dtype=torch.float16, device="meta") for s in shapes]


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (attention, [(32, 16, 128), (32, 65536, 128), (32, 65536, 128)]),
        (attention, [(1, 1, 128), (1, 65536, 128), (1, 65536, 128)]),
        pytest.param(logsumexp_of_words, [(2048, 256), (30522, 256)], marks=pytest.mark.slow),
        (best_word, [(2048, 256), (30522, 256)]),
        pytest.param(lambda x: x.logsumexp(-1), [(4, 1 << 20)], marks=pytest.mark.slow),
    ],
    ids=["16 queries", "1 query", "logsumexp head", "argmax head", "long rows"],
)
def test_what_is_split_by_its_price_compiles_without_spills(fn: Callable, shapes, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    report = fusecade.explain(fn, *meta(*shapes), target="sm_90")
    assert [k.name for k in report.kernels] == ["k0", "k0_merge"]
    first, merge = report.kernels
    assert first.spills == merge.spills == 0
    assert first.hbm_bytes < 1.1 * sum(torch.Size(s).numel() * 2 for s in shapes) + 2 * merge.workspace_bytes + 65536
    assert merge.workspace_bytes < 0.1 * first.hbm_bytes
    assert any(name.startswith("SPLIT_") and n > 1 for name, n in first.params.items())
