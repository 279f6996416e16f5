"""Operators that keep what they know of whole rows to themselves, written out so that it can be kept in their place.

A softmax is as large as its operand, and follows from that and two numbers a row, its maximum and its sum.  Where the
whole is not wanted in memory, those two are, and they have to be values of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta

aten = torch.ops.aten
Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _rows(x: torch.Tensor, dim: int) -> Rows:
    """m, x − m, e and s: the maximum of a row, what lies below it, the exponentials of that and their sum."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.to(torch.float32)
    peak = torch.amax(x, [dim], keepdim=True)
    below = x - peak
    powers = torch.exp(below)
    return peak, below, powers, torch.sum(powers, [dim], keepdim=True)


def _softmax(x: torch.Tensor, dim: int, half_to_float: bool = False) -> torch.Tensor:
    _, _, powers, total = _rows(x, dim)
    return (powers / total).to(torch.float32 if half_to_float else x.dtype)


def _safe_softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    peak, _, powers, total = _rows(x, dim)
    shares = powers / total
    return torch.where(peak == -math.inf, torch.zeros_like(total), shares).to(dtype or x.dtype)


def _log_softmax(x: torch.Tensor, dim: int, half_to_float: bool = False) -> torch.Tensor:
    _, below, _, total = _rows(x, dim)
    return (below - torch.log(total)).to(torch.float32 if half_to_float else x.dtype)


TABLE: dict[Any, Callable[..., torch.Tensor]] = {
    aten._softmax: _softmax,
    aten._safe_softmax: _safe_softmax,
    aten._log_softmax: _log_softmax,
}


def hides_rows(node: fx.Node) -> bool:
    """Whether `written_out` has something for the operator."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.overloadpacket not in TABLE:
        return False
    x = node.args[0]
    return isinstance(x, fx.Node) and isinstance(x.meta.get("val"), torch.Tensor) and x.meta["val"].dim() > 0


def written_out(node: fx.Node) -> fx.Node:
    """The operator in parts, in front of it; the last one, which gives what `node` gives, is returned and not yet read."""
    function = TABLE[node.target.overloadpacket]  # type: ignore[union-attr]
    x, rest = node.args[0], node.args[1:]
    assert isinstance(x, fx.Node)
    value = x.meta["val"]
    mode = detect_fake_mode([value])
    with preserve_node_meta():
        parts = make_fx(lambda y: function(y, *rest, **node.kwargs), tracing_mode="real" if mode else "fake")(value)
    copies: dict[fx.Node, Any] = {}
    graph = node.graph
    with graph.inserting_before(node):
        for part in parts.graph.nodes:
            if part.op == "placeholder":
                copies[part] = x
            elif part.op == "output":
                return copies[part.args[0]]
            else:
                copies[part] = graph.node_copy(part, copies.__getitem__)
                for name in ("stack_trace", "nn_module_stack", "partitioner_tag", "recompute", "ac_graph_id", "custom"):
                    if name in node.meta:
                        copies[part].meta[name] = node.meta[name]
    raise AssertionError("a traced graph has an output")
