"""Kernels into the graph: the nodes that a kernel computes become one call and a `getitem` for each output.

before   s = bmm(q, k);  p = softmax(s);  o = bmm(p, v)
after    c = fusecade.call("3fa9…", [q, k, v], []);  o = c[0]

A kernel that other compilers are shown becomes its launches instead (`launch_nodes`).
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import fx
from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_functional

from ..driver import Call
from ..errors import InternalCompilerError
from ..runtime.operator import OPERATOR, Entry
from .launch_nodes import insert_launches
from .regions import Region


@dataclass(frozen=True)
class Placed:
    """A kernel that is loaded, with its call and the region it replaces (None where that cannot stand alone).

    visible: whether it is put into the graph as launches, not as a call.
    """

    call: Call
    entry: Entry
    region: Region | None
    visible: bool = False


def splice(gm: fx.GraphModule, placed: Sequence[Placed], *, through_operator: bool = True) -> fx.GraphModule:
    """A copy of `gm` in which kernels are called.

    through_operator: call the operator, which other compilers take as it is, or launch what they are to see; otherwise call
    the loaded kernel itself, which saves the dispatcher's time in a graph that runs as it is.
    Raises InternalCompilerError when the calls cannot be put into an order.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(gm.graph, copies)
    graph.output(result).meta.update(gm.graph.output_node().meta)
    position: dict[fx.Node, float] = {node: float(n) for n, node in enumerate(graph.nodes)}
    replaced: list[tuple[fx.Node, fx.Node]] = []
    known: dict[str, Any] = {}
    with graph.inserting_before(graph.output_node()):
        for one in placed:
            old = [copies[node] for node in one.call.outputs]
            before = len(graph.nodes)
            if through_operator and one.visible:
                getitems = _insert_launches(graph, one, copies, old, known)
            else:
                call = _insert_call(graph, one, copies, old, through_operator)
                getitems = [_insert_getitem(graph, call, n, node) for n, node in enumerate(old)]
            first = min(position[node] for node in old)
            for n, node in enumerate(list(graph.nodes)[before - 1 : -1]):
                position[node] = first + n / 1e6
            replaced.extend(zip(old, getitems, strict=True))
    for node, new in replaced:
        node.replace_all_uses_with(new)
    _sort(graph, position)
    graph.eliminate_dead_code()
    graph.lint()
    spliced = fx.GraphModule(gm, graph)
    spliced.meta.update(gm.meta)
    return spliced


def _insert_call(
    graph: fx.Graph, one: Placed, copies: dict[fx.Node, fx.Node], old: Sequence[fx.Node], through_operator: bool
) -> fx.Node:
    tensors = one.region.tensors if one.region else one.call.inputs
    sizes: list[Any] = [_insert_size(graph, one.call.sizes[name], copies) for name in one.call.artifact.sizes]
    sizes += [copies[node] for node in (one.region.sizes if one.region else ())]
    arguments = ([copies[node] for node in tensors], sizes)
    if through_operator:
        arguments = ([_lifted(graph, node) for node in arguments[0]], sizes)
        call = graph.call_function(OPERATOR, (one.entry.key, *arguments))
    else:
        call = graph.call_function(one.entry, arguments)
    call.meta["val"] = [node.meta["val"] for node in old]
    _keep_origin(call, old[-1])
    return call


def _insert_launches(
    graph: fx.Graph, one: Placed, copies: dict[fx.Node, fx.Node], old: Sequence[fx.Node], known: dict[str, Any]
) -> list[fx.Node]:
    before = len(graph.nodes)
    tensors = [_lifted(graph, copies[node]) for node in one.call.inputs]
    sizes = [_insert_size(graph, one.call.sizes[name], copies) for name in one.call.artifact.sizes]
    outputs = insert_launches(graph, one.entry.kernel, tensors, sizes, old[0].meta["val"], known)
    for node in list(graph.nodes)[before - 1 : -1]:
        _keep_origin(node, old[-1])
    return outputs


def _lifted(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A constant of the graph as compilers expect it: read by nothing but the operator that makes a tensor of it."""
    if node.op != "get_attr":
        return node
    made = graph.call_function(torch.ops.aten.lift_fresh_copy.default, (node,))
    made.meta["val"] = node.meta["val"]
    return made


def _insert_getitem(graph: fx.Graph, call: fx.Node, n: int, old: fx.Node) -> fx.Node:
    node = graph.call_function(operator.getitem, (call, n))
    node.meta["val"] = old.meta["val"]
    _keep_origin(node, old)
    return node


def _insert_size(graph: fx.Graph, source: fx.Node | tuple[fx.Node, int] | int, copies: dict[fx.Node, fx.Node]) -> Any:
    if isinstance(source, int):
        return source
    if isinstance(source, fx.Node):
        return copies[source]
    tensor, dim = source
    node = graph.call_function(torch.ops.aten.sym_size.int, (copies[tensor], dim))
    node.meta["val"] = tensor.meta["val"].shape[dim]
    return node


def _keep_origin(node: fx.Node, old: fx.Node) -> None:
    for name in ("stack_trace", "nn_module_stack", "source_fn_stack", "original_aten", "partitioner_tag"):
        if name in old.meta:
            node.meta[name] = old.meta[name]


def _sort(graph: fx.Graph, position: dict[fx.Node, float]) -> None:
    """Definition before use, near the old order; what draws random numbers or writes keeps its order exactly."""
    nodes = list(graph.nodes)
    users: dict[fx.Node, list[fx.Node]] = {node: list(node.users) for node in nodes}
    ordered = sorted((node for node in nodes if _has_effect(node)), key=position.__getitem__)
    for earlier, later in pairwise(ordered):
        users[earlier].append(later)
    waiting = dict.fromkeys(nodes, 0)
    for following in users.values():
        for node in following:
            waiting[node] += 1
    rank: Callable[[fx.Node], float] = lambda node: -1.0 if node.op == "placeholder" else position[node]  # noqa: E731
    ready = [(rank(node), n, node) for n, node in enumerate(nodes) if not waiting[node]]
    heapq.heapify(ready)
    number = {node: n for n, node in enumerate(nodes)}
    order: list[fx.Node] = []
    while ready:
        node = heapq.heappop(ready)[2]
        order.append(node)
        for user in users[node]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, (rank(user), number[user], user))
    output = graph.output_node()
    if len(order) != len(nodes):
        stuck = [node.name for node in nodes if waiting[node]]
        raise InternalCompilerError(f"kernels wait for each other's results: {', '.join(stuck[:5])}", stage="fuse")
    for node in order:
        if node is not output:
            output.prepend(node)


def _has_effect(node: fx.Node) -> bool:
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        # Nobody says what it runs: a random operator, say.  A launch runs one kernel, and writes to copies of its own.
        return node.target is not triton_kernel_wrapper_functional
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    return torch.Tag.nondeterministic_seeded in node.target.tags or node.target._schema.is_mutable
