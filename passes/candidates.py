"""Candidates for fusion: clusters of operations that could become one kernel.

A *cascade* is a value T with one of its ranks k, and everything that carries k from T until reductions over k have
consumed it, with the k-free maps between them.  A contraction with the maps around it is a candidate too.  Candidates
may overlap; fusion takes the best of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Sequence

import sympy
from xdsl.ir import Block, Operation, SSAValue

from ..ir.attributes import TensorType
from ..ir.cascade import EinsumOp
from .contraction import argument_ranks, product_factors, scalar_ranks, split
from .nest_reductions import Nested
from .row_factors import row_values


class Candidates:
    """The candidates of one block.

    bytes_of: size of a value in memory.  nested: reductions over several ranks that were taken apart.
    """

    def __init__(self, block: Block, bytes_of: Callable[[SSAValue], int], nested: Sequence[Nested] = ()):
        self.block = block  # of its operations `operands` are read here: the same as `inputs`, in a fifth of the time
        self.inner: set[Operation] = {op for n in nested for op in n.inner}
        self.outer: set[Operation] = {op for n in nested for op in (*n.inner[1:], n.outer)}
        self.bytes_of = bytes_of
        self.order: list[Operation] = list(block.ops)
        self.position: dict[Operation, int] = {o: n for n, o in enumerate(self.order)}
        self.contraction: dict[EinsumOp, bool] = {}
        self.reads: dict[Operation, tuple[frozenset[SSAValue], frozenset[Operation | Block]]] = {
            o: (frozenset(o.operands), frozenset(v.owner for v in o.operands)) for o in self.order
        }
        self.last_use: dict[SSAValue, int] = {}
        self.reduced_by: dict[tuple[SSAValue, int], frozenset[EinsumOp]] = {}
        self.scaled_by: dict[EinsumOp, frozenset[EinsumOp]] = {}  # what computes the row factors of a contraction
        self.bare: dict[EinsumOp, list[tuple[SSAValue, list[str | None]]]] = {}  # the ranks at bare indices

    def all(self) -> list[frozenset[EinsumOp]]:
        """Clusters of at least two operations, those first that keep the most bytes from being written."""
        found: dict[frozenset[EinsumOp], None] = {}
        for value in [*self.block.args, *(r for o in self.order for r in o.results)]:
            if isinstance(value.type, TensorType) and value.first_use:
                for dim, extent in enumerate(value.type.dims):
                    if extent != 1:
                        found.update(dict.fromkeys(self._cascades(value, dim)))
                found.update(dict.fromkeys(self._contraction_with_maps(value)))
        clusters = [c for c in dict.fromkeys(map(self._without_detours, found)) if self.size(c) > 1]
        saved = {c: self.unwritten(c) for c in clusters}
        first = {c: min(self.position[o] for o in c) for c in clusters}
        return sorted(clusters, key=lambda c: (-saved[c], -len(c), first[c]))

    def outputs(self, cluster: frozenset[EinsumOp]) -> list[SSAValue]:
        """The results that something outside reads, in program order."""
        ops = sorted(cluster, key=lambda o: self.position[o])
        return [r for o in ops for r in o.results if any(u.operation not in cluster for u in r.uses)]

    def size(self, cluster: frozenset[EinsumOp]) -> int:
        """How many operations it has, nested reductions counted once."""
        return len(cluster) - len(cluster & self.inner)

    def unwritten(self, cluster: frozenset[EinsumOp]) -> int:
        """Bytes of the intermediates that would never reach memory."""
        kept = set(self.outputs(cluster))
        return sum(self.bytes_of(r) for o in cluster for r in o.results if r not in kept)

    def is_contraction(self, op: EinsumOp) -> bool:
        """Whether an operation is a sum of products whose factors have ranks of their own."""
        if op not in self.contraction:
            self.contraction[op] = _is_contraction(op)
        return self.contraction[op]

    def reducers(self, value: SSAValue, dim: int) -> frozenset[EinsumOp]:
        """The operations that reduce rank `dim` of a value, maps between them included in the way."""
        if (value, dim) not in self.reduced_by:
            self.reduced_by[value, dim] = frozenset(self._reach(value, dim)[2])
        return self.reduced_by[value, dim]

    # --- cascades ------------------------------------------------------------------------------------------------

    def _cascades(self, value: SSAValue, dim: int) -> list[frozenset[EinsumOp]]:
        """Everything that carries rank `dim` of `value` until it is reduced; with and without contractions that reduce it."""
        carries, between, reduces = self._reach(value, dim)
        if not reduces:
            return []
        plain = {o for o in reduces if not self.is_contraction(o)}
        wanted: list[set[EinsumOp]] = [{*reduces}, plain]
        if plain:  # a norm that is written: its result carries the rank
            wanted.append(plain | carries)
        found = []
        for last in wanted:
            if last:
                cluster = self._upstream(last, carries | between | last)
                self._take_producers(cluster, value)
                found.append(frozenset(cluster))
                if self._take_outer_products(cluster):
                    self._take_producers(cluster, value)
                    found.append(frozenset(cluster))
        return found

    def _take_outer_products(self, cluster: set[EinsumOp]) -> bool:
        """Add contractions that only the cluster reads and that read less than they write; whether there were any."""
        taken = {
            v.owner
            for o in cluster
            for v in o.operands
            if isinstance(v.owner, EinsumOp) and v.owner not in cluster and self.is_contraction(v.owner)
            if {u.operation for u in v.uses} <= cluster and self.bytes_of(v) > sum(map(self.bytes_of, v.owner.operands))
        }
        cluster |= taken
        return bool(taken)

    def _reach(self, value: SSAValue, dim: int) -> tuple[set[EinsumOp], set[EinsumOp], set[EinsumOp]]:
        """From a value's rank downwards: maps that carry it, k-free maps behind its reductions, the reductions.

        What waits for an operation that is none of these is left out: it could only run after the cluster.
        """
        carried: dict[SSAValue, set[int]] = {value: {dim}}
        carries: set[EinsumOp] = set()
        between: set[EinsumOp] = set()
        reduces: set[EinsumOp] = set()
        late: set[Operation] = set()
        reached: set[Operation] = set()  # carries, between and reduces together
        owner = value.owner
        start = self.position[owner] + 1 if isinstance(owner, Operation) else 0
        horizon = self._last_use(value)
        for op in itertools.islice(self.order, start, None):
            if self.position[op] > horizon:
                break
            read, producers = self.reads[op]
            if not producers.isdisjoint(late):
                late.add(op)
                continue
            names = set() if read.isdisjoint(carried) else self._ranks_at(op, carried)
            if names:
                assert isinstance(op, EinsumOp)
                if len(op.reduced) == 1 and op.reduced[0] in names:
                    reduces.add(op)
                elif op.is_map or op in self.inner or op in self.outer:  # of nested reductions, one over another rank
                    carries.add(op)
                    for n, r in enumerate(op.results):
                        carried[r] = {op.out_ranks(n).index(name) for name in names}
                else:
                    late.add(op)
                    continue
            elif producers.isdisjoint(reached):
                if value in read:
                    late.add(op)
                continue
            elif isinstance(op, EinsumOp) and op.is_map and not (producers.isdisjoint(reduces | between)):
                between.add(op)
            elif isinstance(op, EinsumOp) and op in self.outer and producers <= reduces:
                reduces.add(op)
            else:
                late.add(op)
                continue
            reached.add(op)
            horizon = max(horizon, *(self._last_use(r) for r in op.results))
        return carries, between, reduces

    def _last_use(self, value: SSAValue) -> int:
        if value not in self.last_use:
            self.last_use[value] = max((self.position.get(u.operation, -1) for u in value.uses), default=-1)
        return self.last_use[value]

    def _ranks_at(self, op: Operation, carried: dict[SSAValue, set[int]]) -> set[str]:
        """The ranks of `op` at which it reads carried dimensions as they are."""
        if not isinstance(op, EinsumOp):
            return set()
        if op not in self.bare:
            known = set(op.ranks.names)
            self.bare[op] = [
                (v, [e.name if isinstance(e, sympy.Symbol) and e.name in known else None for e in access.data])
                for v, access in op.operand_accesses
            ]
        names = {at[d] for v, at in self.bare[op] for d in carried.get(v, ())}
        return {n for n in names if n is not None}

    def _upstream(self, last: set[EinsumOp], within: set[EinsumOp]) -> set[EinsumOp]:
        """`last`, and what of `within` it is computed from; maps without inputs come along."""
        cluster: set[EinsumOp] = set()
        pending = list(last)
        while pending:
            op = pending.pop()
            if op in cluster:
                continue
            cluster.add(op)
            for v in op.operands:
                producer = v.owner
                if isinstance(producer, EinsumOp) and (producer in within or not producer.operands):
                    pending.append(producer)
        return cluster

    def _without_detours(self, cluster: frozenset[EinsumOp]) -> frozenset[EinsumOp]:
        """The cluster without what can only run after something outside that waits for the cluster (a residual stream)."""
        first = min(self.position[o] for o in cluster)
        last = max(self.position[o] for o in cluster)
        kept: set[EinsumOp] = set()
        late: set[Operation] = set()
        for op in self.order[first : last + 1]:
            producers = {v.owner for v in op.operands}
            if op in cluster and not producers & late:
                kept.add(op)  # pyright: ignore
            elif producers & (kept | late):
                late.add(op)
        return frozenset(kept)

    # --- what feeds a cluster ------------------------------------------------------------------------------------

    def _take_producers(self, cluster: set[EinsumOp], value: SSAValue) -> None:
        """Add the contraction that makes the seed, and maps that only the cluster reads."""
        owner = value.owner
        if isinstance(owner, EinsumOp):
            cluster.add(owner)
        self.take_private(cluster)

    def take_private(self, cluster: set[EinsumOp], but: Container[Operation] = ()) -> None:
        """Add maps that only the cluster reads, and statistics of what it reads anyway.  but: what stays where it is."""
        reads = {v for o in cluster for v in o.operands}
        changed = True
        while changed:
            changed = False
            for op in list(cluster):
                for v in op.operands:
                    producer = v.owner
                    if not isinstance(producer, EinsumOp) or producer in cluster or producer in but:
                        continue
                    uses = {u.operation for u in v.uses}
                    taken: set[EinsumOp] = set()
                    if producer.is_map:
                        cheap_input = uses <= cluster and not self._widens(producer, reads)
                        if cheap_input or not producer.operands or (uses <= cluster and self.of_indices(producer)):
                            taken = {producer}
                    elif uses <= cluster and not self.is_contraction(producer):
                        taken = self._statistic_of_reads(producer, reads)
                    if taken:
                        cluster |= taken
                        reads.update(x for o in taken for x in o.operands)
                        changed = True

    def _statistic_of_reads(self, op: EinsumOp, reads: Container[SSAValue]) -> set[EinsumOp]:
        """`op` with the maps that only it reads, when all of that is computed from `reads`, what a cluster reads anyway."""
        taken, pending = {op}, list(op.operands)
        while pending:
            v = pending.pop()
            if v in reads:
                continue
            owner = v.owner
            private = isinstance(owner, EinsumOp) and owner.is_map and {u.operation for u in v.uses} <= taken
            if not private:
                return set()
            taken.add(owner)  # pyright: ignore
            pending.extend(owner.operands)  # pyright: ignore
        return taken

    def of_indices(self, op: EinsumOp) -> bool:
        """A map of maps of indices alone: it reads nothing, whatever the size of what lies between."""
        return op.is_map and all(isinstance(v.owner, EinsumOp) and self.of_indices(v.owner) for v in op.operands)

    def _widens(self, op: EinsumOp, reads: Container[SSAValue]) -> bool:
        """A map that has a cluster read more than its result saves nothing by being recomputed per tile."""
        more = {v for v in op.operands if v not in reads}
        return sum(self.bytes_of(v) for v in more) > 2 * sum(self.bytes_of(r) for r in op.results)

    def _contraction_with_maps(self, value: SSAValue) -> list[frozenset[EinsumOp]]:
        """A contraction, the maps behind it as long as each is the only reader, and the maps before it.

        Where an operand is scaled row by row (a norm), also without what computes the scale: it is applied to the result.
        Nothing else of what computes it may be needed, or a kernel would write more than rows (exp(x - m) of a softmax).
        """
        owner = value.owner
        if not isinstance(owner, EinsumOp) or not self.is_contraction(owner):
            return []
        cluster: set[EinsumOp] = {owner}
        last: SSAValue = value
        while True:
            readers = {u.operation for u in last.uses}
            if len(readers) != 1:
                break
            op = readers.pop()
            if not (isinstance(op, EinsumOp) and (op.is_map or op in self.outer) and len(op.results) == 1):
                break
            cluster.add(op)
            last = op.results[0]
        alone = set(cluster)
        self._take_producers(cluster, value)
        found = [frozenset(cluster)]
        rows = row_values(owner)
        self.take_private(alone, {v.owner for v in rows})
        scale = frozenset(cluster - alone)
        if any(o.reduced for o in scale) and {v for o in alone for v in o.operands if v.owner in scale} <= set(rows):
            self.scaled_by[owner] = scale
            found.append(frozenset(alone))
        return found


def _is_contraction(op: EinsumOp) -> bool:
    if not op.reduced or op.combiner_names[0] != "sum":
        return False
    known = frozenset(op.ranks.names)
    carried = argument_ranks(op)
    factors = product_factors(op.yields[0])
    ranks = {f: scalar_ranks(f, carried, known) for f in factors}
    return any(split([f for f in factors if k in ranks[f]], ranks, k) is not None for k in op.reduced)
