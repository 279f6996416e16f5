"""Views: operators that move no data become access maps.  `cat` and `pad` select among reads instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from . import indices
from .builder import Out, Scalar, Tensor, View
from .indices import ONE, ZERO, Expr, dim
from .sizes import Opaque, compute_dtype

aten = torch.ops.aten
prims = torch.ops.prims


def alias(t, node: fx.Node, a) -> View:
    """The same elements: alias, clone, contiguous, detach, …"""
    return _source(a).view


def _source(a) -> Tensor:
    return a.self if hasattr(a, "self") else a.a if hasattr(a, "a") else a.x


def reshape(t, node: fx.Node, a) -> View:
    """view, reshape: dimensions merge and split."""
    if not hasattr(a, "size") and not hasattr(a, "shape"):
        raise Opaque("it looks at bits")
    source: Tensor = _source(a)
    return reshaped(t, source, t.shape(node))


def reshaped(t, source: Tensor, shape: Sequence[Expr]) -> View:
    old, new = source.shape, tuple(shape)
    return t.reindex(source.view, indices.reshape(old, new), new, indices.reshape(new, old))


def permuted(t, source: Tensor, order: Sequence[int]) -> View:
    """Dimension k of the result is dimension `order[k]` of the source."""
    shape = [source.shape[k] for k in order]
    index = [dim(order.index(k)) for k in range(len(order))]
    return t.reindex(source.view, _no_ones(index, source.shape), shape, [dim(k) for k in order])


def _no_ones(index: Sequence[Expr], shape: Sequence[Expr]) -> list[Expr]:
    return [ZERO if n == ONE else e for e, n in zip(index, shape, strict=True)]


def permute(t, node: fx.Node, a) -> View:
    rank = len(a.self.shape)
    return permuted(t, a.self, [k % rank for k in a.dims])


def transpose(t, node: fx.Node, a) -> View:
    order = list(range(len(a.self.shape)))
    if len(order) > 1:
        if hasattr(a, "dim0"):
            i, j = a.dim0, a.dim1
        else:
            i, j = -1, -2
        order[i], order[j] = order[j], order[i]
    return permuted(t, a.self, order)


def expand(t, node: fx.Node, a) -> View:
    """Broadcasting: dimensions of length 1 are read at 0."""
    source: Tensor = _source(a)
    return broadcast_to(t, source, t.shape(node))


def broadcast_to(t, source: Tensor, shape: Sequence[Expr]) -> View:
    offset = len(shape) - len(source.shape)
    index = [ZERO if n == ONE else dim(k + offset) for k, n in enumerate(source.shape)]
    padded = [ONE] * offset + list(source.shape)
    whole = all(indices.same(n, m) for n, m in zip(padded, shape, strict=True))
    back = [ZERO] * offset + [ZERO if n == ONE else dim(k) for k, n in enumerate(source.shape)] if whole else None
    return t.reindex(source.view, index, shape, back)


def slice_(t, node: fx.Node, a) -> View:
    k = a.dim % len(a.self.shape)
    n = a.self.shape[k]
    shape = t.shape(node)
    if indices.same(shape[k], n):
        return a.self.view
    start = ZERO if a.start is None else t.size(a.start)
    if not indices.nonnegative(start):
        start = n + start
    if shape[k] == ZERO:
        start = ZERO
    elif start.is_Integer and n.is_Integer:
        start = indices.sympy.Integer(max(0, min(int(start), int(n))))
    index = [dim(m) for m in range(len(shape))]
    index[k] = start + dim(k) * t.size(a.step)
    index = [ZERO if m != k and e == ONE else index[m] for m, e in enumerate(a.self.shape)]
    index[k] = index[k].subs(dim(k), ZERO) if shape[k] == ONE else index[k]
    return t.reindex(a.self.view, index, shape)


def select(t, node: fx.Node, a) -> View:
    k = a.dim % len(a.self.shape)
    return selected(t, a.self, k, a.index)


def selected(t, source: Tensor, k: int, at: Any) -> View:
    """Dimension k fixed at one index."""
    position = t.size(at)
    if not indices.nonnegative(position):
        position = source.shape[k] + position
    shape = [n for m, n in enumerate(source.shape) if m != k]
    index: list[Expr] = [dim(m if m < k else m - 1) for m in range(len(source.shape))]
    index = _no_ones(index, source.shape)
    index[k] = ZERO if source.shape[k] == ONE else position
    back = [dim(m) for m in range(len(source.shape)) if m != k] if source.shape[k] == ONE else None
    return t.reindex(source.view, index, shape, back)


def unsqueeze(t, node: fx.Node, a) -> View:
    return reshaped(t, a.self, t.shape(node))


def squeeze(t, node: fx.Node, a) -> View:
    return reshaped(t, a.self, t.shape(node))


def pieces(t, node: fx.Node, a) -> list[View]:
    """split, split_with_sizes, chunk: one slice each."""
    k = a.dim % len(a.self.shape)
    found = []
    start: Expr = ZERO
    for part in node.meta["val"]:
        shape = [t.size(n) for n in part.shape]
        index = _no_ones([dim(m) for m in range(len(shape))], shape)
        index[k] = start if shape[k] in (ONE, ZERO) else start + index[k]
        if shape[k] == ZERO:
            index[k] = ZERO
        whole = indices.same(shape[k], a.self.shape[k])
        found.append(t.reindex(a.self.view, index, shape, [dim(m) for m in range(len(shape))] if whole else None))
        start = start + shape[k]
    return found


def unbind(t, node: fx.Node, a) -> list[View]:
    k = a.dim % len(a.self.shape)
    return [selected(t, a.self, k, m) for m in range(len(node.meta["val"]))]


def flip(t, node: fx.Node, a) -> View:
    shape = t.shape(node)
    turned = {k % len(shape) for k in a.dims}
    index = _no_ones([shape[k] - 1 - dim(k) if k in turned else dim(k) for k in range(len(shape))], shape)
    return t.reindex(a.self.view, index, shape, index)


def diagonal(t, node: fx.Node, a) -> View:
    rank = len(a.self.shape)
    i, j = a.dim1 % rank, a.dim2 % rank
    shape = t.shape(node)
    rest = [m for m in range(rank) if m not in (i, j)]
    index: list[Expr] = [ZERO] * rank
    for place, m in enumerate(rest):
        index[m] = ZERO if a.self.shape[m] == ONE else dim(place)
    last = ZERO if shape[-1] in (ONE, ZERO) else dim(len(shape) - 1)
    offset = t.size(a.offset)
    empty = shape[-1] == ZERO
    index[i] = last if indices.nonnegative(offset) or empty else last - offset
    index[j] = last + offset if indices.nonnegative(offset) and not empty else last
    return t.reindex(a.self.view, index, shape)


def unfold(t, node: fx.Node, a) -> View:
    """Windows of one dimension: `x[d * step + w]`, w the last dimension."""
    shape = t.shape(node)
    if not a.self.shape:
        raise Opaque("windows of a number")
    k = a.dimension % len(a.self.shape)
    index = _no_ones([dim(m) for m in range(len(a.self.shape))], a.self.shape)
    if a.self.shape[k] != ONE:
        first = ZERO if shape[k] in (ONE, ZERO) else dim(k) * a.step
        index[k] = first + (ZERO if shape[-1] in (ONE, ZERO) else dim(len(shape) - 1))
    return t.reindex(a.self.view, index, shape)


# --- selecting among reads ----------------------------------------------------------------------------------------


def between(e, index: Expr, low: Expr, high: Expr, extent: Expr) -> Scalar | None:
    """The condition low <= index < high, None when it always holds for 0 <= index < extent."""
    condition = None
    if low != ZERO:
        condition = e.index(index) >= e.index(low)
    if not indices.same(high, extent):
        upper = e.index(index) < e.index(high)
        condition = upper if condition is None else condition & upper
    return condition


def cat(t, node: fx.Node, a) -> View:
    """One map that selects which operand to read; a read outside an operand is zero and is not selected."""
    parts: list[Tensor] = [x for x in a.tensors if x.shape != (ZERO,) or len(t.shape(node)) == 1]
    shape = t.shape(node)
    if len(parts) == 1 and parts[0].dtype == t.dtype(node):
        return parts[0].view
    k = a.dim % len(shape)
    parts = [x for x in parts if x.shape[k] != ZERO]
    if not parts:
        return t.full(node, 0, t.dtype(node), len(shape))
    e, dims = t.elementwise(node)
    pieces_: list[tuple[Scalar, Expr]] = []
    start: Expr = ZERO
    for x in parts:
        index = [ZERO if n == ONE else e.rank(d) for d, n in zip(dims, shape, strict=True)]
        index[k] = e.rank(dims[k]) - start
        value = e.read(x, index).to(compute_dtype(t.dtype(node)))
        start = start + x.shape[k]
        pieces_.append((value, start))
    total = pieces_[-1][0]
    for value, end in reversed(pieces_[:-1]):
        total = (e.index(e.rank(dims[k])) < e.index(end)).select(value, total)
    return e.finish([Out("map", total, dims, t.dtype(node))])[0]


def constant_pad(t, node: fx.Node, a) -> View:
    """Reads outside select the padding."""
    shape = t.shape(node)
    e, dims = t.elementwise(node)
    index = [ZERO if n == ONE else e.rank(d) for d, n in zip(dims, shape, strict=True)]
    inside: Scalar | None = None
    for n in range(len(a.pad) // 2):
        k = len(shape) - 1 - n
        left, extent = t.size(a.pad[2 * n]), a.self.shape[k]
        if left == ZERO and indices.same(extent, shape[k]):
            continue
        at = e.rank(dims[k])
        index[k] = at - left
        low = left if indices.nonnegative(left) else ZERO
        condition = between(e, at, low, left + extent, shape[k])
        if condition is not None:
            inside = condition if inside is None else inside & condition
    value = e.read(a.self, index)
    if inside is not None:
        value = inside.select(value, e.number(a.value, value.type))
    return e.finish([Out("map", value, dims, t.dtype(node))])[0]


def repeat(t, node: fx.Node, a) -> View:
    """Tiling: dimension k is read modulo its length."""
    shape = t.shape(node)
    offset = len(shape) - len(a.self.shape)
    bounds = indices.bounds_of(shape)
    index = [
        ZERO if n == ONE else indices.mod(dim(k + offset), n, bounds) if n != ZERO else ZERO
        for k, n in enumerate(a.self.shape)
    ]
    return t.reindex(a.self.view, index, shape)


def roll(t, node: fx.Node, a) -> View:
    shape = t.shape(node)
    if not a.dims:
        raise Opaque("rolling a flattened tensor")
    bounds = indices.bounds_of(shape)
    index = _no_ones([dim(k) for k in range(len(shape))], shape)
    for s, k in zip(a.shifts, a.dims, strict=True):
        k %= len(shape)
        if shape[k] not in (ONE, ZERO):
            index[k] = indices.mod(dim(k) + indices.mod(-t.size(s), shape[k], ()), shape[k], bounds)
    return t.reindex(a.self.view, index, shape)


Row = Callable[..., Any]

TABLE: dict[Any, Row] = {
    **dict.fromkeys(
        (
            aten.alias, aten.clone, aten.contiguous, aten.detach, aten.lift_fresh, aten.lift_fresh_copy, aten.lift,
            aten.alias_copy, aten.detach_copy, aten.positive, aten.resolve_conj, aten.resolve_neg,
        ),
        alias,
    ),
    **dict.fromkeys(
        (aten.view, aten.reshape, aten._unsafe_view, aten.view_copy, aten._reshape_alias,), reshape
    ),
    **dict.fromkeys((aten.permute, aten.permute_copy), permute),
    **dict.fromkeys((aten.transpose, aten.t, aten.transpose_copy, aten.t_copy, aten.numpy_T, aten.mT), transpose),
    **dict.fromkeys((aten.expand, aten.expand_copy, aten.broadcast_to), expand),
    **dict.fromkeys((aten.slice, aten.slice_copy), slice_),
    **dict.fromkeys((aten.select, aten.select_copy), select),
    **dict.fromkeys((aten.unsqueeze, aten.unsqueeze_copy), unsqueeze),
    **dict.fromkeys((aten.squeeze, aten.squeeze_copy), squeeze),
    **dict.fromkeys(
        (aten.split, aten.split_with_sizes, aten.split_copy, aten.split_with_sizes_copy, aten.chunk), pieces
    ),
    aten.unbind: unbind,
    aten.flip: flip,
    **dict.fromkeys((aten.diagonal, aten.diagonal_copy), diagonal),
    **dict.fromkeys((aten.unfold, aten.unfold_copy), unfold),
    aten.cat: cat,
    aten.constant_pad_nd: constant_pad,
    aten.repeat: repeat,
    aten.roll: roll,
}  # fmt: skip
