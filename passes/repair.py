"""The rewrites of one kernel, in order: what fusion prices and what the driver lowers are the same program."""

from __future__ import annotations

from ..ir.cascade import EinsumOp, KernelOp, OnlineOp
from ..ir.target import Target
from .absorb_scales import absorb_scales
from .canonicalise import erase_dead, simplify_region
from .defer_factors import defer_factors
from .derive_online import derive_kernel
from .exp2_units import use_exp2_units
from .inline_maps import inline_maps
from .needed_reads import fold_decided
from .release_scales import release_scales
from .shared_exponentials import share_exponentials


def repair_kernel(kernel: KernelOp, stream: str, target: Target, lazy: bool = False) -> tuple[int, ...]:
    """Derive online forms over `stream`, then move constants to where they cost least.  In place.

    lazy: as in `derive-online`.  Returns which of the kernel's inputs are still read.
    """
    fold_decided(kernel)
    if target.kind != "cpu":  # operands go to matrix units there, or from shared memory
        release_scales(kernel, stream)
        erase_dead(kernel.body.block)
    inline_maps(kernel)
    if stream:
        if defer_factors(kernel, stream):
            inline_maps(kernel)
        derive_kernel(kernel, stream, lazy)
        share_exponentials(kernel, target)
    use_exp2_units(kernel)
    erase_dead(kernel.body.block)
    if target.kind == "cpu":  # operands are multiplied in full precision there
        absorb_scales(kernel)
    for op in kernel.body.block.ops:
        if isinstance(op, EinsumOp):
            simplify_region(op.body.block)
        elif isinstance(op, OnlineOp):
            simplify_region(op.step.block)
            simplify_region(op.transport.block)
    erase_dead(kernel.body.block)
    return drop_unread_inputs(kernel)


def drop_unread_inputs(kernel: KernelOp) -> tuple[int, ...]:
    """Take arguments away that nothing reads any more (a row constant that fell out of an argmin); what is left."""
    read = tuple(arg.index for arg in kernel.body.block.args if arg.first_use)
    for arg in reversed(kernel.body.block.args):
        if not arg.first_use:
            kept = [v for n, v in enumerate(kernel.inputs) if n != arg.index]
            kernel.operands = kept
            kernel.body.block.erase_arg(arg)
    return read
