"""What is known of the scalars of a program, whose operations have ranks of their own."""

from __future__ import annotations

from collections.abc import Mapping

import sympy
from xdsl.ir import BlockArgument, SSAValue

from ..ir import symbols
from ..ir.cascade import EinsumOp, ProgramOp
from .index_predicates import AtLeast, Every, Predicate, Some, at_least, every, some
from .neutral import Facts, Neutral


class ProgramFacts(Neutral):
    """What is known of a map is renamed where it is read."""

    def __init__(self, program: ProgramOp):
        super().__init__(program)
        self.extents = {}

    def _argument(self, value: SSAValue) -> Facts:
        inner, table = self._behind(value)
        return {} if inner is None else {c: renamed(p, table) for c, p in self.facts(inner).items()}

    def index(self, value: SSAValue) -> sympy.Expr | None:
        if not isinstance(value, BlockArgument):
            return super().index(value)
        inner, table = self._behind(value)
        found = None if inner is None else self.index(inner)
        return None if found is None else symbols.substitute(found, table)

    def _behind(self, value: SSAValue) -> tuple[SSAValue | None, dict[sympy.Symbol, sympy.Expr]]:
        """The scalar that a map computes for an argument, and what its ranks are where the argument is read."""
        tensor, access = self.arguments[value]
        op = tensor.owner
        if not (isinstance(op, EinsumOp) and op.is_map):
            return None, {}
        ranks = op.out_ranks(tensor.index)  # pyright: ignore
        return op.yields[tensor.index], {symbols.symbol(r): e for r, e in zip(ranks, access.data, strict=True)}  # pyright: ignore


def renamed(p: Predicate, table: Mapping[sympy.Symbol, sympy.Expr]) -> Predicate:
    """A predicate with other expressions for its ranks."""
    match p:
        case AtLeast(e):
            return at_least(symbols.substitute(e, table))
        case Every(parts):
            return every(*(renamed(q, table) for q in parts))
        case Some(parts):
            return some(*(renamed(q, table) for q in parts))


__all__ = ["ProgramFacts", "renamed"]
