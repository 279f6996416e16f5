"""Sums of products: what a contraction computes, written out over everything that only it reads.

    k = Σ_c h w + b;  s = Σ_d q k      ->      s = Σ_d Σ_c q h w  +  Σ_d q b

An operation is *polynomial* when its map is built from its inputs by sums, products, and quotients by one product.  A
network is a root with the polynomial operations that nobody but the network reads; its terms have leaves as factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import sympy
from xdsl.ir import BlockArgument, Operation, SSAValue

from ...ir import scalar, symbols
from ...ir.attributes import TensorType, is_float
from ...ir.cascade import MAP, EinsumOp, IndexOp
from ...ir.digits import digits

FACTORS = 8  # a product of more is left as it stands: its orders are too many to price
TERMS = 8

Expr = sympy.Expr


@dataclass(frozen=True)
class Factor:
    """A tensor's element at `access` (index expressions over the ranks of a network), or its inverse (power -1)."""

    value: SSAValue
    access: tuple[Expr, ...]
    power: int = 1

    def ranks(self, known: Iterable[str]) -> frozenset[str]:
        names = frozenset().union(*(symbols.names(e) for e in self.access)) if self.access else frozenset()
        return names & frozenset(known)


@dataclass(frozen=True)
class Term:
    """coefficient · Σ over `reduced` of the product of the factors."""

    coefficient: float
    factors: tuple[Factor, ...]
    reduced: frozenset[str]


@dataclass
class Network:
    """`root` as a sum of terms over the ranks `out` (in the order of its dimensions) and the reduced ones.

    inlined: the operations that computed it, the root's own among them.
    """

    root: SSAValue
    out: tuple[str, ...]
    extents: dict[str, Expr]
    terms: list[Term]
    inlined: set[EinsumOp] = field(default_factory=set)


# --- one operation ------------------------------------------------------------------------------------------------

Monomial = tuple[float, tuple[tuple[int, int], ...]]  # coefficient, (argument, power) sorted


def polynomial(op: EinsumOp) -> list[Monomial] | None:
    """The map of an operation with one result as a sum of monomials in its inputs, or None."""
    if len(op.results) != 1 or op.combiner_names[0] not in ("sum", MAP) or not is_float(_element(op.results[0])):
        return None
    if not all(is_float(_element(v)) for v in op.inputs):
        return None
    return _polynomial(op.yields[0])


def _polynomial(value: SSAValue) -> list[Monomial] | None:
    if isinstance(value, BlockArgument):
        return [(1.0, ((value.index, 1),))]
    op = value.owner
    assert isinstance(op, Operation)
    name = scalar.name_of(op)
    if isinstance(op, IndexOp) or name is None or not is_float(value.type):
        return None
    if name == scalar.CONSTANT:
        return [(float(scalar.constant_value(op)), ())]
    if name not in ("add", "sub", "neg", "mul", "div", "widen", "narrow"):
        return None
    parts = [_polynomial(o) for o in op.operands]
    if any(p is None for p in parts):
        return None
    a, *rest = parts
    assert a is not None
    if name in ("widen", "narrow"):
        return a
    if name == "neg":
        return [(-c, m) for c, m in a]
    (b,) = rest
    assert b is not None
    if name == "add":
        return _bounded(a + b)
    if name == "sub":
        return _bounded(a + [(-c, m) for c, m in b])
    if name == "div":
        if len(b) != 1 or b[0][0] == 0:
            return None
        b = [(1 / b[0][0], tuple((n, -p) for n, p in b[0][1]))]
    if len(a) > 1 and len(b) > 1:
        return None  # (x - m)^2 is not multiplied out: the terms would cancel
    return _bounded([(c * d, _times(m, n)) for c, m in a for d, n in b])


def _bounded(terms: list[Monomial]) -> list[Monomial] | None:
    return terms if len(terms) <= TERMS else None


def _times(a: tuple[tuple[int, int], ...], b: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    powers: dict[int, int] = {}
    for n, p in (*a, *b):
        powers[n] = powers.get(n, 0) + p
    return tuple(sorted((n, p) for n, p in powers.items() if p))


def _element(value: SSAValue):
    assert isinstance(value.type, TensorType)
    return value.type.element_type


# --- accesses -----------------------------------------------------------------------------------------------------


def is_plain(factor: Factor, extents: Mapping[str, Expr]) -> bool:
    """Whether every index is a run of digits, and no rank occurs in two of them."""
    seen: list[str] = []
    for e in factor.access:
        found = digits(e, extents)
        if found is None:
            return False
        seen += found.ranks
    return len(set(seen)) == len(seen)


# --- networks -----------------------------------------------------------------------------------------------------


class Expansion:
    """Writes out the network of a root.  `exists`: whether a value can be read from memory, so be a leaf.

    Raises Opaque (see below) where the root has no normal form.
    """

    def __init__(self, root: EinsumOp, exists: Callable[[SSAValue], bool]):
        self.root = root
        self.exists = exists
        self._open: dict[SSAValue, bool] = {}

    def choices(self) -> list[EinsumOp]:
        """The producers that are better left alone at times: those with several terms, and quotients, of which more may
        be known than of what they divide."""
        found: list[EinsumOp] = []
        pending: list[EinsumOp] = [self.root]
        while pending:
            op = pending.pop()
            for v in op.inputs:
                if self.may_open(v):
                    producer = v.owner
                    assert isinstance(producer, EinsumOp)
                    pending.append(producer)
                    monomials = polynomial(producer) or []
                    if len(monomials) > 1 or any(power < 0 for _, powers in monomials for _, power in powers):
                        found.append(producer)
        return list(dict.fromkeys(found))

    def may_open(self, value: SSAValue) -> bool:
        """Whether a factor may be replaced by what it is computed from."""
        if value not in self._open:
            self._open[value] = self._may_open(value)
        return self._open[value]

    def _may_open(self, value: SSAValue) -> bool:
        op = value.owner
        if not isinstance(op, EinsumOp) or op.parent_block() is not self.root.parent_block():
            return False
        if len(list(value.uses)) != 1 or polynomial(op) is None:
            return False
        if _element(value) != _element(self.root.results[0]) and self.exists(value):
            return False
        return all(self.exists(v) or self.may_open(v) for v in op.inputs)

    def network(self, closed: frozenset[EinsumOp] = frozenset()) -> Network | None:
        """The network in which the operations of `closed` stay leaves; None where it has no normal form."""
        extents = dict(self.root.extents)
        net = Network(self.root.results[0], self.root.out_ranks(0), extents, [], {self.root})
        monomials = polynomial(self.root)
        if monomials is None:
            return None
        for c, powers in monomials:
            factors = self._factors(self.root, powers, {})
            net.terms.append(Term(c, factors, frozenset(self.root.reduced)))
        if not all(is_plain(f, extents) for t in net.terms for f in t.factors):
            return None
        shut: set[SSAValue] = {r for op in closed for r in op.results}
        while (found := self._next(net, shut)) is not None:
            op = found.value.owner
            assert isinstance(op, EinsumOp)
            opened = self._opened(net, op)
            if opened is None:
                shut.add(found.value)
                continue
            net.terms, net.extents = opened
            net.inlined.add(op)
        leaves = [f for t in net.terms for f in t.factors]
        if not all(self.exists(f.value) for f in leaves):
            return None
        return _without_free_sums(net)

    def _next(self, net: Network, shut: set[SSAValue]) -> Factor | None:
        for term in net.terms:
            for f in term.factors:
                if f.value not in shut and self.may_open(f.value):
                    return f
        return None

    def _opened(self, net: Network, op: EinsumOp) -> tuple[list[Term], dict[str, Expr]] | None:
        """The terms with every factor that `op` computes written out; None where that is not possible."""
        extents = dict(net.extents)
        terms: list[Term] = []
        monomials = polynomial(op)
        assert monomials is not None
        for term in net.terms:
            place = next((n for n, f in enumerate(term.factors) if f.value is op.results[0]), None)
            if place is None:
                terms.append(term)
                continue
            factor = term.factors[place]
            if factor.power != 1 and (len(monomials) != 1 or not op.is_map or factor.power != -1):
                return None
            names: dict[str, str] = {}
            for r in op.reduced:
                names[r] = fresh(r, extents)
                extents[names[r]] = op.extents[r]
            binding = dict(zip(op.out_ranks(0), factor.access, strict=True))
            binding |= {r: symbols.symbol(n) for r, n in names.items()}
            rest = term.factors[:place] + term.factors[place + 1 :]
            for c, powers in monomials:
                new = self._factors(op, powers, binding)
                if factor.power == -1:
                    c, new = (1 / c if c else 0.0), tuple(replace(f, power=-f.power) for f in new)
                if len(rest) + len(new) > FACTORS or c == 0.0 or not all(is_plain(f, extents) for f in new):
                    return None
                terms.append(Term(term.coefficient * c, rest + new, term.reduced | frozenset(names.values())))
        return (terms, extents) if len(terms) <= TERMS else None

    @staticmethod
    def _factors(op: EinsumOp, powers: tuple[tuple[int, int], ...], binding: Mapping[str, Expr]) -> tuple[Factor, ...]:
        factors: list[Factor] = []
        for n, power in powers:
            access = op.accesses.data[n].substitute(binding) if binding else op.accesses.data[n]
            one = Factor(op.inputs[n], tuple(sympy.expand(e) for e in access.data), 1 if power > 0 else -1)
            factors += [one] * abs(power)
        return tuple(factors)


def fresh(name: str, taken: Mapping[str, Expr]) -> str:
    """A rank called like `name` that is none of `taken`, nor a size in their extents."""
    used = set(taken).union(*(symbols.names(e) for e in taken.values()))
    n, found = 1, name
    while found in used:
        found, n = f"{name}_{n}", n + 1
    return found


def _without_free_sums(net: Network) -> Network | None:
    """A rank that no factor of a term carries is a multiplication by its extent.  None where terms may cancel."""
    if len({t.coefficient > 0 for t in net.terms}) > 1:
        return None  # x - m: what is small as a difference is not summed apart
    terms = []
    for t in net.terms:
        carried = frozenset().union(*(f.ranks(net.extents) for f in t.factors)) if t.factors else frozenset()
        c = t.coefficient
        for r in t.reduced - carried:
            if not net.extents[r].is_Integer:
                return None
            c *= int(net.extents[r])
        terms.append(Term(c, t.factors, t.reduced & carried))
    net.terms = terms
    return net
