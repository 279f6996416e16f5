"""Bounds of a streamed rank that data decides: what finds them, ahead of the kernel that walks within them.

When: every contribution that a kernel folds over its streamed rank is, by algebra, neutral wherever a predicate P of loaded
values is false, and P is computed from the kernel's arguments alone.

Before:  m, l, o = online over j { s = where(ids[i] == ids[j], q k, -inf) ... }
After:   find:  first = min over j of (P ? j : n);   last = max over j of (P ? j + 1 : 0)       for each row
         walk:  tile.for j from 0 to n within min first, max last (over the rows of the tile) { ... }

Why legal: what lies before the first or behind the last index at which P holds for some row of a tile is neutral for all of
its rows, as for bounds that indices give (`index_predicates.py`): folding it leaves the state what it was.  Rows may come in
any order, and need no such index: the range covers what is open, and a tile of closed rows takes no step.
Why cheaper: P has fewer ranks than what it masks (no features, often no heads), and a loop within bounds has no conditions,
so its loads are asked for in advance; what is left out is not even tested.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr, i1, i64
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, RankSpace, TensorType
from ..ir.cascade import EinsumOp, IndexOp, KernelOp, OnlineOp, ReturnOp, YieldOp
from .algebra.forms import Refused
from .closed_tiles import ALL, leaves, opening_test, to_text, write
from .index_predicates import Equals, Predicate
from .levels import reduced_ranks
from .neutral import Neutral
from .split_reduction import as_program
from .walk import Within


@dataclass(frozen=True)
class DataBounds:
    """A kernel in two: `find` returns where each row is open along `rank` (first index, one past the last), `walk` is the
    kernel itself with those two as its last arguments.

    Neither has operands.  reads: which arguments of the kernel `find` takes.  accesses: where it reads them.  within: how
    `walk` reads its bounds.
    """

    find: KernelOp
    walk: KernelOp
    reads: tuple[int, ...]
    accesses: tuple[AccessMap, ...]
    within: Within


def data_bounds(kernel: KernelOp, rank: str, asked: str) -> DataBounds | Refused:
    """The bounds of `rank`, which `kernel` folds.  asked: of what data, as in `closed_tiles.py`.  The kernel stays as it is."""
    neutral = Neutral(kernel, data=True)
    ops = [o for o in kernel.body.block.ops if isinstance(o, EinsumOp | OnlineOp)]
    folding = [o for o in ops if rank in reduced_ranks(o)]
    test = opening_test(neutral, folding, rank, asked) if folding else None
    if test is None:
        return Refused(f"no data says where a step along {rank} may be left out")
    body = _Body(neutral)
    open_ = body.predicate(test)
    if isinstance(open_, Refused):
        return open_
    read = {r for _, access in body.inputs for r in access.ranks} | body.indexed
    order = dict.fromkeys([*(r for v in kernel.returned for r in v.owner.out_ranks(v.index)), *neutral.extents])  # pyright: ignore
    rows = tuple(r for r in order if r in read and r != rank)
    if rank not in read:
        return Refused(f"what data says is the same all along {rank}")
    extent = neutral.extents[rank]
    here, after, end = (IndexOp(e) for e in (symbols.symbol(rank), symbols.symbol(rank) + 1, extent))
    zero = scalar.constant(0, i64)
    first = scalar.build("select", [open_, here.results[0], end.results[0]])
    last = scalar.build("select", [open_, after.results[0], zero.results[0]])
    body.block.add_ops([here, after, end, zero, first, last, YieldOp(first.results[0], last.results[0])])

    block = Block()
    reads = tuple(sorted({v.index for v, _ in body.inputs}))  # pyright: ignore
    of = {}
    for n in reads:
        old = kernel.body.block.args[n]
        of[old] = block.insert_arg(old.type, len(block.args))
        of[old].name_hint = old.name_hint
    space = RankSpace(tuple((r, neutral.extents[r]) for r in (*rows, rank)))
    outs = [(combiner, AccessMap.of(rows), i64) for combiner in ("min", "max")]
    op = EinsumOp(space, [(of[v], a) for v, a in body.inputs], outs, Region(body.block))
    for result, name in zip(op.results, ("first", "last"), strict=True):
        result.name_hint = name
    block.add_ops([op, ReturnOp(*op.results)])
    attributes = {k: v for k, v in kernel.attributes.items() if k == "stream"}
    find = KernelOp(f"{kernel.sym_name.data}_bounds", [], Region(block), dict(attributes))
    within = Within(rank, len(kernel.body.block.args), rows, to_text(test, neutral))
    return DataBounds(find, _with_bounds(kernel, op), reads, tuple(access for _, access in body.inputs), within)


def _with_bounds(kernel: KernelOp, found: EinsumOp) -> KernelOp:
    body = kernel.body.clone()
    for result in found.results:
        kind = result.type
        assert isinstance(kind, TensorType)
        argument = body.block.insert_arg(TensorType.of(kind.dims, kind.element_type), len(body.block.args))
        argument.name_hint = result.name_hint
    return KernelOp(kernel.sym_name.data, [], body, dict(kernel.attributes))


class _Body:
    """A map region that computes a predicate of the kernel's arguments; `inputs` are what it reads."""

    def __init__(self, neutral: Neutral):
        self.neutral = neutral
        self.block = Block()
        self.inputs: list[tuple[BlockArgument, AccessMap]] = []
        self.indexed: set[str] = set()
        self.made: dict[SSAValue, SSAValue] = {}
        self.read: dict[tuple[SSAValue, AccessMap], SSAValue] = {}

    def predicate(self, test: Predicate) -> SSAValue | Refused:
        for leaf in leaves(test):
            refused = self._copy(leaf.value)
            if refused is not None:
                return refused
        return write(test, self._leaf, lambda name, a, b: self._add(scalar.build(name, [a, b])))

    def _leaf(self, e: Equals) -> SSAValue:
        value = self.made[e.value]
        if value.type == i1:
            return value if e.so == e.number else self._add(scalar.build("xor", [value, self._constant(True, i1)]))
        return self._add(scalar.build("eq" if e.so else "ne", [value, self._constant(e.number, value.type)]))

    def _constant(self, number: float | int | bool, kind) -> SSAValue:
        return self._add(scalar.constant(number, kind))

    def _add(self, op: Operation) -> SSAValue:
        self.block.add_op(op)
        return op.results[0]

    def _copy(self, value: SSAValue) -> Refused | None:
        """Compute a scalar of some map region of the kernel here: through maps, down to what the kernel is given."""
        if value in self.made:
            return None
        if isinstance(value, BlockArgument):
            if value not in self.neutral.arguments:
                return Refused("what data says waits for a fold")
            tensor, access = self.neutral.arguments[value]
            if isinstance(tensor, BlockArgument):
                if (tensor, access) not in self.read:
                    self.read[tensor, access] = self.block.insert_arg(value.type, len(self.block.args))
                    self.inputs.append((tensor, access))
                self.made[value] = self.read[tensor, access]
                return None
            maker = tensor.owner
            if not isinstance(maker, EinsumOp) or not maker.is_map:
                return Refused("what data says waits for a reduction")
            inner = maker.yields[tensor.index]  # pyright: ignore
            if inner.type != value.type:
                return Refused("what data says is rounded on the way")
            refused = self._copy(inner)
            if refused is None:
                self.made[value] = self.made[inner]
            return refused
        op = value.owner
        assert isinstance(op, Operation)
        for operand in op.operands:
            refused = self._copy(operand)
            if refused is not None:
                return refused
        if isinstance(op, IndexOp):
            self.indexed |= set(op.expression.ranks) & set(self.neutral.extents)
        copy = op.clone(dict(self.made))
        self.block.add_op(copy)
        self.made.update(zip(op.results, copy.results, strict=True))
        return None


@dataclass(frozen=True)
class DataBoundsPass(ModulePass):
    """For every kernel that streams a rank, add what finds its bounds to the module, as a program.

    What no data bounds keeps its place, with the reason in its attribute `unbounded`.
    """

    name = "data-bounds"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for kernel in [k for k in op.walk() if isinstance(k, KernelOp) and k.streamed]:
            found = data_bounds(kernel, kernel.streamed, ALL)
            if isinstance(found, Refused):
                kernel.attributes["unbounded"] = StringAttr(found.reason)
            else:
                op.body.block.add_op(as_program(found.find))


__all__ = ["DataBounds", "DataBoundsPass", "data_bounds"]
