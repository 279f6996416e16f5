"""one-hot: a map that is zero but at one place of a rank forgets what it would read at the others.

When: on a whole program, before the order of sums is chosen, on maps that are zero where s is not the place of an extreme, and
that read what the extreme is taken of.

Before:  z = log1p(x);  i = argmax_s z;  p[s] = (s = i ? g : 0) / (x[s] + 1)
After:   r = max_s x;   w = g / (r + 1); p[s] = s ≠ i ? 0 : w

Why legal: 0 · y = 0, 0 / y = 0, and at s = i the element x[s] is the largest, for z increases strictly with x.  This holds
in real arithmetic: where y is NaN at a place that did not win, p was NaN and is 0.  Why cheaper: p can be computed again
wherever it is read, from two values for each row, and need not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import sympy
from xdsl.dialects.builtin import i1
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, RankSpace, compute_type, is_float
from ..ir.cascade import MAP, EinsumOp, IndexOp, ProgramOp, YieldOp
from .canonicalise import erase_dead
from .outline import label
from .pass_classes import ProgramPass
from .reassociate import Rewrite

LARGEST = 256  # scalar operations in a map with all that it reads through maps
INCREASING = ("exp", "exp2", "expm1", "log", "log2", "log1p")  # strictly, in floating point too
READ, INDEX = "read", "index"
CERTIFICATE = "zero but at one place of a rank; there, what the extreme was taken of is the extreme"


@dataclass(frozen=True)
class OneHot(ProgramPass):
    """Rewrite every program of a module."""

    name = "one-hot"

    def on_program(self, program: ProgramOp) -> None:
        one_hot(program)


@dataclass(frozen=True)
class Node:
    """A scalar as an expression.  name: a function of the scalar table, a constant, a read or an index.

    what: the number of a constant, the expression of an index, the value and the access of a read.
    """

    name: str
    type: Attribute
    args: tuple[Node, ...] = ()
    what: object = None

    @property
    def read(self) -> tuple[SSAValue, AccessMap] | None:
        return self.what if self.name == READ else None  # type: ignore[return-value]

    def known(self, *numbers: float) -> bool:
        """Whether it is a constant, one of these."""
        return self.name == scalar.CONSTANT and self.what in numbers

    def carries(self, rank: str) -> bool:
        """Whether it depends on a rank."""
        if self.read is not None:
            return rank in self.read[1].ranks
        if self.name == INDEX:
            return rank in symbols.names(self.what)  # type: ignore[arg-type]
        return any(a.carries(rank) for a in self.args)

    def walk(self) -> Iterator[Node]:
        yield self
        for a in self.args:
            yield from a.walk()


@dataclass(frozen=True)
class Extreme:
    """Where along `rank` a value is largest or smallest.

    op: the reduction.  place: its result.  sources: values that put the elements in the same order, with how op reads them.
    """

    op: EinsumOp
    n: int
    rank: str
    sources: Mapping[SSAValue, AccessMap]

    @property
    def place(self) -> SSAValue:
        return self.op.results[self.n]

    @property
    def combiner(self) -> str:
        return self.op.combiner_names[self.n].removeprefix("arg")


def one_hot(program: ProgramOp) -> list[Rewrite]:
    """Rewrite in place."""
    block = program.body.block
    rewrites: list[Rewrite] = []
    for op in list(block.ops):
        for extreme in _extremes(op):
            for top in _last_maps(extreme.place):
                ops = _rewritten(top, extreme)
                if ops:
                    block.insert_ops_before(ops, top)
                    old, new = top.results[0], ops[-1].results[0]
                    old.replace_all_uses_with(new)
                    new.name_hint = old.name_hint
                    rewrites.append(Rewrite(old, new, tuple(ops), label(top), CERTIFICATE))
    if rewrites:
        erase_dead(block)
    return rewrites


def _extremes(op: Operation) -> Iterator[Extreme]:
    if not isinstance(op, EinsumOp) or len(op.reduced) != 1:
        return
    for n, combiner in enumerate(op.combiner_names):
        value = op.yields[n]
        if combiner in ("argmax", "argmin") and isinstance(value, BlockArgument):
            source, access = op.operand_accesses[value.index]
            sources = {}
            while access.bare() is not None:
                sources[source] = access
                owner = source.owner
                if not (isinstance(owner, EinsumOp) and owner.is_map and len(owner.inputs) == 1):
                    break
                *functions, _ = map(scalar.name_of, owner.body.block.ops)  # none where it hands on what it reads
                if len(owner.results) != 1 or len(functions) != 1 or functions[0] not in INCREASING:
                    break
                at = dict(zip(owner.out_ranks(), access.data, strict=True))
                source, access = owner.inputs[0], owner.accesses.data[0].substitute(at)
            yield Extreme(op, n, op.reduced[0], sources)


def _last_maps(place: SSAValue) -> list[EinsumOp]:
    """The maps that are computed from it through maps, and that something else reads than such a map."""
    found: dict[EinsumOp, None] = {}
    pending = [place]
    while pending:
        for use in pending.pop().uses:
            op = use.operation
            if isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1 and op not in found:
                found[op] = None
                pending.extend(op.results)
    return [op for op in found if any(u.operation not in found for u in op.results[0].uses)]


def _rewritten(top: EinsumOp, extreme: Extreme) -> list[EinsumOp]:
    """The operations that give the map in another way; none where it is not zero elsewhere, or reads nothing to forget."""
    if not is_float(top.results[0].type.element_type):  # pyright: ignore
        return []
    try:
        tree = _Trees(extreme).of(top)
    except OverflowError:
        return []
    for rank in top.ranks.names:
        place = _nonzero_at(tree, rank)
        if not isinstance(place, Node):
            continue
        found = _at_the_place(tree, place, rank, extreme)
        if found is not None:
            return _written(top, rank, place, *found)
    return []


# --- maps as expressions ------------------------------------------------------------------------------------------


class _Trees:
    """Expressions of maps, with the maps that they read in the place of those reads."""

    def __init__(self, extreme: Extreme):
        self.extreme, self.left = extreme, LARGEST

    def of(self, op: EinsumOp) -> Node:
        return self._scalar(op.yields[0], op, {r: symbols.symbol(r) for r in op.ranks.names})

    def _scalar(self, value: SSAValue, op: EinsumOp, at: Mapping[str, sympy.Expr]) -> Node:
        self.left -= 1
        if self.left < 0:
            raise OverflowError
        if isinstance(value, BlockArgument):
            source, access = op.operand_accesses[value.index]
            return self._read(source, access.substitute(at), value.type)
        inner = value.owner
        assert isinstance(inner, Operation)
        if isinstance(inner, IndexOp):
            return Node(INDEX, value.type, (), inner.expression.substitute(at).data[0])
        name = scalar.name_of(inner)
        assert name is not None
        if name == scalar.CONSTANT:
            return Node(name, value.type, (), scalar.constant_value(inner))
        return self._simpler(Node(name, value.type, tuple(self._scalar(o, op, at) for o in inner.operands)))

    def _read(self, source: SSAValue, access: AccessMap, kind: Attribute) -> Node:
        owner = source.owner
        inlined = isinstance(owner, EinsumOp) and owner.is_map and len(owner.results) == 1
        if not inlined or source in self.extreme.sources:
            return Node(READ, kind, (), (source, access))
        assert isinstance(owner, EinsumOp)
        return self._scalar(owner.yields[0], owner, dict(zip(owner.out_ranks(), access.data, strict=True)))

    def _simpler(self, node: Node) -> Node:
        """The place of an extreme counts from the start of the rank."""
        if node.name == "ilt" and node.args[1].known(0):
            read = node.args[0].read
            if read is not None and read[0] is self.extreme.place:
                return Node(scalar.CONSTANT, i1, (), False)
        return _chosen(node)


def _chosen(node: Node) -> Node:
    if node.name == "select" and node.args[0].name == scalar.CONSTANT:
        return node.args[1] if node.args[0].what else node.args[2]
    return node


def _nonzero_at(node: Node, rank: str) -> Node | bool:
    """The condition `rank = i` without which an expression is zero; True when it always is, False when it need not be."""
    if node.name == scalar.CONSTANT:
        return node.known(0)
    parts = [_nonzero_at(a, rank) for a in node.args]
    if node.name == "select":
        condition, yes, no = node.args[0], *parts[1:]
        if no is True and _is_place(condition, rank):
            return condition
        return _both(yes, no)
    if node.name in ("add", "sub"):
        return _both(*parts)
    if node.name == "mul":
        return True if True in parts else parts[0] or parts[1]
    return parts[0] if node.name in ("div", "neg", "widen", "narrow") else False


def _both(a: Node | bool, b: Node | bool) -> Node | bool:
    if a is True or b is True:
        return b if a is True else a
    return a if a == b else False


def _is_place(condition: Node, rank: str) -> bool:
    if condition.name != "ieq":
        return False
    here, there = condition.args
    return here.name == INDEX and here.what == symbols.symbol(rank) and not there.carries(rank)


def _at_the_place(tree: Node, place: Node, rank: str, extreme: Extreme) -> tuple[Node, dict[SSAValue, EinsumOp]] | None:
    """The expression where the condition holds, with extremes for what they are taken of; None when nothing is."""
    there = place.args[1].read
    if there is None or there[0] is not extreme.place:
        return None
    at = dict(zip(extreme.op.out_ranks(extreme.n), there[1].data, strict=True)) | {extreme.rank: symbols.symbol(rank)}
    made: dict[SSAValue, EinsumOp] = {}

    def visit(node: Node) -> Node:
        if node == place:
            return Node(scalar.CONSTANT, i1, (), True)
        if node.read is not None:
            source, access = node.read
            if source in extreme.sources and access == extreme.sources[source].substitute(at):
                if source not in made:
                    made[source] = _extreme_of(source, extreme)
                return replace(node, what=(made[source].results[0], there[1]))
            return node
        return _chosen(replace(node, args=tuple(map(visit, node.args))))

    found = visit(tree)
    return (found, made) if made else None


def _extreme_of(source: SSAValue, extreme: Extreme) -> EinsumOp:
    kind = source.type.element_type  # pyright: ignore
    body = Block(arg_types=[compute_type(kind)])
    body.add_op(YieldOp(body.args[0]))
    out = (extreme.combiner, extreme.op.out_maps.data[extreme.n], kind)
    op = EinsumOp(extreme.op.ranks, [(source, extreme.sources[source])], [out], Region(body))
    op.results[0].name_hint = f"{source.name_hint}_{extreme.combiner}" if source.name_hint else None
    return op


# --- expressions as maps ------------------------------------------------------------------------------------------


def _written(top: EinsumOp, rank: str, place: Node, value: Node, made: Mapping[SSAValue, EinsumOp]) -> list[EinsumOp]:
    """The extremes, what is the same all along the rank, and the map."""
    ops = list(made.values())
    element = top.results[0].type.element_type  # pyright: ignore

    def outside(node: Node) -> Node:
        if node.args and is_float(node.type) and not node.carries(rank):
            names = [r for r in top.ranks.names if node.carries(r)]
            op = _map_of(node, RankSpace(tuple((r, top.extents[r]) for r in names)), names, element)
            ops.append(op)
            return Node(READ, node.type, (), (op.results[0], AccessMap.of(names)))
        return replace(node, args=tuple(map(outside, node.args)))

    zero = Node(scalar.CONSTANT, value.type, (), 0.0)
    elsewhere = Node("ine", i1, place.args)
    whole = Node("select", value.type, (elsewhere, zero, outside(value)))
    return [*ops, _map_of(whole, top.ranks, top.out_ranks(), element)]


def _map_of(node: Node, ranks: RankSpace, out: Sequence[str], element: Attribute) -> EinsumOp:
    reads = list(dict.fromkeys(n.read for n in node.walk() if n.read is not None))
    block = Block(arg_types=[compute_type(v.type.element_type) for v, _ in reads])  # pyright: ignore
    known: dict[Node, SSAValue] = {}

    def write(n: Node) -> SSAValue:
        if n.read is not None:
            return block.args[reads.index(n.read)]
        if n not in known:
            if n.name == INDEX:
                op: Operation = IndexOp(n.what)  # type: ignore[arg-type]
            elif n.name == scalar.CONSTANT:
                op = scalar.constant(n.what, n.type)  # type: ignore[arg-type]
            else:
                op = scalar.build(n.name, [write(a) for a in n.args], n.type)
            block.add_op(op)
            known[n] = op.results[0]
        return known[n]

    block.add_op(YieldOp(write(node)))
    return EinsumOp(ranks, reads, [(MAP, AccessMap.of(out), element)], Region(block))
