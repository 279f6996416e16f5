"""shared-exponentials: what several sums exponentiate becomes a map, of which masked elements are no part.

When: sums read the same map x, each as exp(x): a softmax that needs no maximum (`free_gauges.py`).

Before:  x = map { c ? 20 tanh(s) : -inf };  l = Σ exp(x);  o = Σ exp(x) v
After:   e = map { c ? exp(20 tanh(s)) : 0 };  l = Σ e;  o = Σ e v

Why legal: exp(-inf) is 0.  Why cheaper: an exponential is slow on a CPU where it underflows, and it never does here.  On
other machines exp(z) is exp2(z · log2 e), whose factor joins one that is already there.
"""

from __future__ import annotations

import math

from xdsl.dialects.builtin import BFloat16Type, Float16Type
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from ..ir import scalar
from ..ir.cascade import MAP, EinsumOp, KernelOp, YieldOp
from ..ir.target import Target
from .exp2_units import LOG2_E, scaled


def share_exponentials(kernel: KernelOp, target: Target) -> None:
    """Rewrite every map of the kernel that sums exponentiate, in place."""
    for op in list(kernel.body.block.ops):
        if not (isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1):
            continue
        readers = {u.operation: u.index for u in op.results[0].uses}
        found = {o: n for o, n in readers.items() if isinstance(o, EinsumOp) and _exponentiates(o, n, op)}
        if found:
            shared = _exponential_of(op, _element(op, list(found)), target)
            for reader, index in found.items():
                _read(reader, index, shared)


def _exponentiates(reader: EinsumOp, index: int, op: EinsumOp) -> bool:
    """Whether a sum reads the map `op` at its own ranks, and only exponentials of it."""
    uses = list(reader.body.block.args[index].uses)
    own = reader.accesses.data[index].bare() == op.out_ranks(0) and list(reader.inputs).count(op.results[0]) == 1
    return (
        own
        and "sum" in reader.combiner_names
        and bool(uses)
        and all(scalar.name_of(u.operation) == "exp" for u in uses)
    )


def _element(op: EinsumOp, readers: list[EinsumOp]) -> Attribute:
    """The type the exponentials are said to have: 16 bits where they are multiplied by such a tensor, as before."""
    for reader in readers:
        for value in reader.inputs:
            element = value.type.element_type  # pyright: ignore
            if value is not op.results[0] and isinstance(element, Float16Type | BFloat16Type):
                return element
    return op.results[0].type.element_type  # pyright: ignore


def _exponential_of(op: EinsumOp, element: Attribute, target: Target) -> EinsumOp:
    """The map whose elements are the exponentials of those of `op`."""
    body = op.body.clone()
    block = body.block
    last = block.last_op
    assert isinstance(last, YieldOp)
    value = last.values[0]
    last.detach()
    last.erase()
    block.add_op(YieldOp(_exponential(value, block, target.kind == "cpu")))
    made = EinsumOp(op.ranks, op.operand_accesses, [(MAP, op.out_maps.data[0], element)], body)
    made.results[0].name_hint = f"{op.results[0].name_hint or 'x'}_exp"
    Rewriter.insert_op(made, InsertPoint.after(op))
    return made


def _exponential(value: SSAValue, block: Block, natural: bool) -> SSAValue:
    """exp(value) at the end of `block`; 0 where the value is chosen to be -inf."""

    def add(op: Operation) -> SSAValue:
        block.add_op(op)
        return op.results[0]

    owner = value.owner
    if isinstance(owner, Operation) and scalar.name_of(owner) == "select":
        condition, *branches = owner.operands
        if any(_is_nothing(b) for b in branches):
            chosen = [
                add(scalar.constant(0.0, b.type)) if _is_nothing(b) else _exponential(b, block, natural)
                for b in branches
            ]
            return add(scalar.build("select", [condition, *chosen]))
    return add(scalar.build("exp", [value]) if natural else scalar.build("exp2", [scaled(value, LOG2_E, block)]))


def _is_nothing(value: SSAValue) -> bool:
    owner = value.owner
    return (
        isinstance(owner, Operation)
        and scalar.name_of(owner) == scalar.CONSTANT
        and scalar.constant_value(owner) == -math.inf
    )


def _read(reader: EinsumOp, index: int, made: EinsumOp) -> None:
    """Let a sum read the exponentials themselves."""
    argument = reader.body.block.args[index]
    for exponential in [u.operation for u in argument.uses]:
        exponential.results[0].replace_all_uses_with(argument)
        Rewriter.erase_op(exponential)
    reader.operands[index] = made.results[0]
