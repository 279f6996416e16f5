"""Small ATen graphs, and plans that put hand-written kernels into them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from data.artifacts import row_sum
from torch import fx

from fusecade.assembly.regions import region_of
from fusecade.assembly.splice import Placed
from fusecade.codegen.artifact import KernelArtifact
from fusecade.driver import Call, Plan
from fusecade.frontend.capture import capture
from fusecade.ir.target import get_target
from fusecade.runtime.loaded import load
from fusecade.runtime.operator import Entry, register

CPU = torch.device("cpu")


def graph_of(fn, *tensors: torch.Tensor, dynamic=None) -> fx.GraphModule:
    return capture(fn, tensors, dynamic=dynamic).gm


def node_of(gm: fx.GraphModule, operator: str, n: int = 0) -> fx.Node:
    """The n-th call of an operator: "sum", "mul"."""
    return [x for x in gm.graph.nodes if x.op == "call_function" and str(x.target).split(".")[1] == operator][n]


def call_of(gm: fx.GraphModule, n: int = 0, artifact: KernelArtifact | None = None) -> Call:
    """`row_sum` in place of the n-th sum of the graph, whatever its shape."""
    node = node_of(gm, "sum", n)
    source = node.all_input_nodes[0]
    rows, columns = source.meta["val"].shape
    return Call(artifact or row_sum(), [source], [node], {"n": rows, "m": columns}, ("sum",))


def plan_of(gm: fx.GraphModule, *calls: Call) -> Plan:
    return Plan(gm, get_target("cpu"), list(calls))


_HELD: list[Entry] = []  # a kernel is forgotten with the last who holds it


def placed(gm: fx.GraphModule, call: Call, folder: Path, key: str) -> Placed:
    region = region_of(gm, call.inputs, call.outputs, len(call.artifact.sizes))
    # A name of its own for each, as different programs would have.
    artifact = replace(call.artifact, params={**call.artifact.params, "test": hash(key) % 1000})
    entry = Entry(key, load(artifact, folder), region.module() if region else None, CPU)
    _HELD.append(entry)
    return Placed(call, register(entry), region)
