"""An Einsum with other inputs and another region, in the place of an Einsum with the same ranks and results."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Region, SSAValue
from xdsl.rewriter import Rewriter

from ..ir.attributes import AccessMap
from ..ir.cascade import EinsumOp


def replace_einsum(op: EinsumOp, inputs: Sequence[tuple[SSAValue, AccessMap]], body: Region) -> None:
    """Replace `op`; its results keep their names.  body: a region with an argument per input."""
    new = EinsumOp(op.ranks, inputs, op.results_spec, body, dict(op.attributes))
    for old, made in zip(op.results, new.results, strict=True):
        made.name_hint = old.name_hint
    Rewriter.replace_op(op, new)


__all__ = ["replace_einsum"]
