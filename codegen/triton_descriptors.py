"""Loads by tensor descriptor in a printed Triton function: tiles that the hardware fetches on its own (TMA).

    k_tiles = tl.make_tensor_descriptor(k_ptr, [8, 4096, 64], [262144, 64, 1], [1, BJ, 64])     once, first of all
    k = tl.reshape(k_tiles.load([b, start_j, 0]), [BJ, 64])                                    instead of tl.load

A load has one where it takes a whole rectangle: each index of its access is one rank of the tile, or one element; the
innermost of them lies together, the other strides are multiples of 16 bytes; and what lies beyond an end reads as zero,
as it does under a guard.  Vectors have none, nor has what products of full precision read: it would pass through shared
memory only to be held in registers.  That the pointer is aligned is the launch's to see to (`runtime/descriptors.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import sympy
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, IntegerType
from xdsl.ir import Attribute, SSAValue

from ..ir import symbols, tile
from .text import is_even, multiples, whole_lanes
from .triton_addresses import Addresses
from .triton_indices import Lines, fits_in_32

ALIGNED = 16  # bytes: what a descriptor asks of the pointer, of strides, and of where a tile begins
MOST_DIMENSIONS = 5


@dataclass(frozen=True)
class Dimension:
    """One dimension of a descriptor: rank of the tile (None: one element is taken), first element, end, stride."""

    rank: str | None
    first: sympy.Expr
    end: sympy.Expr
    stride: sympy.Expr


class Descriptors(Addresses):
    """Loads by descriptor, and the descriptors, by what they describe."""

    def __init__(self, kernel: tile.KernelOp, wide: bool):
        super().__init__(kernel, wide)
        self.made = Lines(1)
        self.descriptors: dict[str, str] = {}  # the text that makes one -> its name
        self.described: dict[SSAValue, None] = {}  # the buffers that have one

    def by_descriptor(self, op: tile.LoadOp) -> str | None:
        """The text of a load by descriptor; None where it has none."""
        dims = self.rectangle(op)
        if dims is None:
            return None
        block = ", ".join(self.lanes(self.ranks[d.rank]) if d.rank else "1" for d in dims)
        shape = ", ".join(self.expression(d.end, None) for d in dims)
        strides = ", ".join(
            self.expression(s, None) if self.fits(s) else self.widened(s, []) for s in (d.stride for d in dims)
        )
        text = f"tl.make_tensor_descriptor({self.pointers[op.buffer]}, [{shape}], [{strides}], [{block}])"
        if text not in self.descriptors:
            self.descriptors[text] = self.names.fresh(f"{op.buffer.name_hint or 'buffer'}_tiles")
            self.made.add(f"{self.descriptors[text]} = {text}")
        self.described[op.buffer] = None
        loaded = f"{self.descriptors[text]}.load([{', '.join(self.expression(d.first, None) for d in dims)}])"
        ranks = [d.rank for d in dims if d.rank is not None]
        if len(ranks) < len(dims):
            loaded = f"tl.reshape({loaded}, {self.shape(ranks)})"
        return self.at(loaded, ranks, tile.tile_type(op.result).names)

    def rectangle(self, op: tile.LoadOp) -> list[Dimension] | None:
        """The dimensions of what a load takes, the one that lies together last; None where that is no rectangle."""
        kind, result = cast(tile.BufferType, op.buffer.type), tile.tile_type(op.result)
        size = _bytes(result.element_type)
        if (
            self.wide
            or size is None
            or op.checked is not None
            or len(result.names) < 2
            or _in_full_precision(op.result)
        ):
            return None
        dims: list[Dimension] = []
        for e, extent, stride in zip(op.access.data, kind.shape.data, kind.strides.data, strict=True):
            if e == 0:
                continue
            found = self.dimension(e, extent, stride, op.guards)
            if found is None:
                return None
            dims.append(found)
        dims.sort(key=lambda d: d.stride == 1 and d.rank is not None)
        if not 2 <= len(dims) <= MOST_DIMENSIONS or sorted(d.rank for d in dims if d.rank) != sorted(result.names):
            return None
        *outer, last = dims
        known, step = multiples(self.kernel), ALIGNED // size
        together = last.stride == 1 and last.rank is not None and self.count_of(last.rank) >= step
        if not together or not all(divides(step, d.stride, known) for d in outer):
            return None
        return dims if self.starts_at(last, step, known) else None

    def dimension(
        self, e: sympy.Expr, extent: sympy.Expr, stride: sympy.Expr, guards: tuple[str, ...]
    ) -> Dimension | None:
        """One index of an access.  None where it is neither one rank of a tile nor one element, or too much to count."""
        of_tile = [r for r in self.ranks.names if self.ranks[r].role != "unit" and symbols.symbol(r) in e.free_symbols]
        rank = of_tile[0] if of_tile else None
        if rank is None:
            bounds = self.bound(e)
            end = bounds[1] + 1 if bounds is not None else extent
            if not symbols.names(end) <= set(self.sizes):
                return None
            return Dimension(None, e, end, stride) if fits_in_32(end) else None
        before = sympy.expand(e - symbols.symbol(rank))
        if symbols.symbol(rank) in before.free_symbols or len(of_tile) > 1 or self.ranks[rank].role == "band":
            return None
        if self.ranks[rank].tile is None and not self.ranks[rank].extent.is_Integer:
            return None  # how many lanes it has is not known before it runs
        if symbols.names(before) & set(self.ranks.names) and (rank in guards or not is_even(self.kernel, rank)):
            return None  # where it ends depends on the program
        bounds = self.bound(e)
        if bounds is None or not fits_in_32(bounds[1] + 1):
            return None
        first = before if self.ranks[rank].role == "whole" else e
        return Dimension(rank, first, sympy.expand(bounds[1] + 1), stride)

    def count_of(self, rank: str) -> int:
        """How many lanes a tile has along a rank."""
        found = self.ranks[rank]
        return self.params[found.tile] if found.tile else whole_lanes(int(found.extent), rank in self.dots)

    def starts_at(self, last: Dimension, step: int, known: Mapping[str, int]) -> bool:
        """Whether every tile begins at a multiple of so many elements along the dimension that lies together."""
        assert last.rank is not None
        rank = self.ranks[last.rank]
        before = last.first.subs(symbols.symbol(last.rank), 0)
        params: Any = {symbols.symbol(n): sympy.Integer(v) for n, v in self.params.items()}
        loops = [op for op in self.kernel.body.walk() if isinstance(op, tile.ForOp) and op.rank.data == rank.name]
        starts = [cast(sympy.Expr, op.bounds[0].subs(params, simultaneous=True)) for op in loops]
        return all(divides(step, e, known) for e in (before, *starts))


def describable(kernel: tile.KernelOp, wide: bool = False) -> bool:
    """Whether any load of a kernel has a descriptor."""
    found = Descriptors(kernel, wide)
    return any(isinstance(op, tile.LoadOp) and found.rectangle(op) is not None for op in kernel.body.walk())


def divides(step: int, e: sympy.Expr, known: Mapping[str, int]) -> bool:
    """Whether an integer expression is a multiple of `step`, for all sizes that are multiples as `known` says."""
    scaled = e.subs({symbols.symbol(n): k * symbols.symbol(n) for n, k in known.items()}, simultaneous=True)
    return all((t.as_coeff_Mul()[0] / step).is_Integer for t in sympy.Add.make_args(sympy.expand(scaled)))


def _in_full_precision(value: SSAValue) -> bool:
    """Whether products of full precision read a tile, through maps: no matrix unit takes it, so it goes to registers anyway."""
    for use in value.uses:
        op = use.operation
        if isinstance(op, tile.DotOp):
            if op.precision.data == "ieee" and tile.tile_type(op.lhs).element_type == Float32Type():
                return True
        elif isinstance(op, tile.MapOp | tile.CastOp | tile.PadOp) and _in_full_precision(op.result):
            return True
    return False


def _bytes(element: Attribute) -> int | None:
    """Of one element; None of what a descriptor has no word for."""
    if isinstance(element, Float16Type | BFloat16Type):
        return 2
    if isinstance(element, Float32Type):
        return 4
    if isinstance(element, IntegerType) and element.width.data in (8, 16, 32):
        return element.width.data // 8
    return None
