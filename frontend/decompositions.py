"""Which ATen operators are taken apart before import.

Operators of the import table stay whole: their rows write the natural algebra (softmax: max, subtract, exp, sum,
divide; layer norm: mean, centred variance, rsqrt, affine; logsumexp with the guard of its maximum).  The long tail goes
through torch's core decompositions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """The decomposition table for AOTAutograd and for `capture`."""
    from torch._decomp import core_aten_decompositions

    from .table import TABLE

    table = dict(core_aten_decompositions().items())
    return {op: f for op, f in table.items() if getattr(op, "overloadpacket", op) not in TABLE and not _random(op)}


@contextmanager
def by_definition() -> Iterator[None]:
    """While tracing: `scaled_dot_product_attention` is its definition, in the dtype of its operands.

    PyTorch's own definition widens 16-bit operands to f32 unless told that it need not; widened, they would be multiplied
    in f32.
    """
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)


class Definitions(TorchFunctionMode):
    """For `capture`: functions that PyTorch defines otherwise while Dynamo traces, and Dynamo does not trace there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.one_hot:
            return _one_hot(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _one_hot(tensor: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """Without the look at the values, which asks whether they are classes; classes are counted only where none are given."""
    classes = tensor.max().item() + 1 if num_classes == -1 else num_classes
    return (tensor.unsqueeze(-1) == torch.arange(classes, device=tensor.device)).long()


def _random(op: Any) -> bool:
    """Random operators stay one opaque call."""
    return isinstance(op, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in op.tags
