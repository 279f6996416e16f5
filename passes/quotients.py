"""Quotients and remainders of index expressions that are affine wherever a predicate of indices holds.

(i n + j + n) // (n + 1) = i        where j <= i < n: then 0 <= j - i + n < n + 1
(i n + j + n) mod (n + 1) = j - i + n
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import sympy

from ..ir import symbols
from .bounds import interval
from .index_predicates import AtLeast, Every, Predicate

Pair = tuple[sympy.Expr, sympy.Expr]


def rounded(e: sympy.Expr) -> set[sympy.Expr]:
    """The quotients and remainders in an index expression."""
    return e.atoms(sympy.floor, sympy.Mod)  # pyright: ignore


def without_quotients(e: sympy.Expr, where: Predicate, extents: Mapping[str, sympy.Expr]) -> sympy.Expr:
    """`e` without the quotients and remainders that are affine wherever `where` holds."""
    table: dict[sympy.Expr, sympy.Expr] = {}
    for part in () if isinstance(e, sympy.Symbol) else rounded(e):
        top, bottom = symbols.fraction(part) if isinstance(part, sympy.floor) else cast(Pair, part.args)
        if set(extents) & symbols.names(bottom):
            continue
        q = _quotient(top, bottom, where, extents)
        if q is not None:
            table[part] = q if isinstance(part, sympy.floor) else sympy.expand(top - bottom * q)
    return sympy.expand(e.xreplace(table)) if table else e


def _quotient(
    top: sympy.Expr, bottom: sympy.Expr, where: Predicate, extents: Mapping[str, sympy.Expr]
) -> sympy.Expr | None:
    """An affine q with 0 <= top - bottom q < bottom wherever `where` holds."""
    linear = symbols.affine(top, extents)
    if linear is None:
        return None
    near = sum((_nearest(c, bottom) * symbols.symbol(r) for r, c in linear[0].items()), sympy.Integer(0))
    near = near + _nearest(linear[1], bottom)
    for q in (near, near - 1, near + 1):
        rest = sympy.expand(top - bottom * q)
        if _holds(rest, where, extents) and _holds(sympy.expand(bottom - 1 - rest), where, extents):
            return sympy.expand(q)
    return None


def _nearest(c: sympy.Expr, bottom: sympy.Expr) -> sympy.Expr:
    """How many times `bottom` is in `c`, about."""
    if c.is_Integer and bottom.is_Integer:
        return sympy.floor(sympy.Rational(int(c), int(bottom)) + sympy.Rational(1, 2))
    if bottom.is_Integer or not c.free_symbols:
        return sympy.Integer(0)
    return cast(sympy.Expr, sympy.div(c, bottom, *sorted(bottom.free_symbols, key=str))[0])


def _holds(e: sympy.Expr, where: Predicate, extents: Mapping[str, sympy.Expr]) -> bool:
    """Whether `e >= 0` follows from the extents, or from these and one part of `where`."""
    known = [p.e for p in (where.parts if isinstance(where, Every) else (where,)) if isinstance(p, AtLeast)]
    for part in (sympy.Integer(0), *known):
        reach = interval(sympy.expand(e - part), extents)
        if reach is not None and reach[0].is_nonnegative:
            return True
    return False


__all__ = ["rounded", "without_quotients"]
