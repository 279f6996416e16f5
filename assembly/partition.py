"""What a forward pass saves for its backward pass, and what the backward computes again.

    aot_autograd(..., partition_fn=Partitioner(target, plan))

A kernel of the forward keeps the large values between its operations on chip.  To save one of these, it would have to write
it after all: so the backward computes it anew, where the kernels that read it fold it as those of the forward did.  What is
saved are the small results that this takes, the maximum and the sum of each row, say.  Everything else goes by price
(`saving.py`), and PyTorch's own partitioner makes the two graphs of what was decided.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._functorch.compile_utils import fx_graph_cse
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.utils.checkpoint import CheckpointPolicy

from ..driver import Plan
from ..errors import FallbackWarning
from ..frontend.kinds import CONTRACTION, kind_of
from ..frontend.statistics import hides_rows, written_out
from ..ir.target import Target
from .joint import Joint
from .joint_rewrites import rewritten
from .row_sums import bound_sums, sums_of_powers
from .saved import Saved, saved_by
from .saving import NoCut, Prices, Unwritten, cheapest

log = logging.getLogger("fusecade")

Parts = tuple[fx.GraphModule, fx.GraphModule]
PlanForward = Callable[[fx.GraphModule], Plan | None]


@dataclass(frozen=True)
class Partitioner:
    """plan: the kernels of a forward by itself; None where there is none to go by.  note: is told what is saved.

    strict: raise what goes wrong; else PyTorch decides instead, with a warning.
    """

    target: Target
    plan: PlanForward
    note: Callable[[list[Saved]], object] = lambda saved: None
    strict: bool = False

    def __call__(self, joint: fx.GraphModule, inputs: Any, *, num_fwd_outputs: int, **rest: Any) -> Parts:
        decided = Decided(joint)
        untouched = _copy(joint)
        try:
            decided = self._decide(joint, num_fwd_outputs)
        except NoCut:
            log.debug("PyTorch's own rules decide what is saved")
        except Exception as error:
            if self.strict:
                raise
            warnings.warn(FallbackWarning("what the forward saves", f"{type(error).__name__}: {error}"), stacklevel=2)
            log.debug("no partition by price", exc_info=True)
        parts = min_cut_rematerialization_partition(decided.joint, inputs, num_fwd_outputs=num_fwd_outputs, **rest)
        if decided.rounded and not decided.rounded <= self._within(parts[1]):
            log.debug("PyTorch's own rules decide what is saved: no kernel of the backward holds %s", decided.rounded)
            decided = Decided(untouched)
            parts = min_cut_rematerialization_partition(untouched, inputs, num_fwd_outputs=num_fwd_outputs, **rest)
        bound_sums(parts[1], decided.sums)
        self.note(saved_by(parts[0], num_fwd_outputs, Prices(self.target, Unwritten()), decided.rows))
        return parts

    def _decide(self, gm: fx.GraphModule, outputs: int) -> Decided:
        """Each value of the forward that the backward wants is marked: to be saved, or to be computed again.  Raises NoCut."""
        gm.graph.eliminate_dead_code()
        gm.graph = fx_graph_cse(gm.graph)
        joint = Joint(gm, outputs)
        plan = self.plan(joint.alone()) if joint.after else None
        if plan is None:
            return Decided(gm)
        if self.target.kind == "cpu" and any(map(_rounded, unwritten(joint, plan, {}).wide)):
            return Decided(gm)  # products there are library calls, which round their results
        opened = _written_out(joint, _inner_names(plan))
        if unwritten(Joint(gm, outputs), plan, opened).wide:
            gm = rewritten(gm)
        joint = Joint(gm, outputs)
        hidden = unwritten(joint, plan, opened)
        saving = cheapest(joint, Prices(self.target, hidden, joint.held, joint.late))
        for node in saving.kept:
            _mark(node, CheckpointPolicy.MUST_SAVE)
        for node in saving.again:
            _mark(node, CheckpointPolicy.MUST_RECOMPUTE)
        return Decided(
            gm,
            {name: whole for whole, names in opened.items() for name in names},
            frozenset(n.name for n in saving.again if n in hidden.wide and _rounded(n)),
            frozenset(sums_of_powers(gm.graph)),
        )

    def _within(self, backward: fx.GraphModule) -> set[str]:
        """The nodes of a backward graph that its kernels compute and do not write."""
        plan = self.plan(backward)
        return _inner_names(plan) if plan is not None else set()


@dataclass(frozen=True)
class Decided:
    """A joint graph with its marks.

    rows: the values of rows that were made for it, each with the name of what follows from them.  rounded: products that the
    backward computes again and that are 16 bits wide in memory.  What is known of their rows was taken from products that
    were never rounded, and fits only those.  sums: values that are sums of e to what lies below the maximum of a row.
    """

    joint: fx.GraphModule
    rows: Mapping[str, str] = field(default_factory=dict)
    rounded: frozenset[str] = frozenset()
    sums: frozenset[str] = frozenset()


def _copy(gm: fx.GraphModule) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    graph.output_node().meta.update(gm.graph.output_node().meta)
    return fx.GraphModule(gm, graph)


def _rounded(node: fx.Node) -> bool:
    """A product that is 16 bits wide in memory."""
    return kind_of(node) == CONTRACTION and node.meta["val"].dtype in (torch.float16, torch.bfloat16)


def _mark(node: fx.Node, policy: CheckpointPolicy) -> None:
    if node.op == "call_function" and not isinstance(
        node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool
    ):
        node.meta.setdefault("recompute", policy)


def _inner_names(plan: Plan) -> set[str]:
    """The nodes that kernels compute and do not write."""
    return {name for call in plan.calls for name in call.nodes} - {n.name for call in plan.calls for n in call.outputs}


def _written_out(joint: Joint, inner: set[str]) -> dict[str, list[str]]:
    """Writes out what hides rows in a kernel and is wanted by the backward; the parts, by the name of the whole."""
    opened: dict[str, list[str]] = {}
    for node in list(joint.graph.nodes):
        if node.name in inner and node in joint.forward and hides_rows(node) and joint.wanted_later(node):
            before = set(joint.graph.nodes)
            last = written_out(node)
            node.replace_all_uses_with(last)
            opened[node.name] = [n.name for n in joint.graph.nodes if n not in before]
            joint.graph.erase_node(node)
    return opened


def unwritten(joint: Joint, plan: Plan, opened: dict[str, list[str]]) -> Unwritten:
    """The values that the forward's kernels keep to themselves, as nodes of the joint graph.

    opened: the parts of nodes that the plan knows as one.
    """
    by_name = {n.name: n for n in joint.graph.nodes}
    prices = Prices(plan.target, Unwritten())
    inner: set[fx.Node] = set()
    wide: set[fx.Node] = set()
    for call in plan.calls:
        written = {n.name for n in call.outputs}
        members = [
            by_name[part] for name in dict.fromkeys(call.nodes) if name not in written
            for part in opened.get(name, [name]) if part in by_name
        ]  # fmt: skip
        moved = sum(map(prices.bytes, [*dict.fromkeys(call.inputs), *call.outputs]))
        inner.update(members)
        wide.update(n for n in members if prices.bytes(n) > moved)
    if plan.edit is not None and wide:  # what the plan computes in another way is not written either
        there = {n.name for n in plan.gm.graph.nodes} | {part for parts in opened.values() for part in parts}
        gone = [n for n in joint.forward if n.op == "call_function" and n.name not in there]
        inner.update(gone)
        wide.update(n for n in gone if prices.bytes(n) >= min(map(prices.bytes, wide)))
    return Unwritten(frozenset(inner), frozenset(wide))


__all__ = ["Partitioner", "unwritten"]
