"""What a backward graph knows of the sums of rows: loops over masked elements are left out, and NaN stays where it was."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fusecade import torch_backend
from fusecade.assembly.row_sums import LEAST, bound_sums, sums_of_powers

aten = torch.ops.aten
pytestmark = pytest.mark.usefixtures("fresh_compiler")


def written(x: Tensor, dim: int = -1) -> Tensor:
    powers = torch.exp(x - x.amax(dim, keepdim=True))
    return powers / powers.sum(dim, keepdim=True)


def otherwise(x: Tensor, shift: Tensor) -> Tensor:
    """A sum of powers that may be as small as it likes."""
    return torch.exp(x - shift).sum(-1)


def traced(fn: Callable, *inputs: Tensor) -> fx.Graph:
    return make_fx(fn)(*inputs).graph


@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_a_sum_over_the_dimension_of_the_maximum(dim: int):
    (name,) = sums_of_powers(traced(lambda x: written(x, dim), torch.randn(3, 4)))
    assert name.startswith("sum")


def test_no_other_sum():
    x = torch.randn(3, 4)
    for fn in (
        lambda x: torch.exp(x - x.amax(0, keepdim=True)).sum(1),
        lambda x: torch.exp(x - x.amin(1, keepdim=True)).sum(1),
        lambda x: torch.exp(2 * x - x.amax(1, keepdim=True)).sum(1),
        lambda x: torch.exp(x).sum(1),
        lambda x: (x - x.amax(1, keepdim=True)).sum(1),
    ):
        assert not sums_of_powers(traced(fn, x))
    assert not sums_of_powers(traced(otherwise, x, torch.randn(3, 1)))


def test_what_is_divided_by_a_saved_sum_is_divided_by_its_bound():
    def backward(powers: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        return powers / total, total * 2

    gm = make_fx(backward)(torch.rand(3, 4), torch.ones(3, 1))
    *_, total = gm.graph.find_nodes(op="placeholder")
    bound_sums(gm, {total.name})
    (bound,) = gm.graph.find_nodes(op="call_function", target=aten.clamp_min.default)
    assert bound.args == (total, LEAST)
    assert [u.target for u in bound.users] == [aten.div.Tensor]
    assert {u.target for u in total.users} == {aten.clamp_min.default, aten.mul.Tensor}
    given = torch.rand(3, 4), torch.tensor([[1.0], [4.0], [math.nan]])
    for mine, theirs in zip(gm(*given), backward(*given), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


# --- kernels of a backward --------------------------------------------------------------------------------------------

N, D = 1024, 64


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As model code writes it: the most negative number is added where a key comes later."""
    at = torch.arange(q.shape[-2])
    mask = torch.where(at[:, None] >= at, 0.0, torch.finfo(torch.float32).min)
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask, -1) @ v


def filled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As tutorials write it: a map of a map of indices says where."""
    seen = torch.ones(q.shape[-2], k.shape[-2]).tril()
    return torch.softmax((q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(seen == 0, -math.inf), -1) @ v


def packed(x: Tensor) -> Tensor:
    """Queries, keys and values of two heads side by side in one row."""
    q, k, v = (part.view(-1, 2, D).transpose(0, 1) for part in x.split(2 * D, -1))
    return causal(q, k, v).transpose(0, 1).reshape(-1, 2 * D)


def gradients(fn: Callable, inputs: list[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    own = [x.detach().to(dtype).requires_grad_() for x in inputs]
    y = fn(*own)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype))
    return [x.grad for x in own]  # type: ignore[misc]


@pytest.mark.parametrize("fn", [causal, filled, packed])
def test_a_causal_backward_leaves_out_later_keys(fn: Callable):
    inputs = [torch.randn(N, 6 * D)] if fn is packed else [torch.randn(2, N, D) for _ in range(3)]
    run = torch.compile(fn, backend="fusecade", options={"fuse": "always", "remainder": "eager", "strict": True})
    found = gradients(run, inputs)
    exact, eager = gradients(fn, inputs, torch.float64), gradients(fn, inputs)
    for mine, right, usual in zip(found, exact, eager, strict=True):
        ulp = torch.finfo(mine.dtype).eps * right.abs().max()
        assert (mine - right).abs().max() <= 2 * (usual - right).abs().max() + ulp
    backward = torch_backend.compiled[-1]
    products = [c for c in backward.plan.calls if any(n.startswith("bmm") for n in c.nodes)]
    assert len(products) == 2
    for call in products:
        loops = [line for line in call.artifact.source.splitlines() if "for start_" in line]
        assert any("min(start_" in line for line in loops), loops  # bounds that depend on the tile


def test_rows_with_nan_and_rows_without_a_key_are_those_of_eager():
    """A mask that data makes: no key is left out for what indices say."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax((q @ k.transpose(-1, -2)).masked_fill(~mask, -math.inf), -1) @ v

    q, k, v = (torch.randn(1, 24, 8) for _ in range(3))
    q[0, 3, 0] = math.nan
    mask = torch.rand(24, 24) > 0.5
    mask[:, 0] = True
    mask[7] = False
    run = torch.compile(attend, backend="fusecade", options={"fuse": "always", "remainder": "eager", "strict": True})
    found = gradients(lambda *t: run(*t, mask), [q, k, v])
    usual = gradients(lambda *t: attend(*t, mask), [q, k, v])
    for mine, theirs in zip(found, usual, strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True, rtol=1e-4, atol=1e-5)
