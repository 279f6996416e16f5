"""Scans: running sums, products and extrema along a dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from .builder import Einsum, Out, View
from .externs import reason_of
from .sizes import Opaque, compute_dtype

aten = torch.ops.aten


def running(t, node: fx.Node, x, dim: int, combiner: str, dtype: torch.dtype) -> View:
    """The combination of the elements of `x` up to each index of dimension `dim`, computed in the type of `dtype`."""
    names = [f"d{k}" for k in range(len(x.shape))]
    over = names[dim % len(names)] if names else None
    e = Einsum(t, node, dict(zip(names, x.shape, strict=True)), [over] if over else [])
    out = Out(combiner, e.broadcast(x, names).to(compute_dtype(dtype)), names, dtype)
    return e.scan(out, over)


def accumulated(combiner: str):
    """cumsum, cumprod: in the type of the result."""
    return lambda t, node, a: running(t, node, a.self, a.dim, combiner, t.dtype(node))


def extremum(combiner: str):
    """cummax, cummin, where nobody asks for the positions."""

    def row(t, node: fx.Node, a) -> list[View | None]:
        if any(user.args[1:] != (0,) for user in node.users):
            raise Opaque(reason_of(node.target))  # pyright: ignore[reportArgumentType]
        order = {"max": "any", "min": "all"}[combiner] if a.self.dtype == torch.bool else combiner
        return [running(t, node, a.self, a.dim, order, a.self.dtype), None]

    return row


TABLE: dict[Any, Callable[..., Any]] = {
    aten.cumsum: accumulated("sum"),
    aten.cumprod: accumulated("prod"),
    aten.cummax: extremum("max"),
    aten.cummin: extremum("min"),
}
