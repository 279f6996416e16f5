"""One kernel as a tuner sees it: what identifies it, what may be chosen of it, and the artifact of each choice.

The driver makes one for each kernel and asks `configure(tunable)` for a configuration; whoever answers may look it up or
measure it.  Nothing here knows a cache.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ..codegen.artifact import KernelArtifact
from ..codegen.emit import NotPrintable, choices_of, dtype_name
from ..ir import symbols, tile
from ..ir.attributes import AccessMap
from ..ir.cascade import EinsumOp, KernelOp, OnlineOp
from ..ir.names import anonymous, note
from ..ir.target import Target
from ..ir.text import print_module
from ..passes.algebra.forms import Refused
from ..passes.configured import TuningSpace, scheduled_as, tuning_space
from ..passes.count_passes import Counted
from ..passes.kernel_shape import KernelShape
from ..passes.scheduled import Scheduled
from ..passes.split_reduction import as_program
from ..passes.walk import LoopOptions
from .printing import print_kernel

EXACT = 16  # extents up to this are their own bucket; above, there are four to a doubling
ALIGNED = 16  # elements
# A number that stands alone: no part of a name, and neither 0 nor 1, which mean something; -inf is hexadecimal.
_NUMBER = re.compile(r"(?<![%\w.@^])(?![01]\b(?!\.))\d+(\.\d+)?(e[+-]?\d+)?(?!\w)")


@dataclass(frozen=True)
class Subject:
    """What a configuration is for, but for the device.

    program: hash of the cascade and of what was asked of its loops, without names and sizes.  sizes: (rank, bucket of its
    extent).  dtypes, strides: of inputs and outputs, in order; of strides, which are 0, 1 or multiples of 16.
    """

    program: str
    sizes: tuple[tuple[str, int], ...]
    dtypes: str
    strides: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sizes": [list(pair) for pair in self.sizes]}

    @staticmethod
    def from_json(data: Any) -> Subject:
        """Raises KeyError, TypeError or ValueError."""
        sizes = tuple((str(name), int(size)) for name, size in data["sizes"])
        return Subject(str(data["program"]), sizes, str(data["dtypes"]), str(data["strides"]))


@dataclass(frozen=True)
class Configured:
    """An answer.  variant: None for the cost model's choice.  note: for the report.  about: JSON, kept with the plan."""

    variant: str | None
    values: Mapping[str, int] = field(default_factory=dict)
    note: str = "cost model"
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Tunable:
    """A kernel, for tensors of these layouts on this target.  default: the cost model's choice."""

    name: str
    kernel: KernelOp
    target: Target
    inputs: Sequence[tile.BufferType]
    outputs: Sequence[tuple[tile.BufferType, AccessMap]]
    hints: Mapping[str, int]
    options: LoopOptions
    counted: Counted
    default: Scheduled

    @property
    def operations(self) -> str:
        return ", ".join(dict.fromkeys(note(self.kernel, "nodes").split()))

    @cached_property
    def subject(self) -> Subject:
        shape = KernelShape(self.kernel, self.target, dict(self.hints))
        sizes = tuple(sorted((rank, bucket(shape.value(rank))) for rank in shape.extents))
        kinds = [list(self.inputs), [layout for layout, _ in self.outputs]]
        dtypes = "->".join(",".join(dtype_name(b.element_type) for b in side) for side in kinds)
        strides = "->".join(",".join(map(_stride_class, side)) for side in kinds)
        asked = {"skip": self.options.skip, "lazy": self.options.lazy, "launch": self.options.launch}
        about = json.dumps([program_text(self.kernel, shape.sizes), asked])
        return Subject(hashlib.sha256(about.encode()).hexdigest(), sizes, dtypes, strides)

    @cached_property
    def space(self) -> TuningSpace | Refused:
        return tuning_space(
            *self._given, self.options, lambda s: choices_of(s.kernel, self.target, s.choices), self.default
        )

    def scheduled(self, variant: str, values: Mapping[str, int]) -> Scheduled | Refused:
        return scheduled_as(*self._given, self.options, variant, values)

    def artifact(self, variant: str, values: Mapping[str, int]) -> KernelArtifact | Refused:
        """The kernel printed with this configuration."""
        made = self.scheduled(variant, values)
        if isinstance(made, Refused):
            return made
        try:
            return print_kernel("candidate", self.kernel, made, self.counted, self.target)
        except NotPrintable as stop:
            return Refused(str(stop))

    @cached_property
    def points(self) -> int:
        """Of the largest operation: what a reference interpreter holds at once."""
        shape, found = KernelShape(self.kernel, self.target, dict(self.hints)), 1
        for op in self.kernel.body.block.ops:
            if isinstance(op, EinsumOp | OnlineOp):
                found = max(found, math.prod(shape.value(rank) for rank in op.extents))
        return found

    @property
    def program(self) -> str:
        """The cascade as a program, as text: what a reference interpreter runs."""
        return print_module(as_program(self.kernel.clone()))

    @property
    def places(self) -> list[dict[str, list[str]]]:
        """Of each result of the program: its ranks, and where in the output an element is."""
        found = []
        for value, (_, access) in zip(self.kernel.returned, self.outputs, strict=True):
            ranks = value.owner.out_ranks(value.index)  # pyright: ignore
            found.append({"ranks": list(ranks), "access": [symbols.to_text(e) for e in access.data]})
        return found

    @property
    def _given(self) -> _Given:
        return self.kernel, self.target, self.inputs, self.outputs, self.hints


_Given = tuple[
    KernelOp, Target, Sequence[tile.BufferType], Sequence[tuple[tile.BufferType, AccessMap]], Mapping[str, int]
]
Configure = Callable[[Tunable], Configured | None]


def bucket(extent: int) -> int:
    """The sizes that share a configuration: exact while they are small, then four to a doubling."""
    if extent <= EXACT:
        return extent
    step = 1 << ((extent - 1).bit_length() - 3)
    return -(-extent // step) * step


def program_text(kernel: KernelOp, sizes: Mapping[str, int]) -> str:
    """A cascade without names of values, sizes, and other numbers than 0 and 1; names of ranks stay: parameters have them."""
    copy = anonymous(kernel)
    copy.attributes.clear()
    for op in copy.walk():
        op.attributes.pop("node", None)
    text = print_module(copy if copy.parent is not None or copy.operands else as_program(copy))
    for name in sizes:
        text = re.sub(rf"(?<![%\w.]){re.escape(name)}\b", "#", text)
    return _NUMBER.sub("#", text)


def _stride_class(layout: tile.BufferType) -> str:
    found = []
    for stride, extent in zip(layout.strides.data, layout.shape.data, strict=True):
        if extent == 1:
            found.append("-")
        elif not stride.is_Integer:
            found.append("s" if symbols.names(stride) else "?")
        else:
            n = int(stride)
            found.append(str(n) if n in (0, 1) else "a" if n % ALIGNED == 0 else "u")
    return "".join(found)


__all__ = ["Configure", "Configured", "Subject", "Tunable", "bucket"]
