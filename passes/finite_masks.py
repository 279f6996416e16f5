"""finite-masks: a mask that adds the most negative number is one that leaves nothing, where a row has something else.

When: on a whole program, on a map whose result x is a very negative constant, or a sum with one, wherever a predicate P of
indices is false; if x is read only by the maximum m over a rank k and in exp(x - m); and if each row has an index k at which
P holds.

Before:  x = s + (k <= i ? 0 : -3.4e38);   m = max_k x;   e = exp(x - m)
After:   x = k <= i ? s : -inf;            m = max_k x;   e = exp(x - m)

Why legal: m is at least the element at which P holds, which is no such number, so that exp(x - m) is 0 elsewhere, before as
after; a maximum that is loaded was taken in such a forward.  As in every rewrite, what is loaded counts as finite, here as
above -1e30.  Why cheaper: steps in which P holds nowhere are not taken (`index_predicates.py`); of -3.4e38 + s nothing is
known, as it might be a whole row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import sympy
from xdsl.dialects.builtin import BFloat16Type, Float32Type, Float64Type, i1, i64
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, is_float
from ..ir.cascade import EinsumOp, IndexOp, ProgramOp, YieldOp
from .canonicalise import simplify_region
from .index_predicates import TRUE, AtLeast, Every, Predicate, Some, every, to_text
from .outline import label
from .pass_classes import ProgramPass
from .program_facts import ProgramFacts, renamed
from .ranges import decided, ranges_of, reach_of

VERY_NEGATIVE = -1e30
CERTIFICATE = "a row has an element at which the mask is open, next to which exp of the others is 0"


@dataclass(frozen=True)
class FiniteMasks(ProgramPass):
    """`finite-masks` on every program of a module."""

    name = "finite-masks"

    def on_program(self, program: ProgramOp) -> None:
        finite_masks(program)


def finite_masks(program: ProgramOp) -> list[tuple[str, str]]:
    """Rewrite in place; (what, certificate) for each."""
    block = program.body.block
    if not any(_names_one(op) for op in block.walk()):
        return []
    facts = ProgramFacts(program)
    done: list[tuple[str, str]] = []
    for op in block.ops:
        if not (isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1 and _holds_infinity(op.results[0])):
            continue
        opened = _open(op.yields[0], facts)
        if opened == TRUE or not _only_indices(opened):
            continue
        rank = _row(op.results[0])
        if rank is not None and _somewhere(opened, op.out_ranks(0)[rank], op):
            _close(op, opened, facts)
            done.append((f"{label(op)}: open where {to_text(opened)}", CERTIFICATE))
    return done


def _names_one(op: Operation) -> bool:
    return scalar.name_of(op) == scalar.CONSTANT and _is_very_negative(scalar.constant_value(op))


def _is_very_negative(number: float | int | bool) -> bool:
    return not isinstance(number, bool) and -math.inf < number <= VERY_NEGATIVE


def _holds_infinity(value: SSAValue) -> bool:
    return isinstance(value.type.element_type, Float32Type | Float64Type | BFloat16Type)  # pyright: ignore


def _open(value: SSAValue, facts: ProgramFacts) -> Predicate:
    """Where a scalar may be anything but a very negative number."""
    for number, elsewhere in facts.facts(value).items():
        if _is_very_negative(number):
            return elsewhere
    op = value.owner
    if isinstance(op, Operation):
        match scalar.name_of(op):
            case "add":
                return every(*(_open(o, facts) for o in op.operands))
            case "sub" | "widen" | "narrow" | "to_bf16":
                return _open(op.operands[0], facts)
    return TRUE


def _only_indices(p: Predicate) -> bool:
    return isinstance(p, AtLeast) or (isinstance(p, Every | Some) and all(map(_only_indices, p.parts)))


# --- who reads it -------------------------------------------------------------------------------------------------


def _row(value: SSAValue) -> int | None:
    """The dimension along which the maximum is taken, if all else that reads the value is exp of a difference from it.

    The maximum may have been taken before, and be loaded.
    """
    readers = list(_readers(value))
    maxima = [op for op, _ in readers if isinstance(op, EinsumOp) and op.combiner_names == ("max",)]
    dims = {_reduced_dimension(op) for op in maxima} or set(range(len(value.type.dims)))  # pyright: ignore
    others = [(op, n) for op, n in readers if op not in maxima]
    for dim in dims if len(dims) == 1 or not maxima else ():
        if all(isinstance(op, EinsumOp) and _in_exponentials(op, n, maxima, dim) for op, n in others):
            return dim
    return None


def _readers(value: SSAValue) -> Iterator[tuple[Operation, int]]:
    """What reads the value, or the value in another type: (operation, operand)."""
    for use in value.uses:
        op = use.operation
        if isinstance(op, EinsumOp) and op.is_map and _only_casts(op):
            yield from _readers(op.results[0])
        else:
            yield op, use.index


def _only_casts(op: EinsumOp) -> bool:
    if len(op.results) != 1 or len(op.inputs) != 1 or op.accesses.data[0].bare() != op.out_ranks(0):
        return False
    return op.yields[0] is op.body.block.args[0] and is_float(op.results[0].type.element_type)  # pyright: ignore


def _reduced_dimension(op: EinsumOp) -> int | None:
    """Of a maximum of one tensor over one of its dimensions, in place."""
    bare = op.accesses.data[0].bare() if len(op.inputs) == 1 else None
    if bare is None or len(op.reduced) != 1 or op.yields[0] is not op.body.block.args[0]:
        return None
    dim = bare.index(op.reduced[0])
    return dim if op.out_ranks(0) == (*bare[:dim], *bare[dim + 1 :]) else None


def _in_exponentials(op: EinsumOp, n: int, maxima: list[EinsumOp], dim: int | None) -> bool:
    """Whether an operand of a map is read only in exp(x - m), with m the maximum of its own row, or loaded."""
    bare = op.accesses.data[n].bare()
    if not op.is_map or bare is None or dim is None:
        return False
    row = (*bare[:dim], *bare[dim + 1 :])
    gauges = {
        arg for arg, (value, access) in zip(op.body.block.args, op.operand_accesses, strict=True)
        if (value.owner in maxima or (isinstance(value, BlockArgument) and not maxima)) and _without_ones(access) == row
    }  # fmt: skip
    for use in op.body.block.args[n].uses:
        difference = use.operation
        if scalar.name_of(difference) != "sub" or use.index != 0 or difference.operands[1] not in gauges:
            return False
        if not all(_is_exponential(u.operation, op) for u in difference.results[0].uses):
            return False
    return True


def _is_exponential(inner: Operation, op: EinsumOp) -> bool:
    """Whether a scalar goes into an exponential: here, or where the map's result is read, and nothing else is."""
    if scalar.name_of(inner) in ("exp", "exp2"):
        return True
    if not isinstance(inner, YieldOp) or len(op.results) != 1:
        return False
    for reader, n in _readers(op.results[0]):
        if not (isinstance(reader, EinsumOp) and reader.is_map):
            return False
        if not all(scalar.name_of(u.operation) in ("exp", "exp2") for u in reader.body.block.args[n].uses):
            return False
    return True


def _without_ones(access: AccessMap) -> tuple[str, ...] | None:
    """The ranks of an access, dimensions of one element left out."""
    return AccessMap.of([e for e in access.data if e != 0]).bare()


def _somewhere(p: Predicate, rank: str, op: EinsumOp) -> bool:
    """Whether each row has an index of `rank` at which `p` holds."""
    ranges = ranges_of(op.extents)
    k, (first, last) = symbols.symbol(rank), ranges[rank]
    candidates = [first, last]
    for e in _expressions(p):
        form = symbols.affine(e, [rank])
        c = form[0].get(rank, 0) if form is not None else 0
        if form is not None and c in (1, -1):
            candidates.append(sympy.expand(-form[1] / c))
    for at in dict.fromkeys(candidates):
        reach = reach_of(at, ranges)
        inside = reach is not None and reach[0].is_nonnegative and sympy.expand(last - reach[1]).is_nonnegative
        if inside and decided(renamed(p, {k: at}), ranges) is True:
            return True
    return False


def _expressions(p: Predicate) -> Iterator[sympy.Expr]:
    if isinstance(p, AtLeast):
        yield p.e
    elif isinstance(p, Every | Some):
        for q in p.parts:
            yield from _expressions(q)


# --- writing ------------------------------------------------------------------------------------------------------


def _close(op: EinsumOp, opened: Predicate, facts: ProgramFacts) -> None:
    """The result of `op` is -inf where the predicate is false."""
    block = op.body.block
    last = block.last_op
    assert isinstance(last, YieldOp)
    old = last.values[0]
    value = _without_mask(old, opened, facts)
    condition = _written(opened, block, last)
    closed = scalar.constant(-math.inf, old.type)
    chosen = scalar.build("select", [condition, value, closed.results[0]])
    block.insert_ops_before([closed, chosen], last)
    last.operands[0] = chosen.results[0]
    simplify_region(block)


def _without_mask(value: SSAValue, opened: Predicate, facts: ProgramFacts) -> SSAValue:
    """The scalar that `value` is where the mask is open: a mask of zeros adds nothing."""
    op = value.owner
    if isinstance(value, BlockArgument) or not isinstance(op, Operation):
        return value
    passed = facts.passed_on(op, scalar.name_of(op) or "", opened)
    return value if passed is None else passed


def _written(p: Predicate, block: Block, before: Operation) -> SSAValue:
    match p:
        case AtLeast(e):
            index, zero = IndexOp(e), scalar.constant(0, i64)
            made = [index, zero, scalar.build("ige", [index.result, zero.results[0]])]
        case Every(parts) | Some(parts):
            values = [_written(q, block, before) for q in parts]
            made = [] if values else [scalar.constant(isinstance(p, Every), i1)]
            for v in values[1:]:
                left = made[-1].results[0] if made else values[0]
                made.append(scalar.build("and" if isinstance(p, Every) else "or", [left, v]))
            if not made:
                return values[0]
        case _:
            raise AssertionError("a predicate of indices")
    block.insert_ops_before(made, before)
    return made[-1].results[0]


__all__ = ["FiniteMasks", "finite_masks"]
