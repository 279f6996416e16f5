"""Which casts to a narrower float are meant as a rounding, and which only say how values are stored.

A graph on 16-bit tensors rounds after every operator; what is computed in one kernel keeps its digits instead, and casts back
and forth (`x.float()` ... `.to(x.dtype)`) mean no more than that.  In a graph on wider tensors, a value that is cast down and
then only read where it is wide again was cast for its rounding (a simulated quantisation), and has to be rounded:

    x: f32;  y = (x / s).to(bf16);  y.float() @ w        y is rounded: no input is bf16, every reader is wide
    x: f32;  y = softmax(x).to(bf16);  y @ w.to(bf16)    y is stored in 16 bits: the product reads it as such (autocast)
    x: bf16; y = norm(x.float()).to(bf16);  y.float()    y is stored in 16 bits, as x is
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

ROUNDINGS = {torch.bfloat16: "to_bf16", torch.float16: "to_f16"}  # the scalar function that rounds to a dtype


def is_rounding(node: fx.Node, source: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether the cast `node` of a tensor of dtype `source` to `dtype` is one whose rounding counts."""
    if dtype not in ROUNDINGS or not source.is_floating_point or source.itemsize <= dtype.itemsize:
        return False
    inputs = [n for n in node.graph.nodes if n.op in ("placeholder", "get_attr")]
    if any(d == dtype for n in inputs for d in _dtypes(n)):
        return False
    readers = list(_readers(node))
    return bool(readers) and not any(_is_narrow(d, dtype) for n in readers for d in _dtypes(n))


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """What computes with a node, through views of it; returning it is no computation."""
    for user in node.users:
        if user.op == "output":
            continue
        if isinstance(user.target, torch._ops.OpOverload) and any(r.alias_info for r in user.target._schema.returns):
            yield from _readers(user)
        else:
            yield user


def _dtypes(node: fx.Node) -> list[torch.dtype]:
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    return [v.dtype for v in values if isinstance(v, torch.Tensor)]


def _is_narrow(dtype: torch.dtype, limit: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype.itemsize <= limit.itemsize
