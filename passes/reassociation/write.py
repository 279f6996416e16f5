"""A contraction order as operations in a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from ...ir import scalar, symbols
from ...ir.attributes import AccessMap, RankSpace, TensorType, compute_type
from ...ir.cascade import MAP, EinsumOp, YieldOp
from .order import Prices, Tree
from .terms import Expr, Network, Term


@dataclass(frozen=True)
class Read:
    """An operand of an operation to be written: a value at index expressions over ranks."""

    value: SSAValue
    access: tuple[Expr, ...]

    @staticmethod
    def of(value: SSAValue, ranks: Sequence[str]) -> Read:
        return Read(value, tuple(symbols.symbol(r) for r in ranks))


Body = Callable[[Block, Sequence[SSAValue]], SSAValue]


@dataclass
class Writer:
    """Collects the operations of one rewrite; the caller puts them into a block, in order."""

    extents: dict[str, Expr]
    element: Attribute
    hint: str
    ops: list[EinsumOp] = field(default_factory=list)

    def einsum(
        self, combiner: str, reads: Sequence[Read], out: Sequence[str], body: Body, last: bool = False
    ) -> SSAValue:
        """combiner over what `body` makes of the elements read, with dimensions `out`."""
        block = Block(arg_types=[compute_type(r.value.type.element_type) for r in reads])  # pyright: ignore
        block.add_op(YieldOp(body(block, block.args)))
        names = list(dict.fromkeys([*out, *(n for r in reads for n in AccessMap(r.access).ranks if n in self.extents)]))
        space = RankSpace(tuple((n, self.extents[n]) for n in names))
        inputs = [(r.value, AccessMap(r.access)) for r in reads]
        op = EinsumOp(space, inputs, [(combiner, AccessMap.of(out), self.element)], Region(block))
        op.results[0].name_hint = self.hint if last else f"{self.hint}_part"
        self.ops.append(op)
        return op.results[0]


def call(block: Block, name: str, *operands: SSAValue) -> SSAValue:
    op = scalar.build(name, operands)
    block.add_op(op)
    return op.results[0]


def number(block: Block, value: float, kind: Attribute) -> SSAValue:
    op = scalar.constant(value, kind)
    block.add_op(op)
    return op.results[0]


def write_network(net: Network, trees: Sequence[Tree | None], prices: Prices, early: bool = False) -> list[EinsumOp]:
    """The operations that compute `net`, one tree a term (None: a constant); the last one has the root's type.

    early: apply a constant factor below 1 to an operand, so that what follows stays small.
    """
    kind = net.root.type
    assert isinstance(kind, TensorType)
    w = Writer(net.extents, kind.element_type, net.root.name_hint or "r")
    if len(net.terms) == 1 and trees[0] is not None and trees[0].sides is not None:
        term, tree = net.terms[0], trees[0]
        place = None
        if term.coefficient != 1:
            place = min(_places(tree, early and abs(term.coefficient) < 1), key=lambda t: prices.points(t.ranks))
        if place is not tree:
            _Product(w, term, place).write(tree, net.out)
            return w.ops
    parts: list[tuple[float, Read | None]] = []
    for term, tree in zip(net.terms, trees, strict=True):
        parts.append((term.coefficient, None if tree is None else _Product(w, term, None).write(tree, None)))
    reads = [r for _, r in parts if r is not None]

    def total(block: Block, args: Sequence[SSAValue]) -> SSAValue:
        element = compute_type(kind.element_type)
        values, result = iter(args), None
        for c, read in parts:
            value = number(block, c, element) if read is None else next(values)
            negative = result is not None and read is not None and c == -1
            if read is not None and c != 1 and not negative:
                value = call(block, "mul", value, number(block, c, element))
            result = value if result is None else call(block, "sub" if negative else "add", result, value)
        assert result is not None
        return result

    w.einsum(MAP, reads, net.out, total, last=True)
    return w.ops


def _places(tree: Tree, leaves: bool) -> list[Tree]:
    """The values that a constant factor may be applied to."""
    if tree.sides is None:
        return [tree]
    below = [t for side in tree.sides for t in _places(side, leaves)]
    return below if leaves else [tree, *below]


class _Product:
    """Writes one term; its constant factor is applied to the value of the tree `scaled`."""

    def __init__(self, w: Writer, term: Term, scaled: Tree | None):
        self.w, self.term, self.scaled = w, term, scaled

    def write(self, tree: Tree, out: Sequence[str] | None) -> Read:
        """The value of `tree`, its dimensions in the order `out` (None: any); read at bare ranks, or a leaf as it is."""
        if tree.sides is None:
            assert tree.leaf is not None
            factor = self.term.factors[tree.leaf]
            read = Read(factor.value, factor.access)
            own = factor.ranks(self.w.extents)
            if own != tree.ranks:
                kept = [r for r in self.w.extents if r in tree.ranks]
                read = Read.of(self.w.einsum("sum", [read], kept, lambda _, args: args[0]), kept)
            elif factor.power == -1 and out is not None:
                return read
            return self._scaled(tree, read)
        a, b = tree.sides
        inverse = self._inverse(b)
        if self._inverse(a) or (not inverse and self._first(b, a) < self._first(a, b)):
            a, b, inverse = b, a, inverse or self._inverse(a)
        reads = [self.write(a, None), self.write(b, None)]
        reduced = (a.ranks | b.ranks) - tree.ranks
        names = list(out) if out is not None else _order(a.ranks, b.ranks, tree.ranks, self.w.extents)
        name = "div" if inverse else "mul"
        combiner = "sum" if reduced else MAP
        body: Body = lambda block, args: call(block, name, *args)  # noqa: E731
        return self._scaled(tree, Read.of(self.w.einsum(combiner, reads, names, body, out is not None), names))

    def _first(self, side: Tree, other: Tree) -> int:
        """The place of the side's own first rank: rows before columns, as the result has them."""
        names = list(self.w.extents)
        return min((names.index(r) for r in side.ranks - other.ranks), default=len(names))

    def _inverse(self, tree: Tree) -> bool:
        return tree.leaf is not None and self.term.factors[tree.leaf].power == -1

    def _scaled(self, tree: Tree, read: Read) -> Read:
        if tree is not self.scaled:
            return read
        names = [r for r in AccessMap(read.access).ranks if r in self.w.extents]
        c = self.term.coefficient
        if self._inverse(tree):
            c = 1 / c
        body: Body = lambda block, args: call(block, "mul", args[0], number(block, c, args[0].type))  # noqa: E731
        return Read.of(self.w.einsum(MAP, [read], names, body), names)


def _order(a: frozenset[str], b: frozenset[str], out: frozenset[str], extents: dict[str, Expr]) -> list[str]:
    """Dimensions of a product: what both sides share, then rows, then columns."""
    return sorted(out, key=lambda r: (0 if r in a and r in b else 1 if r in a else 2, list(extents).index(r)))


def insert_before(anchor: Operation, ops: Sequence[EinsumOp]) -> None:
    block = anchor.parent_block()
    assert block is not None
    block.insert_ops_before(list(ops), anchor)
