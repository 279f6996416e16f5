"""Lowering of one cascade kernel to a tile kernel, once it is decided how each rank is walked.

Everything is computed where it is first possible and no deeper: a value lives in the innermost loop whose rank it
carries, so that what does not depend on a loop leaves it by construction.  Reductions over a streamed rank that may run
at the same time share one loop.  Where indices alone say that contributions are neutral (`neutral.py`), nothing is
visited; where they say that a mask is open, a loop of its own goes without it.  Nothing here chooses; `walk.py` has chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from xdsl.dialects.builtin import DictionaryAttr, StringAttr, i1, i64
from xdsl.ir import Block, BlockArgument, Region, SSAValue

from ..ir import scalar, symbols, tile
from ..ir.attributes import AccessMap, compute_type
from ..ir.cascade import EinsumOp, KernelOp, OnlineOp
from .algebra.forms import Refused
from .closed_tiles import NEVER, opening_test, region_of, write
from .closed_tiles import to_text as test_text
from .index_predicates import TRUE, Equals, Predicate, Segment, about, every, of_indices, some, to_text
from .levels import ended_before, levels, reduced_ranks
from .neutral import Neutral
from .online_steps import OnlineSteps
from .scalar_tiles import Env, ScalarTiles
from .small_values import is_small
from .tile_builder import Scope, Stop, TileBuilder
from .tile_folds import TileFolds, is_arg
from .walk import Walk

VISITED = "visited"  # a tile kernel's attribute: of the ranks that loops walk in part, which part that is
WITHIN = "within"  # of the ranks whose bounds are loaded: what holds of some element there
SKIPPED = "skipped"  # of the ranks of whose tiles data rules some out: what is asked of a tile before it is loaded


def emit_tiles(
    kernel: KernelOp,
    walk: Walk,
    inputs: Sequence[tile.BufferType],
    outputs: Sequence[tuple[tile.BufferType, AccessMap]],
) -> tile.KernelOp | Refused:
    """The tile kernel of `kernel`.

    inputs: the layout of each kernel argument.  outputs: the layout of each returned value, and the access at which it is
    stored, over the value's kernel ranks (so that a result can be written transposed).
    """
    try:
        return _Emitter(kernel, walk, inputs, outputs).run()
    except Stop as stop:
        return Refused(str(stop))


class _Emitter:
    def __init__(self, kernel, walk, inputs, outputs):
        self.kernel: KernelOp = kernel
        self.walk: Walk = walk
        self.table = walk.table
        self.tiles = TileBuilder(walk, [*inputs, *(b for b, _ in outputs)])
        self.neutral = Neutral(kernel, data=walk.skip != NEVER)
        self.scalars = ScalarTiles(self.tiles, self.neutral)
        self.folds = TileFolds(walk, self.tiles, self.scalars)
        self.online = OnlineSteps(walk, self.tiles, self.scalars, self.folds)
        self.done: dict[SSAValue, SSAValue] = {}  # cascade value -> tile (reductions only)
        self.outputs = outputs
        arguments = list(self.tiles.top.block.args)
        self.buffer: dict[SSAValue, SSAValue] = dict(zip(kernel.body.block.args, arguments, strict=False))
        self.targets = arguments[len(inputs) :]
        for inner, outer in self.buffer.items():
            outer.name_hint = inner.name_hint
        self.levels = levels(kernel)
        # Outputs to store, by the loop rank that they carry and their level.
        self.along: dict[tuple[str, int], list[int]] = {}
        self.stored: set[int] = set()
        self.begun: dict[SSAValue, SSAValue] = {}  # a sum -> the state that it goes on from, instead of from zero
        self.visited: dict[str, str] = {}  # of the ranks that are not walked from end to end: where they are
        self.share: tile.Share | None = None  # whose pieces loops walk
        self.narrowed: dict[str, str] = {}  # of the ranks that are walked within loaded bounds: why there
        self.skipped: dict[str, str] = {}  # of the ranks in which data rules tiles out: what is asked of a tile

    # --- driving -------------------------------------------------------------------------------------------------

    def run(self) -> tile.KernelOp:
        for n, value in enumerate(self.kernel.returned):
            self.targets[n].name_hint = value.name_hint or f"out{n}"
            carried = [r for r in _out_ranks(value) if self.walk.loops(r)]
            if len(carried) > 1:
                raise Stop(f"an output carries two streamed ranks, {carried}")
            if carried:
                self.along.setdefault((carried[0], ended_before(self.levels, value, carried[0])), []).append(n)
        for n, value in enumerate(self.kernel.returned):
            for at, those in list(self.along.items()):
                if n in those:
                    self._store_along(*at)
                    break
            else:
                if n not in self.stored:
                    self._store(n, value)
        if self.share is not None:
            self._check_pieces()
        self.tiles.top.block.add_op(tile.ReturnOp())
        for op in [o for o in self.tiles.top.block.walk() if isinstance(o, tile.CastOp) and not o.result.first_use]:
            op.detach()  # looked through
            op.erase()
        result = tile.KernelOp(
            self.kernel.sym_name.data,
            self.table,
            self.walk.grid,
            self.walk.params,
            len(self.targets),
            Region(self.tiles.top.block),
            {
                name: DictionaryAttr({r: StringAttr(t) for r, t in found.items()})
                for name, found in ((VISITED, self.visited), (WITHIN, self.narrowed), (SKIPPED, self.skipped))
                if found
            },
            self.share,
        )
        return result

    def _store(self, n: int, value: SSAValue) -> None:
        access = self.outputs[n][1]
        source = self.tensor(value, AccessMap.of(_out_ranks(value)))
        element = self.outputs[n][0].element_type
        source = self.tiles.convert(source, element)
        guard = self.tiles.guards(access)
        missing = set(tile.tile_type(source).names) ^ set(self.table.ordered(access.ranks))
        if missing - set(tile.tile_type(source).names):
            source = self.tiles.broadcast(source, self.table.ordered(access.ranks))
        self.tiles.scope_for([source], access.ranks).block.add_op(tile.StoreOp(source, self.targets[n], access, guard))

    def _store_along(self, rank: str, level: int) -> None:
        """Store the outputs along `rank` that wait for so many reductions over it: beside reductions that do, if there are."""
        for op in self.kernel.body.block.ops:
            beside = isinstance(op, EinsumOp | OnlineOp) and rank in reduced_ranks(op) and self.levels[op] == level
            if beside and not self._is_done(op.results[0]) and self._reachable_home(op) == self.tiles.top.depth:  # pyright: ignore
                self._loop(rank, op)  # pyright: ignore
                if (rank, level) not in self.along:
                    return
        for n in self.along[rank, level]:
            self._finish(self.kernel.returned[n], rank)
        body = Scope(Block(), rank, len(self.tiles.stack))
        self.tiles.stack.append(body)
        self._store_all(rank, level)
        self.tiles.stack.pop()
        body.block.add_op(tile.YieldOp())
        self.tiles.stack[-1].block.add_op(tile.ForOp(rank, [], Region(body.block), 0, self.tiles.extents[rank]))

    def _store_all(self, rank: str, level: int) -> None:
        """In a loop over `rank`, the outputs along it that can be stored there."""
        for n in self.along.pop((rank, level), ()):
            self._store(n, self.kernel.returned[n])
            self.stored.add(n)

    def _finish(self, value: SSAValue, rank: str) -> None:
        """Run the loops over `rank` that `value` depends on, before a loop of its own is opened."""
        owner = value.owner
        if isinstance(owner, EinsumOp | OnlineOp):
            if rank in reduced_ranks(owner):
                self.tensor(value, AccessMap.of(_out_ranks(value)))
                return
            for v in owner.inputs:
                self._finish(v, rank)

    # --- tiles ---------------------------------------------------------------------------------------------------

    def tensor(self, value: SSAValue, access: AccessMap) -> SSAValue:
        """The tile of a cascade value at `access`, in the value's storage type or, for computed ones, compute type."""
        if value in self.buffer:
            return self.tiles.load(self.buffer[value], value.type, access)  # pyright: ignore
        if self._is_done(value):
            return self.tiles.picked(self.done[value], access)
        op = value.owner
        if isinstance(op, EinsumOp) and op.is_map:
            return self.scalars.scalar(op.yields[value.index], self._env(op))  # pyright: ignore
        if isinstance(op, EinsumOp | OnlineOp):
            self._reduce(op)
            return self.tiles.picked(self.done[value], access)
        raise Stop(f"{op} cannot be scheduled")

    def _is_done(self, value: SSAValue) -> bool:
        """Whether a reduction's result is known here: a loop that has ended takes what lived in it away."""
        return value in self.done and self.tiles.scope_of.get(self.done[value], self.tiles.top) in self.tiles.stack

    def _env(self, op: EinsumOp | OnlineOp) -> Env:
        region = op.body if isinstance(op, EinsumOp) else op.step
        make, ranks, storage = {}, {}, {}
        for arg, (value, access) in zip(region.block.args, op.operand_accesses, strict=False):
            make[arg] = lambda value=value, access=access: self.tensor(value, access)
            ranks[arg] = frozenset(self.table.ordered(access.ranks))
            storage[arg] = i1 if is_small(value) else value.type.element_type  # pyright: ignore
        return Env(make, ranks, storage)

    # --- reductions ----------------------------------------------------------------------------------------------

    def _reduce(self, op: EinsumOp | OnlineOp) -> None:
        reduced = reduced_ranks(op)
        streamed = [r for r in reduced if self.walk.loops(r)]
        if len(streamed) > 1:
            raise Stop(f"a reduction streams two ranks at once, {streamed}")
        if streamed:
            self._loop(streamed[0], op)
        elif isinstance(op, OnlineOp):
            for result, folded in zip(op.results, self.online.step(op, self._env(op), None), strict=True):
                self.done[result] = folded[-1]
                folded[-1].name_hint = result.name_hint
        else:
            env = self._env(op)
            for n, result in enumerate(op.results):
                state = [self.begun[result]] if result in self.begun else None
                self.done[result] = self.folds.fold(op.combiner_names[n], op.yields[n], env, reduced, state)[
                    -1 if is_arg(op.combiner_names[n]) else 0
                ]
                self.done[result].name_hint = result.name_hint

    def _home(self, op: EinsumOp | OnlineOp) -> int:
        """Depth of the scope in which the results of a reduction live."""
        ranks = {r for n in range(len(op.results)) for r in op.out_ranks(n)}
        return self.tiles.scope_for([], sorted(ranks)).depth

    def _reachable_home(self, op: EinsumOp | OnlineOp) -> int:
        try:
            return self._home(op)
        except Stop:
            return -1

    def _loop(self, rank: str, wanted: EinsumOp | OnlineOp) -> None:
        """One loop over `rank` for every reduction that can run beside `wanted`."""
        home = self._home(wanted)
        members: list[EinsumOp | OnlineOp] = []
        for op in self.kernel.body.block.ops:
            if not isinstance(op, EinsumOp | OnlineOp) or rank not in reduced_ranks(op) or self._is_done(op.results[0]):
                continue
            if self.levels[op] == self.levels[wanted] and self._reachable_home(op) == home:
                members.append(op)
        scope_stack = self.tiles.stack
        self.tiles.stack = [s for s in self.tiles.stack if s.depth <= home]
        outer = self.tiles.stack[-1]
        state: list[SSAValue] = []
        for op in members:
            for n, result in enumerate(op.results):
                combiner = op.combiner_names[n]
                ranks = self.table.ordered(op.out_ranks(n))
                kind = compute_type(result.type.element_type)  # pyright: ignore
                if is_arg(combiner):
                    kind = op.yields[n].type  # pyright: ignore
                first = self.begun.get(result) or self.tiles.constant(scalar.identity(combiner, kind), kind, ranks)
                state.extend([first, self.tiles.constant(0, i64, ranks)] if is_arg(combiner) else [first])
        visited = of_indices(some(*(self.neutral.visited(op) for op in members)))
        test = opening_test(self.neutral, members, rank, self.walk.skip)
        if test is not None:
            self.skipped.setdefault(rank, test_text(test, self.neutral))
        around = [s.rank for s in self.tiles.stack if s.rank]
        parts = self.walk.segments(rank, visited, around)
        self._note_share(self.walk.share(rank, visited, around))
        if visited != TRUE and [(p.lower, p.upper) for p in parts] != [(0, self.tiles.extents[rank])]:
            self.visited.setdefault(rank, to_text(visited))
        within = self._within(rank, outer)
        taken = (
            home == self.tiles.top.depth and visited == TRUE and not within
        )  # every tile is visited: what is stored along the rank can be
        for part in parts:
            level = self.levels[wanted] if taken and test is None else None
            loop = self._walk(rank, part, about(visited, rank), members, state, level, test, within)
            outer.block.add_op(loop)
            state = list(loop.results)
            if part is not parts[-1]:
                for result, argument in zip(state, loop.body.block.args, strict=True):
                    result.name_hint = argument.name_hint
        for op in members:
            for result, held in zip(op.results, _by_result(op, state), strict=True):
                for r in held:
                    self.tiles.scope_of[r] = outer
                self.done[result] = held[-1]
                held[-1].name_hint = result.name_hint
        self.tiles.stack = scope_stack

    def _note_share(self, share: tile.Share | None) -> None:
        """Pieces are of the steps of one walk: all loops over the rank have to take the same ones."""
        if share is None:
            return
        if self.share not in (None, share):
            raise Stop(f"loops over {self.walk.parts.rank} take other steps each: no equal shares")  # pyright: ignore
        if symbols.names(share.steps) & set(self.table.names) - set(self.walk.grid):
            raise Stop("how many steps a tile has depends on a loop around them: no equal shares")
        self.share = share

    def _check_pieces(self) -> None:
        """Tiles are cut at other places each: what several of them would store for a piece is not the same."""
        for _, access in self.outputs:
            repeated = set(self.walk.grid) - set(access.ranks)
            if repeated:
                raise Stop(f"the states that tiles along {sorted(repeated)} have in common are of other pieces in each")

    def _within(self, rank: str, scope: Scope) -> list[SSAValue]:
        """Two numbers that a loop over `rank` in `scope` keeps within, as far as rows are in one tile: none, if it does not."""
        bounds = self.walk.within
        if bounds is None or bounds.rank != rank:
            return []
        if any(self.walk.loops(r) and r not in [s.rank for s in self.tiles.stack] for r in bounds.rows):
            return []
        found = []
        for n, (combiner, fill) in enumerate((("min", 2**63 - 1), ("max", 0))):
            argument = self.kernel.body.block.args[bounds.first + n]
            value = self.tiles.load(self.buffer[argument], argument.type, AccessMap.of(bounds.rows))  # pyright: ignore
            for r in tile.tile_type(value).names:
                value = self.tiles.pad(value, r, fill)
                value = self.tiles.emit(
                    ("reduce", combiner, r), [value], lambda v=value, c=combiner, r=r: tile.ReduceOp(c, v, r)
                )[0]
            value.name_hint = f"{argument.name_hint}_{rank}"
            found.append(value)
        if any(self.tiles.scope_of.get(v, self.tiles.top).depth > scope.depth for v in found):
            return []
        self.narrowed.setdefault(rank, bounds.asked)
        return found

    def _walk(
        self,
        rank: str,
        part: Segment,
        given: Predicate,
        members: Sequence[EinsumOp | OnlineOp],
        state: Sequence[SSAValue],
        level: int | None,
        test: Predicate | None,
        within: Sequence[SSAValue],
    ) -> tile.ForOp:
        """One loop over a part of `rank` that folds its tiles into the state of `members`, those for which `test` holds.

        level: of the outputs along the rank that it stores, if it does.  within: the numbers that it keeps within, if any.
        """
        body = Scope(Block(arg_types=[v.type for v in state]), rank, len(self.tiles.stack))
        self.tiles.stack.append(body)
        outside, begun_outside = (self.scalars.given, self.tiles.full), dict(self.begun)
        if part.full:
            self.scalars.given, self.tiles.full = every(self.scalars.given, given), self.tiles.full | {rank}
        arguments = self._named(members, body)
        if test is None:
            yielded = self._folded(members, arguments)
        else:
            condition = self._condition(test, rank)
            branch = self.tiles.open_branch(body, arguments)
            inner = self._folded(members, self._named(members, branch))
            yielded = self.tiles.close_branch(branch, body, "any", condition, arguments, inner)
        if level is not None:
            self._store_all(rank, level)
        self.tiles.stack.pop()
        self.scalars.given, self.tiles.full = outside
        self.begun = begun_outside
        body.block.add_op(tile.YieldOp(*yielded))
        return tile.ForOp(rank, state, Region(body.block), part.lower, part.upper, within)

    def _inner_sum(self, op: EinsumOp | OnlineOp) -> SSAValue | None:
        """The sum that `op` only adds up, element by element: it may go on from what was added up so far."""
        if (
            not isinstance(op, EinsumOp)
            or op.combiner_names != ("sum",)
            or any(self.tiles.role(r) != "unit" for r in op.reduced)
        ):
            return None
        read = op.yields[0]
        inner = op.operand_accesses[read.index][0] if isinstance(read, BlockArgument) else None
        maker = inner.owner if inner is not None else None
        if not isinstance(maker, EinsumOp) or maker.combiner_names != ("sum",) or sum(1 for _ in inner.uses) > 1:  # pyright: ignore
            return None
        kinds = {compute_type(v.type.element_type) for v in (inner, op.results[0])}  # pyright: ignore
        same = self.table.ordered(maker.out_ranks()) == self.table.ordered(op.out_ranks())
        return inner if same and kinds == {read.type} else None

    def _named(self, members: Sequence[EinsumOp | OnlineOp], scope: Scope) -> list[SSAValue]:
        """The state that a block is given, by the names of what the members compute."""
        left: list[SSAValue] = list(scope.block.args)
        for op in members:
            for held, result in zip(_by_result(op, left), op.results, strict=True):
                for a in held:
                    self.tiles.scope_of[a] = scope
                    a.name_hint = result.name_hint
                    if (sum_ := self._inner_sum(op)) is not None:
                        self.begun[sum_] = held[0]
        return list(scope.block.args)

    def _folded(self, members: Sequence[EinsumOp | OnlineOp], state: Sequence[SSAValue]) -> list[SSAValue]:
        """The state of the members after one more tile."""
        left, folded = list(state), []
        for op in members:
            mine = _by_result(op, left)
            if isinstance(op, OnlineOp):
                folded.extend(v for held in self.online.step(op, self._env(op), mine) for v in held)
            elif self._inner_sum(op) in self.begun:
                folded.append(self._env(op).make[op.yields[0]]())  # pyright: ignore
            else:
                env = self._env(op)
                for n, held in enumerate(mine):
                    folded.extend(self.folds.fold(op.combiner_names[n], op.yields[n], env, op.reduced, held))
        return folded

    def _condition(self, test: Predicate, rank: str) -> SSAValue:
        """The tile of a test; in lanes beyond an extent it is false."""

        def tile_of(e: Equals) -> SSAValue:
            value = self.scalars.scalar(e.value, self._env(region_of(e.value)))
            kind = e.value.type
            if kind != i1:  # some element along the rank is not -inf: their maximum is not
                value = self.tiles.pad(value, rank, -math.inf)
                value = self.tiles.emit(("reduce", "max", rank), [value], lambda: tile.ReduceOp("max", value, rank))[0]
                return self.tiles.map("eq" if e.so else "ne", [value, self.tiles.constant(e.number, kind)], i1)
            return value if e.so == e.number else self.tiles.map("xor", [value, self.tiles.constant(True, i1)], i1)

        condition = write(test, tile_of, lambda name, a, b: self.tiles.map(name, [a, b], i1))
        for r in tile.tile_type(condition).names:
            condition = self.tiles.pad(condition, r, False)
        return condition


def _by_result(op: EinsumOp | OnlineOp, state: list[SSAValue]) -> list[list[SSAValue]]:
    """What `op` carries, taken from the front of a loop's state: for each result its value, or an extreme and its index."""
    return [[state.pop(0) for _ in range(2 if is_arg(c) else 1)] for c in op.combiner_names]


def _out_ranks(value: SSAValue) -> tuple[str, ...]:
    return value.owner.out_ranks(value.index)  # pyright: ignore
