"""What a program of a tile kernel holds at once: tiles that loops carry, and tiles that are computed in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from xdsl.dialects.builtin import i1
from xdsl.ir import Block, Operation, SSAValue

from ..ir import tile
from ..ir.attributes import element_bits
from .kernel_listing import Listing, product
from .rate_classes import FULL_RATE, STEPWISE, TRANSCENDENTAL


@dataclass(frozen=True)
class Nested:
    """What a program holds around a dot of a loop inside another loop, to work on the dot's result.

    held_bytes: tiles.  column_elements: of vectors that are spread over the rows of the result, and of a row of what is
    made beside it (`_made_beside`).  points: of the result.
    """

    held_bytes: int
    column_elements: int
    points: int


@dataclass(frozen=True)
class Held:
    """Bytes of the tiles of one program, by what holds them.

    carried_bytes: by loops.  temporary_bytes: of the largest tile that is computed.  held_bytes: the most at any time in a
    loop, or around a dot.  behind_bytes: the most outside of loops.
    nested: of loops inside loops.  kept_bytes: of tiles that must outlive a reduction, in a kernel without loops and dots.
    column_elements: of vectors along the columns of operands that are made of such vectors, where dots only add up.
    """

    carried_bytes: int
    temporary_bytes: int
    held_bytes: int
    behind_bytes: int
    nested: Nested | None
    kept_bytes: int | None
    column_elements: int


class HeldTiles:
    """The tiles of a kernel by the loops that hold them, found once, so that many tile sizes can be counted quickly.

    A key of loops is the ranks of the loops around, the outermost first.
    """

    def __init__(self, kernel: tile.KernelOp, listing: Listing):
        self.listing = listing
        self.columns: dict[tuple[str, ...], dict[SSAValue, str]] = {}  # by loops: vectors along a tile's columns
        self.outside: dict[tuple[str, ...], list[tuple[str, ...]]] = {}  # tiles from before that are read there
        self.waiting: dict[tuple[str, ...], dict[tuple[str, ...], int]] = {}  # see `_waiting`
        self.beside: dict[tuple[str, ...], set[tuple[str, ...]]] = {}  # see `_made_beside`
        self._look(kernel.body.block, ())
        straight = not any(e.loops or e.kind == "dot" for e in listing.entries)
        self.outliving = _outliving(kernel.body.block) if straight else None
        self.carried: dict[tuple[str, ...], list[tuple[str, ...]]] = {}  # tiles that they carry,
        self.computed: dict[tuple[str, ...], dict[tuple[str, ...], None]] = {(): {}}  # and that are computed in them
        for e in listing.entries:
            if e.kind == "carry":
                if not e.continues:
                    self.carried.setdefault(e.loops, []).append(e.ranks)
                continue
            tiles = self.computed.setdefault(e.loops, {})
            if e.kind not in ("load", "store", "fill") and not e.in_place:
                tiles.setdefault(e.swept[-1] if e.kind != "reduce" else e.ranks)
        dots = [e for e in listing.entries if e.kind == "dot"]
        self.multiplied = {e.loops for e in dots}
        self.adding = {e.loops for e in dots if e.in_place and e.made} - {e.loops for e in dots if not e.in_place}

    def _look(self, block: Block, loops: tuple[str, ...]) -> None:
        for op in block.ops:
            match op:
                case tile.MapOp():
                    names = tile.tile_type(op.result).names
                    for v in op.operands:
                        if len(names) > 1 and tile.tile_type(v).names == names[-1:]:
                            self.columns.setdefault(loops, {})[v] = names[-1]
                case tile.ForOp():
                    at = (*loops, op.rank.data)
                    self.outside[at] = _read_from_outside(op)
                    self.waiting[at] = _waiting(op.body.block)
                    self.beside[at] = _made_beside(op.body.block)
                    self._look(op.body.block, at)
                case tile.IfOp():
                    self._look(op.body.block, loops)

    def at(self, tile_of: Mapping[str, int], once: Collection[str] = ()) -> Held:
        """What is held with tiles of these sizes: in each loop, what the loops around it carry and what it computes.

        In an innermost loop two tiles of the largest kind are alive, or all that wait for a reduction of such a tile;
        outside of all loops, the result of a loop is worked on in place, an element at a time, and narrowed in the end;
        `Nested` is what lies between.  once: ranks whose loops take one step: what is in them is straight on.
        (A product of 128 x 256 in 8 warps, compiled: 128 registers of each thread for it,
        163 to 191 in all with scales of rows and columns behind it; 255, and spills, with another tile of that size, or
        with erf.)
        """
        kept_bytes: int | None = None
        nested: Nested | None = None
        temporary_bytes = held_bytes = behind_bytes = 0
        if self.outliving is not None:
            padded = {r: 1 << max(0, n - 1).bit_length() for r, n in tile_of.items()}
            tiles = [[width * product(padded, ranks) for ranks, width in at] for at in self.outliving]
            kept_bytes = max(map(sum, tiles), default=0)
        computed, state = self.computed, self.carried
        innermost, multiplied = self.listing.innermost, self.multiplied
        if once:
            computed, state = _joined(computed, once), {k: v for k, v in state.items() if k[-1] not in once}
            innermost = {_outside(at, once) for at in innermost}
            multiplied = {_outside(at, once) for at in multiplied}
        carried = {at: sum(4 * product(tile_of, r) for r in tiles) for at, tiles in state.items()}
        carried = {_outside(at, once): size for at, size in carried.items()}
        for at, made in computed.items():
            updated = state.get(at, []) if at in innermost and at in multiplied else []
            tiles = [r for r in made if r not in updated]  # what is carried is rescaled where it is
            largest = max(tiles, key=lambda r: product(tile_of, r), default=())
            size = 4 * product(tile_of, largest) if tiles else 0
            held = sum(carried.get(at[:n], 0) for n in range(1, len(at) + 1))
            temporary_bytes = max(temporary_bytes, size)
            if at and at not in innermost:
                columns = sum(tile_of[r] for r in self.columns.get(at, {}).values())
                columns += tile_of[largest[-1]] if largest in self.beside.get(at, ()) else 0
                tiles_held = max(1, self.waiting.get(at, {}).get(largest, 1))
                held += size * tiles_held  # in place; narrowed where it is an operand
                held += size // 2 if at in multiplied else 0
                found = Nested(held, columns, size // 4)
                nested = max(nested or found, found, key=lambda n: n.held_bytes + 32 * n.column_elements)
            elif at:
                held += self._spread_bytes(at, made, tile_of) if not self.multiplied else 0
                tiles_held = max(2, self.waiting.get(at, {}).get(largest, 2))
                held_bytes = max(held_bytes, held + tiles_held * size)
            else:
                behind_bytes = held + int(size * self._worked_on(largest, once))
                held_bytes = max(held_bytes, behind_bytes if at in multiplied else 0)
        columns = [sum(tile_of[r] for r in self.columns.get(at, {}).values()) for at in self.adding]
        return Held(
            sum(carried.values()),
            temporary_bytes,
            held_bytes,
            behind_bytes,
            nested,
            kept_bytes,
            max(columns, default=0),
        )

    def _worked_on(self, largest: tuple[str, ...], once: Collection[str]) -> float:
        """How much of the largest tile's size is held while it is worked on outside of all loops.

        A quarter more, where a loop carries it and nothing but short arithmetic with vectors is done to it; half more, where
        it is reduced (computed: the exponentials of a row go in place, where no loop around waits); three quarters, where
        another tile over its ranks is loaded or multiplied, or any function computed that takes many steps.
        """
        if not any(set(largest) == set(r) for tiles in self.carried.values() for r in tiles):
            return 1.75
        outside = [e for e in self.listing.entries if not _outside(e.loops, once) and e.kind != "store"]
        like = {e.kind for e in outside if len(set(largest) & set(e.ranks)) > 1}
        if "load" in like or any(e.kind == "dot" or e.function in STEPWISE for e in outside):
            return 1.75
        return 1.5 if "reduce" in like else 1.25

    def _spread_bytes(self, at: tuple[str, ...], made: Collection[tuple[str, ...]], tile_of: Mapping[str, int]) -> int:
        """What small tiles take in the loop `at` beyond their size, where no dot decides how tiles lie in registers.

        There a thread has a vector of neighbours from each of several rows, so that many threads hold each row's values: the
        carried ones as they were and as they become, the others once.
        """
        large = max(made, key=lambda r: product(tile_of, r), default=())
        vector = min(
            (16 // e.width for e in self.listing.transfers if e.kind == "load" and e.loops == at and e.swept), default=1
        )
        total = 0
        for ranks, times in [*((r, 2) for r in self.carried.get(at, [])), *((r, 1) for r in self.outside.get(at, []))]:
            missing = [r for r in large if r not in ranks]
            spread = product(tile_of, tuple(missing)) // vector if missing and ranks else 1
            total += times * 4 * product(tile_of, ranks) * (max(1, spread) - 1)
        return total


def _outside(loops: tuple[str, ...], once: Collection[str]) -> tuple[str, ...]:
    """The loops that are left where some take one step."""
    return tuple(r for r in loops if r not in once)


def _joined(
    computed: Mapping[tuple[str, ...], dict[tuple[str, ...], None]], once: Collection[str]
) -> dict[tuple[str, ...], dict[tuple[str, ...], None]]:
    found: dict[tuple[str, ...], dict[tuple[str, ...], None]] = {}
    for at, tiles in computed.items():
        found[_outside(at, once)] = found.get(_outside(at, once), {}) | tiles
    return found


def _waiting(block: Block) -> dict[tuple[str, ...], int]:
    """How many tiles of a loop's body are held, at most, until a tile like them is reduced: what follows reads them.

    By their ranks; flags are not counted.
    """
    most: dict[tuple[str, ...], int] = {}
    for reduction in block.ops:
        if not isinstance(reduction, tile.ReduceOp):
            continue
        names = tile.tile_type(reduction.value).names
        after: set[Operation] = {reduction}  # what waits for it
        held: set[SSAValue] = set()
        op = reduction.next_op
        while op is not None:
            if any(v.owner in after for o in op.walk() for v in o.operands):
                after.add(op)
            op = op.next_op
        for op in after - {reduction}:
            for v in op.operands:
                like = isinstance(v.type, tile.TileType) and v.type.names == names and v.type.element_type != i1
                if like and v.owner not in after and isinstance(v.owner, Operation) and v.owner.parent is block:
                    held.add(v)
        most[names] = max(most.get(names, 0), len(held))
    return most


def _made_beside(block: Block) -> set[tuple[str, ...]]:
    """Ranks of the tiles that a block reduces transcendental functions of, and reads once more after that.

    Such a function is not computed in place: a thread holds a row of its results until their sum.  (A product of 128 x 256
    in 8 warps for sm_90, compared with indices of its columns: 250 registers with exp summed, 249 with the greatest and a
    picked element; 255 and 216 B spilled with exp summed before the pick.)
    """
    position = {op: n for n, op in enumerate(block.ops)}
    found = set()
    for reduction, n in position.items():
        if not isinstance(reduction, tile.ReduceOp):
            continue
        names = tile.tile_type(reduction.value).names
        todo, seen = [(reduction.value, False)], set()
        while todo:
            v, slow = todo.pop()
            if (v, slow) in seen or v.owner not in position or tile.tile_type(v).names != names:
                continue
            seen.add((v, slow))
            if slow and any(position.get(use.operation, -1) > n for use in v.uses):
                found.add(names)
            if isinstance(v.owner, tile.MapOp | tile.CastOp | tile.PadOp):
                slow |= isinstance(v.owner, tile.MapOp) and v.owner.function.data in TRANSCENDENTAL
                todo += [(x, slow) for x in v.owner.operands if isinstance(x.type, tile.TileType)]
    return found


def _outliving(block: Block) -> list[list[tuple[tuple[str, ...], int]]]:
    """For each reduction of a block: the ranks and bytes an element of the tiles from before it that are read after it.

    All threads of a program meet in a reduction, so these are in registers as a whole; the rest is worked on an element
    at a time.  What takes one step to make of such tiles and of rows is made again.
    """
    position = {op: n for n, op in enumerate(block.ops)}
    last: dict[SSAValue, int] = {}
    for op, n in position.items():
        last |= {_unpadded(v): n for v in op.operands if isinstance(v.type, tile.TileType)}
    found = []
    for op, n in position.items():
        if isinstance(op, tile.ReduceOp):
            live = {v for v, end in last.items() if position[v.owner] <= n < end}  # pyright: ignore
            kept = [tile.tile_type(v) for v in live if not _made_again(v, live)]
            found.append([(t.names, max(1, element_bits(t.element_type) // 8)) for t in kept if t.names])
    return found


def _made_again(v: SSAValue, live: Collection[SSAValue]) -> bool:
    """Whether an element of a tile comes in one step from those of others that are held, and from rows of fewer ranks."""
    op, names = v.owner, tile.tile_type(v).names
    if not isinstance(op, tile.MapOp) or op.function.data not in FULL_RATE:
        return False
    from_tiles = [_unpadded(x) for x in op.operands if tile.tile_type(x).names == names]
    return bool(from_tiles) and all(x in live for x in from_tiles)


def _unpadded(v: SSAValue) -> SSAValue:
    return _unpadded(v.owner.value) if isinstance(v.owner, tile.PadOp) else v


def _read_from_outside(loop: tile.ForOp) -> list[tuple[str, ...]]:
    """The ranks of the tiles that are computed before a loop and read in it."""
    body = loop.body.block
    inside = {r for op in body.walk() for r in op.results} | {
        a for op in body.walk() for g in op.regions for b in g.blocks for a in b.args
    }
    read = {
        v: None
        for op in body.walk()
        for v in op.operands
        if isinstance(v.type, tile.TileType) and v not in inside and v not in body.args
    }
    return [tile.tile_type(v).names for v in read]
