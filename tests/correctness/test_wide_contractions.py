"""Products over more features than a tile holds, inside kernels that reduce them: a loop inside a loop.

The generated Triton runs under Triton's interpreter, with small steps so that both loops turn several times, and is
compiled for GPUs that are not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from correctness.forced import compiled
from torch import Tensor

import fusecade
from fusecade.report import KernelReport
from fusecade.testing import count_io


def lm_head(h: Tensor, e: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return torch.log1p(torch.relu((h @ e.T + b) * mask)).amax(1)


def best_word(h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    best, which = (h @ e.T).max(-1)
    return best, which


def logsumexp(h: Tensor, e: Tensor) -> Tensor:
    return torch.logsumexp(h @ e.T, -1)


def cross_entropy(h: Tensor, e: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(h @ e.T, t, reduction="none")


def self_attention(x: Tensor) -> Tensor:
    return torch.softmax(x @ x.transpose(-1, -2) / 16, -1) @ x


def cross_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / 16, -1) @ v


CASES: dict[str, tuple[Callable, list[tuple[int, ...]]]] = {
    "head": (lm_head, [(2, 32, 48), (32, 48), (32,), (2, 32, 1)]),
    "head, ragged": (lm_head, [(2, 35, 40), (45, 40), (45,), (2, 35, 1)]),
    "head, one more feature": (lm_head, [(1, 17, 33), (17, 33), (17,), (1, 17, 1)]),
    "best word": (best_word, [(20, 40), (35, 40)]),
    "logsumexp": (logsumexp, [(20, 40), (35, 40)]),
    "self-attention": (self_attention, [(2, 20, 40)]),
    "cross attention": (cross_attention, [(1, 20, 40), (1, 35, 40), (1, 35, 24)]),
}
OFFLINE: dict[str, tuple[Callable, list[tuple[int, ...]]]] = {
    "head": (lm_head, [(32, 512, 768), (30522, 768), (30522,), (32, 512, 1)]),
    "argmax of a head": (best_word, [(65536, 1024), (32000, 1024)]),
    "logsumexp of a head": (logsumexp, [(65536, 1024), (128256, 1024)]),
    "self-attention, 300": (self_attention, [(8, 2048, 300)]),
    "self-attention, 512": (self_attention, [(8, 2048, 512)]),
    "cross attention": (cross_attention, [(8, 1024, 320), (8, 2048, 320), (8, 2048, 320)]),
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))


def drawn(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def in_a_row(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def loops(kernel: KernelReport) -> int:
    return kernel.source.count("in tl.range(")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["f16", "f32"])
@pytest.mark.parametrize("case", CASES)
def test_results_and_bytes_of_a_loop_inside_a_loop(case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """As exact as eager, and the bytes that move are those that were predicted."""
    monkeypatch.setattr("fusecade.passes.kernel_shape.AROUND", 16)
    monkeypatch.setattr("fusecade.passes.kernel_shape.INNER", 16)
    # nothing fits a tile
    monkeypatch.setattr("fusecade.passes.kernel_shape.KernelShape.may_be_whole", lambda *_: False)
    fn, shapes = CASES[case]
    inputs = drawn(shapes, dtype)
    made = fusecade.compile(fn, inputs, target="sm_90", fuse="always")
    (kernel,) = made.report.kernels
    assert loops(kernel) == 2
    found: list[tuple[Tensor, ...]] = []

    class Launch:
        @staticmethod
        def launch_for_testing(*args: Tensor) -> Callable[[], None]:
            launch = made.launch_for_testing(*args)
            return lambda: found.append(in_a_row(launch()))

    count = count_io(Launch(), *inputs)
    assert count.load_bytes == kernel.sram_load_bytes * kernel.calls
    assert count.store_bytes == kernel.sram_store_bytes * kernel.calls
    exact = in_a_row(fn(*(t.double() for t in inputs)))
    eager = in_a_row(fn(*inputs))
    for mine, theirs, reference in zip(found[0], eager, exact, strict=True):
        if not mine.dtype.is_floating_point:
            assert torch.equal(mine, reference)
            continue
        allowed = 2 * (theirs - reference).abs().max() + torch.finfo(dtype).eps * reference.abs().max()
        assert (mine - reference).abs().max() <= allowed


@pytest.mark.parametrize("case", ["head, ragged", "logsumexp", "best word", "cross attention"])
def test_parts_of_one_tile_have_no_loop_around_the_inner_one(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr("fusecade.passes.kernel_shape.AROUND", 16)
    monkeypatch.setattr("fusecade.passes.kernel_shape.INNER", 16)
    monkeypatch.setattr("fusecade.passes.kernel_shape.KernelShape.may_be_whole", lambda *_: False)
    fn, shapes = CASES[case]
    inputs = drawn(shapes, torch.float32)
    made = compiled(fn, inputs, 3, "sm_90", monkeypatch, tmp_path)
    assert loops(made.report.kernels[0]) == 1
    found, exact, eager = (in_a_row(r) for r in (made(*inputs), fn(*(t.double() for t in inputs)), fn(*inputs)))
    for mine, theirs, reference in zip(found, eager, exact, strict=True):
        if not mine.dtype.is_floating_point:
            assert torch.equal(mine, reference)
            continue
        allowed = 2 * (theirs - reference).abs().max() + torch.finfo(torch.float32).eps * reference.abs().max()
        assert (mine - reference).abs().max() <= allowed


def test_a_wide_vocabulary_is_cut_into_single_tiles():
    """A tile of 128 x 256 has registers enough where no loop is around the inner one (spilled 232 bytes in one)."""
    inputs = [
        torch.empty(8192, 1024, dtype=torch.float16, device="meta"),
        torch.empty(4096, 1024, dtype=torch.float16, device="meta"),
    ]
    inputs.append(torch.empty(8192, dtype=torch.int64, device="meta"))
    report = fusecade.explain(cross_entropy, *inputs, target="sm_80", fuse="always")
    kernel, _ = report.kernels
    assert loops(kernel) == 1
    assert kernel.params["BD0"] * kernel.params["BK"] == 128 * 256
    assert kernel.spills == 0


@pytest.mark.parametrize("target", ["sm_90", "sm_80"])
@pytest.mark.parametrize("case", ["head", *(pytest.param(c, marks=pytest.mark.slow) for c in OFFLINE if c != "head")])
def test_nothing_spills_and_the_inner_loop_is_pipelined(case: str, target: str):
    """What the inner loop loads has a place in shared memory for each stage; matrix units multiply."""
    fn, shapes = OFFLINE[case]
    inputs = [torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in shapes]
    report = fusecade.explain(fn, *inputs, target=target, fuse="always")
    kernel = report.kernels[0]  # the other, if there is one, merges parts
    assert loops(kernel) == (2 if len(report.kernels) == 1 else 1)
    assert kernel.not_compiled is None
    assert kernel.spills == 0
    assert kernel.tensor_cores is not None
    assert kernel.tensor_cores[{"sm_90": "HGMMA", "sm_80": "HMMA"}[target]] > 0
    inner = kernel.source[kernel.source.rindex("in tl.range(") :].split("\n", 1)
    assert inner[0].endswith("num_stages=num_stages):")
    step = product_of_the_inner_loop(kernel)
    assert kernel.shared_bytes is not None
    assert kernel.shared_bytes >= (kernel.params["num_stages"] - (target == "sm_80")) * step


def product_of_the_inner_loop(kernel: KernelReport) -> int:
    """Bytes of bf16 that one step of the inner loop loads: both operands of its product."""
    inner = kernel.source[kernel.source.rindex("in tl.range(") :]
    step = next(n for n in kernel.params if f", {n}, num_stages" in inner)
    tiles = re.findall(r"lane_(\w+)\[:, None\] \* \d+ \+ lane_(\w+)\[None, :\]", kernel.source)
    sizes = [kernel.params[f"B{a.upper()}"] for a, b in tiles if f"B{b.upper()}" == step]
    assert len(sizes) == 2
    return 2 * kernel.params[step] * sum(sizes)
