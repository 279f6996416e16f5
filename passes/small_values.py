"""Which values of a kernel are -1, 0 or 1 everywhere: every number format holds them, so they may be converted to any."""

from __future__ import annotations

from xdsl.ir import BlockArgument, Operation, SSAValue

from ..ir import scalar
from ..ir.cascade import EinsumOp

_CLOSED = ("neg", "mul", "imul", "widen", "narrow", "int_to_float", "float_to_int", "maximum", "minimum")


def is_small(value: SSAValue) -> bool:
    """Whether a map of the kernel computes `value`, and nothing but -1, 0 and 1 comes out of it."""
    owner = value.owner
    return isinstance(owner, EinsumOp) and owner.is_map and _is_small(owner.yields[value.index], owner)  # pyright: ignore


def _is_small(value: SSAValue, op: EinsumOp) -> bool:
    """The same of a scalar in the region of `op`."""
    if isinstance(value, BlockArgument):
        return is_small(op.inputs[value.index])
    owner = value.owner
    assert isinstance(owner, Operation)
    name = scalar.name_of(owner)
    if name == scalar.CONSTANT:
        return scalar.constant_value(owner) in (-1, 0, 1)
    if name == "select":
        return all(_is_small(o, op) for o in owner.operands[1:])
    if name in _CLOSED:
        return all(_is_small(o, op) for o in owner.operands)
    return name in ("bool_to_float", "bool_to_int")
