"""Training through the backend: gradients are right, large values inside kernels are not saved, steps follow eager's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fusecade
from fusecade import torch_backend

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def compiled(fn, **options):
    """Everything fuses that can: the sizes here are too small to pay."""
    options = {"fuse": "always", "remainder": "eager", **options}
    return torch.compile(fn, backend="fusecade", dynamic=False, options=options)


def forward():
    """The report of the forward graph, the only one there is."""
    (found,) = [r for r in fusecade.reports() if r.saved]
    return found


def kernels() -> int:
    return sum(len(built.plan.calls) for built in torch_backend.compiled)


# --- the programs -------------------------------------------------------------------------------------------------

N, D, WORDS = 160, 16, 320


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(D), -1) @ v


def causal(q, k, v):
    scores = q @ k.transpose(-1, -2) / math.sqrt(D)
    later = torch.ones(N, N, dtype=torch.bool, device=q.device).triu(1)
    return torch.softmax(scores.masked_fill(later, -math.inf), -1) @ v


def masked(q, k, v, m):
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(D) + m, -1) @ v


def grouped(q, k, v):
    k, v = (x.repeat_interleave(2, 1) for x in (k, v))
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(D), -1) @ v


def cross_entropy(h, e, t):
    return F.cross_entropy(h @ e.T, t)


def sparse_head(h, e):
    return torch.log1p(torch.relu(h @ e.T)).max(1).values


def shared_head(h, e):
    return torch.log1p(torch.relu(h @ e.T)).amax(1)  # where several are the largest, they share the gradient


def layer_norm(x, w, b):
    return F.layer_norm(x, x.shape[-1:], w, b)


def rms_norm(x, w):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w


def mlp(x, w1, b1, w2):
    return F.gelu(F.linear(x, w1, b1)) @ w2


def heads(*shape: int) -> list[Tensor]:
    return [torch.randn(*shape) for _ in range(3)]


def key_mask() -> Tensor:
    return torch.zeros(2, 1, 1, N).masked_fill(torch.arange(N) > 100, -math.inf)


def targets() -> Tensor:
    return torch.randint(WORDS, (N,)).index_fill(0, torch.tensor([1, 5]), -100)


PROGRAMS: dict[str, tuple[Callable, Callable[[], Sequence[Tensor]]]] = {
    "attention": (attend, lambda: heads(2, 2, N, D)),
    "causal": (causal, lambda: heads(2, 2, N, D)),
    "masked": (masked, lambda: [*heads(2, 2, N, D), key_mask()]),
    "grouped": (grouped, lambda: [torch.randn(2, 4, N, D), torch.randn(2, 2, N, D), torch.randn(2, 2, N, D)]),
    "cross entropy": (cross_entropy, lambda: [torch.randn(N, D), torch.randn(WORDS, D), targets()]),
    "sparse head": (sparse_head, lambda: [torch.randn(2, N, D), torch.randn(WORDS, D)]),
    "shared head": (shared_head, lambda: [torch.randn(2, N, D), torch.randn(WORDS, D)]),
    "layer norm": (layer_norm, lambda: [torch.randn(N, 64), torch.randn(64), torch.randn(64)]),
    "rms norm": (rms_norm, lambda: [torch.randn(N, 64), torch.randn(64)]),
    "mlp": (mlp, lambda: [torch.randn(N, 32), torch.randn(64, 32), torch.randn(64), torch.randn(64, 32)]),
}
LARGEST = {  # elements of a value that waits for the backward: of rows and operands, never the product of two long ranks
    "attention": 4 * N * D, "causal": 4 * N * D, "masked": 4 * N * D, "grouped": 8 * N * D, "cross entropy": N,
    "sparse head": 2 * WORDS, "shared head": 2 * WORDS, "layer norm": N, "rms norm": N,
}  # fmt: skip


def gradients(fn: Callable, inputs: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """The result of `fn`, and the gradients of its floating inputs under a fixed weighting of it."""
    own = [
        x.detach().clone().to(dtype or x.dtype).requires_grad_() if x.is_floating_point() else x for x in inputs
    ]  # fmt: skip
    y = fn(*own)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    (y * weight).sum().backward()
    return [y.detach(), *(x.grad for x in own if x.grad is not None)]


def assert_right(fn: Callable, inputs: Sequence[Tensor], found: Sequence[Tensor], least: float = 0.0) -> None:
    """Errors against float64 at most twice eager's in the same dtype, and one ulp of the scale of the result."""
    right, eager = gradients(fn, inputs, torch.float64), gradients(fn, inputs)
    for mine, exact, usual in zip(found, right, eager, strict=True):
        scale = exact.abs().max()
        ulp = scale * torch.finfo(mine.dtype).eps
        allowed = 2 * (usual.double() - exact).abs().max() + ulp + least * scale
        assert (mine.double() - exact).abs().max() <= allowed


SLOW = ("causal", "masked", "grouped", "shared head")


class TestGradients:
    @pytest.mark.slow
    def test_of_every_length(self):
        run = torch.compile(attend, backend="fusecade", dynamic=True, options={"fuse": "always", "remainder": "eager"})
        for length in (96, 150, 41):
            inputs = heads(1, 2, length, D)
            assert_right(attend, inputs, gradients(run, inputs), 1e-6)
        assert len(torch_backend.compiled) == 2
        assert all(x.bytes < 150 * 150 * 4 for x in forward().saved)

    @pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in PROGRAMS])
    def test_against_float64(self, name: str):
        fn, make = PROGRAMS[name]
        inputs = make()
        found = gradients(compiled(fn), inputs)
        assert_right(fn, inputs, found, 1e-6)
        assert kernels() >= 1 or name in ("layer norm", "rms norm", "mlp")
        for value in forward().saved if name in LARGEST else ():
            if value.bytes:
                assert math.prod(map(int, value.shape)) <= LARGEST[name], value

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["attention", "cross entropy", "sparse head"])
    def test_in_bfloat16(self, name: str):
        fn, make = PROGRAMS[name]
        inputs = [x.bfloat16() if x.is_floating_point() else x for x in make()]
        found = gradients(compiled(fn), inputs)
        assert_right(fn, inputs, found, 2e-3)

    def test_gradcheck(self):
        inputs = [torch.randn(1, 2, 24, 4, dtype=torch.float64).requires_grad_() for _ in range(3)]
        assert torch.autograd.gradcheck(compiled(attend), inputs)


def test_scores_in_the_thousands():
    """x - m is exact next to the maximum, also where m was saved and x is computed again."""
    inputs = [factor * torch.randn(2, 128, 32) for factor in (10, 10, 1)]
    given = torch.randn(2, 128, 32)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-1, -2), -1) @ v

    def gradients(fn: Callable, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.detach().clone().to(dtype).requires_grad_() for x in inputs]
        fn(*leaves).backward(given.to(dtype))
        return [x.grad for x in leaves if x.grad is not None]

    exact = gradients(attend, torch.float64)
    for mine, eager, right in zip(
        gradients(compiled(attend), torch.float32), gradients(attend, torch.float32), exact, strict=True
    ):
        ulp = torch.finfo(torch.float32).eps * right.abs().max()
        assert (mine - right).abs().max() <= 2 * (eager - right).abs().max() + ulp


def test_pytorch_decides_what_is_saved_when_asked_to():
    fn, make = PROGRAMS["attention"]
    gradients(compiled(fn, save="torch"), make())
    assert any(built.plan.calls for built in torch_backend.compiled)
    assert not any(r.saved for r in fusecade.reports())


def test_the_report_says_what_is_saved_and_why():
    fn, make = PROGRAMS["attention"]
    gradients(compiled(fn), make())
    report = forward()
    rows = [x for x in report.saved if x.bytes and x.shape[-1] == "1"]
    assert len(rows) == 2 and all("is computed again" in x.reason for x in rows)
    assert report.saved_bytes == sum(x.bytes for x in report.saved)
    assert "saved for the backward" in str(report)
    assert report.to_dict()["saved"][0]["name"] == report.saved[0].name


# --- what must not be computed twice ------------------------------------------------------------------------------


def test_dropout_is_drawn_once():
    def fn(x):
        return F.dropout(x * 2, 0.5)

    x = torch.rand(64, 64).add(1).requires_grad_()
    y = compiled(fn)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y / x).detach())


@pytest.mark.slow
def test_dropout_in_attention_is_drawn_once():
    def fn(q, k, v):
        return F.dropout(torch.softmax(q @ k.transpose(-1, -2), -1), 0.5) @ v

    q, k = torch.randn(1, 2, N, D), torch.randn(1, 2, N, D)
    v = torch.eye(N).expand(1, 2, N, N).contiguous().requires_grad_()  # so that the result is what was dropped
    y = compiled(fn)(q, k, v)
    y.backward(torch.ones_like(y))
    torch.testing.assert_close(v.grad, y.detach().sum(-2)[..., None].expand_as(v), rtol=1e-4, atol=1e-4)


# --- living with PyTorch ------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """A small model whose head is its embedding; `through` wraps each block."""

    def __init__(self, through: Callable = lambda block, x: block(x)) -> None:
        super().__init__()
        self.through = through
        self.words = nn.Embedding(WORDS, D)
        self.blocks = nn.ModuleList([_Block() for _ in range(1)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for block in self.blocks:
            x = self.through(block, x)
        return F.cross_entropy((x @ self.words.weight.T).flatten(0, 1), ids.flatten())


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.into, self.out = nn.LayerNorm(D), nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.into(self.norm(x)).chunk(3, -1)
        return x + self.out(attend(q, k, v))


def again(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(block, x, use_reentrant=False)  # type: ignore[return-value]


def steps(model: nn.Module, run: Callable, ids: Tensor, count: int = 3, compile_optimiser: bool = False) -> list[float]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    update = torch.compile(optimiser.step, backend="aot_eager") if compile_optimiser else optimiser.step
    losses = []
    for _ in range(count):
        optimiser.zero_grad()
        loss = run(ids)
        loss.backward()
        update()
        losses.append(loss.item())
    return losses


class TestSteps:
    @pytest.mark.slow
    @pytest.mark.parametrize("through", [None, again], ids=["plain", "checkpoint"])
    def test_losses_follow_eager(self, through: Callable | None):
        model = Tied(through) if through else Tied()
        other, ids = copy.deepcopy(model), torch.randint(WORDS, (2, N))
        mine = steps(model, compiled(model), ids)
        assert mine == pytest.approx(steps(other, other, ids), rel=1e-4)
        assert mine[-1] < mine[0]
        assert kernels() >= 2

    @pytest.mark.slow
    def test_a_compiled_optimiser(self):
        model = Tied()
        other, ids = copy.deepcopy(model), torch.randint(WORDS, (1, 64))
        mine = steps(model, compiled(model, fuse="by_cost"), ids, compile_optimiser=True)
        assert mine == pytest.approx(steps(other, other, ids), rel=1e-4)

    @pytest.mark.slow
    def test_autocast(self):
        model = Tied()
        other, ids = copy.deepcopy(model), torch.randint(WORDS, (1, N))

        def loss_of(run):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return run(ids)

        exact = copy.deepcopy(model)
        losses = [loss_of(compiled(model)), loss_of(other), exact(ids)]
        for loss in losses:
            loss.backward()
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=2e-2)
        for mine, theirs, right in zip(model.parameters(), other.parameters(), exact.parameters(), strict=True):
            usual = (theirs.grad - right.grad).norm()
            assert (mine.grad - right.grad).norm() <= 2 * usual + 1e-3 * right.grad.norm()

    @pytest.mark.slow
    def test_without_gradients_after_training(self):
        model, ids = Tied(), torch.randint(WORDS, (1, 64))
        run = compiled(model, fuse="by_cost")
        steps(model, run, ids, 1)
        with torch.no_grad():
            torch.testing.assert_close(run(ids), model(ids))


@pytest.mark.slow
def test_a_result_that_is_used_twice():
    def fn(q, k, v):
        y = attend(q, k, v)
        return y, y * 2, y.sum()

    def loss(run, inputs):
        a, b, c = run(*inputs)
        return (a * b).sum() + c

    inputs = [x.requires_grad_() for x in heads(1, 2, N, D)]
    mine = torch.autograd.grad(loss(compiled(fn), inputs), inputs)
    torch.testing.assert_close(mine, torch.autograd.grad(loss(fn, inputs), inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_update_in_place_between_steps():
    linear = nn.Linear(D, D)
    run = compiled(lambda x: attend(linear(x), x, x))
    x = torch.randn(1, N, D)
    for _ in range(2):
        mine = torch.autograd.grad(run(x).square().sum(), [linear.weight])
        theirs = torch.autograd.grad(attend(linear(x), x, x).square().sum(), [linear.weight])
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)
        with torch.no_grad():
            linear.weight.mul_(0.5)


@pytest.mark.slow
def test_a_mutated_buffer():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
            self.linear = nn.Linear(D, D)

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(1)
            y = self.linear(x)
            return attend(y, y, y)

    module = Counting()
    run = compiled(module)
    x = torch.randn(1, N, D)
    for _ in range(2):
        run(x).sum().backward()
    assert module.seen == 2


# --- real architectures -------------------------------------------------------------------------------------------


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(n_layer=1, n_embd=64, n_head=2, vocab_size=500, n_positions=256, resid_pdrop=0.0, embd_pdrop=0.0,
                   attn_pdrop=0.0, use_cache=False)
    )  # fmt: skip


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=128, num_attention_heads=4,
                    num_key_value_heads=2, vocab_size=500, use_cache=False)
    )  # fmt: skip


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=128, num_attention_heads=2, vocab_size=500,
                   hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [gpt2, llama, bert])
def test_ten_steps_of_a_model(make: Callable[[], nn.Module], kind: str):
    model = make().train()
    model.set_attn_implementation(kind)
    other, ids = copy.deepcopy(model), torch.randint(500, (2, 192))

    def losses(model: nn.Module, run: Callable) -> list[float]:
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        found = []
        for _ in range(10):
            optimiser.zero_grad()
            loss = run(input_ids=ids, labels=ids).loss
            loss.backward()
            optimiser.step()
            found.append(loss.item())
        return found

    mine, theirs = losses(model, compiled(model)), losses(other, other)
    assert mine == pytest.approx(theirs, rel=2e-4)
    assert mine[-1] < mine[0]
