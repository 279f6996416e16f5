"""Bounded logits need no maximum: which kernels lose theirs, and that they compute what they computed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from harness import Checked, check
from hypothesis import example, given, settings
from hypothesis import strategies as st
from in_parts import in_parts
from torch import Tensor
from torch.nn import functional as F

import fusecade
from fusecade.ir import tile
from fusecade.passes.scheduled import Scheduled


def _r(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + len(shape)))


Q, K, V = 3 * _r(2, 5, 4), 3 * _r(2, 7, 4, seed=1), _r(2, 7, 3, seed=2)
X, W = _r(6, 9), _r(9, 5)
SINK = _r(2, 1, 1)
TARGET = torch.tensor([0, 4, 2, 1, 1, 3])
KEPT = torch.rand(5, 7, generator=torch.Generator().manual_seed(3)) < 0.5
KEPT[2], KEPT[3] = False, True  # a row without any element


def cap(s: Tensor, limit: float) -> Tensor:
    return limit * torch.tanh(s / limit)


def attend(f: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda q, k, v: torch.softmax(f(q @ k.mT), -1) @ v


def masked(f: Callable[[Tensor], Tensor], with_: float = -math.inf) -> Callable[..., Tensor]:
    return lambda q, k, v, kept: torch.softmax(f(q @ k.mT).masked_fill(~kept, with_), -1) @ v


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = cap(q @ k.mT, 20)
    e = torch.exp(s - s.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True) @ v


def by_hand_guarded(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
    s = cap(q @ k.mT, 20).masked_fill(~kept, -math.inf)
    m = s.amax(-1, keepdim=True)
    e = torch.exp(s - torch.where(m == -math.inf, 0.0, m))
    return e @ v / e.sum(-1, keepdim=True)


def in_powers_of_two(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = cap(q @ k.mT, 20)
    e = torch.exp2(s - s.amax(-1, keepdim=True))
    return e @ v / e.sum(-1, keepdim=True)


def with_sink(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    s = cap(q @ k.mT, 20)
    m = torch.maximum(s.amax(-1, keepdim=True), sink)
    e = torch.exp(s - m)
    return e @ v / (e.sum(-1, keepdim=True) + torch.exp(sink - m))


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def cosines(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.mT / q.norm(dim=-1, keepdim=True) / k.norm(dim=-1)[..., None, :]
    return torch.softmax(20 * s, -1) @ v


def with_maximum(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    s = cap(q @ k.mT, 20)
    return torch.softmax(s, -1) @ v, s.amax(-1)


def asks_for_the_maximum(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
    s = cap(q @ k.mT, 20).masked_fill(~kept, -math.inf)
    return torch.where(s.amax(-1, keepdim=True) == -math.inf, 0.0, torch.softmax(s, -1) @ v)


def asks_for_the_sum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Whether the sum is large depends on what it is measured from."""
    s = cap(q @ k.mT, 20)
    e = torch.exp(s - s.amax(-1, keepdim=True))
    total = e.sum(-1, keepdim=True)
    return torch.where(total > 2, e @ v / total, 0.0)


def entropy(x: Tensor) -> Tensor:
    x = cap(x, 20)
    return -(torch.softmax(x, -1) * torch.log_softmax(x, -1)).sum(-1)


def seen_on(target: str, fn: Callable, tensors: list[Tensor], **options) -> Checked:
    seen = check(fn, tensors, target, walks=1, **options)
    assert len(seen.kernels) == 1, seen.refusals
    return seen


def maxima(seen: Checked) -> int:
    """How many maxima the tile program takes."""
    scheduled = seen.scheduled[0]
    assert isinstance(scheduled, Scheduled)
    return sum(isinstance(o, tile.ReduceOp) and o.combiner.data == "max" for o in scheduled.kernel.walk())


GONE: dict[str, tuple[Callable, list[Tensor]]] = {
    "soft cap": (attend(lambda s: cap(s, 20)), [Q, K, V]),
    "wide soft cap": (attend(lambda s: cap(s, 50)), [Q, K, V]),
    "sigmoid": (attend(lambda s: 10 * torch.sigmoid(s)), [Q, K, V]),
    "sine": (attend(lambda s: 30 * torch.sin(s)), [Q, K, V]),
    "relu6": (attend(F.relu6), [Q, K, V]),
    "clamp, far from 0": (attend(lambda s: (100 * s).clamp(1000, 1090)), [Q, K, V]),
    "mask": (masked(lambda s: cap(s, 20)), [Q, K, V, KEPT]),
    "causal": (
        attend(lambda s: cap(s, 20).masked_fill(torch.ones(5, 7, dtype=torch.bool).triu(1), -math.inf)),
        [Q, K, V],
    ),
    "by hand": (by_hand, [Q, K, V]),
    "by hand, guarded": (by_hand_guarded, [Q, K, V, KEPT]),
    "exp2": (in_powers_of_two, [Q, K, V]),
    "logsumexp": (lambda x, w: torch.logsumexp(cap(x @ w, 30), -1), [X, W]),
    "logsumexp of masked rows": (
        lambda q, k, kept: torch.logsumexp(cap(q @ k.mT, 20).masked_fill(~kept, -math.inf), -1),
        [Q, K, KEPT],
    ),
    "values and logsumexp": (
        lambda q, k, v: (by_hand(q, k, v), torch.logsumexp(cap(q @ k.mT, 20), -1)),
        [Q, K, V],
    ),
    "written": (lambda x: torch.softmax(torch.tanh(x), -1), [X]),
    "into a projection": (lambda q, k, v, w: by_hand(q, k, v) @ w, [Q, K, V, _r(3, 4)]),
    "bf16": (attend(lambda s: cap(s, 20)), [t.bfloat16() for t in (Q, K, V)]),
    "fp16, narrow": (attend(lambda s: cap(s, 9)), [t.half() for t in (Q, K, V)]),
    "fp16, no product": (lambda x, w: torch.logsumexp(cap(x @ w, 30), -1), [X.half(), W.half()]),
    "unit rows": (lambda q, k, v: torch.softmax(20 * unit(q) @ unit(k).mT, -1) @ v, [Q, K, V]),
    "unit rows, masked": (
        lambda q, k, v, kept: torch.softmax((unit(q) @ unit(k).mT).masked_fill(~kept, -math.inf), -1) @ v,
        [Q, K, V, KEPT],
    ),
    "rms norms": (lambda q, k, v: torch.softmax(rms(q) @ rms(k).mT / 2, -1) @ v, [Q, K, V]),
    "divided behind the product": (cosines, [Q, K, V]),
    "fp64": (attend(lambda s: cap(s, 200)), [t.double() for t in (Q, K, V)]),
}
STAYS: dict[str, tuple[Callable, list[Tensor]]] = {
    "too wide": (attend(lambda s: cap(s, 60)), [Q, K, V]),
    "bounded above only": (attend(lambda s: s.clamp(max=20)), [Q, K, V]),
    "one side normalised": (lambda q, k, v: torch.softmax(unit(q) @ k.mT, -1) @ v, [Q, K, V]),
    "norms of another kind": (
        lambda q, k, v: torch.softmax(unit(q) @ (k / k.abs().sum(-1, keepdim=True)).mT, -1) @ v,
        [Q, K, V],
    ),
    "far too steep": (lambda q, k, v: torch.softmax(60 * unit(q) @ unit(k).mT, -1) @ v, [Q, K, V]),
    "masked by +inf": (masked(lambda s: cap(s, 20), math.inf), [Q, K, V, KEPT]),
    "masked by a large number": (masked(lambda s: cap(s, 20), -1e4), [Q, K, V, KEPT]),
    "an output": (with_maximum, [Q, K, V]),
    "asked for": (asks_for_the_maximum, [Q, K, V, KEPT]),
    "sum compared": (asks_for_the_sum, [Q, K, V]),
    "moments follow it": (entropy, [X]),
    "unbounded sink": (with_sink, [Q, K, V, SINK]),
    "fp16": (attend(lambda s: cap(s, 20)), [t.half() for t in (Q, K, V)]),
}


@pytest.mark.parametrize(
    ("name", "target"),
    in_parts([*((n, "sm_90") for n in GONE), *((n, "cpu") for n in ("soft cap", "mask", "values and logsumexp"))]),
)
def test_no_maximum_is_computed(name: str, target: str):
    fn, tensors = GONE[name]
    seen = seen_on(target, fn, tensors, eager=tensors[0].dtype != torch.float16)
    assert maxima(seen) == 0
    kernel = seen.kernels[0]
    assert any("no maximum is needed" in c.data for c in kernel.attributes["certificates"].data)  # type: ignore
    lines = [line.data for line in kernel.attributes["derivation"].data]  # type: ignore
    assert any(line.startswith("  gauge ") and "the result does not depend on it" in line for line in lines)


@pytest.mark.parametrize("name", in_parts(STAYS))
def test_the_maximum_stays(name: str):
    fn, tensors = STAYS[name]
    assert maxima(seen_on("sm_90", fn, tensors, eager=tensors[0].dtype != torch.float16)) == 1


def test_a_bounded_sink():
    seen = seen_on("cpu", lambda q, k, v, s: with_sink(q, k, v, cap(s, 5)), [Q, K, V, SINK])
    assert maxima(seen) == 0


def test_the_loss_of_capped_logits():
    """No maximum is left: the logit of the target is picked, and measured from nothing."""
    fn = lambda x, w, t: F.cross_entropy(cap(x @ w, 30), t, reduction="none")  # noqa: E731
    seen = seen_on("sm_90", fn, [X, W, TARGET])
    assert maxima(seen) == 0
    assert not any(o.name == "cascade.online" for o in seen.kernels[0].walk())


def test_the_constant_is_in_the_middle():
    fn, tensors = GONE["clamp, far from 0"]
    lines = seen_on("cpu", fn, tensors).kernels[0].attributes["derivation"].data  # type: ignore
    assert any("1045 in the place of" in line.data and "within -45 and 45" in line.data for line in lines)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", in_parts(["soft cap", "sigmoid", "relu6", "mask", "logsumexp of masked rows", "written"], of=2)
)
def test_nan_and_infinities_come_out_as_in_eager(name: str, poison: float):
    fn, tensors = GONE[name]
    tensors = [t.clone() for t in tensors]
    for t in tensors[:2]:
        t.view(-1)[0] = poison
    check(fn, tensors, walks=1)


BOUNDED: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "tanh": (torch.tanh, -1, 1),
    "sigmoid": (torch.sigmoid, 0, 1),
    "sin": (torch.sin, -1, 1),
    "erf": (torch.erf, -1, 1),
    "hardtanh": (F.hardtanh, -1, 1),
    "gaussian": (lambda a: torch.exp(-a * a), 0, 1),
    "square of a cosine": (lambda a: torch.cos(a) ** 2, 0, 1),
    "inverse": (lambda a: 1 / (1 + a.abs()), 0, 1),
    "inverse root": (lambda a: torch.rsqrt(1 + a * a), 0, 1),
}


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(sorted(BOUNDED)),
    st.sampled_from([-90.0, -30.0, -1.0, 0.5, 7.0, 40.0, 48.0, 90.0]),
    st.sampled_from([0.0, 3.0, -40.0, 700.0]),
    st.integers(0, 100),
    st.integers(0, 999),
)
@example("tanh", 48.0, 700.0, 30, 0)
@example("sigmoid", -90.0, 0.0, 50, 1)
def test_random_bounded_logits(name: str, scale: float, offset: float, percent: int, seed: int):
    """Any bounded map, scaled and shifted, under any mask (rows may be empty): as in float64, without a maximum if it
    can be without."""
    f, low, high = BOUNDED[name]
    generator = torch.Generator().manual_seed(seed)
    x, v = 4 * torch.randn(5, 11, generator=generator), torch.randn(11, 3, generator=generator)
    kept = torch.randint(100, (5, 11), generator=generator) < percent
    seen = seen_on(
        "cpu",
        lambda x, v, kept: torch.softmax((f(x) * scale + offset).masked_fill(~kept, -math.inf), -1) @ v,
        [x, v, kept],
    )
    fits = abs(scale) * (high - low) / 2 <= 49.5  # the constant is a whole number
    assert maxima(seen) == (0 if fits else 1)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize("spread", [0.1, 10.0])
@pytest.mark.parametrize("limit", [5, 50])
def test_as_exact_as_eager_in_single_precision(limit: int, spread: float, size: float, masks: bool):
    q, k, v = spread * _r(48, 16), _r(1000, 16, seed=1), size * _r(1000, 16, seed=2)
    q[0], k[::2] = -k[3] * 100, k[3] * (1 + 1e-3 * _r(500, 16, seed=5))  # a row at the lower bound but for ...
    k[1::2] = k[3] * 2  # ... nothing: all of its exponentials are tiny
    kept = torch.rand(48, 1000, generator=torch.Generator().manual_seed(3)) < (0.5 if masks else 1.1)
    fn = masked(lambda s: cap(s, limit)) if masks else attend(lambda s: cap(s, limit))
    args = (q, k, v, kept)[: 4 if masks else 3]
    compiled = fusecade.compile(fn, args, target="cpu", fuse="always", remainder="eager")
    (kernel,) = compiled.kernels
    assert "amax" not in kernel.source
    exact, eager, found = fn(q.double(), k.double(), v.double(), *args[3:]), fn(*args), compiled(*args)
    for row in range(len(q)):
        error, known = ((a[row] - exact[row]).abs().max() for a in (found, eager))
        assert error <= 2 * known + 4e-7 * exact[row].abs().max()
