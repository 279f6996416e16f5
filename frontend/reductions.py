"""Reductions: sum, mean, extrema and their positions, any, all, products, variances, vector norms, logsumexp."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from xdsl.dialects.builtin import i1, i64

from . import indices
from .builder import Einsum, Out, Scalar, Tensor, View
from .externs import reason_of
from .indices import ONE, Expr
from .pointwise import Formula
from .sizes import Opaque, compute_dtype
from .views import reshaped

aten = torch.ops.aten


# --- building blocks, used by the norms as well -------------------------------------------------------------------


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of an intermediate that stays inside one operator: nothing is rounded to half precision on the way."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def axes(dim: Any, rank: int) -> list[int]:
    """Normalised reduced dimensions; None or an empty list means all."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return list(range(rank))
    chosen = [dim] if isinstance(dim, int) else list(dim)
    return sorted({k % rank if rank else 0 for k in chosen} if rank else set())


def kept_shape(shape: Sequence[Expr], reduced: Sequence[int], keepdim: bool) -> tuple[Expr, ...]:
    return tuple(ONE if k in reduced else n for k, n in enumerate(shape) if keepdim or k not in reduced)


def reduce(
    t,
    node: fx.Node,
    combiner: str,
    inputs: Sequence[Tensor],
    reduced: Sequence[int],
    formula: Callable[..., Scalar],
    dtype: torch.dtype,
    keepdim: bool = True,
    hint: str = "",
) -> Tensor:
    """`formula` of the inputs (broadcast against the first), combined over the dimensions `reduced`."""
    shape = inputs[0].shape
    whole = [f"d{k}" for k in reduced] if combiner.startswith("arg") else []
    names = [f"d{k}" for k in range(len(shape))]
    e = Einsum(t, node, dict(zip(names, shape, strict=True)), whole)
    x = formula(*(e.broadcast(y, names) for y in inputs))
    dims = [None if k in reduced else d for k, d in enumerate(names) if keepdim or k not in reduced]
    (view,) = e.finish([Out(combiner, x, dims, dtype, hint)])
    return Tensor(view, kept_shape(shape, reduced, keepdim), dtype)


def mapped(
    t, node: fx.Node, inputs: Sequence[Tensor], formula: Callable[..., Scalar], dtype: torch.dtype, hint: str = "",
    shape: Sequence[Expr] | None = None,
) -> Tensor:  # fmt: skip
    """`formula` of the inputs, broadcast against the first (or to `shape`)."""
    shape = inputs[0].shape if shape is None else tuple(shape)
    e, dims = t.elementwise(node, shape)
    (view,) = e.finish([Out("map", formula(*(e.broadcast(y, dims) for y in inputs)), dims, dtype, hint)])
    return Tensor(view, shape, dtype)


def as_type(t, node: fx.Node, source: Tensor, dtype: torch.dtype) -> Tensor:
    """`source` in another dtype: an operation of its own when it differs."""
    if source.dtype == dtype:
        return source
    return mapped(t, node, [source], lambda x: x.to(compute_dtype(dtype)), dtype, "cast")


def scaled(t, node: fx.Node, total: Tensor, count: Expr, dtype: torch.dtype, hint: str = "") -> Tensor:
    """A total divided by a number of elements."""
    kind = compute_dtype(dtype)

    def formula(e: Einsum, x: Scalar) -> Scalar:
        n = e.constant(int(count), kind) if count.is_Integer else e.index(count).to(kind)
        return x.to(kind) / n

    e, dims = t.elementwise(node, total.shape)
    (view,) = e.finish([Out("map", formula(e, e.broadcast(total, dims)), dims, dtype, hint)])
    return Tensor(view, total.shape, dtype)


def mean_of(
    t, node: fx.Node, x: Tensor, reduced: Sequence[int], dtype: torch.dtype, keepdim=True, hint="mean"
) -> Tensor:
    kind = compute_dtype(dtype)
    total = reduce(t, node, "sum", [x], reduced, lambda v: v.to(kind), wide(dtype), keepdim, "sum")
    return scaled(t, node, total, indices.product(x.shape[k] for k in reduced), dtype, hint)


# --- rows ---------------------------------------------------------------------------------------------------------


def _reduced(a) -> list[int]:
    return axes(getattr(a, "dim", None), len(a.self.shape))


def _keepdim(a) -> bool:
    return bool(getattr(a, "keepdim", False))


def total(combiner: str):
    """sum, prod: in the type of the result."""

    def row(t, node: fx.Node, a) -> View:
        dtype = t.dtype(node)
        kind = compute_dtype(dtype)
        return reduce(t, node, combiner, [a.self], _reduced(a), lambda x: x.to(kind), dtype, _keepdim(a)).view

    return row


def mean(t, node: fx.Node, a) -> View:
    return mean_of(t, node, a.self, _reduced(a), t.dtype(node), _keepdim(a), "").view


def _order(combiner: str, x: Tensor) -> str:
    if x.dtype == torch.bool:
        return {"max": "any", "min": "all"}[combiner]
    return combiner


def extremum(combiner: str):
    """amax, amin; max and min in all their overloads."""

    def row(t, node: fx.Node, a) -> Any:
        if hasattr(a, "other"):
            e, dims = t.elementwise(node)
            f = Formula(e, dims, compute_dtype(t.dtype(node)))
            if f.kind == i1:
                x = f(a.self) | f(a.other) if combiner == "max" else f(a.self) & f(a.other)
            else:
                x = f(a.self).maximum(f(a.other)) if combiner == "max" else f(a.self).minimum(f(a.other))
            return e.finish([Out("map", x, dims, t.dtype(node))])[0]
        value = node.meta["val"]
        if isinstance(value, torch.Tensor):
            order = _order(combiner, a.self)
            return reduce(t, node, order, [a.self], _reduced(a), lambda x: x, a.self.dtype, _keepdim(a)).view
        return list(_with_index(t, node, a, combiner))

    return row


def _with_index(t, node: fx.Node, a, combiner: str) -> list[View]:
    """max.dim, min.dim: value and position in one operation."""
    shape = a.self.shape
    reduced = _reduced(a)
    names = [f"d{k}" for k in range(len(shape))]
    e = Einsum(t, node, dict(zip(names, shape, strict=True)), [names[k] for k in reduced])
    x = e.broadcast(a.self, names)
    dims = [None if k in reduced else d for k, d in enumerate(names) if a.keepdim or k not in reduced]
    at = x.to(i64) if x.type == i1 else x
    return e.finish([
        Out(_order(combiner, a.self), x, dims, a.self.dtype, "values"),
        Out("arg" + combiner, at, dims, torch.int64, "indices"),
    ])  # fmt: skip


def first_of_top(t, node: fx.Node, a) -> list[View]:
    """topk of one element: the largest and a position of it.  (The least of topk passes over NaN, where min stops.)"""
    if not (isinstance(a.k, int) and a.k == 1 and a.largest and a.self.shape):
        raise Opaque(reason_of(node.target))  # pyright: ignore[reportArgumentType]
    a.keepdim = True
    return _with_index(t, node, a, "max")


def position(combiner: str):
    """argmax, argmin; without a dimension, of the flattened tensor."""

    def row(t, node: fx.Node, a) -> View:
        x: Tensor = a.self
        dim, keepdim = a.dim, a.keepdim
        if dim is None:
            flat = (indices.product(x.shape),)
            x = Tensor(reshaped(t, x, flat), flat, x.dtype)
            dim, keepdim = 0, False
        at = reduce(
            t, node, combiner, [x], axes(dim, len(x.shape)),
            lambda v: v.to(i64) if v.type == i1 else v, torch.int64, keepdim,
        )  # fmt: skip
        return reshaped(t, at, t.shape(node)) if a.dim is None else at.view

    return row


def truth(combiner: str):
    """any, all."""

    def row(t, node: fx.Node, a) -> View:
        found = reduce(t, node, combiner, [a.self], _reduced(a), lambda x: x.to(i1), torch.bool, _keepdim(a))
        return as_type(t, node, found, t.dtype(node)).view

    return row


def aminmax(t, node: fx.Node, a) -> list[View]:
    return [
        reduce(t, node, _order(c, a.self), [a.self], _reduced(a), lambda x: x, a.self.dtype, _keepdim(a), c).view
        for c in ("min", "max")
    ]


def variance_of(
    t, node: fx.Node, x: Tensor, reduced: Sequence[int], correction: float, dtype: torch.dtype, hint: str = "var"
) -> tuple[Tensor, Tensor]:
    """(variance, mean), both with the reduced dimensions kept: the mean first, then the centred squares."""
    work = wide(dtype)
    kind = compute_dtype(work)
    mean = mean_of(t, node, x, reduced, work)
    squares = reduce(t, node, "sum", [x, mean], reduced, lambda v, m: (v.to(kind) - m).square(), work, hint="squares")
    count = indices.product(x.shape[k] for k in reduced)
    if float(correction).is_integer():
        free = count - int(correction)
        free = max(free, indices.ZERO) if free.is_Integer else free
        return scaled(t, node, squares, free, dtype, hint), mean
    if not count.is_Integer:
        raise Opaque("a variance with a fractional correction over a symbolic size")
    by = max(float(count) - correction, 0.0)
    return mapped(t, node, [squares], lambda s: s / by, dtype, hint), mean


def variance(root: bool, with_mean: bool):
    """var, std, var_mean, std_mean."""

    def row(t, node: fx.Node, a) -> Any:
        reduced = _reduced(a)
        if hasattr(a, "unbiased"):
            correction = float(a.unbiased)
        else:
            correction = 1.0 if getattr(a, "correction", None) is None else float(a.correction)
        var, mean = variance_of(t, node, a.self, reduced, correction, a.self.dtype if not root else wide(a.self.dtype))
        if root:
            var = mapped(t, node, [var], lambda v: v.sqrt(), a.self.dtype, "std")
        shape = kept_shape(a.self.shape, reduced, _keepdim(a))
        result = reshaped(t, var, shape)
        return [result, reshaped(t, as_type(t, node, mean, a.self.dtype), shape)] if with_mean else result

    return row


def vector_norm(t, node: fx.Node, a) -> View:
    """(Σ |x|^p)^(1/p), and its limits."""
    p = a.ord if hasattr(a, "ord") else (2.0 if a.p is None else a.p)
    dtype = t.dtype(node)
    kind = compute_dtype(dtype)
    reduced = _reduced(a)

    def over(combiner: str, formula: Callable[[Scalar], Scalar]) -> Tensor:
        last = combiner != "sum" or p in (0, 1)
        result = dtype if last else wide(dtype)
        hint = "" if last else "sum"
        return reduce(t, node, combiner, [a.self], reduced, lambda x: formula(x.to(kind)), result, _keepdim(a), hint)

    if p == math.inf:
        return over("max", lambda x: x.abs()).view
    if p == -math.inf:
        return over("min", lambda x: x.abs()).view
    if p == 0:
        return over("sum", lambda x: (x != 0.0).to(kind)).view
    if p == 1:
        return over("sum", lambda x: x.abs()).view
    if p == 2:
        return mapped(t, node, [over("sum", lambda x: x * x)], lambda s: s.sqrt(), dtype).view
    powers = over("sum", lambda x: x.abs().call("pow", float(p)))
    return mapped(t, node, [powers], lambda s: s.call("pow", 1.0 / float(p)), dtype).view


def logsumexp(t, node: fx.Node, a) -> View:
    """log Σ exp(x − m) + m, where an infinite maximum m counts as 0."""
    reduced, dtype = _reduced(a), t.dtype(node)
    work = wide(dtype)
    kind = compute_dtype(work)
    shape = kept_shape(a.self.shape, reduced, _keepdim(a))
    if indices.product(a.self.shape[k] for k in reduced) == indices.ZERO:
        return t.full(node, -math.inf, dtype, len(shape))
    peak = reduce(t, node, "max", [a.self], reduced, lambda x: x.to(kind), work, hint="max")
    guard = mapped(t, node, [peak], lambda m: (m.abs() == math.inf).select(m.of(0.0), m), work, "guard")
    summed = reduce(t, node, "sum", [a.self, guard], reduced, lambda x, m: (x.to(kind) - m).exp(), work, hint="sum")
    result = mapped(t, node, [summed, guard], lambda s, m: s.log() + m, dtype)
    return reshaped(t, result, shape)


TABLE: dict[Any, Callable[..., Any]] = {
    aten.sum: total("sum"),
    aten.prod: total("prod"),
    aten.mean: mean,
    aten.amax: extremum("max"),
    aten.amin: extremum("min"),
    aten.max: extremum("max"),
    aten.min: extremum("min"),
    aten.topk: first_of_top,
    aten.argmax: position("argmax"),
    aten.argmin: position("argmin"),
    aten.any: truth("any"),
    aten.all: truth("all"),
    aten.aminmax: aminmax,
    aten.var: variance(root=False, with_mean=False),
    aten.std: variance(root=True, with_mean=False),
    aten.var_mean: variance(root=False, with_mean=True),
    aten.std_mean: variance(root=True, with_mean=True),
    aten.linalg_vector_norm: vector_norm,
    aten.norm: vector_norm,
    aten.logsumexp: logsumexp,
}
