"""How tiles lie in torch tensors: their dimensions, dtypes and scratch, and what is stored where it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import sympy
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, Float64Type, IntegerType, Signedness
from xdsl.ir import Attribute, Operation, SSAValue

from ..ir import symbols, tile
from ..ir.attributes import is_float
from .text import loads_and_stores

Layout = tuple[str | None, ...]  # what a tensor's dimensions are: ranks, or dimensions of length 1


def dtype(element: Attribute) -> str:
    """torch's name of an element type."""
    if isinstance(element, IntegerType):
        if element.width.data == 1:
            return "torch.bool"
        return f"torch.{'u' if element.signedness.data == Signedness.UNSIGNED else ''}int{element.width.data}"
    names = {Float16Type: "float16", BFloat16Type: "bfloat16", Float32Type: "float32", Float64Type: "float64"}
    return f"torch.{names[type(element)]}"  # pyright: ignore[reportArgumentType]


def held(element: Attribute) -> str:
    """The dtype that a tile of this element type has."""
    return "torch.float32" if is_float(element) and not isinstance(element, Float64Type) else dtype(element)


@dataclass
class Slot:
    """One scratch tensor.  var: its name, cut to the present tile.  base: the whole one, where they differ."""

    names: tuple[str, ...]
    dtype: str
    var: str
    base: str


@dataclass(frozen=True)
class Value:
    """A tile: its text, what its dimensions are, the scratch that it lies in.  number: it is a Python number."""

    text: str
    layout: Layout
    element: Attribute
    slot: Slot | None = None
    number: bool = False
    constant: float | int | bool | None = None


@dataclass
class Scope:
    """A block of lines: the function's, a program's, or a loop's body."""

    depth: int
    rank: str | None = None
    lines: list[str] = field(default_factory=list)
    slots: dict[str, Slot] = field(default_factory=dict)  # that are to be cut when the block begins

    def add(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)


def names_of(layout: Layout) -> tuple[str, ...]:
    return tuple(d for d in layout if d is not None)


def layouts_of(kernel: tile.KernelOp) -> dict[tuple[str, ...], Layout]:
    """The dimensions that tiles over some ranks have: with those of length 1 with which they broadcast most often.

    A row maximum over [i] that meets tiles over [i, j] is a column, [i, 1].
    """
    votes: dict[tuple[str, ...], dict[Layout, int]] = {}
    order: list[tuple[str, ...]] = []
    for op in kernel.body.walk():
        for value in (*op.operands, *op.results, *(a for r in op.regions for b in r.blocks for a in b.args)):
            if isinstance(value.type, tile.TileType):
                order.append(value.type.names)
        if not isinstance(op, tile.MapOp):
            continue
        names = tile.tile_type(op.result).names
        for operand in op.operands:
            own = tile.tile_type(operand).names
            if not own or own == names or [r for r in names if r in own] != list(own):
                continue
            wanted: Layout = tuple(r if r in own else None for r in names)
            while wanted[0] is None:
                wanted = wanted[1:]
            counts = votes.setdefault(own, {})
            counts[wanted] = counts.get(wanted, 0) + 1
    found: dict[tuple[str, ...], Layout] = {}
    for names in order:
        counts = votes.get(names, {})
        best = max(counts, key=lambda w: (counts[w], -len(w)), default=names)
        found[names] = best
    return found


def align(text: str, have: Layout, want: Layout) -> str:
    """A tensor whose dimensions are `have`, as one whose dimensions are `want`; the same ranks in both."""
    if have == want:
        return text
    if names_of(have) != names_of(want):
        bare = names_of(have)
        text = align(text, have, bare)
        places = [bare.index(n) for n in names_of(want)]
        text = f"{text}.t()" if places == [1, 0] else f"{text}.permute({', '.join(str(p) for p in places)})"
        have = names_of(want)
        if have == want:
            return text
    index, rest = [], list(have)
    for d in want:
        if d is not None:
            while rest[0] is None:
                index.append("0")
                del rest[0]
            index.append(":")
            del rest[0]
        elif rest and rest[0] is None:
            index.append(":")
            del rest[0]
        else:
            index.append("None")
    index += ["0"] * len(rest)
    while index and index[-1] == ":":
        index.pop()
    return f"{text}[{', '.join(index)}]" if index else text


def rounds_anyway(op: tile.CastOp) -> bool:
    """Whether a cast to a narrow float may be left out: it only feeds dots, or a store of that type."""

    def fits(user: Operation) -> bool:
        if isinstance(user, tile.StoreOp):
            return cast(tile.BufferType, user.buffer.type).element_type == tile.tile_type(op.result).element_type
        return isinstance(user, tile.DotOp)

    return all(fits(use.operation) for use in op.result.uses)


def is_alias(op: tile.MapOp) -> bool:
    """Whether a widened tile is the tile itself: both are held in the same type."""
    source, result = (tile.tile_type(v).element_type for v in (op.operands[0], op.result))
    return held(source) == held(result)


def stored_directly(kernel: tile.KernelOp, layouts: Mapping[tuple[str, ...], Layout]) -> dict[SSAValue, tile.StoreOp]:
    """The values computed where they are stored: used once, in their own type, in a buffer that is not read."""
    read = {op.buffer for op in loads_and_stores(kernel) if isinstance(op, tile.LoadOp)}
    found: dict[SSAValue, tile.StoreOp] = {}
    for op in loads_and_stores(kernel):
        if not isinstance(op, tile.StoreOp) or op.buffer in read:
            continue
        value, kind = op.value, cast(tile.BufferType, op.buffer.type)
        maker = value.owner
        if not isinstance(maker, tile.MapOp | tile.ReduceOp | tile.DotOp) or maker.parent is not op.parent:
            continue
        if isinstance(maker, tile.MapOp) and maker.function.data == "widen" and is_alias(maker):
            continue
        total = sympy.expand(
            sum((e * s for e, s in zip(op.access.data, kind.strides.data, strict=True)), sympy.Integer(0))
        )
        linear = symbols.affine(total, kernel.ranks.names)
        if linear is None or any(c.could_extract_minus_sign() for c in linear[0].values()):
            continue
        names = tile.tile_type(value).names
        lanes = kernel.ranks.ordered(op.access.ranks)
        same = held(tile.tile_type(value).element_type) == dtype(kind.element_type)
        if value.uses.get_length() == 1 and same and set(lanes) == set(names) and names:
            found[value] = op
    return found
