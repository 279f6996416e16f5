"""Prefix sums of outer products: a triangular quadratic form in linear time.

When: a sum over j <= i (or j < i) of products whose factors carry i or j, never both, and i is long.

Before:  s = Σ_d q[i, d] k[j, d];  m = j <= i ? s : 0;  o = Σ_j m v[j, f]
After:   i = a·C + r, j = b·C + t:
         within a chunk   s = Σ_d q[a, r, d] k[a, t, d];  m = t <= r ? s : 0;  y = Σ_t m v[a, t, f]
         a state a chunk  S[b] = Σ_t k[b, t, d] v[b, t, f];   Z[a] = Σ_{b < a} S[b]
         together         o = y + Σ_d q[a, r, d] Z[a, d, f]

Why legal: j <= i is b < a, or b = a and t <= r; sums are split and their order changed.  The mask within a chunk stays a
choice, so what it hides is hidden; the states see every element of earlier chunks, which i sees anyway.
Why cheaper: N·(C·(d + f) + 2·d·f) products instead of N²·(d + f)/2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sympy
from xdsl.ir import Block, SSAValue

from ...ir import symbols
from ...ir.cascade import MAP, EinsumOp, IndexOp
from .order import Cost, Prices
from .terms import Expr, Factor
from .triangle import Triangle, triangle_of
from .write import Read, Writer, call, number

GAIN = 0.85
CHUNKS = (512, 384, 256, 192, 128, 96, 64, 48, 32, 16)


def prefix_form(
    root: EinsumOp,
    exists: Callable[[SSAValue], bool],
    prices: Callable[[Mapping[str, Expr]], Prices],
    longest: int | None = None,
) -> tuple[list[EinsumOp], str] | None:
    """The operations that compute the root in chunks, and why; None where it is no triangle, or where that costs more.

    longest: how many products a stored state may sum.
    """
    triangle = triangle_of(root, exists)
    if triangle is None:
        return None
    n = int(triangle.extents[triangle.i])
    if longest is not None and n > longest:
        return None
    known = prices(triangle.extents)
    best: tuple[Cost, int] | None = None
    for chunk in CHUNKS:
        if n % chunk == 0 and n > chunk:
            cost = _cost(triangle, root, chunk, known)
            if best is None or cost.us < best[0].us:
                best = cost, chunk
    old = _cost_of_triangle(triangle, root, known)
    if best is None or best[0].us >= GAIN * old.us or best[0].flops > old.flops:
        return None
    ops = _write(triangle, root, best[1])
    sign = "<" if triangle.strict else "<="
    return ops, (
        f"the sum over {triangle.j} {sign} {triangle.i} is split into chunks of {best[1]}, and what earlier chunks add is "
        f"one prefix sum of products; {old.flops:.3g} -> {best[0].flops:.3g} operations"
    )


def _cost_of_triangle(t: Triangle, root: EinsumOp, prices: Prices) -> Cost:
    """The quadratic form at its best: one kernel that skips what the condition hides, and writes nothing between."""
    products = [t.q.ranks(t.extents) | t.k.ranks(t.extents)]
    if t.v is not None:
        products.append(frozenset(root.out_ranks(0)) | {t.j})
    flops = sum(prices.points(p) for p in products)  # half of the pairs, two operations each
    target = prices.target
    us = flops / target.dot_flops(prices.rate) * 1e6 * (1.0 if target.kind == "cpu" else 1.3) + target.launch_us
    moved = [f.ranks(t.extents) for f in (t.q, t.k, t.v) if f is not None] + [frozenset(root.out_ranks(0))]
    return Cost(us + sum(map(prices.points, moved)) * prices.width / target.hbm_bytes_per_s * 1e6, flops)


@dataclass(frozen=True)
class _Names:
    """Ranks of the chunked form: a, b count chunks; r, t positions within one."""

    a: str
    b: str
    r: str
    t: str

    @staticmethod
    def fresh(taken: Mapping[str, Expr]) -> _Names:
        used = set(taken).union(*(symbols.names(e) for e in taken.values()))

        def free(name: str) -> str:
            while name in used:
                name += "_"
            return name

        return _Names(free("a"), free("b"), free("r"), free("t"))


def _ranks(t: Triangle, root: EinsumOp, names: _Names) -> dict[str, list[str]]:
    """The dimensions of every value of the chunked form."""
    batch = [r for r in root.out_ranks(0) if r != t.i and r in t.q.ranks(t.extents) | t.k.ranks(t.extents)]
    columns = [r for r in root.out_ranks(0) if r != t.i and r not in batch]
    return {
        "scores": [*batch, names.a, names.r, names.t],
        "state": [*batch, names.b, *t.inner, *columns],
        "before": [*batch, names.a, *t.inner, *columns],
        "part": [*batch, names.a, names.r, *columns],
    }


def _cost(t: Triangle, root: EinsumOp, chunk: int, prices: Prices) -> Cost:
    names = _Names.fresh(t.extents)
    n = prices.sizes[t.i]
    sizes = {**prices.sizes, names.a: n // chunk, names.b: n // chunk, names.r: chunk, names.t: chunk}
    p = Prices(prices.target, sizes, prices.width, prices.rate)
    shape = {what: frozenset(ranks) for what, ranks in _ranks(t, root, names).items()}

    def split(f: Factor, rank: str, to: Sequence[str]) -> frozenset[str]:
        return (f.ranks(t.extents) - {rank}) | frozenset(to)

    q, k = split(t.q, t.i, (names.a, names.r)), split(t.k, t.j, (names.a, names.t))
    total = p.step([q, k], shape["scores"]) + p.step([shape["scores"]], shape["scores"])
    if t.v is not None:
        v = split(t.v, t.j, (names.a, names.t))
        total = total + p.step([shape["scores"], v], shape["part"]) + p.step([k, v], shape["before"])
    else:
        total = total + p.step([shape["scores"]], shape["part"]) + p.step([k], shape["before"])
    total = total + p.step([shape["before"]], shape["before"]) + p.step([q, shape["before"]], shape["part"])
    return total + p.step([shape["part"], shape["part"]], shape["part"])


def _write(t: Triangle, root: EinsumOp, chunk: int) -> list[EinsumOp]:
    names = _Names.fresh(t.extents)
    count = sympy.Integer(int(t.extents[t.i]) // chunk)
    size = sympy.Integer(chunk)
    extents = {**t.extents, names.a: count, names.b: count, names.r: size, names.t: size}
    w = Writer(extents, root.results[0].type.element_type, root.results[0].name_hint or "r")  # pyright: ignore
    shape = _ranks(t, root, names)

    def read(f: Factor, rank: str, outer: str, inner: str) -> Read:
        at = {symbols.symbol(rank): symbols.symbol(outer) * size + symbols.symbol(inner)}
        return Read(f.value, tuple(sympy.expand(symbols.substitute(e, at)) for e in f.access))

    def product(block: Block, args: Sequence[SSAValue]) -> SSAValue:
        return args[0] if len(args) == 1 else call(block, "mul", *args)

    def hidden(small: str, large: str, strict: bool):
        def body(block: Block, args: Sequence[SSAValue]) -> SSAValue:
            indices = [IndexOp(symbols.symbol(r)) for r in (small, large)]
            block.add_ops(indices)
            condition = call(block, "ilt" if strict else "ile", *(x.result for x in indices))
            value = args[0]
            if t.coefficient != 1 and small == names.t:
                value = call(block, "mul", value, number(block, t.coefficient, value.type))
            return call(block, "select", condition, value, number(block, 0.0, value.type))

        return body

    q = read(t.q, t.i, names.a, names.r)
    scores = w.einsum("sum", [q, read(t.k, t.j, names.a, names.t)], shape["scores"], product)
    masked = w.einsum(MAP, [Read.of(scores, shape["scores"])], shape["scores"], hidden(names.t, names.r, t.strict))
    within_reads = [Read.of(masked, shape["scores"])]
    state_reads = [read(t.k, t.j, names.b, names.t)]
    if t.v is not None:
        within_reads.append(read(t.v, t.j, names.a, names.t))
        state_reads.append(read(t.v, t.j, names.b, names.t))
    within = w.einsum("sum", within_reads, shape["part"], product)
    states = w.einsum("sum", state_reads, shape["state"], product)
    before = w.einsum("sum", [Read.of(states, shape["state"])], shape["before"], hidden(names.b, names.a, True))
    across = w.einsum("sum", [q, Read.of(before, shape["before"])], shape["part"], product)
    i = symbols.symbol(t.i)
    place = {symbols.symbol(names.a): symbols.floordiv(i, size), symbols.symbol(names.r): sympy.Mod(i, size)}
    at = tuple(symbols.substitute(symbols.symbol(r), place) for r in shape["part"])

    def both(block: Block, args: Sequence[SSAValue]) -> SSAValue:
        late = (
            args[1] if t.coefficient == 1 else call(block, "mul", args[1], number(block, t.coefficient, args[1].type))
        )
        return call(block, "add", args[0], late)

    w.einsum(MAP, [Read(within, at), Read(across, at)], root.out_ranks(0), both, last=True)
    return w.ops
