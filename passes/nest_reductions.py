"""nest-reductions: a reduction over several ranks becomes reductions over one rank each, one inside the other.

When: before fusion, on every reduction over more than one rank whose combiner folds (not argmax or argmin).

Before:  y = Σ_{i,j} f(x)
After:   y1 = Σ_j f(x);  y = Σ_i y1

Why legal: the combiners are associative and commutative.  Why: one rank can then be streamed and the other one held, and
Σ_{h,d} a·w becomes a contraction over d for every h.  What no kernel takes is put back by `restore`: the value in between
exists in kernels only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.ir import Block, Operation, Region, SSAValue

from ..ir.attributes import AccessMap, RankSpace, compute_type
from ..ir.cascade import EinsumOp, ProgramOp, YieldOp
from .contraction import argument_ranks, product_factors, scalar_ranks, split
from .pass_classes import ProgramPass

FOLDS = ("sum", "prod", "max", "min", "any", "all")


@dataclass(frozen=True)
class Nested:
    """One reduction that was taken apart: `outer` is the operation as it was, and holds its results still.

    between: the values that lie in between, innermost first.
    """

    outer: EinsumOp
    inner: tuple[EinsumOp, ...]

    @property
    def between(self) -> tuple[SSAValue, ...]:
        return tuple(r for op in self.inner for r in op.results)


@dataclass(frozen=True)
class NestReductions(ProgramPass):
    """`nest-reductions` on every program of a module; nothing is put back."""

    name = "nest-reductions"

    def on_program(self, program: ProgramOp) -> None:
        nest_reductions(program.body.block)


def nest_reductions(block: Block) -> list[Nested]:
    """Take every reduction of a block over several ranks apart, in place."""
    found = []
    for op in list(block.ops):
        if isinstance(op, EinsumOp) and len(op.reduced) > 1 and all(c in FOLDS for c in op.combiner_names):
            inner: list[EinsumOp] = []
            while len(op.reduced) > 1:
                inner.append(_take_inner(op, _innermost(op)))
            found.append(Nested(op, tuple(inner)))
    return found


def restore(nested: Sequence[Nested]) -> None:
    """Put those reductions together again of which nothing was taken into a kernel."""
    for one in nested:
        first = one.inner[0]
        if one.outer.parent_block() is None or any(op.parent_block() is None for op in one.inner):
            continue
        one.outer.operands = list(first.operands)
        one.outer.ranks, one.outer.accesses = first.ranks, first.accesses
        _replace_body(one.outer, first.body.clone())
        for op in reversed(one.inner):
            op.detach()
            op.erase()


def _innermost(op: EinsumOp) -> str:
    """The rank to fold first: one over which the map is a contraction, else the last one."""
    if op.combiner_names == ("sum",):
        known = frozenset(op.ranks.names)
        carried = argument_ranks(op)
        factors = product_factors(op.yields[0])
        ranks = {f: scalar_ranks(f, carried, known) for f in factors}
        for k in reversed(op.reduced):
            if split([f for f in factors if k in ranks[f]], ranks, k) is not None:
                return k
    return op.reduced[-1]


def _take_inner(op: EinsumOp, rank: str) -> EinsumOp:
    """Fold `rank` in an operation of its own, in front of `op`; `op` keeps the other reduced ranks."""
    kept = [(r, e) for r, e in op.ranks.data if r != rank]
    order = [*op.out_ranks(0), *(r for r in op.reduced if r != rank)]
    kinds = [compute_type(r.type.element_type) for r in op.results]  # pyright: ignore
    inner = EinsumOp(
        op.ranks,
        list(op.operand_accesses),
        [(c, AccessMap.of(order), kind) for c, kind in zip(op.combiner_names, kinds, strict=True)],
        op.body.clone(),
        {k: v for k, v in op.attributes.items() if isinstance(v, StringAttr)},
    )
    for new, old in zip(inner.results, op.results, strict=True):
        new.name_hint = f"{old.name_hint}_{rank}" if old.name_hint else None
    block = op.parent_block()
    assert block is not None
    block.insert_op_before(inner, op)
    op.operands = list(inner.results)
    op.ranks = RankSpace(tuple(kept))
    op.accesses = ArrayAttr([AccessMap.of(order) for _ in inner.results])
    body = Block(arg_types=kinds)
    body.add_op(YieldOp(*body.args))
    _replace_body(op, Region(body))
    return inner


def _replace_body(op: Operation, body: Region) -> None:
    op.detach_region(op.regions[0])
    op.add_region(body)
