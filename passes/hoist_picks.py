"""hoist-picks: what is made of an element that is chosen by its index is made once, of the chosen element.

When: a sum over the streamed rank k that lets one element through, the one at an index t that does not depend on k, of a
value that reads earlier reductions over k.

Before:  y = Σ_k { g(x_k, d) where k = t, else 0 }         d: results of reductions over k
After:   x' = Σ_k { x_k where k = t, else 0 };  y = g(x', d) where 0 <= t < n, else 0

Why legal: the sum has at most one term that is not 0, so every function of one element may be applied behind it; nothing is
rounded that was not, and NaN and infinities come through.  Why cheaper: x' waits for no other reduction, so the sum needs no
moments, and g runs once for each row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xdsl.dialects.builtin import i1, i64
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, RankSpace, compute_type, is_float
from ..ir.cascade import MAP, EinsumOp, IndexOp, KernelOp, YieldOp
from .algebra.expressions import Place
from .canonicalise import erase_dead, share_equal
from .order import sort_block
from .row_algebra import RowAlgebra, Unreachable


@dataclass(frozen=True)
class _Pick:
    """The parts of { value where hit, else 0 }; `at` is the index that `hit` compares the rank with."""

    hit: SSAValue
    at: SSAValue
    value: SSAValue


class _Stays(Exception):
    """The value reads the rank as a number, or through an operation that is no map."""


def hoist_picks(kernel: KernelOp, rank: str) -> list[str]:
    """Hoist what is made of picked elements of `rank`, in place; returns a certificate for each rewrite."""
    certificates: list[str] = []
    for op in list(kernel.body.block.ops):
        pick = _pick(op, rank)
        if pick is None:
            continue
        assert isinstance(op, EinsumOp)
        algebra = RowAlgebra(kernel, rank)
        name = op.results[0].name_hint or "sum"
        if (extreme := _extreme_at(pick, op, algebra)) is not None:
            Rewriter.insert_op(extreme, InsertPoint.before(op))
            op.results[0].replace_all_uses_with(extreme.results[0])
            certificates.append(
                f"{name}: what is the largest or the smallest, at the place where it is that, is the extreme"
            )
            continue
        if not algebra.depends(pick.value):
            continue
        try:
            new = _hoisted(op, pick, rank, algebra)
        except _Stays:
            continue
        Rewriter.insert_op(new, InsertPoint.before(op))
        op.results[0].replace_all_uses_with(new[-1].results[0])
        certificates.append(f"{name}: Σ_{rank} [{rank} = t] g(x, d) = [0 <= t < n] g(Σ_{rank} [{rank} = t] x, d)")
    if certificates:
        erase_dead(kernel.body.block)
        sort_block(kernel.body.block)
        share_equal(kernel.body.block)
        erase_dead(kernel.body.block)
    return certificates


def _pick(op: Operation, rank: str) -> _Pick | None:
    """The pick that an operation is, if it is one."""
    if not isinstance(op, EinsumOp) or op.reduced != (rank,) or op.combiner_names != ("sum",):
        return None
    choice = op.yields[0].owner
    if not isinstance(choice, Operation) or scalar.name_of(choice) != "select" or not is_float(op.yields[0].type):
        return None
    hit, value, other = choice.operands
    test = hit.owner
    if _number(other) != 0 or not isinstance(test, Operation) or scalar.name_of(test) != "ieq":
        return None
    for here, at in (test.operands, tuple(reversed(test.operands))):
        index = here.owner
        if isinstance(index, IndexOp) and index.expr == symbols.symbol(rank) and not _carries(at, rank):
            return _Pick(hit, at, value)
    return None


def _extreme_at(pick: _Pick, op: EinsumOp, algebra: RowAlgebra) -> EinsumOp | None:
    """The extreme itself, when what is picked is that of which the index is the place of the extreme."""
    if not algebra.depends(pick.at):
        return None
    try:
        place = algebra.scalar(pick.at)
        found = next((v for v, s in algebra.name_of.items() if s == place), None)
        if not isinstance(place, Place) or found is None:
            return None
        ordered = found.owner
        assert isinstance(ordered, EinsumOp)
        value = ordered.yields[found.index]  # pyright: ignore
        if ordered.out_ranks(0) != op.out_ranks(0) or algebra.scalar(value) != algebra.scalar(pick.value):
            return None
    except Unreachable:
        return None
    combiner = ordered.combiner_names[found.index].removeprefix("arg")  # pyright: ignore
    body = ordered.body.clone()
    last = body.block.last_op
    assert isinstance(last, YieldOp)
    chosen = last.values[found.index]  # pyright: ignore
    Rewriter.erase_op(last)
    body.block.add_op(YieldOp(chosen))
    out = (combiner, op.out_maps.data[0], op.results[0].type.element_type)  # pyright: ignore
    new = EinsumOp(ordered.ranks, ordered.operand_accesses, [out], body, dict(op.attributes))
    new.results[0].name_hint = op.results[0].name_hint
    return new


def _number(value: SSAValue) -> float | int | bool | None:
    owner = value.owner
    known = isinstance(owner, Operation) and scalar.name_of(owner) == scalar.CONSTANT
    return scalar.constant_value(owner) if known else None  # pyright: ignore


def _carries(value: SSAValue, rank: str) -> bool:
    if isinstance(value, BlockArgument):
        op = value.block.parent_op()
        assert isinstance(op, EinsumOp)
        return rank in op.accesses.data[value.index].ranks
    op = value.owner
    if isinstance(op, IndexOp):
        return rank in op.expression.ranks
    return any(_carries(o, rank) for o in op.operands)  # pyright: ignore


class _Region:
    """A region under construction: scalars of other regions copied into one block, with what they read."""

    def __init__(self) -> None:
        self.block = Block()
        self.inputs: list[tuple[SSAValue, AccessMap]] = []
        self.known: dict[SSAValue, SSAValue] = {}
        self.ranks: dict[str, None] = {}

    def read(self, value: SSAValue, access: AccessMap) -> SSAValue:
        for argument, known in zip(self.block.args, self.inputs, strict=True):
            if known == (value, access):
                return argument
        self.inputs.append((value, access))
        self.ranks.update(dict.fromkeys(access.ranks))
        element = value.type.element_type  # pyright: ignore
        return self.block.insert_arg(compute_type(element), len(self.block.args))

    def add(self, op: Operation) -> SSAValue:
        self.block.add_op(op)
        return op.results[0]

    def copy(self, value: SSAValue, other: Callable[[SSAValue], SSAValue | None] = lambda value: None) -> SSAValue:
        """`value` in this block.  other: what stands for a scalar instead of a copy, if something does."""
        if value not in self.known:
            found = other(value)
            self.known[value] = self._copy(value, other) if found is None else found
        return self.known[value]

    def _copy(self, value: SSAValue, other: Callable[[SSAValue], SSAValue | None]) -> SSAValue:
        if isinstance(value, BlockArgument):
            op = value.block.parent_op()
            assert isinstance(op, EinsumOp)
            return self.read(*op.operand_accesses[value.index])
        inner = value.owner
        assert isinstance(inner, Operation)
        operands = {o: self.copy(o, other) for o in inner.operands}
        if isinstance(inner, IndexOp):
            self.ranks.update(dict.fromkeys(inner.expression.ranks))
        return self.add(inner.clone(dict(operands)))

    def einsum(self, op: EinsumOp, result: SSAValue, combiner: str, out: list[str], element) -> EinsumOp:
        """An operation over ranks of `op` that this region is the map of."""
        self.block.add_op(YieldOp(result))
        reduced = list(op.reduced) if combiner != MAP else []
        space = RankSpace(tuple((r, op.extents[r]) for r in [*out, *reduced]))
        return EinsumOp(space, self.inputs, [(combiner, AccessMap.of(out), element)], Region(self.block))


def _hoisted(op: EinsumOp, pick: _Pick, rank: str, algebra: RowAlgebra) -> list[EinsumOp]:
    """The picks of all that the value is made of, then what is made of them."""
    picks: list[EinsumOp] = []
    rows = list(op.out_ranks(0))
    behind = _Region()

    def picked(leaf: SSAValue) -> SSAValue:
        region = _Region()
        hit = region.copy(pick.hit)
        value = region.copy(leaf)
        zero = region.add(scalar.constant(0, value.type))
        chosen = region.add(scalar.build("select", [hit, value, zero]))
        if not region.ranks.keys() <= {*rows, rank}:
            raise _Stays
        picks.append(region.einsum(op, chosen, "sum", [r for r in rows if r in region.ranks], value.type))
        picks[-1].results[0].name_hint = op.results[0].name_hint
        return behind.read(picks[-1].results[0], AccessMap.of(picks[-1].out_ranks(0)))

    def instead(value: SSAValue) -> SSAValue | None:
        if not algebra.carries(value):
            return None
        if not algebra.depends(value):
            if not is_float(value.type):
                raise _Stays
            return picked(value)
        if isinstance(value, BlockArgument):
            reader = value.block.parent_op()
            assert isinstance(reader, EinsumOp)
            source, access = reader.operand_accesses[value.index]
            maker = source.owner
            if not isinstance(maker, EinsumOp) or not maker.is_map or access.bare() != maker.out_ranks(source.index):  # pyright: ignore
                raise _Stays
            return behind.copy(maker.yields[source.index], instead)  # pyright: ignore
        return None

    value = behind.copy(pick.value, instead)
    at = behind.copy(pick.at)
    start, end = behind.add(scalar.constant(0, i64)), behind.add(IndexOp(op.extents[rank]))
    inside = [behind.add(scalar.build("ige", [at, start])), behind.add(scalar.build("ilt", [at, end]))]
    hit = behind.add(scalar.build("and", inside))
    assert hit.type == i1
    chosen = behind.add(scalar.build("select", [hit, value, behind.add(scalar.constant(0, value.type))]))
    if not behind.ranks.keys() <= set(rows):
        raise _Stays
    made = behind.einsum(op, chosen, MAP, rows, op.results[0].type.element_type)  # pyright: ignore
    made.attributes.update(op.attributes)
    made.results[0].name_hint = op.results[0].name_hint
    return [*picks, made]
