"""Normalisations by their definitions: softmax in its forms, layer norm, RMS norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from . import indices
from .builder import Scalar, Tensor, View
from .reductions import axes, mapped, reduce, scaled, variance_of, wide
from .sizes import Opaque, compute_dtype
from .views import reshaped

aten = torch.ops.aten


def exponentials(
    t, node: fx.Node, x: Tensor, reduced: Sequence[int], work: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """(m, e, s): the maximum, exp(x − m), and the sum of those."""
    kind = compute_dtype(work)
    peak = reduce(t, node, "max", [x], reduced, lambda v: v.to(kind), work, hint="max")
    exp = mapped(t, node, [x, peak], lambda v, m: (v.to(kind) - m).exp(), work, "exp")
    return peak, exp, reduce(t, node, "sum", [exp], reduced, lambda v: v, work, hint="sum")


def softmax(t, node: fx.Node, a) -> View:
    """max, subtract, exp, sum, divide."""
    dtype = t.dtype(node)
    _, exp, total = exponentials(t, node, a.self, axes(a.dim, len(a.self.shape)), wide(dtype))
    return mapped(t, node, [exp, total], lambda e, s: e / s, dtype).view


def safe_softmax(t, node: fx.Node, a) -> View:
    """softmax, and 0 in rows that are -inf throughout."""
    dtype = t.dtype(node)
    peak, exp, total = exponentials(t, node, a.self, axes(a.dim, len(a.self.shape)), wide(dtype))

    def formula(e: Scalar, s: Scalar, m: Scalar) -> Scalar:
        y = e / s
        return (m == -math.inf).select(y.of(0.0), y)

    return mapped(t, node, [exp, total, peak], formula, dtype).view


def log_softmax(t, node: fx.Node, a) -> View:
    """(x − m) − log Σ exp(x − m)."""
    dtype = t.dtype(node)
    kind = compute_dtype(dtype)
    peak, _, total = exponentials(t, node, a.self, axes(a.dim, len(a.self.shape)), wide(dtype))
    return mapped(t, node, [a.self, peak, total], lambda v, m, s: (v.to(kind) - m) - s.log(), dtype).view


def _affine(y: Scalar, scale: Scalar | None, shift: Scalar | None) -> Scalar:
    if scale is not None:
        y = y * scale.to(y.type)
    return y if shift is None else y + shift.to(y.type)


def _last(x: Tensor, count: int) -> list[int]:
    return list(range(len(x.shape) - count, len(x.shape)))


def _normalised(
    t, node: fx.Node, inputs: Sequence[Tensor], weight, bias, centre: Callable[..., Scalar], dtype
) -> Tensor:
    """`centre` of the inputs, then weight and bias where there are any."""
    extra = [w for w in (weight, bias) if w is not None]

    def formula(*xs: Scalar) -> Scalar:
        own, rest = xs[: len(inputs)], list(xs[len(inputs) :])
        return _affine(
            centre(*own), rest.pop(0) if weight is not None else None, rest.pop(0) if bias is not None else None
        )

    return mapped(t, node, [*inputs, *extra], formula, dtype)


def layer_norm(t, node: fx.Node, a) -> Any:
    """(x − mean) · rsqrt(var + eps) · weight + bias, the variance centred.  Natively also mean, rstd."""
    x: Tensor = a.input
    several = not isinstance(node.meta["val"], torch.Tensor)
    dtype = node.meta["val"][0].dtype if several else t.dtype(node)
    work = wide(dtype)
    kind = compute_dtype(work)
    reduced = _last(x, len(a.normalized_shape))
    variance, mean = variance_of(t, node, x, reduced, 0, work)
    rstd = mapped(t, node, [variance], lambda v: (v + float(a.eps)).rsqrt(), work, "rstd")
    y = _normalised(t, node, [x, mean, rstd], a.weight, a.bias, lambda v, m, r: (v.to(kind) - m) * r, dtype)
    return [y.view, *(_stored(t, node, s, n) for n, s in ((1, mean), (2, rstd)))] if several else y.view


def _stored(t, node: fx.Node, statistic: Tensor, n: int) -> View:
    """A statistic in the dtype in which ATen returns it."""
    dtype = node.meta["val"][n].dtype
    return mapped(t, node, [statistic], lambda v: v, dtype, "cast").view if statistic.dtype != dtype else statistic.view


def rms_norm(t, node: fx.Node, a) -> Any:
    """x · rsqrt(mean(x²) + eps) · weight."""
    x: Tensor = a.input
    several = not isinstance(node.meta["val"], torch.Tensor)
    dtype = node.meta["val"][0].dtype if several else t.dtype(node)
    work = wide(dtype)
    kind = compute_dtype(work)
    reduced = _last(x, len(a.normalized_shape))
    eps = torch.finfo(x.dtype).eps if a.eps is None else float(a.eps)
    squares = reduce(t, node, "sum", [x], reduced, lambda v: v.to(kind).square(), work, hint="squares")
    mean = scaled(t, node, squares, indices.product(x.shape[k] for k in reduced), work, "mean")
    rstd = mapped(t, node, [mean], lambda m: (m + eps).rsqrt(), work, "rstd")
    y = _normalised(t, node, [x, rstd], a.weight, None, lambda v, r: v.to(kind) * r, dtype)
    return [y.view, _stored(t, node, rstd, 1)] if several else y.view


def group_norm(t, node: fx.Node, a) -> list[View]:
    """native_group_norm: a layer norm over the channels of a group and all positions; mean and rstd are [N, groups]."""
    x: Tensor = a.input
    per_group = indices.exact_quotient(t.size(a.C), t.size(a.group)) or indices.ONE
    shape = t.size(a.N), t.size(a.group), per_group, t.size(a.HxW)
    dtype = x.dtype
    work = wide(dtype)
    kind = compute_dtype(work)
    grouped = Tensor(reshaped(t, x, shape), shape, dtype)
    total = reduce(t, node, "sum", [grouped], [2, 3], lambda v: v.to(kind), work, hint="sum")
    count = shape[2] * shape[3]
    mean = scaled(t, node, total, count, work, "mean")
    squares = reduce(
        t, node, "sum", [grouped, mean], [2, 3], lambda v, m: (v.to(kind) - m).square(), work, hint="squares"
    )
    rstd = mapped(
        t, node, [scaled(t, node, squares, count, work, "var")], lambda v: (v + float(a.eps)).rsqrt(), work, "rstd"
    )

    def channelled(w: Tensor | None) -> Tensor | None:
        channels = (indices.ONE, shape[1], shape[2], indices.ONE)
        return None if w is None else Tensor(reshaped(t, w, channels), channels, w.dtype)

    y = _normalised(
        t, node, [grouped, mean, rstd], channelled(a.weight), channelled(a.bias),
        lambda v, m, r: (v.to(kind) - m) * r, dtype,
    )  # fmt: skip
    small = shape[:2]
    return [reshaped(t, y, x.shape), *(
        reshaped(t, Tensor(_stored(t, node, s, n), s.shape, node.meta["val"][n].dtype), small)
        for n, s in ((1, mean), (2, rstd))
    )]  # fmt: skip


def batch_norm(t, node: fx.Node, a) -> list[View]:
    """(x − mean) · rsqrt(var + eps) · weight + bias a channel: running statistics, or those of the batch."""
    x: Tensor = a.input
    dtype = x.dtype
    work = wide(dtype)
    kind = compute_dtype(work)
    channel = tuple(n if k == 1 else indices.ONE for k, n in enumerate(x.shape))

    def channelled(w: Tensor | None) -> Tensor | None:
        return None if w is None else Tensor(reshaped(t, w, channel), channel, w.dtype)

    running_mean, running_var = getattr(a, "running_mean", None), getattr(a, "running_var", None)
    if getattr(a, "training", False):
        if running_mean is not None:
            raise Opaque("it updates running statistics")
        variance, mean = variance_of(t, node, x, [k for k in range(len(x.shape)) if k != 1], 0, work)
    else:
        mean, variance = channelled(running_mean), channelled(running_var)
    if mean is None or variance is None:
        raise Opaque("a batch norm without statistics")
    rstd = mapped(t, node, [variance], lambda v: (v.to(kind) + float(a.eps)).rsqrt(), work, "rstd")
    y = _normalised(
        t, node, [x, mean, rstd], channelled(a.weight), channelled(a.bias),
        lambda v, m, r: (v.to(kind) - m.to(kind)) * r.to(kind), dtype,
    )  # fmt: skip

    def saved(n: int, statistic: Tensor) -> View:
        value = node.meta["val"][n]
        shape = tuple(t.size(d) for d in value.shape)
        if indices.ZERO in shape:
            return t.full(node, 0, value.dtype, len(shape))
        return reshaped(t, Tensor(_stored(t, node, statistic, n), channel, value.dtype), shape)

    return [y.view, saved(1, mean), saved(2, rstd)]


TABLE: dict[Any, Callable[..., Any]] = {
    aten._softmax: softmax,
    aten.softmax: softmax,
    aten._safe_softmax: safe_softmax,
    aten._log_softmax: log_softmax,
    aten.log_softmax: log_softmax,
    aten.native_layer_norm: layer_norm,
    aten.layer_norm: layer_norm,
    aten._fused_rms_norm: rms_norm,
    aten.rms_norm: rms_norm,
    aten.native_group_norm: group_norm,
    **dict.fromkeys(
        (aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training), batch_norm
    ),
}
