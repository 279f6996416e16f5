"""Lowering of one cascade kernel to a tile kernel, once it is decided how each rank is walked.

Everything is computed where it is first possible and no deeper: a value lives in the innermost loop whose rank it
carries, so that what does not depend on a loop leaves it by construction.  Reductions over a streamed rank that may run
at the same time share one loop.  Where indices alone say that contributions are neutral (`neutral.py`), nothing is
visited; where they say that a mask is open, a loop of its own goes without it.  Nothing here chooses; `walk.py` has chosen.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import sympy
from xdsl.dialects.builtin import BFloat16Type, DictionaryAttr, Float16Type, StringAttr, f32, f64, i1, i64
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue

from ..ir import scalar, tile
from ..ir.attributes import AccessMap, TensorType, compute_type, element_bits, is_float
from ..ir.cascade import EinsumOp, IndexOp, KernelOp, OnlineOp, YieldOp
from .algebra.forms import Refused
from .bounds import inside
from .closed_tiles import NEVER, opening_test, region_of, write
from .closed_tiles import to_text as test_text
from .contraction import product_factors, split
from .index_predicates import TRUE, Equals, Predicate, Segment, about, every, of_indices, some, to_text
from .levels import ended_before, levels, reduced_ranks
from .neutral import Neutral
from .online_writer import LAG
from .small_values import is_small
from .walk import Walk

FLOAT32_MAX = (2.0 - 2.0**-23) * 2.0**127

VISITED = "visited"  # a tile kernel's attribute: of the ranks that loops walk in part, which part that is
SKIPPED = "skipped"  # of the ranks of whose tiles data rules some out: what is asked of a tile before it is loaded

_COMBINE = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and"}
_COMBINE_INT = {"sum": "iadd", "prod": "imul", "max": "imaximum", "min": "iminimum"}


@dataclass(eq=False)
class _Scope:
    """A block under construction: the kernel's body, or the body of the loop over `rank`."""

    block: Block
    rank: str | None
    depth: int
    known: dict[tuple, tuple[SSAValue, ...]] = field(default_factory=dict)  # value numbering
    branch: _Scope | None = None  # the conditional that ends this block: what is not needed to decide it goes there


@dataclass(frozen=True)
class _Env:
    """What the block arguments of a region stand for: a tile, made when it is asked for, and its ranks."""

    make: Mapping[SSAValue, Callable[[], SSAValue]]
    ranks: Mapping[SSAValue, frozenset[str]]
    storage: Mapping[SSAValue, Attribute]


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
    except _Stop as stop:
        return Refused(str(stop))


class _Stop(Exception):
    """The lowering cannot express something; becomes a Refused."""


class _Emitter:
    def __init__(self, kernel, walk, inputs, outputs):
        self.kernel: KernelOp = kernel
        self.walk: Walk = walk
        self.table = walk.table
        self.top = _Scope(Block(arg_types=[*inputs, *(b for b, _ in outputs)]), None, 0)
        self.stack: list[_Scope] = [self.top]
        self.scope_of: dict[SSAValue, _Scope] = {}
        self.done: dict[SSAValue, SSAValue] = {}  # cascade value -> tile (reductions only)
        self.beyond: dict[SSAValue, dict[str, float]] = {}  # what the lanes past a rank's extent are known to hold
        self.outputs = outputs
        arguments = list(self.top.block.args)
        self.buffer: dict[SSAValue, SSAValue] = dict(zip(kernel.body.block.args, arguments, strict=False))
        self.targets = arguments[len(inputs) :]
        for inner, outer in self.buffer.items():
            outer.name_hint = inner.name_hint
        self.extents: dict[str, sympy.Expr] = {r.name: r.extent for r in self.table.data}
        self.levels = levels(kernel)
        # Outputs to store, by the loop rank that they carry and their level.
        self.along: dict[tuple[str, int], list[int]] = {}
        self.stored: set[int] = set()
        self.begun: dict[SSAValue, SSAValue] = {}  # a sum -> the state that it goes on from, instead of from zero
        self.neutral = Neutral(kernel, data=walk.skip != NEVER)
        self.given: Predicate = TRUE  # what is known of the indices in the loops under construction
        self.visited: dict[str, str] = {}  # of the ranks that are not walked from end to end: where they are
        self.skipped: dict[str, str] = {}  # of the ranks in which data rules tiles out: what is asked of a tile
        self.full: frozenset[str] = frozenset()  # the loop ranks whose present tile has no lanes beyond the extent

    # --- driving -------------------------------------------------------------------------------------------------

    def run(self) -> tile.KernelOp:
        for n, value in enumerate(self.kernel.returned):
            self.targets[n].name_hint = value.name_hint or f"out{n}"
            carried = [r for r in _out_ranks(value) if self.walk.loops(r)]
            if len(carried) > 1:
                raise _Stop(f"an output carries two streamed ranks, {carried}")
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
        self.top.block.add_op(tile.ReturnOp())
        for op in [o for o in self.top.block.walk() if isinstance(o, tile.CastOp) and not o.result.first_use]:
            op.detach()  # looked through
            op.erase()
        result = tile.KernelOp(
            self.kernel.sym_name.data,
            self.table,
            self.walk.grid,
            self.walk.params,
            len(self.targets),
            Region(self.top.block),
            {
                name: DictionaryAttr({r: StringAttr(t) for r, t in found.items()})
                for name, found in ((VISITED, self.visited), (SKIPPED, self.skipped))
                if found
            },
        )
        return result

    def _store(self, n: int, value: SSAValue) -> None:
        access = self.outputs[n][1]
        source = self.tensor(value, AccessMap.of(_out_ranks(value)))
        element = self.outputs[n][0].element_type
        source = self._convert(source, element)
        guard = self._guards(access)
        missing = set(tile.tile_type(source).names) ^ set(self.table.ordered(access.ranks))
        if missing - set(tile.tile_type(source).names):
            source = self._broadcast(source, self.table.ordered(access.ranks))
        self._scope_for([source], access.ranks).block.add_op(tile.StoreOp(source, self.targets[n], access, guard))

    def _store_along(self, rank: str, level: int) -> None:
        """Store the outputs along `rank` that wait for so many reductions over it: beside reductions that do, if there are."""
        for op in self.kernel.body.block.ops:
            beside = isinstance(op, EinsumOp | OnlineOp) and rank in reduced_ranks(op) and self.levels[op] == level
            if beside and not self._is_done(op.results[0]) and self._reachable_home(op) == self.top.depth:  # pyright: ignore
                self._loop(rank, op)  # pyright: ignore
                if (rank, level) not in self.along:
                    return
        for n in self.along[rank, level]:
            self._finish(self.kernel.returned[n], rank)
        body = _Scope(Block(), rank, len(self.stack))
        self.stack.append(body)
        self._store_all(rank, level)
        self.stack.pop()
        body.block.add_op(tile.YieldOp())
        self.stack[-1].block.add_op(tile.ForOp(rank, [], Region(body.block), 0, self.extents[rank]))

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

    # --- scopes --------------------------------------------------------------------------------------------------

    def _role(self, rank: str) -> str:
        return self.table[rank].role

    def _scope_for(self, operands: Sequence[SSAValue], ranks: Sequence[str] = ()) -> _Scope:
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
                    raise _Stop(f"rank {r} is needed outside its loop")
                if bound[-1].depth > scope.depth:
                    scope = bound[-1]
        return scope.branch or scope

    def _emit(
        self, key: tuple, operands: Sequence[SSAValue], build: Callable[[], Operation], ranks: Sequence[str] = ()
    ):
        """Emit an operation where its operands and ranks are known, or reuse an equal one."""
        scope = self._scope_for(operands, ranks)
        key = (*key, *operands)
        if key not in scope.known:
            op = build()
            scope.block.add_op(op)
            for r in op.results:
                self.scope_of[r] = scope
            scope.known[key] = tuple(op.results)
        return scope.known[key]

    # --- tiles ---------------------------------------------------------------------------------------------------

    def tensor(self, value: SSAValue, access: AccessMap) -> SSAValue:
        """The tile of a cascade value at `access`, in the value's storage type or, for computed ones, compute type."""
        if value in self.buffer:
            return self._load(value, access)
        if self._is_done(value):
            return self._picked(self.done[value], access)
        op = value.owner
        if isinstance(op, EinsumOp) and op.is_map:
            return self.scalar(op.yields[value.index], self._env(op))  # pyright: ignore
        if isinstance(op, EinsumOp | OnlineOp):
            self._reduce(op)
            return self._picked(self.done[value], access)
        raise _Stop(f"{op} cannot be scheduled")

    def _picked(self, value: SSAValue, access: AccessMap) -> SSAValue:
        """A tile of a reduction as it is read: along a band, each point of the tile has an element of its own."""
        names = tile.tile_type(value).names
        bands = [r for r in names if self._role(r) == "band"]
        if not bands:
            return value
        ranks = self.table.ordered(access.ranks)
        return self._emit(("pick", *bands), [value], lambda: tile.PickOp(value, bands[0], ranks), ranks)[0]

    def _is_done(self, value: SSAValue) -> bool:
        """Whether a reduction's result is known here: a loop that has ended takes what lived in it away."""
        return value in self.done and self.scope_of.get(self.done[value], self.top) in self.stack

    def _load(self, value: SSAValue, access: AccessMap) -> SSAValue:
        kind = value.type
        assert isinstance(kind, TensorType)
        ranks = self.table.ordered(access.ranks)
        result = tile.TileType.of(ranks, kind.element_type)
        checked = not inside(access, kind.dims, self.extents)
        buffer = self.buffer[value]

        def build() -> Operation:
            op = tile.LoadOp(buffer, access, result, self._guards(access), checked)
            op.result.name_hint = buffer.name_hint
            return op

        loaded = self._emit(("load", access), [buffer], build, access.ranks)[0]
        self.beyond[loaded] = dict.fromkeys(ranks, 0.0)
        return loaded

    def _guards(self, access: AccessMap) -> tuple[str, ...]:
        return tuple(r for r in self.table.ordered(access.ranks) if r not in self.full)

    def _env(self, op: EinsumOp | OnlineOp) -> _Env:
        region = op.body if isinstance(op, EinsumOp) else op.step
        make, ranks, storage = {}, {}, {}
        for arg, (value, access) in zip(region.block.args, op.operand_accesses, strict=False):
            make[arg] = lambda value=value, access=access: self.tensor(value, access)
            ranks[arg] = frozenset(self.table.ordered(access.ranks))
            storage[arg] = i1 if is_small(value) else value.type.element_type  # pyright: ignore
        return _Env(make, ranks, storage)

    def scalar(self, value: SSAValue, env: _Env) -> SSAValue:
        """The tile of a scalar of a map region, in its compute type."""
        known = self.neutral.constant(value, self.given) if self.given != TRUE else None
        if known is not None:
            return self._constant(known, value.type)
        if isinstance(value, BlockArgument):
            return self._convert(env.make[value](), value.type)
        op = value.owner
        assert isinstance(op, Operation)
        if isinstance(op, IndexOp):
            ranks = self.table.ordered(op.expression.ranks)
            return self._emit(("index", op.expression), [], lambda: tile.IndexOp(op.expr, ranks), op.expression.ranks)[
                0
            ]
        name = scalar.name_of(op)
        if name == scalar.CONSTANT:
            return self._constant(scalar.constant_value(op), value.type)
        assert name is not None
        if self.given != TRUE and (same := self.neutral.passed_on(op, name, self.given)) is not None:
            return self.scalar(same, env)
        return self._map(name, [self.scalar(o, env) for o in op.operands], value.type, value.name_hint)

    def _constant(self, number: float | int | bool, kind: Attribute, ranks: Sequence[str] = ()) -> SSAValue:
        result = tile.TileType.of(ranks, kind)
        return self._emit(("fill", repr(number), result), [], lambda: tile.FillOp(number, result), ranks)[0]

    def _map(self, name: str, operands: Sequence[SSAValue], kind: Attribute, hint: str | None = None) -> SSAValue:
        ranks = self.table.ordered([r for o in operands for r in tile.tile_type(o).names])
        result = tile.TileType.of(ranks, kind)

        def build() -> Operation:
            op = tile.MapOp(name, operands, result)
            op.result.name_hint = hint
            return op

        made = self._emit((name, result), operands, build)[0]
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

    def _convert(self, value: SSAValue, element: Attribute) -> SSAValue:
        if tile.tile_type(value).element_type == element:
            return value
        if isinstance(value.owner, tile.CastOp) and _holds(tile.tile_type(value).element_type, element):
            narrow = value.owner.value
            if tile.tile_type(narrow).element_type == element:  # widened, and narrowed again
                return narrow
        cast = self._emit(("cast", element), [value], lambda: tile.CastOp(value, element))[0]
        self.beyond[cast] = self.beyond.get(value, {})
        return cast

    def _broadcast(self, value: SSAValue, ranks: Sequence[str]) -> SSAValue:
        kind = tile.tile_type(value).element_type
        zero = self._constant(0 if not is_float(kind) else 0.0, kind, ranks)
        if kind == i1:
            return self._map("or", [value, zero], kind)
        return self._map("add" if is_float(kind) else "iadd", [value, zero], kind)

    def _pad(self, value: SSAValue, rank: str, fill: float | int | bool) -> SSAValue:
        known = self.beyond.get(value, {})
        if rank not in tile.tile_type(value).names or rank in self.full or known.get(rank) == fill:
            return value
        padded = self._emit(("pad", rank, repr(fill)), [value], lambda: tile.PadOp(value, [rank], fill))[0]
        self.beyond[padded] = {**known, rank: float(fill)}
        return padded

    # --- reductions ----------------------------------------------------------------------------------------------

    def _reduce(self, op: EinsumOp | OnlineOp) -> None:
        reduced = reduced_ranks(op)
        streamed = [r for r in reduced if self.walk.loops(r)]
        if len(streamed) > 1:
            raise _Stop(f"a reduction streams two ranks at once, {streamed}")
        if streamed:
            self._loop(streamed[0], op)
        elif isinstance(op, OnlineOp):
            for result, folded in zip(op.results, self._online_step(op, None), strict=True):
                self.done[result] = folded[-1]
                folded[-1].name_hint = result.name_hint
        else:
            env = self._env(op)
            for n, result in enumerate(op.results):
                state = [self.begun[result]] if result in self.begun else None
                self.done[result] = self._fold(op.combiner_names[n], op.yields[n], env, reduced, state)[
                    -1 if _is_arg(op.combiner_names[n]) else 0
                ]
                self.done[result].name_hint = result.name_hint

    def _home(self, op: EinsumOp | OnlineOp) -> int:
        """Depth of the scope in which the results of a reduction live."""
        ranks = {r for n in range(len(op.results)) for r in op.out_ranks(n)}
        return self._scope_for([], sorted(ranks)).depth

    def _loop(self, rank: str, wanted: EinsumOp | OnlineOp) -> None:
        """One loop over `rank` for every reduction that can run beside `wanted`."""
        home = self._home(wanted)
        members: list[EinsumOp | OnlineOp] = []
        for op in self.kernel.body.block.ops:
            if not isinstance(op, EinsumOp | OnlineOp) or rank not in reduced_ranks(op) or self._is_done(op.results[0]):
                continue
            if self.levels[op] == self.levels[wanted] and self._reachable_home(op) == home:
                members.append(op)
        scope_stack = self.stack
        self.stack = [s for s in self.stack if s.depth <= home]
        outer = self.stack[-1]
        state: list[SSAValue] = []
        for op in members:
            for n, result in enumerate(op.results):
                combiner = op.combiner_names[n]
                ranks = self.table.ordered(op.out_ranks(n))
                kind = compute_type(result.type.element_type)  # pyright: ignore
                if _is_arg(combiner):
                    kind = op.yields[n].type  # pyright: ignore
                first = self.begun.get(result) or self._constant(scalar.identity(combiner, kind), kind, ranks)
                state.extend([first, self._constant(0, i64, ranks)] if _is_arg(combiner) else [first])
        visited = of_indices(some(*(self.neutral.visited(op) for op in members)))
        test = opening_test(self.neutral, members, rank, self.walk.skip)
        if test is not None:
            self.skipped.setdefault(rank, test_text(test, self.neutral))
        parts = self.walk.segments(rank, visited, [s.rank for s in self.stack if s.rank])
        if visited != TRUE and [(p.lower, p.upper) for p in parts] != [(0, self.extents[rank])]:
            self.visited.setdefault(rank, to_text(visited))
        taken = (
            home == self.top.depth and visited == TRUE
        )  # every tile is visited: what is stored along the rank can be
        for part in parts:
            level = self.levels[wanted] if taken and test is None else None
            loop = self._walk(rank, part, about(visited, rank), members, state, level, test)
            outer.block.add_op(loop)
            state = list(loop.results)
            if part is not parts[-1]:
                for result, argument in zip(state, loop.body.block.args, strict=True):
                    result.name_hint = argument.name_hint
        for op in members:
            for result, held in zip(op.results, _by_result(op, state), strict=True):
                for r in held:
                    self.scope_of[r] = outer
                self.done[result] = held[-1]
                held[-1].name_hint = result.name_hint
        self.stack = scope_stack

    def _walk(
        self,
        rank: str,
        part: Segment,
        given: Predicate,
        members: Sequence[EinsumOp | OnlineOp],
        state: Sequence[SSAValue],
        level: int | None,
        test: Predicate | None,
    ) -> tile.ForOp:
        """One loop over a part of `rank` that folds its tiles into the state of `members`, those for which `test` holds.

        level: of the outputs along the rank that it stores, if it does.
        """
        body = _Scope(Block(arg_types=[v.type for v in state]), rank, len(self.stack))
        self.stack.append(body)
        outside, begun_outside = (self.given, self.full), dict(self.begun)
        if part.full:
            self.given, self.full = every(self.given, given), self.full | {rank}
        arguments = self._named(members, body)
        if test is None:
            yielded = self._folded(members, arguments)
        else:
            condition = self._condition(test, rank)
            branch = self._open_branch(body, arguments)
            inner = self._folded(members, self._named(members, branch))
            yielded = self._close_branch(branch, body, "any", condition, arguments, inner)
        if level is not None:
            self._store_all(rank, level)
        self.stack.pop()
        self.given, self.full = outside
        self.begun = begun_outside
        body.block.add_op(tile.YieldOp(*yielded))
        return tile.ForOp(rank, state, Region(body.block), part.lower, part.upper)

    def _inner_sum(self, op: EinsumOp | OnlineOp) -> SSAValue | None:
        """The sum that `op` only adds up, element by element: it may go on from what was added up so far."""
        if (
            not isinstance(op, EinsumOp)
            or op.combiner_names != ("sum",)
            or any(self._role(r) != "unit" for r in op.reduced)
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

    def _named(self, members: Sequence[EinsumOp | OnlineOp], scope: _Scope) -> list[SSAValue]:
        """The state that a block is given, by the names of what the members compute."""
        left: list[SSAValue] = list(scope.block.args)
        for op in members:
            for held, result in zip(_by_result(op, left), op.results, strict=True):
                for a in held:
                    self.scope_of[a] = scope
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
                folded.extend(v for held in self._online_step(op, mine) for v in held)
            elif self._inner_sum(op) in self.begun:
                folded.append(self._env(op).make[op.yields[0]]())  # pyright: ignore
            else:
                env = self._env(op)
                for n, held in enumerate(mine):
                    folded.extend(self._fold(op.combiner_names[n], op.yields[n], env, op.reduced, held))
        return folded

    # --- conditionals --------------------------------------------------------------------------------------------

    def _open_branch(self, scope: _Scope, state: Sequence[SSAValue]) -> _Scope:
        """From here on, what would be computed in `scope` is computed in a conditional that is given the state."""
        branch = _Scope(Block(arg_types=[v.type for v in state]), scope.rank, len(self.stack), dict(scope.known))
        self.stack.append(branch)
        scope.branch = branch
        return branch

    def _close_branch(
        self,
        branch: _Scope,
        scope: _Scope,
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

    def _condition(self, test: Predicate, rank: str) -> SSAValue:
        """The tile of a test; in lanes beyond an extent it is false."""

        def tile_of(e: Equals) -> SSAValue:
            value = self.scalar(e.value, self._env(region_of(e.value)))
            kind = e.value.type
            if kind != i1:  # some element along the rank is not -inf: their maximum is not
                value = self._pad(value, rank, -math.inf)
                value = self._emit(("reduce", "max", rank), [value], lambda: tile.ReduceOp("max", value, rank))[0]
                return self._map("eq" if e.so else "ne", [value, self._constant(e.number, kind)], i1)
            return value if e.so == e.number else self._map("xor", [value, self._constant(True, i1)], i1)

        condition = write(test, tile_of, lambda name, a, b: self._map(name, [a, b], i1))
        for r in tile.tile_type(condition).names:
            condition = self._pad(condition, r, False)
        return condition

    def _reachable_home(self, op: EinsumOp | OnlineOp) -> int:
        try:
            return self._home(op)
        except _Stop:
            return -1

    def _fold(
        self, combiner: str, value: SSAValue, env: _Env, reduced: Sequence[str], state: Sequence[SSAValue] | None
    ) -> list[SSAValue]:
        """Fold one tile of contributions over `reduced` (into `state`, if there is one); argmax/argmin carry two values."""
        if combiner == "sum" and len(reduced) == 1 and is_float(value.type):
            dot = self._dot(value, env, reduced[0], state[0] if state else None)
            if dot is not None:
                return [dot]
        contribution = self.scalar(value, env)
        kind = tile.tile_type(contribution).element_type
        neutral = scalar.identity(combiner, kind)
        extreme: list[SSAValue] = [contribution]
        reduced = [r for r in reduced if self._role(r) != "unit"]  # one element is what it is reduced to
        for r in reduced:
            if r not in tile.tile_type(contribution).names:
                contribution = self._broadcast(
                    contribution, self.table.ordered([*tile.tile_type(contribution).names, r])
                )
        for r in reversed(reduced):
            padded = self._pad(contribution, r, neutral)
            beside = self._scope_for([padded]).known.get(("reduce", f"arg{combiner}", r, padded))
            extreme = list(  # where the index of an extreme is found, the extreme is there as well
                beside[:1]
                if beside is not None
                else self._emit(("reduce", combiner, r), [padded], lambda p=padded, r=r: tile.ReduceOp(combiner, p, r))
            )
            contribution = extreme[0]
        if state is None:
            return extreme
        if _is_arg(combiner):
            return self._better(combiner, state, extreme)
        table = _COMBINE if is_float(kind) or kind == i1 else _COMBINE_INT
        return [self._map(table[combiner], [state[0], extreme[0]], kind)]

    def _better(self, combiner: str, old: Sequence[SSAValue], new: Sequence[SSAValue]) -> list[SSAValue]:
        """The better of two (extreme, index) pairs; the earlier one on a tie; a NaN is better than any number."""
        kind = tile.tile_type(old[0]).element_type
        if is_float(kind):
            take = self._map("lt" if combiner == "argmin" else "gt", [new[0], old[0]], i1)
            is_nan = self._map("ne", [new[0], new[0]], i1)
            was_number = self._map("eq", [old[0], old[0]], i1)
            take = self._map("or", [take, self._map("and", [is_nan, was_number], i1)], i1)
        else:
            take = self._map("ilt" if combiner == "argmin" else "igt", [new[0], old[0]], i1)
        return [
            self._map("select", [take, n, o], tile.tile_type(o).element_type) for n, o in zip(new, old, strict=True)
        ]

    def _online_step(self, op: OnlineOp, state: Sequence[Sequence[SSAValue]] | None) -> list[list[SSAValue]]:
        """The state after one more tile; without a state, the result of the one tile that holds the whole rank.

        A result is one value; the index of an extreme is two, with the extreme first.
        """
        rank = op.over.data
        gauges = op.gauge_indices
        count = len(op.inputs)
        base = self._env(op)
        last = op.step.block.last_op
        assert isinstance(last, YieldOp)
        rest = [n for n in range(len(op.results)) if n not in gauges]
        result: dict[int, list[SSAValue]] = {}
        moved: dict[int, SSAValue] | None = None
        if state is not None and self.walk.lazy and LAG in op.attributes:
            moved = self._lazily_moved(op, gauges[0], base, state)
            result[gauges[0]] = [moved[gauges[0]]]
        for g in [g for g in gauges if g not in result]:
            result[g] = self._fold(op.combiner_names[g], last.values[g], base, (rank,), state[g] if state else None)
        finite = {g: self._finite(op.combiner_names[g], result[g][-1]) for g in gauges}
        make, ranks, storage = dict(base.make), dict(base.ranks), dict(base.storage)
        for g in gauges:
            x = last.values[g]
            if isinstance(x, BlockArgument) and not _is_arg(
                op.combiner_names[g]
            ):  # the lanes that the extreme must not see vanish from the rest as well
                make[x] = lambda x=x, g=g: self._pad(
                    self.scalar(x, base), rank, scalar.identity(op.combiner_names[g], x.type)
                )
        for n, g in enumerate(gauges):
            arg = op.step.block.args[count + n]
            make[arg] = lambda g=g: finite[g]
            ranks[arg] = frozenset(tile.tile_type(finite[g]).names)
            storage[arg] = tile.tile_type(finite[g]).element_type
        env = _Env(make, ranks, storage)
        if state is None:
            for r in rest:
                result[r] = self._fold(op.combiner_names[r], last.values[r], env, (rank,), None)
            return [result[n] for n in range(len(op.results))]
        transported = self._transported(op, state, base, finite) if moved is None else moved.__getitem__
        for r in rest:
            result[r] = self._fold(op.combiner_names[r], last.values[r], env, (rank,), [transported(r)])
        return [result[n] for n in range(len(op.results))]

    def _transported(
        self, op: OnlineOp, state: Sequence[list[SSAValue]], base: _Env, finite: Mapping[int, SSAValue]
    ) -> Callable[[int], SSAValue]:
        """An accumulator that is no gauge, by its result's number, measured from the new gauges."""
        gauges = op.gauge_indices
        rest = [n for n in range(len(op.results)) if n not in gauges]
        args = op.transport.block.args
        env = _Env(
            {
                **{args[n]: (lambda g=g: state[g][-1]) for n, g in enumerate(gauges)},
                **{args[len(gauges) + n]: (lambda g=g: finite[g]) for n, g in enumerate(gauges)},
                **{args[2 * len(gauges) + n]: (lambda r=r: state[r][0]) for n, r in enumerate(rest)},
                **{
                    args[len(gauges) + len(op.results) + n]: base.make[op.step.block.args[i]]
                    for n, i in enumerate(op.row_inputs)
                },
            },
            {},
            {},
        )
        ending = op.transport.block.last_op
        assert isinstance(ending, YieldOp)
        return lambda r: self.scalar(ending.values[rest.index(r)], env)

    def _lazily_moved(self, op: OnlineOp, g: int, base: _Env, state: Sequence[list[SSAValue]]) -> dict[int, SSAValue]:
        """The state, by result, before this tile is added: moved to this tile's extreme if that exceeds the gauge by more
        than the gauge may lag, in any row.  A first extreme exceeds the infinite gauge of a row that has seen nothing.
        """
        last = op.step.block.last_op
        assert isinstance(last, YieldOp)
        combiner, rank = op.combiner_names[g], op.over.data
        (extreme,) = self._fold(combiner, last.values[g], base, (rank,), None)
        before = [held[0] for held in state]  # a gauge that may lag is no place: one value for each result
        kind, lag = tile.tile_type(extreme).element_type, op.attributes[LAG].value.data  # pyright: ignore
        reach = self._map("add" if combiner == "max" else "sub", [before[g], self._constant(lag, kind)], kind)
        condition = self._map("gt" if combiner == "max" else "lt", [extreme, reach], i1)
        for r in tile.tile_type(condition).names:
            condition = self._pad(condition, r, False)
        scope = self._scope_for([condition, *before])
        branch = self._open_branch(scope, before)
        given = list(branch.block.args)
        for a, v in zip(given, before, strict=True):
            self.scope_of[a], a.name_hint = branch, v.name_hint
        table = _COMBINE if is_float(kind) else _COMBINE_INT
        gauge = self._map(table[combiner], [given[g], extreme], kind)
        transported = self._transported(op, [[v] for v in given], base, {g: self._finite(combiner, gauge)})
        moved = [gauge if n == g else transported(n) for n in range(len(given))]
        results = self._close_branch(branch, scope, "any", condition, before, moved)
        return dict(enumerate(results))

    def _finite(self, combiner: str, value: SSAValue) -> SSAValue:
        """The gauge that contributions are taken at: finite while nothing but the neutral element was seen.

        Any finite value does, since all that is measured against it is infinitely far away.
        """
        if combiner not in ("max", "min"):
            return value
        kind = tile.tile_type(value).element_type
        largest = sys.float_info.max if kind == f64 else FLOAT32_MAX
        if combiner == "max":
            return self._map("maximum", [value, self._constant(-largest, kind)], kind)
        return self._map("minimum", [value, self._constant(largest, kind)], kind)

    # --- contractions --------------------------------------------------------------------------------------------

    def _dot(self, value: SSAValue, env: _Env, rank: str, state: SSAValue | None) -> SSAValue | None:
        """Σ over `rank` of a product whose factors fall into two groups with ranks of their own, as a dot; else None."""
        if self._role(rank) == "unit":
            return None
        factors = product_factors(value)
        carried = {f: self._scalar_ranks(f, env) for f in factors}
        inner = [f for f in factors if rank in carried[f]]
        outer = [f for f in factors if rank not in carried[f]]
        sides = split(inner, carried, rank, self.walk.vector_dots)
        if sides is None:
            return None
        left, right = sides
        lhs_ranks = frozenset().union(*(carried[f] for f in left))
        rhs_ranks = frozenset().union(*(carried[f] for f in right))
        after: list[SSAValue] = []
        for f in outer:
            if carried[f] <= lhs_ranks:
                left = [*left, f]
            elif carried[f] <= rhs_ranks:
                right = [*right, f]
            else:
                after.append(f)
        low = self._dot_type([*left, *right], env)
        kept = self.table.ordered([r for r in (*lhs_ranks, *rhs_ranks) if r != rank])
        own = [r for r in kept if (r in lhs_ranks) != (r in rhs_ranks)]
        if own[0] in rhs_ranks:  # rows first, so that the product comes out in the order it is kept in
            left, right, lhs_ranks, rhs_ranks = right, left, rhs_ranks, lhs_ranks
        lhs, rhs = self._side(left, env, rank, low), self._side(right, env, rank, low)
        kind = value.type if value.type != f32 or low is None else f32
        result = tile.TileType.of(kept, kind)
        acc = state if state is not None and not after and state.type == result else None
        operands = [lhs, rhs] if acc is None else [lhs, rhs, acc]
        out = self._emit(("dot", rank), operands, lambda: tile.DotOp(lhs, rhs, rank, result, acc))[0]
        for f in after:
            out = self._map("mul", [out, self.scalar(f, env)], kind)
        if state is not None and acc is None:
            out = self._map("add", [state, out], kind)
        return out

    def _scalar_ranks(self, value: SSAValue, env: _Env) -> frozenset[str]:
        if isinstance(value, BlockArgument):
            return env.ranks[value]
        op = value.owner
        if isinstance(op, IndexOp):
            return frozenset(self.table.ordered(op.expression.ranks))
        return frozenset().union(*(self._scalar_ranks(o, env) for o in op.operands)) if op.operands else frozenset()  # pyright: ignore

    def _dot_type(self, factors: Sequence[SSAValue], env: _Env) -> Attribute | None:
        """The 16-bit type in which the operands were multiplied as written, or None for full precision.

        Of what this kernel computes, zeros and ones are neither: every type holds them.
        """
        if not self.walk.low_precision_dots:
            return None
        stored = [env.storage[f] for f in factors if isinstance(f, BlockArgument) and f in env.storage]
        low = [s for s in stored if isinstance(s, Float16Type | BFloat16Type)]
        wide = [s for s in stored if is_float(s) and not isinstance(s, Float16Type | BFloat16Type)]
        tensors = [s for f, s in ((f, env.storage.get(f)) for f in factors) if s is not None and len(env.ranks[f]) > 1]
        return low[0] if low and not any(w in tensors for w in wide) else None

    def _side(self, factors: Sequence[SSAValue], env: _Env, rank: str, low: Attribute | None) -> SSAValue:
        if len(factors) == 1 and isinstance(factors[0], BlockArgument):
            raw = env.make[factors[0]]()
            value = self._convert(raw, low if low is not None else factors[0].type)
            return self._pad(self._spread(value, factors, env), rank, 0.0)
        value = self.scalar(factors[0], env)
        for f in factors[1:]:
            value = self._map("mul", [value, self.scalar(f, env)], value.type.element_type)  # pyright: ignore
        value = self._pad(self._spread(value, factors, env), rank, 0.0)
        return self._convert(value, low) if low is not None else value

    def _spread(self, value: SSAValue, factors: Sequence[SSAValue], env: _Env) -> SSAValue:
        """One side of a dot with all of its ranks, also where a mask is known to be one number."""
        ranks = self.table.ordered(frozenset().union(*(self._scalar_ranks(f, env) for f in factors)))
        return self._broadcast(value, ranks) if set(ranks) - set(tile.tile_type(value).names) else value


def _is_arg(combiner: str) -> bool:
    return combiner in ("argmax", "argmin")


def _by_result(op: EinsumOp | OnlineOp, state: list[SSAValue]) -> list[list[SSAValue]]:
    """What `op` carries, taken from the front of a loop's state: for each result its value, or an extreme and its index."""
    return [[state.pop(0) for _ in range(2 if _is_arg(c) else 1)] for c in op.combiner_names]


def _out_ranks(value: SSAValue) -> tuple[str, ...]:
    return value.owner.out_ranks(value.index)  # pyright: ignore


def _holds(wide: Attribute, narrow: Attribute) -> bool:
    """Whether each number of a type is one of the other, so that there and back changes nothing."""
    return is_float(wide) and is_float(narrow) and element_bits(wide) > element_bits(narrow)
