"""Packages of one kernel: the shortest way to the result refuses what the longer one refuses, and costs little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import packaged
import pytest
import torch
from packaged import attend

import fusecade
from fusecade.errors import UnsupportedProgram
from fusecade.runtime.package import direct
from fusecade.runtime.package.steps import KernelStep

BUCKETS = [{"n": 64, "m": 64}, {"n": 512, "m": 512}]
DYNAMIC = {0: {1: "n"}, 1: {1: "m"}, 2: {1: "m"}}
CPU = torch.device("cpu")


def qkv(n: int, m: int, **options: Any) -> list[torch.Tensor]:
    return [torch.randn(2, size, 16, **options) for size in (n, m, m)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> fusecade.LoadedFunction:
    """Dynamic sizes, two buckets."""
    path = tmp_path_factory.mktemp("direct") / "attend.fcade"
    fusecade.export(attend, qkv(8, 12), path, dynamic=DYNAMIC, buckets=BUCKETS, fuse="always")
    return fusecade.load(path)


@pytest.fixture
def short(loaded) -> Callable[[list[Any]], Any]:
    """The shortest way: None where it knows none."""
    return loaded._directs[CPU]


@pytest.mark.parametrize(("n", "m"), [(8, 12), (64, 64), (65, 2), (2, 600)])
def test_every_size_goes_the_short_way(loaded, short, n, m):
    for _ in range(2):
        args = qkv(n, m)
        torch.testing.assert_close(loaded(*args), attend(*args), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(short(args), attend(*args), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q, k, v: (q.double(), k, v), "is torch.float64, and was compiled for torch.float32"),
        (lambda q, k, v: (q, k, v.half()), "is torch.float16, and was compiled for torch.float32"),
        (lambda q, k, v: (q, k, v[:, :-1]), "argument 2 of attend has shape"),
        (lambda q, k, v: (q[..., :-1], k, v), "argument 0 of attend has shape"),
        (lambda q, k, v: (q[0], k, v), "argument 0 of attend has shape"),
        (lambda q, k, v: (q[:, :1], k, v), "the dynamic size n of attend is 1"),
        (lambda q, k, v: (q[:, :0], k, v), "the dynamic size n of attend is 0"),
        (lambda q, k, v: (q, k, v.to("meta")), "is on meta, and has to be on cpu"),
        (lambda q, k, v: (q, k, v.requires_grad_()), "needs a gradient"),
        (lambda q, k, v: (q, k), "is called with others"),
        (lambda q, k, v: (q, k, v, v), "is called with others"),
        (lambda q, k, v: (q, k, 3.0), "is float, and was compiled as a tensor"),
        (lambda q, k, v: (3.0, k, v), "is float, and was compiled as a tensor"),
    ],
)
def test_what_the_longer_way_refuses_is_refused_after_calls_that_were_right(loaded, short, change, words):
    args = qkv(8, 12)
    assert short(args) is not None
    changed = change(*args)
    assert short(changed) is None
    with pytest.raises(UnsupportedProgram, match=words):
        loaded(*changed)


def test_other_strides_go_the_longer_way(loaded, short):
    q, k, v = qkv(8, 12)
    turned = q.transpose(1, 2).contiguous().transpose(1, 2)
    assert short([turned, k, v]) is None
    torch.testing.assert_close(loaded(turned, k, v), loaded(q, k, v))


def test_relations_between_sizes_are_asked_for_each(tmp_path: Path):
    def fn(x, w):
        return torch.softmax(x @ w, -1) if x.shape[0] > 5 else x.sum(0)

    w = torch.randn(16, 32)
    fusecade.export(fn, (torch.randn(8, 16), w), tmp_path / "p.fcade", dynamic={0: {0: "n"}}, fuse="always")
    loaded = fusecade.load(tmp_path / "p.fcade")
    assert loaded._directs[CPU]([torch.randn(6, 16), w]) is not None
    with pytest.raises(UnsupportedProgram, match="was compiled for sizes with"):
        loaded(torch.randn(5, 16), w)


def test_what_is_kept_is_bounded(loaded, short, monkeypatch):
    monkeypatch.setattr(direct, "MOST_KNOWN", 3)
    (known,) = (c.cell_contents for c in short.__closure__ if isinstance(c.cell_contents, dict))
    known.clear()
    for m in range(2, 12):
        args = qkv(8, m)
        torch.testing.assert_close(loaded(*args), attend(*args), rtol=1e-4, atol=1e-5)
        assert len(known) <= 3


def test_threads_with_sizes_of_their_own(loaded, monkeypatch):
    monkeypatch.setattr(direct, "MOST_KNOWN", 2)  # so that plans are thrown away all the time
    cases = [qkv(n, m) for n, m in ((8, 12), (70, 3), (5, 90), (33, 33))]
    right = [attend(*case) for case in cases]

    def work(start: int) -> list[int]:
        order = [(start + k) % len(cases) for k in range(50)]
        return [at for at in order if not torch.allclose(loaded(*cases[at]), right[at], atol=1e-5)]

    with ThreadPoolExecutor(4) as threads:
        wrong = [at for found in threads.map(work, range(4)) for at in found]
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dynamic": DYNAMIC, "buckets": BUCKETS}], ids=["fixed", "dynamic"])
def test_it_costs_twenty_microseconds_beside_the_kernel(options, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The median over rounds; in a round the kernel by itself and the package take turns.  The best of three."""
    args = packaged.qkv(2, 8, 16)
    fusecade.export(attend, args, tmp_path / "p.fcade", fuse="always", **options)
    loaded = fusecade.load(tmp_path / "p.fcade")
    out = loaded(*args)
    (place,) = loaded._places.values()
    [(step, _)] = place.program([8] * len(loaded.package.signature.sizes)).steps
    assert isinstance(step, KernelStep)
    kernel, own = step.launch.function, [8] * len(step.artifact.sizes)  # type: ignore[attr-defined]
    programs = step.launch.programs(own)  # type: ignore[attr-defined]

    def alone() -> None:
        with torch.inference_mode():
            kernel(*args, out, *own, 0, programs)

    def us(call: Callable[[], object], times: int = 100) -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times * 1e6

    def beside() -> float:
        return statistics.median(-us(alone) + us(lambda: loaded(*args)) for _ in range(15))

    found = [beside() for _ in range(3)]
    with capsys.disabled():
        print(f" {min(found):.1f} us beside the kernel")
    assert min(found) <= 20
