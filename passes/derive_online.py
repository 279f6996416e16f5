"""derive-online: cascaded reductions over one rank become reductions that run in one pass.

When: in a kernel that streams a rank (attribute `stream`), a reduction over that rank reads the result of an earlier one,
directly or through maps, so that as written the second pass can only start when the first has ended.

Before:  m = max_j x;  l = Σ_j exp(x - m);  o = Σ_j exp(x - m) / l · v
After:   m, l', o' = online over j { x;  e = exp(x - m) with m running;  e · v }  transported by exp(m_old - m_new);
         o = o' / l'

Why legal: the derivation engine (`passes/algebra`) rewrites each map as Σ φ(earlier results) ψ(leaves) and checks the
identity numerically; φ leaves the reduction because reductions are linear (or monotone, for max and min).  What has no
such form keeps its place and costs a pass.  Each rewrite leaves its certificate in the kernel's `certificates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import sympy as sp
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from ..ir import scalar
from ..ir.attributes import AccessMap, RankSpace, compute_type, is_float
from ..ir.cascade import MAP, EinsumOp, KernelOp, OnlineOp, YieldOp
from .algebra.derive import derive
from .algebra.exponentials import above
from .algebra.expressions import eq, select
from .algebra.forms import Accumulator, OnlineForm, Reduction
from .algebra.levels import Levels, count
from .contraction import argument_ranks, scalar_ranks
from .order import sort_block
from .row_algebra import Leaf, RowAlgebra, Unreachable
from .scalar_region import RegionWriter

ORDER = ("max", "min", "argmax", "argmin")


@dataclass(frozen=True)
class DeriveOnline(ModulePass):
    """Rewrite the cascades of every kernel that streams a rank."""

    name = "derive-online"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for kernel in [k for k in op.walk() if isinstance(k, KernelOp)]:
            stream = kernel.attributes.get("stream")
            if isinstance(stream, StringAttr):
                derive_kernel(kernel, stream.data)


def derive_kernel(kernel: KernelOp, rank: str) -> Levels:
    """Rewrite one kernel in place; returns the levels that were found (passes over `rank` and the forms used)."""
    algebra = RowAlgebra(kernel, rank)
    cascade, ops = algebra.cascade()
    levels = count(cascade, "stable")
    _Rewriter(kernel, rank, algebra, levels, ops).run()
    hoist_monotone(kernel, rank)
    sort_block(kernel.body.block)
    return levels


class _Rewriter:
    def __init__(
        self, kernel: KernelOp, rank: str, algebra: RowAlgebra, levels: Levels, ops: dict[sp.Symbol, EinsumOp]
    ):
        self.kernel, self.rank, self.algebra, self.levels, self.ops = kernel, rank, algebra, levels, ops
        self.result: dict[sp.Symbol, SSAValue] = {s: v for v, s in algebra.name_of.items()}
        self.leaf_tensor: dict[sp.Symbol, tuple[SSAValue, AccessMap]] = {}
        self.certificates: list[str] = []

    def run(self) -> None:
        forms = {s: self._guard_at_the_end(f) for s, f in self.levels.forms.items() if s in self.ops}
        rewritten = {
            s: f
            for s, f in forms.items()
            if not _as_written(f) and self.ops[s].combiner_names[0] not in ORDER and self._is_real(s)
        }
        by_level: dict[int, list[sp.Symbol]] = {}
        for s in self.ops:
            if s in rewritten:
                by_level.setdefault(self.levels.level[s], []).append(s)
        for level in sorted(by_level):
            self._rewrite_level([(s, rewritten[s]) for s in by_level[level]])
        erase_dead(self.kernel)
        if self.certificates:
            self.kernel.attributes["certificates"] = ArrayAttr([StringAttr(c) for c in self.certificates])

    def _rewrite_level(self, forms: Sequence[tuple[sp.Symbol, OnlineForm]]) -> None:
        """Fold the accumulators of one level: the gauged ones in one online op, the others as plain reductions."""
        last = max((self.ops[s] for s, _ in forms), key=self._position)
        gauged: list[tuple[sp.Symbol, Accumulator]] = []
        plain: list[tuple[sp.Symbol, Accumulator]] = []
        for s, form in forms:
            for a in form.accumulators:
                moving = a.psi.free_symbols | (a.gauge.free_symbols if a.gauge is not None else set())
                running = {n for n in moving & set(self.result) if self.levels.level.get(n) == self.levels.level[s]}
                (gauged if running else plain).append((s, a))
        new: list[Operation] = []
        folded: dict[sp.Symbol, SSAValue] = {}
        for s, a in plain:
            folded[a.symbol] = self._reduce(s, a, new)
        if gauged:
            self._online(gauged, new, folded)
        _insert_after(last, new)
        self._read_out(forms, folded, new[-1] if new else last)

    def _guard_at_the_end(self, form: OnlineForm) -> OnlineForm:
        """Σ exp(x - above(m)) with m = max x is +oo when m is, and Σ exp(x - m) otherwise: one test for each row.

        So the running sum is the same as that of an unguarded softmax, and can be shared with it.
        """
        accumulators, readout = [], form.readout
        for a in form.accumulators:
            for m in a.psi.free_symbols & set(self.ops):
                plain = {above(m): m}
                if self.ops[m].combiner_names != ("max",) or a.psi.xreplace(plain) == a.psi or a.gauge is None:
                    continue
                if a.psi.xreplace(plain) == sp.exp(self.algebra.scalar(self.ops[m].yields[0]) - m):
                    a = replace(a, psi=a.psi.xreplace(plain), gauge=a.gauge.xreplace(plain))
                    readout = readout.xreplace({a.symbol: select(eq(m, sp.oo), sp.oo, a.symbol)})
            accumulators.append(a)
        if tuple(accumulators) == form.accumulators:
            return form
        note = "; a row whose maximum is oo sums to oo"
        return replace(form, accumulators=tuple(accumulators), readout=readout, certificate=form.certificate + note)

    def _is_real(self, s: sp.Symbol) -> bool:
        """Whether a reduction adds real numbers; integers and booleans stay as written, for they would be rounded."""
        return is_float(self.ops[s].yields[self.result[s].index].type)  # pyright: ignore

    def _position(self, op: Operation) -> int:
        return list(self.kernel.body.block.ops).index(op)

    # --- leaves --------------------------------------------------------------------------------------------------

    def _tensor(self, symbol: sp.Symbol, new: list[Operation]) -> tuple[SSAValue, AccessMap]:
        """The tensor value that a symbol stands for; a scalar leaf becomes a map of its own."""
        if symbol in self.result:
            value = self.result[symbol]
            return value, AccessMap.of(value.owner.out_ranks(value.index))  # pyright: ignore
        if symbol not in self.leaf_tensor:
            leaf = self.algebra.meaning[symbol]
            self.leaf_tensor[symbol] = (
                (leaf.value, leaf.access) if leaf.access is not None else self._map_of(leaf, symbol, new)
            )
        return self.leaf_tensor[symbol]

    def _map_of(self, leaf: Leaf, symbol: sp.Symbol, new: list[Operation]) -> tuple[SSAValue, AccessMap]:
        op = leaf.op
        assert op is not None
        inputs, body = _slice_region(op, leaf.value)
        known = frozenset(op.ranks.names)
        ranks = scalar_ranks(leaf.value, argument_ranks(op), known)
        carried = [r for r in op.ranks.names if r in ranks]
        space = RankSpace(tuple((r, op.extents[r]) for r in carried))
        copy = EinsumOp(space, inputs, [(MAP, AccessMap.of(carried), leaf.value.type)], body)
        copy.results[0].name_hint = leaf.value.name_hint or symbol.name
        new.append(copy)
        return copy.results[0], AccessMap.of(carried)

    def _space(self, op: EinsumOp, inputs: Iterable[tuple[SSAValue, AccessMap]]) -> dict[str, sp.Expr]:
        ranks = {r for _, a in inputs for r in a.ranks}
        extents = {
            n: e for o in self.kernel.body.block.ops if isinstance(o, EinsumOp | OnlineOp) for n, e in o.extents.items()
        }
        order = [*op.ranks.names, *(n for n in extents if n not in op.ranks.names)]
        return {r: extents[r] for r in order if r in ranks or r == self.rank}

    def _inputs(self, e: Iterable[sp.Symbol], new: list[Operation]) -> dict[sp.Symbol, tuple[SSAValue, AccessMap]]:
        symbols = sorted((s for s in e if s in self.algebra.meaning or s in self.result), key=lambda s: s.name)
        return {s: self._tensor(s, new) for s in symbols if not _is_constant(self.algebra.meaning.get(s))}

    # --- reductions ----------------------------------------------------------------------------------------------

    def _reduce(self, s: sp.Symbol, a: Accumulator, new: list[Operation]) -> SSAValue:
        op = self.ops[s]
        inputs = self._inputs(a.psi.free_symbols, new)
        space = self._space(op, inputs.values())
        block = Block(arg_types=[compute_type(v.type.element_type) for v, _ in inputs.values()])  # pyright: ignore
        writer = self._writer(block, dict(zip(inputs, block.args, strict=True)))
        block.add_op(YieldOp(writer.r(a.psi)))
        out = AccessMap.of([r for r in space if r != self.rank])
        ranks = RankSpace(tuple(space.items()))
        index = a.combiner in ("argmax", "argmin")
        element = self.result[s].type.element_type if index else writer.floating  # pyright: ignore
        copy = EinsumOp(ranks, list(inputs.values()), [(a.combiner, out, element)], Region(block))
        copy.results[0].name_hint = a.symbol.name
        new.append(copy)
        return copy.results[0]

    def _writer(self, block: Block, env: dict[sp.Symbol, SSAValue]) -> RegionWriter:
        constants = {}
        for s, leaf in self.algebra.meaning.items():
            if _is_constant(leaf):
                constants[s] = leaf.value.owner
        writer = RegionWriter(block, env)
        for s, op in constants.items():
            writer.lazy[s] = lambda op=op: scalar.constant(abs(scalar.constant_value(op)), writer.floating)
        return writer

    def _online(self, gauged: Sequence[tuple[sp.Symbol, Accumulator]], new: list[Operation], folded: dict) -> None:
        level = self.levels.level[gauged[0][0]]
        names = {n for n in self.result if self.levels.level.get(n) == level}
        running = sorted(
            {n for _, a in gauged for e in (a.psi, a.gauge) if e is not None for n in e.free_symbols & names},
            key=lambda n: n.name,
        )
        gauge_ops = [self.ops[n] for n in running]
        leaves: dict[sp.Symbol, tuple[SSAValue, AccessMap]] = {}
        gauge_psi = {n: self.algebra.scalar(self.ops[n].yields[self.result[n].index]) for n in running}  # pyright: ignore
        wanted = set().union(*(a.psi.free_symbols for _, a in gauged), *(p.free_symbols for p in gauge_psi.values()))
        leaves = self._inputs(wanted - names, new)
        space: dict[str, sp.Expr] = {}
        for op in [*gauge_ops, *(self.ops[s] for s, _ in gauged)]:
            for r, e in {**self._space(op, leaves.values()), **{r: op.extents[r] for r in op.out_ranks(0)}}.items():
                space.setdefault(r, e)
        floats = [compute_type(v.type.element_type) for v, _ in leaves.values()]  # pyright: ignore
        kinds = [compute_type(self.result[n].type.element_type) for n in running]  # pyright: ignore
        step = Block(arg_types=[*floats, *kinds])
        at = step.args[len(floats) :]
        writer = self._writer(
            step, {**dict(zip(leaves, step.args, strict=False)), **dict(zip(running, at, strict=True))}
        )
        yields = [writer.r(gauge_psi[n]) for n in running] + [writer.r(a.psi) for _, a in gauged]
        step.add_op(YieldOp(*yields))
        float_type = writer.floating
        moved = Block(arg_types=[*kinds, *kinds, *[float_type] * len(gauged)])
        count_ = len(running)
        old = dict(zip(running, moved.args[:count_], strict=True))
        fresh = {n: sp.Symbol(n.name + "_new", real=True) for n in running}
        env = {**old, **{fresh[n]: v for n, v in zip(running, moved.args[count_ : 2 * count_], strict=True)}}
        mover = self._writer(moved, env)
        outputs = []
        for n, (_, a) in enumerate(gauged):
            acc = moved.args[2 * count_ + n]
            if a.gauge is not None:
                factor = sp.exp(a.gauge.subs(fresh, simultaneous=True) - a.gauge)
                acc = mover.op("mul", acc, mover.r(factor))
            outputs.append(acc)
        moved.add_op(YieldOp(*outputs))
        outs: list[tuple[str, AccessMap, Attribute]] = []
        for n in running:
            op = self.ops[n]
            outs.append((op.combiner_names[0], op.out_maps.data[0], self.result[n].type.element_type))  # pyright: ignore
        for s, a in gauged:
            carried = {r for x in a.psi.free_symbols if x in leaves for r in leaves[x][1].ranks}
            carried |= {r for x in a.psi.free_symbols & names for r in self.ops[x].out_ranks(0)}
            order = [r for r in self.ops[s].out_ranks(0) if r in carried] + [
                r for r in space if r in carried and r != self.rank and r not in self.ops[s].out_ranks(0)
            ]
            outs.append((a.combiner, AccessMap.of(order), float_type))
        online = OnlineOp(
            RankSpace(tuple(space.items())),
            self.rank,
            list(leaves.values()),
            outs,
            range(count_),
            Region(step),
            Region(moved),
        )
        for value, hint in zip(
            online.results, [*(n.name for n in running), *(a.symbol.name for _, a in gauged)], strict=True
        ):
            value.name_hint = hint
        new.append(online)
        for n, result in zip(running, online.results[:count_], strict=True):
            self.result[n].replace_all_uses_with(result)
            self.result[n] = result
        for (_, a), result in zip(gauged, online.results[count_:], strict=True):
            folded[a.symbol] = result

    def _read_out(self, forms, folded: dict[sp.Symbol, SSAValue], after: Operation) -> None:
        """Replace each reduction's result by its readout, a map over the folded values."""
        for s, form in forms:
            self.certificates.append(f"{s}: {form.certificate}")
            old = self.result[s]
            op = self.ops[s]
            new: list[Operation] = []
            inputs = {
                x: (folded[x], AccessMap.of(_ranks_of(folded[x]))) if x in folded else self._tensor(x, new)
                for x in sorted(form.readout.free_symbols, key=lambda x: x.name)
                if x in folded
                or x in self.result
                or (x in self.algebra.meaning and not _is_constant(self.algebra.meaning[x]))
            }
            if form.readout in folded and _ranks_of(folded[form.readout]) == op.out_ranks(0):
                replacement = folded[form.readout]
                if replacement.type == old.type:
                    old.replace_all_uses_with(replacement)
                    self.result[s] = replacement
                    continue
            block = Block(arg_types=[compute_type(v.type.element_type) for v, _ in inputs.values()])  # pyright: ignore
            writer = self._writer(block, dict(zip(inputs, block.args, strict=True)))
            value = writer.r(form.readout)
            block.add_op(YieldOp(_as(writer, value, compute_type(old.type.element_type))))  # pyright: ignore
            out = op.out_maps.data[0]
            space = RankSpace(tuple((r, op.extents[r]) for r in op.out_ranks(0)))
            readout = EinsumOp(
                space,
                list(inputs.values()),
                [(MAP, out, old.type.element_type)],
                Region(block),
                dict(op.attributes),  # pyright: ignore
            )
            readout.results[0].name_hint = old.name_hint
            new.append(readout)
            after = _insert_after(after, new)
            old.replace_all_uses_with(readout.results[0])
            self.result[s] = readout.results[0]


def hoist_monotone(kernel: KernelOp, rank: str) -> None:
    """Order reductions whose map is monotone in its leaves: the map moves behind the reduction.

    max_s log1p(relu(x)) becomes log1p(relu(max_s x)), once per output instead of once per element.  A reduction that
    is the gauge of an online op is left as it is.
    """
    for op in list(kernel.body.block.ops):
        if not (isinstance(op, EinsumOp) and op.reduced == (rank,) and len(op.results) == 1):
            continue
        if op.combiner_names[0] not in ORDER or not is_float(op.yields[0].type):
            continue
        algebra = RowAlgebra(kernel, rank, opaque=False)
        try:
            e = algebra.scalar(op.yields[0])
        except Unreachable:  # the reduction stays as written
            continue
        name = algebra._name(op.results[0], op, 0)
        if e in algebra.carried:
            continue
        form = derive(Reduction(name, op.combiner_names[0], e), frozenset(), frozenset(algebra.carried))
        if not form or _as_written(form) or form.accumulators[0].psi == e:
            continue
        rewriter = _Rewriter(kernel, rank, algebra, Levels(1, {name: 1}, {name: form}, {}), {name: op})
        rewriter._rewrite_level([(name, form)])
        erase_dead(kernel)
        old = kernel.attributes.get("certificates")
        kept = list(old.data) if isinstance(old, ArrayAttr) else []
        kernel.attributes["certificates"] = ArrayAttr([*kept, *(StringAttr(c) for c in rewriter.certificates)])


def _as_written(form: OnlineForm) -> bool:
    """True when the form is the reduction itself, so that there is nothing to rewrite."""
    return form.form == "independent" and form.J == 1 and form.readout == form.accumulators[0].symbol


def _ranks_of(value: SSAValue) -> tuple[str, ...]:
    return value.owner.out_ranks(value.index)  # pyright: ignore


def _as(writer: RegionWriter, value: SSAValue, kind: Attribute) -> SSAValue:
    if value.type == kind:
        return value
    if is_float(kind):
        return writer.op("widen", value, cast_to=kind)
    if is_float(value.type):
        return writer.op("float_to_int", value, cast_to=kind)
    return writer.op("bool_to_int", value, cast_to=kind)


def _is_constant(leaf: Leaf | None) -> bool:
    return leaf is not None and leaf.access is None and leaf.op is None


def _slice_region(op: EinsumOp, value: SSAValue) -> tuple[list[tuple[SSAValue, AccessMap]], Region]:
    """The inputs and the region that compute one scalar of an einsum's region."""
    block = Block()
    inputs: list[tuple[SSAValue, AccessMap]] = []
    mapping: dict[SSAValue, SSAValue] = {}

    def visit(v: SSAValue) -> SSAValue:
        if v in mapping:
            return mapping[v]
        if isinstance(v, BlockArgument):
            inputs.append(op.operand_accesses[v.index])
            mapping[v] = block.insert_arg(v.type, len(block.args))
            mapping[v].name_hint = v.name_hint
        else:
            inner = v.owner
            assert isinstance(inner, Operation)
            for o in inner.operands:
                visit(o)
            copy = inner.clone(dict(mapping))
            block.add_op(copy)
            mapping[v] = copy.results[0]
        return mapping[v]

    block.add_op(YieldOp(visit(value)))
    return inputs, Region(block)


def _insert_after(anchor: Operation, new: Sequence[Operation]) -> Operation:
    block = anchor.parent_block()
    assert block is not None
    for op in new:
        block.insert_op_after(op, anchor)
        anchor = op
    return anchor


def erase_dead(kernel: KernelOp) -> None:
    """Erase operations whose results nobody reads (all operations in a kernel are pure)."""
    for op in reversed(list(kernel.body.block.ops)):
        if isinstance(op, EinsumOp | OnlineOp) and not any(r.first_use for r in op.results):
            op.detach()
            op.erase()
