"""reassociate: sums of products in the cheapest order, through everything that is linear.

When: on a whole program, between canonicalisation and fusion, where the new order costs clearly less on the target.

Before:  u = Σ_r U V;         y = Σ_c x u                     (a low-rank product, a Kronecker operator)
After:   t = Σ_c x U;         y = Σ_r t V

Before:  k = Σ_c h Wk + b;    s = Σ_d q k;   p = e(s) / Σ_j e(s);   v = Σ_c h Wv + b';   o = Σ_j p v
After:   q' = Σ_d q Wk;       s = Σ_c q' h;  p = e(s) / Σ_j e(s);   h' = Σ_j p h;        o = Σ_c h' Wv + b'

Why legal: multiplication distributes over sums, and sums commute (`terms.py`); a term whose rows sum to one is left out
of a product, and so is a term that no reader can see because it moves whole rows (`facts.py`).  All of it holds in real
arithmetic; results keep the type of the ones they replace.  Why cheaper: all orders are priced (`order.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import sympy
from xdsl.dialects.builtin import ArrayAttr, Float16Type, StringAttr
from xdsl.ir import Operation, SSAValue

from ..ir import symbols
from ..ir.attributes import element_bits
from ..ir.cascade import EinsumOp, ProgramOp
from ..ir.target import Target, get_target
from .kernel_shape import LARGE
from .order import sort_block
from .pass_classes import ProgramPass
from .rate_classes import dot_dtype
from .reassociation.facts import ignores_translation, sums_to_one
from .reassociation.order import Cost, Prices, Tree, best_order
from .reassociation.prefix import prefix_form
from .reassociation.terms import Expansion, Factor, Network, Term, polynomial
from .reassociation.write import insert_before, write_network

GAIN = 0.85  # a new order must be predicted to take less than this part of the old one
MORE_FLOPS = 1.05  # and never more arithmetic than this: fusion may save the bytes of the old one
LONGEST_F16 = 1024  # terms of a sum that may be stored in float16 where the old order stored none
CHOICES = 4  # producers that are tried both ways, written out and as factors

Exists = Callable[[SSAValue], bool]


@dataclass(frozen=True)
class Rewrite:
    """One value, computed in another way: `ops` in order, the last of which gives `new`.  certificate: why it is equal."""

    old: SSAValue
    new: SSAValue
    ops: tuple[EinsumOp, ...]
    name: str
    certificate: str


@dataclass(frozen=True)
class Reassociate(ProgramPass):
    """`reassociate`, priced for a target; the certificates stand in the program's attribute `reassociated`."""

    name = "reassociate"
    target: str = "cpu"

    def on_program(self, program: ProgramOp) -> None:
        rewrites = reassociate_program(program, get_target(self.target))
        if rewrites:
            texts = [StringAttr(f"{r.name}: {r.certificate}") for r in rewrites]
            program.attributes["reassociated"] = ArrayAttr(texts)


def reassociate_program(
    program: ProgramOp,
    target: Target,
    sizes: Mapping[str, int] | None = None,
    exists: Exists = lambda value: True,
) -> list[Rewrite]:
    """Rewrite `program` in place; the rewrites in program order.

    sizes: likely values of symbolic sizes, for pricing.  exists: whether a value can be read from memory.
    """
    block = program.body.block
    found: list[Rewrite] = []
    for op in reversed(list(block.ops)):
        if isinstance(op, EinsumOp) and op.parent_block() is block and _is_root(op, exists):
            plan = _Search(op, target, dict(sizes or {}), exists).run()
            if plan is not None:
                found.append(_replace(op, *plan))
    sort_block(block)
    return found[::-1]


def _is_root(op: EinsumOp, exists: Exists) -> bool:
    """A sum that can be read, or the map behind one that cannot (the bias of a library call)."""
    if len(op.results) != 1 or not op.results[0].first_use or not exists(op.results[0]):
        return False
    return op.combiner_names[0] == "sum" or (op.is_map and any(not exists(v) for v in op.inputs))


@dataclass
class _Choice:
    net: Network
    trees: list[Tree | None]
    new: Cost
    old: Cost
    facts: list[str] = field(default_factory=list)

    @property
    def pays(self) -> bool:
        return self.new.us < GAIN * self.old.us and self.new.flops <= MORE_FLOPS * self.old.flops


class _Search:
    """The best way to compute one root."""

    def __init__(self, root: EinsumOp, target: Target, sizes: dict[str, int], exists: Exists):
        self.root, self.target, self.sizes, self.exists = root, target, sizes, exists
        self.narrow = isinstance(root.results[0].type.element_type, Float16Type)  # pyright: ignore
        self.ignored: dict[tuple[int, ...], bool] = {}

    def run(self) -> tuple[list[EinsumOp], str] | None:
        longest = LONGEST_F16 if self.narrow else None
        prefix = prefix_form(self.root, self.exists, self.prices, longest)
        if prefix is not None:
            return prefix
        if polynomial(self.root) is None:
            return None
        expansion = Expansion(self.root, self.exists)
        choices = expansion.choices()[:CHOICES]
        best: _Choice | None = None
        for count in range(len(choices), -1, -1):
            for closed in combinations(choices, count):
                net = expansion.network(frozenset(closed))
                choice = None if net is None else self._price(net)
                if choice is not None and choice.pays and (best is None or _saved(choice) > _saved(best)):
                    best = choice
        if best is None:
            return None
        ops = write_network(best.net, best.trees, self.prices(best.net.extents), self.narrow)
        return ops, _certificate(best)

    def _price(self, net: Network) -> _Choice | None:
        if len(net.inlined) < 2 or all(len(t.factors) < 3 for t in net.terms):
            return None  # two factors have one order
        facts = self._simplify(net)
        prices = self.prices(net.extents)
        out = frozenset(net.out)
        trees: list[Tree | None] = []
        new = Cost()
        for term in net.terms:
            if not term.factors:
                trees.append(None)
                continue
            ranks = [f.ranks(net.extents) for f in term.factors]
            kept = out & frozenset().union(*ranks)
            ordered = best_order(ranks, [f.power == -1 for f in term.factors], kept, prices)
            if ordered is None:
                return None
            if self.narrow and _may_overflow(term, ordered[0], net, prices):
                return None
            trees.append(ordered[0])
            new = new + ordered[1]
        if len(net.terms) > 1:
            new = new + prices.step([t.ranks if t else frozenset() for t in trees], out)
        return _Choice(net, trees, new, self._as_written(net), facts)

    def _as_written(self, net: Network) -> Cost:
        total = Cost()
        calls = {_node(op) for op in net.inlined if op.combiner_names[0] == "sum"} - {None}
        for op in net.inlined:
            if op.is_map and _node(op) in calls:
                continue  # part of the same library call: the bias of a product
            known = frozenset(op.ranks.names)
            operands = [frozenset(a.ranks) & known for a in op.accesses.data]
            total = total + self.prices(op.extents).step(operands, frozenset(op.out_ranks(0)))
        return total

    def _simplify(self, net: Network) -> list[str]:
        """Use what is known of rows: drop factors that sum to one, and terms that no reader can see."""
        facts: list[str] = []
        terms: list[Term] = []
        for term in net.terms:
            terms.append(_without_rows_of_one(term, net, facts))
        for term in list(terms):
            ranks = frozenset().union(*(f.ranks(net.extents) for f in term.factors)) if term.factors else frozenset()
            if len(terms) > 1 and not set(net.out) <= ranks:
                dims = tuple(d for d, r in enumerate(net.out) if r in ranks)
                if self._ignored(dims):
                    terms.remove(term)
                    over = ", ".join(r for r in net.out if r not in ranks)
                    facts.append(
                        f"a term that is constant along {over} is dropped: every reader ignores a translation of rows"
                    )
        net.terms = terms
        return facts

    def _ignored(self, dims: tuple[int, ...]) -> bool:
        if dims not in self.ignored:
            self.ignored[dims] = ignores_translation(self.root.results[0], dims)
        return self.ignored[dims]

    def prices(self, extents) -> Prices:
        element = self.root.results[0].type.element_type  # pyright: ignore
        sizes = {
            r: max(1, symbols.evaluate(e, {**dict.fromkeys(symbols.names(e), LARGE), **self.sizes}))
            for r, e in extents.items()
        }
        rate = dot_dtype(element)
        rate = rate if rate in self.target.flops or self.target.kind != "cpu" else "f32"
        return Prices(self.target, sizes, element_bits(element) // 8, rate)


def _saved(choice: _Choice) -> float:
    return choice.old.us - choice.new.us


def _without_rows_of_one(term: Term, net: Network, facts: list[str]) -> Term:
    """Leave out a factor whose rows sum to one, where nothing else carries the rank of the row."""
    for n, f in enumerate(term.factors):
        others = term.factors[:n] + term.factors[n + 1 :]
        carried = frozenset().union(*(g.ranks(net.extents) for g in others)) if others else frozenset()
        rank = _row_of_one(f, term.reduced - carried, net)
        left = term.reduced - {rank}
        free = (left & f.ranks(net.extents)) - carried  # along these, ones are summed
        if rank is not None and all(net.extents[r].is_Integer for r in free):
            facts.append(f"the sum of {f.value.name_hint or 'a factor'} over {rank} is 1")
            times = math.prod(int(net.extents[r]) for r in free)
            return Term(term.coefficient * times, others, left - free)
    return term


def _row_of_one(f: Factor, among: frozenset[str], net: Network) -> str | None:
    """The rank of `among` over which the factor sums to one."""
    for dim, e in enumerate(f.access):
        if isinstance(e, sympy.Symbol) and e.name in among and f.power == 1:
            if e not in {s for m, o in enumerate(f.access) if m != dim for s in o.free_symbols}:
                if f.value.type.dims[dim] == net.extents[e.name] and sums_to_one(f.value, dim):  # pyright: ignore
                    return e.name
    return None


def _may_overflow(term: Term, tree: Tree, net: Network, prices: Prices) -> bool:
    """Whether a value between, stored in 16 bits with a small range, is a longer sum than is safe to keep there."""
    if any(f.power == -1 for f in term.factors):
        return True
    pending = [] if tree.sides is None else list(tree.sides)
    while pending:
        t = pending.pop()
        if t.sides is None:
            continue
        pending.extend(t.sides)
        summed = t.sides[0].ranks | t.sides[1].ranks
        summed -= t.ranks
        ones = {_row_of_one(term.factors[s.leaf], summed, net) for s in t.sides if s.leaf is not None}
        if prices.points(summed - ones) > LONGEST_F16:
            return True
    return False


def _certificate(choice: _Choice) -> str:
    net = choice.net
    texts = []
    for term, tree in zip(net.terms, choice.trees, strict=True):
        names = [
            ("1/" if f.power == -1 else "") + (f.value.name_hint or f"arg{getattr(f.value, 'index', 0)}")
            for f in term.factors
        ]
        shown = "1" if tree is None else tree.text(names)
        texts.append(shown if term.coefficient == 1 else f"{term.coefficient:g} {shown}")
    return "; ".join(
        [
            f"sums of products commute and distribute: {' + '.join(texts)}",
            *choice.facts,
            f"{choice.old.flops:.3g} -> {choice.new.flops:.3g} operations",
        ]
    )


def _replace(root: EinsumOp, ops: Sequence[EinsumOp], certificate: str) -> Rewrite:
    old, new = root.results[0], ops[-1].results[0]
    insert_before(root, ops)
    old.replace_all_uses_with(new)
    name = _node(root) or old.name_hint or "a value"
    dead: list[Operation] = [root]
    while dead:
        op = dead.pop()
        if op.parent_block() is None or any(r.first_use for r in op.results):
            continue
        producers = [v.owner for v in op.operands if isinstance(v.owner, EinsumOp)]
        op.detach()
        op.erase()
        dead.extend(producers)
    return Rewrite(old, new, tuple(ops), name, certificate)


def _node(op: Operation) -> str | None:
    node = op.attributes.get("node")
    return node.data if isinstance(node, StringAttr) else None


__all__ = ["Reassociate", "Rewrite", "reassociate_program"]
