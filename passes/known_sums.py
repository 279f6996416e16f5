"""known-sums: a sum over products with a contraction is taken from another contraction that holds it already.

When: on a whole program, on a sum over a rank k of a product with D = Σ_f a v, where a does not carry k, and where the
program has, or will have anyway, the sum over k of the rest of that product with v.

Before:  o_f = Σ_k w v;   d = Σ_f a v;   r = Σ_k w d
After:   o_f = Σ_k w v;   d = Σ_f a v;   t = a o;   r = Σ_f t

Why legal: finite sums commute, and a is a constant of the sum over k:  Σ_k w Σ_f a_f v_kf = Σ_f a_f Σ_k w v_kf.  This holds in
real arithmetic.  Why cheaper: r no longer waits for a pass over k, and a and o are read instead of w and d, of which a kernel
may then keep nothing.
An instance: with P the rows of a softmax and O = P V, the row sums of P * dP are those of O * dO, where dP = dO Vᵀ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sympy
from xdsl.ir import Block, Operation, Region, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, RankSpace, compute_type
from ..ir.cascade import MAP, EinsumOp, ProgramOp, YieldOp
from .canonicalise import erase_dead
from .outline import label
from .pass_classes import ProgramPass
from .ranges import ranges_of, reach_of
from .reassociate import Rewrite
from .reassociation.terms import polynomial

DEEPEST = 12  # maps that a product is written out through
CERTIFICATE = "finite sums commute: Σ_k w Σ_f a v = Σ_f a Σ_k w v, and the inner one is there"

Expr = sympy.Expr


@dataclass(frozen=True)
class KnownSums(ProgramPass):
    """Rewrite every program of a module."""

    name = "known-sums"

    def on_program(self, program: ProgramOp) -> None:
        known_sums(program)


@dataclass(frozen=True)
class Factor:
    """An element of `value` at `access`, to a power."""

    value: SSAValue
    access: tuple[Expr, ...]
    power: int

    def carries(self, rank: str) -> bool:
        return any(rank in symbols.names(e) for e in self.access)


@dataclass(frozen=True)
class Product:
    """coefficient times the factors, all over the same ranks."""

    coefficient: float
    factors: tuple[Factor, ...]


def known_sums(program: ProgramOp) -> list[Rewrite]:
    """Rewrite in place."""
    block = program.body.block
    sums = [
        op for op in block.ops if isinstance(op, EinsumOp) and op.combiner_names == ("sum",) and len(op.reduced) == 1
    ]
    products = {op: _written_out(op) for op in sums}
    position = {op: n for n, op in enumerate(block.ops)}
    rewrites: list[Rewrite] = []
    for op in sums:
        for found in _exchanges(op, products):
            if position[found.beside] > position[op]:
                continue
            ops = _write(op, found)
            block.insert_ops_before(ops, op)
            old, new = op.results[0], ops[-1].results[0]
            new.name_hint = old.name_hint
            old.replace_all_uses_with(new)
            rewrites.append(Rewrite(old, new, tuple(ops), label(op), CERTIFICATE))
            break
    if rewrites:
        erase_dead(block)
    return rewrites


# --- products -----------------------------------------------------------------------------------------------------


def _written_out(op: EinsumOp) -> Product | None:
    """What a sum sums, through all maps that are products; None where it is no product."""
    here = {r: symbols.symbol(r) for r in op.ranks.names}
    return _product(op, here, op.extents, DEEPEST)


def _product(op: EinsumOp, at: Mapping[str, Expr], extents: Mapping[str, Expr], left: int) -> Product | None:
    monomials = polynomial(op)
    if monomials is None or len(monomials) != 1 or left == 0:
        return None
    ((coefficient, powers),) = monomials
    factors: list[Factor] = []
    for n, power in powers:
        value, access = op.operand_accesses[n]
        found = tuple(_simpler(e, extents) for e in access.substitute(at).data)
        inner = value.owner
        opened = None
        if isinstance(inner, EinsumOp) and inner.is_map and len(inner.results) == 1:
            opened = _product(inner, dict(zip(inner.out_ranks(), found, strict=True)), extents, left - 1)
        if opened is None:
            factors.append(Factor(value, found, power))
        else:
            coefficient *= opened.coefficient**power
            factors += [Factor(f.value, f.access, f.power * power) for f in opened.factors]
    return Product(coefficient, tuple(factors))


def _simpler(e: Expr, extents: Mapping[str, Expr]) -> Expr:
    """Digits of numbers below their base: r // n is 0 and r mod n is r where r runs below n."""
    e = sympy.expand(e)

    def below(r: Expr, n: Expr) -> bool:
        return (
            isinstance(r, sympy.Symbol)
            and r.name in extents
            and sympy.expand(extents[r.name] - n).is_nonpositive is True
        )

    def quotient(x: Expr) -> Expr:
        n, d = sympy.fraction(sympy.together(x))
        return sympy.Integer(0) if below(n, d) else sympy.floor(x)

    def rest(a: Expr, n: Expr) -> Expr:
        return a if below(a, n) else sympy.Mod(a, n)

    if e.has(sympy.floor):
        e = e.replace(sympy.floor, quotient)
    if e.has(sympy.Mod):
        e = e.replace(sympy.Mod, rest)
    return sympy.expand(e)


# --- matching -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exchange:
    """The sum is coefficient · Σ over `rank` of `factors` times the result of `beside` at `access`."""

    beside: EinsumOp
    access: tuple[Expr, ...]
    factors: tuple[Factor, ...]
    rank: str
    extent: Expr
    coefficient: float


def _exchanges(op: EinsumOp, products: Mapping[EinsumOp, Product | None]) -> Iterator[Exchange]:
    product, (k,) = products[op], op.reduced
    if product is None:
        return
    for n, d in enumerate(product.factors):
        inner = d.value.owner
        if d.power != 1 or not isinstance(inner, EinsumOp) or products.get(inner) is None or inner is op:
            continue
        rest = product.factors[:n] + product.factors[n + 1 :]
        (f,) = inner.reduced
        name = _fresh(f, op.extents)
        extents = {**op.extents, name: inner.extents[f]}
        binding = dict(zip(inner.out_ranks(), d.access, strict=True)) | {f: symbols.symbol(name)}
        below = products[inner]
        assert below is not None
        moved = [Factor(x.value, _moved(x.access, binding, extents), x.power) for x in below.factors]
        a, v = [x for x in moved if not x.carries(k)], [x for x in moved if x.carries(k)]
        if not a or not v or any(x.carries(name) for x in rest):
            continue
        wanted = (*rest, *v)
        for beside, known in products.items():
            if known is None or beside is op or beside is inner or not known.coefficient:
                continue
            at = _match(beside, known.factors, wanted, k, name, extents)
            if at is not None:
                c = product.coefficient * below.coefficient / known.coefficient
                yield Exchange(beside, at, tuple(a), name, extents[name], c)


def _match(
    beside: EinsumOp, factors: Sequence[Factor], wanted: Sequence[Factor], k: str, f: str, extents: Mapping[str, Expr]
) -> tuple[Expr, ...] | None:
    """Where the result of `beside` is read so that its factors are the wanted ones; None where they are not."""
    if sorted((id(x.value), x.power) for x in factors) != sorted((id(x.value), x.power) for x in wanted):
        return None
    (summed,) = beside.reduced
    if beside.extents[summed] != extents[k]:
        return None
    pairs: list[tuple[Expr, Expr]] = []
    for x in factors:
        there_too = next(w for w in wanted if w.value is x.value and w.power == x.power)
        pairs += zip(x.access, there_too.access, strict=True)
    binding = _bound({summed: symbols.symbol(k)}, beside.extents, pairs)
    ranges = ranges_of(extents)
    if binding is None or not all(_runs_below(e, beside.extents[r], ranges) for r, e in binding.items()):
        return None
    moved = [Factor(x.value, _moved(x.access, binding, extents), x.power) for x in factors]
    if sorted(map(_key, moved)) != sorted(map(_key, wanted)):
        return None
    at = tuple(_simpler(binding[r], extents) for r in beside.out_ranks())
    # Of the ranks that are summed, the result may carry the one over features only.
    free = set().union(*(symbols.names(e) for e in at))
    return at if f in free and k not in free else None


def _bound(
    known: Mapping[str, Expr], ranks: Mapping[str, Expr], pairs: Sequence[tuple[Expr, Expr]]
) -> dict[str, Expr] | None:
    """What each of `ranks` is where the first index of each pair is the second; None where the pairs do not say.

    Bare indices say it at once; what these leave open follows from indices with one rank that is not yet known, as the
    feature k of head b in b * 64 + k.
    """
    binding = dict(known)
    for bare in (True, False):
        for e, g in pairs:
            form = symbols.affine(e, list(ranks))
            open_ = [r for r, c in form[0].items() if c and r not in binding] if form is not None else []
            if form is None or len(open_) != 1 or (bare and not isinstance(e, sympy.Symbol)):
                continue
            (rank,) = open_
            rest = e - form[0][rank] * symbols.symbol(rank)
            rest = AccessMap((sympy.expand(rest),)).substitute(binding).data[0]
            binding[rank] = sympy.expand((g - rest) / form[0][rank])
    return binding if set(ranks) <= set(binding) else None


def _runs_below(e: Expr, extent: Expr, ranges: Mapping[str, tuple[Expr, Expr]]) -> bool:
    """Whether an index is a whole number from 0 to below `extent`."""
    reach = reach_of(e, ranges)
    return bool(
        e.is_integer and reach is not None and reach[0].is_nonnegative and (extent - 1 - reach[1]).is_nonnegative
    )


def _moved(access: tuple[Expr, ...], binding: Mapping[str, Expr], extents: Mapping[str, Expr]) -> tuple[Expr, ...]:
    return tuple(_simpler(e, extents) for e in AccessMap(access).substitute(binding).data)


def _key(x: Factor) -> tuple[int, int, str]:
    return id(x.value), x.power, str(x.access)


def _fresh(name: str, taken: Mapping[str, Expr]) -> str:
    n, found = 1, name
    while found in taken:
        found, n = f"{name}_{n}", n + 1
    return found


# --- writing ------------------------------------------------------------------------------------------------------


def _write(op: EinsumOp, found: Exchange) -> list[EinsumOp]:
    """The product of the factors with what is there, and its sum."""
    element = op.results[0].type.element_type  # pyright: ignore
    out = list(op.out_ranks())
    names = [*out, found.rank]
    extents = {r: op.extents[r] for r in out} | {found.rank: found.extent}
    space = RankSpace(tuple(extents.items()))
    reads = [(x.value, AccessMap(x.access)) for x in found.factors]
    reads.append((found.beside.results[0], AccessMap(found.access)))
    block = Block(arg_types=[compute_type(v.type.element_type) for v, _ in reads])  # pyright: ignore
    kind = compute_type(element)

    def emit(name: str, *operands: SSAValue, type_=None) -> SSAValue:
        made: Operation = scalar.build(name, operands, type_) if type_ is not None else scalar.build(name, operands)
        block.add_op(made)
        return made.results[0]

    total: SSAValue | None = None
    powers = [*(x.power for x in found.factors), 1]
    for arg, power in zip(block.args, powers, strict=True):
        x: SSAValue = arg if arg.type == kind else emit(_cast(arg.type, kind), arg, type_=kind)
        for _ in range(abs(power)):
            if total is None:
                total = x if power > 0 else emit("div", _number(block, 1.0, kind), x)
            else:
                total = emit("mul" if power > 0 else "div", total, x)
    assert total is not None
    if found.coefficient != 1:
        total = emit("mul", total, _number(block, found.coefficient, kind))
    block.add_op(YieldOp(total))
    product = EinsumOp(space, reads, [(MAP, AccessMap.of(names), element)], Region(block))
    body = Block(arg_types=[kind])
    body.add_op(YieldOp(body.args[0]))
    summed = EinsumOp(
        space, [(product.results[0], AccessMap.of(names))], [("sum", AccessMap.of(out), element)], Region(body)
    )
    return [product, summed]


def _number(block: Block, value: float, kind) -> SSAValue:
    op = scalar.constant(value, kind)
    block.add_op(op)
    return op.results[0]


def _cast(old, new) -> str:
    return "widen" if old.width < new.width else "narrow"
