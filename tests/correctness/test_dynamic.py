"""Dynamic sizes through the backend: what is compiled once serves every length, forward and backward, and is right for it."""

from __future__ import annotations

import copy
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusecade
from fusecade import torch_backend

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("error::fusecade.errors.FallbackWarning"),
]


class NormThenLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(32), nn.Linear(32, 48)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


class Block(nn.Module):
    """A transformer block with causal attention."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(self.first(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(b, n, d))
        return x + self.down(F.gelu(self.up(self.second(x))))


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v


def cross_entropy(h, e, t):
    return F.cross_entropy(h @ e.T, t)


def heads(b: int, n: int) -> list[Tensor]:
    return [torch.randn(b, 2, n, 16) for _ in range(3)]


def words(b: int, n: int) -> list[Tensor]:
    return [torch.randn(b * n, 16), torch.randn(160, 16), torch.randint(160, (b * n,))]


PROGRAMS: dict[str, tuple[Callable[[], Callable], Callable[[int, int], Sequence[Tensor]]]] = {
    "attention": (lambda: attend, heads),
    "cross entropy": (lambda: cross_entropy, words),
    "norm and product": (NormThenLinear, lambda b, n: [torch.randn(b, n, 32)]),
    "block": (Block, lambda b, n: [torch.randn(b, n, 32)]),
}


def compiled(fn: Callable, dynamic: bool | None = None, **options):
    options = {"fuse": "always", "remainder": "eager", **options}
    return torch.compile(fn, backend="fusecade", dynamic=dynamic, options=options)


def graphs() -> int:
    """How many were compiled, the backward ones included."""
    return len(torch_backend.compiled)


def gradients(fn: Callable, call: Callable, inputs: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """The result of `call`, and the gradients of its inputs and parameters under a fixed weighting."""
    own = [x.detach().clone().to(dtype or x.dtype).requires_grad_() if x.is_floating_point() else x for x in inputs]
    parameters = list(fn.parameters()) if isinstance(fn, nn.Module) else []
    for p in parameters:
        p.grad = None
    y = call(*own)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    (y * weight).sum().backward()
    found = [y.detach(), *(x.grad for x in own if x.is_floating_point()), *(p.grad for p in parameters)]
    return [x.clone() for x in found if x is not None]


Case = tuple[Sequence[Tensor], Sequence[Tensor]]  # inputs, and what was found: the result, then gradients


def assert_right(fn: Callable, *cases: Case) -> None:
    """Errors against float64 at most twice eager's, and one ulp of the scale of the result.

    A single number may be right in eager by luck: of eager's errors the one of that case counts, or their median, whichever
    is larger.
    """
    table = [list(errors(fn, *case)) for case in cases]
    for found in zip(*table, strict=True):  # one result, or one gradient, of all cases
        typical = statistics.median(eager for _, eager, _ in found)
        for own, eager, ulp in found:
            assert own <= 2 * max(eager, typical) + ulp


def errors(fn: Callable, inputs: Sequence[Tensor], found: Sequence[Tensor]) -> Iterator[tuple[float, float, float]]:
    """The largest error, eager's, and an ulp, in terms of the largest number; of the result and of each gradient."""
    exact = copy.deepcopy(fn).double() if isinstance(fn, nn.Module) else fn
    right, eager = gradients(exact, exact, inputs, torch.float64), gradients(fn, fn, inputs)
    for mine, wanted, usual in zip(found, right, eager, strict=True):
        assert mine.shape == wanted.shape
        assert torch.equal(mine.isnan(), wanted.isnan())
        kept = ~wanted.isnan()
        scale = wanted[kept].abs().max().item() if kept.any() else 0.0
        own, theirs = (((x.double() - wanted)[kept].abs().max().item() if kept.any() else 0.0) for x in (mine, usual))
        yield (own / scale, theirs / scale, torch.finfo(mine.dtype).eps) if scale else (own, theirs, 0.0)


def of_sizes(seed: int, count: int, batches: bool) -> list[tuple[int, int]]:
    """Batches and lengths from 2 on."""
    rng = random.Random(seed)
    return [(rng.randint(2, 5) if batches else 2, rng.randint(2, 150)) for _ in range(count)]


class TestCompiledOnce:
    """50 random lengths: at most two recompilations, one where a length changes first, one where a batch does."""

    @pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "attention")) for n in PROGRAMS])
    def test_forward(self, name: str):
        make, inputs = PROGRAMS[name]
        fn = make()
        run = compiled(fn)
        with torch.no_grad():
            for b, n in of_sizes(1, 50, batches=False):
                given = inputs(b, n)
                torch.testing.assert_close(run(*given), fn(*given), rtol=1e-4, atol=1e-5)
        assert graphs() == 2
        assert all(built.plan.calls for built in torch_backend.compiled)

    @pytest.mark.slow
    @pytest.mark.parametrize("remainder", ["eager", "inductor"])
    @pytest.mark.parametrize("name", PROGRAMS)
    def test_training_with_batches_and_lengths(self, name: str, remainder: str):
        make, inputs = PROGRAMS[name]
        fn = make()
        run = compiled(fn, remainder=remainder)
        for b, n in of_sizes(2, 50, batches=True):
            given = inputs(b, n)
            for mine, theirs in zip(gradients(fn, run, given), gradients(fn, fn, given), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
        assert graphs() <= 2 * 3  # forward and backward, of the first sizes and after at most two recompilations

    def test_training(self):
        run = compiled(attend, dynamic=True)
        for b, n in of_sizes(3, 10, batches=True):
            given = heads(b, n)
            for mine, theirs in zip(gradients(attend, run, given), gradients(attend, attend, given), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        assert graphs() == 2

    @pytest.mark.slow
    @pytest.mark.parametrize("name", PROGRAMS)
    def test_from_the_first_call_where_it_is_asked_for(self, name: str):
        make, inputs = PROGRAMS[name]
        fn = make()
        run = compiled(fn, dynamic=True)
        for b, n in of_sizes(4, 50, batches=True):
            gradients(fn, run, inputs(b, n))
        assert graphs() == 2

    def test_a_dimension_that_is_marked(self):
        run = compiled(attend)
        with torch.no_grad():
            for n in (40, 41, 97, 2):
                given = heads(2, n)
                for x in given:
                    torch._dynamo.mark_dynamic(x, 2)
                torch.testing.assert_close(run(*given), attend(*given))
        assert graphs() == 1

    @pytest.mark.slow
    def test_by_cost(self):
        """What is chosen at the first length is not chosen again: a recompilation would cost more."""
        model = Block()
        run = compiled(model, fuse="by_cost", remainder="inductor")
        for b, n in of_sizes(5, 50, batches=True):
            gradients(model, run, [torch.randn(b, n, 32)])
        assert graphs() <= 2 * 3

    def test_a_library_attention_whose_head_is_dynamic_too(self):
        def call(q, k, v):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        run = compiled(call, dynamic=True)
        for n, d in ((40, 16), (17, 8), (64, 32)):
            given = [torch.randn(2, 2, n, d) for _ in range(3)]
            assert_right(call, (given, gradients(call, run, given)))
        assert graphs() == 2


LENGTHS = (3, 1, 31, 2, 64, 0, 97, 128, 768, 5)


class TestEveryLength:
    """Against float64, forward and gradients; compiled for 48 and 50, and for 0 and 1 apart."""

    @pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "attention")) for n in PROGRAMS])
    def test_against_float64(self, name: str):
        make, inputs = PROGRAMS[name]
        fn = make()
        run = compiled(fn)
        given = [inputs(2, n) for n in (48, 50, *LENGTHS)]
        assert_right(fn, *((x, gradients(fn, run, x)) for x in given))
        assert graphs() <= 2 * 4


class TestSizesFromData:
    def test_stay_extern_with_the_reason(self):
        def chosen(x, keep):
            return torch.softmax(x[keep.nonzero().squeeze(1)] @ x.T, -1) @ x

        with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
            run = compiled(chosen, dynamic=True)
            for n in (40, 23):
                x, keep = torch.randn(n, 16), torch.rand(n) > 0.5
                torch.testing.assert_close(run(x, keep), chosen(x, keep))
        (built,) = torch_backend.compiled
        assert ("aten.nonzero.default", "the size of its result depends on data") in built.plan.externs
        assert "depends on data" in str(fusecade.reports()[-1])

    def test_numbers_from_data(self):
        def first(x, n):
            count = n.item()
            torch._check(count >= 2)
            torch._check(count <= x.shape[0])
            return torch.softmax(x[:count] @ x.T, -1) @ x

        with torch._dynamo.config.patch(capture_scalar_outputs=True):
            run = compiled(first, dynamic=True)
            for n in (3, 17, 40):
                x = torch.randn(40, 16)
                torch.testing.assert_close(run(x, torch.tensor(n)), first(x, torch.tensor(n)))
        assert graphs() == 1


def test_a_new_length_tunes_nothing(monkeypatch: pytest.MonkeyPatch):
    run = compiled(attend, dynamic=True, tune="off")
    with torch.no_grad():
        run(*heads(2, 40))
        asked = []
        monkeypatch.setattr(torch_backend, "tuned_for", lambda *a: asked.append(a))
        monkeypatch.setattr(torch_backend, "make_plan", lambda *a, **k: asked.append(a))
        for n in (41, 97, 640):
            run(*heads(2, n))
    assert not asked
