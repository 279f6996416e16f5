"""Writes derived forms into a kernel: accumulators become reductions and online folds, readouts become maps.

The reductions of one level run in one traversal.  Accumulators that refer to a running value go into one `cascade.online`,
the others into reductions of their own; equal accumulators are folded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import sympy as sp
from xdsl.dialects.builtin import ArrayAttr, FloatAttr, StringAttr, f64
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue

from ..ir import scalar
from ..ir.attributes import AccessMap, RankSpace, compute_type, is_float
from ..ir.cascade import MAP, EinsumOp, IndexOp, KernelOp, OnlineOp, YieldOp
from .algebra.expressions import Place, eq, lt, select
from .algebra.forms import Accumulator, Cascade, OnlineForm, as_written, moved_to
from .algebra.gauge import FreeGauge
from .algebra.levels import Levels
from .algebra.mathematics import derivation
from .algebra.settle import settle
from .algebra.transport import grows, transport_exponent
from .canonicalise import erase_dead
from .contraction import argument_ranks, scalar_ranks
from .exchange_sums import Exchanged, exchange_sums
from .first_elements import FirstElements
from .row_algebra import Leaf, RowAlgebra
from .scalar_region import Inexpressible, RegionWriter

LAG = "lag"  # of an online op with one gauge: by how much it may be exceeded before it has to move, in its own units
ORDER = ("max", "min", "argmax", "argmin")
IDENTITY = {"max": -sp.oo, "min": sp.oo}


class OnlineWriter:
    """Rewrites the reductions of `kernel` over `rank` by the forms of `levels`.  ops: the operation of each reduction."""

    def __init__(
        self,
        kernel: KernelOp,
        rank: str,
        algebra: RowAlgebra,
        cascade: Cascade,
        levels: Levels,
        ops: dict[sp.Symbol, EinsumOp],
    ):
        self.kernel, self.rank, self.algebra, self.ops = kernel, rank, algebra, ops
        self.cascade, self.levels = cascade, levels
        self.result: dict[sp.Symbol, SSAValue] = {s: v for v, s in algebra.name_of.items()}
        self.leaf_tensor: dict[sp.Symbol, tuple[SSAValue, AccessMap]] = {}
        settled = settle(cascade, levels, algebra.size(_extent(ops, rank)))
        self.forms, self.anchors, self.near, self.close = settled.forms, settled.anchors, settled.near, settled.close
        self.certificates: list[str] = []
        self.exchanged: dict[sp.Symbol, Exchanged] = {}
        self.lags: dict[sp.Symbol, FreeGauge] = {}  # the gauges that may lag, and by how much

    def run(self) -> None:
        """Rewrite every reduction of the levels that has a form worth writing."""
        rewritten = {
            s: f
            for s, f in self.forms.items()
            if not as_written(f) and self.ops[s].combiner_names[0] not in ORDER and self._is_real(s)
        }
        rewritten |= self._beside(rewritten)
        by_level: dict[int, list[sp.Symbol]] = {}
        for s in self.ops:
            if s in rewritten:
                by_level.setdefault(self.levels.level[s], []).append(s)
        for level in sorted(by_level):
            self.write_level([(s, rewritten[s]) for s in by_level[level]])
        erase_dead(self.kernel.body.block)
        self.note("certificates", self.certificates)
        lines = derivation(
            self.rank,
            self.cascade.reductions,
            self.levels.level,
            rewritten,
            self.anchors,
            self.levels.reasons,
            self.near,
            {s: e.text() for s, e in self.exchanged.items()},
        )
        self.note("derivation", [*lines, *self._legend()])

    def _beside(self, rewritten: Mapping[sp.Symbol, OnlineForm]) -> dict[sp.Symbol, OnlineForm]:
        """Sums that may stay as they are, of exponentials that another one of their traversal writes anew: with x / s here and
        x · (1 / s) there, weights would not add up to 1."""
        level = self.levels.level
        written = {(level[s], z) for s, f in rewritten.items() for a in f.accumulators for z in a.psi.atoms(sp.exp)}
        return {
            s: f
            for s, f in self.forms.items()
            if s not in rewritten and self.ops[s].combiner_names[0] == "sum" and self._is_real(s)
            if any((level[s], z) in written for z in f.accumulators[0].psi.atoms(sp.exp))
        }

    def note(self, key: str, lines: Sequence[str]) -> None:
        """Add lines to an attribute of the kernel."""
        note(self.kernel, key, lines)

    def _legend(self) -> list[str]:
        """What the symbols of a derivation stand for."""
        wanted = set().union(*(r.expr.free_symbols for r in self.cascade.reductions), set())
        rows = []
        for s in sorted(wanted & set(self.algebra.meaning), key=lambda s: (s.name[0] != "x", len(s.name), s.name)):
            leaf = self.algebra.meaning[s]
            at = leaf.access.text() if leaf.access is not None else ""
            name = leaf.value.name_hint or ("a value" if leaf.access is not None else "a map's value")
            if not _is_constant(leaf):
                rows.append(f"  {'where' if not rows else '':8} {s} = {name}{at}")
        return rows

    def write_level(self, forms: Sequence[tuple[sp.Symbol, OnlineForm]]) -> None:
        """Fold the accumulators of one level: the gauged ones in one online op, the others as plain reductions."""
        last = max((self.ops[s] for s, _ in forms), key=self._position)
        gauged: list[tuple[sp.Symbol, Accumulator]] = []
        plain: list[tuple[sp.Symbol, Accumulator]] = []
        same: dict[tuple, sp.Symbol] = {}
        shared: dict[sp.Symbol, sp.Symbol] = {}
        exchanged = self._exchanged(forms)
        self.exchanged |= exchanged
        for s, form in forms:
            for a in form.accumulators:
                key = (a.combiner, a.psi, a.gauge)
                shared[a.symbol] = same.setdefault(key, a.symbol)
                if shared[a.symbol] != a.symbol or a.symbol in exchanged:
                    continue
                moving = a.psi.free_symbols | (a.gauge.free_symbols if a.gauge is not None else set())
                running = {n for n in moving & set(self.result) if self.levels.level.get(n) == self.levels.level[s]}
                (gauged if running else plain).append((s, a))
        new: list[Operation] = []
        folded: dict[sp.Symbol, SSAValue] = {}
        for s, a in plain:
            folded[a.symbol] = self._reduce(s, a, new)
        if gauged:
            moved = [(s, a if a.moves is None else replace(a, moves=a.moves.xreplace(shared))) for s, a in gauged]
            self._online(moved, new, folded)
        for e in exchanged.values():
            folded[e.accumulator] = self._sum_of_folded(e, folded[shared[e.beside]], new)
        for symbol, first in shared.items():
            folded[symbol] = folded[first]
        _insert_after(last, new)
        self._read_out(forms, folded, new[-1] if new else last)

    def _exchanged(self, forms: Sequence[tuple[sp.Symbol, OnlineForm]]) -> dict[sp.Symbol, Exchanged]:
        """What need not be folded in this level, because another accumulator that is folded holds it."""
        distinct = {(a.combiner, a.psi, a.gauge): a for _, f in reversed(forms) for a in reversed(f.accumulators)}
        found = exchange_sums(list(distinct.values()), self.algebra.meaning, frozenset(self.algebra.carried), self.rank)
        for e in found.values():
            self.certificates.append(f"{e.accumulator} = {e.text()}: sums commute")
        return found

    def _sum_of_folded(self, e: Exchanged, beside: SSAValue, new: list[Operation]) -> SSAValue:
        """Σ over e.rank of a factor and a folded value."""
        extents = self._all_extents()
        ranks = [*_ranks_of(beside), *(r for r in e.access.ranks if r not in _ranks_of(beside))]
        inputs = [(e.factor, e.access), (beside, AccessMap.of(_ranks_of(beside)))]
        block = Block(arg_types=[compute_type(v.type.element_type) for v, _ in inputs])  # pyright: ignore
        writer = self._writer(block, {})
        block.add_op(YieldOp(writer.op("mul", *map(writer.real, block.args))))
        out = AccessMap.of([r for r in ranks if r != e.rank])
        space = RankSpace(tuple((r, extents[r]) for r in ranks))
        new.append(EinsumOp(space, inputs, [("sum", out, writer.floating)], Region(block)))
        new[-1].results[0].name_hint = e.accumulator.name
        return new[-1].results[0]

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
            return value, AccessMap.of(_ranks_of(value))
        if symbol in self.anchors and symbol not in self.leaf_tensor:
            value = self._anchor(self.anchors[symbol], new)
            value.name_hint = symbol.name
            self.leaf_tensor[symbol] = value, AccessMap.of(_ranks_of(value))
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

    def _anchor(self, z: sp.Expr, new: list[Operation]) -> SSAValue:
        """The mean of z over the row's first elements, without the largest and the smallest, so that no single stray value
        decides it; what is not finite counts as 0.

        A mean that is not far from zero, compared with how far the elements are from it, is replaced by 0: raw moments lose
        nothing there, and each measured difference would be rounded once for nothing.
        """
        leaves = self._inputs(z.free_symbols, new)
        extents = {n: e for o in self.algebra.reductions for n, e in o.extents.items()}
        first = FirstElements(self.rank, extents[self.rank], new)
        inputs = {s: first.at(value, access) for s, (value, access) in leaves.items()}
        rows = [r for r in self._space(self.algebra.reductions[0], leaves.values()) if r != self.rank]
        extents |= self._space(self.algebra.reductions[0], leaves.values())
        row = AccessMap.of(rows)
        near = select(lt(sp.Abs(z), sp.oo), z, 0)
        count = int(first.extent)

        def write(inputs: dict, e: sp.Expr, combiners: Sequence[str]) -> list[SSAValue]:
            """`e` over the first elements (or over the rows, for a map), combined in each of the ways."""
            short = [(first.name, first.extent)] if MAP not in combiners else []
            block = Block(arg_types=[compute_type(v.type.element_type) for v, _ in inputs.values()])  # pyright: ignore
            writer = self._writer(block, dict(zip(inputs, block.args, strict=True)))
            block.add_op(YieldOp(*[writer.r(e)] * len(combiners)))
            outs = [(c, row, writer.floating) for c in combiners]
            space = RankSpace((*((r, extents[r]) for r in rows), *short))
            new.append(EinsumOp(space, list(inputs.values()), outs, Region(block)))
            return list(new[-1].results)

        combiners = ("sum", "max", "min") if count > 2 else ("sum",)
        total, *extremes = (sp.Symbol(c, real=True) for c in combiners)
        folded = zip((total, *extremes), write(inputs, near, combiners), strict=True)
        (mean,) = write({s: (v, row) for s, v in folded}, (total - sum(extremes)) / (count - len(extremes)), (MAP,))
        c, spread = sp.Symbol("mean", real=True), sp.Symbol("spread", real=True)
        (distance,) = write({**inputs, c: (mean, row)}, sp.Min(sp.Abs(near - c), sp.Abs(c)), ("sum",))
        far = select(lt(spread, sp.Abs(c) * count / 2), c, 0)
        return write({c: (mean, row), spread: (distance, row)}, far, (MAP,))[0]

    def _all_extents(self) -> dict[str, sp.Expr]:
        return {
            n: e for o in self.kernel.body.block.ops if isinstance(o, EinsumOp | OnlineOp) for n, e in o.extents.items()
        }

    def _space(self, op: EinsumOp, inputs: Iterable[tuple[SSAValue, AccessMap]]) -> dict[str, sp.Expr]:
        ranks = {r for _, a in inputs for r in a.ranks}
        extents = self._all_extents()
        order = [*op.ranks.names, *(n for n in extents if n not in op.ranks.names)]
        return {r: extents[r] for r in order if r in ranks or r == self.rank}

    def _inputs(self, e: Iterable[sp.Symbol], new: list[Operation]) -> dict[sp.Symbol, tuple[SSAValue, AccessMap]]:
        known = {**self.algebra.meaning, **self.result, **self.anchors}
        symbols = sorted((s for s in e if s in known), key=lambda s: s.name)
        return {s: self._tensor(s, new) for s in symbols if not _is_constant(self.algebra.meaning.get(s))}

    # --- reductions ----------------------------------------------------------------------------------------------

    def _reduce(self, s: sp.Symbol, a: Accumulator, new: list[Operation]) -> SSAValue:
        op = self.ops[s]
        inputs = self._inputs(a.psi.free_symbols, new)
        if a.combiner == "sum" and not a.psi.free_symbols & self.algebra.carried:
            return self._repeated(op, a, inputs, new)
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

    def _repeated(self, op: EinsumOp, a: Accumulator, inputs: dict, new: list[Operation]) -> SSAValue:
        """Σ_k of what does not carry k: the extent times that, without a loop."""
        space = {r: e for r, e in self._space(op, inputs.values()).items() if r != self.rank}
        block = Block(arg_types=[compute_type(v.type.element_type) for v, _ in inputs.values()])  # pyright: ignore
        writer = self._writer(block, dict(zip(inputs, block.args, strict=True)))
        extent = IndexOp(op.extents[self.rank])
        block.add_op(extent)
        block.add_op(YieldOp(writer.op("mul", writer.real(extent.results[0]), writer.r(a.psi))))
        row = AccessMap.of(list(space))
        out = EinsumOp(
            RankSpace(tuple(space.items())), list(inputs.values()), [(MAP, row, writer.floating)], Region(block)
        )
        out.results[0].name_hint = a.symbol.name
        new.append(out)
        return out.results[0]

    def _writer(self, block: Block, env: dict[sp.Symbol, SSAValue]) -> RegionWriter:
        constants = {}
        for s, leaf in self.algebra.meaning.items():
            if _is_constant(leaf):
                constants[s] = leaf.value.owner
        writer = RegionWriter(block, env)
        writer.close = [
            *((z, c) for c, z in self.anchors.items()),
            *self.near,
            *((moved_to(m), m) for _, m in self.near),
            *self.close,
        ]
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
        gauge_psi = {n: self._followed(n) for n in running}
        for n, psi in gauge_psi.items():
            if moving := sorted(str(m) for m in psi.free_symbols & names):
                raise Inexpressible(
                    f"{n} is an extreme of what is measured from {', '.join(moving)}, which still moves"
                )
        wanted = set().union(*(p.free_symbols for p in gauge_psi.values()))
        wanted = wanted.union(*(e.free_symbols for _, a in gauged for e in (a.psi, a.gauge, a.moves) if e is not None))
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
        row = [n for n, (_, access) in enumerate(leaves.values()) if self.rank not in access.ranks]
        moved = Block(arg_types=[*kinds, *kinds, *[float_type] * len(gauged), *(floats[n] for n in row)])
        count_ = len(running)
        old = dict(zip(running, moved.args[:count_], strict=True))
        fresh = {n: moved_to(n) for n in running}
        env = {**old, **{fresh[n]: v for n, v in zip(running, moved.args[count_ : 2 * count_], strict=True)}}
        constants = moved.args[2 * count_ + len(gauged) :]
        mover = self._writer(moved, {**env, **dict(zip([list(leaves)[n] for n in row], constants, strict=True))})
        for n, (_, a) in enumerate(gauged):
            acc = moved.args[2 * count_ + n]
            if a.gauge is not None:
                factor = sp.exp(transport_exponent(a.gauge, fresh))
                moving = mover.op("mul", acc, mover.r(factor))
                for m in (m for m in running if grows(a.gauge, m, self.ops[m].combiner_names[0])):
                    nothing = mover.write(eq(m, IDENTITY[self.ops[m].combiner_names[0]]))
                    moving = mover.op("select", nothing, acc, moving)
                acc = moving
            mover.env[a.symbol] = acc
        moved.add_op(YieldOp(*(mover.r(a.symbol if a.moves is None else a.moves) for _, a in gauged)))
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
        if len(running) == 1 and running[0] in self.lags and all(a.moves is None for _, a in gauged):
            free = self.lags[running[0]]
            online.attributes[LAG] = FloatAttr(free.stale, f64)
            self.certificates.append(f"{running[0]}: {free.certificate}")
            self.note("derivation", [f"  {'lazy':8} {running[0]} stays until exceeded by more than {free.stale:.4g}"])
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

    def _followed(self, name: sp.Symbol) -> sp.Expr:
        """What a running value is the extreme of: what its form folds, where that gives the same place."""
        form = self.forms.get(name)
        if isinstance(name, Place) and form is not None and form.J == 1:
            (a,) = form.accumulators
            if form.readout == a.symbol and a.combiner == self.ops[name].combiner_names[0] and a.gauge is None:
                return a.psi
        return self.algebra.scalar(self.ops[name].yields[self.result[name].index])  # pyright: ignore

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
                or x in self.anchors
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


def note(kernel: KernelOp, key: str, lines: Sequence[str]) -> None:
    """Add lines to an attribute of a kernel."""
    old = kernel.attributes.get(key)
    kept = list(old.data) if isinstance(old, ArrayAttr) else []
    if kept or lines:
        kernel.attributes[key] = ArrayAttr([*kept, *(StringAttr(line) for line in lines)])


def _extent(ops: Mapping[sp.Symbol, EinsumOp], rank: str) -> sp.Expr:
    return next((op.extents[rank] for op in ops.values()), sp.Integer(1))


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
