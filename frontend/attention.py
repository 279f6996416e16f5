"""Library calls that compute a whole attention, by their definition.

The call stays one node of the graph: where the kernel that is derived from the definition is not predicted to be faster,
the library's own one runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import fx
from xdsl.dialects.builtin import i1

from .builder import Out, Scalar, Tensor, View
from .contractions import contract
from .indices import ONE
from .norms import exponentials
from .reductions import mapped, wide
from .sizes import Opaque, compute_dtype
from .views import reshaped

aten = torch.ops.aten


def flash_for_cpu(t, node: fx.Node, a) -> list[View]:
    """softmax(q kᵀ · scale + mask) v, 0 in rows that are masked throughout; and the log of the sum of exponentials."""
    if a.dropout_p:
        raise Opaque("dropout draws random numbers")
    q, k, v = a.query, a.key, a.value
    if not (len(q.shape) == len(k.shape) == len(v.shape) == 4 and k.shape[1] == v.shape[1]):
        raise Opaque("its heads are not the same in keys and values")
    if q.shape[1] != k.shape[1]:
        return _grouped(t, node, a)
    return _flash(t, node, q, k, v, a.attn_mask, bool(a.is_causal), a.scale)


def _grouped(t, node: fx.Node, a) -> list[View]:
    """Of fewer keys' heads than queries': a group of heads of the queries is more rows of the one that its keys have."""
    q, k, v = a.query, a.key, a.value
    heads, of_keys = q.shape[1], k.shape[1]
    if not (heads.is_Integer and of_keys.is_Integer and of_keys and int(heads) % int(of_keys) == 0):
        raise Opaque("the heads of its queries are no multiple of those of its keys")
    split = (of_keys, heads // of_keys)
    shape = (q.shape[0], *split, *q.shape[2:])
    grouped = Tensor(reshaped(t, q, shape), shape, q.dtype)
    mask = a.attn_mask
    if mask is not None and len(mask.shape) >= 3:
        own = split if mask.shape[-3] == heads else (ONE, ONE)
        over = (*mask.shape[:-3], *own, *mask.shape[-2:])
        mask = Tensor(reshaped(t, mask, over), over, mask.dtype)
    out, logsumexp = _flash(t, node, grouped, k, v, mask, bool(a.is_causal), a.scale)
    rows, dtypes = shape[:-1], [x.dtype for x in node.meta["val"][:2]]
    results = Tensor(out, (*rows, v.shape[3]), dtypes[0]), Tensor(logsumexp, rows, dtypes[1])
    return [reshaped(t, x, (x.shape[0], heads, *x.shape[3:])) for x in results]


def _flash(
    t, node: fx.Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> list[View]:
    """q[b, heads..., i, d], k[b, h, j, d], v[b, h, j, d]; heads are h, or h and a group of those that share its keys."""
    dtype, logsumexp = (x.dtype for x in node.meta["val"][:2])
    work = wide(dtype)
    kind = compute_dtype(work)
    rows = "bhi" if len(q.shape) == 4 else "bhgi"
    size = q.shape[-1]
    factor = float(scale) if scale is not None else 1 / math.sqrt(size) if size.is_Integer else size
    scores = contract(t, node, [(q, rows + "d"), (k, "bhjd")], rows + "j", work, "scores")
    masked = _masked(t, node, scores, mask, causal, factor, work)
    peak, exp, total = exponentials(t, node, masked, [len(rows)], work)

    def share(e: Scalar, s: Scalar, m: Scalar) -> Scalar:
        y = e / s
        return (m == -math.inf).select(y.of(0.0), y)

    weights = mapped(t, node, [exp, total, peak], share, dtype, "weights")
    out = contract(t, node, [(weights, rows + "j"), (v, "bhjd")], rows + "d", dtype, "out")
    numbers = [Tensor(reshaped(t, x, x.shape[:-1]), x.shape[:-1], x.dtype) for x in (peak, total)]

    def logarithm(m: Scalar, s: Scalar) -> Scalar:
        m = m.to(kind)
        return (m == -math.inf).select(m.of(0.0), m + s.log())

    return [out.view, mapped(t, node, numbers, logarithm, logsumexp, "logsumexp").view]


def _masked(
    t, node: fx.Node, scores: Tensor, mask: Tensor | None, causal: bool, scale: float | sympy.Expr, work
) -> Tensor:
    """scale: a number; or a size that is not known yet, of whose root it is the inverse."""
    kind = compute_dtype(work)
    e, dims = t.elementwise(node, scores.shape)
    x = e.broadcast(scores, dims)
    x = x / e.index(scale).to(kind).sqrt() if isinstance(scale, sympy.Expr) else x * scale
    if mask is not None:
        m = e.broadcast(mask, dims)
        x = m.select(x, x.of(-math.inf)) if m.type == i1 else x + m.to(kind)
    if causal:
        x = (e.index(e.rank(dims[-1])) <= e.index(e.rank(dims[-2]))).select(x, x.of(-math.inf))
    (view,) = e.finish([Out("map", x, dims, work, "masked")])
    return Tensor(view, scores.shape, work)


TABLE: dict[Any, Callable[..., Any]] = {aten._scaled_dot_product_flash_attention_for_cpu: flash_for_cpu}
