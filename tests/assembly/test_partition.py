"""What is saved for a target that is not here: graphs are partitioned by its prices and not run."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch._functorch.aot_autograd import aot_function
from torch.utils._python_dispatch import _disable_current_modes

from fusecade.assembly.partition import Partitioner
from fusecade.assembly.saved import Saved
from fusecade.driver import Plan, plan_graph
from fusecade.frontend.decompositions import by_definition, decompositions
from fusecade.ir.target import get_target

SM90 = get_target("sm_90")
HEADS, ROWS, WIDTH = 4, 1024, 64
Graphs = list[fx.GraphModule]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(WIDTH), -1) @ v


def partitioned(plan_of: Callable[[fx.GraphModule, Plan | None], Plan | None]) -> tuple[Graphs, list[Saved]]:
    """Forward and backward graph of an attention in 16 bits on sm_90, and what goes from one to the other.

    plan_of: may replace the plan of a graph.
    """
    graphs: Graphs = []
    saved: list[Saved] = []

    def plan(graph: fx.GraphModule) -> Plan | None:
        with _disable_current_modes():
            return plan_of(graph, plan_graph(graph, SM90))

    def keep(graph: fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph

    with by_definition():
        traced = aot_function(
            attend, keep, keep, partition_fn=Partitioner(SM90, plan, saved.extend, strict=True),
            decompositions=decompositions(),
        )  # fmt: skip
        inputs = [torch.randn(HEADS, ROWS, WIDTH, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        traced(*inputs).float().sum().backward()
    return graphs, saved


def test_rounded_products_are_computed_again_where_kernels_hold_them():
    (_, backward), saved = partitioned(lambda graph, plan: plan)
    assert sum(s.bytes for s in saved) <= 3 * HEADS * ROWS * 4
    assert any("is computed again" in s.reason for s in saved)
    scores = [n for n in backward.graph.nodes if n.op == "call_function" and n.meta["val"].shape[-2:] == (ROWS, ROWS)]
    assert scores


@pytest.mark.parametrize("backward_plan", ["nothing fuses", pytest.param("none", marks=pytest.mark.slow)])
def test_rounded_products_that_would_be_written_are_left_to_pytorch(backward_plan: str):
    """Scores that are written in 16 bits do not fit the maximum and the sum of those that a kernel never rounded."""

    def plan_of(graph: fx.GraphModule, plan: Plan | None) -> Plan | None:
        if not any("tangents" in str(n.target) for n in graph.graph.find_nodes(op="placeholder")):
            return plan
        return Plan(graph, SM90) if backward_plan == "nothing fuses" else None

    _, saved = partitioned(plan_of)
    assert not any("is computed again" in s.reason for s in saved)
    probabilities = HEADS * ROWS * ROWS * 2
    assert max(s.bytes for s in saved) == probabilities  # as PyTorch's own partitioner saves them
