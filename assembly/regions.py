"""The part of a graph that a kernel replaces, as a graph of its own: what runs when the kernel cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx


@dataclass(frozen=True)
class Region:
    """Takes `tensors`, then `sizes`; returns the outputs of the kernel.

    The kernel's own inputs and sizes come first in both; what follows is needed by the region alone.  Constants of the
    graph come along in `owner`.
    """

    owner: torch.nn.Module
    graph: fx.Graph
    tensors: tuple[fx.Node, ...]
    sizes: tuple[fx.Node, ...]

    def module(self) -> fx.GraphModule:
        return fx.GraphModule(self.owner, self.graph)


def region_of(
    gm: fx.GraphModule, inputs: Sequence[fx.Node], outputs: Sequence[fx.Node], sizes: int = 0
) -> Region | None:
    """The nodes of `gm` between `inputs` and `outputs`; None where they need what is no tensor and no integer.

    sizes: how many size arguments of the kernel to skip.
    """
    tensors, extra_sizes = list(inputs), list[fx.Node]()
    needed: set[fx.Node] = set()
    pending = list(outputs)
    while pending:
        node = pending.pop()
        if node in needed or node in tensors:
            continue
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor):
            tensors.append(node)
        elif isinstance(value, torch.SymInt | int) and not isinstance(value, bool):
            if node not in extra_sizes:
                extra_sizes.append(node)
        elif node.op in ("call_function", "get_attr"):
            needed.add(node)
            pending.extend(node.all_input_nodes)
        else:
            return None
    copied = fx.Graph()
    copies = {}
    for n, node in enumerate(tensors):  # an input may come twice
        copies[node] = copied.placeholder(f"{node.name}_{n}")
        copies[node].meta["val"] = node.meta["val"]
    for n in range(sizes):
        copied.placeholder(f"kernel_size_{n}")
    for node in extra_sizes:
        copies[node] = copied.placeholder(node.name)
        copies[node].meta["val"] = node.meta["val"]
    for node in gm.graph.nodes:
        if node in needed:
            copies[node] = copied.node_copy(node, copies.__getitem__)
    copied.output(tuple(copies[node] for node in outputs))
    return Region(gm, copied, tuple(tensors), tuple(extra_sizes))
