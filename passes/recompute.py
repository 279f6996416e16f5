"""recompute: a product that is much larger than its operands is computed again in each kernel that reduces it differently.

When: before clusters are chosen, on a contraction whose result has at least `MUCH_LARGER` times the elements of each operand,
where what carries the result is reduced along different ranks.

Before:  x = Σ_k h e;  m = max_s x;  p = f(x, m);  y = Σ_v p a;  z = Σ_s p c
After:   y = cascade.kernel { x; m; p; y };  z = cascade.kernel { x; m; p; z }

Why legal: operations are pure.  But a product that is computed again may be rounded in another way, and p may compare x with
its extreme m: what is equal in one kernel need not be so across two.  So everything between the product and the last
reduction is computed again with it, and what meets comes from one computation.  Another product as large that the maps read
beside the first (two products in the gradient of one row's weights) is computed again in the same kernels.  Why cheaper: x
and p are neither written nor read.  Fusion decides by the price of these kernels, against x in memory and the best clusters
around it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sympy
from xdsl.ir import BlockArgument, Operation, SSAValue

from ..ir.cascade import EinsumOp
from .candidates import Candidates
from .copy_maps import MUCH_LARGER

LONGEST = 48  # operations that are computed again


@dataclass(frozen=True)
class Cone:
    """A product and what is computed from it, up to reductions that keep the same ranks of it; `outputs` are read elsewhere."""

    ops: frozenset[EinsumOp]
    outputs: tuple[SSAValue, ...]


def cones(candidates: Candidates, elements: Callable[[SSAValue], int]) -> list[tuple[Cone, ...]]:
    """For each product that it can be done for: at least two cones, which no large value enters or leaves."""
    found = []
    for op in candidates.order:
        if isinstance(op, EinsumOp) and len(op.results) == 1 and op.reduced:
            large = elements(op.results[0])
            if all(MUCH_LARGER * elements(v) <= large for v in op.inputs) and candidates.is_contraction(op):
                found.append(_Product(op, candidates, elements, large).cones())
    return [c for c in found if len(c) > 1]


class _Product:
    def __init__(self, op: EinsumOp, candidates: Candidates, elements: Callable[[SSAValue], int], large: int):
        self.op, self.candidates, self.elements, self.large = op, candidates, elements, large
        self.kept: dict[SSAValue, tuple[int | None, ...]] = {op.results[0]: tuple(range(len(op.out_ranks())))}
        self.others: dict[SSAValue, bool] = {}  # large values that do not depend on the product: see `_beside`

    def cones(self) -> tuple[Cone, ...]:
        wide = self._wide()
        if wide is None:
            return ()
        before = self._upwards(wide)
        ends: dict[frozenset[int | None], list[EinsumOp]] = {}  # by the ranks they keep
        readers = {u.operation for w in wide for u in w.results[0].uses} - before
        for op in sorted(readers, key=lambda o: self.candidates.position[o]):
            while op in self.candidates.inner:  # the rest of a reduction over several ranks
                (op,) = {u.operation for r in op.results for u in r.uses}
            assert isinstance(op, EinsumOp)
            ends.setdefault(self._kept(op.results[0]), []).append(op)
        parts = {kept: frozenset(self._upwards(last)) for kept, last in ends.items()}
        if len(parts) < 2 or not all(map(self._stands_alone, parts.values())):
            return ()
        every = frozenset().union(*parts.values())
        if any(u.operation not in every for o in every for r in o.results if self._beside(r) for u in r.uses):
            return ()
        outputs: dict[frozenset[int | None], list[SSAValue]] = {kept: [] for kept in parts}
        for value in self.candidates.outputs(frozenset().union(*parts.values())):
            where = [kept for kept, ops in parts.items() if value.owner in ops]
            outputs[next((k for k in where if k <= self._kept(value)), where[0])].append(value)
        return tuple(Cone(ops, tuple(outputs[kept])) for kept, ops in parts.items())

    def _kept(self, value: SSAValue) -> frozenset[int | None]:
        return frozenset(self.kept[value]) - {None}

    def _wide(self) -> list[EinsumOp] | None:
        """The product and the maps of it that are as large, in order; None when something else than a reduction reads one.

        Everything that depends on the product enters `kept`: which of its ranks each dimension is.
        """
        wide = [self.op]
        start = self.candidates.position[self.op] + 1
        horizon = self._last_use(self.op)
        for op in itertools.islice(self.candidates.order, start, None):
            if self.candidates.position[op] > horizon:
                break
            read = [v for v in op.operands if v in self.kept]
            if not read:
                continue
            reads_wide = any(v.owner in wide for v in read)
            if not isinstance(op, EinsumOp):
                if reads_wide:
                    return None
                continue
            known: dict[str, int] = {}
            for v, access in op.operand_accesses:
                for e, dim in zip(access.data, self.kept.get(v, ()), strict=False):
                    if dim is not None and isinstance(e, sympy.Symbol):
                        known[e.name] = dim
            for n, r in enumerate(op.results):
                self.kept[r] = tuple(known.get(name) for name in op.out_ranks(n))
            if reads_wide and op.is_map and len(op.results) == 1 and self.elements(op.results[0]) >= self.large:
                wide.append(op)
                horizon = max(horizon, self._last_use(op))
            elif op in self.candidates.inner:
                horizon = max(horizon, self._last_use(op))
            elif reads_wide and (op.is_map or MUCH_LARGER * max(map(self.elements, op.results)) > self.large):
                return None
            if len(self.kept) > LONGEST:
                return None
        return wide

    def _upwards(self, last: Iterable[EinsumOp]) -> set[EinsumOp]:
        """Operations with what they are computed from, down to the product.  Maps without inputs come along, and so do maps
        that they alone read: of indices, or small ones of something loaded (a bound of it, say)."""
        found: set[EinsumOp] = set()
        pending: list[Operation] = list(last)
        while pending:
            op = pending.pop()
            if isinstance(op, EinsumOp) and op not in found:
                found.add(op)
                owners = {
                    v.owner
                    for v in op.inputs
                    if v in self.kept
                    or not getattr(v.owner, "inputs", True)
                    or self._beside(v)
                    or self._comes_along(v, found)
                }
                pending.extend(o for o in owners if isinstance(o, Operation))
        return found

    def _beside(self, value: SSAValue) -> bool:
        """Whether a large value that does not depend on the product comes from another such product, through maps."""
        if value in self.kept or self.elements(value) < self.large:
            return False
        if value not in self.others:
            op = value.owner
            found = isinstance(op, EinsumOp) and len(op.results) == 1 and op.parent_block() is self.op.parent_block()
            if found and op.is_map:  # pyright: ignore
                found = any(map(self._beside, op.inputs)) and all(  # pyright: ignore
                    self._beside(v)
                    for v in op.inputs
                    if self.elements(v) >= self.large  # pyright: ignore
                )
            elif found:
                found = self.candidates.is_contraction(op) and all(  # pyright: ignore
                    MUCH_LARGER * self.elements(v) <= self.elements(value)
                    for v in op.inputs  # pyright: ignore
                )
            self.others[value] = found
        return self.others[value]

    def _comes_along(self, value: SSAValue, readers: set[EinsumOp]) -> bool:
        """Whether nothing but `readers` read a map, and it is one of indices alone, or a small one of the block's arguments."""
        op = value.owner
        if not isinstance(op, EinsumOp) or not op.is_map:
            return False
        if any(u.operation not in readers for r in op.results for u in r.uses):
            return False
        return self.candidates.of_indices(op) or (
            all(isinstance(v, BlockArgument) and self.elements(v) <= self.elements(value) for v in op.inputs)
            and MUCH_LARGER * self.elements(value) <= self.large
        )

    def _stands_alone(self, ops: frozenset[EinsumOp]) -> bool:
        """Whether a cone reads nothing large, and nothing that something else makes of the product."""
        read = {v for o in ops for v in o.inputs if v.owner not in ops}
        return self.op in ops and not any(v in self.kept or self.elements(v) >= self.large for v in read)

    def _last_use(self, op: EinsumOp) -> int:
        return max((self.candidates.position[u.operation] for r in op.results for u in r.uses), default=-1)
