"""Plain PyTorch functions with small inputs: what the passes are tried on.  Nothing here names a pass or an operation.

A case: function, tensors, and how many kernels come of it when everything that can be fused is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """fn on tensors; kernels: how many are expected (None: not asserted)."""

    fn: Callable
    tensors: list[Tensor] = field(repr=False)
    kernels: int | None = 1


def _r(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(n * 31**k for k, n in enumerate(shape)))
    return torch.randn(*shape, generator=generator)


def _mask(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7)) > 0.4


Q, K, V = _r(2, 5, 4), _r(2, 7, 4, seed=1), _r(2, 7, 3, seed=2)
LONG = _r(2, 9, 4)
X, W = _r(6, 9), _r(9, 5, seed=3)
ROWS = _r(5, 11)
MINIMUM = torch.finfo(torch.float32).min


def attention(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v


def attention_boolean(q, k, v, mask):
    return torch.softmax((q @ k.transpose(-1, -2)).masked_fill(~mask, -math.inf), -1) @ v


def attention_additive(q, k, v, bias):
    return torch.softmax(q @ k.transpose(-1, -2) * 0.5 + bias, -1) @ v


def attention_causal(q, k, v):
    s = q @ k.transpose(-1, -2)
    keep = torch.ones(s.shape[-2], s.shape[-1], dtype=torch.bool).tril()
    return torch.softmax(s.masked_fill(~keep, -math.inf), -1) @ v


def shares_causal(q, k, m, s, o):
    """What a backward does with a row's maximum and sum: its shares again, times what belongs to the rows."""
    at = torch.arange(q.shape[-2])
    x = torch.where(at[:, None] >= at, q @ k.transpose(-1, -2), -math.inf)
    return (torch.exp(x - m) / s.clamp_min(0.5)).transpose(-1, -2) @ o


def added(keep):
    """A mask as language models write it: the least finite number is added where a key is not seen."""

    def attend(q, k, v):
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
        bias = torch.where(keep(i, j), 0.0, MINIMUM)
        return torch.softmax(q @ k.transpose(-1, -2) * 0.5 + bias, -1) @ v

    return attend


def of_positions(q, k, v):
    """Sequences are told apart by where positions do not go up by one, which is nowhere."""
    position = torch.arange(q.shape[-2]) + 3
    before = torch.cat([position[:1] - 1, position])
    sequence = (before[1:] - before[:-1] != 1).cumsum(0)
    keep = (sequence[:, None] == sequence) & (position <= position[:, None])
    return torch.softmax(q @ k.transpose(-1, -2) + torch.where(keep, 0.0, MINIMUM), -1) @ v


def shifted(x):
    """x [b, n, 2 n - 1] at i and j - i + n - 1."""
    b, n, m = x.shape
    flat = F.pad(F.pad(x, (0, 1)).reshape(b, n * (m + 1)), (0, n - 1))
    return flat.reshape(b, n + 1, m)[:, :n, n - 1 :]


def relative_causal(q, k, v, e):
    """e [n, d]: an embedding for each distance, the farthest first."""
    x = F.pad(q @ e.T, (1, 0))
    b, n, m = x.shape
    s = (q @ k.mT + x.reshape(b, m, n)[:, 1:]) / 2
    return torch.softmax(s.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -math.inf), -1) @ v


def attention_grouped(q, k, v):
    """q: [b, h, i, d]; k, v: [b, g, j, d], h = 2 g."""
    b, h, i, d = q.shape
    g = k.shape[1]
    q = q.view(b, g, h // g, i, d)
    p = torch.softmax(q @ k.unsqueeze(2).transpose(-1, -2), -1)
    return (p @ v.unsqueeze(2)).reshape(b, h, i, v.shape[-1])


def attention_repeated(q, k, v):
    n = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(n, 1), v.repeat_interleave(n, 1)
    return torch.softmax(q @ k.transpose(-1, -2), -1) @ v


def attention_alibi(q, k, v):
    s = q @ k.transpose(-1, -2)
    i = torch.arange(s.shape[-2])[:, None]
    j = torch.arange(s.shape[-1])[None, :]
    return torch.softmax(s - 0.5 * (i - j).abs(), -1) @ v


def attention_window(q, k, v):
    s = q @ k.transpose(-1, -2)
    i = torch.arange(s.shape[-2])[:, None]
    j = torch.arange(s.shape[-1])[None, :]
    return torch.softmax(torch.where((i - j).abs() <= 2, s, -math.inf), -1) @ v


def masked(seen: Callable, fill: float = -math.inf, of: Callable = lambda s: torch.softmax(s, -1)) -> Callable:
    """Attention where query i sees the keys j with `seen(i, j)`, everything else being filled."""

    def attend(q, k, v):
        s = q @ k.transpose(-1, -2)
        i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]
        return of(torch.where(seen(i, j), s, fill)) @ v

    return attend


def attention_shifted_bias(q, k, v, bias):
    """A bias by distance, read by slices of a padded row, on top of a causal mask."""
    s = q @ k.transpose(-1, -2)
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]
    return torch.softmax(torch.where(j <= i, s - 0.5 * (i - j) + bias, -math.inf), -1) @ v


def earlier_and_probabilities(q, k, v):
    """The first row sees nothing: all of it is 0 / 0, in whichever pass."""
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    p = torch.softmax(torch.where(j < i, q @ k.transpose(-1, -2), -math.inf), -1)
    return p @ v, p, (p * p).sum(-1)


def logsumexp_causal(q, k, v):
    s = (q @ k.transpose(-1, -2)).masked_fill(torch.ones(q.shape[-2], k.shape[-2]).triu(1).bool(), -math.inf)
    return torch.logsumexp(s, -1), s.argmax(-1)


def attention_softcap(q, k, v):
    return torch.softmax(5.0 * torch.tanh(q @ k.transpose(-1, -2) / 5.0), -1) @ v


def attention_sink(q, k, v, sink):
    """A sink takes its part of the weight, and has no value."""
    s = q @ k.transpose(-1, -2)
    m = torch.maximum(s.amax(-1, keepdim=True), sink)
    e = torch.exp(s - m)
    return e @ v / (e.sum(-1, keepdim=True) + torch.exp(sink - m))


def attention_sink_column(q, k, v, sink):
    """The sink as one more column of the scores, dropped after the softmax."""
    s = q @ k.transpose(-1, -2)
    s = torch.cat([s, sink.expand(*s.shape[:-1], 1)], -1)
    return torch.softmax(s, -1)[..., :-1] @ v


def attention_padded(q, k, v):
    """A key of score 0 on either side, without values."""
    return torch.softmax(F.pad(q @ k.transpose(-1, -2), (1, 1)), -1)[..., 1:-1] @ v


def attention_and_lse(q, k, v):
    s = q @ k.transpose(-1, -2)
    return torch.softmax(s, -1) @ v, torch.logsumexp(s, -1)


def attention_and_probabilities(q, k, v):
    p = torch.softmax(q @ k.transpose(-1, -2), -1)
    return p @ v, p


def attention_into_projection(q, k, v, w):
    return attention(q, k, v) @ w


def self_attention(x):
    return torch.softmax(x @ x.transpose(-1, -2), -1) @ x


def cross_entropy(h, w, target):
    logits = h @ w
    return F.cross_entropy(logits, target, reduction="none")


def kmeans(x, c):
    return ((x**2).sum(1, keepdim=True) + (c**2).sum(1) - 2 * x @ c.T).argmin(1)


def rms_norm(x, g):
    return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-5) * g


def layer_norm(x):
    return F.layer_norm(x, (x.shape[-1],))


def entropy(x):
    p = torch.softmax(x, -1)
    return -(p * torch.log_softmax(x, -1)).sum(-1)


def kl(x, y):
    p = torch.softmax(x, -1)
    return (p * (torch.log_softmax(x, -1) - torch.log_softmax(y, -1))).sum(-1)


def centred_variance(x, v):
    p = torch.softmax(x, -1)
    mean = (p * v).sum(-1, keepdim=True)
    return mean, (p * (v - mean) ** 2).sum(-1)


def kl_of_heads(h, e, f):
    return kl(h @ e, h @ f)


def cross_entropy_gradient(h, e, target):
    hit = torch.arange(e.shape[1]) == target[:, None]
    return (torch.softmax(h @ e, -1) - hit.to(h.dtype)) @ e.T


def temperature(x, v):
    return torch.softmax(x / x.std(-1, keepdim=True), -1) @ v


def quantised(x, w):
    scale = x.abs().amax(-1, keepdim=True) / 127
    return torch.round(x / scale) @ w * scale


def mlp(x, u, w):
    return F.gelu(x @ u) @ w


def gated(x, u, g, w):
    return (F.silu(x @ g) * (x @ u)) @ w


def picked_probability(x, w, t):
    return torch.softmax(x @ w, -1).gather(-1, t[:, None]).squeeze(-1)


def picked_log_probabilities(x, w, t):
    """Of two elements of each row, and their sum with the logsumexp."""
    z = torch.log_softmax(x @ w, -1)
    return z.gather(-1, t).sum(-1) + torch.logsumexp(x @ w, -1)


def at_temperature(x: Tensor, w: Tensor, v: Tensor, t: Tensor) -> Tensor:
    s = x @ w
    e = torch.exp((s - s.amax(-1, keepdim=True)) / t)
    return (e / e.sum(-1, keepdim=True)) @ v


def carried_by_winner(x: Tensor, w: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    s = x @ w
    i = (s + noise).argmax(-1, keepdim=True)
    return s.gather(-1, i).squeeze(-1), torch.log_softmax(s, -1).gather(-1, i).squeeze(-1), i.squeeze(-1)


def carried_by_both(x: Tensor, w: Tensor) -> Tensor:
    s = torch.round(x @ w)
    first, last = s.abs().argmin(-1, keepdim=True), torch.sin(s).argmax(-1, keepdim=True)
    return (s.gather(-1, last) - (2 * s).gather(-1, first)).squeeze(-1)


CASES: dict[str, Case] = {
    # attention and its like
    "attention": Case(attention, [Q, K, V]),
    "attention_boolean": Case(attention_boolean, [Q, K, V, _mask(5, 7)]),
    "attention_additive": Case(attention_additive, [Q, K, V, _r(2, 5, 7)]),
    "attention_bias_of_keys": Case(attention_additive, [Q, K, V, _r(2, 1, 7)]),
    "attention_causal": Case(attention_causal, [Q, K, V]),
    "attention_grouped": Case(attention_grouped, [_r(1, 4, 3, 4), _r(1, 2, 5, 4), _r(1, 2, 5, 3)]),
    "attention_repeated": Case(attention_repeated, [_r(1, 4, 3, 4), _r(1, 2, 5, 4), _r(1, 2, 5, 3)]),
    "attention_alibi": Case(attention_alibi, [Q, K, V]),
    "attention_window": Case(attention_window, [Q, K, V]),
    "attention_window_causal": Case(masked(lambda i, j: (j <= i) & (i - j < 3)), [LONG] * 3),
    "attention_prefix": Case(masked(lambda i, j: (j <= i) | (j < 3)), [LONG] * 3),
    "attention_of_blocks": Case(masked(lambda i, j: i // 3 == j // 3), [LONG] * 3),
    "attention_of_chunks": Case(masked(lambda i, j: (i // 2 - j // 2 <= 1) & (j <= i)), [LONG] * 3),
    "attention_causal_to_the_end": Case(masked(lambda i, j: j <= i + 2), [Q, K, V]),
    "attention_causal_few_keys": Case(masked(lambda i, j: j <= i), [LONG, K, V]),
    "attention_of_earlier": Case(masked(lambda i, j: j < i), [LONG] * 3),
    "attention_of_earlier_and_probabilities": Case(earlier_and_probabilities, [LONG] * 3, None),
    "attention_of_later": Case(masked(lambda i, j: j >= i + 1), [LONG] * 3),
    "attention_causal_minimum": Case(added(lambda i, j: j <= i), [LONG] * 3),
    "attention_window_minimum": Case(added(lambda i, j: (j <= i) & (i - j < 3)), [LONG] * 3),
    "attention_of_earlier_minimum": Case(added(lambda i, j: j < i), [LONG] * 3),
    "attention_few_keys_minimum": Case(added(lambda i, j: j >= i - 2), [LONG, K, V]),
    "attention_of_positions": Case(of_positions, [LONG] * 3),
    "attention_causal_finite": Case(masked(lambda i, j: j < i, -1e9), [LONG] * 3),
    "shares_causal": Case(shares_causal, [LONG, LONG, _r(2, 9, 1), _r(2, 9, 1).abs(), LONG]),
    "attention_causal_biased": Case(attention_shifted_bias, [LONG, LONG, LONG, _r(2, 1, 9)]),
    "linear_attention_causal": Case(masked(lambda i, j: j <= i, 0.0, lambda s: s), [LONG] * 3, None),
    "logsumexp_causal": Case(logsumexp_causal, [Q, K, V], None),
    "attention_softcap": Case(attention_softcap, [Q, K, V]),
    "attention_sink": Case(attention_sink, [Q, K, V, _r(2, 1, 1)]),
    "attention_sink_column": Case(attention_sink_column, [Q, K, V, _r(2, 1, 1)]),
    "attention_padded": Case(attention_padded, [Q, K, V]),
    "attention_and_lse": Case(attention_and_lse, [Q, K, V]),
    "attention_and_probabilities": Case(attention_and_probabilities, [Q, K, V]),
    "attention_into_projection": Case(attention_into_projection, [Q, K, V, _r(3, 4)], None),
    "attention_of_one_query": Case(attention, [_r(2, 1, 4), K, V]),
    "self_attention": Case(self_attention, [_r(2, 6, 3)]),
    "sdpa": Case(F.scaled_dot_product_attention, [_r(2, 3, 4), _r(2, 5, 4), _r(2, 5, 3)]),
    "sdpa_causal": Case(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), [_r(2, 5, 4)] * 3),
    "sdpa_mask": Case(
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), [Q, K, V, _mask(2, 5, 7)]
    ),
    "sdpa_masked_rows": Case(
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        [Q, K, V, _mask(5, 7) & (torch.arange(5) % 2 == 0)[:, None]],
    ),
    "sdpa_additive": Case(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), [Q, K, V, _r(5, 7)]),
    # reductions over a contraction's output
    "logsumexp_of_linear": Case(lambda x, w: torch.logsumexp(x @ w, -1), [X, W]),
    "picked_probability": Case(picked_probability, [X, W, torch.tensor([0, 4, 2, 1, 1, 3])]),
    "picked_log_probabilities": Case(
        picked_log_probabilities, [X, W, torch.tensor([[0, 4], [2, 2], [1, 0], [1, 3], [3, 3], [4, 0]])], None
    ),
    "cross_entropy": Case(cross_entropy, [X, W, torch.tensor([0, 4, 2, 1, 1, 3])], None),
    "kmeans": Case(kmeans, [X, _r(7, 9)]),
    "max_pooled_head": Case(lambda h, e: torch.log1p(torch.relu(h @ e.T)).amax(1), [_r(2, 5, 4), _r(7, 4)]),
    "argmax_of_linear": Case(lambda x, w: torch.argmax(x @ w, -1), [X, W]),
    "temperature_of_all": Case(at_temperature, [X, W, _r(5, 3), torch.tensor(0.7)]),
    "temperature_of_rows": Case(at_temperature, [X, W, _r(5, 3), _r(6, 1).abs() + 0.5]),
    "temperature_below_zero": Case(at_temperature, [X, W, _r(5, 3), -_r(6, 1).abs() - 0.5]),
    "carried_by_winner": Case(carried_by_winner, [X, W, _r(6, 5)]),
    "carried_by_both": Case(carried_by_both, [X, W]),
    "largest_probability": Case(lambda x, w: torch.softmax(x @ w, -1).max(-1), [X, W]),
    "topmost_and_where": Case(lambda x, w: (x @ w).max(-1), [X, W]),
    "mean_of_linear": Case(lambda x, w: torch.sigmoid(x @ w).mean(-1), [X, W]),
    "head_mean_of_scores": Case(lambda q, k: torch.softmax(q @ k.transpose(-1, -2), -1).mean(0), [Q, K], None),
    "sum_of_all": Case(lambda x, w: (x @ w).sum(), [X, W], None),
    # norms
    "rms_norm_linear": Case(lambda x, g, w: rms_norm(x, g) @ w, [X, _r(9), W]),
    "layer_norm_linear": Case(lambda x, w: layer_norm(x) @ w, [X, W]),
    "l2_norm_matmul": Case(lambda x, w: F.normalize(x, dim=-1) @ w, [X, W]),
    "rms_norm": Case(rms_norm, [X, _r(9)]),
    "layer_norm": Case(layer_norm, [X]),
    "layer_norm_affine": Case(lambda x, g, b: F.layer_norm(x, (9,), g, b), [X, _r(9), _r(9, seed=4)]),
    "residual_layer_norm": Case(lambda x, y: layer_norm(x + y), [X, _r(6, 9, seed=5)]),
    "softmax": Case(lambda x: torch.softmax(x, -1), [ROWS]),
    "softmax_of_columns": Case(lambda x: torch.softmax(x, 0), [ROWS]),
    "log_softmax": Case(lambda x: torch.log_softmax(x, -1), [ROWS]),
    # reductions of a row
    "logsumexp": Case(lambda x: torch.logsumexp(x, -1), [ROWS]),
    "logsumexp_and_one": Case(lambda x: torch.logsumexp(F.pad(x, (0, 1)), -1), [ROWS]),
    "logsumexp_and_another": Case(lambda x, s: torch.logsumexp(torch.cat([x, s], -1), -1), [ROWS, _r(5, 1, seed=6)]),
    "entropy": Case(entropy, [ROWS]),
    "kl": Case(kl, [ROWS, _r(5, 11, seed=6)]),
    "variance": Case(lambda x: x.var(-1), [ROWS]),
    "standard_deviation_and_mean": Case(lambda x: (x.std(-1), x.mean(-1)), [ROWS]),
    "weighted_variance": Case(
        lambda x, v: (lambda p: (p * v**2).sum(-1) - (p * v).sum(-1) ** 2)(torch.softmax(x, -1)),
        [ROWS, _r(5, 11, seed=6)],
    ),
    "softmax_of_shifted": Case(lambda x, w: (x - x.amax(-1, keepdim=True)).softmax(-1) @ w, [X, W]),
    "logsumexp_of_centred": Case(lambda x: torch.logsumexp(x - x.mean(-1, keepdim=True), -1), [ROWS]),
    "attention_of_shifted": Case(
        lambda q, k, v: (lambda s: (s - s.amax(-1, keepdim=True)).softmax(-1) @ v)(q @ k.mT), [Q, K, V]
    ),
    "attention_additive_minimum": Case(attention_additive, [Q, K, V, torch.where(_mask(5, 7), 0.0, MINIMUM)]),
    "attention_rows_at_minimum": Case(
        attention_additive, [Q, K, V, torch.full((5, 7), MINIMUM) * (torch.arange(5) > 2)[:, None]]
    ),
    "centred_variance": Case(centred_variance, [ROWS, _r(5, 11, seed=6)]),
    "entropy_of_linear": Case(lambda x, w: entropy(x @ w), [X, W]),
    "kl_of_heads": Case(kl_of_heads, [X, W, _r(9, 5, seed=5)]),
    "cross_entropy_gradient": Case(cross_entropy_gradient, [X, W, torch.tensor([0, 4, 2, 1, 1, 3])]),
    "layer_norm_affine_linear": Case(lambda x, g, b, w: F.layer_norm(x, (9,), g, b) @ w, [X, _r(9), _r(9, seed=4), W]),
    # what no algebra repairs: more than one traversal
    "temperature": Case(temperature, [X, W]),
    "quantised": Case(quantised, [X, W]),
    "mean_deviation": Case(lambda x: (x - x.mean(-1, keepdim=True)).abs().sum(-1), [ROWS]),
    "above_mean": Case(lambda x: (x > x.mean(-1, keepdim=True)).sum(-1), [ROWS]),
    # contractions
    "linear_gelu": Case(lambda x, w, b: F.gelu(F.linear(x, w, b)), [X, _r(5, 9), _r(5)]),
    "linear_residual": Case(lambda x, w, r: torch.relu(x @ w) + r, [X, W, _r(6, 5)]),
    "mlp": Case(mlp, [X, W, _r(5, 4)]),
    "gated": Case(gated, [X, W, _r(9, 5, seed=8), _r(5, 4)], None),
    "two_matmuls": Case(lambda a, b, c: a @ b @ c, [X, W, _r(5, 4)]),
    "einsum_three": Case(lambda a, b: torch.einsum("bik,bjk->bij", a, b).relu(), [_r(2, 3, 4), _r(2, 5, 4)]),
    "prologue": Case(lambda x, w: torch.sigmoid(x) @ w, [X, W]),
    "gram": Case(lambda x: torch.relu(x @ x.T), [X]),
    # several ranks at once
    "amax_of_two": Case(lambda x: torch.relu(x).amax((1, 2)), [_r(3, 4, 5)], None),
    "normalise_by_two": Case(lambda x: x / x.sum((1, 2), keepdim=True), [_r(3, 4, 5)], None),
    "group_norm": Case(lambda x: F.group_norm(x, 2), [_r(2, 4, 3)], None),
    "rows_and_columns": Case(lambda x: (torch.softmax(x, 0).sum(1), torch.softmax(x, 1).sum(0)), [ROWS], None),
    "two_reductions_two_ranks": Case(lambda x: x.sum(0).exp().sum(), [ROWS], None),
    "double_centred": Case(lambda x: x - x.mean(0, keepdim=True) - x.mean(1, keepdim=True), [ROWS], None),
    "contract_two": Case(lambda a, b: torch.einsum("bik,bjk->ij", a, b).relu(), [_r(2, 3, 4), _r(2, 5, 4)]),
    "max_of_two_after_linear": Case(lambda x, w: (x @ w).amax((0, 2)), [_r(2, 3, 4), _r(4, 5)], None),
    # products that are read at differences and sums of ranks
    "relative_causal": Case(relative_causal, [_r(2, 7, 4), _r(2, 7, 4, seed=1), _r(2, 7, 3), _r(7, 4)]),
    "relative_shift": Case(
        lambda q, k, v, e: torch.softmax(q @ k.mT + shifted(q @ e.T), -1) @ v,
        [_r(2, 5, 4), _r(2, 5, 4, seed=1), _r(2, 5, 3), _r(9, 4)],
    ),
    "relative_to_keys": Case(
        lambda q, k, v, e: torch.softmax(q @ k.mT + shifted(k @ e.T).mT, -1) @ v,
        [_r(2, 5, 4), _r(2, 5, 4, seed=1), _r(2, 5, 3), _r(9, 4)],
    ),
    "relative_both": Case(
        lambda q, k, v, e, f: torch.softmax(q @ k.mT + shifted(q @ e.T) + shifted(k @ f.T).mT, -1) @ v,
        [_r(2, 5, 4), _r(2, 5, 4, seed=1), _r(2, 5, 3), _r(9, 4), _r(9, 4, seed=1)],
    ),
    "relative_backwards": Case(
        lambda q, k, v, e: torch.softmax(q @ k.mT + shifted(q @ e.T).flip(-1), -1) @ v,
        [_r(2, 5, 4), _r(2, 5, 4, seed=1), _r(2, 5, 3), _r(9, 4)],
    ),
    "relative_maximum": Case(lambda q, e: torch.relu(shifted(q @ e.T)).amax(-1), [_r(2, 5, 4), _r(9, 4)]),
    # integers and booleans
    "any_all": Case(lambda x: ((x > 1).any(-1), (x > -2).all(-1)), [ROWS], None),
    "count": Case(lambda x: (x > 0).sum(-1), [ROWS], None),
    "boolean_max": Case(lambda x: ((x > 1) & (x < 2)).amax(-1), [ROWS], None),
    "count_of_linear": Case(lambda x, w: ((x @ w) > 0).sum(-1), [X, W]),
    "any_of_linear": Case(lambda x, w: ((x @ w) > 2).any(-1), [X, W]),
    "minmax": Case(lambda x: (x.amin(-1), x.amax(-1), x.argmin(-1), x.argmax(-1)), [ROWS], None),
    "product": Case(lambda x: torch.sigmoid(x).prod(-1), [ROWS]),
    "integer_argmax": Case(lambda x: (x * 3 + 1).argmax(-1), [(ROWS * 3).long()], None),
    "integer_max": Case(lambda x: (x * 3 + 1).amax(-1), [(ROWS * 3).long() + 2**40], None),
    "integer_sum_mean": Case(lambda x: (x * 2).sum(-1), [(ROWS * 3).long()], None),
    "argmin_ties": Case(lambda x: torch.round(x).abs().argmin(-1), [ROWS], None),
    # gathers and calls between
    "embedding_norm": Case(lambda e, i, w: rms_norm(e[i], w), [_r(10, 6), torch.tensor([1, 3, 9, 1]), _r(6)], None),
    "embedding_softmax": Case(
        lambda e, i: torch.softmax(F.embedding(i, e), -1), [_r(10, 6), torch.tensor([1, 3, 9, 1])], None
    ),
    "sort_between": Case(lambda x, w: torch.softmax(torch.sort(torch.softmax(x, -1), -1).values @ w, -1), [X, W], None),
    "take_along": Case(
        lambda x, i: torch.log_softmax(x, -1).gather(-1, i), [ROWS, torch.tensor([[1], [2], [0], [10], [5]])], None
    ),
    # shapes
    "no_rank": Case(lambda x: torch.softmax(x, -1), [_r(4)], None),
    "one_key": Case(attention, [Q, _r(2, 1, 4), _r(2, 1, 3)], None),
    "one_of_everything": Case(attention, [_r(1, 1, 1)] * 3, None),
    "no_batch": Case(attention, [_r(0, 5, 4), _r(0, 7, 4), _r(0, 7, 3)], None),
    "no_queries": Case(attention, [_r(2, 0, 4), K, V], None),
    "empty_features": Case(lambda x, w: torch.relu(x @ w), [_r(3, 0), _r(0, 4)], None),
    "transposed_inputs": Case(lambda x, w: torch.softmax(x.T @ w.T, -1), [_r(9, 6), _r(5, 9)]),
    "expanded_input": Case(lambda x, y: torch.softmax(x.expand(4, 6) + y, -1), [_r(1, 6), _r(4, 6)]),
    "sliced_input": Case(lambda x, w: torch.softmax(x[1:4, ::2] @ w, -1), [_r(6, 9), _r(5, 4)]),
    "heads_of_one_tensor": Case(
        lambda x: attention(*(x.view(5, 3, 2, 4)[:, n].transpose(0, 1) for n in range(3))), [_r(5, 24)]
    ),
    "padded": Case(lambda x, w: torch.relu(F.pad(x, (1, 2)) @ w), [_r(4, 6), W], None),
    "concatenated": Case(lambda x, y, w: torch.relu(torch.cat([x, y], 1) @ w), [_r(4, 6), _r(4, 3), W], None),
    # reductions over several ranks, behind maps and behind contractions
    "maps_then_amax_of_two": Case(lambda x: torch.relu(x * 2 + 1).amax((1, 2)), [_r(3, 4, 5)]),
    "maps_then_sum_of_three": Case(lambda x: torch.sigmoid(x).sum((0, 1, 3)), [_r(2, 3, 4, 5)]),
    "amax_of_two_after_linear": Case(lambda h, e: (h @ e.T).amax((1, 2)), [_r(3, 4, 5), _r(7, 5)]),
    "over_sum_of_two": Case(lambda x: x / x.sum((1, 2), keepdim=True), [_r(3, 4, 5)]),
    "exp_over_two": Case(lambda x: torch.exp(x - x.amax((1, 2), keepdim=True)).sum((1, 2)), [_r(3, 4, 5)], None),
    "product_of_two": Case(lambda x: torch.sigmoid(x).prod(-1).prod(-1), [_r(3, 4, 5)], None),
    "merge_heads": Case(lambda a, w: torch.relu(torch.einsum("bhd,ohd->bo", a, w)), [_r(4, 3, 5), _r(6, 3, 5)]),
    "merge_heads_of_probabilities": Case(
        lambda s, v, w: torch.einsum("bhij,bhjd,ohd->bio", torch.softmax(s, -1), v, w).relu(),
        [_r(2, 3, 4, 5), _r(2, 3, 5, 4), _r(6, 3, 4)],
        None,
    ),
    "self_attention_wide": Case(self_attention, [_r(1, 4, 300)]),
}
