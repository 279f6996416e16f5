"""defer-factors: a factor of an operand that lacks the contracted rank moves behind the contraction.

When: a kernel streams the contracted rank, and the factor comes from outside of the kernel (the scale of a norm whose
statistic another kernel computes).  What is reduced in the same kernel is `derive-online`'s.

Before:  y = x · g · h;   r = Σ_k y w           (h does not carry k)
After:   y = x · g;       r = h · Σ_k y w

Why legal: sums are linear.  Why cheaper: h is applied once to each result, not in each step of the loop, and again for
each tile of columns; an operand that had no other factor goes to the matrix unit as it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import Float16Type
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, RankSpace, TensorType, compute_type, is_float
from ..ir.cascade import MAP, EinsumOp, KernelOp, YieldOp
from .canonicalise import erase_dead
from .online_writer import note
from .pass_classes import StreamedPass
from .row_factors import Factor, arguments, factors_without, is_plain_product


@dataclass(frozen=True)
class DeferFactors(StreamedPass):
    """`defer-factors` on every kernel of a module that streams a rank."""

    name = "defer-factors"

    def on_stream(self, kernel: KernelOp, stream: str) -> None:
        defer_factors(kernel, stream)


def defer_factors(kernel: KernelOp, stream: str) -> bool:
    """Rewrite every contraction of a kernel over the streamed rank for which it is legal; whether there was one."""
    changed = False
    for op in list(kernel.body.block.ops):
        if isinstance(op, EinsumOp) and op.reduced == (stream,) and op.combiner_names == ("sum",):
            if is_plain_product(op) and is_float(op.yields[0].type):
                changed |= _defer(kernel, op, stream)
    if changed:
        erase_dead(kernel.body.block)
    return changed


def _defer(kernel: KernelOp, op: EinsumOp, stream: str) -> bool:
    moved: list[EinsumOp] = []  # maps that compute what the result is multiplied with
    accesses: list[AccessMap] = []
    for n, (value, access) in enumerate(op.operand_accesses):
        maker = value.owner
        if not (isinstance(maker, EinsumOp) and maker.is_map and len(maker.results) == 1):
            continue
        at = dict(zip(maker.out_ranks(0), access.data, strict=True))
        names = {r for r, e in at.items() if stream in symbols.names(e)}
        free, rest = factors_without(maker, names)
        early = [f for f in free if any(_reduced_here(maker.inputs[a.index]) for a in arguments(f.value))]
        free, rest = [f for f in free if f not in early], [*early, *rest]
        if not free or not names or not _keeps_range(maker, rest):
            continue
        left = _map_of(maker, rest, maker.out_ranks(0))
        scale = _map_of(maker, free, [r for r in maker.out_ranks(0) if r not in names])
        scale.results[0].name_hint = f"{scale.results[0].name_hint or 'operand'}_scale"
        Rewriter.insert_op([left, scale], InsertPoint.before(op))
        op.operands[n] = left.results[0]
        moved.append(scale)
        accesses.append(AccessMap.of([e for r, e in at.items() if r not in names]))
    if moved:
        identity = _scaled(op, moved, accesses)
        note(kernel, "certificates", [identity])
    return bool(moved)


def _keeps_range(op: EinsumOp, rest: Sequence[Factor]) -> bool:
    """Whether what is left of a map fits the type that the map is stored in: f16 may need the factor to stay in range."""
    if not isinstance(op.results[0].type.element_type, Float16Type):  # pyright: ignore
        return True
    if len(rest) != 1 or not isinstance(rest[0].value, BlockArgument) or rest[0].inverse:
        return False
    return isinstance(op.inputs[rest[0].value.index].type.element_type, Float16Type)  # pyright: ignore


def _reduced_here(value: SSAValue) -> bool:
    """Whether a value depends on a reduction of the kernel."""
    op = value.owner
    return isinstance(op, EinsumOp) and (not op.is_map or any(map(_reduced_here, op.inputs)))


def _map_of(op: EinsumOp, factors: Sequence[Factor], ranks: Sequence[str]) -> EinsumOp:
    """The product of some factors of a map, over some of its ranks."""
    needed = sorted({a.index for f in factors for a in arguments(f.value)})
    kind = op.yields[0].type
    block = Block(arg_types=[op.body.block.args[n].type for n in needed])
    values: dict[SSAValue, SSAValue] = {op.body.block.args[n]: new for n, new in zip(needed, block.args, strict=True)}
    wanted = _upstream([f.value for f in factors])
    for inner in op.body.block.ops:
        if inner in wanted:
            copy = inner.clone(dict(values))
            block.add_op(copy)
            values.update(zip(inner.results, copy.results, strict=True))

    def apply(name: str, a: SSAValue, b: SSAValue) -> SSAValue:
        made = scalar.build(name, [a, b])
        block.add_op(made)
        return made.results[0]

    above = [values[f.value] for f in factors if not f.inverse]
    if not above:
        one = scalar.constant(1.0, kind)
        block.add_op(one)
        above = [one.results[0]]
    value = above[0]
    for factor in above[1:]:
        value = apply("mul", value, factor)
    for f in factors:
        if f.inverse:
            value = apply("div", value, values[f.value])
    block.add_op(YieldOp(value))
    space = RankSpace(tuple((r, op.extents[r]) for r in op.ranks.names if r in ranks))
    # a scale of rows is kept as it is computed; what is left of the operand is stored as the operand was
    element = op.results[0].type.element_type if len(ranks) == len(op.out_ranks(0)) else kind  # pyright: ignore
    inputs = [op.operand_accesses[n] for n in needed]
    made = EinsumOp(space, inputs, [(MAP, AccessMap.of(ranks), element)], Region(block))
    made.results[0].name_hint = op.results[0].name_hint
    return made


def _upstream(values: Sequence[SSAValue]) -> set[Operation]:
    found: set[Operation] = set()
    pending = [v.owner for v in values]
    while pending:
        op = pending.pop()
        if isinstance(op, Operation) and op not in found:
            found.add(op)
            pending.extend(v.owner for v in op.operands)
    return found


def _scaled(op: EinsumOp, moved: Sequence[EinsumOp], accesses: Sequence[AccessMap]) -> str:
    """Multiply the result of a contraction by values without its reduced rank; the identity, for the derivation."""
    result = op.results[0]
    kind = result.type
    assert isinstance(kind, TensorType)
    names = op.out_ranks(0)
    wide = compute_type(kind.element_type)
    if wide != kind.element_type:  # it is rounded once, behind the factors
        result = Rewriter.replace_value_with_new_type(result, TensorType.of(kind.dims, wide))
        op = result.owner  # pyright: ignore
    block = Block(arg_types=[wide, *(m.yields[0].type for m in moved)])
    value: SSAValue = block.args[0]
    for arg in block.args[1:]:
        times = scalar.build("mul", [value, arg])
        block.add_op(times)
        value = times.results[0]
    block.add_op(YieldOp(value))
    space = RankSpace(tuple((r, op.extents[r]) for r in names))
    inputs = [(result, op.out_maps.data[0]), *((m.results[0], a) for m, a in zip(moved, accesses, strict=True))]
    scaled = EinsumOp(space, inputs, [(MAP, op.out_maps.data[0], kind.element_type)], Region(block))
    scaled.results[0].name_hint = result.name_hint
    Rewriter.insert_op(scaled, InsertPoint.after(op))
    result.replace_uses_with_if(scaled.results[0], lambda use: use.operation is not scaled)
    rank = op.reduced[0]
    read = [(v.name_hint or f"arg{getattr(v, 'index', 0)}") + a.text() for v, a in op.operand_accesses]
    scales = [(m.results[0].name_hint or "h") + a.text() for m, a in zip(moved, accesses, strict=True)]
    return f"Σ_{rank} {'*'.join([*scales, *read])} = {'*'.join(scales)}*Σ_{rank} {'*'.join(read)}"
