"""Bounds of products from the norms of their factors: |Σ_d a_d b_d| is at most |a| |b| (Cauchy and Schwarz).

    s = Σ_d a_d b_d  with  a_d = f x_d, b_d = g y_d     ->  s = u f sqrt(Σ_d x²) g sqrt(Σ_d y²)    for some u within ±1

Whoever normalises rows computes Σ_d x² in the same kernel, and f is made of it: f sqrt(Σ x²) is at most 1 for
x / max(|x|, eps), and at most sqrt(n) for x rsqrt(mean x² + eps), which is what interval analysis of the expression finds.
It makes no difference whether rows are normalised before the product or behind it.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import sympy as sp

from ..ir.attributes import AccessMap
from ..ir.cascade import EinsumOp
from .algebra.intervals import Interval
from .contraction import product_factors
from .row_algebra import Leaf, RowAlgebra, Unreachable

ROUNDED: Interval = (-1.0 - 2.0**-6, 1.0 + 2.0**-6)
"""Of u, as computed: both factors rounded to 8 bits (2**-8 each), norms and sums of up to 2**16 terms in fp32 (2**-8)."""


def within_norms(algebra: RowAlgebra, leaf: Leaf) -> tuple[sp.Expr, sp.Symbol] | None:
    """A leaf that is a contraction, written as in this module's text, and u; None for another or without known norms.

    algebra: one that reaches down to the kernel's inputs (not `opaque`).
    """
    op = leaf.value.owner
    if leaf.access is None or not isinstance(op, EinsumOp) or op.combiner_names != ("sum",):
        return None
    factors, over = product_factors(op.yields[0]), frozenset(op.reduced)
    if leaf.access.bare() != op.out_ranks(0) or len(set(factors)) < len(factors):  # a sum of squares is what norms are
        return None
    u = sp.Dummy("u", real=True)
    product, carrying = u, 0
    try:
        for factor in factors:
            norm, carries = _norm(algebra, algebra.scalar(factor), over)
            if norm is None:
                return None
            product, carrying = product * norm, carrying + carries
    except Unreachable:
        return None
    return (product, u) if carrying == 2 else None


def _norm(algebra: RowAlgebra, e: sp.Expr, over: frozenset[str]) -> tuple[sp.Expr | None, bool]:
    """(sqrt(Σ e²) over the ranks `over`, up to its sign; whether e carries them); (None, ...) where it is not known."""
    ranks = {s: _ranks(algebra, s) for s in e.free_symbols}
    if any(r is None for r in ranks.values()):
        return None, False
    still, moving = [], []
    for f in sp.Mul.make_args(e):
        (moving if any(ranks[s] & over for s in f.free_symbols) else still).append(f)  # pyright: ignore
    if not moving:
        return e, False
    if len(moving) != 1:
        return None, True
    for op in algebra.kernel.body.block.ops:
        if isinstance(op, EinsumOp) and op.combiner_names == ("sum",) and set(op.reduced) == over:
            if algebra.rank not in over and algebra.scalar(op.yields[0]) == moving[0] ** 2:
                squares = algebra.tensor(op.results[0], AccessMap.of(op.out_ranks(0)))
                return sp.Mul(*still) * sp.sqrt(squares), True
    return None, True


def _ranks(algebra: RowAlgebra, s: sp.Symbol) -> frozenset[str] | None:
    """The ranks that a symbol carries, where they are known."""
    leaf = algebra.meaning.get(s)
    if leaf is None:
        return None
    if leaf.access is not None:
        return frozenset(leaf.access.ranks)
    return frozenset() if leaf.op is None else None
