"""release-scales: a constant factor on an operand of a contraction moves behind the contraction.

When: an operand of a contraction is `x · c` (or only a widened x) with x stored in 16 bits, on a target that multiplies 16-bit
operands exactly and accumulates in fp32; or stored in 32 bits and streamed, so that it would be computed in the loop.

Before:  a = q · c;  s = Σ_d a k
After:   s' = Σ_d q k;  s = s' · c

Why legal: sums are linear.  Why better: x goes to the matrix unit as it is stored, without the rounding of `x · c` to 16 bits,
and from shared memory, where an operand that is computed goes through registers (in fp32: 255 of them and spills for a tile of
32 x 64, 74 as it is stored); the factor meets others that are applied to the result anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type
from xdsl.ir import Block, BlockArgument, Operation, Region
from xdsl.rewriter import InsertPoint, Rewriter

from ..ir import scalar
from ..ir.attributes import RankSpace
from ..ir.cascade import MAP, EinsumOp, KernelOp, YieldOp
from .contraction import contractions
from .pass_classes import KernelPass


@dataclass(frozen=True)
class ReleaseScales(KernelPass):
    """`release-scales` on every kernel of a module."""

    name = "release-scales"

    def on_kernel(self, kernel: KernelOp) -> None:
        release_scales(kernel, kernel.streamed)


def release_scales(kernel: KernelOp, stream: str) -> None:
    """Rewrite every contraction of a kernel for which it pays.  stream: the rank that the kernel streams, or ""."""
    for contraction in contractions(kernel):
        op = contraction.op
        if isinstance(op, EinsumOp) and len(op.results) == 1 and _is_plain_product(op):
            _release(op, stream)


def _is_plain_product(op: EinsumOp) -> bool:
    """Whether the map is the product of the two inputs."""
    product = op.yields[0].owner
    return (
        isinstance(product, Operation)
        and scalar.name_of(product) == "mul"
        and {id(o) for o in product.operands} == {id(a) for a in op.body.block.args}
        and len(op.inputs) == 2
    )


def _release(op: EinsumOp, stream: str) -> None:
    factor = 1.0
    for n, value in enumerate(op.inputs):
        owner = value.owner
        if not (isinstance(owner, EinsumOp) and owner.is_map and len(owner.inputs) == 1 and len(owner.results) == 1):
            continue
        constant = _scale_of(owner)
        stored = owner.inputs[0].type.element_type  # pyright: ignore
        streamed = isinstance(stored, Float32Type) and stream in op.accesses.data[n].ranks
        if constant is None or not (isinstance(stored, Float16Type | BFloat16Type) or streamed):
            continue
        binding = dict(zip(owner.out_ranks(0), op.accesses.data[n].data, strict=True))
        accesses = list(op.accesses.data)
        accesses[n] = owner.accesses.data[0].substitute(binding)
        op.operands[n] = owner.inputs[0]
        op.accesses = type(op.accesses)(accesses)
        factor *= constant
    if factor == 1.0:
        return
    result = op.results[0]
    names = op.out_ranks(0)
    block = Block(arg_types=[op.yields[0].type])
    number = scalar.constant(factor, op.yields[0].type)
    times = scalar.build("mul", [block.args[0], number.results[0]])
    block.add_ops([number, times, YieldOp(times.results[0])])
    space = RankSpace(tuple((r, op.extents[r]) for r in names))
    scaled = EinsumOp(
        space, [(result, op.out_maps.data[0])], [(MAP, op.out_maps.data[0], result.type.element_type)], Region(block)
    )  # pyright: ignore
    scaled.results[0].name_hint = result.name_hint
    Rewriter.insert_op(scaled, InsertPoint.after(op))
    result.replace_uses_with_if(scaled.results[0], lambda use: use.operation is not scaled)


def _scale_of(op: EinsumOp) -> float | None:
    """c when the map is `x · c`; 1 when it only widens; None otherwise."""
    value = op.yields[0]
    if isinstance(value, BlockArgument):
        return 1.0
    owner = value.owner
    if isinstance(owner, Operation) and scalar.name_of(owner) == "mul":
        for x, c in ((owner.operands[0], owner.operands[1]), (owner.operands[1], owner.operands[0])):
            if (
                isinstance(x, BlockArgument)
                and isinstance(c.owner, Operation)
                and scalar.name_of(c.owner) == scalar.CONSTANT
            ):
                return float(scalar.constant_value(c.owner))
    return None
