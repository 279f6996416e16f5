"""What a forward graph hands to its backward, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from ..frontend.kinds import CONTRACTION, OPAQUE, kind_of
from .joint import is_view, nested
from .saving import Prices

AN_INPUT = "an input, which is there anyway"
A_RESULT = "a result, which is there anyway"


@dataclass(frozen=True)
class Saved:
    """One value.  bytes: of its memory where it is kept for this only, else 0; sizes as they were when it was compiled."""

    name: str
    shape: tuple[str, ...]
    dtype: str
    bytes: int
    reason: str


def saved_by(forward: fx.GraphModule, results: int, prices: Prices, rows: Mapping[str, str]) -> list[Saved]:
    """Of the outputs of a forward graph, those behind its `results`.  rows: the names of values of rows, with their whole."""
    outputs = forward.graph.output_node().args[0]
    assert isinstance(outputs, tuple | list)
    owned = {_memory(x) for x in outputs[:results] if isinstance(x, fx.Node)}
    found: list[Saved] = []
    for node in dict.fromkeys(x for x in outputs[results:] if isinstance(x, fx.Node)):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            continue
        memory = _memory(node)
        there = memory.op == "placeholder" or memory in owned
        owned.add(memory)  # two views of one memory keep it once
        reason = _reason(memory, there, rows)
        found.append(
            Saved(
                node.name, tuple(map(str, value.shape)), str(value.dtype).removeprefix("torch."),
                0 if there else prices.bytes(memory), reason,
            )
        )  # fmt: skip
    return found


def _reason(memory: fx.Node, there: bool, rows: Mapping[str, str]) -> str:
    if memory.op == "placeholder":
        return AN_INPUT
    if there:
        return A_RESULT
    if memory.name in rows:
        return f"from these {rows[memory.name]} is computed again"
    source = memory.args[0] if nested(memory) else memory
    if isinstance(source, fx.Node) and kind_of(source) == OPAQUE:
        return "it is not computed twice"
    if isinstance(source, fx.Node) and kind_of(source) == CONTRACTION:
        return "a product: computing it again costs more"
    return "computing it again costs more"


def _memory(node: fx.Node) -> fx.Node:
    """The node whose memory a view looks at."""
    while is_view(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
