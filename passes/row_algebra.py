"""The algebra of one rank of a kernel: its reductions over that rank as sympy expressions.

Along rank k, what a reduction reads falls apart into *leaves* (values that carry k and do not depend on any reduction
over k), *constants* (values that neither carry k nor depend on such a reduction), and the results of earlier reductions
over k.  Only the map expressions between them matter to the derivation; a leaf may stand for a whole contraction.

A leaf is as large as it can be: `scale * s + mask` is one symbol.  So the spelling of what need not be touched is kept,
and the algebra stays small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import sympy as sp
from xdsl.dialects.builtin import i1
from xdsl.ir import BlockArgument, Operation, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, is_float
from ..ir.cascade import MAP, EinsumOp, IndexOp, KernelOp
from .algebra import expressions as ex
from .algebra.forms import Cascade, Reduction

_SYMPY = {
    "add": sp.Add,
    "sub": lambda a, b: a - b,
    "mul": sp.Mul,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "maximum": sp.Max,
    "minimum": sp.Min,
    "abs": sp.Abs,
    "exp": sp.exp,
    "exp2": ex.exp2,
    "expm1": ex.expm1,
    "log": sp.log,
    "log2": ex.log2,
    "log1p": ex.log1p,
    "sqrt": sp.sqrt,
    "rsqrt": ex.rsqrt,
    "tanh": sp.tanh,
    "sin": sp.sin,
    "cos": sp.cos,
    "erf": sp.erf,
    "pow": sp.Pow,
    "floor": sp.floor,
    "ceil": sp.ceiling,
    "trunc": ex.trunc,
    "round": ex.round_,
    "lt": ex.lt,
    "le": ex.le,
    "gt": ex.gt,
    "ge": ex.ge,
    "eq": ex.eq,
    "ne": ex.ne,
    "iadd": sp.Add,
    "isub": lambda a, b: a - b,
    "imul": sp.Mul,
    "ifloordiv": ex.floordiv,
    "irem": ex.irem,
    "imaximum": sp.Max,
    "iminimum": sp.Min,
    "ilt": lambda a, b: sp.S.Zero if a.is_nonnegative and b == 0 else ex.lt(a, b),
    "ile": ex.le,
    "igt": ex.gt,
    "ige": ex.ge,
    "ieq": ex.eq,
    "ine": ex.ne,
    "inside": lambda i, n: ex.land(ex.ge(i, 0), ex.lt(i, n)),
    "and": ex.land,
    "or": ex.lor,
    "xor": ex.lxor,
    "select": ex.select,
    "int_to_float": lambda x: x,
    "bool_to_float": lambda x: x,
    "float_to_int": ex.cast_int,
    "bool_to_int": lambda x: x,
    "widen": lambda x: x,
    "narrow": lambda x: x,
    "to_bf16": ex.to_bf16,
    "to_f16": ex.to_f16,
}


UNKNOWN, NONNEGATIVE, POSITIVE = 0, 1, 2


@dataclass(frozen=True)
class Leaf:
    """What a symbol stands for: an element of a tensor value, or a scalar inside a map's region."""

    value: SSAValue  # tensor value (with `access`) or scalar value (access None)
    access: AccessMap | None
    op: EinsumOp | None  # the map that computes a scalar leaf


@dataclass
class RowAlgebra:
    """The reductions of `kernel` over rank `rank`, and the symbols they are written in.

    `opaque`: stop at the largest subexpressions that no reduction over the rank enters (see the module's text); with
    False, expressions reach down to the kernel's inputs and contractions.
    """

    kernel: KernelOp
    rank: str
    opaque: bool = True
    reductions: list[EinsumOp] = field(default_factory=list)
    name_of: dict[SSAValue, sp.Symbol] = field(default_factory=dict)  # result of a reduction over the rank -> its name
    meaning: dict[sp.Symbol, Leaf] = field(default_factory=dict)
    carried: set[sp.Symbol] = field(default_factory=set)  # the symbols that carry the rank
    blocked: dict[SSAValue, str] = field(default_factory=dict)  # reductions that no algebra reaches, with the reason

    def __post_init__(self) -> None:
        self._symbols: dict[tuple, sp.Symbol] = {}
        self._depends: dict[SSAValue, frozenset[SSAValue]] = {}
        self._exprs: dict[SSAValue, sp.Expr] = {}
        for op in self.kernel.body.block.ops:
            if isinstance(op, EinsumOp) and self.rank in op.reduced:
                self.reductions.append(op)

    # --- what depends on what ------------------------------------------------------------------------------------

    def depends(self, value: SSAValue) -> frozenset[SSAValue]:
        """The results of reductions over the rank that `value` (tensor or scalar) is computed from, nearest only."""
        if value not in self._depends:
            self._depends[value] = self._find_depends(value)
        return self._depends[value]

    def _find_depends(self, value: SSAValue) -> frozenset[SSAValue]:
        if isinstance(value, BlockArgument):
            owner = value.block.parent_op()
            if isinstance(owner, EinsumOp):
                return self.depends(owner.inputs[value.index])
            return frozenset()
        op = value.owner
        assert isinstance(op, Operation)
        if isinstance(op, EinsumOp):
            if self.rank in op.reduced:
                return frozenset({value})
            found: frozenset[SSAValue] = frozenset()
            for v in op.inputs:
                found |= self.depends(v)
            return found
        return frozenset().union(*(self.depends(o) for o in op.operands)) if op.operands else frozenset()

    def carries(self, value: SSAValue) -> bool:
        """Whether a scalar inside a region carries the rank."""
        if isinstance(value, BlockArgument):
            op = value.block.parent_op()
            assert isinstance(op, EinsumOp)
            return self.rank in op.accesses.data[value.index].ranks
        op = value.owner
        if isinstance(op, IndexOp):
            return self.rank in op.expression.ranks
        return any(self.carries(o) for o in op.operands)  # pyright: ignore

    # --- expressions ---------------------------------------------------------------------------------------------

    def cascade(self) -> tuple[Cascade, dict[sp.Symbol, EinsumOp]]:
        """The cascade over the rank, and which operation each reduction is.

        Reductions that the algebra cannot reach (several ranks at once, several results, a dependency through another
        contraction) are left out and listed in `blocked`.
        """
        rows: list[Reduction] = []
        ops: dict[sp.Symbol, EinsumOp] = {}
        for op in self.reductions:
            for n, result in enumerate(op.results):
                reason = self._unreachable(op)
                symbol = self._name(result, op, n)
                if reason:
                    self.blocked[result] = reason
                    continue
                try:
                    e = self.scalar(op.yields[n])
                except Unreachable as stop:
                    self.blocked[result] = str(stop)
                    continue
                rows.append(Reduction(symbol, op.combiner_names[n], e))
                ops[symbol] = op
        maps = []
        for value in self.kernel.returned:
            owner = value.owner
            if isinstance(owner, EinsumOp) and self.rank in owner.out_ranks(value.index) and owner.is_map:  # pyright: ignore
                try:
                    maps.append(self.tensor(value, AccessMap.of(owner.out_ranks(value.index))))  # pyright: ignore
                except Unreachable:
                    continue
        return Cascade(tuple(rows), (), tuple(maps), frozenset(self.carried)), ops

    def _unreachable(self, op: EinsumOp) -> str | None:
        if len(op.reduced) != 1:
            return f"reduces {' and '.join(op.reduced)} at once"
        return None

    def _name(self, result: SSAValue, op: EinsumOp, n: int) -> sp.Symbol:
        if result not in self.name_of:
            hint = result.name_hint or f"r{len(self.name_of)}"
            taken = {s.name for s in self.name_of.values()}
            name, k = hint, 1
            while name in taken:
                name, k = f"{hint}_{k}", k + 1
            place = op.combiner_names[n] in ("argmax", "argmin")
            self.name_of[result] = (
                ex.Place(name, integer=True, nonnegative=True) if place else _named(name, self._sign_of(result))
            )
        return self.name_of[result]

    def _sign(self, value: SSAValue) -> int:
        """POSITIVE or NONNEGATIVE where a scalar is that in real arithmetic, as its maps show; else UNKNOWN."""
        if isinstance(value, BlockArgument):
            op = value.block.parent_op()
            assert isinstance(op, EinsumOp)
            return self._sign_of(op.inputs[value.index])
        op = value.owner
        name = scalar.name_of(op)  # pyright: ignore
        if name == scalar.CONSTANT:
            number = scalar.constant_value(op)  # pyright: ignore
            return POSITIVE if number > 0 else NONNEGATIVE if number == 0 else UNKNOWN
        if name in ("exp", "exp2"):
            return POSITIVE
        if name in ("bool_to_float", "bool_to_int"):
            return NONNEGATIVE
        signs = [self._sign(o) for o in op.operands if is_float(o.type)]  # pyright: ignore
        if name in ("sqrt", "rsqrt", "abs"):
            return max(NONNEGATIVE, signs[0])
        if name in ("widen", "narrow") and signs:
            return signs[0]
        if name == "mul" and op.operands[0] is op.operands[1]:  # pyright: ignore
            return max(NONNEGATIVE, signs[0])
        if name in ("mul", "div", "minimum", "select"):
            return min(signs, default=UNKNOWN)
        if name == "add":
            return max(signs) if min(signs, default=UNKNOWN) else UNKNOWN
        if name == "maximum":
            return max(signs, default=UNKNOWN)
        return UNKNOWN

    def _sign_of(self, value: SSAValue) -> int:
        """The sign of a tensor's elements.  What a row without elements sums to counts for nothing."""
        op = value.owner
        if not isinstance(op, EinsumOp):
            return UNKNOWN
        combiner = op.combiner_names[value.index]  # pyright: ignore
        known = combiner in (MAP, "sum", "prod", "max", "min")
        return self._sign(op.yields[value.index]) if known else UNKNOWN  # pyright: ignore

    def tensor(self, value: SSAValue, access: AccessMap) -> sp.Expr:
        """The element of a tensor value at `access`, as an expression."""
        owner = value.owner
        if value in self.name_of or (isinstance(owner, EinsumOp) and self.rank in owner.reduced):
            return self._name(value, owner, value.index)  # pyright: ignore
        depends = self.depends(value)
        is_map = isinstance(owner, EinsumOp) and owner.is_map
        if not depends and (self.opaque or not is_map):
            return self._symbol(Leaf(value, access, None), self.rank in access.ranks, value)
        if not is_map:
            raise Unreachable(
                f"depends on an earlier reduction over {self.rank} through a contraction over another rank"
            )
        return self.scalar(owner.yields[value.index])  # pyright: ignore

    def scalar(self, value: SSAValue) -> sp.Expr:
        """A scalar inside a region, as an expression."""
        if value not in self._exprs:
            self._exprs[value] = self._scalar(value)
        return self._exprs[value]

    def _scalar(self, value: SSAValue) -> sp.Expr:
        if isinstance(value, BlockArgument):
            op = value.block.parent_op()
            assert isinstance(op, EinsumOp)
            return self.tensor(op.inputs[value.index], op.accesses.data[value.index])
        op = value.owner
        assert isinstance(op, Operation)
        if scalar.name_of(op) == scalar.CONSTANT:
            return self._constant(value, scalar.constant_value(op))
        if isinstance(op, IndexOp) or (self.opaque and not self.depends(value)):
            region_op = op.parent_op()
            assert isinstance(region_op, EinsumOp)
            return self._symbol(Leaf(value, None, region_op), self.carries(value), value)
        name = scalar.name_of(op)
        assert name is not None
        if name in ("and", "or", "xor") and value.type != i1:
            raise Unreachable("works on the bits of an integer that an earlier reduction enters")
        return _SYMPY[name](*(self.scalar(o) for o in op.operands))

    def _constant(self, value: SSAValue, number: float | int | bool) -> sp.Expr:
        if isinstance(number, bool):
            return sp.true if number else sp.false
        if number != number:
            return sp.nan
        if number in (float("inf"), float("-inf")):
            return sp.oo if number > 0 else -sp.oo
        exact = Fraction(number)
        if exact.denominator <= 1 << 20 and abs(exact.numerator) <= 1 << 20:
            return sp.Rational(exact.numerator, exact.denominator)
        symbol = sp.Symbol(f"c_{abs(number)!r}", positive=True)
        self.meaning[symbol] = Leaf(value, None, None)
        return symbol if number > 0 else -symbol

    def size(self, extent: sp.Expr) -> sp.Expr | None:
        """An extent as the reductions write it: a number, or the symbol of a leaf that holds it; None if none does."""
        if extent.is_Integer:
            return extent
        for s, leaf in self.meaning.items():
            owner = leaf.value.owner
            if leaf.access is None and scalar.name_of(owner) == "int_to_float":  # pyright: ignore
                owner = owner.operands[0].owner  # pyright: ignore
            if leaf.access is None and isinstance(owner, IndexOp) and owner.expr == extent:
                return s
        return None

    def _symbol(self, leaf: Leaf, carries: bool, value: SSAValue) -> sp.Symbol:
        key = (leaf.value, leaf.access)
        if key not in self._symbols:
            prefix = "x" if carries else "c"
            is_real = is_float(getattr(value.type, "element_type", value.type))
            sign = (self._sign(value) if leaf.access is None else self._sign_of(value)) if is_real else UNKNOWN
            name = f"{prefix}{len(self._symbols)}"
            at = isinstance(value.owner, IndexOp) and value.owner.expr == symbols.symbol(self.rank)
            symbol = ex.Position(name, integer=True, nonnegative=True) if at else _named(name, sign)
            self._symbols[key] = symbol
            self.meaning[symbol] = leaf
            if carries:
                self.carried.add(symbol)
        return self._symbols[key]


def _named(name: str, sign: int) -> sp.Symbol:
    if sign == UNKNOWN:
        return sp.Symbol(name, real=True)
    return sp.Symbol(name, positive=True) if sign == POSITIVE else sp.Symbol(name, real=True, nonnegative=True)


class Unreachable(Exception):
    """A reduction depends on an earlier one through something that is not a map, or that has no algebra."""
