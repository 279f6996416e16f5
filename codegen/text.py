"""What both printers share: refusals, names, index expressions as Python text, and facts about a kernel's sizes."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isinf, isnan
from typing import Any, cast

import sympy
from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Operation

from ..ir import symbols, tile
from ..ir.attributes import AccessMap


class NotPrintable(Exception):
    """This kernel has no text in this printer's language; `reason` says why."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


# --- names --------------------------------------------------------------------------------------------------------


@dataclass
class Names:
    """Gives each thing a name of its own: `x`, then `x_1`, `x_2`."""

    taken: set[str] = field(default_factory=lambda: {*keyword.kwlist, *dir(builtins)})

    def reserve(self, name: str) -> str:
        """Take exactly this name."""
        if name in self.taken:
            raise NotPrintable(f"the name {name} is needed twice")
        self.taken.add(name)
        return name

    def fresh(self, hint: str) -> str:
        base = re.sub(r"\W", "_", re.sub(r"_\d+$", "", hint)) or "x"
        base = f"x{base}" if base[0].isdigit() else base
        name, n = base, 0
        while name in self.taken:
            n += 1
            name = f"{base}_{n}"
        self.taken.add(name)
        return name


# --- numbers and index expressions --------------------------------------------------------------------------------


def literal(value: float | int | bool) -> str:
    """A constant as Python text; negative ones in parentheses, so that it stands anywhere."""
    if isinstance(value, float) and isnan(value):
        return 'float("nan")'
    if isinstance(value, float) and isinf(value):
        return 'float("inf")' if value > 0 else 'float("-inf")'
    return f"({value!r})" if isinstance(value, int | float) and value < 0 else repr(value)


@dataclass(frozen=True)
class Spelling:
    """How a language writes what Python's `+ - *` do not cover; each gets the texts of its operands.

    `floordiv` and `mod` are told whether their first operand is known not to be negative.
    """

    floordiv: Callable[[str, str, bool], str]
    ceildiv: Callable[[str, str, bool], str]
    mod: Callable[[str, str, bool], str]
    minimum: Callable[[str, str], str]
    maximum: Callable[[str, str], str]


PYTHON = Spelling(
    floordiv=lambda a, b, _: f"{a} // {b}",
    ceildiv=lambda a, b, _: f"-(-{a} // {b})",
    mod=lambda a, b, _: f"{a} % {b}",
    minimum=lambda a, b: f"min({a}, {b})",
    maximum=lambda a, b: f"max({a}, {b})",
)


_QUOTIENTS = (sympy.floor, sympy.ceiling, sympy.Mod)


def index_text(expression: sympy.Expr | int, name_of: Callable[[str], str], spelling: Spelling, level: int = 0) -> str:
    """An index expression as Python text.  `level` 0: anywhere; 1: a factor; 2: an atom."""
    e = sympy.sympify(expression)

    def sub(part: sympy.Basic, at: int) -> str:
        return index_text(cast(sympy.Expr, part), name_of, spelling, at)

    def wrap(text: str, own: int) -> str:
        return f"({text})" if own < level else text

    if e.is_Integer:
        return wrap(str(int(e)), 2 if int(e) >= 0 else 0)
    if isinstance(e, sympy.Symbol):
        return name_of(e.name)
    if isinstance(e, sympy.Add):
        text = ""
        for t in in_order(e.args):
            negative = t.could_extract_minus_sign()
            part = -t if negative else t
            # A sign in front binds more tightly than // and %.
            piece = sub(part, 2 if negative and not text and isinstance(part, _QUOTIENTS) else 1)
            text = (f"-{piece}" if negative else piece) if not text else f"{text} {'-' if negative else '+'} {piece}"
        return wrap(text, 0)
    if isinstance(e, sympy.Mul):
        if e.could_extract_minus_sign():
            return wrap("-" + sub(-e, 2), 0)
        return wrap(" * ".join(sub(f, 2) for f in in_order(e.args)), 1)
    if isinstance(e, sympy.Pow) and e.exp.is_Integer and int(e.exp) > 0:
        return wrap(" * ".join([sub(e.base, 2)] * int(e.exp)), 1)
    if isinstance(e, sympy.floor | sympy.ceiling):
        top, bottom = cast(sympy.Expr, sympy.together(e.args[0])).as_numer_denom()
        write = spelling.floordiv if isinstance(e, sympy.floor) else spelling.ceildiv
        text = write(sub(top, 2), sub(bottom, 2), bool(top.is_nonnegative))
        return wrap(text, 0 if text.startswith("-") else 1)
    if isinstance(e, sympy.Mod):
        return wrap(spelling.mod(sub(e.args[0], 2), sub(e.args[1], 2), bool(e.args[0].is_nonnegative)), 1)
    if isinstance(e, sympy.Min | sympy.Max):
        write = spelling.minimum if isinstance(e, sympy.Min) else spelling.maximum
        first, *rest = (sub(a, 0) for a in in_order(e.args))
        for other in rest:
            first = write(first, other)
        return first
    raise NotPrintable(f"{e} is not an index expression")


def in_order(terms: Iterable[sympy.Basic]) -> list[sympy.Expr]:
    """Terms or factors in the order in which they are printed: rank starts and sizes by name, numbers last."""
    return sorted(terms, key=lambda t: (t.is_Number, sympy.default_sort_key(t)))  # pyright: ignore


# --- facts about a kernel -----------------------------------------------------------------------------------------


def loads_and_stores(kernel: tile.KernelOp) -> list[tile.LoadOp | tile.StoreOp]:
    return [op for op in kernel.body.walk() if isinstance(op, tile.LoadOp | tile.StoreOp)]


def size_names(kernel: tile.KernelOp) -> tuple[str, ...]:
    """The sizes that a kernel must be told, by name: symbols that are neither ranks nor parameters."""
    found: set[str] = set()
    for rank in kernel.ranks.data:
        found |= symbols.names(rank.extent) | (symbols.names(rank.of) if rank.of is not None else set())
    for argument in kernel.arguments:
        assert isinstance(argument.type, tile.BufferType)
        found |= set(argument.type.strides.ranks)
    for op in kernel.body.walk():
        for attribute in op.properties.values():
            if isinstance(attribute, AccessMap):
                found |= set(attribute.ranks)
        if isinstance(op, tile.LoadOp) and op.checked is not None:
            assert isinstance(op.buffer.type, tile.BufferType)
            found |= set(op.buffer.type.shape.ranks)
    if kernel.share is not None:
        found = (found | symbols.names(kernel.share.steps)) - {kernel.share.ahead}
    return tuple(sorted(found - set(kernel.ranks.names) - set(kernel.parameters)))


MULTIPLES = "multiples"  # a kernel's attribute: sizes that are known to be multiples of a number


def multiples(kernel: tile.KernelOp) -> dict[str, int]:
    known = kernel.attributes.get(MULTIPLES)
    if known is None:
        return {}
    return {k: v.value.data for k, v in known.data.items() if isinstance(v, IntegerAttr)}  # pyright: ignore


def is_multiple(expression: sympy.Expr, of: int, known: Mapping[str, int]) -> bool:
    """Whether `expression` is a multiple of `of` for all sizes that are multiples as `known` says."""
    scaled: Any = expression.subs(
        {symbols.symbol(n): k * symbols.symbol(n) for n, k in known.items()}, simultaneous=True
    )
    quotient = sympy.expand(scaled / of)
    if any(
        isinstance(t, sympy.floor | sympy.ceiling | sympy.Mod | sympy.Min | sympy.Max)
        for t in sympy.preorder_traversal(quotient)
    ):
        return False
    return all(t.as_coeff_Mul()[0].is_Integer for t in sympy.Add.make_args(quotient))


def dot_ranks(kernel: tile.KernelOp) -> set[str]:
    """The ranks of every tile that goes into or comes out of a dot."""
    found: set[str] = set()
    for op in kernel.body.walk():
        if isinstance(op, tile.DotOp):
            for value in (op.lhs, op.rhs, op.result):
                found |= set(tile.tile_type(value).names)
    return found


def whole_lanes(extent: int, in_dot: bool) -> int:
    """How many lanes a block of fixed shape holds a whole rank of this extent in."""
    return max(1 << max(0, extent - 1).bit_length(), tile.LEAST_DOT if in_dot else 1)


def is_even(kernel: tile.KernelOp, name: str) -> bool:
    """Whether blocks of fixed shape hold a rank without lanes beyond its extent, as far as is known."""
    rank = kernel.ranks[name]
    if rank.role == "unit":
        return True
    if rank.role == "band":
        return False
    if rank.tile is not None:
        return is_multiple(rank.extent, kernel.parameters[rank.tile], multiples(kernel))
    return bool(rank.extent.is_Integer) and whole_lanes(int(rank.extent), name in dot_ranks(kernel)) == int(rank.extent)


def band_end(kernel: tile.KernelOp, rank: tile.TileRank, last: bool) -> sympy.Expr:
    """The least element of a band for the present tiles, or its last, over `first_i` and `last_i` of the ranks `i`."""
    table = {}
    for side, sign in kernel.ranks.sides(rank).items():
        if side.role != "unit":
            table[symbols.symbol(side.name)] = symbols.symbol(
                f"{'last' if (sign > 0) == last else 'first'}_{side.name}"
            )
    return symbols.substitute(rank.of or sympy.Integer(0), table)


def programs(kernel: tile.KernelOp) -> sympy.Expr:
    """How many programs the kernel has, over sizes."""
    total = sympy.Integer(1)
    for name in kernel.grid_ranks:
        total = total * tiles_of(kernel, kernel.ranks[name])
    return total


def tiles_of(kernel: tile.KernelOp, rank: tile.TileRank) -> sympy.Expr:
    return rank.extent if rank.tile is None else symbols.ceildiv(rank.extent, kernel.parameters[rank.tile])


def summary(kernel: tile.KernelOp) -> list[str]:
    """What a kernel is, for the head of its file: its ranks, how each is walked, its buffers."""
    lines = []
    for rank in kernel.ranks.data:
        walked = {
            "unit": "one element a program" if rank.name in kernel.grid_ranks else "one element a step of a loop",
            "grid": f"{kernel.parameters.get(rank.tile or '')} elements a program",
            "loop": f"{kernel.parameters.get(rank.tile or '')} elements a step of a loop",
            "whole": "held whole",
            "band": f"what a tile has of {symbols.to_text(rank.of or 0)}",
        }[rank.role]
        if kernel.share is not None and rank.name == kernel.share.part:
            walked = (
                f"pieces of a tile; a program has {kernel.parameters[kernel.share.each]} steps of one or more tiles"
            )
        lines.append(f"    {rank.name} = {symbols.to_text(rank.extent)}: {walked}")
    for words, values in (("reads", kernel.inputs), ("writes", kernel.written)):
        for value in values:
            kind = value.type
            assert isinstance(kind, tile.BufferType)
            layout = f"{kind.shape.text()} {kind.element_type}, strides {kind.strides.text()}"
            lines.append(f"    {words} {value.name_hint or 'buffer'}{layout}")
    return lines


# --- names of values ----------------------------------------------------------------------------------------------


def hint(op: Operation, n: int = 0) -> str:
    """What the n-th result of an operation should be called."""
    result = op.results[n]
    if result.name_hint:
        return result.name_hint
    if isinstance(op, tile.MapOp):
        return op.function.data
    if isinstance(op, tile.ReduceOp):
        return "at" if n else op.combiner.data
    return op.name.removeprefix("tile.")
