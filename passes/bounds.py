"""Interval bounds of index expressions over rank variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy

from ..ir import symbols
from ..ir.attributes import AccessMap


def interval(e: sympy.Expr, extents: Mapping[str, sympy.Expr]) -> tuple[sympy.Expr, sympy.Expr] | None:
    """Least and greatest value of `e` when every rank runs over its extent; None when it is not affine in the ranks."""
    form = symbols.affine(e, extents)
    if form is None:
        return None
    coefficients, low = form
    high = low
    for rank, c in coefficients.items():
        last = extents[rank] - 1
        if c.is_nonnegative:
            high = high + c * last
        elif c.is_nonpositive:
            low = low + c * last
        else:
            return None
    return sympy.expand(low), sympy.expand(high)


def inside(access: AccessMap, dims: Sequence[sympy.Expr], extents: Mapping[str, sympy.Expr]) -> bool:
    """True when the access provably stays within `dims` for every point of the ranks."""
    for e, dim in zip(access.data, dims, strict=True):
        bounds = interval(e, extents)
        if bounds is None:
            return False
        low, high = bounds
        if not (low.is_nonnegative and sympy.expand(dim - 1 - high).is_nonnegative):
            return False
    return True
