"""Index expressions that count: `start + h * 64 + d` with d < 64 runs through h and d as the digits of one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy

from . import symbols


@dataclass(frozen=True)
class Digits:
    """An index that runs through ranks as digits of a number, the last one fastest.  count: how many numbers there are."""

    start: sympy.Expr
    ranks: tuple[str, ...]
    count: sympy.Expr


def digits(e: sympy.Expr, extents: Mapping[str, sympy.Expr]) -> Digits | None:
    """The index expression `e` as digits over the ranks of `extents`, or None where it is something else."""
    found = symbols.affine(e, extents)
    if found is None:
        return None
    coefficients, start = found
    names: list[str] = []
    count: sympy.Expr = sympy.Integer(1)
    while len(names) < len(coefficients):
        name = next((r for r, c in coefficients.items() if r not in names and c == count), None)
        if name is None:
            return None
        names.append(name)
        count = sympy.expand(count * extents[name])
    return Digits(start, tuple(reversed(names)), count)
