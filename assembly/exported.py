"""Programs of `torch.export`: as the graph that is planned, and with another graph in their place."""

from __future__ import annotations

import copy

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from ..frontend.decompositions import decompositions


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program in the operators that we import, free of in-place updates."""
    with torch.no_grad():
        return program.run_decompositions(decompositions())


def with_graph(program: ExportedProgram, gm: fx.GraphModule) -> ExportedProgram:
    """The program with a graph of the same inputs and outputs in place of its own; these may have other names."""
    signature = copy.deepcopy(program.graph_signature)
    results = gm.graph.output_node().args[0]
    assert isinstance(results, tuple | list)
    for spec, result in zip(signature.output_specs, results, strict=True):
        if isinstance(result, fx.Node) and hasattr(spec.arg, "name"):
            spec.arg.name = result.name
    renamed: dict[str, str] = {}
    for spec, node in zip(signature.input_specs, gm.graph.find_nodes(op="placeholder"), strict=True):
        renamed[spec.arg.name] = spec.arg.name = node.name
    for spec in signature.output_specs:
        if spec.kind == OutputKind.USER_INPUT_MUTATION:
            spec.target = renamed[spec.target]
    return program._update(gm, signature)


__all__ = ["decomposed", "with_graph"]
