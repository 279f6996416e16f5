"""Reads through index tensors.  An index that is an index expression after all (a slice of positions) makes a view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ..ir.cascade import GatherOp
from . import indices, picks
from .builder import Einsum, Out, Tensor, View
from .indices import ONE, ZERO, Expr, dim
from .sizes import Opaque, compute_dtype
from .views import between

aten = torch.ops.aten


def positions(t, x: Tensor, index: Sequence[Expr], bounds: indices.Bounds) -> Expr | None:
    """The value of integer tensor `x` at `index` as an index expression, when it is one."""
    number = t.numbers.get(x.view.value)
    if number is not None:
        return indices.sympy.Integer(int(number))
    e = t.positions.get(x.view.value)
    if e is None:
        return None
    table = {f"d{k}": i for k, i in enumerate(index)}
    access = [indices.substitute(part, table, bounds) for part in x.view.access.data]
    return indices.substitute(e, {f"v{k}": part for k, part in enumerate(access)}, bounds)


def read_at(
    t, node: fx.Node, source: Tensor, index: Sequence[Expr | tuple[Tensor, Sequence[Expr]]], shape: Sequence[Expr]
) -> View:
    """The result over d0, d1, … of `shape`: dimension k read at an expression, or at an element."""
    bounds = indices.bounds_of(shape)
    plain: list[Expr | None] = []
    for k, entry in enumerate(index):
        if isinstance(entry, tuple):
            e = positions(t, entry[0], entry[1], bounds)
            if e is not None and not indices.nonnegative(e) and e.is_Integer:
                e = e + source.shape[k]
            plain.append(e if e is not None and indices.within(e, source.shape[k], bounds) else None)
        else:
            plain.append(entry)
    if all(e is not None for e in plain):
        index_ = [ZERO if n == ONE else e for e, n in zip(plain, source.shape, strict=True)]
        return t.reindex(source.view, [indices.substitute(e, {}, bounds) for e in index_ if e is not None], shape)

    dims = [f"d{k}" for k in range(len(shape))]
    e = Einsum(t, node, dict(zip(dims, shape, strict=True)))
    own = {f"d{k}": e.rank(d) for k, d in enumerate(dims)}

    def here(x: Expr) -> Expr:
        return indices.substitute(x, own, e.bounds)

    at: list[tuple[Any, tuple[Expr, ...]]] = []
    wanted: list[Expr] = []
    for entry, known in zip(index, plain, strict=True):
        if known is not None:
            wanted.append(here(known))
            continue
        tensor, where = entry  # type: ignore[misc]
        wanted.append(GatherOp.slot(len(at)))
        at.append((tensor.view.value, e.access(tensor, [here(x) for x in where])))
    slots = [GatherOp.slot(n) for n in range(len(at))]
    access = e.access(source, wanted)
    value = source.view.value
    if any(s in part.free_symbols and part != s for part in access for s in slots):
        value, access = (
            t.copy_of(node, source),
            tuple(ZERO if n == ONE and x not in slots else x for x, n in zip(wanted, source.shape, strict=True)),
        )
    return e.gather(value, access, at, dims)


def _check(x: Tensor) -> None:
    if x.dtype == torch.bool or x.dtype.is_floating_point:
        raise Opaque(
            "the size of its result depends on data" if x.dtype == torch.bool else "an index that is no integer"
        )


def embedding(t, node: fx.Node, a) -> View:
    rank = len(a.indices.shape)
    where = [ZERO if n == ONE else dim(k) for k, n in enumerate(a.indices.shape)]
    return read_at(t, node, a.weight, [(a.indices, where), dim(rank)], t.shape(node))


def index_select(t, node: fx.Node, a) -> View:
    if not a.self.shape:
        return a.self.view
    k = a.dim % len(a.self.shape)
    where = [dim(k)] if a.index.shape else []
    index: list[Any] = [dim(m) for m in range(len(a.self.shape))]
    index[k] = (a.index, where)
    return read_at(t, node, a.self, index, t.shape(node))


def gather(t, node: fx.Node, a) -> View:
    shape = t.shape(node)
    if not a.self.shape:
        return a.self.view
    k = a.dim % len(a.self.shape)
    if picks.is_pick(a.self, a.index, k):
        return picks.picked(t, node, a.self, a.index, k)
    index: list[Any] = [ZERO if n == ONE else dim(m) for m, n in enumerate(shape)]
    where = list(index)
    index[k] = (a.index, where if a.index.shape else [])
    return read_at(t, node, a.self, index, shape)


def index(t, node: fx.Node, a) -> View:
    """index.Tensor: the index tensors broadcast; their dimensions stand where they stood together, else in front."""
    shape = t.shape(node)
    given = list(a.indices) + [None] * (len(a.self.shape) - len(a.indices))
    tensors = [x for x in given if x is not None]
    for x in tensors:
        _check(x)
    rank = max(len(x.shape) for x in tensors)
    chosen = [k for k, x in enumerate(given) if x is not None]
    neighbours = chosen == list(range(chosen[0], chosen[0] + len(chosen)))
    first = chosen[0] if neighbours else 0
    rest = [d for d in range(len(shape)) if not first <= d < first + rank]
    entries: list[Any] = []
    for x in given:
        if x is None:
            entries.append(dim(rest.pop(0)))
            continue
        offset = first + rank - len(x.shape)
        entries.append((x, [ZERO if n == ONE else dim(offset + k) for k, n in enumerate(x.shape)]))
    return read_at(t, node, a.self, entries, shape)


# --- writes of a part, which are reads of one of two tensors ------------------------------------------------------


def slice_scatter(t, node: fx.Node, a) -> View:
    """`src` in a slice, `self` elsewhere."""
    if a.step != 1:
        raise Opaque("it writes with a step")
    shape = t.shape(node)
    k = a.dim % len(shape)
    start = ZERO if a.start is None else t.size(a.start)
    if not indices.nonnegative(start):
        start = shape[k] + start
    return _replaced(t, node, a, k, start, start + a.src.shape[k])


def select_scatter(t, node: fx.Node, a) -> View:
    """`src` at one index, `self` elsewhere."""
    shape = t.shape(node)
    k = a.dim % len(shape)
    at = t.size(a.index)
    if not indices.nonnegative(at):
        at = shape[k] + at
    return _replaced(t, node, a, k, at, at + 1)


def _replaced(t, node: fx.Node, a, k: int, start: Expr, end: Expr) -> View:
    shape = t.shape(node)
    e, dims = t.elementwise(node)
    kind = compute_dtype(t.dtype(node))
    index_ = [ZERO if n == ONE else e.rank(d) for d, n in zip(dims, shape, strict=True)]
    inner = list(index_)
    if len(a.src.shape) == len(shape):
        inner[k] = e.rank(dims[k]) - start
    else:
        del inner[k]
    new = e.read(a.src, inner).to(kind)
    condition = between(e, e.rank(dims[k]), start, end, shape[k])
    if condition is None:
        return e.finish([Out("map", new, dims, t.dtype(node))])[0]
    return e.finish([Out("map", condition.select(new, e.read(a.self, index_)), dims, t.dtype(node))])[0]


def copy(t, node: fx.Node, a) -> View:
    """A functional copy_: `src`, broadcast and cast to what `self` is."""
    e, dims = t.elementwise(node)
    x = e.broadcast(a.src, dims).to(compute_dtype(t.dtype(node)))
    return e.finish([Out("map", x, dims, t.dtype(node))])[0]


TABLE: dict[Any, Callable[..., Any]] = {
    aten.embedding: embedding,
    aten.index_select: index_select,
    aten.gather: gather,
    **dict.fromkeys((aten.index, aten._unsafe_index), index),
    aten.slice_scatter: slice_scatter,
    aten.select_scatter: select_scatter,
    aten.copy: copy,
}
