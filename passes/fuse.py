"""fuse: partition a program into kernels by IO cost; what is left keeps its operations.

When: on a whole program.  Candidates are *cascades*: a large value T with one of its ranks k, together with everything
that carries k from T until reductions over k have consumed it, and the k-free maps between them.  Executed as one kernel,
the values that carry k need never exist in memory.  A contraction with the maps around it is a candidate too.

Before:  s = Σ_d q k;  m = max_j s;  e = exp(s - m);  l = Σ_j e;  o = Σ_j e / l v
After:   o = cascade.kernel @k0 { s; m; e; l; o }

Why legal: outlining only renames ranks and moves operations; a cluster is taken only if no path leaves and re-enters it.
Why cheaper: the candidate is derived, scheduled and priced on the target, and compared with the price of its operations
left apart.  A refusal is a value with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import sympy
from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Block, Operation, SSAValue

from ..ir import symbols
from ..ir.attributes import AccessMap, TensorType, element_bits
from ..ir.cascade import EinsumOp, KernelOp, OnlineOp, ProgramOp
from ..ir.target import Target
from ..ir.text import print_module
from ..ir.tile import BufferType
from .algebra.forms import Refused
from .cost import TRANSCENDENTAL
from .outline import outline
from .repair import repair_kernel
from .schedule import LARGE, Scheduled, schedule_kernel

FRESH_FROM = 32 << 20  # bytes: larger results get fresh pages from the operating system each time (glibc's mmap threshold)
FRESH_BYTES_PER_S = 1.3e9  # first touch of fresh pages, measured
GAIN = 1.0  # a kernel must be predicted to take less than this part of its operations left apart


@dataclass(frozen=True)
class Refusal:
    """Operations that were not fused, and why."""

    what: tuple[str, ...]
    reason: str


@dataclass
class Fused:
    """The outcome: kernels in place in the program, and what was refused.

    members: the operations that each kernel replaced.  origin: which of their results a kernel's result stands for.
    """

    kernels: list[KernelOp] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    members: dict[KernelOp, tuple[EinsumOp, ...]] = field(default_factory=dict)
    origin: dict[SSAValue, SSAValue] = field(default_factory=dict)


def fuse_program(program: ProgramOp, target: Target, sizes: Mapping[str, int] | None = None) -> Fused:
    """Replace profitable clusters of `program` by kernels, in place."""
    return _Fuser(program, target, dict(sizes or {})).run()


class _Fuser:
    def __init__(self, program: ProgramOp, target: Target, sizes: dict[str, int]):
        self.program, self.target, self.sizes = program, target, sizes
        self.block: Block = program.body.block
        self.ops = [o for o in self.block.ops if isinstance(o, EinsumOp)]
        self.order = list(self.block.ops)
        self.position: dict[Operation, int] = {o: n for n, o in enumerate(self.order)}
        self.taken: set[Operation] = set()
        self.contraction: dict[EinsumOp, bool] = {}
        self.result = Fused()
        self.evaluated: dict[str, tuple[float, str] | Refused] = {}

    def run(self) -> Fused:
        for cluster in self._candidates():
            if cluster & self.taken:
                continue
            self._consider(cluster)
        _sort_block(self.block)
        return self.result

    # --- candidates ----------------------------------------------------------------------------------------------

    def _candidates(self) -> list[frozenset[EinsumOp]]:
        """Clusters, those first that keep the most bytes from being written."""
        found: dict[frozenset[EinsumOp], None] = {}
        values = [*self.block.args, *(r for o in self.block.ops for r in o.results)]
        for value in values:
            if isinstance(value.type, TensorType):
                for dim in range(len(value.type.dims)):
                    found.update(dict.fromkeys(self._cascades(value, dim)))
                found.update(dict.fromkeys(self._contraction_with_maps(value)))
        clusters = [c for c in dict.fromkeys(map(self._without_detours, found)) if len(c) > 1]
        saved = {c: self._unwritten(c) for c in clusters}
        first = {c: min(self.position[o] for o in c) for c in clusters}
        return sorted(clusters, key=lambda c: (-saved[c], -len(c), first[c]))

    def _without_detours(self, cluster: frozenset[EinsumOp]) -> frozenset[EinsumOp]:
        """The cluster without what can only run after something outside that waits for the cluster (a residual stream)."""
        if not cluster:
            return cluster
        first = min(self.position[o] for o in cluster)
        last = max(self.position[o] for o in cluster)
        kept: set[Operation] = set()
        late: set[Operation] = set()
        for op in self.order[first : last + 1]:
            producers = {v.owner for v in op.operands}
            if op in cluster and not producers & late:
                kept.add(op)
            elif producers & (kept | late):
                late.add(op)
        return frozenset(kept)  # pyright: ignore

    def _unwritten(self, cluster: frozenset[EinsumOp]) -> int:
        """Bytes of the intermediates that would never reach memory."""
        kept = set(self._outputs(cluster))
        return sum(self._bytes(r) for o in cluster for r in o.results if r not in kept)

    def _cascades(self, value: SSAValue, dim: int) -> list[frozenset[EinsumOp]]:
        """Everything that carries rank `dim` of `value` until it is reduced; with and without contractions that reduce it."""
        reduces: set[EinsumOp] = set()
        carries: set[EinsumOp] = set()
        pending: list[tuple[SSAValue, int]] = [(value, dim)]
        seen: set[tuple[SSAValue, int]] = set()
        while pending:
            v, d = pending.pop()
            if (v, d) in seen:
                continue
            seen.add((v, d))
            for use in v.uses:
                op = use.operation
                if not isinstance(op, EinsumOp):
                    continue
                index = op.accesses.data[use.index].data[d]
                if not isinstance(index, sympy.Symbol) or index.name not in op.ranks.names:
                    continue
                if index.name in op.reduced:
                    if len(op.reduced) == 1:
                        reduces.add(op)
                elif op.is_map:
                    carries.add(op)
                    pending.extend((r, op.out_ranks(n).index(index.name)) for n, r in enumerate(op.results))
        if not reduces:
            return []
        found = []
        for last in ({*reduces}, {o for o in reduces if not self.is_contraction(o)}):
            if not last:
                continue
            cluster = set(last)
            self._take_carriers(cluster, carries)
            self._take_producers(cluster, value)
            found.append(frozenset(cluster))
        return found

    def _take_carriers(self, cluster: set[EinsumOp], carries: set[EinsumOp]) -> None:
        """Add the maps that lie between: carriers that feed the cluster, and k-free maps from it back into it."""
        changed = True
        while changed:
            changed = False
            for op in list(cluster):
                for v in op.inputs:
                    producer = v.owner
                    if not isinstance(producer, EinsumOp) or producer in cluster or not producer.is_map:
                        continue
                    if producer in carries or self._depends_on(producer, cluster) or not producer.inputs:
                        cluster.add(producer)
                        changed = True

    def _depends_on(self, op: EinsumOp, cluster: set[EinsumOp]) -> bool:
        """Whether a map is computed, through maps alone, from a reduction of the cluster."""
        for v in op.inputs:
            owner = v.owner
            if isinstance(owner, EinsumOp):
                if owner in cluster and not owner.is_map:
                    return True
                if owner.is_map and self._depends_on(owner, cluster):
                    return True
        return False

    def _take_producers(self, cluster: set[EinsumOp], value: SSAValue) -> None:
        """Add the contraction that makes the seed, and maps that only the cluster reads."""
        owner = value.owner
        if isinstance(owner, EinsumOp):
            cluster.add(owner)
        changed = True
        while changed:
            changed = False
            for op in list(cluster):
                for v in op.inputs:
                    producer = v.owner
                    if not isinstance(producer, EinsumOp) or producer in cluster or producer in self.taken:
                        continue
                    uses = {u.operation for u in v.uses}
                    cheap_input = producer.is_map and uses <= cluster and not self._widens(producer)
                    if producer.is_map and (cheap_input or not producer.inputs):
                        cluster.add(producer)
                        changed = True
                    elif uses <= cluster and not self.is_contraction(producer) and not producer.is_map:
                        statistic = self._statistic_of_reads(producer, cluster)
                        if statistic:
                            cluster |= statistic
                            changed = True

    def _statistic_of_reads(self, op: EinsumOp, cluster: set[EinsumOp]) -> set[EinsumOp] | None:
        """`op` with the maps that only it reads, when all of that is computed from what the cluster reads anyway."""
        reads = {x for o in cluster for x in o.inputs}
        taken, pending = {op}, list(op.inputs)
        while pending:
            v = pending.pop()
            if v in reads:
                continue
            owner = v.owner
            private = isinstance(owner, EinsumOp) and owner.is_map and {u.operation for u in v.uses} <= taken
            if not private or owner in self.taken:
                return None
            taken.add(owner)  # pyright: ignore
            pending.extend(owner.inputs)  # pyright: ignore
        return taken

    def _widens(self, op: EinsumOp) -> bool:
        """A map whose inputs are together larger than its result saves nothing by being recomputed per tile."""
        return sum(self._bytes(v) for v in op.inputs) > 2 * sum(self._bytes(r) for r in op.results)

    def _contraction_with_maps(self, value: SSAValue) -> list[frozenset[EinsumOp]]:
        """A contraction, the maps behind it as long as each is the only reader, and the maps before it."""
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
            if not (isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1):
                break
            cluster.add(op)
            last = op.results[0]
        self._take_producers(cluster, value)
        return [frozenset(cluster)]

    # --- deciding ------------------------------------------------------------------------------------------------

    def _consider(self, cluster: frozenset[EinsumOp]) -> None:
        grown = self._absorb(cluster)
        for candidate in dict.fromkeys((grown, cluster)):
            ops = sorted(candidate, key=lambda o: self.position[o])
            names = tuple(_node(o) for o in ops)
            if not self._convex(candidate):
                self.result.refusals.append(Refusal(names, "another operation lies between them"))
                continue
            outputs = self._outputs(candidate)
            kernel = outline(ops, outputs, f"k{len(self.result.kernels)}")
            if isinstance(kernel, Refused):
                self.result.refusals.append(Refusal(names, kernel.reason))
                continue
            verdict = self._evaluate(kernel, ops, outputs)
            if isinstance(verdict, Refused):
                self.result.refusals.append(Refusal(names, verdict.reason))
                kernel.erase()
                continue
            kernel.attributes["stream"] = StringAttr(verdict[1])
            kernel.attributes["nodes"] = StringAttr(" ".join(names))
            self._place(kernel, ops, outputs)
            return

    def _evaluate(self, kernel: KernelOp, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> tuple[float, str] | Refused:
        stream = stream_rank(kernel)
        key = _fingerprint(kernel)
        if key not in self.evaluated:
            self.evaluated[key] = self._price(kernel, stream, ops, outputs)
        found = self.evaluated[key]
        return found if isinstance(found, Refused) else (found[0], stream)

    def _price(self, kernel: KernelOp, stream: str, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> tuple[float, str] | Refused:
        trial = kernel.clone()
        trial.attributes["stream"] = StringAttr(stream)
        repair_kernel(trial, stream, self.target)
        scheduled = schedule_kernel(
            trial,
            self.target,
            [contiguous(a.type) for a in trial.body.block.args],  # pyright: ignore
            [(contiguous(v.type), AccessMap.of(v.owner.out_ranks(v.index))) for v in trial.returned],  # pyright: ignore
            self.sizes,
        )
        trial.erase()
        if isinstance(scheduled, Refused):
            return scheduled
        apart = self._apart(ops, outputs)
        if scheduled.price.us >= GAIN * apart:
            return Refused(
                f"fusing would not pay: {scheduled.price.us:.0f} us fused ({_why(scheduled)}), {apart:.0f} us apart"
            )
        return scheduled.price.us, stream

    def _apart(self, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> float:
        """Predicted time of the operations run one library call or one pointwise kernel at a time, in microseconds."""
        target, total = self.target, 0.0
        inside = set(ops)
        rest = [o for o in ops if not self.is_contraction(o)]
        for op in ops:
            if op not in rest:
                flops = 2.0 * self._points(op)
                kind = _rate_name(op)
                rate = target.dot_flops(kind if kind in target.flops else "f32") * (0.66 if target.kind == "cpu" else 0.8)
                moved = sum(self._bytes(v) for v in op.inputs) + sum(self._bytes(r) for r in op.results)
                total += max(flops / rate, moved / target.hbm_bytes_per_s) * 1e6 + target.launch_us
                total += self._fresh_pages(op.results)
        if rest:
            reads = {v for o in rest for v in o.inputs if v.owner not in rest}
            writes = {r for o in rest for r in o.results if r in set(outputs) or any(u.operation not in rest for u in r.uses)}
            moved = sum(map(self._bytes, reads | writes))
            special = sum(self._points(o) * _transcendentals(o) for o in rest)
            passes = 1 + (len({r for o in rest for r in o.reduced}) > 0)
            total += max(moved / target.hbm_bytes_per_s, special / target.exp_per_s) * 1e6 + passes * target.launch_us
            total += self._fresh_pages(writes)

        return total

    def _fresh_pages(self, results: Iterable[SSAValue]) -> float:
        """Microseconds that a CPU spends on the first touch of large results."""
        if self.target.kind != "cpu":
            return 0.0
        return sum(b for b in map(self._bytes, results) if b > FRESH_FROM) / FRESH_BYTES_PER_S * 1e6

    def _absorb(self, cluster: frozenset[EinsumOp]) -> frozenset[EinsumOp]:
        """Grow a cluster by the maps that are the only readers of its results."""
        grown = set(cluster)
        changed = True
        while changed:
            changed = False
            for output in self._outputs(frozenset(grown)):
                readers = {u.operation for u in output.uses}
                if len(readers) != 1:
                    continue
                op = readers.pop()
                if isinstance(op, EinsumOp) and op.is_map and op not in self.taken and op not in grown and self._bytes(op.results[0]) <= 2 * self._bytes(output):
                    grown.add(op)
                    changed = True
        return frozenset(grown)

    def _outputs(self, cluster: frozenset[EinsumOp]) -> list[SSAValue]:
        ops = sorted(cluster, key=lambda o: self.position[o])
        return [r for o in ops for r in o.results if any(u.operation not in cluster for u in r.uses)]

    def _convex(self, cluster: frozenset[EinsumOp]) -> bool:
        """No path from the cluster leaves it and comes back."""
        last = max(self.position[o] for o in cluster)
        pending = [u.operation for o in cluster for r in o.results for u in r.uses if u.operation not in cluster]
        seen: set[Operation] = set()
        while pending:
            op = pending.pop()
            if op in cluster:
                return False
            if op in seen or self.position.get(op, last + 1) > last:
                continue
            seen.add(op)
            pending.extend(u.operation for r in op.results for u in r.uses)
        return True

    def _place(self, kernel: KernelOp, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> None:
        self.block.insert_op_after(kernel, ops[-1])
        self.position[kernel] = self.position[ops[-1]]
        for old, new in zip(outputs, kernel.results, strict=True):
            new.name_hint = old.name_hint
            self.result.origin[new] = old
            old.replace_uses_with_if(new, lambda use: use.operation not in set(ops))
        self.taken |= set(ops)
        self.result.kernels.append(kernel)
        self.result.members[kernel] = tuple(ops)
        for op in reversed(ops):
            if not any(r.first_use for r in op.results):
                op.detach()
                op.erase()

    # --- sizes ---------------------------------------------------------------------------------------------------

    def is_contraction(self, op: EinsumOp) -> bool:
        if op not in self.contraction:
            self.contraction[op] = _is_contraction(op)
        return self.contraction[op]

    def _value(self, e: sympy.Expr) -> int:
        return symbols.evaluate(e, {**{n: LARGE for n in symbols.names(e)}, **self.sizes})

    def _bytes(self, value: SSAValue) -> int:
        kind = value.type
        if not isinstance(kind, TensorType):
            return 0
        total = element_bits(kind.element_type) // 8
        for d in kind.dims:
            total *= self._value(d)
        return total

    def _points(self, op: EinsumOp) -> float:
        total = 1.0
        for e in op.extents.values():
            total *= self._value(e)
        return total


def stream_rank(kernel: KernelOp) -> str:
    """The rank that the last reductions run over; "" when nothing is reduced."""
    for op in reversed(list(kernel.body.block.ops)):
        if isinstance(op, EinsumOp) and op.reduced:
            return op.reduced[-1]
        if isinstance(op, OnlineOp):
            return op.over.data
    return ""


def contiguous(kind: TensorType) -> BufferType:
    """The row-major layout of a tensor."""
    strides: list[sympy.Expr] = []
    step: sympy.Expr = sympy.Integer(1)
    for d in reversed(kind.dims):
        strides.append(step)
        step = step * d
    return BufferType.of(kind.dims, strides[::-1], kind.element_type)


def _is_contraction(op: EinsumOp) -> bool:
    from .contraction import argument_ranks, product_factors, scalar_ranks, split

    if len(op.reduced) == 0 or op.combiner_names[0] != "sum":
        return False
    known = frozenset(op.ranks.names)
    carried = argument_ranks(op)
    factors = product_factors(op.yields[0])
    ranks = {f: scalar_ranks(f, carried, known) for f in factors}
    return any(split([f for f in factors if k in ranks[f]], ranks, k) is not None for k in op.reduced)


def _rate_name(op: EinsumOp) -> str:
    from .cost import dot_dtype

    return dot_dtype(op.inputs[0].type.element_type) if op.inputs else "f32"  # pyright: ignore


def _transcendentals(op: EinsumOp) -> int:
    from ..ir import scalar

    return sum(scalar.name_of(o) in TRANSCENDENTAL for o in op.body.block.ops)


def _fingerprint(kernel: KernelOp) -> str:
    """Text of a kernel that does not depend on its name or on where it stands."""
    copy = kernel.clone()
    copy.sym_name = StringAttr("_")
    for op in copy.walk():
        op.attributes.pop("node", None)
        for r in op.results:
            r.name_hint = None
    for arg in copy.body.block.args:
        arg.name_hint = None
    text = print_module(copy)
    copy.erase()
    return text.split("->", 1)[1] if "->" in text else text


def _node(op: Operation) -> str:
    node = op.attributes.get("node")
    return node.data if isinstance(node, StringAttr) else op.results[0].name_hint or op.name


def _why(s: Scheduled) -> str:
    return f"{s.price.bound_by}, {s.work.programs} programs"


def _sort_block(block: Block) -> None:
    """Restore definition before use, keeping the order otherwise."""
    placed: set[Operation] = set()
    order: list[Operation] = []

    def visit(op: Operation) -> None:
        stack = [(op, False)]
        while stack:
            current, ready = stack.pop()
            if ready:
                order.append(current)
                continue
            if current in placed or current.parent_block() is not block:
                continue
            placed.add(current)
            stack.append((current, True))
            stack.extend((o.owner, False) for o in reversed(current.operands) if isinstance(o.owner, Operation))

    for op in list(block.ops):
        visit(op)
    for op in order:
        op.detach()
    block.add_ops(order)


