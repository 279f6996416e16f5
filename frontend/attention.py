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
    if not (len(q.shape) == len(k.shape) == len(v.shape) == 4 and q.shape[1] == k.shape[1] == v.shape[1]):
        raise Opaque("its heads are not the same in queries, keys and values")
    dtype, logsumexp = (x.dtype for x in node.meta["val"][:2])
    work = wide(dtype)
    kind = compute_dtype(work)
    scale = (
        float(a.scale) if a.scale is not None else 1 / math.sqrt(q.shape[3]) if q.shape[3].is_Integer else q.shape[3]
    )
    scores = contract(t, node, [(q, "bhid"), (k, "bhjd")], "bhij", work, "scores")
    masked = _masked(t, node, scores, a.attn_mask, bool(a.is_causal), scale, work)
    peak, exp, total = exponentials(t, node, masked, [3], work)

    def share(e: Scalar, s: Scalar, m: Scalar) -> Scalar:
        y = e / s
        return (m == -math.inf).select(y.of(0.0), y)

    weights = mapped(t, node, [exp, total, peak], share, dtype, "weights")
    out = contract(t, node, [(weights, "bhij"), (v, "bhjd")], "bhid", dtype, "out")
    rows = [Tensor(reshaped(t, x, x.shape[:3]), x.shape[:3], x.dtype) for x in (peak, total)]

    def logarithm(m: Scalar, s: Scalar) -> Scalar:
        m = m.to(kind)
        return (m == -math.inf).select(m.of(0.0), m + s.log())

    return [out.view, mapped(t, node, rows, logarithm, logsumexp, "logsumexp").view]


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
        x = (e.index(e.rank(dims[3])) <= e.index(e.rank(dims[2]))).select(x, x.of(-math.inf))
    (view,) = e.finish([Out("map", x, dims, work, "masked")])
    return Tensor(view, scores.shape, work)


TABLE: dict[Any, Callable[..., Any]] = {aten._scaled_dot_product_flash_attention_for_cpu: flash_for_cpu}
