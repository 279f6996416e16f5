"""Sums of products as dots: which factors make up the two operands, and in which type they are multiplied."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import BFloat16Type, Float16Type, f32
from xdsl.ir import Attribute, BlockArgument, SSAValue

from ..ir import tile
from ..ir.attributes import is_float
from .contraction import product_factors, split
from .scalar_tiles import Env, ScalarTiles
from .tile_builder import TileBuilder
from .walk import Walk


class TileDots:
    """Writes sums of products into a kernel under construction."""

    def __init__(self, walk: Walk, tiles: TileBuilder, scalars: ScalarTiles):
        self.walk, self.tiles, self.scalars = walk, tiles, scalars

    def dot(self, value: SSAValue, env: Env, rank: str, state: SSAValue | None) -> SSAValue | None:
        """Σ over `rank` of a product whose factors fall into two groups with ranks of their own, as a dot; else None."""
        if self.tiles.role(rank) == "unit":
            return None
        factors = product_factors(value)
        carried = {f: self.scalars.ranks(f, env) for f in factors}
        inner = [f for f in factors if rank in carried[f]]
        outer = [f for f in factors if rank not in carried[f]]
        sides = split(inner, carried, rank, self.walk.vector_dots)
        if sides is None:
            return None
        left, right = sides
        lhs_ranks = frozenset().union(*(carried[f] for f in left))
        rhs_ranks = frozenset().union(*(carried[f] for f in right))
        after: list[SSAValue] = []
        for f in outer:
            if carried[f] <= lhs_ranks:
                left = [*left, f]
            elif carried[f] <= rhs_ranks:
                right = [*right, f]
            else:
                after.append(f)
        low = self._dot_type([*left, *right], env)
        kept = self.tiles.table.ordered([r for r in (*lhs_ranks, *rhs_ranks) if r != rank])
        own = [r for r in kept if (r in lhs_ranks) != (r in rhs_ranks)]
        if own[0] in rhs_ranks:  # rows first, so that the product comes out in the order it is kept in
            left, right, lhs_ranks, rhs_ranks = right, left, rhs_ranks, lhs_ranks
        lhs, rhs = self._side(left, env, rank, low), self._side(right, env, rank, low)
        kind = value.type if value.type != f32 or low is None else f32
        result = tile.TileType.of(kept, kind)
        acc = state if state is not None and not after and state.type == result else None
        operands = [lhs, rhs] if acc is None else [lhs, rhs, acc]
        out = self.tiles.emit(("dot", rank), operands, lambda: tile.DotOp(lhs, rhs, rank, result, acc))[0]
        for f in after:
            out = self.tiles.map("mul", [out, self.scalars.scalar(f, env)], kind)
        if state is not None and acc is None:
            out = self.tiles.map("add", [state, out], kind)
        return out

    def _dot_type(self, factors: Sequence[SSAValue], env: Env) -> Attribute | None:
        """The 16-bit type in which the operands were multiplied as written, or None for full precision.

        Of what this kernel computes, zeros and ones are neither: every type holds them.
        """
        if not self.walk.low_precision_dots:
            return None
        stored = [env.storage[f] for f in factors if isinstance(f, BlockArgument) and f in env.storage]
        low = [s for s in stored if isinstance(s, Float16Type | BFloat16Type)]
        wide = [s for s in stored if is_float(s) and not isinstance(s, Float16Type | BFloat16Type)]
        tensors = [s for f, s in ((f, env.storage.get(f)) for f in factors) if s is not None and len(env.ranks[f]) > 1]
        return low[0] if low and not any(w in tensors for w in wide) else None

    def _side(self, factors: Sequence[SSAValue], env: Env, rank: str, low: Attribute | None) -> SSAValue:
        if len(factors) == 1 and isinstance(factors[0], BlockArgument):
            raw = env.make[factors[0]]()
            value = self.tiles.convert(raw, low if low is not None else factors[0].type)
            return self.tiles.pad(self._spread(value, factors, env), rank, 0.0)
        value = self.scalars.scalar(factors[0], env)
        for f in factors[1:]:
            value = self.tiles.map("mul", [value, self.scalars.scalar(f, env)], value.type.element_type)  # pyright: ignore
        value = self.tiles.pad(self._spread(value, factors, env), rank, 0.0)
        return self.tiles.convert(value, low) if low is not None else value

    def _spread(self, value: SSAValue, factors: Sequence[SSAValue], env: Env) -> SSAValue:
        """One side of a dot with all of its ranks, also where a mask is known to be one number."""
        ranks = self.tiles.table.ordered(frozenset().union(*(self.scalars.ranks(f, env) for f in factors)))
        return self.tiles.broadcast(value, ranks) if set(ranks) - set(tile.tile_type(value).names) else value
