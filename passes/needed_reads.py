"""needed-reads: an access with quotients and remainders becomes affine, where it is affine at all points that matter.

When: before fusion, on a map whose operand is read through a reshape that cuts rows anew, if a mask of indices keeps only
points that lie within one row.

Before:  x[i, j] = p[(i n + j + n) // (n + 1), (i n + j + n) mod (n + 1)];  y[i, j] = j <= i ? x[i, j] : -inf
After:   x[i, j] = p[i, j - i + n];                                         y[i, j] = j <= i ? x[i, j] : -inf

Why legal: t // b is q and t mod b is t - b q where 0 <= t - b q < b, which follows from the mask and the extents; elsewhere
nothing uses x, whatever it is there (beyond its ends, a tensor reads as zero).
Why cheaper: an affine access is loaded as it lies, and a product that it reads can be computed where it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy
from xdsl.ir import Operation, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap
from ..ir.cascade import EinsumOp, IndexOp, KernelOp, ProgramOp
from .bounds import interval
from .canonicalise import simplify_region
from .index_predicates import FALSE, TRUE, AtLeast, Predicate, every, some, to_text
from .neutral import Neutral
from .outline import label
from .pass_classes import ProgramPass
from .program_facts import ProgramFacts, renamed
from .quotients import rounded, without_quotients
from .replace_einsum import replace_einsum

Needed = dict[SSAValue, Predicate]  # a value -> where some of it matters; nothing said: nowhere


@dataclass(frozen=True)
class NeededReads(ProgramPass):
    """`needed-reads` on every program of a module."""

    name = "needed-reads"

    def on_program(self, program: ProgramOp) -> None:
        needed_reads(program)


def needed_reads(program: ProgramOp) -> list[tuple[str, str]]:
    """Make accesses affine where only points at which they are affine matter; (what, identity) for each."""
    block = program.body.block
    if not any(rounded(e) for op in block.ops if isinstance(op, EinsumOp) for a in op.accesses.data for e in a.data):
        return []
    neutral = ProgramFacts(program)
    tensors: Needed = {}
    done: list[tuple[str, str]] = []
    for op in reversed(list(block.ops)):
        if not (isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1):
            for v in op.operands:
                tensors[v] = TRUE
            continue
        ranks = op.out_ranks(0)
        table = {_place(n): symbols.symbol(r) for n, r in enumerate(ranks)}
        scalars: Needed = {op.yields[0]: renamed(tensors.get(op.results[0], FALSE), table)}
        for inner in reversed(list(op.body.block.ops)):
            _spread(inner, neutral, scalars)
        inputs = []
        for arg, (value, access) in zip(op.body.block.args, op.operand_accesses, strict=True):
            where = scalars.get(arg, FALSE)
            affine = AccessMap.of([without_quotients(e, where, op.extents) for e in access.data])
            if affine != access:
                done.append((label(op), f"{access.text()} = {affine.text()} where {to_text(where)}"))
            inputs.append((value, affine))
            bare = access.bare()
            if bare is not None and len(set(bare)) == len(bare) and set(ranks) <= set(bare):
                back = {symbols.symbol(r): _place(n) for n, r in enumerate(bare)}
                tensors[value] = some(tensors.get(value, FALSE), renamed(where, back))
            else:
                tensors[value] = TRUE
        if [a for _, a in inputs] != list(op.accesses.data):
            replace_einsum(op, inputs, op.body.clone())
    return done


def fold_decided(kernel: KernelOp) -> None:
    """Replace comparisons of indices that the extents of the ranks decide by what they are."""
    for op in kernel.body.block.ops:
        if not isinstance(op, EinsumOp) or not any(isinstance(o, IndexOp) for o in op.body.block.ops):
            continue
        neutral, changed = Neutral(kernel), False
        for inner in list(op.body.block.ops):
            if len(inner.results) != 1 or not scalar.name_of(inner):
                continue
            facts = neutral.facts(inner.results[0])
            for value in (True, False):
                elsewhere = facts.get(value)
                if isinstance(elsewhere, AtLeast) and _never(elsewhere, op.extents):
                    made = scalar.constant(value, inner.results[0].type)
                    op.body.block.insert_op_before(made, inner)
                    inner.results[0].replace_all_uses_with(made.results[0])
                    changed = True
                    break
        if changed:
            simplify_region(op.body.block)


def _never(p: AtLeast, extents: Mapping[str, sympy.Expr]) -> bool:
    reach = interval(p.e, extents)
    return reach is not None and bool(reach[1].is_negative)


# --- where something matters --------------------------------------------------------------------------------------


def _spread(op: Operation, neutral: Neutral, needed: Needed) -> None:
    """Note where the operands of a scalar operation matter, given where its result does."""
    if len(op.results) != 1 or op.results[0] not in needed:
        return
    where = needed[op.results[0]]
    for n, operand in enumerate(op.operands):
        here = where
        if scalar.name_of(op) == "select" and n:
            facts = neutral.facts(op.operands[0])  # where it may be taken
            here = every(where, facts.get(n == 2, TRUE))
        needed[operand] = some(needed.get(operand, FALSE), here)


def _place(n: int) -> sympy.Symbol:
    """What stands for the n-th dimension of a value, whatever an operation calls it."""
    return symbols.symbol(f"_{n}")


__all__ = ["NeededReads", "fold_decided", "needed_reads"]
