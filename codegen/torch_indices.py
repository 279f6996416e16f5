"""Ranks, sizes and index expressions in a printed torch function."""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from ..ir import symbols, tile
from .text import PYTHON, Names, band_end, index_text, is_multiple, multiples, size_names, tiles_of
from .torch_functions import HELPERS, TENSORS
from .torch_layouts import Layout, Scope, layouts_of


class Indices:
    """The names of ranks and sizes in the printed function, and index expressions as text."""

    def __init__(self, kernel: tile.KernelOp):
        self.kernel = kernel
        self.ranks = kernel.ranks
        self.params = kernel.parameters
        self.sizes = size_names(kernel)
        self.names = Names()
        for name in ("torch", "math", "start", "stop", "program", *HELPERS, *self.sizes):
            self.names.reserve(name)
        self.rank_names = {
            f"{part}_{r.name}": self.names.fresh(f"{part}_{r.name}")
            for r in self.ranks.data
            for part in ("start", "stop", "size", "tiles", "index")
            if r.role != "unit"
        } | {r.name: self.names.fresh(r.name) for r in self.ranks.data if r.role == "unit"}
        self.buffers = {a: self.names.fresh(a.name_hint or "buffer") for a in kernel.arguments}
        self.layouts = layouts_of(kernel)
        self.helpers: set[str] = set()
        self.head = Scope(1)
        self.constants: dict[str, str] = {}
        self.used_names: set[str] = set()

    def use(self, part: str, rank: str) -> str:
        """The name of a rank's first element, its end, its number of elements; noted where it is defined."""
        self.used_names.add(f"{part}_{rank}")
        for side in self.ranks.sides(self.ranks[rank]):
            if side.tile:
                self.used_names |= {f"start_{side.name}", f"stop_{side.name}"}
        return self.rank_names[f"{part}_{rank}"]

    def expression(self, e: sympy.Expr | int, level: int = 0) -> str:
        """An index expression over sizes, unit ranks and the first elements of tiles."""

        def name_of(symbol: str) -> str:
            if symbol in self.params:
                return str(self.params[symbol])
            if symbol not in self.ranks.names:
                return symbol
            role = self.ranks[symbol].role
            if role == "unit":
                self.used_names.add(symbol)
                return self.rank_names[symbol]
            return "0" if role == "whole" else self.use("start", symbol)

        return index_text(e, name_of, PYTHON, level)

    def even(self, rank: tile.TileRank) -> bool:
        """Whether every tile of a rank has the same length."""
        if rank.of is not None:
            return all(self.even(side) for side in self.ranks.sides(rank))
        if rank.tile is None:
            return True
        return is_multiple(rank.extent, self.params[rank.tile], multiples(self.kernel)) or self.single(rank)

    def single(self, rank: tile.TileRank) -> bool:
        """Whether a rank is known to be one tile, cut at its extent."""
        return bool(rank.tile and rank.extent.is_Integer and 0 < int(rank.extent) <= self.params[rank.tile])

    def most(self, name: str) -> str:
        """The text of a tile's greatest length along a rank."""
        rank = self.ranks[name]
        if rank.of is not None:
            sides = [self.most(side.name) for side in self.ranks.sides(rank) if side.role != "unit"]
            if all(s.isdecimal() for s in sides):
                return str(tile.band_width([int(s) for s in sides], False))
            return f"{' + '.join(sides)} - {len(sides) - 1}"
        if rank.tile is None:
            return self.expression(rank.extent)
        return str(min(self.params[rank.tile], int(rank.extent)) if rank.extent.is_Integer else self.params[rank.tile])

    def length(self, name: str) -> str:
        """The text of the present tile's length along a rank."""
        return self.most(name) if self.even(self.ranks[name]) else self.use("size", name)

    def span(self, name: str) -> str:
        """The text of the present tile's slice of a rank."""
        rank = self.ranks[name]
        if rank.role == "whole" or self.single(rank):
            return ":"
        return f"{self.use('start', name)}:{self.use('stop', name)}"

    def offsets(self, name: str, order: Layout) -> str:
        """The present tile's indices along a rank, as a tensor with these dimensions."""
        base = self.rank_names[f"index_{name}"]
        if f"index_{name}" not in self.constants:
            self.constants[f"index_{name}"] = base
            self.head.add(f"{base} = torch.arange({self.expression(self.ranks[name].extent)})")
        items = [self.span(name)]
        place = order.index(name)
        items += ["None"] * (len(order) - place - 1)
        return base if items == [":"] else f"{base}[{', '.join(items)}]"

    def tensor_expression(self, e: sympy.Expr, order: Layout) -> str:
        """An index expression over whole offsets; its text is a tensor, or a number when it has no such rank."""

        def name_of(symbol: str) -> str:
            if symbol in order:
                return self.offsets(symbol, order)
            return self.expression(symbols.symbol(symbol))

        spelling = TENSORS if symbols.names(e) & {n for n in order if n} else PYTHON
        return index_text(e, name_of, spelling)

    def decode(self) -> list[str]:
        lines, rest = [], "program"
        for n, name in reversed(list(enumerate(self.kernel.grid_ranks))):
            rank = self.ranks[name]
            count = self.count(rank) if n else ""
            own = f"{rest} % {count}" if n else rest
            if count == "1":
                own = "0"
            if rank.role == "unit":
                if name in self.used_names:
                    lines.append(f"        {self.rank_names[name]} = {own}")
            elif any(f"{part}_{name}" in self.used_names for part in ("start", "stop", "size")):
                lines += self.bounds(rank, f"{own} * {self.params[rank.tile or '']}", 2)
            if count != "1":
                rest = f"{rest} // {count}"
        return lines + self.bands((), 2)

    def count(self, rank: tile.TileRank) -> str:
        tiles = tiles_of(self.kernel, rank)
        if tiles.is_Integer or rank.role == "unit":
            return self.expression(tiles, 2)
        self.used_names.add(f"tiles_{rank.name}")
        return self.rank_names[f"tiles_{rank.name}"]

    def bands(self, loops: Sequence[str | None], depth: int) -> list[str]:
        """The lines that say where the bands are that are known in the last of these loops, and were not before."""
        lines = []
        for rank in self.ranks.data:
            around = {side.name for side in self.ranks.sides(rank) if side.role == "loop"}
            known = around <= set(loops) and (loops[-1] in around if loops else True)
            if rank.of is None or not known or f"start_{rank.name}" not in self.used_names:
                continue
            start, stop, size = (self.rank_names[f"{p}_{rank.name}"] for p in ("start", "stop", "size"))
            lines.append(f"{'    ' * depth}{start} = {self.expression(self.band_end(rank, False))}")
            lines.append(f"{'    ' * depth}{stop} = {self.expression(self.band_end(rank, True) + 1)}")
            if f"size_{rank.name}" in self.used_names:
                lines.append(f"{'    ' * depth}{size} = {stop} - {start}")
        return lines

    def band_end(self, rank: tile.TileRank, last: bool) -> sympy.Expr:
        """The least element of a band in the present tile, or its last, over names of the printed function."""
        table: dict[sympy.Symbol, sympy.Expr] = {}
        for side in self.ranks.sides(rank):
            first, end = sympy.Integer(0), side.extent
            if side.tile:
                first, end = (symbols.symbol(self.rank_names[f"{part}_{side.name}"]) for part in ("start", "stop"))
            table[symbols.symbol(f"first_{side.name}")] = first
            table[symbols.symbol(f"last_{side.name}")] = end - 1
        return symbols.substitute(band_end(self.kernel, rank, last), table)

    def bounds(self, rank: tile.TileRank, first: str | None, depth: int) -> list[str]:
        """The lines that say where a tile begins (`first`, unless a loop said it), where it ends, how long it is."""
        start, stop, size = (self.rank_names[f"{p}_{rank.name}"] for p in ("start", "stop", "size"))
        length, indent = self.params[rank.tile or ""], "    " * depth
        lines = [f"{indent}{start} = {first}"] if first is not None else []
        needs_size = f"size_{rank.name}" in self.used_names
        if f"stop_{rank.name}" in self.used_names or needs_size:
            ends = f"{start} + {length}"
            if not is_multiple(rank.extent, length, multiples(self.kernel)):
                ends = f"min({ends}, {self.expression(rank.extent)})"
            lines.append(f"{indent}{stop} = {ends}")
        if needs_size:
            lines.append(f"{indent}{size} = {stop} - {start}")
        return lines
