"""Fewest products: rewrite a sum of products with as few of them as possible.

Written over monomials `α_a` of d and `β_b` of x, a sum `Σ_i φ_i(d) ψ_i(x)` is a matrix of rational numbers,
`Σ C[a,b] α_a β_b`; its rank is the number of accumulators that are needed.  `x*m + 2*x + m + 2` has rank 1: it is
`(m + 2) * (x + 1)`.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportAssignmentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import sympy as sp
from sympy import Add, Expr, Mul, S
from sympy.core.function import expand_mul, expand_multinomial

Products = list[tuple[Expr, Expr]]
MAX_MONOMIALS = 64


def group(products: Iterable[tuple[Expr, Expr]]) -> Products:
    """Add up the φ of equal ψ, then the ψ of equal φ; order of first appearance, so the result is deterministic."""
    by_psi: dict[Expr, list[Expr]] = {}
    for phi, psi in products:
        by_psi.setdefault(psi, []).append(phi)
    by_phi: dict[Expr, list[Expr]] = {}
    for psi, phis in by_psi.items():
        phi = Add(*phis)
        if phi != 0:
            by_phi.setdefault(phi, []).append(psi)
    result = [(phi, Add(*psis)) for phi, psis in by_phi.items()]
    return [(phi, psi) for phi, psi in result if psi != 0]


def _monomials(e: Expr) -> dict[Expr, Fraction] | None:
    """e as {monomial: rational coefficient}; exponents are brought to one spelling first."""
    e = expand_mul(expand_multinomial(e))
    result: dict[Expr, Fraction] = {}
    for term in Add.make_args(e):
        coefficient, monomial = term.as_coeff_Mul()
        if not coefficient.is_Rational:
            if not coefficient.is_Float:
                return None
            coefficient = sp.Rational(coefficient)
        value = result.get(monomial, Fraction(0)) + Fraction(int(coefficient.p), int(coefficient.q))
        result[monomial] = value
        if len(result) > MAX_MONOMIALS:
            return None
    return {m: c for m, c in result.items() if c}


def _reduce(matrix: list[list[Fraction]]) -> tuple[list[list[Fraction]], list[int]]:
    """Reduced row echelon form (nonzero rows) and its pivot columns."""
    rows = [row[:] for row in matrix]
    pivots: list[int] = []
    r = 0
    for c in range(len(rows[0]) if rows else 0):
        pivot = next((i for i in range(r, len(rows)) if rows[i][c]), None)
        if pivot is None:
            continue
        rows[r], rows[pivot] = rows[pivot], rows[r]
        lead = rows[r][c]
        rows[r] = [v / lead for v in rows[r]]
        for i in range(len(rows)):
            if i != r and rows[i][c]:
                factor = rows[i][c]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[r], strict=True)]
        pivots.append(c)
        r += 1
    return rows[:r], pivots


def _combine(coefficients: Iterable[Fraction], monomials: list[Expr]) -> Expr:
    terms = [Mul(sp.Rational(c.numerator, c.denominator), m) for c, m in zip(coefficients, monomials, strict=True) if c]
    return Add(*terms)


def factorise(products: Products, constant_in_phi: bool = False, is_constant=lambda e: e.is_number) -> Products | None:
    """The same sum with fewer products, or None when there is no way to write it with fewer.

    constant_in_phi: move factors for which `is_constant` holds from the monomials of ψ to those of φ before counting.
    """
    table: dict[tuple[Expr, Expr], Fraction] = {}
    for phi, psi in products:
        left, right = _monomials(phi), _monomials(psi)
        if left is None or right is None:
            return None
        for a, ca in left.items():
            for b, cb in right.items():
                row, column = a, b
                if constant_in_phi:
                    moved = [f for f in Mul.make_args(b) if is_constant(f)]
                    if moved:
                        row = Mul(a, *moved)
                        column = Mul(*[f for f in Mul.make_args(b) if not is_constant(f)])
                table[row, column] = table.get((row, column), Fraction(0)) + ca * cb
    table = {k: v for k, v in table.items() if v}
    if not table:
        return []
    rows = sorted({a for a, _ in table}, key=sp.default_sort_key)
    columns = sorted({b for _, b in table}, key=lambda b: (b == S.One, sp.default_sort_key(b)))
    matrix = [[table.get((a, b), Fraction(0)) for b in columns] for a in rows]
    echelon, pivots = _reduce(matrix)
    if len(pivots) >= len(products):
        return None
    result = []
    for row, pivot in zip(echelon, pivots, strict=True):
        psi = _combine(row, columns)
        phi = _combine([matrix[i][pivot] for i in range(len(rows))], rows)
        result.append((phi, psi))
    return result


def fewest(products: Iterable[tuple[Expr, Expr]], is_constant) -> Products:
    """The shortest of: as grouped, rank-factorised, rank-factorised with constants of the row on the φ side.

    The spelling of the input is kept unless a shorter sum exists.
    """
    grouped = group(products)
    if len(grouped) < 2:
        return grouped
    best = grouped
    for constant_in_phi in (False, True):
        shorter = factorise(best, constant_in_phi, is_constant)
        if shorter is not None and len(shorter) < len(best):
            best = shorter
    return best
