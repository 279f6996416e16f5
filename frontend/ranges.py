"""The least and the greatest value that a scalar of a map region can have.

Regions compute integers in 64 bits; PyTorch wraps them to the width of their dtype after every operator.  So that
positions and masks stay the index algebra that they are, only a value that may leave its dtype is wrapped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import sympy
from xdsl.dialects.builtin import IntegerType, Signedness
from xdsl.ir import Attribute, Block, BlockArgument, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import TensorType, is_float
from ..ir.cascade import EinsumOp, IndexOp

Range = tuple[float, float]  # both ends belong to it; integers, or infinite where nothing is known

UNKNOWN: Range = (-math.inf, math.inf)
LONGEST = 1 << 29  # what a size that is not known yet is taken to be at most: an int32 holds a few such positions
_DEPTH = 3  # how many maps back a value is looked through
_EXACT = 256  # floats up to here are integers in every element type, so bounds on them survive rounding


def of_element(element: Attribute) -> Range:
    """The numbers that an element type holds."""
    if not isinstance(element, IntegerType):
        return UNKNOWN
    bits = element.width.data
    if bits == 1:
        return 0, 1
    if element.signedness.data == Signedness.UNSIGNED:
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def of_index(e: sympy.Expr, extents: Mapping[str, Range]) -> Range:
    """The values of an index expression; `extents` gives the values of the ranks."""
    if e.is_Integer:
        return int(e), int(e)
    if isinstance(e, sympy.Symbol):
        return extents.get(e.name, (0, LONGEST))
    if isinstance(e, sympy.Add):
        parts = [of_index(a, extents) for a in e.args]  # pyright: ignore[reportArgumentType]
        return sum(low for low, _ in parts), sum(high for _, high in parts)
    if isinstance(e, sympy.Mul) and all(a.is_Integer or a.is_Symbol for a in e.args):
        total: Range = (1, 1)
        for a in e.args:
            total = _times(total, of_index(a, extents))  # pyright: ignore[reportArgumentType]
        return total
    if isinstance(e, sympy.floor):
        numerator, divisor = symbols.fraction(e)
        low, high = of_index(numerator, extents)
        if divisor.is_Integer and divisor > 0 and math.isfinite(low) and math.isfinite(high):
            return int(low) // int(divisor), int(high) // int(divisor)
    if isinstance(e, sympy.Mod):
        return 0, of_index(e.args[1], extents)[1] - 1  # pyright: ignore[reportArgumentType]
    return UNKNOWN


def inside(inner: Range, outer: Range) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def ranks(extents: Mapping[str, sympy.Expr]) -> dict[str, Range]:
    """The values of each rank."""
    return {name: (0, max(0, of_index(n, {})[1] - 1)) for name, n in extents.items()}


def of_value(value: SSAValue, positions: Mapping[SSAValue, sympy.Expr], depth: int = _DEPTH) -> Range:
    """The elements of a tensor; `positions` says which tensors are index expressions, over their dimensions v0, v1, …"""
    assert isinstance(value.type, TensorType)
    stored = of_element(value.type.element_type)
    position = positions.get(value)
    if position is not None:
        dims = {f"v{k}": n for k, n in enumerate(value.type.dims)}
        return _both(stored, of_index(position, ranks(dims)))
    op = value.owner
    if depth == 0 or not isinstance(op, EinsumOp):
        return stored
    combiner = op.combiner_names[value.index]  # pyright: ignore[reportAttributeAccessIssue]
    if combiner.startswith("arg"):
        return 0, max(0, *(of_index(op.extents[r], {})[1] - 1 for r in op.reduced))
    if combiner not in ("map", "max", "min", "sum"):
        return stored
    sources = dict(zip(op.body.block.args, op.inputs, strict=True))
    low, high = Region(op.body.block, sources, ranks(op.extents), positions, depth - 1).of(op.yields[value.index])  # pyright: ignore
    if combiner == "sum":
        count = math.prod(of_index(op.extents[r], {})[1] for r in op.reduced)
        low, high = min(0, low * count) if count else 0, max(0, high * count) if count else 0
    if combiner in ("max", "min") and is_float(value.type.element_type):
        return stored  # of nothing it is infinite
    return _both(stored, (low, high))


class Region:
    """The ranges of the scalars of one region, whose arguments read the tensors `sources`."""

    def __init__(
        self,
        block: Block,
        sources: Mapping[SSAValue, SSAValue],
        extents: Mapping[str, Range],
        positions: Mapping[SSAValue, sympy.Expr],
        depth: int = _DEPTH,
    ):
        self.block, self.sources, self.extents, self.positions, self.depth = block, sources, extents, positions, depth
        self.known: dict[SSAValue, Range] = {}

    def of(self, value: SSAValue) -> Range:
        if value not in self.known:
            self.known[value] = self._find(value)
        return self.known[value]

    def _find(self, value: SSAValue) -> Range:
        if isinstance(value, BlockArgument):
            return of_value(self.sources[value], self.positions, self.depth)
        op = value.owner
        if isinstance(op, IndexOp):
            return of_index(op.expr, self.extents)
        name = scalar.name_of(op)  # pyright: ignore[reportArgumentType]
        if name == scalar.CONSTANT:
            return _of_number(scalar.constant_value(op), value.type)  # pyright: ignore[reportArgumentType]
        if name is None or name not in _RULES:
            return of_element(value.type)
        if name == "isub" and (divisor := _divisor_of_remainder(op.operands)) is not None:  # pyright: ignore
            low, high = self.of(divisor)
            return min(low + 1, 0), max(high - 1, 0)
        found = _RULES[name](*(self.of(o) for o in op.operands))  # pyright: ignore[reportAttributeAccessIssue]
        held = of_element(value.type)
        return found if inside(found, held) else held  # an i64 that overflows can be anything


def _of_number(number: float, type_: Attribute) -> Range:
    if is_float(type_) and not (abs(number) <= _EXACT and float(number).is_integer()):
        return UNKNOWN
    return int(number), int(number)


def _divisor_of_remainder(operands: tuple[SSAValue, SSAValue]) -> SSAValue | None:
    """y where the operands are x and (x floordiv y) * y."""
    x, product = operands
    if isinstance(product, BlockArgument) or scalar.name_of(product.owner) != "imul":  # pyright: ignore
        return None
    quotient, y = product.owner.operands  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(quotient, BlockArgument) or scalar.name_of(quotient.owner) != "ifloordiv":
        return None
    return y if tuple(quotient.owner.operands) == (x, y) else None


def _both(a: Range, b: Range) -> Range:
    return max(a[0], b[0]), min(a[1], b[1])


def _either(a: Range, b: Range) -> Range:
    return min(a[0], b[0]), max(a[1], b[1])


def _times(a: Range, b: Range) -> Range:
    ends = [0 if 0 in (x, y) else x * y for x in a for y in b]  # an infinite end times 0 is 0
    return min(ends), max(ends)


def _divided(a: Range, b: Range) -> Range:
    if b[0] < 1 or not all(math.isfinite(x) for x in (*a, *b)):
        return UNKNOWN
    ends = [int(x) // int(y) for x in a for y in b]
    return min(ends), max(ends)


def _masked(a: Range, b: Range) -> Range:
    """Bits of both: between 0 and an operand that is not negative."""
    least = [high for low, high in (a, b) if low >= 0]
    return (0, min(least)) if least else _bits(a, b)


def _bits(a: Range, b: Range) -> Range:
    """Bits of either: no wider than the wider of both."""
    low, high = _either(a, b)
    if not (math.isfinite(low) and math.isfinite(high)):
        return UNKNOWN
    width = max(int(high).bit_length(), int(low).bit_length() if low >= 0 else (-int(low) - 1).bit_length())
    return 0 if low >= 0 else -(1 << width), (1 << width) - 1


_RULES = {
    "iadd": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "isub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "imul": _times,
    "ifloordiv": _divided,
    "irem": lambda a, b: a if a[0] >= 0 else _either(a, (0, 0)),  # of the dividend's sign, and no greater
    **dict.fromkeys(("imaximum", "maximum"), lambda a, b: (max(a[0], b[0]), max(a[1], b[1]))),
    **dict.fromkeys(("iminimum", "minimum"), lambda a, b: (min(a[0], b[0]), min(a[1], b[1]))),
    "and": _masked,
    "or": _bits,
    "xor": _bits,
    "select": lambda _, a, b: _either(a, b),
    **dict.fromkeys(("bool_to_int", "bool_to_float", "float_to_int"), lambda a: a),
    **dict.fromkeys(("widen", "narrow", "to_bf16", "to_f16", "floor", "ceil", "trunc", "round"), lambda a: a),
    "int_to_float": lambda a: a if inside(a, (-_EXACT, _EXACT)) else UNKNOWN,
}
