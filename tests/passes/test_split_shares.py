"""A kernel run in equal shares of the steps of all tiles, and merged, computes what it computes whole: in float64."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from cases import CASES
from harness import agree, layouts, own_walk, run_lanes
from in_parts import in_parts
from test_split_reduction import SPLIT, repaired, split_of
from xdsl.dialects.builtin import IntegerAttr, i64

from fusecade.ir import interpret, symbols, tile
from fusecade.ir.attributes import AccessMap
from fusecade.ir.cascade import KernelOp
from fusecade.ir.interpret import run_program
from fusecade.ir.verify import verify
from fusecade.passes.algebra.forms import Refused
from fusecade.passes.emit_tiles import emit_tiles
from fusecade.passes.fuse import contiguous
from fusecade.passes.walk import Shares, Walk


class InShares(interpret.ProgramRun):
    """A program whose kernels run as two tile kernels each, the first in shares of `each` steps."""

    each: int
    choose: random.Random
    of: dict
    lanes: bool

    def block(self, block, arguments):
        if block not in self.of:
            return super().block(block, arguments)
        kernel: KernelOp = self.of[block]
        split = split_of(kernel, 1)
        first, pieces = shared_out(kernel, self.choose, self.sizes, self.each)
        assert not isinstance(first, Refused), first
        merge = split_of(kernel, pieces).merge
        second = emit_tiles(merge, own_walk(merge, self.choose, 2, self.sizes), *layouts(merge))
        assert not isinstance(second, Refused), second
        run = run_lanes if self.lanes else interpret.run_kernel
        states = run(first, [arguments[n] for n in split.reads], self.sizes)
        return run(second, [*(arguments[n] for n in split.merge_reads), *states], self.sizes)


def shared_out(kernel: KernelOp, choose: random.Random, sizes, each: int, repeat: bool = False):
    """The first kernel with a walk of our own, small ragged tiles of everything, and how many pieces its tiles have.

    repeat: have tiles along ranks that only some of the states carry; why not, where there are none.
    """
    split = split_of(kernel, 1)
    walk = own_walk(split.partial, choose, 1, sizes)
    carried = [set(v.owner.out_ranks(v.index)) for v in split.partial.returned]  # type: ignore[union-attr]
    common = set.intersection(*carried) if not repeat else set(walk.grid)
    apart = [
        r for r in walk.grid if r != split.rank and r not in common
    ]  # whole: all states have the ranks of the grid
    rows = [replace(r, role="whole", tile=None) if r.name in apart else r for r in walk.table.data]
    rows = [replace(r, role="loop", tile="BS") if r.name == split.rank else r for r in rows]
    rows.append(tile.TileRank(split.part, symbols.symbol("SPLIT"), "unit"))
    params = {k: v for k, v in walk.params.items() if k in {r.tile for r in rows}}
    params |= {"BS": choose.choice((1, 2, 3)), "SPLIT": 1, "SHARE": each}
    grid = (*(r for r in walk.grid if r != split.rank and r not in apart), split.part)
    walk = Walk(tile.TileRanks(tuple(rows)), grid, params, parts=Shares(split.rank, split.part, "SPLIT", "SHARE"))
    outputs = []
    for value in split.partial.returned:
        whole = contiguous(value.type)  # type: ignore[arg-type]
        size = symbols.expr(1)
        for d in value.type.dims:  # type: ignore[union-attr]
            size = size * d
        shape, strides = (symbols.symbol("SPLIT"), *whole.shape.data), (size, *whole.strides.data)
        ranks = value.owner.out_ranks(value.index)  # type: ignore[union-attr]
        outputs.append((tile.BufferType.of(shape, strides, whole.element_type), AccessMap.of([split.part, *ranks])))
    made = emit_tiles(split.partial, walk, [contiguous(a.type) for a in split.partial.body.block.args], outputs)  # type: ignore[arg-type]
    if isinstance(made, Refused):
        return made, 0
    assert made.share is not None
    pieces = tile.Shares.of(made.share, made.ranks, made.grid_ranks, {**made.parameters, **sizes}).most_pieces
    made.params = type(made.params)({**made.params.data, "SPLIT": IntegerAttr(pieces, i64)})
    verify(made)
    return made, pieces


@pytest.mark.parametrize("name", in_parts(SPLIT, 2))
def test_shares_that_are_merged_are_the_whole(name: str):
    """Shares shorter than a tile, about as long, and of several tiles."""
    case = CASES[name]
    program, kernels = repaired(case.fn, case.tensors)
    expected = run_program(program, case.tensors)
    shapes = [a.type.shape for a in program.body.block.args]  # type: ignore[union-attr]
    for n, each in enumerate((2, 5, 11)):
        run = InShares(interpret.infer_from(shapes, case.tensors, None), None, "fold")
        run.of = {k.body.block: k for k in kernels}
        run.each, run.choose, run.lanes = each, random.Random(each), n == 0
        found = run.block(program.body.block, [interpret.to_reference(t) for t in case.tensors])
        agree(found, expected, f"shares of {each} steps")


def test_tiles_that_repeat_states_are_not_shared_out():
    """The maximum of a row lacks the features: tiles along those would be cut at other places, and store another one each."""
    case = CASES["attention"]
    _, (kernel,) = repaired(case.fn, case.tensors)
    made, _ = shared_out(kernel, random.Random(0), {}, 5, repeat=True)
    assert isinstance(made, Refused) and "have in common" in made.reason
