"""Which ATen operators are taken apart before import.

Operators of the import table stay whole: their rows write the natural algebra (softmax: max, subtract, exp, sum, divide;
layer norm: mean, centred variance, rsqrt, affine; logsumexp with the guard of its maximum).  The long tail goes through
torch's core decompositions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch


@cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """The decomposition table for AOTAutograd and for `capture`."""
    from torch._decomp import core_aten_decompositions

    from .table import TABLE

    table = dict(core_aten_decompositions().items())
    return {op: f for op, f in table.items() if getattr(op, "overloadpacket", op) not in TABLE and not _random(op)}


def _random(op: Any) -> bool:
    """Random operators stay one opaque call."""
    return isinstance(op, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in op.tags
