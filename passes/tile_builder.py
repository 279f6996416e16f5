"""The operations of a tile kernel under construction: each is made once, in the outermost block that knows its operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sympy
from xdsl.dialects.builtin import i1
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from ..ir import tile
from ..ir.attributes import AccessMap, TensorType, element_bits, is_float
from .bounds import inside
from .walk import Walk


class Stop(Exception):
    """The lowering cannot express something; becomes a Refused."""


@dataclass(eq=False)
class Scope:
    """A block under construction: the kernel's body, or the body of the loop over `rank`."""

    block: Block
    rank: str | None
    depth: int
    known: dict[tuple, tuple[SSAValue, ...]] = field(default_factory=dict)  # value numbering
    branch: Scope | None = None  # the conditional that ends this block: what is not needed to decide it goes there


class TileBuilder:
    """A kernel body under construction, and the loops and conditionals that are open in it."""

    def __init__(self, walk: Walk, buffers: Sequence[tile.BufferType]):
        """buffers: the layouts of the kernel's arguments."""
        self.walk, self.table = walk, walk.table
        self.top = Scope(Block(arg_types=buffers), None, 0)
        self.stack: list[Scope] = [self.top]
        self.scope_of: dict[SSAValue, Scope] = {}
        self.beyond: dict[SSAValue, dict[str, float]] = {}  # what the lanes past a rank's extent are known to hold
        self.extents: dict[str, sympy.Expr] = {r.name: r.extent for r in self.table.data}
        self.full: frozenset[str] = frozenset()  # the loop ranks whose present tile has no lanes beyond the extent

    def role(self, rank: str) -> str:
        return self.table[rank].role

    def scope_for(self, operands: Sequence[SSAValue], ranks: Sequence[str] = ()) -> Scope:
        """The innermost block that has all of these operands, and is in the loops over all of these ranks."""
        scope = self.top
        for v in operands:
            at = self.scope_of.get(v, self.top)
            if at.depth > scope.depth:
                scope = at
        of_bands = [s.name for r in ranks if r in self.extents for s in self.table.sides(self.table[r])]
        for r in (*ranks, *of_bands):
            if r in self.extents and self.walk.loops(r):
                bound = [s for s in self.stack if s.rank == r]
                if not bound:
                    raise Stop(f"rank {r} is needed outside its loop")
                if bound[-1].depth > scope.depth:
                    scope = bound[-1]
        return scope.branch or scope

    def emit(self, key: tuple, operands: Sequence[SSAValue], build: Callable[[], Operation], ranks: Sequence[str] = ()):
        """Emit an operation where its operands and ranks are known, or reuse an equal one."""
        scope = self.scope_for(operands, ranks)
        key = (*key, *operands)
        if key not in scope.known:
            op = build()
            scope.block.add_op(op)
            for r in op.results:
                self.scope_of[r] = scope
            scope.known[key] = tuple(op.results)
        return scope.known[key]

    # --- tiles ---------------------------------------------------------------------------------------------------

    def load(self, buffer: SSAValue, kind: TensorType, access: AccessMap) -> SSAValue:
        """The tile of a buffer with the dimensions and elements of `kind` at `access`; lanes beyond an extent are 0."""
        ranks = self.table.ordered(access.ranks)
        result = tile.TileType.of(ranks, kind.element_type)
        checked = not inside(access, kind.dims, self.extents)

        def build() -> Operation:
            op = tile.LoadOp(buffer, access, result, self.guards(access), checked)
            op.result.name_hint = buffer.name_hint
            return op

        loaded = self.emit(("load", access), [buffer], build, access.ranks)[0]
        self.beyond[loaded] = dict.fromkeys(ranks, 0.0)
        return loaded

    def guards(self, access: AccessMap) -> tuple[str, ...]:
        """The ranks whose lanes may lie beyond the extent, which a load or store must not touch."""
        return tuple(r for r in self.table.ordered(access.ranks) if r not in self.full)

    def constant(self, number: float | int | bool, kind: Attribute, ranks: Sequence[str] = ()) -> SSAValue:
        """A tile of one number."""
        result = tile.TileType.of(ranks, kind)
        return self.emit(("fill", repr(number), result), [], lambda: tile.FillOp(number, result), ranks)[0]

    def map(self, name: str, operands: Sequence[SSAValue], kind: Attribute, hint: str | None = None) -> SSAValue:
        """A scalar function of tiles, over all of their ranks."""
        ranks = self.table.ordered([r for o in operands for r in tile.tile_type(o).names])
        result = tile.TileType.of(ranks, kind)

        def build() -> Operation:
            op = tile.MapOp(name, operands, result)
            op.result.name_hint = hint
            return op

        made = self.emit((name, result), operands, build)[0]
        self._note_beyond(name, operands, made)
        return made

    def _note_beyond(self, name: str, operands: Sequence[SSAValue], made: SSAValue) -> None:
        """Follow known lanes through a map: exp(-inf - m) is 0, 0 * 0 is 0."""
        held = [self.beyond.get(o, {}) for o in operands]
        if name == "sub":
            other = tile.tile_type(operands[1]).names
            self.beyond[made] = {r: v for r, v in held[0].items() if v == -math.inf and r not in other}
        elif name in ("exp", "exp2"):
            self.beyond[made] = {r: 0.0 for r, v in held[0].items() if v == -math.inf}
        elif name == "mul":
            self.beyond[made] = {r: 0.0 for r, v in held[0].items() if v == 0.0 and held[1].get(r) == 0.0}

    def convert(self, value: SSAValue, element: Attribute) -> SSAValue:
        """A tile with elements of another type."""
        if tile.tile_type(value).element_type == element:
            return value
        if isinstance(value.owner, tile.CastOp) and _holds(tile.tile_type(value).element_type, element):
            narrow = value.owner.value
            if tile.tile_type(narrow).element_type == element:  # widened, and narrowed again
                return narrow
        cast = self.emit(("cast", element), [value], lambda: tile.CastOp(value, element))[0]
        self.beyond[cast] = self.beyond.get(value, {})
        return cast

    def broadcast(self, value: SSAValue, ranks: Sequence[str]) -> SSAValue:
        """A tile that has these ranks as well."""
        kind = tile.tile_type(value).element_type
        zero = self.constant(0 if not is_float(kind) else 0.0, kind, ranks)
        if kind == i1:
            return self.map("or", [value, zero], kind)
        return self.map("add" if is_float(kind) else "iadd", [value, zero], kind)

    def pad(self, value: SSAValue, rank: str, fill: float | int | bool) -> SSAValue:
        """A tile that holds `fill` in the lanes beyond the extent of `rank`."""
        known = self.beyond.get(value, {})
        if rank not in tile.tile_type(value).names or rank in self.full or known.get(rank) == fill:
            return value
        padded = self.emit(("pad", rank, repr(fill)), [value], lambda: tile.PadOp(value, [rank], fill))[0]
        self.beyond[padded] = {**known, rank: float(fill)}
        return padded

    def picked(self, value: SSAValue, access: AccessMap) -> SSAValue:
        """A tile of a reduction as it is read: along a band, each point of the tile has an element of its own."""
        names = tile.tile_type(value).names
        bands = [r for r in names if self.role(r) == "band"]
        if not bands:
            return value
        if bands[0] in access.ranks:
            raise Stop(f"what is computed along the band {bands[0]} is read as it is")
        ranks = self.table.ordered(access.ranks)
        return self.emit(("pick", *bands), [value], lambda: tile.PickOp(value, bands[0], ranks), ranks)[0]

    # --- conditionals --------------------------------------------------------------------------------------------

    def open_branch(self, scope: Scope, state: Sequence[SSAValue]) -> Scope:
        """From here on, what would be computed in `scope` is computed in a conditional that is given the state."""
        branch = Scope(Block(arg_types=[v.type for v in state]), scope.rank, len(self.stack), dict(scope.known))
        self.stack.append(branch)
        scope.branch = branch
        return branch

    def close_branch(
        self,
        branch: Scope,
        scope: Scope,
        quantifier: str,
        condition: SSAValue,
        state: Sequence[SSAValue],
        yielded: Sequence[SSAValue],
    ) -> list[SSAValue]:
        """The state behind the conditional, which is the next operation of `scope`."""
        self.stack.remove(branch)
        scope.branch = None
        branch.block.add_op(tile.YieldOp(*yielded))
        op = tile.IfOp(quantifier, condition, state, Region(branch.block))
        scope.block.add_op(op)
        for result, given in zip(op.results, state, strict=True):
            self.scope_of[result] = scope
            result.name_hint = given.name_hint
        return list(op.results)


def _holds(wide: Attribute, narrow: Attribute) -> bool:
    """Whether each number of a type is one of the other, so that there and back changes nothing."""
    return is_float(wide) and is_float(narrow) and element_bits(wide) > element_bits(narrow)
