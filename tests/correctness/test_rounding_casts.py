"""Casts to 16 bits: a rounding where a graph on wider tensors asks for one, a way to store values everywhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fusecade

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def absmax_rounded(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    def fn(x: Tensor, w: Tensor) -> Tensor:
        scale = x.abs().amax(-1, keepdim=True)
        return ((x / scale).to(dtype).to(F32) @ w) * scale

    return fn


def softmax_rounded(s: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(s, -1).to(BF16).transpose(0, 1).float().transpose(0, 1) @ v


def softmax_stored(s: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(s, -1).to(BF16) @ v.to(BF16)


def softmax_in_f32(s: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(s.float(), -1).to(s.dtype) @ v


def norm_there_and_back(x: Tensor, w: Tensor) -> Tensor:
    y = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    return (y.to(x.dtype).float() * 2).to(x.dtype) @ w


def largest_rounded(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w).to(BF16).float().amax(-1)


def inputs(dtype: torch.dtype = F32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(*shape, generator=generator).to(dtype) for shape in ((64, 384), (384, 32)))  # pyright: ignore


def compiled(fn: Callable, args: tuple[Tensor, ...]) -> fusecade.CompiledFunction:
    found = fusecade.compile(fn, args, target="cpu", fuse="always", remainder="eager")
    assert found.report.externs == ()
    assert len(found.report.kernels) == 1
    return found


@pytest.mark.parametrize("dtype", [BF16, F16], ids=["bf16", "f16"])
def test_a_rounding_after_a_statistic_is_a_second_pass(dtype: torch.dtype) -> None:
    args, fn = inputs(), absmax_rounded(dtype)
    found = compiled(fn, args)
    (kernel,) = found.report.kernels
    assert max(kernel.passes.values()) == 2
    name = {BF16: "to_bf16", F16: "to_f16"}[dtype]
    assert any(name in reason for reasons in kernel.pass_reasons.values() for reason in reasons)
    torch.testing.assert_close(found(*args), fn(*args), rtol=1e-5, atol=1e-5)  # far below half a unit of 16 bits


def test_a_rounding_is_seen_through_views() -> None:
    args = inputs()
    found = compiled(softmax_rounded, args)
    assert max(found.report.kernels[0].passes.values()) == 2
    torch.testing.assert_close(found(*args), softmax_rounded(*args), rtol=1e-5, atol=1e-5)


def test_a_rounding_is_monotone() -> None:
    args = inputs()
    found = compiled(largest_rounded, args)
    assert max(found.report.kernels[0].passes.values()) == 1
    result = found(*args)
    assert torch.equal(result, result.to(BF16).float())
    torch.testing.assert_close(result, largest_rounded(*args), rtol=2**-7, atol=0)


@pytest.mark.parametrize(
    ("fn", "dtype"),
    [(softmax_stored, F32), (softmax_in_f32, BF16), (softmax_in_f32, F16), (norm_there_and_back, BF16)],
    ids=["autocast", "softmax_bf16", "softmax_f16", "norm_bf16"],
)
def test_a_cast_that_only_stores_costs_no_pass(fn: Callable, dtype: torch.dtype) -> None:
    args = inputs(dtype)
    found = compiled(fn, args)
    assert max(found.report.kernels[0].passes.values()) == 1
    s, v = (a.double() for a in args)
    exact = torch.softmax(s, -1) @ v if fn is softmax_stored else fn(s, v)
    error, eager = ((r.double() - exact).abs().max() for r in (found(*args), fn(*args)))
    assert error <= 2 * eager + torch.finfo(BF16).eps * exact.abs().max()


def test_a_cast_to_an_integer_stays_a_rounding() -> None:
    def quantised(x: Tensor, w: Tensor) -> Tensor:
        scale = x.abs().amax(-1, keepdim=True)
        return ((127 * x / scale).to(torch.int8).float() @ w) * scale

    report = fusecade.explain(quantised, *inputs(), target="cpu")
    assert [max(k.passes.values()) for k in report.kernels] in ([], [2])
