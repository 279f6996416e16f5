"""split-segments: a rank over several tensors laid end to end is taken apart, when all but one of them have few elements.

When: before fusion, on a map that reads an operand beyond its ends (what a concatenation and a pad become), if everything
that reads it is a map over the same rank, a reduction of that rank, or a read within one segment.

Before:  c[j] = j < n ? x[j] : s;  m = max_j c;  e[j] = exp(c[j] - m);  l = Σ_j e;  o = Σ_{j < n} e v
After:   m = max(max_j x, s);  e[j] = exp(x[j] - m);  f = exp(s - m);  l = Σ_j e + f;  o = Σ_j e v

Why legal: the combiners are associative: over j in A and B, ⊕ f = (⊕_A f) ⊕ (⊕_B f), and over one element it is that
element.  Maps act on each element alone, so a segment of a map is the map of the segments.  Why: an element that stands at
the end of a row enters once, and what is read at the row's own length and at a longer one needs two walks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sympy
from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, RankSpace, TensorType, compute_type, is_float
from ..ir.cascade import EinsumOp, IndexOp, ProgramOp, YieldOp
from .bounds import interval
from .canonicalise import erase_dead, simplify_region
from .outline import label
from .pass_classes import ProgramPass

FEW = 4  # elements in short segments, all together
ZERO, ONE = sympy.Integer(0), sympy.Integer(1)

# What folds the results of two segments: for floating-point numbers, for integers.
COMBINE = {
    "sum": ("add", "iadd"),
    "prod": ("mul", "imul"),
    "max": ("maximum", "imaximum"),
    "min": ("minimum", "iminimum"),
    "any": ("or", "or"),
    "all": ("and", "and"),
}


@dataclass(frozen=True)
class SplitSegments(ProgramPass):
    """Split the ranks of every program of a module."""

    name = "split-segments"

    def on_program(self, program: ProgramOp) -> None:
        split_segments(program)


@dataclass(frozen=True)
class Segment:
    """Elements start, …, start + extent - 1 of a dimension.  A segment of one element has no rank."""

    start: sympy.Expr
    extent: sympy.Expr

    @property
    def single(self) -> bool:
        return self.extent == ONE

    def holds(self, low: sympy.Expr, high: sympy.Expr) -> bool:
        """Whether low, …, high are provably in it."""
        last = self.start + self.extent - 1
        return bool((low - self.start).is_nonnegative and sympy.expand(last - high).is_nonnegative)


@dataclass(frozen=True)
class Part:
    """A segment of a value: its element at v0, v1, … is the one of `value` at `access`; v of the split dimension counts
    from the start of the segment."""

    value: SSAValue
    access: AccessMap

    def at(self, index: Sequence[sympy.Expr]) -> AccessMap:
        return self.access.substitute({f"v{k}": e for k, e in enumerate(index)})


def split_segments(program: ProgramOp) -> list[tuple[str, str]]:
    """Split in place; for each concatenation that is gone: what it was called, and the identity that was used."""
    block = program.body.block
    done: list[tuple[str, str]] = []
    while (found := _split_one(block)) is not None:  # each leaves one map less that lays segments end to end
        done.append(found)
    if done:
        erase_dead(block)
    return done


def _split_one(block: Block) -> tuple[str, str] | None:
    for op in block.ops:
        if not (isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1):
            continue
        for dim, rank in enumerate(op.out_ranks()):
            family = _Family.of(op, rank, dim) if _ends(op, rank) else None
            segments = family.segments() if family else None
            if family and segments and family.reads_within(segments):
                name = label(op)
                family.split(segments)
                lengths = " + ".join(symbols.to_text(s.extent) for s in segments)
                return name, f"over {lengths} elements: each segment reduced, then combined"
    return None


def _ends(op: EinsumOp, rank: str) -> set[sympy.Expr]:
    """Where along `rank` a read of an operand enters the operand, or leaves it."""
    found: set[sympy.Expr] = set()
    extent = op.extents[rank]
    for value, access in op.operand_accesses:
        for e, n in zip(access.data, value.type.dims, strict=True):  # pyright: ignore
            shift = sympy.expand(e - symbols.symbol(rank))
            if not symbols.names(shift) & set(op.ranks.names):
                found |= {sympy.expand(-shift), sympy.expand(n - shift)}
    inner = (e for e in found if e.is_nonnegative and (extent - e).is_nonnegative)
    return {e for e in inner if e not in (ZERO, extent)}


@dataclass
class _Family:
    """Everything that carries one rank from a value until it is reduced.

    dims: which dimension of a value it is.  ranks: what an operation calls it.  reads: (operation, operand number) of what
    reads less than all of it.
    """

    extent: sympy.Expr
    dims: dict[SSAValue, int] = field(default_factory=dict)
    ranks: dict[EinsumOp, str] = field(default_factory=dict)
    reads: list[tuple[EinsumOp, int]] = field(default_factory=list)
    parts: dict[tuple[SSAValue, Segment], Part] = field(default_factory=dict)

    @staticmethod
    def of(op: EinsumOp, rank: str, dim: int) -> _Family | None:
        """The family that begins with a map; None when something needs the rank whole."""
        family = _Family(op.extents[rank], ranks={op: rank})
        pending = [(op.results[0], dim)]
        while pending:
            value, dim = pending.pop()
            if family.dims.setdefault(value, dim) != dim:
                return None
            for use in value.uses:
                reader = use.operation
                if not isinstance(reader, EinsumOp):
                    return None
                e = reader.accesses.data[use.index].data[dim]
                whole = isinstance(e, sympy.Symbol) and reader.extents.get(e.name) == family.extent
                if not whole:
                    family.reads.append((reader, use.index))
                    continue
                assert isinstance(e, sympy.Symbol)
                known = reader in family.ranks
                if family.ranks.setdefault(reader, e.name) != e.name:
                    return None
                if reader.is_map and not known:
                    pending.extend((r, reader.out_ranks(n).index(e.name)) for n, r in enumerate(reader.results))
                elif not reader.is_map and not (
                    e.name in reader.reduced and set(reader.combiner_names) <= set(COMBINE)
                ):
                    return None
        return family if family._walks_straight() else None

    def _walks_straight(self) -> bool:
        """Whether no operation over the rank reads a value of the family at another place than its own."""
        if any(op in self.ranks for op, _ in self.reads):
            return False
        for op, rank in self.ranks.items():
            for value, access in op.operand_accesses:
                if value in self.dims:
                    others = [e for k, e in enumerate(access.data) if k != self.dims[value]]
                    if any(rank in symbols.names(e) for e in others):
                        return False
        return True

    def segments(self) -> list[Segment] | None:
        """The segments in order, short ones element by element; None unless exactly one is long."""
        ends = {ZERO, self.extent}.union(*(_ends(op, rank) for op, rank in self.ranks.items()))
        order = sorted(ends, key=lambda e: sum(bool((e - other).is_nonnegative) for other in ends))
        found: list[Segment] = []
        long = 0
        for start, end in itertools.pairwise(order):
            n = sympy.expand(end - start)
            if not n.is_nonnegative:
                return None
            if n.is_Integer and n <= FEW:
                found.extend(Segment(start + k, ONE) for k in range(int(n)))
            else:
                found.append(Segment(start, n))
                long += 1
        return found if long == 1 and 1 < len(found) <= FEW + 1 else None

    def reads_within(self, segments: Sequence[Segment]) -> bool:
        """Whether what reads less than the whole reads one segment."""
        return all(self._segment_read(op, n, segments) is not None for op, n in self.reads)

    def _segment_read(self, op: EinsumOp, n: int, segments: Sequence[Segment]) -> Segment | None:
        e = op.accesses.data[n].data[self.dims[op.inputs[n]]]
        bounds = interval(e, op.extents)
        return bounds and next((s for s in segments if s.holds(*bounds)), None)

    # --- rewriting -----------------------------------------------------------------------------------------------

    def split(self, segments: Sequence[Segment]) -> None:
        """Replace every operation of the family by one for each segment."""
        block = next(iter(self.ranks)).parent_block()
        assert block is not None
        order = {op: n for n, op in enumerate(block.ops)}
        maps = [op for op in self.ranks if op.is_map]
        for op in sorted(self.ranks, key=lambda o: order[o]):
            found = {s: self._restricted(op, s) for s in segments}
            if op.is_map:
                for s, parts in found.items():
                    self.parts.update({(r, s): part for r, part in zip(op.results, parts, strict=True)})
            else:
                _combine(op, list(found.values()))
        for op, n in self.reads:
            segment = self._segment_read(op, n, segments)
            assert segment is not None
            value, access = op.inputs[n], op.accesses.data[n]
            index = list(access.data)
            index[self.dims[value]] -= segment.start
            part = self.parts[value, segment]
            op.operands[n] = part.value
            accesses = list(op.accesses.data)
            accesses[n] = part.at(index)
            op.accesses = ArrayAttr(accesses)
        for op in sorted(maps, key=lambda o: order[o], reverse=True):
            op.detach()
            op.erase()

    def _restricted(self, op: EinsumOp, segment: Segment) -> list[Part]:
        """The results of an operation over one segment: by an operation in front of it, or, for a copy, what it copies."""
        rank = self.ranks[op]
        here = ZERO if segment.single else symbols.symbol(rank)
        there = {rank: segment.start + here}
        inputs: list[tuple[SSAValue, AccessMap]] = []
        for value, access in op.operand_accesses:
            if value in self.dims:
                index = list(access.data)
                index[self.dims[value]] = here
                part = self.parts[value, segment]
                inputs.append((part.value, part.at(index)))
            else:
                inputs.append((value, access.substitute(there)))
        ranks = {r: e for r, e in op.extents.items() if r != rank}
        if not segment.single:
            ranks = {r: segment.extent if r == rank else e for r, e in op.extents.items()}
        body = op.body.clone()
        for inner in body.block.ops:
            if isinstance(inner, IndexOp):
                inner.expression = inner.expression.substitute(there)
        _decide_comparisons(body.block, ranks)
        simplify_region(body.block)
        inputs = _without_unread(body.block, inputs)
        reduces = any(r in ranks for r in op.reduced)
        outs = []
        for n, result in enumerate(op.results):
            kind = result.type.element_type  # pyright: ignore
            if not op.is_map and reduces:  # rounded once, when the segments are together
                kind = compute_type(kind)
            combiner = op.combiner_names[n] if reduces else "map"
            outs.append((combiner, AccessMap.of([r for r in op.out_ranks(n) if r in ranks]), kind))
        numbers = [{r: symbols.symbol(f"v{k}") for k, r in enumerate(op.out_ranks(n))} for n in range(len(op.results))]
        copied = _copied(body.block, inputs, [kind for _, _, kind in outs])
        if copied is not None and not reduces:
            return [Part(copied[0], copied[1].substitute(numbers[0]))]
        attributes: dict[str, Attribute] = {k: v for k, v in op.attributes.items() if isinstance(v, StringAttr)}
        new = EinsumOp(RankSpace.of(ranks), inputs, outs, Region(body.detach_block(body.block)), attributes)
        for old, result in zip(op.results, new.results, strict=True):
            result.name_hint = old.name_hint
        block = op.parent_block()
        assert block is not None
        block.insert_op_before(new, op)
        return [
            Part(result, AccessMap.of([numbers[n][r] for r in new.out_ranks(n)]))
            for n, result in enumerate(new.results)
        ]


def _combine(op: EinsumOp, segments: Sequence[Sequence[Part]]) -> None:
    """Make of a reduction the map that folds the results of its segments; its results stay what they are."""
    inputs: list[tuple[SSAValue, AccessMap]] = []
    for parts in segments:
        for n, part in enumerate(parts):
            inputs.append((part.value, part.at([symbols.symbol(r) for r in op.out_ranks(n)])))
    kinds = [compute_type(r.type.element_type) for r in op.results]  # pyright: ignore
    block = Block(arg_types=[k for _ in segments for k in kinds])
    totals: list[SSAValue] = list(block.args[: len(kinds)])
    for s in range(1, len(segments)):
        for n, kind in enumerate(kinds):
            name = COMBINE[op.combiner_names[n]][0 if is_float(kind) else 1]
            folded = scalar.build(name, [totals[n], block.args[s * len(kinds) + n]])
            block.add_op(folded)
            totals[n] = folded.results[0]
    block.add_op(YieldOp(*totals))
    kept = set(op.out_ranks())
    op.ranks = RankSpace(tuple((r, e) for r, e in op.ranks.data if r in kept))
    op.operands = [v for v, _ in inputs]
    op.accesses = ArrayAttr([a for _, a in inputs])
    op.combiners = ArrayAttr([StringAttr("map") for _ in kinds])
    op.detach_region(op.body)
    op.add_region(Region(block))


# --- regions ------------------------------------------------------------------------------------------------------


def _decide_comparisons(block: Block, extents: Mapping[str, sympy.Expr]) -> None:
    """Comparisons of index expressions that come out the same for every point of the ranks become constants."""
    for op in list(block.ops):
        name = scalar.name_of(op)
        if name in ("ilt", "ile", "igt", "ige", "ieq", "ine"):
            a, b = map(_index, op.operands)
            bounds = None if a is None or b is None else interval(sympy.expand(a - b), extents)
            answer = None if bounds is None else _sign_decides(name, *bounds)
            if answer is not None:
                constant = scalar.constant(answer, op.results[0].type)
                block.insert_op_before(constant, op)
                op.results[0].replace_all_uses_with(constant.results[0])


def _index(value: SSAValue) -> sympy.Expr | None:
    owner = value.owner
    if isinstance(owner, IndexOp):
        return owner.expr
    if isinstance(owner, Operation) and scalar.name_of(owner) == scalar.CONSTANT:
        return sympy.Integer(scalar.constant_value(owner))
    return None


def _sign_decides(name: str, low: sympy.Expr, high: sympy.Expr) -> bool | None:
    """Whether d < 0, d <= 0, … for every d in low, …, high; None when it depends."""
    negative, positive = bool(high.is_negative), bool(low.is_positive)
    at_most, at_least = bool(high.is_nonpositive), bool(low.is_nonnegative)
    yes, no = {
        "ilt": (negative, at_least),
        "ile": (at_most, positive),
        "igt": (positive, at_most),
        "ige": (at_least, negative),
        "ieq": (at_most and at_least, negative or positive),
        "ine": (negative or positive, at_most and at_least),
    }[name]
    return True if yes else False if no else None


def _without_unread(block: Block, inputs: Sequence[tuple[SSAValue, AccessMap]]) -> list[tuple[SSAValue, AccessMap]]:
    """The inputs that the region reads; the arguments of the others go."""
    kept = []
    for argument, read in zip(list(block.args), inputs, strict=True):
        if argument.first_use:
            kept.append(read)
        else:
            block.erase_arg(argument)
    return kept


def _copied(
    block: Block, inputs: Sequence[tuple[SSAValue, AccessMap]], kinds: Sequence[object]
) -> tuple[SSAValue, AccessMap] | None:
    """What a region copies, when it does nothing else and changes no type."""
    last = block.last_op
    if len(inputs) != 1 or len(kinds) != 1 or not isinstance(last, YieldOp) or block.first_op is not last:
        return None
    value, access = inputs[0]
    assert isinstance(value.type, TensorType)
    yields_it = isinstance(last.values[0], BlockArgument)
    return (value, access) if yields_it and value.type.element_type == kinds[0] else None
