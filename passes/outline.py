"""Outlining: a cluster of operations becomes one `cascade.kernel` whose ranks are unified.

Operations are written over ranks of their own.  A kernel has one rank space, in which every intermediate is read at the
ranks it was written at.  Two ranks are made one

  * where a consumer reads a producer: the producer's output rank is the consumer's rank at that index;
  * where two reductions walk the same fibre: they read one tensor with accesses that differ only in the reduced rank,
    or reduce it along the same dimension, each for rows of its own.  Renaming a rank changes nothing, and one walk can
    then serve both.

Two ranks of one operation are never made one, whatever their extents (the rows of x against the rows of x).  A map read
at two places becomes two maps; a reduction read at two places is refused, since it would be computed twice.  A product
that is read at a difference or a sum of ranks keeps a rank of its own there (`bands.py`).  Of an operation with several
results, those that nobody reads are not made.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import sympy
from xdsl.ir import Block, Region, SSAValue

from ..ir import symbols
from ..ir.attributes import AccessMap, RankSpace
from ..ir.cascade import EinsumOp, IndexOp, KernelOp, ReturnOp, YieldOp
from .algebra.forms import Refused
from .bands import band_dimension
from .canonicalise import simplify_region
from .index_predicates import TRUE
from .quotients import rounded, without_quotients

__all__ = ["Refused", "label", "outline"]


@dataclass(eq=False)
class _Instance:
    """One operation placed in the kernel: its ranks bound to expressions over kernel ranks.

    read_at: where its reader reads it, if one of its ranks is walked as a band.
    """

    op: EinsumOp
    binding: dict[str, sympy.Expr]
    copies: dict[int, SSAValue] = field(default_factory=dict)
    read_at: tuple[sympy.Expr, ...] | None = None

    def at(self, result: int) -> list[sympy.Expr]:
        """The index expressions at which a result is read."""
        return list(self.read_at or (self.binding[r] for r in self.op.out_ranks(result)))


class _Space:
    """Kernel ranks under unification: names, extents, and which may not become one."""

    def __init__(self) -> None:
        self.extent: dict[str, sympy.Expr] = {}
        self.parent: dict[str, str] = {}
        self.apart: set[frozenset[str]] = set()

    def fresh(self, wanted: str, extent: sympy.Expr) -> sympy.Symbol:
        name, n = wanted, 1
        while name in self.parent:
            name, n = f"{wanted}{n}", n + 1
        self.parent[name] = name
        self.extent[name] = extent
        return symbols.symbol(name)

    def root(self, name: str) -> str:
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def resolve(self, e: sympy.Expr) -> sympy.Expr:
        if isinstance(e, sympy.Symbol):
            return symbols.symbol(self.root(e.name)) if e.name in self.parent else e
        table = {s: symbols.symbol(self.root(s.name)) for s in e.free_symbols if s.name in self.parent}
        return symbols.substitute(e, table)

    def resolved(self, access: AccessMap) -> list[sympy.Expr]:
        """The indices of an access over the ranks as they are; quotients that the extents decide are gone."""
        found = [self.resolve(e) for e in access.data]
        if any(map(rounded, found)):
            extents = {self.root(n): self.extent[self.root(n)] for n in self.parent}
            found = [without_quotients(e, TRUE, extents) for e in found]
        return found

    def separate(self, ranks: Sequence[str]) -> None:
        roots = sorted({self.root(r) for r in ranks})
        for n, a in enumerate(roots):
            for b in roots[n + 1 :]:
                self.apart.add(frozenset((a, b)))

    def unite(self, a: str, b: str) -> bool:
        """Make two ranks one; False when their extents differ or they occur in one operation."""
        a, b = self.root(a), self.root(b)
        if a == b:
            return True
        if self.extent[a] != self.extent[b] or frozenset((a, b)) in self.apart:
            return False
        self.parent[b] = a
        self.apart = {frozenset(a if r == b else r for r in pair) for pair in self.apart}
        return True


def outline(
    cluster: Sequence[EinsumOp], outputs: Sequence[SSAValue], name: str, join: bool = True
) -> KernelOp | Refused:
    """A detached kernel that computes `outputs` from what the cluster reads, or the reason why there is none.

    `cluster` is in program order and holds the defining operation of every output.  join: whether a reduced rank and one
    that nothing reduces may be made one because they walk the same fibre (x in softmax(x xᵀ) x, whose features the scores
    reduce and the result keeps): then one tile serves both, which has to be whole.
    """
    inside = set(cluster)
    space = _Space()
    instances: list[_Instance] = []
    by_op: dict[EinsumOp, list[_Instance]] = {}

    def place(op: EinsumOp, demanded: Sequence[sympy.Expr] | None, result: int) -> _Instance | Refused:
        binding: dict[str, sympy.Expr] = {}
        extents = op.extents
        band = None if demanded is None or op.is_map else band_dimension(op, demanded, space.parent, inside)
        if demanded is None:
            for r in op.out_ranks(result):
                binding[r] = space.fresh(r, extents[r])
        else:
            for n, (r, e) in enumerate(zip(op.out_ranks(result), demanded, strict=True)):
                if n == band:
                    e = space.fresh(r, extents[r])
                elif not op.is_map and not isinstance(e, sympy.Symbol):
                    return Refused(f"{label(op)} is a reduction read at index {symbols.to_text(e)}")
                binding[r] = e
        for r in op.reduced:
            binding[r] = space.fresh(r, extents[r])
        used = [s.name for e in binding.values() for s in e.free_symbols if s.name in space.parent]
        bare = [e.name for e in binding.values() if isinstance(e, sympy.Symbol)]
        if demanded is not None and len({space.root(b) for b in bare}) < len(bare) and not op.is_map:
            return Refused(f"{label(op)} is read along a diagonal")
        instance = _Instance(op, binding)
        if band is not None and demanded is not None:
            instance.read_at = tuple(demanded)
            used += [s.name for s in demanded[band].free_symbols if s.name in space.parent]  # pyright: ignore
        space.separate(used)
        instances.append(instance)
        by_op.setdefault(op, []).append(instance)
        return instance

    def demand(op: EinsumOp, result: int, wanted: Sequence[sympy.Expr]) -> _Instance | Refused:
        for instance in by_op.get(op, []):
            if _align(space, instance.at(result), wanted):
                return instance
        if by_op.get(op) and not op.is_map:
            return Refused(f"{label(op)} would be computed twice, at different ranks")
        return place(op, list(wanted), result)

    wanted_outputs = set(outputs)
    for op in reversed(list(cluster)):
        if not isinstance(op, EinsumOp):
            return Refused(f"{op.name} is not an einsum")
        for n, result in enumerate(op.results):
            if result in wanted_outputs and not by_op.get(op):
                placed = place(op, None, n)
                if not placed:
                    return placed
        for instance in list(by_op.get(op, [])):
            for value, access in op.operand_accesses:
                producer = value.owner
                if isinstance(producer, EinsumOp) and producer in inside:
                    at = space.resolved(access.substitute(instance.binding))
                    found = demand(producer, value.index, at)  # pyright: ignore
                    if isinstance(found, Refused):
                        return found
    _unify_shared_fibres(space, instances, inside, join)
    for output in outputs:
        op = output.owner
        assert isinstance(op, EinsumOp)
        first = by_op[op][0]
        bound = [space.resolve(first.binding[r]) for r in op.out_ranks(output.index)]  # pyright: ignore
        if first.read_at or not all(isinstance(e, sympy.Symbol) for e in bound) or len(set(bound)) != len(bound):
            return Refused(f"{label(op)} is an output that is read at other ranks inside the kernel")
        if [space.extent[e.name] for e in bound] != [op.extents[r] for r in op.out_ranks(output.index)]:  # pyright: ignore
            return Refused(f"{label(op)} is an output of which more, or only a part, is read inside the kernel")
    return _build(cluster, outputs, name, space, by_op, inside)


def _align(space: _Space, have: Sequence[sympy.Expr], want: Sequence[sympy.Expr]) -> bool:
    """True when the two index tuples are, or can be made, the same."""
    pending: list[tuple[str, str]] = []
    for a, b in zip(have, want, strict=True):
        a, b = space.resolve(a), space.resolve(b)
        if a == b:
            continue
        if not (isinstance(a, sympy.Symbol) and isinstance(b, sympy.Symbol)):
            return False
        if not (a.name in space.parent and b.name in space.parent):
            return False
        if space.extent[space.root(a.name)] != space.extent[space.root(b.name)]:
            return False
        if frozenset((space.root(a.name), space.root(b.name))) in space.apart:
            return False
        pending.append((a.name, b.name))
    return all(space.unite(a, b) for a, b in pending)


def _unify_shared_fibres(space: _Space, instances: Sequence[_Instance], inside: set[EinsumOp], join: bool) -> None:
    """Make a reduced rank and another one where operations read one outside tensor along the same fibre."""
    hole = symbols.symbol("_")
    outside: dict[SSAValue, list[AccessMap]] = {}
    for instance in instances:
        for value, access in instance.op.operand_accesses:
            if not (isinstance(value.owner, EinsumOp) and value.owner in inside):
                outside.setdefault(value, []).append(access.substitute(instance.binding))
    changed = True
    while changed:
        changed = False
        reduced = {space.root(i.binding[r].name) for i in instances for r in i.op.reduced}  # pyright: ignore
        fibres: dict[tuple, dict[str, None]] = {}
        reads: dict[SSAValue, dict[tuple[sympy.Expr, ...], None]] = {}
        for value, accesses in outside.items():
            reads[value] = dict.fromkeys(tuple(space.resolve(e) for e in access.data) for access in accesses)
            if len(reads[value]) == 1:
                continue
            for at in reads[value]:
                for k in sorted({s.name for e in at for s in e.free_symbols if s.name in space.parent}):  # pyright: ignore
                    gap = {symbols.symbol(k): hole}
                    key = (value, tuple(symbols.substitute(e, gap) for e in at))
                    fibres.setdefault(key, {}).setdefault(k)
        for ranks in fibres.values():
            for a, b in itertools.combinations(ranks, 2):
                bound = {space.root(a), space.root(b)} & reduced
                if len(bound) < (1 if join else 2):
                    continue
                if space.root(a) != space.root(b) and space.unite(a, b):
                    changed = True
        for accesses in reads.values():
            for have, want in itertools.combinations(accesses, 2):
                if not changed and _walk_the_same(have, want, reduced, join) and _align(space, have, want):
                    changed = True


def _walk_the_same(have: Sequence[sympy.Expr], want: Sequence[sympy.Expr], reduced: set[str], join: bool) -> bool:
    """Whether the ranks of two reads of one tensor may be made the same, several at once.

    Either both reduce it along the same dimension (then their rows may be made the same as well), or wherever they differ
    the one has reduced ranks and the other free ones (a statistic of several dimensions, and what it is applied to).
    """
    names = {symbols.symbol(r) for r in reduced}
    pairs = [(a in names, b in names) for a, b in zip(have, want, strict=True)]
    differ = {pair for pair, a, b in zip(pairs, have, want, strict=True) if a != b}
    if not differ:
        return False
    if any(a != b for a, b in pairs) and not join:
        return False
    return (True, True) in pairs or differ in ({(True, False)}, {(False, True)})


def _build(
    cluster: Sequence[EinsumOp],
    outputs: Sequence[SSAValue],
    name: str,
    space: _Space,
    by_op: dict[EinsumOp, list[_Instance]],
    inside: set[EinsumOp],
) -> KernelOp:
    reads: dict[SSAValue, None] = {}
    for op in cluster:
        if by_op.get(op):
            for value in op.inputs:
                if not (isinstance(value.owner, EinsumOp) and value.owner in inside):
                    reads.setdefault(value)
    block = Block(arg_types=[v.type for v in reads])
    argument: dict[SSAValue, SSAValue] = dict(zip(reads, block.args, strict=True))
    for n, (outer, inner) in enumerate(argument.items()):
        inner.name_hint = outer.name_hint or f"in{n}"
    extents = {space.root(n): space.extent[space.root(n)] for n in space.parent}
    for op in cluster:
        for instance in by_op.get(op, []):
            _place_copy(op, instance, space, extents, block, argument, by_op, inside)
    returned: list[SSAValue] = []
    for output in outputs:
        first = by_op[output.owner][0]  # pyright: ignore
        returned.append(first.copies[output.index])  # pyright: ignore
    block.add_op(ReturnOp(*returned))
    return KernelOp(name, list(reads), Region(block))


def _place_copy(op, instance, space, extents, block, argument, by_op, inside) -> None:
    binding = {r: space.resolve(e) for r, e in instance.binding.items()}
    names: dict[str, None] = {}
    for r in op.ranks.names:
        for s in sorted(s.name for s in binding[r].free_symbols if s.name in extents):
            names.setdefault(s)
    inputs = []
    for value, access in op.operand_accesses:
        at = space.resolved(access.substitute(instance.binding))
        if value in argument:
            inputs.append((argument[value], AccessMap.of(at)))
        else:
            producer: _Instance = next(
                i for i in by_op[value.owner] if [space.resolve(e) for e in i.at(value.index)] == at
            )
            bound = [space.resolve(e) for r in value.owner.out_ranks(value.index) for e in [producer.binding[r]]]
            ranks_out = at if producer.read_at else _copied_ranks(bound, extents)
            inputs.append((producer.copies[value.index], AccessMap.of(ranks_out)))
    outs = []
    read = [n for n, result in enumerate(op.results) if result.first_use]
    for n, result in enumerate(op.results):
        if n not in read:
            continue
        bound = [binding[r] for r in op.out_ranks(n)]
        outs.append((op.combiner_names[n], AccessMap.of(_copied_ranks(bound, extents)), result.type.element_type))
    body = op.body.clone()
    if len(read) < len(op.results):
        last = body.block.last_op
        assert isinstance(last, YieldOp)
        last.operands = [last.values[n] for n in read]
        simplify_region(body.block)
    for inner in body.block.ops:
        if isinstance(inner, IndexOp):
            inner.expression = inner.expression.substitute(binding)
    kept = {n for _, out, _ in outs for n in out.bare()}
    used = [n for n in names if n in kept or _is_reduced(op, binding, n)]
    copy = EinsumOp(RankSpace(tuple((n, extents[n]) for n in used)), inputs, outs, body, dict(op.attributes))
    for n, new in zip(read, copy.results, strict=True):
        new.name_hint = op.results[n].name_hint
        instance.copies[n] = new
    block.add_op(copy)


def _is_reduced(op: EinsumOp, binding: dict[str, sympy.Expr], name: str) -> bool:
    return any(symbols.symbol(name) in binding[r].free_symbols for r in op.reduced)


def _copied_ranks(bound: Sequence[sympy.Expr], extents: dict[str, sympy.Expr]) -> list[str]:
    """The kernel ranks that an instance's result carries: those of its index expressions, in order, once each."""
    names: dict[str, None] = {}
    for e in bound:
        for s in sorted(s.name for s in e.free_symbols if s.name in extents):
            names.setdefault(s)
    return list(names)


def label(op: EinsumOp) -> str:
    """What an operation is called in a reason."""
    node = op.attributes.get("node")
    if node is not None:
        return f"'{node.data}'"  # pyright: ignore
    hint = op.results[0].name_hint
    return f"%{hint}" if hint else op.name
