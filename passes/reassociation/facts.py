"""What algebra says about rows: values that sum to one, and results that a constant of the row does not change.

Both are found by following definitions.  Equalities hold for finite numbers, as in real arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import sympy
from xdsl.ir import BlockArgument, Operation, SSAValue

from ...ir import scalar, symbols
from ...ir.cascade import EinsumOp, IndexOp


def sums_to_one(value: SSAValue, dim: int) -> bool:
    """Whether Σ over dimension `dim` of `value` is 1: `x / l` with `l = Σ x` over that dimension, and nothing else."""
    op = value.owner
    if not (isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1):
        return False
    rank = op.out_ranks(0)[dim]
    quotient = _through_casts(op.yields[0])
    if isinstance(quotient, BlockArgument):  # a copy in another type
        names = op.accesses.data[quotient.index].bare()
        return names is not None and rank in names and sums_to_one(op.inputs[quotient.index], names.index(rank))
    if scalar.name_of(quotient.owner) != "div":  # pyright: ignore
        return False
    over, under = map(_through_casts, quotient.owner.operands)  # pyright: ignore
    if not isinstance(under, BlockArgument):
        return False
    total, names = op.inputs[under.index].owner, op.accesses.data[under.index].bare()
    if not (isinstance(total, EinsumOp) and total.combiner_names == ("sum",) and len(total.reduced) == 1):
        return False
    if names is None or rank in names or len(op.ranks.names) != len(names) + 1:
        return False
    rename = dict(zip(total.out_ranks(0), names, strict=True)) | {total.reduced[0]: rank}
    if any(total.extents[r] != op.extents[n] for r, n in rename.items()):
        return False
    binding = {r: symbols.symbol(n) for r, n in rename.items()}
    return _same(over, op, {}, total.yields[0], total, binding)


def _through_casts(value: SSAValue) -> SSAValue:
    while isinstance(value.owner, Operation) and scalar.name_of(value.owner) in ("widen", "narrow"):
        value = value.owner.operands[0]
    return value


def _same(a: SSAValue, of: EinsumOp, at: Mapping[str, sympy.Expr], b: SSAValue, other: EinsumOp, binding) -> bool:
    """Whether two scalars of two operations are the same formula, the ranks of `other` renamed by `binding`."""
    a, b = _through_casts(a), _through_casts(b)
    if isinstance(a, BlockArgument) or isinstance(b, BlockArgument):
        if not (isinstance(a, BlockArgument) and isinstance(b, BlockArgument)):
            return False
        same_value = of.inputs[a.index] is other.inputs[b.index]
        return same_value and of.accesses.data[a.index] == other.accesses.data[b.index].substitute(binding)
    x, y = a.owner, b.owner
    assert isinstance(x, Operation) and isinstance(y, Operation)
    if isinstance(x, IndexOp) or isinstance(y, IndexOp):
        return isinstance(x, IndexOp) and isinstance(y, IndexOp) and x.expression == y.expression.substitute(binding)
    name = scalar.name_of(x)
    if name != scalar.name_of(y) or len(x.operands) != len(y.operands):
        return False
    if name == scalar.CONSTANT:
        return scalar.constant_value(x) == scalar.constant_value(y)
    return all(_same(p, of, at, q, other, binding) for p, q in zip(x.operands, y.operands, strict=True))


# --- translation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shift:
    """A value is moved by factor · c[at], where c is any tensor over some dimensions of the root."""

    factor: float
    at: tuple[sympy.Expr, ...]


class _Changed(Exception):
    """The translation can be seen."""


def ignores_translation(root: SSAValue, dims: tuple[int, ...]) -> bool:
    """Whether nothing that the program returns changes when c is added to `root`, for any c over its dimensions `dims`.

    The shift is followed through all readers: sums and scalings carry it on, `x - max x` and the index of an extreme
    lose it, and everything else would show it.
    """
    if not isinstance(root.owner, Operation):
        return False
    start = Shift(1.0, tuple(symbols.symbol(f"v{d}") for d in dims))  # over the dimensions v0, v1, … of each value
    moved: dict[SSAValue, Shift] = {root: start}
    readers = {u.operation for u in root.uses}
    op: Operation | None = root.owner
    try:
        while readers and op is not None:
            op = op.next_op
            if op is None or op not in readers:
                continue
            readers.remove(op)
            if not isinstance(op, EinsumOp):
                return False
            for n, result in enumerate(op.results):
                shift = _result(op, n, moved)
                if shift is not None:
                    moved[result] = shift
                    readers |= {u.operation for u in result.uses}
    except _Changed:
        return False
    return True


def _result(op: EinsumOp, n: int, moved: Mapping[SSAValue, Shift]) -> Shift | None:
    args: dict[SSAValue, Shift] = {}
    for argument, (value, access) in zip(op.body.block.args, op.operand_accesses, strict=True):
        if value in moved:
            table = {symbols.symbol(f"v{d}"): e for d, e in enumerate(access.data)}
            shift = moved[value]
            args[argument] = Shift(shift.factor, tuple(symbols.substitute(e, table) for e in shift.at))
    shift = _scalar(op.yields[n], args)
    if shift is None:
        return None
    over = {symbols.symbol(r): symbols.symbol(f"v{d}") for d, r in enumerate(op.out_ranks(n))}
    used = frozenset().union(*(e.free_symbols for e in shift.at)) if shift.at else frozenset()
    if used & {symbols.symbol(r) for r in op.reduced}:
        raise _Changed
    combiner, factor = op.combiner_names[n], shift.factor
    if combiner in ("argmax", "argmin"):
        return None
    if combiner == "sum":
        for r in op.reduced:
            if not op.extents[r].is_Integer:
                raise _Changed
            factor *= int(op.extents[r])
    elif combiner not in ("map", "max", "min"):
        raise _Changed
    return Shift(factor, tuple(symbols.substitute(e, over) for e in shift.at))


def _scalar(value: SSAValue, args: Mapping[SSAValue, Shift]) -> Shift | None:
    """How a scalar moves, None when it does not; raises _Changed for what is not a translation."""
    if isinstance(value, BlockArgument):
        return args.get(value)
    op = value.owner
    assert isinstance(op, Operation)
    if isinstance(op, IndexOp):
        return None
    shifts = [_scalar(o, args) for o in op.operands]
    if not any(shifts):
        return None
    name = scalar.name_of(op)
    if name in ("widen", "narrow"):
        return shifts[0]
    if name == "neg":
        assert shifts[0] is not None
        return Shift(-shifts[0].factor, shifts[0].at)
    if name in ("add", "sub"):
        return _added(shifts[0], shifts[1], 1.0 if name == "add" else -1.0)
    if name in ("mul", "div"):
        a, b = shifts
        c = _number(op.operands[1] if a is not None else op.operands[0])
        if (a is not None and b is not None) or c is None or (name == "div" and (b is not None or c == 0)):
            raise _Changed
        shift = a or b
        assert shift is not None
        return Shift(shift.factor * c if name == "mul" else shift.factor / c, shift.at)
    if name in ("maximum", "minimum") and shifts[0] == shifts[1]:
        return shifts[0]
    if name == "select" and shifts[0] is None:
        return _chosen(shifts[1:], op.operands[1:])
    if name in ("lt", "le", "gt", "ge", "eq", "ne") and shifts[0] == shifts[1]:
        return None
    raise _Changed


def _added(a: Shift | None, b: Shift | None, sign: float) -> Shift | None:
    if a is None or b is None:
        shift = a or b
        assert shift is not None
        return shift if a is not None else Shift(sign * shift.factor, shift.at)
    if a.at != b.at:
        raise _Changed
    factor = a.factor + sign * b.factor
    return Shift(factor, a.at) if factor else None


def _chosen(shifts, branches) -> Shift | None:
    """Of two branches: both move alike, or the other one is infinite, which nothing finite moves."""
    for own, other, branch in ((0, 1, branches[1]), (1, 0, branches[0])):
        c = _number(branch)
        if shifts[own] is not None and shifts[other] is None and c is not None and math.isinf(c):
            return shifts[own]
    if shifts[0] != shifts[1]:
        raise _Changed
    return shifts[0]


def _number(value: SSAValue) -> float | None:
    owner = value.owner
    if isinstance(owner, Operation) and scalar.name_of(owner) == scalar.CONSTANT:
        return float(scalar.constant_value(owner))
    return None
