"""What a forward pass keeps for its backward pass, by price: the cheapest cut through the joint graph.

Each value of the forward that the backward wants is kept (it is written, held, and read later) or computed again from
others that are.  Both have a price on the target, and the choice with the least sum is a minimum cut:

    source --compute again--> v.in --keep--> v.out --infinite--> u.in      for each u that reads v
                                             v.out --infinite--> sink      where the backward reads v

A value is kept where the cut takes its middle edge, and computed again where v.in is on the side of the sink.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import fx

from ..frontend.kinds import CONTRACTION, MAP, OPAQUE, REDUCTION, SOURCE, VIEW, contracted, is_matched, kind_of, matches
from ..ir.target import Target
from .joint import Joint, nested
from .min_cut import Network

HOLD = 2.0  # a byte that waits for the backward costs as much as moving it so many times more
HOLD_WIDE = 64.0  # the same where a kernel would have to write more for the backward than all else that it moves
GUESS = 4096  # of a size that only data tells
NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float)
IN, OUT, SOURCE_SIDE, SINK_SIDE = "in", "out", "source", "sink"


class NoCut(Exception):
    """What the backward wants cannot be had by keeping and computing again."""


@dataclass(frozen=True)
class Unwritten:
    """What the kernels of a forward pass never write.

    inner: values that live in a kernel only.  wide: those that are larger than all that their kernel reads and writes.
    """

    inner: Collection[fx.Node] = ()
    wide: Collection[fx.Node] = ()


@dataclass(frozen=True)
class Saving:
    """kept: values of the forward that its backward reads.  again: those that it computes anew."""

    kept: tuple[fx.Node, ...]
    again: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Prices:
    """Nanoseconds on a target, by its bandwidth and rates.

    held: what is in memory anyway, results of the forward and what they look at.  late: what only the backward reads.
    """

    target: Target
    unwritten: Unwritten
    held: Collection[fx.Node] = ()
    late: Collection[fx.Node] = ()

    def keep(self, node: fx.Node) -> float:
        """To write a value if nothing else does, to hold it, and to read it."""
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return 1.0 if isinstance(value, torch.SymInt | int) else math.inf
        if node.op == "placeholder":
            return 1.0
        if kind_of(node) == VIEW and node.op == "call_function" and not nested(node):
            return math.inf  # what it looks at is kept
        if is_matched(node):
            return math.inf
        times = 1.0
        if node not in self.held:
            late = node in self.late  # to keep it, the forward would have to compute it first
            times += HOLD_WIDE if late or node in self.unwritten.wide else HOLD
            times += late or node in self.unwritten.inner
        return 1.0 + times * self._moved(self.bytes(node))

    def again(self, node: fx.Node) -> float:
        """To compute a value where it is read, from its operands."""
        if node.op == "placeholder" or (matches(node) and node not in self.late):
            return math.inf
        kind = kind_of(node)
        if kind == OPAQUE:
            return 1.0 if isinstance(node.meta.get("val"), NUMBERS) else math.inf
        if kind in (VIEW, SOURCE):
            return 0.0
        if kind == MAP:
            return 1.0 + 1e9 * self.elements(node) / self.target.vector_flops
        if kind == REDUCTION:  # a walk over all that it reads
            read = sum(self.bytes(n) for n in node.all_input_nodes)
            return 1.0 + self._moved(read) + 1e9 * read / self.target.vector_flops
        length = contracted(node)
        if kind != CONTRACTION or length is None or node not in self.unwritten.wide:
            return math.inf
        dtype = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float64: "f64"}.get(node.meta["val"].dtype, "f32")
        rate = self.target.dot_flops(dtype if dtype in self.target.flops else "f32") * self.target.library_rate
        return 1.0 + 2e9 * self.elements(node) * likely(length) / rate

    def bytes(self, node: fx.Node) -> int:
        value = node.meta.get("val")
        return self.elements(node) * value.element_size() if isinstance(value, torch.Tensor) else 0

    def elements(self, node: fx.Node) -> int:
        value = node.meta.get("val")
        return math.prod(likely(n) for n in value.shape) if isinstance(value, torch.Tensor) else 0

    def _moved(self, amount: float) -> float:
        return 1e9 * amount / self.target.hbm_bytes_per_s


def cheapest(joint: Joint, prices: Prices) -> Saving:
    """The cut.  Raises NoCut where there is none: something can neither be kept nor be computed again."""
    network = Network()
    inside = [n for n in joint.graph.nodes if n in joint.before]
    for node in inside:
        forced = joint.asked(node)
        network.edge(SOURCE_SIDE, (node, IN), math.inf if forced == "keep" else prices.again(node))
        network.edge((node, IN), (node, OUT), prices.keep(node))
        if forced == "again":
            network.edge((node, IN), SINK_SIDE, math.inf)
        for user in node.users:
            if user.op != "output":
                network.edge((node, OUT), (user, IN) if user in joint.before else SINK_SIDE, math.inf)
        if node in joint.gradients:
            network.edge((node, OUT), SINK_SIDE, math.inf)
    try:
        below = network.sink_side(SOURCE_SIDE, SINK_SIDE)
    except ValueError as error:
        raise NoCut(str(error)) from None
    return Saving(
        tuple(n for n in inside if (n, OUT) in below and (n, IN) not in below),
        tuple(n for n in inside if (n, IN) in below),
    )


def likely(size: int | torch.SymInt) -> int:
    """A size, or what it was when the graph was traced."""
    if isinstance(size, torch.SymInt):
        hint = size.node.hint
        return int(hint) if hint is not None else GUESS
    return int(size)
