"""canonicalise: equal operations once, dead ones never, copies and trivial maps gone.

When: first, on a whole program.

    %a = einsum E(x); %b = einsum E(x)         ->  %a for both              (common subexpressions)
    %a = einsum E(x), nobody reads %a          ->  gone                     (dead code)
    %a = map [i, j] ins(%x[i, j]) { yield x }  ->  %x                       (a copy with equal type)

Inside map regions, rows of `RULES` apply until none does.

Why legal: all cascade operations except `extern` are pure; a copy of the same type has the same elements; each rule is an
identity of floating-point arithmetic, NaN and infinities included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from ..ir import scalar
from ..ir.cascade import EinsumOp, ExternOp, GatherOp, KernelOp, OnlineOp, ProgramOp, ScanOp, ScatterOp, YieldOp
from .pass_classes import ProgramPass


@dataclass(frozen=True)
class Canonicalise(ProgramPass):
    """Canonicalise every program of a module."""

    name = "canonicalise"

    def on_program(self, program: ProgramOp) -> None:
        canonicalise_program(program)


def canonicalise_program(program: ProgramOp) -> None:
    """Canonicalise one program in place."""
    block = program.body.block
    for op in list(block.ops):
        if isinstance(op, EinsumOp):
            simplify_region(op.body.block)
    _forward_copies(block)
    share_equal(block)
    erase_dead(block)


# --- regions ------------------------------------------------------------------------------------------------------


def _constant(value: SSAValue) -> float | int | bool | None:
    owner = value.owner
    if isinstance(owner, Operation) and scalar.name_of(owner) == scalar.CONSTANT:
        return scalar.constant_value(owner)
    return None


def _times_one(op: Operation) -> SSAValue | None:
    a, b = op.operands
    return a if _constant(b) == 1 else b if _constant(a) == 1 else None


def _over_one(op: Operation) -> SSAValue | None:
    return op.operands[0] if _constant(op.operands[1]) == 1 else None


def _minus_zero(op: Operation) -> SSAValue | None:
    zero = _constant(op.operands[1])
    return op.operands[0] if zero == 0 and math.copysign(1.0, zero) > 0 else None


def _twice_negated(op: Operation) -> SSAValue | None:
    inner = op.operands[0].owner
    return inner.operands[0] if isinstance(inner, Operation) and scalar.name_of(inner) == "neg" else None


def _same_branches(op: Operation) -> SSAValue | None:
    return op.operands[1] if op.operands[1] is op.operands[2] else None


def _known_choice(op: Operation) -> SSAValue | None:
    chosen = _constant(op.operands[0])
    return None if chosen is None else op.operands[1] if chosen else op.operands[2]


def _known_and(op: Operation) -> SSAValue | None:
    return _by_constant(op, {True: 1, False: 0})


def _known_or(op: Operation) -> SSAValue | None:
    return _by_constant(op, {True: 0, False: 1})


def _by_constant(op: Operation, keeps: dict[bool, int]) -> SSAValue | None:
    """keeps: 0 where a constant of this value is the result, 1 where the other operand is."""
    for constant, other in (op.operands, op.operands[::-1]):
        known = _constant(constant)
        if isinstance(known, bool):
            return other if keeps[known] else constant
    return None


def _narrow_after_widen(op: Operation) -> SSAValue | None:
    inner = op.operands[0].owner
    if (
        isinstance(inner, Operation)
        and scalar.name_of(inner) == "widen"
        and inner.operands[0].type == op.results[0].type
    ):
        return inner.operands[0]
    return None


RULES: dict[str, tuple[Callable[[Operation], SSAValue | None], ...]] = {
    "mul": (_times_one,),  # x * 1 -> x
    "imul": (_times_one,),
    "div": (_over_one,),  # x / 1 -> x
    "sub": (_minus_zero,),  # x - 0 -> x   (x + 0 and x - -0 are not x for x = -0)
    "isub": (_minus_zero,),
    "neg": (_twice_negated,),  # -(-x) -> x
    "select": (_known_choice, _same_branches),  # c ? x : x -> x
    "and": (_known_and,),  # x and true -> x, x and false -> false   (of booleans)
    "or": (_known_or,),
    "narrow": (_narrow_after_widen,),  # narrow(widen(x)) -> x
}


def simplify_region(block: Block) -> None:
    """Apply `RULES`, share equal scalars, and drop the ones nobody reads."""
    known: dict[tuple, Operation] = {}
    for op in list(block.ops):
        if isinstance(op, YieldOp):
            continue
        name = scalar.name_of(op)
        for rule in RULES.get(name or "", ()):
            simpler = rule(op)
            if simpler is not None:
                op.results[0].replace_all_uses_with(simpler)
                break
        key = (
            op.name,
            tuple(sorted((k, str(v)) for k, v in op.properties.items())),
            tuple(map(id, op.operands)),
            str(op.results[0].type),
        )
        if key in known:
            op.results[0].replace_all_uses_with(known[key].results[0])
        else:
            known[key] = op
    for op in reversed(list(block.ops)):
        if not isinstance(op, YieldOp) and not op.results[0].first_use:
            op.detach()
            op.erase()


# --- operations ---------------------------------------------------------------------------------------------------


def _forward_copies(block: Block) -> None:
    for op in list(block.ops):
        if not (isinstance(op, EinsumOp) and op.is_map and len(op.inputs) == 1 and "copy" not in op.attributes):
            continue
        value = op.yields[0]
        access = op.accesses.data[0].bare()
        same = isinstance(value, BlockArgument) and len(op.results) == 1 and op.inputs[0].type == op.results[0].type
        if same and access == op.out_ranks(0):
            op.results[0].replace_all_uses_with(op.inputs[0])


def share_equal(block: Block) -> None:
    """Give the users of equal operations the results of the first one."""
    known: dict[tuple, Operation] = {}
    for op in list(block.ops):
        if not isinstance(op, EinsumOp | GatherOp):
            continue
        key = _key(op)
        if key not in known:
            known[key] = op
            continue
        for old, new in zip(op.results, known[key].results, strict=True):
            old.replace_all_uses_with(new)


def _key(op: EinsumOp | GatherOp) -> tuple:
    properties = tuple(sorted((k, str(v)) for k, v in op.properties.items()))
    region: tuple = ()
    if isinstance(op, EinsumOp):
        numbers: dict[SSAValue, int] = {a: n for n, a in enumerate(op.body.block.args)}
        rows = []
        for inner in op.body.block.ops:
            rows.append(
                (
                    inner.name,
                    tuple(sorted((k, str(v)) for k, v in inner.properties.items())),
                    tuple(numbers[o] for o in inner.operands),
                )
            )
            for r in inner.results:
                numbers[r] = len(numbers)
        region = tuple(rows)
    return op.name, properties, region, tuple(map(id, op.operands)), tuple(str(r.type) for r in op.results)


def erase_dead(block: Block) -> None:
    """Erase operations whose results nobody reads: all of them are pure."""
    for op in reversed(list(block.ops)):
        if isinstance(op, EinsumOp | OnlineOp | ScanOp | GatherOp | ScatterOp | KernelOp | ExternOp) and not any(
            r.first_use for r in op.results
        ):
            op.detach()
            op.erase()
