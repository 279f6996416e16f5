"""Which sums are contractions: products whose factors fall into two groups, each with ranks of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from xdsl.ir import BlockArgument, Operation, SSAValue

from ..ir import scalar
from ..ir.attributes import is_float
from ..ir.cascade import EinsumOp, IndexOp, KernelOp, OnlineOp, YieldOp


@dataclass(frozen=True)
class Contraction:
    """One sum over `over` of a product: result `index` of `op`, with the ranks of its two sides (`over` included)."""

    op: EinsumOp | OnlineOp
    index: int
    over: str
    lhs: frozenset[str]
    rhs: frozenset[str]

    @property
    def batch(self) -> frozenset[str]:
        return (self.lhs & self.rhs) - {self.over}

    @property
    def ranks(self) -> frozenset[str]:
        return self.lhs | self.rhs


def product_factors(value: SSAValue) -> list[SSAValue]:
    """The factors of a scalar that is a product, left to right."""
    op = value.owner
    if isinstance(op, Operation) and scalar.name_of(op) == "mul":
        return [*product_factors(op.operands[0]), *product_factors(op.operands[1])]
    return [value]


def scalar_ranks(
    value: SSAValue, of_argument: Mapping[SSAValue, frozenset[str]], known: frozenset[str]
) -> frozenset[str]:
    """The ranks of `known` that a scalar of a region carries, given those of the block arguments."""
    if isinstance(value, BlockArgument):
        return of_argument[value]
    op = value.owner
    assert isinstance(op, Operation)
    if isinstance(op, IndexOp):
        return frozenset(op.expression.ranks) & known
    return (
        frozenset().union(*(scalar_ranks(o, of_argument, known) for o in op.operands)) if op.operands else frozenset()
    )


def split(
    factors: Sequence[SSAValue], carried: Mapping[SSAValue, frozenset[str]], over: str, vectors: bool = False
) -> tuple[list[SSAValue], list[SSAValue]] | None:
    """Split factors that all carry `over` into two sides, each with a rank the other lacks; the fewest shared ranks win.

    vectors: one side may be a vector along `over`, with no rank that the other lacks.
    """
    best: tuple[int, list[SSAValue], list[SSAValue]] | None = None
    for size in range(1, len(factors)):
        for chosen in combinations(range(len(factors)), size):
            if 0 not in chosen:
                continue
            left = [factors[n] for n in chosen]
            right = [f for n, f in enumerate(factors) if n not in chosen]
            a = frozenset().union(*(carried[f] for f in left)) - {over}
            b = frozenset().union(*(carried[f] for f in right)) - {over}
            own = (a - b or b - a) if vectors else (a - b and b - a)
            if own and (best is None or len(a & b) < best[0]):
                best = (len(a & b), left, right)
    return (best[1], best[2]) if best else None


def argument_ranks(op: EinsumOp | OnlineOp) -> dict[SSAValue, frozenset[str]]:
    """The ranks that each block argument of the map (or step) region carries; gauges carry those of their result."""
    known = frozenset(op.ranks.names)
    region = op.body if isinstance(op, EinsumOp) else op.step
    carried = {
        arg: frozenset(access.ranks) & known
        for arg, (_, access) in zip(region.block.args, op.operand_accesses, strict=False)
    }
    if isinstance(op, OnlineOp):
        for arg, g in zip(region.block.args[len(op.inputs) :], op.gauge_indices, strict=True):
            carried[arg] = frozenset(op.out_ranks(g))
    return carried


def contractions(kernel: KernelOp, vectors: bool = False) -> list[Contraction]:
    """Every contraction in a kernel's body.  vectors: those with a vector on one side as well."""
    found: list[Contraction] = []
    for op in kernel.body.block.ops:
        if not isinstance(op, EinsumOp | OnlineOp):
            continue
        reduced = op.reduced if isinstance(op, EinsumOp) else (op.over.data,)
        if len(reduced) != 1:
            continue
        region = op.body if isinstance(op, EinsumOp) else op.step
        last = region.block.last_op
        assert isinstance(last, YieldOp)
        carried = argument_ranks(op)
        known = frozenset(op.ranks.names)
        for n, value in enumerate(last.values):
            if op.combiner_names[n] != "sum" or not is_float(value.type):
                continue
            factors = product_factors(value)
            ranks = {f: scalar_ranks(f, carried, known) for f in factors}
            inner = [f for f in factors if reduced[0] in ranks[f]]
            sides = split(inner, ranks, reduced[0], vectors)
            if sides is not None:
                lhs = frozenset().union(*(ranks[f] for f in sides[0]))
                rhs = frozenset().union(*(ranks[f] for f in sides[1]))
                found.append(Contraction(op, n, reduced[0], lhs, rhs))
    return found
