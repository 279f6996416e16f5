"""The first few elements along a rank: copies of what computes a value, with the rank replaced by a short one.

Anchors of moments are means of them (`passes/algebra/anchored.py`).
"""

from __future__ import annotations

import sympy
from xdsl.ir import Operation, SSAValue

from ..ir import symbols
from ..ir.attributes import AccessMap, RankSpace
from ..ir.cascade import EinsumOp, IndexOp

SAMPLE = 16  # elements; one stray value among them moves their mean by a sixteenth of its size


class FirstElements:
    """Reads values of one kernel at the first elements of `rank`; the copies are appended to `new`."""

    def __init__(self, rank: str, extent: sympy.Expr, new: list[Operation]):
        self.rank, self.new = rank, new
        self.name = f"{rank}_first"
        known = int(extent) if extent.is_Integer else 1
        self.extent = sympy.Integer(min(SAMPLE, 1 << (max(known, 1).bit_length() - 1)))
        self.replacement = {rank: symbols.symbol(self.name)}
        self.copies: dict[SSAValue, SSAValue] = {}

    def at(self, value: SSAValue, access: AccessMap) -> tuple[SSAValue, AccessMap]:
        """`value` and `access` with the rank replaced; what the kernel computes is computed again, for these elements."""
        if self.rank not in access.ranks:
            return value, access
        return self._copy(value), access.substitute(self.replacement)

    def _copy(self, value: SSAValue) -> SSAValue:
        owner = value.owner
        if not isinstance(owner, EinsumOp):  # an argument of the kernel: read elsewhere
            return value
        if value not in self.copies:
            inputs = [self.at(v, a) for v, a in owner.operand_accesses]
            body = owner.body.clone()
            for inner in body.block.ops:
                if isinstance(inner, IndexOp):
                    inner.expression = inner.expression.substitute(self.replacement)
            space = RankSpace(
                tuple((self.name, self.extent) if n == self.rank else (n, e) for n, e in owner.extents.items())
            )
            outs = [
                (combiner, out.substitute(self.replacement), element) for combiner, out, element in owner.results_spec
            ]
            copy = EinsumOp(space, inputs, outs, body)
            self.new.append(copy)
            for old, made in zip(owner.results, copy.results, strict=True):
                made.name_hint = old.name_hint
                self.copies[old] = made
        return self.copies[value]
