"""What a backward graph may know of the sums of rows that the forward saved for it.

When: a saved value s is Σ exp(x − max x) of each row, and the backward divides by it.

Before:  p = exp(x − m) / s
After:   p = exp(x − m) / max(s, ½)

Why legal: the greatest element of a row contributes exp(0), so s is 1 at least, and max(s, ½) is s; a half leaves room for
kernels whose exponent is rounded.  A row that has NaN, or nothing but -inf, has NaN for s, and keeps it.  Why cheaper: a
quotient by what might be zero is NaN where its dividend is zero, so no step over masked elements could be left out; now
that zero is divided by what is no zero, they contribute nothing (`passes/neutral.py`), and a causal backward takes half of
the steps.  The maximum itself is taken of one number a row.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx
from torch._guards import detect_fake_mode

aten = torch.ops.aten

LEAST = 0.5


def sums_of_powers(graph: fx.Graph) -> set[str]:
    """The names of the nodes of a graph that are Σ exp(x − max x) over the dimensions of the maximum."""
    return {node.name for node in graph.nodes if _is_sum_of_powers(node)}


def bound_sums(backward: fx.GraphModule, sums: Collection[str]) -> None:
    """Says in a backward graph what is known of the inputs named `sums`, wherever something is divided by one."""
    inputs = backward.graph.find_nodes(op="placeholder")
    for node in inputs:
        divided = [u for u in node.users if u.target is aten.div.Tensor and u.args[1] is node and u.args[0] is not node]
        if node.name not in sums or not divided:
            continue
        with backward.graph.inserting_after(inputs[-1]):
            bounded = backward.graph.call_function(aten.clamp_min.default, (node, LEAST))
        bounded.meta["val"] = _bounded(node.meta["val"])
        for user in divided:
            user.replace_input_with(node, bounded)
    backward.recompile()


def _bounded(value: torch.Tensor) -> torch.Tensor:
    mode = detect_fake_mode([value])
    if mode is None:
        return torch.empty_like(value)
    with mode:
        return aten.clamp_min.default(value, LEAST)


def _is_sum_of_powers(node: fx.Node) -> bool:
    if node.target is not aten.sum.dim_IntList or len(node.args) < 2:
        return False
    powers = node.args[0]
    if not isinstance(powers, fx.Node) or powers.target is not aten.exp.default:
        return False
    below = powers.args[0]
    if not isinstance(below, fx.Node) or below.target is not aten.sub.Tensor or below.kwargs:
        return False
    x, peak = below.args
    if not isinstance(peak, fx.Node) or peak.target is not aten.amax.default or peak.args[0] is not x:
        return False
    kept = len(peak.args) > 2 and peak.args[2] is True
    return kept and _dims(peak) == _dims(node)


def _dims(node: fx.Node) -> set[int]:
    of = node.args[0]
    assert isinstance(of, fx.Node)
    rank, dims = of.meta["val"].dim(), node.args[1]
    dims = dims if isinstance(dims, list | tuple) else [dims]
    return {int(d) % rank for d in dims} if dims else set(range(rank))  # type: ignore[arg-type]


__all__ = ["bound_sums", "sums_of_powers"]
