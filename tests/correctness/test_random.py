"""Dropout and other random operators through the backend: drawn as PyTorch draws them, once, and never left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fusecade import torch_backend

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def compiled(fn: Callable, **options):
    options = {"fuse": "always", "remainder": "eager", **options}
    return torch.compile(fn, backend="fusecade", dynamic=False, options=options)


def kernels() -> int:
    return sum(len(built.plan.calls) for built in torch_backend.compiled)


def attend(q, k, v):
    return F.dropout(torch.softmax(q @ k.transpose(-1, -2) / 4, -1), 0.2, True) @ v


def library_attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, dropout_p=0.2)


def residual(x, w):
    return x + F.dropout(F.gelu(x @ w), 0.3, True)


def again(x, w):
    return checkpoint(lambda x: F.dropout(torch.softmax(x @ w, -1), 0.3, True) @ w.T, x, use_reentrant=False)


def noise(x):
    return (x + torch.randn_like(x) * torch.rand(x.shape)).softmax(-1) * torch.bernoulli(torch.full_like(x, 0.5))


def heads() -> list[Tensor]:
    return [torch.randn(2, 2, 48, 16) for _ in range(3)]


def rows() -> list[Tensor]:
    return [torch.randn(48, 32), torch.randn(32, 32) / 6]


def self_attention() -> Callable:
    made = nn.MultiheadAttention(32, 4, dropout=0.1, batch_first=True)
    return lambda x: made(x, x, x, need_weights=False)[0]


def encoder() -> Callable:
    return nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)


PROGRAMS: dict[str, tuple[Callable[[], Callable], Callable[[], Sequence[Tensor]]]] = {
    "attention": (lambda: attend, heads),
    "library attention": (lambda: library_attention, heads),
    "residual": (lambda: residual, rows),
    "checkpoint": (lambda: again, rows),
    "noise": (lambda: noise, lambda: [torch.randn(16, 32)]),
    "multihead": (self_attention, lambda: [torch.randn(2, 24, 32)]),
    "encoder": (encoder, lambda: [torch.randn(2, 24, 32)]),
}
SLOW = ("multihead", "encoder", "noise", "library attention")


def drawn(fn: Callable, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Two results of one seed, the gradients through both, and the state of the generator behind them."""
    own = [x.clone().requires_grad_() for x in inputs]
    torch.manual_seed(5)
    results = [fn(*own) for _ in range(2)]
    assert not torch.equal(*results)  # each call draws anew
    state = torch.get_rng_state()
    gradients = torch.autograd.grad(results[0].sum() + results[1].square().sum(), own)
    return [*(y.detach() for y in results), *gradients], state


def assert_alike(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in PROGRAMS])
def test_the_draws_are_those_of_eager_mode(name: str):
    make, inputs = PROGRAMS[name]
    fn, given = make(), inputs()
    (found, state), (expected, other) = drawn(compiled(fn), given), drawn(fn, given)
    assert_alike(found, expected)
    assert torch.equal(state, other)
    assert kernels() and not any(b.fallbacks for b in torch_backend.compiled)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_inductor_is_asked_to_draw_as_eager_mode_does(name: str):
    make, inputs = PROGRAMS[name]
    fn, given = make(), inputs()
    with config.patch(fallback_random=True):
        found, state = drawn(compiled(fn, remainder="inductor"), given)
    expected, other = drawn(fn, given)
    assert_alike(found, expected)
    assert torch.equal(state, other)
    assert not any(b.fallbacks for b in torch_backend.compiled)


class TestInductorsOwnDraws:
    """Other numbers than eager's, of the same distribution, that follow from the seed."""

    def test_a_mask_is_that_of_its_gradient(self):
        run = compiled(lambda x: F.dropout(torch.exp(x), 0.25, True), remainder="inductor")
        x = torch.randn(64, 1000, requires_grad=True)
        y = run(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, y.detach())  # exp is its own derivative, so that the same mask shows
        kept = (y != 0).double().mean()
        assert abs(kept - 0.75) < 5 * math.sqrt(0.25 * 0.75 / x.numel())
        torch.testing.assert_close(y[y != 0], (torch.exp(x) / 0.75)[y != 0])
        assert not any(b.fallbacks for b in torch_backend.compiled)

    @pytest.mark.slow
    def test_they_follow_from_the_seed(self):
        run = compiled(attend, remainder="inductor")
        inputs = heads()
        torch.manual_seed(3)
        first, second = run(*inputs), run(*inputs)
        torch.manual_seed(3)
        assert torch.equal(run(*inputs), first)
        assert not torch.equal(first, second)
        assert kernels() and not any(b.fallbacks for b in torch_backend.compiled)


@pytest.mark.parametrize("remainder", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_dropout_of_a_mask_that_is_read_back(remainder: str):
    """The gradient of an attention, against that of one with the mask it drew."""
    eye = torch.eye(32).expand(1, 1, 32, 32)  # values that show the weights
    q, k = (torch.randn(1, 1, 32, 16, requires_grad=True) for _ in range(2))
    weights = compiled(attend, remainder=remainder)(q, k, eye)
    found = torch.autograd.grad(weights.square().sum(), (q, k))
    mask = (weights != 0).float() / 0.8
    plain = torch.softmax(q @ k.transpose(-1, -2) / 4, -1) * mask
    torch.testing.assert_close(plain, weights)
    assert_alike(found, torch.autograd.grad(plain.square().sum(), (q, k)))


def test_a_random_operator_is_reported_as_one():
    compiled(attend)(*heads())
    reasons = {reason for built in torch_backend.compiled for _, reason in built.plan.externs}
    assert reasons == {"it is random"}
