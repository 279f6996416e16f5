"""The walks that make sense for a kernel: roles of its ranks, their order in tiles and grid, sizes of its tiles.

Roles come from how contractions use a rank, never from what the operations are called:

    batch ranks of every contraction          one element a program (unit)
    the streamed rank                         a loop, or whole where the row fits
    other reduced ranks                       whole where they fit, else a loop inside
    batch ranks of some contractions          one element a step of a loop, on a GPU: its matrix units take no batches
    output ranks that some contraction lacks  whole: a grid over them would repeat that contraction; the grid where
                                              nothing else fits
    other output ranks                        the grid, tiled
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import sympy

from ..ir import symbols, tile
from ..ir.cascade import EinsumOp, KernelOp, OnlineOp
from ..ir.target import Target
from .bands import band_ranks
from .contraction import Contraction, contractions
from .walk import Parts, Shares

EACH = "each"  # the role of a rank that a loop walks element by element: in tables a unit rank, without the grid
INNER = 64  # longest step of a loop inside a loop: as wide as shared memory is swizzled; more only holds addresses
AROUND = 256  # of the loop around it, which has no operands to keep
LONG_ROW = 8192  # elements that eight warps hold with registers to spare
# A side of a contraction with fewer is not yet worth a tile of its own: further ranks go into the same tile.
FEW_ROWS = 64
LARGE = 4096  # stands for a size that is not known when it is needed for a decision
FARTHER = 16  # times its likely value: how large a size that is not fixed may well become


class KernelShape:
    """What the choice of a walk depends on: ranks, contractions, extents, target."""

    def __init__(self, kernel: KernelOp, target: Target, sizes: dict[str, int], parts: tuple[Parts, int] | None = None):
        """parts: a streamed rank that is cut, and into how many parts (at most, for `Shares`)."""
        self.kernel, self.target = kernel, target
        self.parts = parts[0] if parts is not None else None
        self.counts = {parts[0].count: parts[1]} if parts is not None else {}
        self.extents: dict[str, sympy.Expr] = {}
        for op in kernel.body.block.ops:
            if isinstance(op, EinsumOp | OnlineOp):
                for name, extent in op.extents.items():
                    self.extents.setdefault(name, extent)
        if self.parts is not None:
            self.extents[self.parts.part] = symbols.symbol(self.parts.count)
        self.sizes = {**sizes, **self.counts}
        for e in self.extents.values():
            for n in symbols.names(e):
                self.sizes.setdefault(n, LARGE)
        for arg in kernel.body.block.args:
            for e in arg.type.dims:  # pyright: ignore
                for n in symbols.names(e):
                    self.sizes.setdefault(n, LARGE)
        self.far = self._far(sizes)
        self.dots: list[Contraction] = contractions(kernel)
        self.bands = band_ranks(kernel)
        # A matrix unit has no use for a single row; a library's product on a CPU reads the matrix once for it.
        self.vectors = target.kind == "cpu" and not self.dots
        if self.vectors:
            self.dots = contractions(kernel, vectors=True)
        self.out: list[str] = list(dict.fromkeys(r for v in kernel.returned for r in v.owner.out_ranks(v.index)))  # pyright: ignore
        self.reduced: set[str] = set()
        for op in kernel.body.block.ops:
            if isinstance(op, EinsumOp):
                self.reduced |= set(op.reduced)
            elif isinstance(op, OnlineOp):
                self.reduced.add(op.over.data)
        self.stream = kernel.streamed
        self.cpu = target.kind == "cpu"
        self.whole_limit = 1024 if self.cpu else 256

    def _far(self, likely: Mapping[str, int]) -> dict[str, int] | None:
        """Sizes of a call that tiles are chosen for as well, where a CPU may get larger ones than are likely; else None.

        There a tile ends where its rank ends, so that one that is long for the likely size costs no more than what there
        is.  On a GPU it is masked, and computed in full.
        """
        dynamic = {n for e in self.extents.values() for n in symbols.names(e)} & likely.keys()
        if self.target.kind != "cpu" or not dynamic:
            return None
        return self.sizes | {n: FARTHER * likely[n] for n in dynamic}

    def value(self, rank: str) -> int:
        return symbols.evaluate(self.extents[rank], self.sizes)

    def unevenness(self, params: Mapping[str, int], sizes: Mapping[str, int]) -> float:
        """How much longer the longest part takes than a part of equal share."""
        if self.parts is None or isinstance(self.parts, Shares):
            return 1.0
        extent, count = symbols.evaluate(self.extents[self.parts.rank], sizes), params[self.parts.count]
        step = params[parameter(self.parts.rank)]
        return -(-extent // (step * count)) * step * count / max(1, extent)

    def static(self, rank: str) -> bool:
        return self.extents[rank].is_Integer is True

    def may_be_whole(self, rank: str, limit: int | None = None) -> bool:
        return self.static(rank) and self.value(rank) <= (limit or self.whole_limit)

    def _longest_row(self) -> int:
        """Elements of a row that a program of a GPU may hold: in shared memory, or, with many warps, in half the registers."""
        return max(self.target.sram_bytes // 16, 0 if self.dots else self.target.registers // 2)

    def variants(self, last_resort: bool = False) -> Iterator[dict[str, str]]:
        """Assignments of roles to ranks that make sense, a few; or those that repeat work, to hold less at once."""
        fixed: dict[str, str] = {}
        choices: dict[str, list[str]] = {}
        for rank in self.extents:
            options = self._options(rank, last_resort)
            if len(options) == 1:
                fixed[rank] = options[0]
            else:
                choices[rank] = options
        for combination in itertools.islice(itertools.product(*choices.values()), 12):
            yield {r: {**fixed, **dict(zip(choices, combination, strict=True))}[r] for r in self.extents}

    def _options(self, rank: str, last_resort: bool) -> list[str]:
        if rank in self.reduced or (rank == self.stream):
            limit = self._longest_row() if rank not in {d.over for d in self.dots} and not self.cpu else None
            whole = self.may_be_whole(rank, limit)
            if self.parts is not None and rank == self.parts.rank:
                return ["loop"]
            if whole and rank != self.stream and not last_resort:
                return ["whole"]
            loop = EACH if self._one_by_one(rank) else "loop"
            return [loop, "whole"] if whole else [loop]
        if rank in self.bands:
            return ["band"]
        if self.parts is not None and rank == self.parts.part:
            return ["unit"]
        if self._batch(rank):  # on a CPU, the innermost batch rank is folded: a few dots in one call
            return ["grid"] if self.cpu and rank == [r for r in self.out if self._batch(r)][-1] else ["unit"]
        lacking = [d for d in self.dots if rank not in d.ranks]
        carrying = [d for d in self.dots if rank in d.ranks]
        if lacking and carrying:
            if self.may_be_whole(rank):
                return ["whole", "grid"] if last_resort else ["whole"]
            return ["grid"]
        return ["grid"] if rank in self._tiled() else ["unit"]

    def _one_by_one(self, rank: str) -> bool:
        """Whether a reduced rank is walked element by element: a batch of some product, of which no element is chosen."""
        choosing = any(
            isinstance(op, EinsumOp) and rank in op.reduced and any("arg" in c for c in op.combiner_names)
            for op in self.kernel.body.block.ops
        )
        batch = any(rank in d.batch for d in self.dots) and all(rank != d.over for d in self.dots)
        return not self.cpu and batch and not choosing

    def _batch(self, rank: str) -> bool:
        """A rank that both sides of every contraction that has it carry."""
        dots = [d for d in self.dots if not d.ranks & self.bands.keys()] or self.dots
        having = [d for d in dots if rank in d.ranks]
        return bool(having) and all(rank in d.batch for d in having) and not any(rank not in d.ranks for d in dots)

    def _tiled(self) -> set[str]:
        """Which output ranks get tiles: the largest on each side of the contractions; without any, the innermost."""
        candidates = [r for r in self.out if r not in self.reduced and not self._batch(r)]
        if not self.dots:
            streams = bool(self.reduced and self.stream)  # else what is reduced is held whole: a merge
            return set(candidates[-1:]) if streams else set(candidates[-2:])
        tiled: set[str] = set()
        for d in self.dots:
            for side in (d.lhs - d.rhs, d.rhs - d.lhs):
                mine = [r for r in candidates if r in side]
                walked = side & self.reduced  # the streamed rank gives this side its tile
                if mine and (self.cpu or not walked):
                    tiled.update(self._together(mine))
        return tiled

    def _together(self, ranks: Sequence[str]) -> list[str]:
        """Which free ranks of one side share its tile, the largest first: further ones as long as the tile has few rows.

        What the other side has is loaded once for all of them: keys and values once for a group of heads and their queries.
        """
        first, *rest = sorted(ranks, key=lambda r: (-self.value(r), ranks.index(r)))
        found, rows = [first], self.value(first)
        for r in rest:
            if not self.static(r) or rows * self.value(r) > FEW_ROWS:
                break
            found.append(r)
            rows *= self.value(r)
        return found

    # --- tables --------------------------------------------------------------------------------------------------

    def table(self, roles: Mapping[str, str]) -> tile.TileRanks:
        """Ranks in the order in which tiles have them: what is multiplied apart, then for each contraction rows and columns."""
        order: dict[str, None] = dict.fromkeys(r for r in self.out if roles[r] == "unit" or self._batch(r))
        for (
            d
        ) in self.dots:  # one product for each of them, and a sum over them behind it: heads of an output projection
            order.update(dict.fromkeys(r for r in self.extents if r in d.batch))
        rank_at = {r: n for n, r in enumerate(dict.fromkeys([*self.out, *self.extents]))}
        last = dict.fromkeys((r for r in roles if roles[r] == "unit" and not self.cpu), len(rank_at))
        for d in self.dots:  # units are no part of a tile: they do not make a side the rows of a matrix unit
            sides = [d.lhs - d.rhs, d.rhs - d.lhs]
            sides.sort(key=lambda side: min((rank_at[r] + last.get(r, 0) for r in side), default=0))
            for side in sides:
                order.update(dict.fromkeys(r for r in [*self.out, *self.extents] if r in side))
        order.update(dict.fromkeys([*self.out, *self.extents]))
        return tile.TileRanks(
            tuple(
                tile.TileRank(
                    r,
                    self.extents[r],
                    "unit" if roles[r] == EACH else roles[r],
                    parameter(r) if roles[r] in ("grid", "loop") else None,
                    self.bands.get(r),
                )
                for r in order
                if r in self.extents
            )
        )

    def grid(self, roles: Mapping[str, str]) -> tuple[str, ...]:
        """Batch ranks outermost; then the ranks with more programs outside, so that the wider operand is reused inside."""
        ranks = [r for r in self.table(roles).names if roles[r] in ("unit", "grid")]
        outer = [r for r in ranks if self._batch(r)]
        if self.parts is not None:  # programs that walk the same part run at the same time, and share it in the cache
            outer.append(self.parts.part)
        inner = sorted((r for r in ranks if r not in outer), key=lambda r: -self.value(r))
        if isinstance(self.parts, Shares):  # tile by tile
            outer.remove(self.parts.part)
            inner.append(self.parts.part)
        return (*outer, *inner)

    def parameters(self, roles: Mapping[str, str]) -> list[str]:
        return [parameter(r) for r in roles if roles[r] in ("grid", "loop")]

    def choices(self, roles: Mapping[str, str]) -> dict[str, list[int]]:
        """The values that each parameter may take."""
        loops = {r for r, role in roles.items() if role in ("loop", EACH)}
        inner = {d.over for d in self.dots if d.over in loops and loops & d.ranks - {d.over}}
        around = loops & {r for d in self.dots if d.over in inner for r in d.ranks} - inner
        longest = {**dict.fromkeys(inner, INNER), **dict.fromkeys(around, AROUND)}
        found = {
            parameter(r): self._sizes_of(r, role, longest.get(r, 128))
            for r, role in roles.items()
            if role in ("grid", "loop")
        }
        found |= self._shared_sizes([r for r, role in roles.items() if role == "grid" and not self._batch(r)])
        return found | (
            {"share_operations": [0, 1]} if self.cpu else {"num_warps": self._warps(roles), "num_stages": [2, 3]}
        )

    def _warps(self, roles: Mapping[str, str]) -> list[int]:
        """More than eight only where a row is held that leaves fewer threads no registers."""
        row = max((self.value(r) for r, role in roles.items() if role == "whole"), default=0)
        alone = not self.dots and "loop" not in roles.values() and row > LONG_ROW
        return [
            w for w in ((4, 8, 16, 32) if alone else (4, 8)) if w * self.target.warp_size <= self.target.max_threads
        ]

    def _shared_sizes(self, grid: Sequence[str]) -> dict[str, list[int]]:
        """Sizes of the ranks that share a tile: all of each, and at least what fills a dot."""
        found: dict[str, list[int]] = {}
        for d in self.dots:
            for side in (d.lhs - d.rhs, d.rhs - d.lhs):
                first, *rest = self._together(mine) if (mine := [r for r in grid if r in side]) else [""]
                if not rest:
                    continue
                whole = {r: self.value(r) if self.cpu else 1 << (self.value(r) - 1).bit_length() for r in rest}
                found |= {parameter(r): [n] for r, n in whole.items()}
                if not self.cpu:
                    least = max(1, 16 // math.prod(whole.values()))
                    found[parameter(first)] = [max(least, 1 << (self.value(first) - 1).bit_length())]
        return found

    def _sizes_of(self, rank: str, role: str, longest: int) -> list[int]:
        """longest: step of a loop beside contractions on a GPU."""
        extent = max(1, symbols.evaluate(self.extents[rank], self.far or self.sizes))
        if self.cpu and self._batch(rank):
            return sorted({s for s in (1, 2, 4, 8, extent) if s <= min(extent, 16)})
        if self.cpu:
            steps = [64, 128, 256, 512, 1024, 2048] if role == "loop" else [16, 32, 64, 128, 256, 512, 1024]
            if self.vectors and role == "loop":  # a matrix that is read once need not stay in cache
                steps += [4096, 8192, 16384]
            kept = [s for s in steps if s < extent]
            return [*kept, extent] if extent <= steps[-1] and self.static(rank) else kept or [steps[0]]
        low = 16 if any(rank in d.ranks for d in self.dots) else 1
        steps = [s for s in (1, 2, 4, 8, 16, 32, 64, 128, 256) if s >= low]
        ceiling = max(low, 1 << (extent - 1).bit_length())
        if role == "loop":
            steps = [s for s in (16, 32, 64, 128, 256, 512, 1024) if s <= (longest if self.dots else 1024)]
        return [s for s in steps if s <= ceiling] or [low]


def parameter(rank: str) -> str:
    """The parameter that holds the size of the tiles of a rank."""
    return f"B{rank.upper()}"
