"""Reductions into coordinates that are data: index_add, scatter_add, scatter_reduce, the gradient of an embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from xdsl.ir import SSAValue

from ..ir import scalar
from ..ir.cascade import slot
from .builder import Einsum, Scalar, Tensor, View
from .externs import reason_of
from .indices import ONE, ZERO, Expr
from .sizes import Opaque, compute_dtype

aten = torch.ops.aten

COMBINERS = {"sum": "sum", "prod": "prod", "amax": "max", "amin": "min"}


def _start(t, node: fx.Node, combiner: str, dtype: torch.dtype) -> SSAValue | None:
    """The tensor that is reduced into, the operator's first argument; None where it is the combiner's identity."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    kind = compute_dtype(dtype)
    if t.numbers.get(t.views[first].value) == scalar.identity(combiner, kind):
        return None
    return t.materialise(first)


def _along(t, node: fx.Node, a, source: Tensor | None, value: Callable[[Scalar], Scalar], combiner: str) -> View:
    """Elements of `source` into dimension `a.dim` at `a.index`, which has a position for every one of them."""
    dtype, shape = t.dtype(node), t.shape(node)
    kind = compute_dtype(dtype)
    if dtype == torch.bool or not shape or source is None:
        raise Opaque(reason_of(node.target))  # pyright: ignore[reportArgumentType]
    k = a.dim % len(shape)
    whole = len(a.index.shape) == len(shape) and hasattr(a, "src")
    points = a.index.shape if whole else tuple(source.shape)
    dims = [f"d{m}" for m in range(len(points))]
    e = Einsum(t, node, dict(zip(dims, points, strict=True)))
    here = [e.rank(d) for d in dims]
    x = value(e.read(source, here).to(kind))
    at = here if whole else ([here[k]] if a.index.shape else [])
    target: list[Expr] = [ZERO if n == ONE else r for r, n in zip(here, shape, strict=True)]
    target[k] = slot(0)
    return e.scatter(combiner, x, [(a.index, at)], target, shape, dtype, _start(t, node, combiner, dtype))


def index_add(t, node: fx.Node, a) -> View:
    return _along(t, node, a, a.source, lambda x: x if a.alpha == 1 else x * a.alpha, "sum")


def scatter_add(t, node: fx.Node, a) -> View:
    return _along(t, node, a, a.src, lambda x: x, "sum")


def scatter_reduce(t, node: fx.Node, a) -> View:
    """Where the tensor that is reduced into counts; a mean is no combiner."""
    if not a.include_self or a.reduce not in COMBINERS:
        raise Opaque(reason_of(node.target))  # pyright: ignore[reportArgumentType]
    return _along(t, node, a, a.src, lambda x: x, COMBINERS[a.reduce])


def embedding_backward(t, node: fx.Node, a) -> View:
    """Rows of the gradient, summed into the rows of the table that they were read from."""
    if a.scale_grad_by_freq:
        raise Opaque(reason_of(node.target))  # pyright: ignore[reportArgumentType]
    shape, dtype = t.shape(node), t.dtype(node)
    points: Sequence[Expr] = a.grad_output.shape
    dims = [f"d{m}" for m in range(len(points))]
    e = Einsum(t, node, dict(zip(dims, points, strict=True)))
    here = [e.rank(d) for d in dims]
    x = e.read(a.grad_output, here).to(compute_dtype(dtype))
    row = e.read(a.indices, here[:-1])
    skipped = t.size(a.padding_idx)
    if not skipped.is_Integer or skipped >= 0:
        x = (row != int(skipped)).select(x, 0.0)
    target = [slot(0), ZERO if shape[1] == ONE else here[-1]]
    return e.scatter("sum", x, [(a.indices, here[:-1])], target, shape, dtype, None)


TABLE: dict[Any, Callable[..., Any]] = {
    aten.index_add: index_add,
    aten.scatter_add: scatter_add,
    aten.scatter_reduce: scatter_reduce,
    aten.embedding_dense_backward: embedding_backward,
}
