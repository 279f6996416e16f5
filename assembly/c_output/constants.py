"""The tensors that a package holds, and what operators make of them alone, as one block of memory on the device."""

from __future__ import annotations

from typing import Any

import torch

from ...codegen.artifact import Layout
from ...errors import UnsupportedProgram
from ...runtime.package.load import constant
from ...runtime.package.manifest import Package, Step
from ...runtime.package.operators import find
from ...runtime.package.steps import OperatorStep
from ...runtime.package.values import dtype_of, references
from ..package import MOST_CONSTANT_BYTES

CPU = torch.device("cpu")
SLOT = 256  # bytes: where each tensor begins


class Constants:
    """Those that kernels read.  `data` is the block."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._bytes = 0

    @property
    def data(self) -> bytes:
        return b"".join(self._parts)

    def place(self, x: torch.Tensor) -> int:
        """Where in the block the tensor's memory begins, in bytes; equal memory is there once."""
        raw = _memory(x)
        if raw not in self._places:
            self._places[raw] = self._bytes
            padded = raw + bytes(-len(raw) % SLOT)
            self._parts.append(padded)
            self._bytes += len(padded)
            if self._bytes > MOST_CONSTANT_BYTES:
                raise UnsupportedProgram(
                    f"the kernels read more than {MOST_CONSTANT_BYTES >> 20} MiB of constants, with those that operators "
                    "make of the weights before the kernels run",
                    next_step="pass the weights as arguments",
                )
        return self._places[raw]


def held(package: Package) -> list[torch.Tensor]:
    """The package's own tensors, in the strides that it says."""
    return [constant(package, n, CPU) for n in range(len(package.constants))]


def computed(step: Step, values: list[torch.Tensor | None], names: tuple[str, ...]) -> list[torch.Tensor] | None:
    """What an operator gives that is the same for each call: of constants alone, in fixed sizes, without chance; or nothing.

    values: the constants among the values so far.  None where that is not so.
    """
    used = references([list(step.args), *step.kwargs.values()])
    gives = [x for x in step.gives if isinstance(x, Layout)]
    fixed = len(gives) == len(step.gives) and all(isinstance(n, int) for x in gives for n in x.shape)
    if fixed and gives and all(0 in x.shape for x in gives):
        return [torch.empty_strided(x.shape, x.strides, dtype=dtype_of(x.dtype)) for x in gives]  # type: ignore[arg-type]
    if not fixed or any(values[n] is None for n in used) or _has_size([list(step.args), *step.kwargs.values()]):
        return None
    op = find(step.operator)
    if not isinstance(op, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in op.tags:
        return None
    known: list[Any] = [*values]
    OperatorStep(step, len(known), names, CPU, step.operator)(known, ())
    made = []
    for x, layout in zip(known[len(values) :], gives, strict=True):
        strides = tuple(int(n) for n in layout.strides)
        made.append(torch.empty_strided(x.shape, strides, dtype=dtype_of(layout.dtype)).copy_(x))
    return made


def _has_size(data: Any) -> bool:
    if isinstance(data, list):
        return any(map(_has_size, data))
    return isinstance(data, dict) and "size" in data


def _memory(x: torch.Tensor) -> bytes:
    """From the tensor's first element to its last, as they lie."""
    if not x.numel():
        return b""
    length = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((length,), (1,)).view(torch.uint8).numpy().tobytes()
