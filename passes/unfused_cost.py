"""What operations cost when they are left apart: a library call for each product, pointwise kernels for the rest.

Also what they cost at best in one kernel, which is known before there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Operation, SSAValue

from ..ir import scalar
from ..ir.cascade import EinsumOp
from ..ir.target import Target
from .candidates import Candidates
from .cost import CPU_MAP_RATE, CPU_RATES, HBM_EFFICIENCY
from .likely_sizes import LikelySizes
from .rate_classes import TRANSCENDENTAL, dot_dtype

# Bytes: larger results get fresh pages from the operating system each time (glibc's mmap threshold).
FRESH_FROM = 32 << 20
FRESH_BYTES_PER_S = 4e9  # first touch of fresh pages
NOT_COUNTED = {scalar.CONSTANT, "widen", "narrow"}  # scalars that cost a pointwise kernel nothing


class UnfusedCost:
    """Prices operations of one block on a target."""

    def __init__(self, candidates: Candidates, target: Target, sizes: LikelySizes):
        self.candidates, self.target, self.sizes = candidates, target, sizes

    def at_best(self, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> float:
        """Microseconds under which no kernel stays: its products at full rate, what they read and what is written once."""
        products = [o for o in ops if self.candidates.is_contraction(o)]
        arithmetic = 0.0
        moved = sum(map(self.sizes.bytes, outputs))
        for op in products:
            kind = _rate_name(op)
            arithmetic += (
                2.0 * self.sizes.points(op) / self.target.dot_flops(kind if kind in self.target.flops else "f32")
            )
        for v in {v for o in products for v in o.inputs if v.owner not in ops}:
            moved += min(self.sizes.bytes(v), *(4 * int(self.sizes.points(o)) for o in products if v in o.inputs))
        if self.target.kind == "cpu":
            us = (arithmetic + 0.5 * moved / self.target.hbm_bytes_per_s) * 1e6
        else:
            us = max(arithmetic, moved / self.target.hbm_bytes_per_s) * 1e6 + self.target.launch_us
        return us + self.fresh_pages(outputs)

    def apart(self, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> tuple[float, int]:
        """Microseconds and bytes moved when the operations run one library call or one pointwise kernel at a time."""
        target, total, traffic = self.target, 0.0, 0
        bandwidth = target.hbm_bytes_per_s * (1.0 if target.kind == "cpu" else HBM_EFFICIENCY)
        calls: dict[EinsumOp, list[EinsumOp]] = {}
        by_node: dict[str, EinsumOp] = {}
        for op in ops:
            if self.candidates.is_contraction(op) and by_node.setdefault(node_name(op), op) is op:
                calls[op] = [op]
        rest: list[EinsumOp] = []
        for op in ops:
            if op in calls:
                continue
            # Part of the same library call: the bias of a product.
            if "node" in op.attributes and node_name(op) in by_node:
                calls[by_node[node_name(op)]].append(op)
            else:
                rest.append(op)
        for op, together in calls.items():
            kind = _rate_name(op)
            rate = target.dot_flops(kind if kind in target.flops else "f32") * (
                1.1 if target.kind == "cpu" else target.library_rate
            )
            read = {v for o in together for v in o.inputs if v.owner not in together}
            written = {r for o in together for r in o.results if any(u.operation not in together for u in r.uses)}
            moved = sum(map(self.sizes.bytes, read | written))
            traffic += moved
            flops = sum(2.0 * self.sizes.points(o) for o in together if self.candidates.is_contraction(o))
            arithmetic, memory = flops / rate + self._special_seconds(together), moved / bandwidth
            us = arithmetic + memory if target.kind == "cpu" else max(arithmetic, memory)
            total += us * 1e6 + target.launch_us + self.fresh_pages(written)
        if rest:
            reads = {v for o in rest for v in o.inputs if v.owner not in rest}
            writes = {
                r for o in rest for r in o.results if r in set(outputs) or any(u.operation not in rest for u in r.uses)
            }
            moved = sum(map(self.sizes.bytes, reads | writes)) + 2 * sum(
                map(self.sizes.bytes, self._between(rest) - writes)
            )
            traffic += moved
            arithmetic = self._special_seconds(rest) + self._vector_seconds(rest)
            passes = self._launches(rest)
            total += max(moved / bandwidth, arithmetic) * 1e6 + passes * target.launch_us
            total += self.fresh_pages(writes)
        return total, traffic

    def _launches(self, ops: Sequence[EinsumOp]) -> int:
        """How many pointwise kernels maps and reductions take: one for the maps, one for reductions over the same rows.

        A reduction of other rows than those it depends on is another kernel.  On a GPU, one of fewer rows than there are
        multiprocessors is two, the second of which takes the maps behind it along: what a library does, too.
        """
        reductions = [o for o in ops if o.reduced and o not in self.candidates.inner]
        if not reductions or self.target.kind == "cpu":
            return 1 + bool(reductions)
        within, chosen = set(ops), set(reductions)
        few = {o for o in reductions if math.prod(map(self.sizes.value, o.out_shape())) < self.target.sms}
        level: dict[EinsumOp, int] = {}
        below: dict[Operation, set[EinsumOp]] = {}  # the last reductions that an operation depends on
        for op in sorted(ops, key=lambda o: self.candidates.position[o]):
            before = set().union(*(below[o] for v in op.inputs if (o := v.owner) in within), set())  # pyright: ignore
            below[op] = {op} if op in chosen else before
            if op in chosen:
                same = [o for o in before if op not in few and o.out_shape() == op.out_shape()]
                level[op] = max((level[o] + (o not in same) for o in before), default=1)
        kernels = {n: 2 if few & {o for o in reductions if level[o] == n} else 1 for n in level.values()}
        return sum(kernels.values()) + (not few)

    def _special_seconds(self, ops: Sequence[EinsumOp]) -> float:
        """Time in transcendental functions, one pointwise kernel for all."""
        total = 0.0
        for op in ops:
            for name in filter(None, map(scalar.name_of, op.body.block.ops)):
                if name in TRANSCENDENTAL:
                    cpu = CPU_RATES.get(name, CPU_MAP_RATE) * self.target.sms
                    total += self.sizes.points(op) / (cpu if self.target.kind == "cpu" else self.target.exp_per_s)
        return total

    def _vector_seconds(self, ops: Sequence[EinsumOp]) -> float:
        """Time in the other arithmetic of pointwise and reduction kernels, each operation over all of its points.

        Priced like that of a tile kernel (`cost.price`): on a GPU a map takes two instructions, a part of which is hidden.
        """
        cpu, done = self.target.kind == "cpu", 0.0
        for op in ops:
            names = [n for n in map(scalar.name_of, op.body.block.ops) if n and n not in NOT_COUNTED]
            reduced = len(op.results) if op.reduced else 0
            maps = len([n for n in names if n not in TRANSCENDENTAL])
            done += self.sizes.points(op) * (maps + reduced if cpu else 0.7 * (4 * maps + 2 * reduced))
        return done / self.target.vector_flops

    def _between(self, ops: Sequence[EinsumOp]) -> set[SSAValue]:
        """Results of reductions that another one of `ops` reduces further, along a rank of their own: no pointwise or
        reduction kernel does both, so they are written and read."""
        members = set(ops)
        found: set[SSAValue] = set()
        for op in ops:
            if op.reduced and op not in self.candidates.inner:
                for r in op.results:
                    if any(self.candidates.reducers(r, d) & members for d, e in enumerate(r.type.dims) if e != 1):  # pyright: ignore
                        found.add(r)
        return found

    def fresh_pages(self, results: Iterable[SSAValue]) -> float:
        """Microseconds that a CPU spends on the first touch of large results."""
        if self.target.kind != "cpu":
            return 0.0
        return sum(b for b in map(self.sizes.bytes, results) if b >= FRESH_FROM) / FRESH_BYTES_PER_S * 1e6


def node_name(op: Operation) -> str:
    """The call of the traced program that an operation is a part of."""
    node = op.attributes.get("node")
    return node.data if isinstance(node, StringAttr) else op.results[0].name_hint or op.name


def _rate_name(op: EinsumOp) -> str:
    return dot_dtype(op.inputs[0].type.element_type) if op.inputs else "f32"  # pyright: ignore
