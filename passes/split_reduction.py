"""split-reduction: a kernel that streams a rank becomes one that streams a part of it, and one that merges the parts.

When: in a kernel that folds a rank in one pass, and has too few programs to fill the target (the schedule decides).

Before:  m, l', o' = online over j { ... };  o = o' / l'
After:   part:   m_p, l'_p, o'_p = online over the j of part p { ... }
         merge:  m = max_p m_p;  l' = Σ_p l'_p exp(m_p - m);  o' = Σ_p o'_p exp(m_p - m);  o = o' / l'

Why legal: the state of a one-pass fold is that of a monoid; two states merge by moving both to the common gauge
(`ir/cascade/online.py`), and a part without elements keeps the identity.  An index of an extreme is that of the first part
whose extreme is the best: parts are in order, and within a part the first index won.  What does not depend on the rank
(a sink, a bias, an anchor) enters once: anchors are of the whole row in every part, all else is in the readout.
Why cheaper: there are as many times more programs as there are parts, for one more launch and the states' traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sympy
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, i1, i64
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, RankSpace, TensorType, compute_type, is_float
from ..ir.cascade import EinsumOp, IndexOp, KernelOp, OnlineOp, ProgramOp, ReturnOp, YieldOp
from .algebra.forms import Refused
from .levels import reduced_ranks

_EXTREMES = {"argmax": "max", "argmin": "min"}
_OF_TRUTH = {"max": "any", "min": "all"}


@dataclass(frozen=True)
class Split:
    """A kernel in two: `partial` returns the states of a part, `merge` computes the results from those of all parts.

    Neither has operands.  reads, merge_reads: which arguments of the kernel each takes; behind those, `merge` takes the
    states, in the order in which `partial` returns them, with the part as their first dimension.  part: the merge's rank
    over the parts.
    """

    rank: str
    part: str
    partial: KernelOp
    merge: KernelOp
    reads: tuple[int, ...]
    merge_reads: tuple[int, ...]


@dataclass(frozen=True)
class _Fold:
    """One accumulator: a result of an operation that reduces the rank.  key: the extreme behind an index."""

    op: EinsumOp | OnlineOp
    n: int
    key: bool = False

    @property
    def value(self) -> SSAValue:
        return self.op.results[self.n]

    @property
    def element(self) -> Attribute:
        """The type in which it is kept between the kernels."""
        if self.key:
            return self.op.yields[self.n].type
        return compute_type(self.value.type.element_type)  # pyright: ignore

    @property
    def ranks(self) -> tuple[str, ...]:
        return self.op.out_ranks(self.n)


def split_kernel(kernel: KernelOp, rank: str, parts: int) -> Split | Refused:
    """`kernel` split into `parts` along `rank`, which it folds.  The kernel stays as it is."""
    block = kernel.body.block
    ops = [o for o in block.ops if isinstance(o, EinsumOp | OnlineOp)]
    folding = [o for o in ops if rank in reduced_ranks(o)]
    if not folding:
        return Refused(f"nothing is reduced over {rank}")
    late = next((o for o in folding if _upstream(o.operands) & set(folding)), None)
    if late is not None:
        return Refused(f"{_name(late)} needs what is reduced over {rank} before it: a split would take two merges")
    after = _upstream(kernel.returned, stop=folding)
    carrying = next((o for o in ops if o in after and o not in folding and rank in o.ranks.names), None)
    if carrying is not None:
        return Refused(f"{_name(carrying)} is behind the reductions and carries {rank}")
    folds: list[_Fold] = []
    for op in folding:
        read = [any(u.operation in after or u.operation is block.last_op for u in r.uses) for r in op.results]
        for n, combiner in enumerate(op.combiner_names):
            if read[n] or (isinstance(op, OnlineOp) and any(read)):
                folds.append(_Fold(op, n))
                if combiner in _EXTREMES:
                    folds.append(_Fold(op, n, key=True))
    taken = {name for o in ops for name in o.ranks.names}
    part = "p"
    while part in taken:
        part += "p"
    partial, reads = _partial(kernel, folds)
    merge, merge_reads, certificates = _merge(kernel, folds, part, parts)
    merge.attributes["certificates"] = ArrayAttr([StringAttr(c) for c in certificates])
    return Split(rank, part, partial, merge, reads, merge_reads)


def _partial(kernel: KernelOp, folds: Sequence[_Fold]) -> tuple[KernelOp, tuple[int, ...]]:
    wanted = list(dict.fromkeys(f.op for f in folds))
    copy = _Copy(kernel, _upstream([v for o in wanted for v in o.operands]) | set(wanted), ())
    states: list[SSAValue] = []
    for f in folds:
        made = copy.of[f.value]
        hint = f.value.name_hint
        if f.key:
            key = _key_of(made.owner, f.n)  # pyright: ignore
            copy.block.add_op(key)
            made = key.results[0]
            hint = f"{hint or 'at'}_key"
        elif made.type.element_type != f.element:  # pyright: ignore
            made = Rewriter.replace_value_with_new_type(made, TensorType.of(made.type.dims, f.element))  # pyright: ignore
        made.name_hint = hint
        states.append(made)
    copy.block.add_op(ReturnOp(*states))
    kept = {k: v for k, v in kernel.attributes.items() if k == "stream"}
    return _kernel(f"{kernel.sym_name.data}_part", copy.block, kept), copy.reads


def _moved_by(op: EinsumOp | OnlineOp) -> list[SSAValue]:
    """The constants of the row that a transport reads."""
    if not isinstance(op, OnlineOp):
        return []
    first = len(op.results) + len(op.gauge_indices)
    return [op.inputs[i] for n, i in enumerate(op.row_inputs) if op.transport.block.args[first + n].first_use]


def _key_of(op: EinsumOp | OnlineOp, n: int) -> EinsumOp:
    """The extreme whose index result `n` of an operation is."""
    body = (op.body if isinstance(op, EinsumOp) else op.step).clone()
    last = body.block.last_op
    assert isinstance(last, YieldOp)
    value = last.values[n]
    combiner = _EXTREMES[op.combiner_names[n]]
    Rewriter.erase_op(last)
    body.block.add_op(YieldOp(value))
    out = (_OF_TRUTH[combiner] if value.type == i1 else combiner, op.out_maps.data[n], value.type)
    if isinstance(op, EinsumOp):
        return EinsumOp(op.ranks, op.operand_accesses, [out], body)
    _erase_dead(body.block)  # what other results read, gauges among it
    inputs = op.operand_accesses
    for arg in reversed(body.block.args):
        if not arg.first_use:
            inputs = [pair for m, pair in enumerate(inputs) if m != arg.index]
            body.block.erase_arg(arg)
    ranks = {op.over.data, *op.out_ranks(n), *(r for _, a in inputs for r in a.ranks)}
    space = RankSpace(tuple((r, e) for r, e in op.extents.items() if r in ranks))
    return EinsumOp(space, inputs, [out], body)


def _merge(
    kernel: KernelOp, folds: Sequence[_Fold], part: str, parts: int
) -> tuple[KernelOp, tuple[int, ...], list[str]]:
    values = {f.value for f in folds}
    constants = list(dict.fromkeys(v for f in folds for v in _moved_by(f.op)))
    behind = _upstream([*kernel.returned, *constants], stop=[f.op for f in folds]) - {f.op for f in folds}
    copy = _Copy(kernel, behind, values, constants)
    extent = sympy.Integer(parts)
    states: dict[_Fold, SSAValue] = {}
    for f in folds:
        dims = [extent, *(f.op.extents[r] for r in f.ranks)]
        states[f] = copy.block.insert_arg(TensorType.of(dims, f.element), len(copy.block.args))
        states[f].name_hint = f"{f.value.name_hint or 'x'}{'_key' if f.key else ''}_parts"
    merger = _Merger(part, extent, states, copy.block, copy.of)
    for f in folds:
        if not f.key:
            copy.of[f.value] = merger.merged(f)
            copy.of[f.value].name_hint = f.value.name_hint
    copy.rest()
    copy.block.add_op(ReturnOp(*(copy.of[v] for v in kernel.returned)))
    return _kernel(f"{kernel.sym_name.data}_merge", copy.block, {}), copy.reads, merger.certificates


class _Merger:
    """Reductions over the parts, appended to `block`."""

    def __init__(
        self,
        part: str,
        extent: sympy.Expr,
        states: dict[_Fold, SSAValue],
        block: Block,
        of: Mapping[SSAValue, SSAValue],
    ):
        """of: the constants of the row that transports read, in this block."""
        self.part, self.extent, self.states, self.block, self.of = part, extent, states, block, of
        self.done: dict[SSAValue, SSAValue] = {}
        self.certificates: list[str] = []

    def merged(self, f: _Fold) -> SSAValue:
        """The accumulator of the whole rank."""
        if f.value not in self.done:
            combiner = f.op.combiner_names[f.n]
            if combiner in _EXTREMES:
                made = self._index(f, combiner)
            elif isinstance(f.op, OnlineOp) and f.n not in f.op.gauge_indices:
                made = self._moved(f, f.op, combiner)
            else:
                made = self._reduce(f, [(self.states[f], self._at(f))], combiner, _identity_region(f.element))
                self._say(f, f"{combiner} over {self.part}")
            self.done[f.value] = made
        return self.done[f.value]

    def _moved(self, f: _Fold, op: OnlineOp, combiner: str) -> SSAValue:
        """An accumulator, each part of it transported from its own gauges to those of the whole."""
        gauges = [_Fold(op, g) for g in op.gauge_indices]
        new = [(self.merged(g), AccessMap.of(g.ranks)) for g in gauges]
        others = [_Fold(op, n) for n in range(len(op.results)) if n not in op.gauge_indices]
        body = op.transport.clone()
        last = body.block.last_op
        assert isinstance(last, YieldOp)
        value = last.values[others.index(f)]
        Rewriter.erase_op(last)
        body.block.add_op(YieldOp(value))
        for n, g in enumerate(gauges):
            _keep_finite(body.block, len(gauges) + n, op.combiner_names[g.n])
        inputs = [
            *((self.states[g], self._at(g)) for g in gauges),
            *new,
            *((self.states[o], self._at(o)) for o in others),
            *((self.of.get(op.inputs[i], op.inputs[i]), op.accesses.data[i]) for i in op.row_inputs),
        ]
        _erase_dead(body.block)
        read = [n for n, a in enumerate(body.block.args) if a.first_use]
        for n in reversed(range(len(inputs))):
            if n not in read:
                body.block.erase_arg(body.block.args[n])
        moving = ", ".join(f"{g.value.name_hint or 'its gauge'}" for g in gauges)
        self._say(f, f"{combiner} over {self.part}, each part moved by its transport to the merged {moving}")
        return self._reduce(f, [inputs[n] for n in read], combiner, body)

    def _index(self, f: _Fold, combiner: str) -> SSAValue:
        """The index in the first part whose extreme is the best."""
        key = _Fold(f.op, f.n, key=True)
        best = self._reduce(f, [(self.states[key], self._at(key))], combiner, _identity_region(key.element), i64)
        best.name_hint = f"{f.value.name_hint or 'at'}_part"
        block = Block(arg_types=[i64, i64])
        here = IndexOp(symbols.symbol(self.part))
        same = scalar.build("ieq", [here.results[0], block.args[1]])
        zero = scalar.constant(0, i64)
        chosen = scalar.build("select", [same.results[0], block.args[0], zero.results[0]])
        block.add_ops([here, same, zero, chosen, YieldOp(chosen.results[0])])
        self._say(f, f"that of the first part with the best {_EXTREMES[combiner]}")
        return self._reduce(f, [(self.states[f], self._at(f)), (best, AccessMap.of(f.ranks))], "sum", Region(block))

    def _reduce(
        self,
        f: _Fold,
        inputs: Sequence[tuple[SSAValue, AccessMap]],
        combiner: str,
        body: Region,
        element: Attribute | None = None,
    ) -> SSAValue:
        space = RankSpace(((self.part, self.extent), *((r, f.op.extents[r]) for r in f.ranks)))
        kind = element or f.value.type.element_type  # pyright: ignore
        op = EinsumOp(space, inputs, [(combiner, AccessMap.of(f.ranks), kind)], body)
        self.block.add_op(op)
        return op.results[0]

    def _at(self, f: _Fold) -> AccessMap:
        return AccessMap.of([self.part, *f.ranks])

    def _say(self, f: _Fold, what: str) -> None:
        self.certificates.append(f"merge of {f.value.name_hint or 'a state'}: {what}")


class _Copy:
    """Copies operations of a kernel into a block of its own, in their order; `of` is what stands for each value."""

    def __init__(
        self,
        kernel: KernelOp,
        ops: Iterable[Operation],
        given: Iterable[SSAValue],
        constants: Sequence[SSAValue] = (),
    ):
        """ops: what is copied, at once unless values are `given`: those are written in front of it (`rest`).

        constants: what is read to make those values; copied at once.
        """
        self.ops = [o for o in kernel.body.block.ops if o in set(ops)]
        read = {v for o in self.ops for v in o.operands} | (set(kernel.returned) if given else set()) | set(constants)
        self.block = Block()
        self.of: dict[SSAValue, SSAValue] = {}
        self.reads = tuple(a.index for a in kernel.body.block.args if a in read)
        for n in self.reads:
            old = kernel.body.block.args[n]
            self.of[old] = self.block.insert_arg(old.type, len(self.block.args))
            self.of[old].name_hint = old.name_hint
        first = _upstream(constants) if given else set(self.ops)
        self._add([o for o in self.ops if o in first])
        self.ops = [o for o in self.ops if o not in first]

    def rest(self) -> None:
        self._add(self.ops)

    def _add(self, ops: Sequence[Operation]) -> None:
        for op in ops:
            copy = op.clone(self.of)
            for old, new in zip(op.results, copy.results, strict=True):
                self.of[old] = new
                new.name_hint = old.name_hint
            self.block.add_op(copy)


def _kernel(name: str, block: Block, attributes: dict[str, Attribute]) -> KernelOp:
    return KernelOp(name, [], Region(block), attributes)


def _upstream(values: Iterable[SSAValue], stop: Iterable[Operation] = ()) -> set[Operation]:
    """The operations that values are computed from, those of `stop` included but not what is behind them."""
    found: set[Operation] = set()
    pending = [v.owner for v in values]
    ends = set(stop)
    while pending:
        op = pending.pop()
        if isinstance(op, Operation) and op not in found:
            found.add(op)
            if op not in ends:
                pending.extend(v.owner for v in op.operands)
    return found


def _name(op: Operation) -> str:
    return op.results[0].name_hint or op.name


def _identity_region(kind: Attribute) -> Region:
    block = Block(arg_types=[kind])
    block.add_op(YieldOp(block.args[0]))
    return Region(block)


def _keep_finite(block: Block, n: int, combiner: str) -> None:
    """Where argument `n`, a new gauge, is infinite in its combiner's neutral direction, let the block see 0 in its place."""
    gauge = block.args[n]
    if combiner not in ("max", "min") or not is_float(gauge.type) or not gauge.first_use:
        return
    neutral = scalar.constant(scalar.identity(combiner, gauge.type), gauge.type)
    zero = scalar.constant(0.0, gauge.type)
    nothing = scalar.build("eq", [gauge, neutral.results[0]])
    finite = scalar.build("select", [nothing.results[0], zero.results[0], gauge])
    gauge.replace_uses_with_if(finite.results[0], lambda use: use.operation not in (nothing, finite))
    first = block.first_op
    assert first is not None
    block.insert_ops_before([neutral, zero, nothing, finite], first)


def _erase_dead(block: Block) -> None:
    for op in reversed(list(block.ops)):
        if op.results and not any(r.first_use for r in op.results):
            Rewriter.erase_op(op)


@dataclass(frozen=True)
class SplitReduction(ModulePass):
    """For every kernel that streams a rank, add its two halves to the module: a program around each.

    What cannot be split keeps its place, with the reason in its attribute `unsplit`.
    """

    name = "split-reduction"
    parts: int = 4

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for kernel in [k for k in op.walk() if isinstance(k, KernelOp) and k.streamed]:
            halves = split_kernel(kernel, kernel.streamed, self.parts)
            if isinstance(halves, Refused):
                kernel.attributes["unsplit"] = StringAttr(halves.reason)
                continue
            for half in (halves.partial, halves.merge):
                op.body.block.add_op(as_program(half))


def as_program(kernel: KernelOp) -> ProgramOp:
    """A program that is one kernel; the kernel, which has no operands yet, becomes part of it."""
    arguments = list(kernel.body.block.args)
    program = ProgramOp.empty(kernel.sym_name.data, [a.type for a in arguments])
    for outer, inner in zip(program.body.block.args, arguments, strict=True):
        outer.name_hint = inner.name_hint
    kernel.operands = list(program.body.block.args)
    program.body.block.add_op(kernel)
    program.finish(*kernel.results)
    return program


__all__ = ["Split", "SplitReduction", "as_program", "split_kernel"]
