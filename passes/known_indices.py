"""known-indices: what indices alone decide is computed where it is read, and is no tensor.

When: first, on a whole program, on integers and booleans that come from no data: positions, differences of neighbouring
positions, sums that count how often those are odd.

Before:  p[i] = i + 3;  d[i] = p[i + 1] - p[i];  c = running sum of d != 1;  s[i, j] = c[i] == c[j] and p[j] <= p[i]
After:   s[i, j] = j + 3 <= i + 3

Why legal: substitution; a case that holds at one index only is left out where the other case says the same there; a running
sum of zeros is zero.  Why cheaper: nothing is stored or loaded, and what is left is a predicate of indices, which bounds loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy
from xdsl.dialects.builtin import ArrayAttr, IntegerType, i1, i64
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap
from ..ir.cascade import EinsumOp, IndexOp, ProgramOp, ScanOp, YieldOp
from .index_predicates import AtLeast, comparison
from .pass_classes import ProgramPass
from .ranges import Ranges, decided, ranges_of, reach_of

Known = sympy.Expr | bool

_ARITHMETIC = {"iadd": lambda a, b: a + b, "isub": lambda a, b: a - b}
_COMPARED = {"ilt": "lt", "ile": "le", "igt": "gt", "ige": "ge", "ieq": "eq", "ine": "ne"}


@dataclass(frozen=True)
class KnownIndices(ProgramPass):
    """`known-indices` on every program of a module."""

    name = "known-indices"

    def on_program(self, program: ProgramOp) -> None:
        known_indices(program)


def known_indices(program: ProgramOp) -> int:
    """Rewrite in place; how many values are no tensors any more where they are read."""
    found: dict[SSAValue, tuple[tuple[str, ...], Known]] = {}
    for op in program.body.block.ops:
        if isinstance(op, EinsumOp | ScanOp):
            known = _of_scan(op, found) if isinstance(op, ScanOp) else _of_map(op, found)
            if known is not None:
                found[op.results[0]] = (op.out_ranks(0), known)
    if found:
        for op in program.body.block.ops:
            if isinstance(op, EinsumOp):
                _read_where_needed(op, found)
    return len(found)


# --- what is known ------------------------------------------------------------------------------------------------


def _of_map(op: EinsumOp, found: Mapping[SSAValue, tuple[tuple[str, ...], Known]]) -> Known | None:
    if not op.is_map or len(op.results) != 1 or op.results[0].type.element_type not in (i1, i64):  # pyright: ignore
        return None  # narrower integers may wrap
    ranges = ranges_of(op.extents)
    known = _Scalars(op, found).value(op.yields[0], ranges)
    return known if isinstance(known, bool) or known is None or symbols.affine(known, op.extents) else None


def _of_scan(op: ScanOp, found: Mapping[SSAValue, tuple[tuple[str, ...], Known]]) -> Known | None:
    """A running sum of zeros."""
    last = op.body.block.last_op
    assert isinstance(last, YieldOp)
    if len(op.results) != 1 or op.combiner_names != ("sum",) or not isinstance(last.values[0].type, IntegerType):
        return None
    ranges = ranges_of(op.extents)
    summed = _Scalars(op, found).value(last.values[0], ranges)
    return sympy.Integer(0) if not isinstance(summed, bool) and summed == 0 else None


class _Scalars:
    """Scalars of one region as functions of its ranks."""

    def __init__(self, op: EinsumOp | ScanOp, found: Mapping[SSAValue, tuple[tuple[str, ...], Known]]):
        self.op, self.found = op, found

    def value(self, value: SSAValue, ranges: Ranges) -> Known | None:
        """What `value` is where the ranks lie in `ranges`; None where that is not one expression."""
        if isinstance(value, BlockArgument):
            tensor, access = self.op.operand_accesses[value.index]
            return _at(tensor, access, self.found, ranges)
        inner = value.owner
        if isinstance(inner, IndexOp):
            return inner.expr
        assert isinstance(inner, Operation)
        name = scalar.name_of(inner)
        if name == scalar.CONSTANT:
            number = scalar.constant_value(inner)
            return number if isinstance(number, bool) else sympy.Integer(number) if isinstance(number, int) else None
        if name == "select":
            return self._chosen(inner, ranges)
        if name == "bool_to_int":
            truth = self.value(inner.operands[0], ranges)
            return None if not isinstance(truth, bool) else sympy.Integer(int(truth))
        if name in ("and", "or"):
            return self._connected(name, inner, ranges)
        operands = [self.value(o, ranges) for o in inner.operands]
        if len(operands) != 2 or any(x is None or isinstance(x, bool) for x in operands):
            return None
        if name in _ARITHMETIC:
            return sympy.expand(_ARITHMETIC[name](*operands))
        return decided(comparison(_COMPARED[name], *operands), ranges) if name in _COMPARED else None  # pyright: ignore

    def _connected(self, name: str, inner: Operation, ranges: Ranges) -> bool | None:
        a, b = (self.value(o, ranges) for o in inner.operands)
        decisive = name == "or"
        if a is decisive or b is decisive:
            return decisive
        return not decisive if isinstance(a, bool) and isinstance(b, bool) else None

    def _chosen(self, inner: Operation, ranges: Ranges) -> Known | None:
        condition, one, other = inner.operands
        truth = self.value(condition, ranges)
        if isinstance(truth, bool):
            return self.value(one if truth else other, ranges)
        cut = self._cut(condition, ranges)
        if cut is None:
            return None
        rank, holds, fails = cut
        a, b = self.value(one, {**ranges, rank: holds}), self.value(other, {**ranges, rank: fails})
        if a is None or b is None or isinstance(a, bool) or isinstance(b, bool):
            return a if isinstance(a, bool) and a is b else None
        for narrow, here, wide in ((holds, a, b), (fails, b, a)):
            point = {symbols.symbol(rank): narrow[0]}
            same = sympy.expand(symbols.substitute(here, point) - symbols.substitute(wide, point)) == 0
            if same and sympy.expand(narrow[1] - narrow[0]) == 0:
                return wide
        return a if sympy.expand(a - b) == 0 else None

    def _cut(self, condition: SSAValue, ranges: Ranges):
        """(rank, where the condition holds, where it does not), if it says on which side of an index a rank lies."""
        inner = condition.owner
        if not isinstance(inner, Operation) or scalar.name_of(inner) not in _COMPARED:
            return None
        a, b = (self.value(o, ranges) for o in inner.operands)
        if a is None or b is None or isinstance(a, bool) or isinstance(b, bool):
            return None
        p = comparison(_COMPARED[scalar.name_of(inner)], a, b)  # pyright: ignore
        form = symbols.affine(p.e, ranges) if isinstance(p, AtLeast) else None
        terms = {r: c for r, c in form[0].items() if c != 0} if form is not None else {}
        if form is None or len(terms) != 1:
            return None
        (rank, c), offset = *terms.items(), form[1]
        low, high = ranges[rank]
        if c == 1:  # rank >= -offset
            return rank, (-offset, high), (low, -offset - 1)
        if c == -1:  # rank <= offset
            return rank, (low, offset), (offset + 1, high)
        return None


def _at(
    tensor: SSAValue, access: AccessMap, found: Mapping[SSAValue, tuple[tuple[str, ...], Known]], ranges: Ranges
) -> Known | None:
    """An element of a known tensor; None where the access may leave it, and read zero."""
    if tensor not in found:
        return None
    ranks, known = found[tensor]
    for e, dim in zip(access.data, tensor.type.dims, strict=True):  # pyright: ignore
        reach = reach_of(e, ranges)
        if reach is None or not (_holds(reach[0]) and _holds(dim - 1 - reach[1])):
            return None
    table = {symbols.symbol(r): e for r, e in zip(ranks, access.data, strict=True)}
    return known if isinstance(known, bool) else sympy.expand(symbols.substitute(known, table))


def _holds(e: sympy.Expr) -> bool:
    """`e >= 0` for sizes from one on: PyTorch reads nothing of what is empty."""
    return bool(sympy.expand(symbols.substitute(e, {s: s + 1 for s in e.free_symbols})).is_nonnegative)  # pyright: ignore


# --- where it is read ---------------------------------------------------------------------------------------------


def _read_where_needed(op: EinsumOp, found: Mapping[SSAValue, tuple[tuple[str, ...], Known]]) -> None:
    """Compute what is known in the region of `op`, and read it no more."""
    ranges = ranges_of(op.extents)
    block = op.body.block
    gone: list[int] = []
    for n, (tensor, access) in enumerate(op.operand_accesses):
        known = _at(tensor, access, found, ranges)
        if known is None:
            continue
        made = _written(known, block.args[n].type)
        block.insert_op_before(made, block.first_op)  # pyright: ignore
        block.args[n].replace_all_uses_with(made.results[0])
        gone.append(n)
    if gone:
        kept = [n for n in range(len(op.inputs)) if n not in gone]
        accesses = op.accesses.data
        op.operands = [op.inputs[n] for n in kept]
        op.properties["accesses"] = ArrayAttr([accesses[n] for n in kept])
        for n in reversed(gone):
            block.erase_arg(block.args[n])
        scalars = _Scalars(op, {})
        for inner in list(block.ops):
            if scalar.name_of(inner) in _COMPARED and isinstance(
                truth := scalars.value(inner.results[0], ranges), bool
            ):
                made = scalar.constant(truth, i1)
                block.insert_op_before(made, inner)
                inner.results[0].replace_all_uses_with(made.results[0])


def _written(known: Known, kind: Attribute) -> Operation:
    if isinstance(known, bool):
        return scalar.constant(known, i1)
    return scalar.constant(int(known), kind) if known.is_Integer else IndexOp(known)


__all__ = ["KnownIndices", "known_indices"]
