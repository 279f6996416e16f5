"""What holds wherever ranks lie in ranges of their own."""

from __future__ import annotations

from collections.abc import Mapping

import sympy

from ..ir import symbols
from .bounds import interval
from .index_predicates import AtLeast, Every, Predicate, Some

Ranges = Mapping[str, tuple[sympy.Expr, sympy.Expr]]  # of each rank: the first index and the last


def ranges_of(extents: Mapping[str, sympy.Expr]) -> Ranges:
    """All indices of each rank."""
    return {r: (sympy.Integer(0), sympy.expand(n - 1)) for r, n in extents.items()}


def decided(p: Predicate, ranges: Ranges) -> bool | None:
    """Whether a predicate holds everywhere (True) or nowhere (False); None where that is not seen."""
    match p:
        case AtLeast(e):
            reach = reach_of(e, ranges)
            if reach is None:
                return None
            return True if reach[0].is_nonnegative else False if sympy.expand(reach[1]).is_negative else None
        case Every(parts) | Some(parts):
            decisive = isinstance(p, Some)
            found = [decided(q, ranges) for q in parts]
            return decisive if decisive in found else not decisive if None not in found else None
    return None


def reach_of(e: sympy.Expr, ranges: Ranges) -> tuple[sympy.Expr, sympy.Expr] | None:
    """The least and the greatest value of an affine expression."""
    shifted = symbols.substitute(e, {symbols.symbol(r): symbols.symbol(r) + low for r, (low, _) in ranges.items()})
    return interval(sympy.expand(shifted), {r: sympy.expand(high - low + 1) for r, (low, high) in ranges.items()})


__all__ = ["Ranges", "decided", "ranges_of", "reach_of"]
