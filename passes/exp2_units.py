"""exp2-units: fold a gauge in units of log 2, so that every exponential of it is one exp2.

When: in a `cascade.online` whose gauge is the running extreme of an input x, x and the gauge are used only in
exp(x - gauge), and x comes from a contraction.  An x that may hold the most negative finite number (a mask) is left in its
units, since the factor would take it to -inf, and so is an input: x - m is exact where x · log2 e rounds.  So is it where
the gauge is returned, or subtracted elsewhere: from the same x it gives what x - m was here.  There, exp(z) becomes
exp2(z · log2 e).

Before:  m = max x;  l = Σ exp(x - m), transported by exp(m_old - m_new)
After:   m' = max x';  l = Σ exp2(x' - m'), transported by exp2(m'_old - m'_new);  x' = x · log2 e,  m = m' · ln 2

Why legal: exp(z) = 2^(z · log2 e), and multiplying by a positive constant commutes with max and min.  Why cheaper: the
machines have exp2, not exp; the factor joins one that is already there (`s · scale`), or is absorbed by a contraction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from xdsl.dialects.builtin import FloatAttr, f64
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from ..ir import scalar
from ..ir.attributes import AccessMap, RankSpace, compute_type, is_float
from ..ir.cascade import MAP, EinsumOp, KernelOp, OnlineOp, ReturnOp, YieldOp
from .online_writer import LAG
from .pass_classes import KernelPass

LOG2_E = 1.0 / math.log(2.0)


@dataclass(frozen=True)
class Exp2Units(KernelPass):
    """`exp2-units` on every kernel of a module."""

    name = "exp2-units"

    def on_kernel(self, kernel: KernelOp) -> None:
        use_exp2_units(kernel)


def use_exp2_units(kernel: KernelOp) -> None:
    """Rewrite every online op of a kernel for which it is legal."""
    for op in list(kernel.body.block.ops):
        if isinstance(op, OnlineOp):
            _rewrite(op)


def _rewrite(op: OnlineOp) -> None:
    count = len(op.inputs)
    gauges = op.gauge_indices
    last = op.step.block.last_op
    assert isinstance(last, YieldOp)
    chosen: list[tuple[int, int, BlockArgument]] = []
    for n, g in enumerate(gauges):
        x = last.values[g]
        gauge = op.step.block.args[count + n]
        if not (isinstance(x, BlockArgument) and x.index < count and is_float(x.type)):
            return
        old, new = op.transport.block.args[n], op.transport.block.args[len(gauges) + n]
        if op.combiner_names[g] not in ("max", "min") or not _only_in_exponentials(x, gauge, last, g):
            return
        if not _only_in_exponentials(old, new, None, -1):
            return
        chosen.append((n, g, x))
    if not chosen:
        return
    for n, g, x in chosen:
        natural = not _may_scale(op.inputs[x.index]) or _is_subtracted(op.results[g])
        old, new = op.transport.block.args[n], op.transport.block.args[len(gauges) + n]
        for value, gauge in ((x, op.step.block.args[count + n]), (old, new)):
            for difference in [u.operation for u in gauge.uses if scalar.name_of(u.operation) == "sub"]:
                for inner in [u.operation for u in difference.results[0].uses]:
                    assert difference.operands[0] is value
                    _to_exp2(inner, natural)
        if natural:
            continue
        value, access = op.operand_accesses[x.index]
        op.operands[x.index] = _times(op, value, access, LOG2_E)
        accesses = list(op.accesses.data)
        accesses[x.index] = AccessMap.of(_ranks(op.operands[x.index]))
        op.accesses = type(op.accesses)(accesses)
        _in_natural_units(op, g)
        if LAG in op.attributes:
            op.attributes[LAG] = FloatAttr(op.attributes[LAG].value.data * LOG2_E, f64)  # pyright: ignore


def _is_subtracted(value: SSAValue) -> bool:
    """Whether a value is subtracted from something, or a kernel returns it, for others to do so."""
    for use in value.uses:
        op = use.operation
        if isinstance(op, ReturnOp):
            return True
        if not isinstance(op, EinsumOp):
            continue
        arg = op.body.block.args[use.index]
        if any(scalar.name_of(u.operation) == "sub" and u.index == 1 for u in arg.uses):
            return True
        if op.is_map and len(op.results) == 1 and op.yields[0] is arg and _is_subtracted(op.results[0]):
            return True
    return False


def _to_exp2(exponential: Operation, natural: bool) -> None:
    """exp(z) becomes exp2(z), or exp2(z · log2 e) when z is in natural units."""
    (z,) = exponential.operands
    new: list[Operation] = []
    if natural:
        new.append(scalar.constant(LOG2_E, z.type))
        new.append(scalar.build("mul", [z, new[0].results[0]]))
        z = new[-1].results[0]
    Rewriter.replace_op(exponential, [*new, scalar.build("exp2", [z])])


def _only_in_exponentials(x: SSAValue, gauge: SSAValue, last: YieldOp | None, index: int) -> bool:
    """Whether `x` and `gauge` occur only as exp(x - gauge), and x as the gauge's own contribution."""
    for value in (x, gauge):
        for use in value.uses:
            op = use.operation
            if op is last and value is x and use.index == index:
                continue
            if scalar.name_of(op) != "sub" or op.operands[0] is not x or op.operands[1] is not gauge:
                return False
            if any(scalar.name_of(u.operation) != "exp" for u in op.results[0].uses):
                return False
    return True


def _may_scale(value: SSAValue) -> bool:
    """Whether a value times log2 e stays finite where it is: it comes from a contraction, scaled or chosen against -inf."""
    owner = value.owner
    if not isinstance(owner, EinsumOp):
        return False
    if owner.combiner_names[0] == "sum":
        return True
    return owner.is_map and _scalar_may_scale(owner.yields[0], owner)


def _scalar_may_scale(value: SSAValue, op: EinsumOp) -> bool:
    if isinstance(value, BlockArgument):
        return _may_scale(op.inputs[value.index])
    owner = value.owner
    assert isinstance(owner, Operation)
    name = scalar.name_of(owner)
    if name == scalar.CONSTANT:
        return not 1e37 < abs(float(scalar.constant_value(owner))) < math.inf
    if name in ("mul", "div"):
        a, b = owner.operands
        return (_scalar_may_scale(a, op) and _constant(b) is not None) or (
            name == "mul" and _scalar_may_scale(b, op) and _constant(a) is not None
        )
    if name == "select":
        return all(_scalar_may_scale(o, op) for o in owner.operands[1:])
    return name == "neg" and _scalar_may_scale(owner.operands[0], op)


def _ranks(value: SSAValue) -> tuple[str, ...]:
    owner = value.owner
    assert isinstance(owner, EinsumOp)
    return owner.out_ranks(value.index)  # pyright: ignore


def _times(op: OnlineOp, value: SSAValue, access: AccessMap, factor: float) -> SSAValue:
    """A map that computes `value · factor`; the factor goes into the map that made the value, where there is one."""
    owner = value.owner
    names = [r for r in op.ranks.names if r in access.ranks]
    block = Block()
    inputs = [(value, access)]
    if isinstance(owner, EinsumOp) and owner.is_map and len(owner.results) == 1 and access.bare() == owner.out_ranks(0):
        region = owner.body.clone()
        block = region.block
        last = block.last_op
        assert isinstance(last, YieldOp)
        inputs = list(owner.operand_accesses)
        names = list(owner.out_ranks(0))
        before = last.values[0]
        last.detach()
        block.add_op(YieldOp(scaled(before, factor, block)))
        last.erase()
        _drop_unread(block)
    else:
        arg = block.insert_arg(compute_type(value.type.element_type), 0)  # pyright: ignore
        block.add_op(YieldOp(scaled(arg, factor, block)))
        region = Region(block)
    space = RankSpace(tuple((n, op.extents[n]) for n in names))
    ending = block.last_op
    assert isinstance(ending, YieldOp)
    new = EinsumOp(space, inputs, [(MAP, AccessMap.of(names), ending.values[0].type)], region)
    new.results[0].name_hint = value.name_hint
    Rewriter.insert_op(new, InsertPoint.before(op))
    return new.results[0]


def scaled(value: SSAValue, factor: float, block: Block) -> SSAValue:
    """`value · factor` at the end of `block`, the factor joined to constants that are already there."""
    owner = value.owner
    name = scalar.name_of(owner) if isinstance(owner, Operation) else None

    def add(op: Operation) -> SSAValue:
        block.add_op(op)
        return op.results[0]

    def number(x: float) -> SSAValue:
        return add(scalar.constant(x, value.type))

    if isinstance(owner, Operation):
        if name == scalar.CONSTANT:
            return number(float(scalar.constant_value(owner)) * factor)
        if name in ("mul", "div"):
            a, b = owner.operands
            constant = _constant(b)
            if constant is not None:
                return add(scalar.build("mul", [a, number(constant * factor if name == "mul" else factor / constant)]))
            constant = _constant(a)
            if constant is not None and name == "mul":
                return add(scalar.build("mul", [b, number(constant * factor)]))
        if name == "neg":
            return add(scalar.build("neg", [scaled(owner.operands[0], factor, block)]))
        if name in ("add", "sub"):
            a, b = (scaled(o, factor, block) for o in owner.operands)
            return add(scalar.build(name, [a, b]))
        if name == "select":
            a, b = (scaled(o, factor, block) for o in owner.operands[1:])
            return add(scalar.build("select", [owner.operands[0], a, b]))
    return add(scalar.build("mul", [value, number(factor)]))


def _constant(value: SSAValue) -> float | None:
    owner = value.owner
    if isinstance(owner, Operation) and scalar.name_of(owner) == scalar.CONSTANT:
        return float(scalar.constant_value(owner))
    return None


def _drop_unread(block: Block) -> None:
    for inner in reversed(list(block.ops)):
        if not isinstance(inner, YieldOp) and not inner.results[0].first_use:
            inner.detach()
            inner.erase()


def _in_natural_units(op: OnlineOp, g: int) -> None:
    """Readers of the gauge's final value get it multiplied by ln 2."""
    result = op.results[g]
    if not result.first_use:
        return
    names = op.out_ranks(g)
    block = Block(arg_types=[compute_type(result.type.element_type)])  # pyright: ignore
    block.add_op(YieldOp(scaled(block.args[0], math.log(2.0), block)))
    space = RankSpace(tuple((n, op.extents[n]) for n in names))
    back = EinsumOp(
        space, [(result, AccessMap.of(names))], [(MAP, AccessMap.of(names), result.type.element_type)], Region(block)
    )  # pyright: ignore
    back.results[0].name_hint = result.name_hint
    Rewriter.insert_op(back, InsertPoint.after(op))
    result.replace_uses_with_if(back.results[0], lambda use: use.operation is not back)
