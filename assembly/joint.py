"""The graph of a forward and its backward pass together, as AOTAutograd traces it, and which node belongs where."""

from __future__ import annotations

import operator
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointPolicy

_AGAIN = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)


class Joint:
    """forward: what the results of the forward are computed from.  before: all that can be known before gradients come in.

    gradients: the results of the backward.
    """

    def __init__(self, gm: fx.GraphModule, forward_outputs: int) -> None:
        self.gm, self.count = gm, forward_outputs

    @property
    def graph(self) -> fx.Graph:
        return self.gm.graph

    @cached_property
    def _outputs(self) -> list[Any]:
        return tree_leaves(self.graph.output_node().args)

    @cached_property
    def results(self) -> list[fx.Node]:
        return [x for x in self._outputs[: self.count] if isinstance(x, fx.Node)]

    @cached_property
    def gradients(self) -> set[fx.Node]:
        return {x for x in self._outputs[self.count :] if isinstance(x, fx.Node)}

    @cached_property
    def forward(self) -> set[fx.Node]:
        found: set[fx.Node] = set()
        pending = list(self.results)
        while pending:
            node = pending.pop()
            if node not in found:
                found.add(node)
                pending.extend(node.all_input_nodes)
        return found

    @cached_property
    def after(self) -> set[fx.Node]:
        """What waits for incoming gradients, or was marked as a part of the backward with an effect."""
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            starts = node.op == "placeholder" and "tangents" in str(node.target)
            tagged = node.meta.get("partitioner_tag") in ("must_be_in_backward",)
            mutates = node.meta.get("partitioner_tag") == "is_backward" and _mutates(node)
            if starts or tagged or mutates or any(n in found for n in node.all_input_nodes):
                found.add(node)
        return found

    @cached_property
    def before(self) -> set[fx.Node]:
        return {n for n in self.graph.nodes if n not in self.after and n.op != "output"}

    @cached_property
    def late(self) -> set[fx.Node]:
        """What only the backward reads, and could be known before."""
        return self.before - self.forward

    @cached_property
    def held(self) -> set[fx.Node]:
        """The results of the forward, and what they are views of."""
        found: set[fx.Node] = set()
        pending = list(self.results)
        while pending:
            node = pending.pop()
            if node in found:
                continue
            found.add(node)
            if is_view(node):
                pending.extend(n for n in node.all_input_nodes[:1])
        return found

    def wanted_later(self, node: fx.Node) -> bool:
        """Whether something that is not a part of the forward reads a value, or a view of it."""
        pending, seen = [node], set()
        while pending:
            x = pending.pop()
            if x in seen:
                continue
            seen.add(x)
            if any(u not in self.forward and u.op != "output" for u in x.users):
                return True
            pending.extend(u for u in x.users if is_view(u))
        return False

    def asked(self, node: fx.Node) -> str | None:
        """What the user said of it (`torch.utils.checkpoint`): "again", "keep", or nothing."""
        policy = node.meta.get("recompute")
        return "again" if policy in _AGAIN else "keep" if policy == CheckpointPolicy.MUST_SAVE else None

    def alone(self) -> fx.GraphModule:
        """The forward by itself, its nodes named as they are here."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            if node in self.forward:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[x] if isinstance(x, fx.Node) else x for x in self._outputs[: self.count]))
        return fx.GraphModule(self.gm, graph)


def is_view(node: fx.Node) -> bool:
    """An operator whose result looks at the memory of its first operand."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target.is_view or target.overloadpacket in (torch.ops.aten._unsafe_view, torch.ops.aten.detach)


def nested(node: fx.Node) -> bool:
    """One of several results of an operator that makes new tensors."""
    if node.target is not operator.getitem:
        return False
    source = node.args[0]
    return isinstance(source, fx.Node) and not is_view(source)


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
