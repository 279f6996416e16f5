"""Factors of a contraction's operand that lack the contracted rank: what may be applied to the result instead.

An operand is often a chain of maps, `y_ik = x_ik · g_k · h_i`.  Its factors are found through products, quotients and
changes of type; what lies under any other function is no factor.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from xdsl.ir import BlockArgument, Operation, SSAValue

from ..ir import scalar, symbols
from ..ir.cascade import EinsumOp
from .contraction import argument_ranks, product_factors, scalar_ranks


@dataclass(frozen=True)
class Factor:
    """A factor of a scalar; inverse: the scalar is divided by it."""

    value: SSAValue
    inverse: bool = False


def quotient_factors(value: SSAValue, inverse: bool = False) -> list[Factor]:
    """The factors of a scalar that is a product or a quotient of them, left to right."""
    op = value.owner
    name = scalar.name_of(op) if isinstance(op, Operation) else None
    if isinstance(op, Operation) and name in ("mul", "div"):
        a, b = op.operands
        return [*quotient_factors(a, inverse), *quotient_factors(b, inverse != (name == "div"))]
    return [Factor(value, inverse)]


def is_plain_product(op: EinsumOp) -> bool:
    """Whether the map of a contraction is the product of its two inputs."""
    factors = product_factors(op.yields[0])
    return len(op.inputs) == 2 and len(factors) == 2 and set(factors) == set(op.body.block.args)


def factors_without(op: EinsumOp, ranks: Container[str]) -> tuple[list[Factor], list[Factor]]:
    """The factors of a map with one result: those that read an input and carry none of `ranks`, and the others."""
    carried = argument_ranks(op)
    known = frozenset(op.ranks.names)
    free: list[Factor] = []
    rest: list[Factor] = []
    for f in quotient_factors(op.yields[0]):
        constant = not arguments(f.value)
        carries = any(r in ranks for r in scalar_ranks(f.value, carried, known))
        (rest if carries or constant else free).append(f)
    return free, rest


def arguments(value: SSAValue) -> set[BlockArgument]:
    """The block arguments that a scalar of a region is computed from."""
    if isinstance(value, BlockArgument):
        return {value}
    op = value.owner
    assert isinstance(op, Operation)
    return set().union(*(arguments(o) for o in op.operands)) if op.operands else set()


def row_values(op: EinsumOp) -> dict[SSAValue, None]:
    """What the operands of a contraction over one rank are multiplied with, or divided by, for all of the rank alike.

    Looks through maps that nothing else reads.
    """
    found: dict[SSAValue, None] = {}
    if is_plain_product(op) and len(op.reduced) == 1:
        for value, access in op.operand_accesses:
            dims = {d for d, e in enumerate(access.data) if op.reduced[0] in symbols.names(e)}
            _collect(value, dims, found)
    return found


def _collect(value: SSAValue, dims: set[int], found: dict[SSAValue, None]) -> None:
    """Add the factors of `value` that are the same at all indices of its dimensions `dims`."""
    op = value.owner
    if not (isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1 and dims):
        return
    if len({u.operation for u in value.uses}) != 1:
        return
    names = {op.out_ranks(0)[d] for d in dims}
    free, rest = factors_without(op, names)
    for f in free:
        found.update(dict.fromkeys(op.inputs[a.index] for a in arguments(f.value)))
    for f in rest:
        if isinstance(f.value, BlockArgument):
            access = op.accesses.data[f.value.index]
            at = {d for d, e in enumerate(access.data) if not names.isdisjoint(symbols.names(e))}
            _collect(op.inputs[f.value.index], at, found)
