"""Contractions: multiply, then sum.  Rows are i, columns n or j, the contracted rank k, batches b."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from xdsl.dialects.builtin import i1

from .builder import Einsum, Out, Scalar, Tensor, View
from .indices import ONE, ZERO, Expr
from .reductions import mapped, wide
from .sizes import Opaque, compute_dtype

aten = torch.ops.aten


def contract(
    t,
    node: fx.Node,
    operands: Sequence[tuple[Tensor, Sequence[str]]],
    out: Sequence[str],
    dtype: torch.dtype,
    hint: str = "",
) -> Tensor:
    """Σ over the ranks that are not in `out` of the product of the operands, each with the rank of every dimension."""
    extents: dict[str, Expr] = {}
    for x, names in operands:
        for name, n in zip(names, x.shape, strict=True):
            if extents.get(name, ONE) == ONE:
                extents[name] = n
    order = [*out, *(r for r in extents if r not in out)]
    e = Einsum(t, node, {r: extents[r] for r in order})
    kind = compute_dtype(dtype)
    total: Scalar | None = None
    for x, names in operands:
        value = e.read(x, [ZERO if n == ONE else e.rank(r) for r, n in zip(names, x.shape, strict=True)]).to(kind)
        total = value if total is None else total & value if kind == i1 else total * value
    assert total is not None
    (view,) = e.finish([Out("any" if kind == i1 else "sum", total, list(out), dtype, hint)])
    return Tensor(view, tuple(extents[r] for r in out), dtype)


def plus(t, node: fx.Node, a, product: Tensor) -> View:
    """beta * self + alpha * product."""
    kind = compute_dtype(t.dtype(node))

    def formula(p: Scalar, c: Scalar | None = None) -> Scalar:
        p = p if a.alpha == 1 else p * a.alpha
        if c is None:
            return p
        c = c.to(kind)
        return p + (c if a.beta == 1 else c * a.beta)

    inputs = [product] if a.beta == 0 else [product, a.self]
    return mapped(t, node, inputs, formula, t.dtype(node)).view


def mm(t, node: fx.Node, a) -> View:
    x, y = (a.self, a.mat2)
    return contract(t, node, [(x, "ik"), (y, "kn")], "in", t.dtype(node)).view


def bmm(t, node: fx.Node, a) -> View:
    return contract(t, node, [(a.self, "bik"), (a.mat2, "bkj")], "bij", t.dtype(node)).view


def addmm(t, node: fx.Node, a) -> View:
    dtype = t.dtype(node)
    return plus(t, node, a, contract(t, node, [(a.mat1, "ik"), (a.mat2, "kn")], "in", wide(dtype), "mm"))


def baddbmm(t, node: fx.Node, a) -> View:
    dtype = t.dtype(node)
    return plus(t, node, a, contract(t, node, [(a.batch1, "bik"), (a.batch2, "bkj")], "bij", wide(dtype), "bmm"))


def mv(t, node: fx.Node, a) -> View:
    return contract(t, node, [(a.self, "ik"), (a.vec, "k")], "i", t.dtype(node)).view


def addmv(t, node: fx.Node, a) -> View:
    return plus(t, node, a, contract(t, node, [(a.mat, "ik"), (a.vec, "k")], "i", wide(t.dtype(node)), "mv"))


def dot(t, node: fx.Node, a) -> View:
    return contract(
        t, node, [(a.self, "k"), (a.tensor if hasattr(a, "tensor") else a.other, "k")], "", t.dtype(node)
    ).view


def _leading(count: int) -> list[str]:
    """Names of the dimensions before the last of a left operand: rows, and batches before them."""
    batches = ["b", "h", "g"] if count <= 4 else [f"b{n}" for n in range(count - 1)]
    return [*batches[: count - 1], "i"] if count else []


def linear(t, node: fx.Node, a) -> View:
    """x · weightᵀ + bias."""
    rows = _leading(len(a.input.shape) - 1)
    columns = ["n"] if len(a.weight.shape) == 2 else []
    dtype = t.dtype(node)
    product = contract(
        t, node, [(a.input, [*rows, "k"]), (a.weight, [*columns, "k"])], [*rows, *columns],
        dtype if a.bias is None else wide(dtype), "" if a.bias is None else "mm",
    )  # fmt: skip
    if a.bias is None:
        return product.view
    kind = compute_dtype(dtype)
    return mapped(t, node, [product, a.bias], lambda p, b: p + b.to(kind), dtype).view


def matmul(t, node: fx.Node, a) -> View:
    """Batches broadcast; a vector has no rows or no columns."""
    x, y = a.self, a.other if hasattr(a, "other") else a.tensor2
    rows = ["i"] if len(x.shape) > 1 else []
    columns = ["j"] if len(y.shape) > 1 else []
    count = max(len(x.shape), len(y.shape), 2) - 2
    batches = _leading(count + 1)[:-1]

    def batch(z: Tensor) -> list[str]:
        own = max(len(z.shape) - 2, 0)
        return batches[count - own :]

    return contract(
        t,
        node,
        [(x, [*batch(x), *rows, "k"]), (y, [*batch(y), "k", *columns])],
        [*batches, *rows, *columns],
        t.dtype(node),
    ).view


def einsum(t, node: fx.Node, a) -> View:
    """Letters are ranks already."""
    equation = a.equation.replace(" ", "")
    if "." in equation:
        raise Opaque("an einsum with an ellipsis")
    left, arrow, out = equation.partition("->")
    parts = left.split(",")
    if not arrow:
        letters = "".join(parts)
        out = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return contract(t, node, list(zip(a.tensors, parts, strict=True)), out, t.dtype(node)).view


def outer(t, node: fx.Node, a) -> View:
    other = a.vec2 if hasattr(a, "vec2") else a.other
    kind = compute_dtype(t.dtype(node))
    n, m = a.self.shape[0], other.shape[0]
    e = Einsum(t, node, {"i": n, "j": m})
    x = e.read(a.self, [e.rank("i")]).to(kind) * e.read(other, [e.rank("j")]).to(kind)
    return e.finish([Out("map", x, ["i", "j"], t.dtype(node))])[0]


TABLE: dict[Any, Callable[..., Any]] = {
    aten.mm: mm,
    aten._int_mm: mm,
    aten.bmm: bmm,
    aten.addmm: addmm,
    aten.baddbmm: baddbmm,
    aten.mv: mv,
    aten.addmv: addmv,
    aten.dot: dot,
    aten.vdot: dot,
    aten.linear: linear,
    aten.matmul: matmul,
    aten.einsum: einsum,
    aten.outer: outer,
    aten.ger: outer,
}
