"""Creation: constants, positions and triangles are index expressions; nothing is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from xdsl.dialects.builtin import i64

from .builder import Out, Tensor, View
from .reductions import as_type
from .sizes import compute_dtype
from .views import broadcast_to

aten = torch.ops.aten
prims = torch.ops.prims


def filled(value: Any = None):
    """A tensor of one value: `value`, or the argument that says it."""

    def row(t, node: fx.Node, a) -> View:
        number = value
        if number is None:
            number = a.fill_value if hasattr(a, "fill_value") else a.value if hasattr(a, "value") else a.s
        if isinstance(number, Tensor):  # of no dimensions
            return broadcast_to(t, as_type(t, node, number, t.dtype(node)), t.shape(node))
        kind = t.dtype(node)
        number = bool(number) if kind == torch.bool else number
        if not kind.is_floating_point and isinstance(number, float):
            number = int(number)
        return t.full(node, number, kind, len(t.shape(node)))

    return row


def arange(t, node: fx.Node, a) -> View:
    """start + step * position."""
    start, step = getattr(a, "start", 0), getattr(a, "step", 1)
    start, step = 0 if start is None else start, 1 if step is None else step
    e, dims = t.elementwise(node)
    kind = compute_dtype(t.dtype(node))
    if any(isinstance(x, float | torch.SymFloat) for x in (start, step)):
        x = e.index(e.rank(dims[0])).to(kind) * e.number(step, kind) + e.number(start, kind)
    else:
        x = e.index(t.size(start) + e.rank(dims[0]) * t.size(step)).to(kind)
    return e.finish([Out("map", x, dims, t.dtype(node))])[0]


def linspace(t, node: fx.Node, a) -> View:
    e, dims = t.elementwise(node)
    kind = compute_dtype(t.dtype(node))
    first = e.number(a.start, kind)
    last = e.number(a.end, kind)
    if a.steps == 1:
        x = first
    else:
        x = first + (last - first) / float(a.steps - 1) * e.index(e.rank(dims[0])).to(kind)
    return e.finish([Out("map", x, dims, t.dtype(node))])[0]


def triangle(lower: bool):
    """tril, triu: zero on one side of a diagonal."""

    def row(t, node: fx.Node, a) -> View:
        e, dims = t.elementwise(node)
        i, j = e.rank(dims[-2]), e.rank(dims[-1])
        edge = e.index(i + t.size(a.diagonal))
        inside = e.index(j) <= edge if lower else e.index(j) >= edge
        x = e.broadcast(a.self, dims)
        return e.finish([Out("map", inside.select(x, 0), dims, t.dtype(node))])[0]

    return row


def eye(t, node: fx.Node, a) -> View:
    e, dims = t.elementwise(node)
    x = e.index(e.rank(dims[0])) == e.index(e.rank(dims[1]))
    return e.finish([Out("map", x.to(compute_dtype(t.dtype(node))), dims, t.dtype(node))])[0]


def iota(t, node: fx.Node, a) -> View:
    """prims.iota(length, start, step)."""
    e, dims = t.elementwise(node)
    x = e.index(t.size(a.start) + e.rank(dims[0]) * t.size(a.step))
    return e.finish([Out("map", x.to(i64), dims, t.dtype(node))])[0]


TABLE: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        (aten.full, aten.full_like, aten.new_full, aten.fill, aten.scalar_tensor), filled()
    ),
    **dict.fromkeys(
        (
            aten.zeros, aten.zeros_like, aten.new_zeros, aten.empty, aten.empty_like, aten.new_empty,
            aten.empty_strided, aten.new_empty_strided,
        ),
        filled(0),
    ),
    **dict.fromkeys((aten.ones, aten.ones_like, aten.new_ones), filled(1)),
    aten.arange: arange,
    prims.iota: iota,
    aten.linspace: linspace,
    aten.tril: triangle(True),
    aten.triu: triangle(False),
    aten.eye: eye,
}  # fmt: skip
