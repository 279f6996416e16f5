"""The `tile` dialect: one kernel, run program by program."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from xdsl.ir import Block, Operation, SSAValue

from ...errors import InternalCompilerError
from .. import tile
from .access import apply, index_value, read_elements, symbol_values
from .regions import constant_value, reduce_values, torch_function
from .values import Named, Space, infer_from, reference_dtype, size_of, to_reference


def run_kernel(
    kernel: tile.KernelOp,
    inputs: Sequence[Tensor],
    sizes: Mapping[str, int] | None = None,
    *,
    params: Mapping[str, int] | None = None,
    outputs: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The buffers that a kernel writes, in float64, int64 and bool: every program of the grid, one after another.

    `inputs` have the buffers' logical shapes; the strides in the buffers' types are ignored.  `params` overrides the
    kernel's parameters.  Outputs start as `outputs`, or else as NaN (-1, False), so that what is never written shows.
    Tiles are cut at their ranks' extents; an access outside its buffer is an InternalCompilerError, unless it is a
    load marked `checked`.
    """
    declared = [cast(tile.BufferType, v.type) for v in kernel.inputs]
    bound = infer_from([t.shape for t in declared], inputs, sizes)
    tiles = {**kernel.parameters, **(params or {})}
    values: dict[SSAValue, Tensor] = dict(zip(kernel.inputs, [to_reference(t) for t in inputs], strict=True))
    for n, value in enumerate(kernel.written):
        kind = cast(tile.BufferType, value.type)
        dtype = reference_dtype(kind.element_type)
        shape = [size_of(e, {**tiles, **bound}) for e in kind.shape.data]
        unwritten = {torch.float64: math.nan, torch.int64: -1, torch.bool: False}[dtype]
        start = to_reference(outputs[n]).clone() if outputs is not None else torch.full(shape, unwritten, dtype=dtype)
        values[value] = start
    TileProgram.run_grid(kernel, values, {**tiles, **bound}, tiles)
    return [values[v] for v in kernel.written]


class TileProgram:
    """One program of a kernel's grid.  A tile has exactly the ranks of its type, cut at their extents."""

    @staticmethod
    def run_grid(kernel: tile.KernelOp, buffers: dict[SSAValue, Tensor], sizes: dict[str, int], tiles: dict[str, int]):
        ranks = [kernel.ranks[name] for name in kernel.grid_ranks]
        extents = [size_of(r.extent, sizes) for r in ranks]
        steps = [tiles[r.tile] if r.tile else 1 for r in ranks]
        share = kernel.share
        shares = tile.Shares.of(share, kernel.ranks, kernel.grid_ranks, sizes) if share is not None else None
        if shares is not None and shares.most_pieces > extents[-1]:
            raise InternalCompilerError(f"a tile is cut into {shares.most_pieces} pieces, the grid has {extents[-1]}")
        places = itertools.product(*(range(0, e, s) for e, s in zip(extents, steps, strict=True)))
        for number, starts in enumerate(places):
            space: Space = {}
            here = dict(sizes)
            if share is not None and shares is not None:  # pieces are the last rank of the grid
                here[share.ahead] = shares.ahead(number // extents[-1])
            for rank, extent, step, start in zip(ranks, extents, steps, starts, strict=True):
                here[rank.name] = start
                if rank.role == "grid":
                    space[rank.name] = range(start, min(start + step, extent))
            for rank in kernel.ranks.data:
                if rank.role == "whole":
                    space[rank.name] = range(size_of(rank.extent, here))
            program = TileProgram(kernel, buffers, here, tiles)
            program.block(kernel.body.block, {}, program.with_bands(space))

    def __init__(
        self, kernel: tile.KernelOp, buffers: dict[SSAValue, Tensor], sizes: dict[str, int], tiles: dict[str, int]
    ):
        self.kernel = kernel
        self.buffers = buffers
        self.sizes = sizes  # sizes, parameters, the value of a unit rank, the first index of a grid or loop rank
        self.tiles = tiles

    def block(self, block: Block, values: dict[SSAValue, Tensor], space: Space) -> list[Tensor]:
        """Run a block; the values that it yields."""
        for op in block.ops:
            if isinstance(op, tile.ReturnOp):
                return []
            if isinstance(op, tile.YieldOp):
                return [values[v] for v in op.values]
            if isinstance(op, tile.StoreOp):
                self.store(op, self.named(op.value, values), space)
                continue
            if isinstance(op, tile.ForOp):
                results = self.loop(op, values, space)
            elif isinstance(op, tile.IfOp):
                results = self.conditional(op, values, space)
            else:
                results = [
                    n.spread(tile.tile_type(r).names, space)
                    for n, r in zip(self.compute(op, values, space), op.results, strict=True)
                ]
            values.update(zip(op.results, results, strict=True))
        raise InternalCompilerError("a block does not end in tile.yield or tile.return")

    def named(self, value: SSAValue, values: Mapping[SSAValue, Tensor]) -> Named:
        return Named(values[value], tile.tile_type(value).names)

    def compute(self, op: Operation, values: Mapping[SSAValue, Tensor], space: Space) -> list[Named]:
        """The results of an operation without effects."""
        if isinstance(op, tile.LoadOp):
            loaded, outside = read_elements(self.buffers[op.buffer], op.access.data, space, self.table(space))
            bands = [r for r in op.guards if self.kernel.ranks[r].role == "band"]
            if bands:
                return [self.within(loaded, bands, space)]
            if outside and op.checked is None:
                raise InternalCompilerError(f"tile.load {op.access.text()} reads outside its buffer; mark it checked")
            return [loaded]
        if isinstance(op, tile.IndexOp):
            return [index_value(op.expr, self.table(space))]
        if isinstance(op, tile.FillOp):
            return [constant_value(op.python_value, tile.tile_type(op.result).element_type)]
        if isinstance(op, tile.MapOp):
            operands = [self.named(o, values) for o in op.operands]
            return [apply(torch_function(op.function.data), *operands)]
        if isinstance(op, tile.CastOp):
            value = self.named(op.value, values)
            return [Named(value.tensor.to(reference_dtype(tile.tile_type(op.result).element_type)), value.ranks)]
        if isinstance(op, tile.PadOp):
            return [self.named(op.value, values)]  # a cut tile has no lanes beyond the extent
        if isinstance(op, tile.PickOp):
            return [self.pick(op, self.named(op.value, values), space)]
        if isinstance(op, tile.DotOp):
            return [self.dot(op, values)]
        if isinstance(op, tile.ReduceOp):
            return self.reduce(op, self.named(op.value, values), space)
        raise InternalCompilerError(f"the reference interpreter does not know {op.name}")

    def with_bands(self, space: Space) -> Space:
        """The space with the bands of the tiles that are in it."""
        found = dict(space)
        for rank in self.kernel.ranks.data:
            if rank.of is not None and all(s.role == "unit" or s.name in space for s in self.kernel.ranks.sides(rank)):
                at = index_value(rank.of, self.table(space)).tensor
                found[rank.name] = range(int(at.min()), int(at.max()) + 1) if at.numel() else range(0)
        return found

    def within(self, value: Named, bands: Sequence[str], space: Space) -> Named:
        """A tile that is zero where a band leaves the extent of its rank."""
        for r in bands:
            at = torch.arange(space[r].start, space[r].stop)
            inside = Named((at >= 0) & (at < size_of(self.kernel.ranks[r].extent, self.sizes)), (r,))
            value = apply(lambda v, i: torch.where(i, v, torch.zeros((), dtype=v.dtype)), value, inside)
        return value

    def pick(self, op: tile.PickOp, value: Named, space: Space) -> Named:
        band = self.kernel.ranks[op.band.data]
        assert band.of is not None
        out = tile.tile_type(op.result).names
        place = {r: Named(torch.arange(len(space[r])), (r,)) for r in out}
        place[band.name] = apply(lambda at: at - space[band.name].start, index_value(band.of, self.table(space)))
        return Named(value.tensor[tuple(place[r].over(out) for r in value.ranks)], out)

    def table(self, space: Space) -> dict[str, Named]:
        return symbol_values(space, self.sizes)

    def dot(self, op: tile.DotOp, values: Mapping[SSAValue, Tensor]) -> Named:
        lhs, rhs = self.named(op.lhs, values), self.named(op.rhs, values)
        out = tile.tile_type(op.result).names
        number = {r: n for n, r in enumerate((*out, op.over.data))}
        left, right, result = ([number[r] for r in ranks] for ranks in (lhs.ranks, rhs.ranks, out))
        total = torch.einsum(lhs.tensor, left, rhs.tensor, right, result)
        return Named(total if op.acc is None else total + values[op.acc], out)

    def reduce(self, op: tile.ReduceOp, value: Named, space: Space) -> list[Named]:
        kept = tuple(r for r in value.ranks if r != op.over.data)
        combiner = op.combiner.data
        if combiner not in ("argmax", "argmin"):
            return [Named(reduce_values(combiner, value, kept, (op.over.data,), space), kept)]
        extreme = reduce_values(combiner.removeprefix("arg"), value, kept, (op.over.data,), space)
        return [Named(extreme, kept), Named(reduce_values(combiner, value, kept, (op.over.data,), space), kept)]

    def loop(self, op: tile.ForOp, values: Mapping[SSAValue, Tensor], space: Space) -> list[Tensor]:
        rank = self.kernel.ranks[op.rank.data]
        step = self.tiles[rank.tile] if rank.tile else 1
        lower, upper = (size_of(e, self.sizes) for e in op.bounds)
        extent = size_of(rank.extent, self.sizes)
        if lower % step:
            raise InternalCompilerError(f"tile.for {rank.name} starts at {lower}, no multiple of its tile {step}")
        if op.within:
            first, last = (max(0, min(int(values[v]), extent)) for v in op.within)
            lower, upper = max(lower, first // step * step), min(upper, last)
        state = [values[v] for v in op.init]
        for start in range(lower, upper, step):
            inner = {**space, rank.name: range(start, max(start, min(start + step, extent)))} if rank.tile else space
            program = TileProgram(self.kernel, self.buffers, {**self.sizes, rank.name: start}, self.tiles)
            inner = program.with_bands(inner)
            state = program.block(op.body.block, {**values, **dict(zip(op.body.block.args, state, strict=True))}, inner)
        return state

    def conditional(self, op: tile.IfOp, values: Mapping[SSAValue, Tensor], space: Space) -> list[Tensor]:
        given, condition = [values[v] for v in op.init], values[op.condition]
        if not bool(condition.any() if op.quantifier.data == "any" else condition.all()):
            return given
        return self.block(op.body.block, {**values, **dict(zip(op.body.block.args, given, strict=True))}, space)

    def store(self, op: tile.StoreOp, value: Named, space: Space) -> None:
        buffer = self.buffers[op.buffer]
        index = [index_value(e, self.table(space)) for e in op.access.data]
        for n, size in zip(index, buffer.shape, strict=True):
            if bool(((n.tensor < 0) | (n.tensor >= size)).any()):
                raise InternalCompilerError(f"tile.store {op.access.text()} writes outside its buffer")
        ranks = tuple(dict.fromkeys(r for n in index for r in n.ranks))
        if index:
            buffer[tuple(n.over(ranks) for n in index)] = value.over(ranks).to(buffer.dtype)
        else:
            buffer.copy_(value.tensor)
