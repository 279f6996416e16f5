"""Edits of an ATen graph: nodes that are added, and what they stand in for; recorded, so that they can be made again.

editor = Editor(gm)
node = editor.call(torch.ops.aten.bmm.default, a, b, before=old)
editor.replace(old, node)
edited, edit = editor.finish()          # edited has the new nodes; replay(gm, edit) makes the same graph
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._subclasses import FakeTensor


@dataclass
class Edit:
    """steps: the new nodes in order, as JSON.  replaced: (position of a node in the graph, number of a step)."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[tuple[int, int]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"steps": self.steps, "replaced": [list(x) for x in self.replaced]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Edit:
        return Edit(list(data["steps"]), [(int(a), int(b)) for a, b in data["replaced"]])


def replay(gm: fx.GraphModule, edit: Edit) -> fx.GraphModule:
    """`gm` edited as recorded.  Raises ValueError where the record does not fit the graph."""
    editor = Editor(gm)
    try:
        for step in edit.steps:
            before = editor.original[step["before"]]
            arguments, keywords = (editor.decoded(step[side]) for side in ("args", "kwargs"))
            editor.call(_target(step["target"]), *arguments, before=before, **keywords)
        for position, number in edit.replaced:
            editor.replace(editor.original[position], editor.made[number])
    except (LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(f"the edit does not fit the graph: {error}") from error
    return editor.finish()[0]


class Editor:
    """A copy of `gm` under change.  Nodes of `gm` and of the copy are both understood as arguments."""

    def __init__(self, gm: fx.GraphModule):
        self.gm = gm
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        result = self.graph.graph_copy(gm.graph, self.copies)
        self.graph.output(result).meta.update(gm.graph.output_node().meta)
        self.original = list(self.graph.nodes)
        self.position = {node: n for n, node in enumerate(self.original)}
        self.made: list[fx.Node] = []
        self.edit = Edit()
        self.mode = detect_fake_mode([n.meta.get("val") for n in gm.graph.nodes if n.op == "placeholder"])

    def here(self, node: fx.Node) -> fx.Node:
        """The node of the copy."""
        return self.copies.get(node, node)

    def call(self, target: Any, *args: Any, before: fx.Node, **kwargs: Any) -> fx.Node:
        """A new node, with its value worked out on fake tensors.  Raises what the operator raises."""
        args, kwargs = fx.map_arg(args, self.here), fx.map_arg(kwargs, self.here)
        value = self._evaluate(target, args, kwargs)
        with self.graph.inserting_before(self.here(before)):
            node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = value
        for name in ("stack_trace", "nn_module_stack", "partitioner_tag"):
            if name in before.meta:
                node.meta[name] = before.meta[name]
        self.edit.steps.append(
            {
                "target": _name(target),
                "args": self._encoded(args),
                "kwargs": self._encoded(kwargs),
                "before": self.position[self.here(before)],
            }
        )
        self.made.append(node)
        return node

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let everything that reads `old` read `new`."""
        old = self.here(old)
        self.edit.replaced.append((self.position[old], self.made.index(new)))
        old.replace_all_uses_with(new)

    def undo(self, count: int) -> None:
        """Take back all nodes but the first `count` made; none of them may have replaced another."""
        while len(self.made) > count:
            self.graph.erase_node(self.made.pop())
            self.edit.steps.pop()

    def finish(self) -> tuple[fx.GraphModule, Edit]:
        self.graph.eliminate_dead_code()
        self.graph.lint()
        edited = fx.GraphModule(self.gm, self.graph)
        edited.meta.update(self.gm.meta)
        return edited, self.edit

    def _evaluate(self, target: Any, args: Any, kwargs: Any) -> Any:
        def value(node: fx.Node) -> Any:
            found = node.meta["val"]
            real = isinstance(found, torch.Tensor) and not isinstance(found, FakeTensor)
            return self.mode.from_tensor(found) if real and self.mode is not None else found

        args, kwargs = fx.map_arg(args, value), fx.map_arg(kwargs, value)
        if self.mode is None:
            return target(*args, **kwargs)
        with self.mode:
            return target(*args, **kwargs)

    def _encoded(self, x: Any) -> Any:
        if isinstance(x, fx.Node):
            return {"node": self.position[x]} if x in self.position else {"made": self.made.index(x)}
        if isinstance(x, list | tuple):
            return [self._encoded(y) for y in x]
        if isinstance(x, dict):
            return {"named": {k: self._encoded(v) for k, v in x.items()}}
        for kind in ("dtype", "device", "memory_format"):
            if isinstance(x, getattr(torch, kind)):
                return {kind: str(x).removeprefix("torch.")}
        assert x is None or isinstance(x, bool | int | float), x
        return x

    def decoded(self, x: Any) -> Any:
        if isinstance(x, list):
            return [self.decoded(y) for y in x]
        if not isinstance(x, dict):
            return x
        ((kind, value),) = x.items()
        if kind == "named":
            return {k: self.decoded(v) for k, v in value.items()}
        if kind == "node":
            return self.original[value]
        if kind == "made":
            return self.made[value]
        return torch.device(value) if kind == "device" else getattr(torch, value)


def _name(target: Any) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else f"operator.{target.__name__}"


def _target(name: str) -> Any:
    if name.startswith("operator."):
        return getattr(operator, name.removeprefix("operator."))
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    return found
