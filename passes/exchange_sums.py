"""Sums in the other order: a sum over the streamed rank that is known from another one that is folded anyway.

When: an accumulator A = Σ_k w d, where the leaf d = Σ_f a v is a contraction whose factor a does not carry k, beside an
accumulator B_f = Σ_k w v of the same weights w and the same gauge.

Before:  A = Σ_k w Σ_f a_f v_kf;   B_f = Σ_k w v_kf       (both folded, in every step of the loop over k)
After:   A = Σ_f a_f B_f                                  (once, after the loop)

Why legal: finite sums commute, and a_f is a constant of the sum over k.  A gauge multiplies A and all B_f by the same factor.
An instance: with P the rows of a softmax, Σ_j P_ij dP_ij = Σ_f dO_if O_if where dP = dO Vᵀ and O = P V.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sympy as sp
from xdsl.ir import BlockArgument, SSAValue

from ..ir import symbols
from ..ir.attributes import AccessMap, is_float
from ..ir.cascade import EinsumOp
from .algebra.forms import Accumulator
from .contraction import product_factors
from .row_algebra import Leaf


@dataclass(frozen=True)
class Exchanged:
    """`accumulator` is the sum over `rank` of `factor` at `access` times the accumulator `beside`.

    element: the index expressions of `beside`, over the ranks of the sum.
    """

    accumulator: sp.Symbol
    beside: sp.Symbol
    rank: str
    factor: SSAValue
    access: AccessMap

    def text(self) -> str:
        """The identity, for the derivation."""
        name = self.factor.name_hint or f"arg{getattr(self.factor, 'index', 0)}"
        return f"Σ_{self.rank} {name}{self.access.text()}*{self.beside}"


def exchange_sums(
    accumulators: Sequence[Accumulator], meaning: Mapping[sp.Symbol, Leaf], carried: frozenset[sp.Symbol], rank: str
) -> dict[sp.Symbol, Exchanged]:
    """The accumulators that need not be folded, each with what it is instead.  What it refers to is folded."""
    found: dict[sp.Symbol, Exchanged] = {}
    used: set[sp.Symbol] = set()
    sums = [a for a in accumulators if a.combiner == "sum" and a.moves is None]
    held_by_moves = {s for a in accumulators if a.moves is not None for s in a.moves.free_symbols}
    for a in sums:
        if a.symbol in used or a.symbol in held_by_moves:
            continue
        for d in sp.Mul.make_args(a.psi):
            if not isinstance(d, sp.Symbol) or d not in carried:
                continue
            contraction = _contraction(meaning.get(d))
            if contraction is None:
                continue
            for b in sums:
                if b.symbol == a.symbol or b.symbol in found or b.gauge != a.gauge:
                    continue
                v = _swapped_factor(a.psi, d, b.psi)
                other = meaning.get(v) if v is not None else None
                made = other and _exchanged(a.symbol, b.symbol, contraction, meaning[d], other, rank)
                if made:
                    found[a.symbol] = made
                    used.add(b.symbol)
                    break
            if a.symbol in found:
                break
    return found


def _swapped_factor(psi: sp.Expr, d: sp.Expr, other: sp.Expr) -> sp.Symbol | None:
    """v with other = psi / d * v."""
    rest = [f for f in sp.Mul.make_args(psi) if f != d]
    mine = list(sp.Mul.make_args(other))
    for f in rest:
        if f not in mine:
            return None
        mine.remove(f)
    return mine[0] if len(mine) == 1 and isinstance(mine[0], sp.Symbol) else None


def _contraction(leaf: Leaf | None) -> EinsumOp | None:
    """The sum of products over one rank that computes a leaf."""
    if leaf is None or leaf.access is None:
        return None
    op = leaf.value.owner
    if not isinstance(op, EinsumOp) or len(op.results) != 1 or op.combiner_names[0] != "sum" or len(op.reduced) != 1:
        return None
    factors = product_factors(op.yields[0])
    if len(factors) != 2 or not all(isinstance(f, BlockArgument) and is_float(f.type) for f in factors):
        return None
    return op


def _exchanged(a: sp.Symbol, b: sp.Symbol, op: EinsumOp, leaf: Leaf, other: Leaf, rank: str) -> Exchanged | None:
    """The exchange, when one factor of the contraction `op` (read at `leaf`) is what `other` reads."""
    assert leaf.access is not None
    if other.access is None:
        return None
    (over,) = op.reduced
    binding = dict(zip(op.out_ranks(0), leaf.access.data, strict=True))
    arguments = [f.index for f in product_factors(op.yields[0]) if isinstance(f, BlockArgument)]
    for v, w in (arguments, arguments[::-1]):
        if op.inputs[v] is not other.value:
            continue
        for name in other.access.ranks:  # what the contracted rank is called where the other leaf is read
            if name == rank or name in leaf.access.ranks:
                continue
            bound = binding | {over: symbols.symbol(name)}
            if op.accesses.data[v].substitute(bound) != other.access:
                continue
            access = op.accesses.data[w].substitute(bound)
            if rank not in access.ranks:
                return Exchanged(a, b, name, op.inputs[w], access)
    return None
