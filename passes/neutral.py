"""Where contributions to a reduction are its neutral element, by what indices say, and data if that is asked for.

    s = select(k <= i, x, -inf)      s is -inf, except where k <= i
    max_k s                          -inf is neutral
    Σ_k exp(s - m) v                 exp(-inf - m) is 0, 0 v is 0: neutral

Followed through map regions, one constant at a time: `Facts` says for a constant where a scalar may be something else.
With `data`, booleans that data decides are predicates too, and so is "this element is not -inf": s is -inf where a mask is
false, or where an additive mask is -inf.

What is loaded counts as finite (as in every rewrite: 0 x is 0), what was computed does not: -inf - max is NaN where a
whole row is masked, and then nothing is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
from xdsl.dialects.builtin import i1
from xdsl.ir import BlockArgument, Operation, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, is_float
from ..ir.cascade import EinsumOp, IndexOp, KernelOp, OnlineOp, ProgramOp, YieldOp
from .bounds import inside, interval
from .index_predicates import (
    FALSE,
    TRUE,
    AtLeast,
    Equals,
    Predicate,
    at_least,
    comparison,
    every,
    implied,
    opposite,
    some,
)

Number = float | int | bool
Facts = Mapping[Number, Predicate]  # a constant -> where the scalar may differ from it; nothing said: anywhere

EXACT = 2**24  # integers below are themselves in f32
SMALL = 8  # more constants than this are not followed
INFINITE = frozenset({-math.inf, math.inf, math.nan})

_COMPARED = {"ilt", "ile", "igt", "ige", "ieq", "ine", "lt", "le", "gt", "ge", "eq", "ne"}
_FOLDED: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "exp": lambda a: 0.0 if a == -math.inf else math.exp(a),
    "exp2": lambda a: 0.0 if a == -math.inf else 2.0**a,
    "abs": abs,
    "tanh": math.tanh,
    "maximum": max,
    "minimum": min,
    "iadd": lambda a, b: a + b,
    "isub": lambda a, b: a - b,
    "imul": lambda a, b: a * b,
    "int_to_float": float,
    "bool_to_float": float,
    "bool_to_int": int,
    "widen": lambda a: a,
    "narrow": lambda a: a,
}


class Neutral:
    """What is known of the scalars of one kernel.

    data: whether predicates may be about data.
    """

    def __init__(self, kernel: KernelOp | ProgramOp, data: bool = False):
        self.data = data
        self._loaded: dict[
            tuple[SSAValue, AccessMap], SSAValue
        ] = {}  # the scalar that stands for an element in predicates
        self.extents: dict[str, sympy.Expr] = {}
        self.arguments: dict[SSAValue, tuple[SSAValue, AccessMap]] = {}
        self.gauges: set[SSAValue] = set()
        for op in kernel.body.block.ops:
            if isinstance(op, EinsumOp | OnlineOp):
                self.extents |= op.extents
                region = op.body if isinstance(op, EinsumOp) else op.step
                self.arguments.update(zip(region.block.args, op.operand_accesses, strict=False))
                self.gauges |= set(region.block.args[len(op.inputs) :])
        self._facts: dict[SSAValue, Facts] = {}
        self._infinities: dict[SSAValue, frozenset[float]] = {}

    def visited(self, op: EinsumOp | OnlineOp) -> Predicate:
        """Where some contribution to a reduction may be other than neutral."""
        region = op.body if isinstance(op, EinsumOp) else op.step
        last = region.block.last_op
        assert isinstance(last, YieldOp)
        where = [
            self.facts(v).get(scalar.identity(c, v.type), TRUE)
            for c, v in zip(op.combiner_names, last.values, strict=True)
        ]
        return some(*where)

    # --- scalars -------------------------------------------------------------------------------------------------

    def facts(self, value: SSAValue) -> Facts:
        """What is known of a scalar of a map region."""
        if value not in self._facts:
            found = self._argument(value) if isinstance(value, BlockArgument) else self._result(value)
            self._facts[value] = {c: p for c, p in found.items() if p != TRUE} if len(found) <= SMALL else {}
        return self._facts[value]

    def constant(self, value: SSAValue, given: Predicate) -> Number | None:
        """What a scalar is wherever `given` holds, if that is one number."""
        for number, elsewhere in self.facts(value).items():
            if elsewhere != FALSE and implied(opposite(elsewhere), given):
                return number
        return None

    def passed_on(self, op: Operation, name: str, given: Predicate) -> SSAValue | None:
        """The operand that is the result of `op` wherever `given` holds, for what the other operands are there."""
        if name == "select":
            chosen = self.constant(op.operands[0], given)
            return None if chosen is None else op.operands[1 if chosen else 2]
        unit = {"add": 0.0, "mul": 1.0, "and": True, "or": False}.get(name)
        if unit is not None:
            for n, o in enumerate(op.operands):
                if (number := self.constant(o, given)) is not None and number == unit:
                    return op.operands[1 - n]
        return None

    def _argument(self, value: SSAValue) -> Facts:
        if value not in self.arguments:
            return {}
        tensor, access = self.arguments[value]
        if isinstance(tensor, BlockArgument):
            inside = inside_of(access, tensor.type.dims, self.extents)  # pyright: ignore
            return {0: inside} if not self.data else self._of_loaded(value, tensor, access, inside)
        inner = _map_behind(tensor)
        return {} if inner is None else self.facts(inner)

    def _of_loaded(self, value: SSAValue, tensor: SSAValue, access: AccessMap, inside: Predicate) -> Facts:
        """An element of a tensor; where it is read outside of it, zero."""
        same = self._loaded.setdefault((tensor, access), value)
        if value.type == i1:
            return {False: every(inside, Equals(same, True)), True: some(opposite(inside), Equals(same, True, False))}
        if not is_float(value.type):
            return {0: inside}
        return {0: inside, -math.inf: some(opposite(inside), Equals(same, -math.inf, False))}

    def _result(self, value: SSAValue) -> Facts:
        op = value.owner
        assert isinstance(op, Operation)
        name = scalar.name_of(op)
        if name == scalar.CONSTANT:
            return {scalar.constant_value(op): FALSE}
        if name == "select":
            return self._select(op)
        if name in ("and", "or", "xor") and value.type == i1:
            return self._connected(name, op)
        if name in _COMPARED:
            indices = [self.index(o) for o in op.operands]
            if None not in indices:
                where = comparison(name[-2:], *indices)  # pyright: ignore
                return {False: where, True: opposite(where)}
            found = self._compared(name, op)
            if not self.data:
                return found
            return {n: every(Equals(value, True, not n), found.get(n, TRUE)) for n in (False, True)}
        return self._computed(name, op) if name in _FOLDED else {}

    def _connected(self, name: str, op: Operation) -> Facts:
        (a, not_a), (b, not_b) = ((f.get(False, TRUE), f.get(True, TRUE)) for f in map(self.facts, op.operands))
        if name == "and":
            return {False: every(a, b), True: some(not_a, not_b)}
        if name == "or":
            return {False: some(a, b), True: every(not_a, not_b)}
        return {False: some(every(a, not_b), every(not_a, b)), True: some(every(a, b), every(not_a, not_b))}

    def _select(self, op: Operation) -> Facts:
        """select(c, a, b) differs from a constant where c may hold and a may, or where c may not and b may."""
        c, a, b = map(self.facts, op.operands)
        holds, fails = c.get(False, TRUE), c.get(True, TRUE)
        return {n: some(every(holds, a.get(n, TRUE)), every(fails, b.get(n, TRUE))) for n in dict.fromkeys([*a, *b])}

    def _compared(self, name: str, op: Operation) -> Facts:
        """Comparisons of what is constant in places: there, their outcome is known."""
        tests: dict[str, Callable[[Number, Number], bool]] = {
            "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b,
            "ge": lambda a, b: a >= b, "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
        }  # fmt: skip
        found: dict[Number, Predicate] = {}
        for a, where_a in self.facts(op.operands[0]).items():
            for b, where_b in self.facts(op.operands[1]).items():
                outcome = tests[name[-2:]](a, b)
                found[outcome] = every(found.get(outcome, TRUE), some(where_a, where_b))
        return found

    def _computed(self, name: str, op: Operation) -> Facts:
        """A function of what is constant in places, products with what is zero, zero divided by what is not, and sums with
        what is infinite."""
        operands = [self.facts(o) for o in op.operands]
        found: dict[Number, Predicate] = {}

        def differs(constant: Number, where: Predicate) -> None:
            found[constant] = every(found.get(constant, TRUE), where)

        if len(operands) == 1:
            for c, where in operands[0].items():
                if (value := _folded(name, c)) is not None:
                    differs(value, where)
            return found
        for a, where_a in operands[0].items():
            for b, where_b in operands[1].items():
                if (value := _folded(name, a, b)) is not None:
                    differs(value, some(where_a, where_b))
        for n, (known, other) in enumerate(zip(operands, reversed(op.operands), strict=True)):
            infinities = self.infinities(other)
            for c, where in known.items():
                if c == 0 and (name == "imul" or (name == "mul" and not infinities)):
                    differs(c, where)
                if c == 0 and name == "div" and n == 0 and not infinities and self.positive(op.operands[1]):
                    differs(c, where)
                if name in ("add", "sub") and c in (-math.inf, math.inf):
                    met = c if name == "sub" else -c  # of the other operand: what would make it NaN
                    if infinities <= {-met}:
                        differs(-c if name == "sub" and n == 1 else c, where)
        return found

    # --- indices -------------------------------------------------------------------------------------------------

    def index(self, value: SSAValue) -> sympy.Expr | None:
        """A scalar as an index expression, if it is one (as a float: where floats are exact)."""
        if isinstance(value, BlockArgument):
            inner = _map_behind(self.arguments[value][0]) if value in self.arguments else None
            return None if inner is None else self.index(inner)
        op = value.owner
        if isinstance(op, IndexOp):
            return op.expr
        assert isinstance(op, Operation)
        name = scalar.name_of(op)
        if name == scalar.CONSTANT:
            number = scalar.constant_value(op)
            return sympy.Integer(int(number)) if math.isfinite(number) and number == int(number) else None
        if name == "int_to_float":
            inside = self.index(op.operands[0])
            return inside if inside is not None and self._is_exact(inside) else None
        if name == "select":
            return self._extreme(op)
        if name not in ("iadd", "isub", "imul", "ifloordiv", "irem", "imaximum", "iminimum"):
            return None
        a, b = (self.index(o) for o in op.operands)
        if a is None or b is None:
            return None
        match name:
            case "iadd":
                return a + b
            case "isub":
                return a - b
            case "imul" if a.is_Integer or b.is_Integer:
                return sympy.expand(a * b)
            case "ifloordiv" if b.is_positive:
                return symbols.floordiv(a, b)
            case "irem" if b.is_positive and a.is_nonnegative:
                return sympy.Mod(a, b)
            case "imaximum":
                return sympy.Max(a, b)
            case "iminimum":
                return sympy.Min(a, b)
        return None

    def _extreme(self, op: Operation) -> sympy.Expr | None:
        """select(a > b, a, b) of indices: their maximum (so |x|, as it is written), or their minimum."""
        a, b = (self.index(o) for o in op.operands[1:])
        condition = self.facts(op.operands[0]).get(False)
        if a is None or b is None or not isinstance(condition, AtLeast):
            return None
        for margin in (condition.e, condition.e + 1):  # a - b is a multiple of what the condition says is positive
            times = sympy.cancel((a - b) / margin)
            if times.is_number and times != 0 and self.facts(op.operands[0]).get(True) == opposite(condition):
                return (sympy.Max if times > 0 else sympy.Min)(a, b)
        return None

    def _is_exact(self, e: sympy.Expr) -> bool:
        reach = interval(e, self.extents)
        return reach is not None and all(r.is_Integer and abs(int(r)) <= EXACT for r in reach)

    # --- infinities ----------------------------------------------------------------------------------------------

    def infinities(self, value: SSAValue) -> frozenset[float]:
        """Which of -inf, inf and NaN a float scalar may be, when all that is loaded is finite."""
        if value not in self._infinities:
            self._infinities[value] = INFINITE  # until it is known
            self._infinities[value] = (
                self._of_argument(value) if isinstance(value, BlockArgument) else self._of_result(value)
            )
        return self._infinities[value]

    def _of_argument(self, value: BlockArgument) -> frozenset[float]:
        if value in self.gauges:  # taken finite before anything is measured against it
            return frozenset()
        if value not in self.arguments:
            return INFINITE
        tensor = self.arguments[value][0]
        if isinstance(tensor, BlockArgument):  # the kernel's
            return frozenset()
        inner = _map_behind(tensor)
        if inner is not None:
            return self.infinities(inner)
        op = tensor.owner
        if not isinstance(op, EinsumOp) or op.combiner_names[tensor.index] not in ("sum", "max", "min"):  # pyright: ignore
            return INFINITE
        found = self.infinities(op.yields[tensor.index])  # pyright: ignore
        return found if op.combiner_names[tensor.index] != "sum" or not found else INFINITE  # pyright: ignore

    def _of_result(self, value: SSAValue) -> frozenset[float]:
        op = value.owner
        assert isinstance(op, Operation)
        name = scalar.name_of(op)
        if name == scalar.CONSTANT:
            number = float(scalar.constant_value(op))
            return frozenset() if math.isfinite(number) else frozenset({number}) if number == number else INFINITE
        if isinstance(op, IndexOp) or name in ("int_to_float", "bool_to_float", "tanh", "sin", "cos", "erf"):
            return frozenset()
        if name == "select":
            return self.infinities(op.operands[1]) | self.infinities(op.operands[2])
        if name not in (
            "add",
            "sub",
            "mul",
            "div",
            "neg",
            "exp",
            "exp2",
            "maximum",
            "minimum",
            "widen",
            "narrow",
            "abs",
        ):
            return INFINITE
        of = [self.infinities(o) for o in op.operands]
        if not any(of):
            return frozenset() if name != "div" or self._nonzero(op.operands[1]) else INFINITE
        if name in ("exp", "exp2"):
            return of[0] - {-math.inf}
        if name in ("widen", "narrow", "maximum", "minimum"):
            return frozenset().union(*of)
        if name == "add" and frozenset().union(*of) in ({-math.inf}, {math.inf}):
            return frozenset().union(*of)
        if name == "sub" and not of[1]:
            return of[0]
        if name in ("mul", "div") and not of[1] and self._nonzero(op.operands[1]):
            return of[0] if self.positive(op.operands[1]) else frozenset(-x for x in of[0])
        return INFINITE

    def _constant(self, value: SSAValue) -> float:
        """The value of a constant scalar; 0 for others."""
        op = value.owner
        is_constant = isinstance(op, Operation) and scalar.name_of(op) == scalar.CONSTANT
        return float(scalar.constant_value(op)) if is_constant else 0.0  # pyright: ignore

    def _nonzero(self, value: SSAValue) -> bool:
        return self._constant(value) != 0.0 or self.positive(value)

    def positive(self, value: SSAValue) -> bool:
        """Whether a float scalar is known to be greater than zero, or NaN: a constant, or bounded by one from below."""
        if isinstance(value, BlockArgument):
            inner = _map_behind(self.arguments[value][0]) if value in self.arguments else None
            return inner is not None and self.positive(inner)
        op = value.owner
        assert isinstance(op, Operation)
        if scalar.name_of(op) == "maximum":
            return any(map(self.positive, op.operands))
        if scalar.name_of(op) == "minimum":
            return all(map(self.positive, op.operands))
        return self._constant(value) > 0.0


def _map_behind(tensor: SSAValue) -> SSAValue | None:
    """The scalar that a map computes for each element of a tensor, if a map makes it."""
    op = tensor.owner
    return op.yields[tensor.index] if isinstance(op, EinsumOp) and op.is_map else None  # pyright: ignore


def inside_of(access: AccessMap, dims: Sequence[sympy.Expr], extents: Mapping[str, sympy.Expr]) -> Predicate:
    """Where an access stays in bounds: elsewhere it reads zero."""
    return every(
        *(
            q
            for e, dim in zip(access.data, dims, strict=True)
            if not inside(AccessMap.of([e]), [dim], extents)
            for q in (at_least(e), at_least(dim - 1 - e))
        )
    )


def _folded(name: str, *constants: Number) -> Number | None:
    try:
        value = _FOLDED[name](*constants)
    except (ArithmeticError, ValueError):
        return None
    return None if value != value else value
