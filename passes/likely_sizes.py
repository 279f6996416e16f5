"""Sizes of values and operations in a program whose extents may not be known yet."""

from __future__ import annotations

import math
from collections.abc import Mapping

import sympy
from xdsl.ir import SSAValue

from ..ir import symbols
from ..ir.attributes import TensorType, element_bits
from ..ir.cascade import EinsumOp
from .kernel_shape import LARGE


class LikelySizes:
    """Sizes with likely values for the symbolic ones: those given, else `LARGE`."""

    def __init__(self, of: Mapping[str, int]):
        self.of = of
        self._known: dict[sympy.Expr, int] = {}  # asked for again and again, and slow to substitute

    def value(self, e: sympy.Expr) -> int:
        """Of an extent."""
        if e not in self._known:
            self._known[e] = symbols.evaluate(e, {**dict.fromkeys(symbols.names(e), LARGE), **self.of})
        return self._known[e]

    def bytes(self, value: SSAValue) -> int:
        """Of a tensor in memory."""
        kind = value.type
        if not isinstance(kind, TensorType):
            return 0
        total = element_bits(kind.element_type) // 8
        for d in kind.dims:
            total *= self.value(d)
        return total

    def elements(self, value: SSAValue) -> int:
        """Of a tensor; 1 of a scalar."""
        kind = value.type
        return math.prod(map(self.value, kind.dims)) if isinstance(kind, TensorType) else 1

    def points(self, op: EinsumOp) -> float:
        """How many times an operation computes its scalars."""
        total = 1.0
        for e in op.extents.values():
            total *= self.value(e)
        return total
