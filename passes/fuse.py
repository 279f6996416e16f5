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

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import sympy
from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Block, Operation, SSAValue

from ..ir.attributes import AccessMap, TensorType
from ..ir.cascade import EinsumOp, KernelOp, OnlineOp, ProgramOp
from ..ir.names import note
from ..ir.target import Target
from ..ir.tile import BufferType
from .algebra.forms import Refused
from .candidates import Candidates
from .copy_maps import copy_maps, merge, shared
from .fingerprint import Fingerprints, Known, names_of
from .least_cost import least_us
from .likely_sizes import LikelySizes
from .nest_reductions import nest_reductions, restore
from .order import sort_block
from .outline import label, outline
from .recompute import Cone, cones
from .repair import repair_kernel
from .scalar_region import Inexpressible
from .schedule import schedule_kernel
from .scheduled import Scheduled
from .unfused_cost import UnfusedCost, node_name
from .walk import LoopOptions

MUCH_MORE = 1.25  # times the predicted saving
AS_MUCH = 1.25  # times the bytes of a result, that its map may read: a bias or a row beside is not much
CPU_GAIN = 0.88  # of the time of its operations apart: a tile program is many calls, which a busy machine can hold up


@dataclass(frozen=True)
class Refusal:
    """Operations that were not fused, and why."""

    what: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Trial:
    """A kernel, repaired and scheduled for row-major tensors.

    kernel: detached and without operands.  reads: which inputs of the kernel as outlined its arguments are.
    join: how it was outlined.  gain_us: predicted saving.  unfused_bytes: what its operations would move apart.
    """

    kernel: KernelOp
    reads: tuple[int, ...]
    stream: str
    join: bool
    scheduled: Scheduled
    gain_us: float
    unfused_bytes: int


@dataclass(frozen=True)
class Unwalkable(Refused):
    """A kernel that no walk over its ranks can run on the target."""


@dataclass
class Fused:
    """The outcome: kernels in place in the program, and what was refused.

    members: the operations that each kernel replaced.  origin: which of their results a kernel's result stands for.
    trials: what each kernel's price was taken from; kernels that are the same share one.
    """

    kernels: list[KernelOp] = field(default_factory=list)
    trials: dict[KernelOp, Trial] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    members: dict[KernelOp, tuple[EinsumOp, ...]] = field(default_factory=dict)
    origin: dict[SSAValue, SSAValue] = field(default_factory=dict)


def fuse_program(
    program: ProgramOp,
    target: Target,
    sizes: Mapping[str, int] | None = None,
    exists: Callable[[SSAValue], bool] = lambda value: True,
    readable: Callable[[SSAValue], bool] | None = None,
    *,
    always: bool = False,
    complete: bool = False,
    options: LoopOptions | None = None,
    known: Known | None = None,
) -> Fused:
    """Replace profitable clusters of `program` by kernels, in place.

    sizes: likely values of symbolic sizes, for pricing.  exists: whether a value can be passed between kernels (some live
    only inside a larger library call).  readable: whether a kernel can read it (default: if it exists).  always: take what
    can be one kernel, though it is predicted to be slower.  complete: make kernels of what is then left, too, down to single
    operations.  options: of the loops of kernels.  known: what was decided in other programs; it grows.
    """
    known = known or Known()
    fuser = _Fuser(program, target, dict(sizes or {}), exists, always, options, known, readable)
    return fuser.run(complete)


class _Fuser:
    def __init__(
        self,
        program: ProgramOp,
        target: Target,
        sizes: dict[str, int],
        exists: Callable[[SSAValue], bool],
        always: bool,
        options: LoopOptions | None,
        known: Known,
        readable: Callable[[SSAValue], bool] | None = None,
    ):
        self.program, self.target, self.sizes, self.always = program, target, sizes, always
        self.options = options
        self.likely = LikelySizes(sizes)
        self.block: Block = program.body.block
        self.copied = copy_maps(self.block, self.likely.bytes)
        self.nested = nest_reductions(self.block)
        self.candidates = Candidates(self.block, self.likely.bytes, self.nested)
        between = {v for n in self.nested for v in n.between}
        self.exists = lambda value: value not in between and exists(self.result.origin.get(value, value))
        may_read = readable or exists
        self.readable = lambda value: value not in between and may_read(self.result.origin.get(value, value))
        self.unfused = UnfusedCost(self.candidates, target, self.likely)
        self.position = self.candidates.position
        self.taken: set[Operation] = set()
        self.tried: set[frozenset[EinsumOp]] = set()
        self.result = Fused()
        self.known = known
        self.fingerprints = Fingerprints(known.numbers)
        self.verdicts: dict[tuple, tuple[Trial | Refused, Sequence[str]]] = {}  # with the operations' labels

    def run(self, complete: bool) -> Fused:
        clusters = self.candidates.all()
        found = {c: form for c in clusters if (form := self._gain(c)) is not None}
        gain = {c: g for c, (g, _) in found.items()}
        # In the order of what is kept from being written, but behind what crosses it and saves much more time, behind its
        # products alone where those save more than all of it does, and behind a part that is quicker with the rest apart.
        much = {c: g + (MUCH_MORE - 1) * abs(g) for c, g in gain.items()}
        later = {
            c
            for c, g in gain.items()
            if not self.always  # who asks for kernels asks for those that keep the most from being written
            and any(
                (h > much[c] and _cross(c, d))
                or (h > g and (self._leaves_scale(c, d) or self._better_apart(found[c], found[d])))
                for d, h in gain.items()
            )
        }
        for parts in cones(self.candidates, self.likely.elements):
            if not any(c.ops & self.taken for c in parts):
                self._recompute(parts, gain)
        for cluster in sorted(clusters, key=lambda c: c in later):
            if not cluster & self.taken:
                self._consider(cluster)
        if complete:
            self._take_the_rest(clusters)
        elif self.always and not self.result.kernels:  # who asks for kernels gets its products as such, one by one
            for op in [o for o in self.position if isinstance(o, EinsumOp) and o.reduced and len(o.inputs) > 1]:
                self._consider(frozenset({op}))
        restore(self.nested)
        if self.copied:
            merge(self.block)
        sort_block(self.block)
        return self.result

    def _take_the_rest(self, clusters: Iterable[frozenset[EinsumOp]]) -> None:
        """Kernels of all that none took: clusters at any price, then reductions and maps with what is best computed along."""
        self.always = True
        self.tried.clear()
        self.verdicts.clear()
        for cluster in clusters:
            if not cluster & self.taken:
                self._consider(cluster)
        left = [o for o in self.position if isinstance(o, EinsumOp)]
        # Maps last, and of those the last ones first: each takes along what only it reads.
        for op in [*(o for o in left if not o.is_map), *(o for o in reversed(left) if o.is_map)]:
            for cluster in self._around(op) if op not in self.taken else ():
                if op not in self.taken:
                    self._consider(cluster)
        kernels = [set(note(k, "nodes").split()) for k in self.result.kernels]
        self.result.refusals = [r for r in self.result.refusals if not any(k.issuperset(r.what) for k in kernels)]

    def _around(self, op: EinsumOp) -> Iterator[frozenset[EinsumOp]]:
        """The smallest kernels for one operation: with the maps that only it reads, or without; both with the operations
        that it shares values with that do not exist by themselves."""
        cluster = {op}
        self.candidates.take_private(cluster, self.taken)
        for smallest in (cluster, {op}):
            more = smallest
            while more and not more & self.taken:
                smallest = smallest | more
                hidden = {v.owner for o in smallest for v in o.inputs if not self.readable(v)}
                hidden |= {u.operation for o in smallest for r in o.results if not self.exists(r) for u in r.uses}
                more = {o for o in hidden - smallest if isinstance(o, EinsumOp)}
            if not smallest & self.taken:
                yield frozenset(smallest)

    def _at_real_boundaries(self, cluster: frozenset[EinsumOp]) -> frozenset[EinsumOp]:
        """The cluster without operations that would read, or leave behind, a value that does not exist by itself."""
        kept = set(cluster)
        while True:
            wrong = {
                o
                for o in kept
                if any(v.owner not in kept and not self.readable(v) for v in o.inputs)
                or any(not self.exists(r) and any(u.operation not in kept for u in r.uses) for r in o.results)
            }
            if not wrong:
                return frozenset(kept)
            kept -= wrong

    # --- deciding ------------------------------------------------------------------------------------------------

    def _gain(self, cluster: frozenset[EinsumOp]) -> tuple[float, frozenset[EinsumOp]] | None:
        """Predicted microseconds that the kernel for a cluster would save, and what is in it; None when there is none."""
        for ops, outputs in self._forms(cluster):
            verdict = self._judge(ops, outputs)
            if not isinstance(verdict, Refused):
                kernel, trial = verdict
                kernel.erase()
                return trial.gain_us, frozenset(ops)
        return None

    def _forms(self, cluster: frozenset[EinsumOp]) -> Iterator[tuple[list[EinsumOp], list[SSAValue]]]:
        """What a cluster may be taken as, with the results that leave: with the maps behind it, or as it is."""
        for candidate in dict.fromkeys(map(self._at_real_boundaries, (self._absorb(cluster), cluster))):
            if self.candidates.size(candidate) > 1 or (self.always and cluster == candidate):
                yield self._in_order(candidate), self.candidates.outputs(candidate)

    def _in_order(self, ops: Iterable[EinsumOp]) -> list[EinsumOp]:
        return sorted(ops, key=lambda o: self.position[o])

    def _leaves_scale(self, cluster: frozenset[EinsumOp], part: frozenset[EinsumOp]) -> bool:
        """Whether a part of a cluster is all but the kernel of its scale, so that their gains compare."""
        return part < cluster and cluster == part.union(self._scale(part))

    def _better_apart(self, whole: tuple[float, frozenset[EinsumOp]], part: tuple[float, frozenset[EinsumOp]]) -> bool:
        """Whether the kernel for a part, and the rest as it is, are much quicker than a kernel for all.  Both with gains."""
        (gain, cluster), (saved, inner) = whole, part
        if not inner < cluster:
            return False
        both, alone, rest = (
            self.unfused.apart(self._in_order(ops), self.candidates.outputs(ops))[0]
            for ops in (cluster, inner, cluster - inner)
        )
        return MUCH_MORE * (alone - saved + rest) < both - gain

    def _scale(self, ops: Iterable[EinsumOp]) -> list[EinsumOp]:
        """What computes the row factors of the contractions among `ops`, where that is left to a kernel of its own."""
        inside = set(ops)
        scales = [self.candidates.scaled_by[o] for o in inside if o in self.candidates.scaled_by]
        return self._in_order(set().union(*(s for s in scales if not s & (inside | self.taken))))

    def _joined_by_readers(self, ops: Sequence[EinsumOp]) -> set[EinsumOp]:
        """Maps at the end of a cluster that cost nothing where they are left apart: whoever reads them is a pointwise or
        reduction kernel, which then reads what they read, and that is no more."""
        joined: set[EinsumOp] = set()
        for op in reversed(self._in_order(ops)):
            readers = {u.operation for r in op.results for u in r.uses}
            read = sum(map(self.likely.bytes, op.inputs))
            if (
                op.is_map
                and readers
                and read <= AS_MUCH * self.likely.bytes(op.results[0])
                and all(
                    isinstance(o, EinsumOp) and o not in self.taken and not self.candidates.is_contraction(o)
                    for o in readers - joined
                )
                and not (readers - joined) & set(ops)
            ):
                joined.add(op)
        return joined

    def _consider(self, cluster: frozenset[EinsumOp]) -> None:
        for ops, outputs in self._forms(cluster):
            candidate = frozenset(ops)
            if candidate in self.tried:
                continue
            self.tried.add(candidate)
            names = tuple(node_name(o) for o in ops)
            verdict = self._judge(ops, outputs)
            if isinstance(verdict, Refused):
                self.result.refusals.append(Refusal(names, verdict.reason))
                continue
            self._take(*verdict, ops, outputs)
            return

    def _take(self, kernel: KernelOp, trial: Trial, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> None:
        kernel.sym_name = StringAttr(f"k{len(self.result.kernels)}")
        kernel.attributes["stream"] = StringAttr(trial.stream)
        kernel.attributes["unfused_bytes"] = StringAttr(str(trial.unfused_bytes))
        kernel.attributes["nodes"] = StringAttr(" ".join(map(node_name, ops)))
        self.result.trials[kernel] = trial
        self._place(kernel, ops, outputs)

    def _recompute(self, parts: Sequence[Cone], gain: Mapping[frozenset[EinsumOp], float]) -> None:
        """Take cones of one product as a kernel each, if all can be one, and together they cost less than the best clusters."""
        every = frozenset().union(*(c.ops for c in parts))
        sorted_ops = [sorted(c.ops, key=lambda o: self.position[o]) for c in (*parts, Cone(every, ()))]
        names = tuple(node_name(o) for o in sorted_ops[-1])
        made: list[tuple[KernelOp, Trial]] = []
        us, reason = 0.0, None
        for ops, part in zip(sorted_ops, parts, strict=False):
            verdict = self._judge(ops, part.outputs)
            if isinstance(verdict, Refused):
                reason = verdict.reason
                break
            made.append(verdict)
            us += self.unfused.apart(ops, part.outputs)[0] - verdict[1].gain_us
        if reason is None:
            stored, kept = self.unfused.apart(sorted_ops[-1], [v for c in parts for v in c.outputs])[0], set[EinsumOp]()
            limit = stored * (CPU_GAIN if self.target.kind == "cpu" else 1.0)
            for cluster in sorted(gain, key=lambda c: -gain[c]):
                if cluster <= every and not cluster & kept and gain[cluster] > 0:
                    kept |= cluster
                    limit = min(limit, stored := stored - gain[cluster])
            if us < limit or (self.always and not any(every <= c for c in gain)):
                for (kernel, trial), ops, part in zip(made, sorted_ops, parts, strict=False):
                    self._take(kernel, trial, ops, part.outputs)
                return
            reason = (
                f"fusing would not pay: {us:.0f} us with its product computed again, {limit:.0f} us with it in memory"
            )
        for kernel, _ in made:
            kernel.erase()
        self.result.refusals.append(Refusal(names, reason))

    def _judge(self, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> tuple[KernelOp, Trial] | Refused:
        """The cluster as a kernel and what its price was taken from; a cluster like an earlier one is not priced again."""
        if any(extent == 0 for o in ops for extent in o.ranks.extents.values()):
            return Refused("a rank is empty: there is nothing to compute")
        with shared(ops, self.copied) as without_copies:
            return self._judge_shared(without_copies, outputs)

    def _judge_shared(self, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> tuple[KernelOp, Trial] | Refused:
        key = self.fingerprints.of(ops, outputs), self.fingerprints.of(self._scale(ops), ())
        if not self._convex(frozenset(ops)):
            return Refused("another operation lies between them")
        if any(e.is_zero for o in ops for e in o.extents.values()):
            return Refused("there are no elements to compute")
        labels = tuple(map(label, ops))
        known, first = self._known(key, ops, labels)
        if isinstance(known, Refused):
            return Refused(_renamed(known.reason, first, labels))
        verdict: Trial | Refused | None = None
        ranks = -1  # none looked at: a kernel of numbers has no ranks
        for join in (True, False) if known is None else (known.join,):
            kernel = outline(ops, outputs, f"k{len(self.result.kernels)}", join)
            if isinstance(kernel, Refused):
                verdict = verdict or kernel
                break
            if len(_ranks(kernel)) != ranks:  # ranks that could be made one and were left apart
                verdict, ranks = known or self._price(kernel, ops, outputs, join), len(_ranks(kernel))
                if isinstance(verdict, Trial):
                    self.verdicts[key] = (verdict, labels)
                    self.known.taken[self._everywhere(key, ops), names_of(ops)] = verdict
                    return kernel, verdict
            kernel.erase()
            if not isinstance(verdict, Unwalkable):
                break
        assert isinstance(verdict, Refused)
        self.verdicts[key] = self.known.refused[self._everywhere(key, ops)] = (verdict, labels)
        return verdict

    def _known(
        self, key: tuple, ops: Sequence[EinsumOp], labels: Sequence[str]
    ) -> tuple[Trial | Refused | None, Sequence[str]]:
        """What was decided for a cluster like this one, in this program or another, and what its operations were called."""
        if key in self.verdicts:
            return self.verdicts[key]
        everywhere = self._everywhere(key, ops)
        if everywhere in self.known.refused:
            return self.known.refused[everywhere]
        return self.known.taken.get((everywhere, names_of(ops))), labels

    def _everywhere(self, key: tuple, ops: Sequence[EinsumOp]) -> tuple:
        """The key of a cluster among those of all programs."""
        sizes = tuple(sorted(self.sizes.items()))
        context = self.target.name, sizes, self.always, self.options
        return context, key, tuple(o in self.candidates.inner for o in ops)

    def _price(
        self, kernel: KernelOp, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue], join: bool
    ) -> Trial | Refused:
        stream = stream_rank(kernel)
        if not self.always and self.target.kind == "cpu" and all(o.is_map for o in ops):
            return Refused("fusing would not pay: the rest of the graph makes one pointwise kernel of it as well")
        apart, traffic = self.unfused.apart(ops, outputs)
        scale = self._scale(ops)
        if scale:  # a kernel that computes it could scale the operand as well: what the rest then costs
            both = self._in_order({*scale, *ops})
            beside = (
                self.unfused.apart(both, outputs)[0]
                - self.unfused.apart(scale, self.candidates.outputs(frozenset(scale)))[0]
            )
            apart = min(apart, beside)
        if not self.always and (joined := self._joined_by_readers(ops)):
            rest = [o for o in ops if o not in joined]
            if not rest:
                return Refused("fusing would not pay: what reads it can compute it along")
            apart = min(apart, self.unfused.apart(rest, self.candidates.outputs(frozenset(rest)))[0])
        limit = math.inf if self.always else apart * (CPU_GAIN if self.target.kind == "cpu" else 1.0)
        at_best = self.unfused.at_best(ops, outputs)
        if at_best >= limit:  # the usual fate of a product with a map behind it: no need to look closer
            return Refused(f"fusing would not pay: {at_best:.0f} us fused at best, {apart:.0f} us apart")
        trial = kernel.clone()
        trial.attributes["stream"] = StringAttr(stream)
        try:
            reads = repair_kernel(trial, stream, self.target, self.options is not None and self.options.lazy)
        except Inexpressible as stop:
            trial.erase()
            return Refused(str(stop))
        trial.operands = []  # it stands outside of the program, and reads nothing there
        at_best += least_us(trial, self.target, self.likely) if limit < math.inf else 0.0
        if at_best >= limit:
            trial.erase()
            return Refused(f"fusing would not pay: {at_best:.0f} us fused at best, {apart:.0f} us apart")
        scheduled = schedule_kernel(
            trial,
            self.target,
            [contiguous(a.type) for a in trial.body.block.args],  # pyright: ignore
            [(contiguous(v.type), AccessMap.of(v.owner.out_ranks(v.index))) for v in trial.returned],  # pyright: ignore
            self.sizes,
            options=self.options,
        )
        if isinstance(scheduled, Refused):
            trial.erase()
            return Unwalkable(scheduled.reason)
        fused = scheduled.us + self.unfused.fresh_pages(outputs)
        if fused >= limit:
            trial.erase()
            return Refused(f"fusing would not pay: {fused:.0f} us fused ({_why(scheduled)}), {apart:.0f} us apart")
        return Trial(trial, reads, stream, join, scheduled, apart - fused, traffic)

    def _absorb(self, cluster: frozenset[EinsumOp]) -> frozenset[EinsumOp]:
        """Grow a cluster by the maps that are the only readers of its results, by maps that lie between, and by what only
        those read."""
        grown = set(cluster)
        changed = True
        while changed:
            changed = False
            for output in self.candidates.outputs(frozenset(grown)):
                readers = {u.operation for u in output.uses}
                if len(readers) != 1:
                    continue
                op = readers.pop()
                if (
                    isinstance(op, EinsumOp)
                    and op.is_map
                    and op not in self.taken
                    and op not in grown
                    and self.likely.bytes(op.results[0]) <= 2 * self.likely.bytes(output)
                ):
                    taller = frozenset({*grown, op})
                    between = self._maps_between(taller)
                    if between or self._convex(taller):
                        grown |= {op} | between
                        changed = True
        if len(grown) > len(cluster):
            self.candidates.take_private(grown, self.taken | set(self._scale(cluster)))
        return frozenset(grown)

    def _maps_between(self, cluster: frozenset[EinsumOp]) -> set[EinsumOp]:
        """What lies on paths that leave the cluster and come back, if it is maps no larger than what they read, else none.

        exp(sink - m) in o / (l + exp(sink - m)) is one: its maximum m and the division belong to the cluster.
        """
        between: set[EinsumOp] = set()
        for op in self._on_the_way_back(cluster):
            if not (isinstance(op, EinsumOp) and op.is_map) or op in self.taken:
                return set()
            if sum(map(self.likely.bytes, op.results)) > 2 * max(map(self.likely.bytes, op.inputs)):
                return set()
            between.add(op)
        return between

    def _convex(self, cluster: frozenset[EinsumOp]) -> bool:
        """No path from the cluster leaves it and comes back."""
        return next(self._on_the_way_back(cluster), None) is None

    def _on_the_way_back(self, cluster: frozenset[EinsumOp]) -> Iterator[Operation]:
        """The operations outside of the cluster that read from it, perhaps through others, and that it reads likewise."""
        last = max(self.position[o] for o in cluster)
        after: set[Operation] = set()
        pending = [u.operation for o in cluster for r in o.results for u in r.uses]
        while pending:
            op = pending.pop()
            if op in cluster or op in after or self.position.get(op, last + 1) > last:
                continue
            after.add(op)
            pending.extend(u.operation for r in op.results for u in r.uses)
        found: set[Operation] = set()
        before = [v.owner for o in cluster for v in o.operands]
        while before:
            op = before.pop()
            if isinstance(op, Operation) and op in after and op not in found:
                found.add(op)
                yield op
                before.extend(v.owner for v in op.operands)

    def _place(self, kernel: KernelOp, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> None:
        self.block.insert_op_after(kernel, ops[-1])
        self.position[kernel] = self.position[ops[0]]  # what reads it may stand anywhere behind its first operation
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


def _renamed(reason: str, old: Sequence[str], new: Sequence[str]) -> str:
    """A reason found for one cluster, with the labels of another one."""
    table = dict(zip(old, new, strict=True))
    return re.sub("|".join(map(re.escape, sorted(table, key=len, reverse=True))), lambda m: table[m[0]], reason)


def _cross(a: frozenset[EinsumOp], b: frozenset[EinsumOp]) -> bool:
    """Whether two clusters share operations, and neither holds the other (a part looks dear by what it cuts off)."""
    return not (a.isdisjoint(b) or a <= b or b <= a)


def _ranks(kernel: KernelOp) -> set[str]:
    return {r for o in kernel.body.block.ops if isinstance(o, EinsumOp) for r in o.ranks.names}


def _why(s: Scheduled) -> str:
    if s.merge is None:
        parts = ""
    else:
        parts = f" over {'equal shares' if s.merge.each else f'{s.merge.parts} parts'}, and a merge"
    return f"{s.price.bound_by}, {s.work.programs} programs{parts}"
