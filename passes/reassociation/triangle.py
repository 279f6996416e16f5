"""Triangles: sums over j <= i of products whose factors carry i or j, never both.

    s = Σ_d q[i, d] k[j, d];  m = j <= i ? s : 0;  o = Σ_j m v[j, f]

The condition may stand in the map itself, in a mask that is a tensor, or be a factor of ones and zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sympy
from xdsl.dialects.builtin import i1
from xdsl.ir import BlockArgument, Operation, SSAValue

from ...ir import scalar, symbols
from ...ir.attributes import is_float
from ...ir.cascade import MAP, EinsumOp, IndexOp
from .terms import Expr, Factor, fresh, is_plain

Condition = Expr | bool  # an index expression that is <= 0 where the condition holds


@dataclass(frozen=True)
class Triangle:
    """Σ over j, and over `inner`, of coefficient · q · k · v where j <= i (strict: j < i).  v: None for 1."""

    i: str
    j: str
    strict: bool
    inner: tuple[str, ...]
    coefficient: float
    q: Factor
    k: Factor
    v: Factor | None
    extents: dict[str, Expr]


@dataclass
class _Product:
    """A scalar as coefficient · factors where all conditions hold, 0 elsewhere."""

    coefficient: float = 1.0
    factors: tuple[Factor, ...] = ()
    conditions: tuple[Expr, ...] = ()

    def __mul__(self, other: _Product) -> _Product:
        return _Product(
            self.coefficient * other.coefficient, self.factors + other.factors, self.conditions + other.conditions
        )


class _NoProduct(Exception):
    """The scalar is no such product."""


def triangle_of(root: EinsumOp, exists: Callable[[SSAValue], bool]) -> Triangle | None:
    if root.combiner_names != ("sum",) or not is_float(root.results[0].type.element_type):  # pyright: ignore
        return None
    reader = _Reader(root, exists)
    try:
        product = reader.scalar(root.yields[0], root, {})
    except _NoProduct:
        return None
    if len(product.conditions) != 1 or not all(exists(f.value) for f in product.factors):
        return None
    extents, out = reader.extents, root.out_ranks(0)
    found = _band(product.conditions[0], out, reader.reduced)
    if found is None or extents[found[0]] != extents[found[1]] or not extents[found[0]].is_Integer:
        return None
    i, j, strict = found
    carried = [f.ranks(extents) for f in product.factors]
    rows = [f for f, c in zip(product.factors, carried, strict=True) if i in c]
    columns = [f for f, c in zip(product.factors, carried, strict=True) if j in c]
    inner = tuple(r for r in reader.reduced if r != j)
    if len(rows) != 1 or len(rows) + len(columns) != len(product.factors) or any(i in f.ranks([i]) for f in columns):
        return None
    with_inner = [f for f in columns if f.ranks(inner)]
    others = [f for f in columns if not f.ranks(inner)]
    if not inner or len(with_inner) != 1 or len(others) > 1:
        return None
    k, v = with_inner[0], others[0] if others else None
    if rows[0].ranks(inner) != frozenset(inner) or k.ranks(inner) != frozenset(inner):
        return None
    if (rows[0].ranks(out) - {i}) - (k.ranks(out) | (v.ranks(out) if v else frozenset())):
        return None
    if not all(is_plain(f, extents) and f.power == 1 for f in product.factors):
        return None
    return Triangle(i, j, strict, inner, product.coefficient, rows[0], k, v, extents)


def _band(condition: Expr, out: Sequence[str], reduced: Sequence[str]) -> tuple[str, str, bool] | None:
    """(i, j, strict) of j - i <= 0 or j - i + 1 <= 0, i a dimension of the result and j summed."""
    for i in out:
        for j in reduced:
            rest = sympy.expand(condition - symbols.symbol(j) + symbols.symbol(i))
            if rest in (0, 1):
                return i, j, rest == 1
    return None


class _Reader:
    """Reads scalars as products, through maps that only the sum reads, and one contraction."""

    def __init__(self, root: EinsumOp, exists: Callable[[SSAValue], bool]):
        self.root, self.exists = root, exists
        self.extents: dict[str, Expr] = dict(root.extents)
        self.reduced: list[str] = list(root.reduced)

    def scalar(self, value: SSAValue, op: EinsumOp, at: Mapping[str, Expr]) -> _Product:
        if isinstance(value, BlockArgument):
            access = op.accesses.data[value.index].substitute(at)
            return self.element(op.inputs[value.index], access.data)
        inner = value.owner
        assert isinstance(inner, Operation)
        name = scalar.name_of(inner)
        operands = inner.operands
        if name == scalar.CONSTANT and is_float(value.type):
            return _Product(float(scalar.constant_value(inner)))
        if name in ("widen", "narrow"):
            return self.scalar(operands[0], op, at)
        if name == "neg":
            return _Product(-1.0) * self.scalar(operands[0], op, at)
        if name == "mul":
            return self.scalar(operands[0], op, at) * self.scalar(operands[1], op, at)
        if name == "div":
            under = self.scalar(operands[1], op, at)
            if under.factors or under.conditions or not under.coefficient:
                raise _NoProduct
            return _Product(1 / under.coefficient) * self.scalar(operands[0], op, at)
        if name == "bool_to_float":
            return self._where(self.condition(operands[0], op, at))
        if name == "select" and is_float(value.type):
            condition = self.condition(operands[0], op, at)
            yes, no = self.scalar(operands[1], op, at), self.scalar(operands[2], op, at)
            if no.coefficient == 0:
                return yes * self._where(condition)
            if yes.coefficient == 0:
                return no * self._where(_not(condition))
        raise _NoProduct

    @staticmethod
    def _where(condition: Condition) -> _Product:
        if isinstance(condition, bool):
            return _Product(float(condition))
        return _Product(conditions=(condition,))

    def element(self, value: SSAValue, access: Sequence[Expr]) -> _Product:
        """An element of a tensor: what it is computed from, or a factor."""
        op = value.owner
        leaf = _Product(factors=(Factor(value, tuple(access)),))
        if not isinstance(op, EinsumOp) or len(op.results) != 1 or op.combiner_names[0] not in ("sum", MAP):
            return leaf
        at = dict(zip(op.out_ranks(0), access, strict=True))
        if op.is_map:
            if not (self._ours(value) or _is_index_only(op)):
                return leaf
            try:
                product = self.scalar(op.yields[0], op, at)
            except _NoProduct:
                return leaf
            inputs_exist = all(self.exists(f.value) for f in product.factors)
            return product if inputs_exist and (product.conditions or not self.exists(value)) else leaf
        if not self._ours(value) or len(self.reduced) > len(self.root.reduced):
            return leaf
        names = {}
        for r in op.reduced:
            names[r] = fresh(r, self.extents)
            self.extents[names[r]] = op.extents[r]
            self.reduced.append(names[r])
        return self.scalar(op.yields[0], op, at | {r: symbols.symbol(n) for r, n in names.items()})

    def _ours(self, value: SSAValue) -> bool:
        """Whether only sums like the root read the value, directly or through maps of their own."""
        for use in value.uses:
            reader = use.operation
            if reader is self.root:
                continue
            if not isinstance(reader, EinsumOp) or len(reader.results) != 1:
                return False
            if reader.combiner_names[0] != "sum" and not (reader.is_map and self._ours(reader.results[0])):
                return False
        return True

    def condition(self, value: SSAValue, op: EinsumOp, at: Mapping[str, Expr]) -> Condition:
        """A boolean as a condition on indices."""
        if isinstance(value, BlockArgument):
            source, access = op.inputs[value.index], op.accesses.data[value.index].substitute(at)
            producer = source.owner
            if not isinstance(producer, EinsumOp) or not producer.is_map or len(producer.results) != 1:
                raise _NoProduct
            return self.condition(
                producer.yields[0], producer, dict(zip(producer.out_ranks(0), access.data, strict=True))
            )
        inner = value.owner
        assert isinstance(inner, Operation)
        name = scalar.name_of(inner)
        if name == scalar.CONSTANT and value.type == i1:
            return bool(scalar.constant_value(inner))
        if name in ("ile", "ilt", "ige", "igt"):
            a, b = (self._index(o, op, at) for o in inner.operands)
            difference = a - b if name in ("ile", "ilt") else b - a
            return sympy.expand(difference + (1 if name in ("ilt", "igt") else 0))
        if name in ("xor", "and", "or"):
            a, b = (self.condition(o, op, at) for o in inner.operands)
            if isinstance(a, bool):
                a, b = b, a
            if isinstance(b, bool):
                if name == "xor":
                    return _not(a) if b else a
                return a if b == (name == "and") else b
        if name == "select" and value.type == i1:
            condition, yes, no = (self.condition(o, op, at) for o in inner.operands)
            if isinstance(condition, bool):
                return yes if condition else no
            if isinstance(yes, bool) and isinstance(no, bool) and yes != no:
                return condition if yes else _not(condition)
        raise _NoProduct

    def _index(self, value: SSAValue, op: EinsumOp, at: Mapping[str, Expr]) -> Expr:
        if isinstance(value, BlockArgument):
            source, access = op.inputs[value.index], op.accesses.data[value.index].substitute(at)
            producer = source.owner
            if not isinstance(producer, EinsumOp) or not producer.is_map or len(producer.results) != 1:
                raise _NoProduct
            return self._index(producer.yields[0], producer, dict(zip(producer.out_ranks(0), access.data, strict=True)))
        inner = value.owner
        if isinstance(inner, IndexOp):
            return inner.expression.substitute(at).data[0]
        assert isinstance(inner, Operation)
        name = scalar.name_of(inner)
        if name == scalar.CONSTANT:
            return sympy.Integer(int(scalar.constant_value(inner)))
        if name in ("iadd", "isub", "imul"):
            a, b = (self._index(o, op, at) for o in inner.operands)
            return sympy.expand(a + b if name == "iadd" else a - b if name == "isub" else a * b)
        raise _NoProduct


def _not(condition: Condition) -> Condition:
    return not condition if isinstance(condition, bool) else sympy.expand(1 - condition)


def _is_index_only(op: EinsumOp) -> bool:
    """A map that reads nothing but other such maps: a mask, to be computed wherever it is needed."""
    return op.is_map and all(isinstance(v.owner, EinsumOp) and _is_index_only(v.owner) for v in op.inputs)
