"""Bands: a product that is read at a difference (or a sum) of two ranks, computed for one tile of them at a time.

    x[i, r] = Σ_d q[i, d] e[r, d];   s[i, j] = … x[i, j - i + n - 1] …

Of a tile of i and j, the reads of x lie in a band of r, as long as both sides of the tile together, less one.  So the rank
r is walked as that band: one product of a tile of q and a stretch of rows of e, of which each row is then read from its own
beginning.  Nothing here knows what is multiplied; x must be zero beyond its ends, as what is read there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import sympy
from xdsl.ir import BlockArgument, Operation, SSAValue

from ..ir import scalar, symbols
from ..ir.cascade import EinsumOp, KernelOp, OnlineOp
from .contraction import product_factors
from .trips import Bounds, Trips, evaluated


def band_dimension(
    op: EinsumOp, demanded: Sequence[sympy.Expr], ranks: Collection[str], inside: Collection[Operation]
) -> int | None:
    """Which dimension of a sum is read along a band, when it is zero beyond the ends of that one.

    demanded: the index expressions at which the sum is read, all but one of them of `ranks`.  inside: the operations that the
    sum shall share a kernel with.  None: its reads are no band, or it cannot be computed there.
    """
    shifted = [n for n, e in enumerate(demanded) if not isinstance(e, sympy.Symbol)]
    if len(shifted) != 1 or len(op.results) != 1 or op.combiner_names != ("sum",):
        return None
    linear = symbols.affine(demanded[shifted[0]], ranks)
    if linear is None or not 1 <= len(linear[0]) <= 2 or not all(c in (1, -1) for c in linear[0].values()):
        return None
    rank = op.out_ranks(0)[shifted[0]]
    arguments = dict(zip(op.body.block.args, op.operand_accesses, strict=True))
    for factor in map(_unwidened, product_factors(op.yields[0])):
        if not isinstance(factor, BlockArgument):
            continue
        value, access = arguments[factor]
        if value.owner not in inside and symbols.symbol(rank) in access.data:
            return shifted[0]
    return None


def _unwidened(value: SSAValue) -> SSAValue:
    op = value.owner
    return op.operands[0] if isinstance(op, Operation) and scalar.name_of(op) == "widen" else value


def band_ranks(kernel: KernelOp) -> dict[str, sympy.Expr]:
    """The ranks of a kernel that are walked as bands, with the index expression at which each is read."""
    found: dict[str, sympy.Expr] = {}
    for op in kernel.body.block.ops:
        if not isinstance(op, EinsumOp | OnlineOp):
            continue
        for value, access in op.operand_accesses:
            producer = value.owner
            if isinstance(producer, EinsumOp | OnlineOp) and access.bare() is None:
                ranks = producer.out_ranks(value.index)  # pyright: ignore
                found |= {r: e for r, e in zip(ranks, access.data, strict=True) if not isinstance(e, sympy.Symbol)}
    return found


def loaded(
    walk: Trips, rank: str, of: sympy.Expr, ranks: Sequence[str], loops: Sequence[str], bounds: Sequence[Bounds]
) -> int:
    """Elements that all programs load of an operand over `ranks`, of which `rank` is walked as the band of `of`.

    Counted tile by tile: each loads what of its band lies within the rank, tiles cut at their extents.
    """
    sides = [r for r in (*walk.grid, *loops) if symbols.symbol(r) in of.free_symbols]
    axes = list(dict.fromkeys([*sides, *walk.axes(loops, bounds)]))
    starts = {}
    for n, r in enumerate(axes):
        steps = np.arange(-(-walk.extent[r] // walk.size[r])) * walk.size[r]
        starts[r] = steps.reshape([-1 if m == n else 1 for m in range(len(axes))])
    coefficients, constant = symbols.affine(of, walk.extent) or ({}, sympy.Integer(0))
    low = high = symbols.evaluate(constant, walk.known)
    for r, c in coefficients.items():
        first = starts[r] if r in starts else 0
        last = np.minimum(first + walk.size[r], walk.extent[r]) - 1
        low, high = (low + first, high + last) if c == 1 else (low - last, high - first)
    counts = np.clip(np.minimum(high + 1, walk.extent[rank]) - np.maximum(low, 0), 0, None)
    table = {**walk.known, **starts}
    for b in bounds:
        if b.rank in starts:
            start = starts[b.rank]
            counts = counts * ((start >= evaluated(b.lower, table)) & (start < evaluated(b.upper, table)))
        else:
            steps = -((evaluated(b.lower, table) - evaluated(b.upper, table)) // walk.size[b.rank])
            counts = counts * np.maximum(0, steps)
    for r in ranks:
        if r in starts:
            counts = counts * np.minimum(walk.size[r], walk.extent[r] - starts[r])
    total = int(np.broadcast_to(counts, [-(-walk.extent[r] // walk.size[r]) for r in axes]).sum())
    apart = {*axes, *(b.rank for b in bounds)}
    for r in ranks:
        if r != rank and r not in apart:
            total *= walk.extent[r]
    for r in (*walk.grid, *loops):
        if r not in apart and r not in ranks:
            total *= -(-walk.extent[r] // walk.size[r])
    return total


def sides_of(of: sympy.Expr, sizes: Mapping[str, int]) -> list[int]:
    """The lengths of the tile that a band belongs to.  sizes: of the ranks' tiles."""
    return [sizes[n] for n in sorted(symbols.names(of)) if n in sizes]


__all__ = ["band_dimension", "band_ranks", "loaded", "sides_of"]
