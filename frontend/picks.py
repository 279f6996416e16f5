"""A few elements of each row, chosen by data: written as a sum or a map over the row, so that the row itself may never exist.

    y[i, c] = x[i, t[i, c]]                =  Σ_k { x[i, k] where k = t[i, c], else 0 }
    y[i, k] = u  where k is one of t[i, c]   =  { u where k = t[i, 0] or k = t[i, 1] ..., else x[i, k] }

Used when the other dimensions of the index are those of the tensor, and the index has a few elements along the row.  An index
out of range (a negative one is) that is read at raises IndexError on the CPU, as in PyTorch, and gives NaN on a GPU, where
PyTorch's kernels stop the device; one that is written to writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..ir.cascade import EinsumOp
from .builder import Einsum, Out, Scalar, Tensor, View
from .externs import reason_of
from .indices import ZERO, Expr
from .sizes import Opaque, compute_dtype

aten = torch.ops.aten

FEW = 4  # elements of a row


def is_pick(source: Tensor, index: Tensor, k: int) -> bool:
    """Whether a few elements of each row of a computed floating-point tensor are chosen."""
    if len(index.shape) != len(source.shape) or not index.shape or not source.dtype.is_floating_point:
        return False
    others = all(a == b for n, (a, b) in enumerate(zip(source.shape, index.shape, strict=True)) if n != k)
    few = index.shape[k].is_Integer and index.shape[k] <= FEW
    return bool(others and few and source.shape[k] != 1 and isinstance(source.view.value.owner, EinsumOp))


def picked(t, node: fx.Node, source: Tensor, index: Tensor, k: int) -> View:
    """`source` at `index` along dimension k, as a sum over that dimension."""
    dims = [f"d{n}" for n in range(len(index.shape))]
    e = Einsum(t, node, {**dict(zip(dims, index.shape, strict=True)), "k": source.shape[k]}, whole=["k"])
    at = [e.rank(d) for d in dims]
    row = [e.rank("k") if n == k else r for n, r in enumerate(at)]
    x = e.read(source, row)
    hit = e.index(e.rank("k")) == e.read(index, at)
    dtype = t.dtype(node)
    (found,) = e.finish([Out("sum", hit.select(x, 0), dims, dtype, "picked")])
    e = Einsum(t, node, dict(zip(dims, index.shape, strict=True)))
    at = [e.rank(d) for d in dims]
    inside = e.read(index, at).inside(e.index(source.shape[k]))
    value = inside.select(e.read(Tensor(found, index.shape, dtype), at), math.nan)
    return e.finish([Out("map", value, dims, dtype)])[0]


def scatter(t, node: fx.Node, a) -> View:
    """scatter.value and scatter.src with a few places in each row: a map over the row."""
    k = a.dim % len(a.self.shape) if a.self.shape else 0
    shape: Sequence[Expr] = a.self.shape
    others = len(a.index.shape) == len(shape) and all(
        x == y for n, (x, y) in enumerate(zip(shape, a.index.shape, strict=True)) if n != k
    )
    if not shape or not others or not (a.index.shape[k].is_Integer and a.index.shape[k] <= FEW):
        raise Opaque(reason_of(node.target))  # pyright: ignore[reportArgumentType]
    dtype = t.dtype(node)
    kind = compute_dtype(dtype)
    dims = [f"d{n}" for n in range(len(shape))]
    e = Einsum(t, node, dict(zip(dims, shape, strict=True)))
    here = [e.rank(d) for d in dims]
    result = e.read(a.self, here).to(kind)
    for c in range(int(a.index.shape[k])):
        at = [ZERO + c if n == k else r for n, r in enumerate(here)]
        new = e.read(a.src, at).to(kind) if isinstance(getattr(a, "src", None), Tensor) else e.number(a.value, kind)
        hit = e.index(here[k]) == e.read(a.index, at)
        result = hit.select(new, result) if isinstance(result, Scalar) else new
    return e.finish([Out("map", result, dims, dtype)])[0]


TABLE: dict[Any, Any] = {aten.scatter: scatter}
