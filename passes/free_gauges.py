"""free-gauges: the maximum that stabilises exponentials becomes a constant, where these are bounded anyway.

When: a running extreme over the streamed rank moves accumulators, every value that leaves the kernel or the traversal is
the same for any finite value in its place, and the exponents with a constant there are known to be small.

Before:  m = max_j x;  l = Σ_j exp(x - m);  o = Σ_j exp(x - m) / l · v     where x = 20 tanh(s / 20)
After:   l = Σ_j exp(x);  o = Σ_j exp(x) / l · v

Why legal: a gauge is free (`passes/algebra/gauge.py` has the proof); bounds come from interval analysis of the map that x
is, and from the norms of the factors of a product (`norm_bounds.py`).  Elements masked by -inf add nothing, with a maximum
or without; NaN stays NaN.
Why cheaper: no maximum, and nothing is rescaled when it moves.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportReturnType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import sympy as sp
from xdsl.dialects.builtin import Float16Type, f64
from xdsl.ir import Operation, SSAValue

from ..ir import scalar
from ..ir.attributes import AccessMap
from ..ir.cascade import EinsumOp
from .algebra.forms import Cascade, Reduction
from .algebra.gauge import FreeGauge, free_gauge
from .algebra.intervals import Interval, bounds
from .algebra.levels import Levels
from .canonicalise import erase_dead, simplify_region
from .norm_bounds import ROUNDED, within_norms
from .replace_einsum import replace_einsum
from .row_algebra import Leaf, RowAlgebra, Unreachable


@dataclass(frozen=True)
class Freed:
    """A cascade without the extremes that need not be computed.

    gauges: what is known of each.  numbers: what stands in its place wherever its result is read.
    """

    cascade: Cascade
    levels: Levels
    gauges: tuple[FreeGauge, ...] = ()
    numbers: tuple[tuple[SSAValue, float], ...] = ()

    @property
    def certificates(self) -> list[str]:
        return [f"{g.reduction}: {g.certificate}" for g in self.gauges]

    @property
    def derivation(self) -> list[str]:
        """A line for each extreme that is gone."""
        return [
            f"  {'gauge':8} {g.constant} in the place of {g.reduction}: the result does not depend on it, "
            f"and exponents stay within {g.exponent[0]:.4g} and {g.exponent[1]:.4g}"
            for g in self.gauges
        ]


def free_gauges(algebra: RowAlgebra, cascade: Cascade, levels: Levels, ops: Mapping[sp.Symbol, EinsumOp]) -> Freed:
    """The cascade with constants for its free and bounded gauges.  Changes no operation: see `put_numbers`."""
    freed = Freed(cascade, levels)
    extremes = [r for r in cascade.reductions if r.combiner in ("max", "min")]
    leaves = _Leaves(algebra) if extremes else None
    if leaves is None or not any(leaves.bounded(r.expr) for r in extremes):
        return freed
    finals = _finals(algebra)
    if finals is None:
        return freed
    values = {s: v for v, s in algebra.name_of.items()}
    for r in extremes:
        if not leaves.bounded(r.expr):
            continue
        proven = replace(freed.cascade, outputs=tuple(finals), maps=())
        kind = _held_in(r.name, freed.levels, ops)
        found = free_gauge(proven, freed.levels, r.name, leaves.known, kind, leaves.made_of)
        if isinstance(found, FreeGauge) and found.constant is not None:
            freed = _without(freed, found, values[r.name])
            finals = [found.substitute(e) for e in finals]
    return freed


def lags(algebra: RowAlgebra, freed: Freed) -> dict[sp.Symbol, FreeGauge]:
    """The running extremes that may stay behind, with the proof and by how much: whatever leaves is the same for each.

    Exact in real arithmetic for any lag; what is folded is at most 256 times what it would be.
    """
    extremes = [r for r in freed.cascade.reductions if r.combiner in ("max", "min")]
    finals = _finals(algebra) if extremes else None
    if finals is None:
        return {}
    proven = replace(freed.cascade, outputs=tuple(finals), maps=())
    found = {r.name: free_gauge(proven, freed.levels, r.name) for r in extremes}
    return {n: g for n, g in found.items() if isinstance(g, FreeGauge) and g.stale}


def _without(freed: Freed, found: FreeGauge, value: SSAValue) -> Freed:
    cascade, levels, gone = freed.cascade, freed.levels, found.reduction
    assert found.constant is not None
    kept = tuple(Reduction(r.name, r.combiner, found.substitute(r.expr)) for r in cascade.reductions if r.name != gone)
    maps = tuple(map(found.substitute, cascade.maps))
    level = {n: k for n, k in levels.level.items() if n != gone}
    return Freed(
        replace(cascade, reductions=kept, maps=maps),
        replace(levels, level=level, forms=found.forms),
        (*freed.gauges, found),
        (*freed.numbers, (value, float(found.constant))),
    )


def put_numbers(algebra: RowAlgebra, freed: Freed) -> None:
    """Whatever still reads an extreme that is gone reads the constant; nobody computes the extreme then."""
    if freed.numbers:
        erase_dead(algebra.kernel.body.block)
    for value, number in freed.numbers:
        _put(value, number)
    if freed.numbers:
        erase_dead(algebra.kernel.body.block)


class _Leaves:
    """What the leaves of an algebra are computed from, and the constants in that."""

    def __init__(self, algebra: RowAlgebra):
        self.inner = RowAlgebra(algebra.kernel, algebra.rank, opaque=False)
        self.renamed: dict[sp.Symbol, sp.Symbol] = {}  # both algebras count their symbols from 0
        self.known: dict[sp.Symbol, Interval] = {}
        self.made_of = {s: e for s, leaf in algebra.meaning.items() if (e := self._expression(leaf)) is not None}
        meaning = {**algebra.meaning, **self.inner.meaning}
        for s, leaf in meaning.items():
            if _is_number(leaf):
                number = abs(float(scalar.constant_value(leaf.value.owner)))  # pyright: ignore
                self.known[s] = (number, number)

    def _expression(self, leaf: Leaf) -> sp.Expr | None:
        if _is_number(leaf):
            return None
        try:
            inner = self.inner
            e = inner.scalar(leaf.value) if leaf.access is None else inner.tensor(leaf.value, leaf.access)
        except Unreachable:
            return None
        for s in sorted(e.free_symbols & set(inner.meaning), key=lambda s: s.name):
            if (found := within_norms(inner, inner.meaning[s])) is not None:
                product, u = found
                e = e.xreplace({s: product})
                self.known[u] = ROUNDED
                self.renamed[u] = u
        for s in e.free_symbols - set(self.renamed):
            constant = s in inner.meaning and _is_number(inner.meaning[s])
            self.renamed[s] = s if constant else sp.Dummy(s.name, **s.assumptions0)
        return e.xreplace(self.renamed)

    def bounded(self, e: sp.Expr) -> bool:
        """Whether it is worth looking closer: elements that are not masked lie between two numbers."""
        low, high = bounds(e.xreplace(self.made_of), self.known, masked=True)
        return abs(low) < float("inf") and abs(high) < float("inf")


def _is_number(leaf: Leaf) -> bool:
    """Whether a symbol stands for a constant that has no short fraction."""
    return leaf.access is None and leaf.op is None


def _finals(algebra: RowAlgebra) -> list[sp.Expr] | None:
    """Everything that leaves the traversal: what is returned, and what other contractions read.  None: out of reach."""
    finals: list[sp.Expr] = []
    try:
        for op in algebra.kernel.body.block.ops:
            if not any(algebra.depends(v) for v in op.operands):
                continue
            if not isinstance(op, EinsumOp):
                if op is not algebra.kernel.body.block.last_op:
                    return None
            elif not op.is_map and algebra.rank not in op.reduced:
                finals += [algebra.scalar(v) for v in op.yields]
        for value in algebra.kernel.returned:
            if algebra.depends(value):
                ranks = value.owner.out_ranks(value.index)  # pyright: ignore
                finals.append(algebra.tensor(value, AccessMap.of(ranks)))
    except Unreachable:
        return None
    if any(algebra.depends(v) for blocked in algebra.blocked for v in blocked.owner.operands):  # pyright: ignore
        return None
    return finals


def _held_in(name: sp.Symbol, levels: Levels, ops: Mapping[sp.Symbol, EinsumOp]) -> str:
    """The type with the smallest range that the exponentials are held in: a product may be taken of 16-bit operands."""
    kinds = set()
    for s, op in ((s, op) for s, op in ops.items() if s in levels.forms):
        elements = [v.type.element_type for v in op.inputs]  # pyright: ignore
        if any(isinstance(e, Float16Type) for e in elements) and any(
            name in a.psi.free_symbols and not isinstance(a.psi, sp.exp) for a in levels.forms[s].accumulators
        ):
            return "fp16"
        kinds.add(op.yields[0].type)
    return "fp64" if kinds == {f64} else "fp32"


def _put(value: SSAValue, number: float) -> None:
    """Replace a tensor value by a number in everything that reads it."""
    while (use := next(iter(value.uses), None)) is not None:
        op = use.operation
        assert isinstance(op, EinsumOp)
        body = op.body.clone()
        block = body.block
        old = block.args[use.index]
        constant: Operation = scalar.constant(number, old.type)
        first = block.first_op
        assert first is not None
        block.insert_op_before(constant, first)
        old.replace_all_uses_with(constant.results[0])
        block.erase_arg(old)
        simplify_region(block)
        inputs = [pair for n, pair in enumerate(op.operand_accesses) if n != use.index]
        replace_einsum(op, inputs, body)
