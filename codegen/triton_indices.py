"""Ranks, sizes and index expressions in a printed Triton function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import sympy
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, Float64Type, IntegerType, Signedness
from xdsl.ir import Attribute, SSAValue

from ..ir import symbols, tile
from ..ir.launch import LAUNCH_PARAMETERS
from .text import (
    Names,
    NotPrintable,
    band_end,
    dot_ranks,
    index_text,
    is_even,
    size_names,
    tiles_of,
    whole_lanes,
)
from .triton_functions import HELPERS, SPELLING

NARROW = 2**31


def dtype(element: Attribute, prefix: str = "tl.") -> str:
    """Triton's name of an element type; in a signature, floats are fp32 and booleans i1."""
    floats = {Float16Type: 16, Float32Type: 32, Float64Type: 64}
    if isinstance(element, BFloat16Type):
        return "tl.bfloat16" if prefix else "bf16"
    if type(element) in floats:
        return f"tl.float{floats[type(element)]}" if prefix else f"fp{floats[type(element)]}"
    assert isinstance(element, IntegerType)
    bits = element.width.data
    letter = "u" if element.signedness.data == Signedness.UNSIGNED else ""
    if prefix:
        return f"tl.{letter}int{bits}"
    return f"{letter or 'i'}{bits}"


def fits_in_32(bound: sympy.Expr) -> bool:
    """Whether a bound over sizes (each below 2**31) fits in 32 bits."""
    low = high = sympy.Integer(0)
    for t in sympy.Add.make_args(bound):
        number, rest = t.as_coeff_Mul()
        if not number.is_Integer or not (rest == 1 or isinstance(rest, sympy.Symbol)):
            return False
        reach = number * (1 if rest == 1 else NARROW - 1)
        if rest == 1 or reach > 0:
            high += reach
        if rest == 1 or reach < 0:
            low += reach
    return bool(-NARROW <= low and high < NARROW)


@dataclass(frozen=True)
class Value:
    """How a tile is referred to.  number: it is a constant, not yet in a register.  narrow: i64, held in 32 bits."""

    text: str
    names: tuple[str, ...]
    element: Attribute
    number: float | int | bool | None = None
    narrow: bool = False


@dataclass
class Lines:
    """The lines of one block of the program, and which offsets they use."""

    depth: int
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)


class Indices:
    """The names of ranks and sizes in the printed function, and index expressions as text."""

    def __init__(self, kernel: tile.KernelOp, wide: bool):
        self.kernel = kernel
        self.wide = wide
        self.ranks = kernel.ranks
        self.params = kernel.parameters
        self.persistent = self.params.get("persistent", 0) if kernel.grid_ranks and kernel.share is None else 0
        self.sizes = size_names(kernel)
        self.dots = dot_ranks(kernel)
        self.nested = any(
            isinstance(inner, tile.ForOp)
            for loop in kernel.walk()
            if isinstance(loop, tile.ForOp)
            for inner in loop.body.walk()
        )
        self.names = Names()
        self.values: dict[SSAValue, Value] = {}
        self.helpers: set[str] = set()
        self.used: set[str] = set()  # names of offsets, lanes and the like that some line reads
        self.whole: dict[str, tuple[str, int]] = {}
        self.hoisted: dict[str, str] = {}  # text computed before a loop -> its name
        self.before: Lines | None = None  # where such text goes: in front of the outermost loop
        for name in ("tl", "triton", *HELPERS, *self.sizes, *(n for n in self.params)):
            self.names.reserve(name)
        if kernel.share is not None:
            self.names.reserve(kernel.share.ahead)
        for extra in (*LAUNCH_PARAMETERS, "pid"):
            self.names.taken.add(extra)
        self.rank_names = self._rank_names()
        self.pointers = {a: self.names.fresh(f"{a.name_hint or 'buffer'}_ptr") for a in kernel.arguments}

    def _rank_names(self) -> dict[str, str]:
        """The names of what is known of each rank, by the symbol that stands for it: `start_i`, `offs_i`, `lane_i`.

        `inner_i`: the lanes of a tile, those beyond the end of the rank moved to its last element.
        """
        table = {}
        for rank in self.ranks.data:
            if rank.role == "unit":
                table[rank.name] = self.names.fresh(rank.name)
                continue
            for part in ("start", "offs", "lane", "inner", "tiles"):
                table[f"{part}_{rank.name}"] = self.names.fresh(f"{part}_{rank.name}")
        return table

    def constexprs(self) -> dict[str, int]:
        """Tile sizes and the like; `num_warps` and an unused `num_stages` are the launch's business."""
        launch = {"num_warps", "persistent", "descriptors"} | {
            n for n in ("num_stages", "warp_specialize") if n not in self.used
        }
        found = {k: v for k, v in self.params.items() if k not in launch}
        if "num_stages" in self.used:
            found["num_stages"] = self.params.get("num_stages", 3)
        for rank in self.ranks.data:
            if rank.tile and self.params[rank.tile] & (self.params[rank.tile] - 1):
                raise NotPrintable(f"{rank.tile} = {self.params[rank.tile]} is not a power of two")
        return found

    def part(self, part: str, rank: str) -> str:
        self.used.add(f"{part}_{rank}")
        return self.rank_names[f"{part}_{rank}"]

    def lanes(self, rank: tile.TileRank) -> str:
        """How many lanes a tile has along a rank."""
        if rank.tile:
            return rank.tile
        if rank.of is not None:
            return str(tile.band_width(map(self.side_lanes, self.ranks.sides(rank)), True))
        in_dot = rank.name in self.dots
        if rank.extent.is_Integer:
            return str(whole_lanes(int(rank.extent), in_dot))
        name = f"LANES_{rank.name}"
        if name not in self.whole:
            self.names.reserve(name)
            self.whole[name] = (symbols.to_text(rank.extent), 16 if in_dot else 1)
        return name

    def side_lanes(self, rank: tile.TileRank) -> int:
        """How many lanes a tile has along a rank that a band follows from."""
        if rank.role == "unit":
            return 1
        lanes = str(self.params[rank.tile]) if rank.tile else self.lanes(rank)
        if not lanes.isdecimal():
            raise NotPrintable(f"a band along {rank.name}, which is held whole and has no fixed size")
        return int(lanes)

    def band_end(self, rank: tile.TileRank, last: bool, cut: bool) -> sympy.Expr:
        """The element at a band's first lane, or the one at the last that some point of the tile reads, over `start_i`.

        cut: of the tile cut at the extents of its ranks.
        """
        table: dict[sympy.Symbol, sympy.Expr] = {}
        for side in self.ranks.sides(rank):
            first = symbols.symbol(f"start_{side.name}") if side.tile else sympy.Integer(0)
            end = first + self.side_lanes(side)
            if cut and not is_even(self.kernel, side.name):
                end = sympy.Min(end, side.extent)
            table[symbols.symbol(f"first_{side.name}")] = first
            table[symbols.symbol(f"last_{side.name}")] = end - 1
        return symbols.substitute(band_end(self.kernel, rank, last), table)

    def shape(self, names: Sequence[str]) -> str:
        return "[" + ", ".join(self.lanes(self.ranks[n]) for n in names) + "]"

    def at(self, text: str, names: Sequence[str], order: Sequence[str]) -> str:
        """A tile over `names`, ready to be broadcast over `order`."""
        present = [r for r in order if r in names]
        if list(names) != present:
            places = ", ".join(str(names.index(r)) for r in present)
            text = f"tl.trans({text})" if len(names) == 2 else f"tl.permute({text}, ({places}))"
        if not names or len(present) == len(order):
            return text
        return f"{text}[{', '.join(':' if r in names else 'None' for r in order)}]"

    def expression(self, e: sympy.Expr, order: Sequence[str] | None, level: int = 0) -> str:
        """An index expression over whole offsets (`order` given), or over the first elements of tiles."""

        def name_of(symbol: str) -> str:
            if symbol in self.rank_names and symbol not in self.ranks.names:
                part, _, rank = symbol.partition("_")
                text = self.part(part, rank)
                return self.at(text, [rank], order) if part != "start" and order is not None else text
            if symbol not in self.ranks.names:
                return symbol
            if self.ranks[symbol].role == "unit":
                self.used.add(symbol)
                return self.rank_names[symbol]
            if self.ranks[symbol].role == "band":
                raise NotPrintable(f"an index expression over the band {symbol}")
            if order is None:
                return "0" if self.ranks[symbol].role == "whole" else self.part("start", symbol)
            return self.at(self.part("offs", symbol), [symbol], order)

        text = index_text(e, name_of, SPELLING, level)
        if "floordiv(" in text:
            self.helpers.add("floordiv")
        return text

    def bound(self, e: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr] | None:
        """The least and the greatest value of an affine expression, over sizes."""
        names = self.ranks.names
        linear = symbols.affine(e, names)
        if linear is None:
            return None
        low = high = linear[1]
        for r, c in linear[0].items():
            last = c * (self.ranks[r].extent - 1)
            if c.is_nonnegative:
                high = high + last
            elif c.is_nonpositive:
                low = low + last
            else:
                return None
        return sympy.expand(low), sympy.expand(high)

    def fits(self, e: sympy.Expr) -> bool:
        """Whether an index expression stays within 32 bits, given that sizes do."""
        if self.wide:
            return False
        bounds = self.bound(e)
        return bounds is not None and all(fits_in_32(b) for b in bounds)

    def widened(self, e: sympy.Expr, order: Sequence[str]) -> str:
        """An index expression in 64 bits: each rank and size is one."""

        def name_of(symbol: str) -> str:
            return f"tl.cast({self.expression(symbols.symbol(symbol), order)}, tl.int64)"

        text = index_text(e, name_of, SPELLING)
        if "floordiv(" in text:
            self.helpers.add("floordiv")
        return text

    def prologue(self) -> list[str]:
        head = Lines(1)
        if self.kernel.grid_ranks and not self.persistent and self.kernel.share is None:
            head.add(f"pid = tl.program_id(0){'.to(tl.int64)' if self.wide else ''}")
        rest = "pid"
        decode = []
        for n, name in reversed(list(enumerate(self.kernel.grid_ranks))):
            rank = self.ranks[name]
            count = self.count(rank) if n else ""
            own = f"{rest} % {count}" if n else rest
            if rank.role == "unit":
                if name in self.used:
                    decode.append(f"{self.rank_names[name]} = {own}")
            elif self.used & {f"start_{name}", f"offs_{name}", f"inner_{name}"}:
                decode.append(f"{self.part('start', name)} = {own} * {rank.tile}")
            if n and count != "1":
                rest = f"{rest} // {count}"
        for name in self.kernel.grid_ranks:
            if f"tiles_{name}" in self.used:
                rank = self.ranks[name]
                head.add(
                    f"{self.rank_names[f'tiles_{name}']} = tl.cdiv({self.expression(rank.extent, None)}, {rank.tile})"
                )
        for line in decode:
            head.add(line)
        for rank in self.ranks.data:
            used = {p for p in ("offs", "lane", "inner") if f"{p}_{rank.name}" in self.used}
            if rank.role == "whole" and used:
                head.add(f"{self.rank_names[f'offs_{rank.name}']} = tl.arange(0, {self.lanes(rank)})")
            elif rank.role == "band" and used:
                head.add(f"{self.rank_names[f'lane_{rank.name}']} = tl.arange(0, {self.lanes(rank)})")
            elif used:
                if "lane" in used or rank.role == "loop":
                    head.add(f"{self.rank_names[f'lane_{rank.name}']} = tl.arange(0, {rank.tile})")
                if "offs" in used and rank.role == "grid":
                    lane = self.rank_names[f"lane_{rank.name}"] if "lane" in used else f"tl.arange(0, {rank.tile})"
                    head.add(
                        f"{self.rank_names[f'offs_{rank.name}']} = {self.rank_names[f'start_{rank.name}']} + {lane}"
                    )
                if "inner" in used:
                    head.add(self.inner_lanes(rank, "lane" in used))
        return head.lines

    def inner_lanes(self, rank: tile.TileRank, lanes: bool) -> str:
        """The line that computes `inner_i`.  lanes: whether `lane_i` is there."""
        lane = self.rank_names[f"lane_{rank.name}"] if lanes else f"tl.arange(0, {rank.tile})"
        last = f"{self.expression(rank.extent - 1, None, 1)} - {self.rank_names[f'start_{rank.name}']}"
        cast = ".to(tl.int32)" if self.wide else ""
        return f"{self.rank_names[f'inner_{rank.name}']} = tl.minimum({lane}, {last}){cast}"

    def count(self, rank: tile.TileRank) -> str:
        """The text of how many tiles a rank has, as an atom."""
        tiles = tiles_of(self.kernel, rank)
        if tiles.is_Integer or rank.role == "unit":
            return self.expression(tiles, None, 2)
        return self.part("tiles", rank.name)
