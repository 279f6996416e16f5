"""A plan as the steps of a package: kernel calls, and the operators that remain, as data."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import fx

from ..driver import Call, Plan
from ..errors import InternalCompilerError, SourceLine, UnsupportedProgram
from ..frontend.capture import Captured
from ..frontend.importer import source_line
from ..frontend.sizes import Opaque
from ..runtime.package.operators import name_of, problem_of
from ..runtime.package.values import encode_constant
from .package_signature import home_of, layout_of, outputs_of, text_of
from .splice import Placed, splice
from .titles import title_of

_LARGEST_CALL = 1000  # arguments or results of one step, as manifests limit them


class Stand:
    """Stands for a kernel in a graph that is only read."""

    def __init__(self, call: Call) -> None:
        self.key, self.title = call.artifact.fingerprint, title_of(call)
        self.__name__ = self.__qualname__ = "kernel"
        self.__module__ = __name__

    def __call__(self, *_: Any) -> None:
        raise InternalCompilerError("a graph that is only to be read was run", stage="export")


class Steps:
    """The steps of one plan.

    steps, results: as in the manifest, kernels by their fingerprint.  lines: of the program, where each step comes from.
    """

    def __init__(self, plan: Plan, captured: Captured) -> None:
        """Raises UnsupportedProgram for what a package cannot keep, with the line of the program."""
        self._names, self._home = captured.size_names, home_of(captured)
        placed = [Placed(call, cast(Any, Stand(call)), None) for call in plan.calls if not _is_empty(call)]
        graph = splice(plan.gm, placed, through_operator=False)
        self._number: dict[fx.Node, int] = {}
        self._sizes: dict[fx.Node, int | str] = {}
        self._lists: dict[fx.Node, list[int]] = {}
        self._number_inputs(graph, captured)
        self.steps: list[dict[str, Any]] = []
        self.lines: list[SourceLine | None] = []
        for node in graph.graph.nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op not in ("placeholder", "get_attr", "output"):
                raise self._refused(node, f"a node of kind {node.op}")
        results = outputs_of(graph)
        self.results = [self._number[x] for x in results if isinstance(x, fx.Node)]

    def _number_inputs(self, graph: fx.GraphModule, captured: Captured) -> None:
        """First what the package holds, in its order, then the tensors among the arguments."""
        place = {name: n for n, name in enumerate(constants_of(captured))}
        for node in graph.graph.nodes:
            if node.op == "get_attr":
                if str(node.target) not in place:
                    raise self._refused(node, "a constant that is no tensor")
                self._number[node] = place[str(node.target)]
        self._next = len(place)
        placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
        for (kind, key), node in zip(captured.inputs, placeholders, strict=True):
            if kind == "parameter":
                self._number[node] = place[str(key)]
            else:
                self._number[node] = self._next
                self._next += 1

    def _call(self, node: fx.Node) -> None:
        target = node.target
        if target is operator.getitem:
            source, index = node.args
            if isinstance(source, fx.Node) and source in self._lists and isinstance(index, int):
                self._number[node] = self._lists[source][index]
                return
            raise self._refused(node, "a part of something that is no list of results")
        if isinstance(target, Stand):
            tensors, sizes = node.args
            step: dict[str, Any] = {
                "kernel": target.key,
                "title": target.title,
                "inputs": [self._number[x] for x in cast(Any, tensors)],
                "sizes": [self._size(x) for x in cast(Any, sizes)],
            }
            self._append(node, step, [self._result(node, x) for x in node.meta["val"]], listed=True)
            return
        value = node.meta.get("val")
        if isinstance(value, int | torch.SymInt) and not isinstance(value, bool):
            try:
                self._sizes[node] = text_of(value, self._names)
                return
            except Opaque:
                pass  # a step computes it
        if (why := problem_of(target)) is not None:
            raise self._refused(node, why)
        listed = isinstance(value, tuple | list)
        gives = [self._result(node, x) for x in (value if listed else [value])]  # type: ignore[union-attr]
        step = {
            "operator": name_of(target),
            "args": [self._argument(node, x) for x in node.args],
            "kwargs": {k: self._argument(node, x) for k, x in node.kwargs.items()},
            "listed": listed,
        }
        if max(len(gives), len(node.args)) > _LARGEST_CALL:
            raise self._refused(node, f"more than {_LARGEST_CALL} arguments or results")
        self._append(node, step, gives, listed)

    def _append(self, node: fx.Node, step: dict[str, Any], gives: list[Any], listed: bool) -> None:
        self.steps.append({**step, "gives": gives})
        self.lines.append(source_line(node))
        numbers = list(range(self._next, self._next + len(gives)))
        self._next += len(gives)
        if listed:
            self._lists[node] = numbers
        else:
            [self._number[node]] = numbers

    def _result(self, node: fx.Node, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            try:
                return layout_of(value, self._names)
            except Opaque as error:
                raise self._refused(node, f"the size of its result: {error}") from error
        if isinstance(value, int | float | torch.SymInt | torch.SymFloat | torch.SymBool):
            return "number"
        if value is None:
            return None
        raise self._refused(node, f"a result of type {type(value).__name__}")

    def _size(self, x: Any) -> int | str:
        return self._sizes[x] if isinstance(x, fx.Node) and x in self._sizes else self._input_size(x)

    def _input_size(self, x: Any) -> int | str:
        if isinstance(x, int):
            return x
        raise UnsupportedProgram("a kernel takes a size that is not known before the program runs")

    def _argument(self, node: fx.Node, x: Any) -> Any:
        if isinstance(x, fx.Node):
            if x in self._sizes:
                size = self._sizes[x]
                return size if isinstance(size, int) else {"size": size}
            if x not in self._number:
                raise self._refused(node, "an argument that is a list of results")
            return {"value": self._number[x]}
        if isinstance(x, tuple | list):
            return [self._argument(node, y) for y in x]
        if isinstance(x, torch.device):
            if x.type != self._home and x.type != "cpu":
                raise self._refused(node, f"a place other than that of its tensors: {x}")
            return {"device": "target" if x.type == self._home else "cpu"}
        try:
            return encode_constant(x)
        except ValueError as error:
            raise self._refused(node, str(error)) from error

    def _refused(self, node: fx.Node, why: str) -> UnsupportedProgram:
        return UnsupportedProgram(
            f"{node.target} cannot be kept in a package: {why}",
            source=source_line(node),
            next_step="keep this line outside of the function that is exported, or write it in other operations",
        )


def constants_of(captured: Captured) -> dict[str, torch.Tensor]:
    """What a package has to hold: parameters of a module, tensors that the function closes over, numbers in its graph."""
    found = {str(key): captured.parameters[str(key)] for kind, key in captured.inputs if kind == "parameter"}
    for node in captured.gm.graph.nodes:
        if node.op == "get_attr" and isinstance(value := _attribute(captured.gm, str(node.target)), torch.Tensor):
            found.setdefault(str(node.target), value)
    return found


def _is_empty(call: Call) -> bool:
    """Whether it is given a tensor without elements: what comes of that, PyTorch's operators know."""
    return any(
        isinstance(n, int) and n == 0 for node in call.inputs for n in cast(torch.Tensor, node.meta["val"]).shape
    )


def _attribute(root: Any, name: str) -> Any:
    for part in name.split("."):
        root = getattr(root, part)
    return root


__all__ = ["Steps", "constants_of"]
