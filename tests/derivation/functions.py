"""Cascades as people write them in PyTorch, one row each: what they should compile to, and on which inputs.

A row says how many kernels there are and how often they go through the streamed rank; the tests check it on a CPU, by
running it, and for an H100, by compiling it offline.  `fails` says why a row does not get
there yet; take an entry out when it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6


# --- inputs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arg:
    """One input.  kind: "normal", "index" (integers below `below`), "bool" (`below` percent are True), "mask" (0 or -inf).

    shifted: gets the offset that the tests for stability add.
    """

    shape: tuple[int, ...]
    kind: str = "normal"
    below: int = 0
    shifted: bool = False

    def make(self, generator: torch.Generator, offset: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor on the CPU."""
        if self.kind == "index":
            return torch.randint(self.below, self.shape, generator=generator)
        if self.kind == "bool":
            return torch.randint(100, self.shape, generator=generator) < self.below
        if self.kind == "mask":
            kept = torch.randint(100, self.shape, generator=generator) < self.below
            return torch.zeros(self.shape, dtype=dtype).masked_fill(~kept, float("-inf"))
        drawn = torch.randn(self.shape, generator=generator)
        return (drawn + offset if self.shifted else drawn).to(dtype)

    def meta(self, dtype: torch.dtype) -> Tensor:
        """A tensor without data."""
        kinds = {"index": torch.int64, "bool": torch.bool}
        return torch.empty(self.shape, dtype=kinds.get(self.kind, dtype), device="meta")


def of(*shape: int, shifted: bool = False) -> Arg:
    return Arg(shape, shifted=shifted)


def index(*shape: int, below: int) -> Arg:
    return Arg(shape, "index", below)


def flags(*shape: int, percent: int = 70) -> Arg:
    return Arg(shape, "bool", percent)


def minus_infinity(*shape: int, percent: int = 70) -> Arg:
    return Arg(shape, "mask", percent)


Args = tuple[Arg, ...]


# --- softmax and logsumexp --------------------------------------------------------------------------------------------


def softmax_times_v(s: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(s, -1) @ v


def softmax_of_scaled_differences(s: Tensor, v: Tensor) -> Tensor:
    e = torch.exp(1.5 * (s - s.amax(-1, keepdim=True)))
    return (e / e.sum(-1, keepdim=True)) @ v


def softmax_with_temperature(s: Tensor, v: Tensor) -> Tensor:
    e = torch.exp((s - s.amax(-1, keepdim=True)) / 0.7)
    return (e / e.sum(-1, keepdim=True)) @ v


def softmin_of_scaled_differences(s: Tensor, v: Tensor) -> Tensor:
    e = torch.exp(-1.5 * (s - s.amin(-1, keepdim=True)))
    return (e / e.sum(-1, keepdim=True)) @ v


def softmax_with_temperatures(s: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Of which nothing but their values says that they are positive."""
    e = torch.exp((s - s.amax(-1, keepdim=True)) / (1 + t.clamp(-0.5, 0.5)))
    return (e / e.sum(-1, keepdim=True)) @ v


def softmax_with_learned_temperature(s: Tensor, v: Tensor, t: Tensor) -> Tensor:
    e = torch.exp((s - s.amax(-1, keepdim=True)) * t.exp())
    return (e / e.sum(-1, keepdim=True)) @ v


def safe_softmax(x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def safe_softmax_of_head(h: Tensor, w: Tensor) -> Tensor:
    return torch.softmax(h @ w.T, -1)


def logsumexp(x: Tensor) -> Tensor:
    return torch.logsumexp(x, -1)


def logsumexp_by_hand(x: Tensor) -> Tensor:
    m = x.amax(-1, keepdim=True)
    return (m + (x - m).exp().sum(-1, keepdim=True).log()).squeeze(-1)


def logsumexp_of_head(h: Tensor, w: Tensor) -> Tensor:
    return torch.logsumexp(F.linear(h, w), -1)


# --- cross-entropy ----------------------------------------------------------------------------------------------------


def ce_logits(z: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(z, t, reduction="none")


def ce_logits_all(z: Tensor, t: Tensor) -> Tensor:
    loss = F.cross_entropy(z, t, ignore_index=3, label_smoothing=0.1, reduction="none")
    return loss + 1e-4 * torch.logsumexp(z, -1).square()


def ce_head(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(h, w), t, reduction="none")


def ce_head_mean(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(h, w), t)


def ce_head_ignore(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(h, w), t, ignore_index=3, reduction="none")


def ce_head_smoothing(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(h, w), t, label_smoothing=0.1, reduction="none")


def ce_head_z_loss(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    z = F.linear(h, w)
    return F.cross_entropy(z, t, reduction="none") + 1e-4 * torch.logsumexp(z, -1).square()


def ce_head_all(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    return ce_logits_all(F.linear(h, w), t)


def ce_gradient(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    p = torch.softmax(h @ w.T, -1)
    hit = torch.arange(w.shape[0], device=t.device) == t[:, None]
    return (p - hit.to(p.dtype)) @ w


def ce_gradient_one_hot(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    p = torch.softmax(h @ w.T, -1)
    return (p - F.one_hot(t, w.shape[0])) @ w


def ce_gradient_by_autograd(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    return torch.func.grad(lambda h: F.cross_entropy(F.linear(h, w), t, reduction="sum"))(h)


# --- other statistics of a softmax ------------------------------------------------------------------------------------


def entropy(h: Tensor, w: Tensor) -> Tensor:
    z = F.linear(h, w)
    return -(torch.softmax(z, -1) * torch.log_softmax(z, -1)).sum(-1)


def entropy_of_logits(z: Tensor) -> Tensor:
    return -(torch.softmax(z, -1) * torch.log_softmax(z, -1)).sum(-1)


def kl_of_heads(h: Tensor, w: Tensor, g: Tensor, u: Tensor) -> Tensor:
    p, q = torch.log_softmax(h @ w.T, -1), torch.log_softmax(g @ u.T, -1)
    return (p.exp() * (p - q)).sum(-1)


def weighted_mean_and_variance(s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    p = torch.softmax(s, -1)
    mean = (p * v).sum(-1, keepdim=True)
    return mean.squeeze(-1), (p * (v - mean).square()).sum(-1)


def weighted_mean_and_variance_of_scores(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return weighted_mean_and_variance(q @ k.T, v)


# --- softmax between two products -------------------------------------------------------------------------------------


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2) / 8


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(scores(q, k), -1) @ v


def attention_softcap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(20 * torch.tanh(scores(q, k) / 20), -1) @ v


def attention_cosine(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
    return torch.softmax(10 * s, -1) @ v


def attention_rms(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) for x in (q, k))
    return attention(q, k, v)


def attention_alibi(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    at = torch.arange(k.shape[-2], device=k.device) - torch.arange(q.shape[-2], device=q.device)[:, None]
    return torch.softmax(scores(q, k) - slopes[:, None, None] * at.abs(), -1) @ v


def attention_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return torch.softmax(scores(q, k) + bias, -1) @ v


def attention_additive_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_boolean_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(scores(q, k).masked_fill(~mask, float("-inf")), -1) @ v


def attention_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention_fully_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def softmax_fully_masked(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    return torch.softmax(scores(q, k).masked_fill(~rows, float("-inf")), -1) @ v


def attention_sink(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    s, sink = scores(q, k), sink[:, None, None]
    m = torch.maximum(s.amax(-1, keepdim=True), sink)
    e = torch.exp(s - m)
    return (e / (e.sum(-1, keepdim=True) + torch.exp(sink - m))) @ v


def attention_sink_column(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    s = scores(q, k)
    s = torch.cat([s, sink[:, None, None].expand(*s.shape[:-1], 1)], -1)
    return torch.softmax(s, -1)[..., :-1] @ v


def deferred_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    e = torch.exp(scores(q, k))
    return (e / e.sum(-1, keepdim=True)) @ v


def attention_and_query_gradient(q: Tensor, k: Tensor, v: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    out, pull = torch.func.vjp(lambda q: attention(q, k, v), q)
    return out, pull(given)[0]


# --- norms before a product -------------------------------------------------------------------------------------------


def rms_norm_gemm(x: Tensor, g: Tensor, w: Tensor) -> Tensor:
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * g) @ w.T


def functional_rms_norm_gemm(x: Tensor, g: Tensor, w: Tensor) -> Tensor:
    return F.linear(F.rms_norm(x, x.shape[-1:], g, EPS), w)


def layer_norm_gemm(x: Tensor, g: Tensor, b: Tensor, w: Tensor) -> Tensor:
    return F.linear(F.layer_norm(x, x.shape[-1:], g, b, EPS), w)


def normalised_matmul(x: Tensor, c: Tensor) -> Tensor:
    return F.normalize(x, dim=-1) @ c.T


def normalised_argmax(x: Tensor, c: Tensor) -> Tensor:
    return (F.normalize(x, dim=-1) @ c.T).argmax(-1)


def rms_cubes(x: Tensor) -> Tensor:
    return ((x / torch.sqrt(x.square().mean(-1, keepdim=True) + EPS)) ** 3).sum(-1)


def absmax_gemm(x: Tensor, w: Tensor) -> Tensor:
    largest = x.abs().amax(-1, keepdim=True)
    return ((127 * x / largest) @ w.T) * largest / 127


def absmax_scale_gemm(x: Tensor, w: Tensor) -> Tensor:
    scale = x.abs().amax(-1, keepdim=True) / 127
    return ((x / scale) @ w.T) * scale


# --- order reductions over a product ----------------------------------------------------------------------------------


def monotone_max(h: Tensor, e: Tensor) -> Tensor:
    return torch.log1p(torch.relu(h @ e.T)).amax(-1)


def monotone_argmax(h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    best, which = (h @ e.T).max(-1)
    return torch.sigmoid(best), which


def likeliest(h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    best, which = torch.softmax(h @ e.T, -1).max(-1)
    return best, which


def sampled_score(h: Tensor, e: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A draw by the largest of perturbed scores, and how likely it was: what reads scores at the winner of another order."""
    s = h @ e.T
    which = (s + noise).argmax(-1, keepdim=True)
    return torch.log_softmax(s, -1).gather(-1, which).squeeze(-1), which.squeeze(-1)


def lm_head(h: Tensor, e: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return torch.log1p(torch.relu((h @ e.T + b) * mask)).amax(1)


def lm_head_backward(h: Tensor, e: Tensor, b: Tensor, mask: Tensor, given: Tensor) -> tuple[Tensor, ...]:
    _, pull = torch.func.vjp(lambda h, e, b: lm_head(h, e, b, mask), h, e, b)
    return pull(given)


def lm_head_winners_backward(h: Tensor, e: Tensor, b: Tensor, mask: Tensor, given: Tensor) -> tuple[Tensor, ...]:
    def head(h: Tensor, e: Tensor, b: Tensor) -> Tensor:
        return torch.log1p(torch.relu((h @ e.T + b) * mask)).max(1).values

    _, pull = torch.func.vjp(head, h, e, b)
    return pull(given)


def squared_distances(x: Tensor, c: Tensor) -> Tensor:
    return x.square().sum(1, keepdim=True) + c.square().sum(1) - 2 * x @ c.T


def kmeans(x: Tensor, c: Tensor) -> Tensor:
    return squared_distances(x, c).argmin(1)


def kmeans_by_difference(x: Tensor, c: Tensor) -> Tensor:
    return (x[:, None] - c).square().sum(-1).argmin(1)


def kmeans_cdist(x: Tensor, c: Tensor) -> Tensor:
    return torch.cdist(x, c).argmin(1)


# --- what no algebra brings below two passes --------------------------------------------------------------------------


def absmax_round_gemm(x: Tensor, w: Tensor) -> Tensor:
    largest = x.abs().amax(-1, keepdim=True)
    return (torch.round(127 * x / largest) @ w.T) * largest / 127


def sparsemax_step(x: Tensor) -> Tensor:
    return torch.relu(x - x.mean(-1, keepdim=True)).sum(-1)


def entmax_step(x: Tensor) -> Tensor:
    return torch.relu(x - x.mean(-1, keepdim=True)).square().sum(-1)


def mean_deviation(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)).abs().sum(-1)


def softmax_with_deviation(x: Tensor, v: Tensor) -> Tensor:
    deviation = x.std(-1, keepdim=True, unbiased=False)
    return torch.softmax(x / (deviation + EPS), -1) @ v


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One cascade.

    cpu, gpu: inputs at sizes where fusing pays on a CPU and on an H100.  dtype: of the floating inputs on the GPU.
    kernels, passes: what there should be; passes are those over the rank with the most, of all kernels or of each.
    cpu_kernels: on a CPU, where that is another number.
    never_pays: targets on which the cost model finds no size that pays; the kernel is asked for all the same.
    larger_refused: a kernel of more operations than these is considered, and refused by its price.
    scores, largest: for results that are indices, the best of which scores they are, along the last dimension.
    offset: what the test for stability adds to the shifted inputs; 0 where eager overflows.
    fails: "cpu", "sm_90" (kernels there), "results", "results far from zero" -> why it is not so yet.
    """

    fn: Callable[..., Any]
    cpu: Args
    gpu: Args
    passes: int | tuple[int, ...] = 1
    kernels: int = 1
    cpu_kernels: int = 0
    dtype: torch.dtype = torch.bfloat16
    never_pays: tuple[str, ...] = ()
    larger_refused: bool = False
    scores: Callable[..., Tensor] | None = None
    largest: bool = True
    offset: float = 50.0
    note: str = ""
    fails: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        return f"{self.fn.__name__}-{self.note}" if self.note else self.fn.__name__


def qkv(b: int, n: int, m: int, d: int = 64) -> Args:
    return (of(b, n, d), of(b, m, d, shifted=True), of(b, m, d))


def head(n: int, d: int, v: int) -> Args:
    return (of(n, d), of(v, d, shifted=True))


def labelled(n: int, d: int, v: int) -> Args:
    return (*head(n, d, v), index(n, below=v))


def rows(n: int, m: int, *others: Arg) -> Args:
    return (of(n, m, shifted=True), *others)


def points(n: int, m: int, d: int) -> Args:
    return (of(n, d, shifted=True), of(m, d, shifted=True))


def pooled(b: int, s: int, d: int, v: int, *others: Arg) -> Args:
    return (of(b, s, d), of(v, d), of(v), flags(b, s, 1), *others)


CPU_QKV, GPU_QKV = qkv(4, 1024, 2048), qkv(32, 4096, 4096)
CPU_HEAD, GPU_HEAD = head(1024, 64, 8192), head(8192, 128, 32000)
CPU_LABELLED, GPU_LABELLED = labelled(1024, 64, 8192), labelled(8192, 128, 32000)
CPU_ROWS, GPU_ROWS = rows(1024, 4096), rows(16384, 8192)
CPU_TARGETS, GPU_TARGETS = index(1024, below=4096), index(16384, below=8192)
CPU_WEIGHT, GPU_WEIGHT = of(64, 4096), of(128, 4096)
IN_CACHE = ("cpu",)  # a sweep over rows is as fast in one pointwise kernel there

SOFTMAX = (
    Row(
        softmax_times_v,
        rows(2048, 4096, of(4096, 64)),
        rows(16384, 4096, of(4096, 64)),
    ),
    *(
        Row(fn, rows(2048, 4096, of(4096, 64)), rows(16384, 4096, of(4096, 64)))
        for fn in (softmax_of_scaled_differences, softmax_with_temperature, softmin_of_scaled_differences)
    ),
    *(
        Row(
            fn,
            rows(2048, 4096, of(4096, 64), of(2048, 1)),
            rows(16384, 4096, of(4096, 64), of(16384, 1)),
            offset=offset,
        )
        for fn, offset in ((softmax_with_temperatures, 0.0), (softmax_with_learned_temperature, 50.0))
    ),  # without a sign, some rows overflow in eager, too
    Row(safe_softmax, CPU_ROWS, GPU_ROWS, passes=2, never_pays=IN_CACHE),
    Row(safe_softmax_of_head, CPU_HEAD, head(8192, 64, 8192), passes=2, never_pays=("cpu", "sm_90")),
    Row(logsumexp, CPU_ROWS, GPU_ROWS, never_pays=IN_CACHE),
    Row(logsumexp_by_hand, CPU_ROWS, GPU_ROWS, never_pays=IN_CACHE),
    Row(logsumexp_of_head, CPU_HEAD, GPU_HEAD),
)

CROSS_ENTROPY = (
    Row(ce_logits, (*CPU_ROWS, CPU_TARGETS), (*GPU_ROWS, GPU_TARGETS), never_pays=IN_CACHE),
    Row(ce_logits_all, (*CPU_ROWS, CPU_TARGETS), (*GPU_ROWS, GPU_TARGETS), never_pays=IN_CACHE),
    Row(ce_head, CPU_LABELLED, GPU_LABELLED, never_pays=IN_CACHE),
    Row(
        ce_head_mean, CPU_LABELLED, GPU_LABELLED, kernels=2, cpu_kernels=1, never_pays=IN_CACHE, larger_refused=True
    ),  # by its price, the second counts the valid rows; where all is taken, one does
    Row(ce_head_ignore, CPU_LABELLED, GPU_LABELLED, never_pays=IN_CACHE),
    Row(ce_head_smoothing, CPU_LABELLED, GPU_LABELLED, never_pays=IN_CACHE),
    Row(ce_head_z_loss, CPU_LABELLED, GPU_LABELLED, never_pays=IN_CACHE),
    Row(ce_head_all, CPU_LABELLED, GPU_LABELLED, never_pays=IN_CACHE),
    Row(ce_gradient, labelled(2048, 16, 8192), labelled(8192, 64, 32000)),
    Row(ce_gradient_one_hot, CPU_LABELLED, labelled(8192, 64, 32000), never_pays=IN_CACHE),
    Row(ce_gradient_by_autograd, CPU_LABELLED, labelled(8192, 64, 32000), never_pays=IN_CACHE),
)

STATISTICS = (
    Row(entropy, CPU_HEAD, GPU_HEAD),
    Row(entropy_of_logits, CPU_ROWS, GPU_ROWS, never_pays=IN_CACHE),
    Row(kl_of_heads, (*CPU_HEAD, *CPU_HEAD), (*head(8192, 64, 32000), *head(8192, 64, 32000)), never_pays=IN_CACHE),
    Row(
        weighted_mean_and_variance,
        (*CPU_ROWS, of(1024, 4096)),
        (*GPU_ROWS, of(16384, 8192)),
        never_pays=IN_CACHE,
    ),
    Row(
        weighted_mean_and_variance_of_scores,
        (*CPU_HEAD, of(8192)),
        (*head(8192, 64, 8192), of(8192)),
    ),
)

ATTENTION = (
    Row(attention, CPU_QKV, GPU_QKV),
    Row(attention_softcap, CPU_QKV, GPU_QKV),
    Row(attention_cosine, CPU_QKV, GPU_QKV),
    Row(attention_rms, CPU_QKV, GPU_QKV),
    Row(attention_alibi, (*CPU_QKV, of(4)), (*GPU_QKV, of(32))),
    Row(attention_bias, (*CPU_QKV, of(4, 1024, 2048)), (*GPU_QKV, of(32, 4096, 4096))),
    Row(attention_additive_mask, (*CPU_QKV, minus_infinity(1024, 2048)), (*GPU_QKV, minus_infinity(4096, 4096))),
    Row(attention_boolean_mask, (*CPU_QKV, flags(1024, 2048)), (*GPU_QKV, flags(4096, 4096))),
    Row(attention_causal, CPU_QKV, GPU_QKV),
    Row(attention_fully_masked, (*CPU_QKV, flags(1024, 1)), (*GPU_QKV, flags(4096, 1))),
    Row(softmax_fully_masked, (*CPU_QKV, flags(1024, 1)), (*GPU_QKV, flags(4096, 1))),
    Row(attention_sink, (*CPU_QKV, of(4)), (*GPU_QKV, of(32))),
    Row(attention_sink_column, (*CPU_QKV, of(4)), (*GPU_QKV, of(32))),
    Row(deferred_softmax, CPU_QKV, GPU_QKV, offset=0.0),
    Row(
        attention_and_query_gradient,
        (*CPU_QKV, of(4, 1024, 64)),
        (*GPU_QKV, of(32, 4096, 64)),
        never_pays=("cpu",),
    ),
)

NORMS = (
    Row(
        rms_norm_gemm,
        (*CPU_ROWS, of(4096), CPU_WEIGHT),
        rows(8192, 4096, of(4096), GPU_WEIGHT),
        never_pays=IN_CACHE,
    ),
    Row(
        functional_rms_norm_gemm,
        (*CPU_ROWS, of(4096), CPU_WEIGHT),
        rows(8192, 4096, of(4096), of(64, 4096)),
        dtype=torch.float32,
        never_pays=IN_CACHE,
    ),
    Row(
        layer_norm_gemm,
        rows(2048, 4096, of(4096), of(4096), of(16, 4096)),
        rows(8192, 4096, of(4096), of(4096), of(64, 4096)),
        dtype=torch.float32,
    ),
    Row(
        normalised_matmul,
        (*CPU_ROWS, CPU_WEIGHT),
        rows(8192, 4096, GPU_WEIGHT),
        never_pays=IN_CACHE,
    ),
    Row(normalised_argmax, points(16384, 1024, 64), points(1 << 17, 4096, 128), scores=normalised_matmul),
    Row(rms_cubes, CPU_ROWS, GPU_ROWS, never_pays=IN_CACHE),
    Row(absmax_gemm, (*CPU_ROWS, CPU_WEIGHT), rows(8192, 4096, of(64, 4096)), dtype=torch.float32, never_pays=IN_CACHE),
    Row(
        absmax_scale_gemm,
        (*CPU_ROWS, CPU_WEIGHT),
        rows(8192, 4096, GPU_WEIGHT),
        never_pays=IN_CACHE,
    ),
)

ORDER = (
    Row(monotone_max, CPU_HEAD, GPU_HEAD),
    Row(monotone_argmax, CPU_HEAD, GPU_HEAD, scores=lambda h, e: h @ e.T),
    Row(likeliest, CPU_HEAD, GPU_HEAD, scores=lambda h, e: h @ e.T, never_pays=IN_CACHE),
    Row(
        sampled_score,
        (*CPU_HEAD, of(1024, 8192)),
        (*head(8192, 64, 32000), of(8192, 32000)),
        scores=lambda h, e, noise: h @ e.T + noise,
        never_pays=IN_CACHE,
    ),
    Row(lm_head, pooled(4, 256, 64, 8192), pooled(32, 512, 256, 30522)),
    Row(
        lm_head,
        pooled(2, 256, 256, 16384),
        pooled(32, 512, 768, 30522),
        note="wide",
    ),
    Row(
        lm_head_backward,
        pooled(4, 256, 64, 8192, of(4, 8192)),
        pooled(32, 512, 256, 30522, of(32, 30522)),
        kernels=2,
        passes=2,
        never_pays=("cpu", "sm_90"),
    ),
    Row(
        lm_head_winners_backward,
        pooled(4, 256, 64, 8192, of(4, 8192)),
        pooled(32, 512, 256, 30522, of(32, 30522)),
        passes=(
            2,
            1,
        ),  # with the forward kernel, in which the gradients of weight and bias wait for the winners; the other one
        never_pays=("cpu", "sm_90"),
    ),
    Row(kmeans, points(16384, 1024, 64), points(1 << 20, 1024, 128), scores=squared_distances, largest=False),
    Row(
        kmeans_by_difference,
        points(4096, 1024, 16),
        points(1 << 20, 1024, 16),
        scores=squared_distances,
        largest=False,
        never_pays=("cpu", "sm_90"),  # differences are tiles of three ranks: less traffic, more arithmetic to issue
    ),
    Row(kmeans_cdist, points(16384, 1024, 64), points(1 << 20, 1024, 128), scores=squared_distances, largest=False),
)

ROWS = (*SOFTMAX, *CROSS_ENTROPY, *STATISTICS, *ATTENTION, *NORMS, *ORDER)

TWO_PASSES = (
    Row(
        absmax_round_gemm, rows(16384, 512, of(64, 512)), rows(8192, 4096, GPU_WEIGHT), passes=2, never_pays=("sm_90",)
    ),
    Row(sparsemax_step, CPU_ROWS, GPU_ROWS, passes=2, never_pays=IN_CACHE),
    Row(entmax_step, CPU_ROWS, GPU_ROWS, passes=2, never_pays=IN_CACHE),
    Row(mean_deviation, CPU_ROWS, GPU_ROWS, passes=2, never_pays=IN_CACHE),
    Row(
        softmax_with_deviation,
        (*CPU_ROWS, of(4096, 64)),
        rows(16384, 4096, of(4096, 64)),
        passes=2,
        never_pays=("cpu", "sm_90"),
    ),
)
