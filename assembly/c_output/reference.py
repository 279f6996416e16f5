"""What the example has to give: the tile programs of a package, run in float64 on inputs that C fills in the same way.

What a kernel leaves in memory is rounded to what that memory holds, and the next kernel reads it so.  Where results depend
on that more than is allowed of an error (a softmax of large scores), the example allows a few times as much as they do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...codegen.artifact import KernelArtifact, Layout
from ...errors import InternalCompilerError
from ...ir import tile
from ...ir.interpret import run_kernel
from ...ir.text import parse_module
from ...runtime.expressions import function_of
from ...runtime.package.manifest import Kernel, Package
from ...runtime.package.values import expression
from .interface import Interface
from .memory import Call, Place, Program, bytes_of

# dtype -> its name in `fusecade-example.h`, its bytes, what is allowed of an error
KINDS = {
    "f16": ("FC_F16", 2, 4e-3), "bf16": ("FC_BF16", 2, 3e-2), "f32": ("FC_F32", 4, 1e-3), "f64": ("FC_F64", 8, 1e-9),
    "i1": ("FC_I1", 1, 0), "i8": ("FC_I8", 1, 0), "ui8": ("FC_UI8", 1, 0), "i16": ("FC_I16", 2, 0),
    "i32": ("FC_I32", 4, 0), "i64": ("FC_I64", 8, 0),
}  # fmt: skip
FLOATS = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64}
ROUNDINGS = 4  # times what rounding between kernels changes: kernels round inside, too
MOST_SAMPLES = 512  # of each tensor
MOST_ELEMENTS = 1 << 26
MOST_PROGRAMS = 1 << 15  # of the tile programs, which are run one after another


@dataclass(frozen=True)
class Expected:
    """samples: (element of the memory, value).  total, size: the sum of all elements and of their sizes; NaN where unknown.

    tolerance: of an element, relative to the largest.
    """

    samples: tuple[tuple[int, float], ...]
    total: float
    size: float
    tolerance: float


@dataclass(frozen=True)
class Reference:
    """below: what long integers among the inputs stay below.  outputs, changed: by name; why_not: why there is nothing."""

    below: int
    expected: dict[str, Expected]
    why_not: str | None = None


def reference(interface: Interface) -> Reference:
    """Of the first target, at the sizes of the example."""
    sizes = interface.samples[0]
    program = _program(interface, sizes)
    why, last = _too_much(interface, program, sizes), ""
    for below in (2, 1):
        if why is None:
            try:
                exact = None if len(program.calls) == 1 else _Run(interface, program, sizes, below, rounded=False)
                return Reference(below, _Run(interface, program, sizes, below).expected(exact))
            except _NoText as error:
                why = str(error)
            except InternalCompilerError as error:  # an index that leaves its tensor
                last = error.message
    return Reference(1, {}, why or f"its inputs are none that the function takes: {last}")


class _NoText(Exception):
    """A kernel of the package comes without its tile program."""


def kind_of(dtype: str) -> str:
    """How `fusecade-example.h` calls it; bytes, where it does not know it."""
    return KINDS[dtype][0] if dtype in KINDS else "FC_UI8"


def width_of(dtype: str) -> int:
    return KINDS[dtype][1] if dtype in KINDS else 1


def tolerance_of(dtype: str) -> float:
    return KINDS[dtype][2] if dtype in KINDS else 0


def count_of(memory: Layout | int | str, names: tuple[str, ...], sizes: Sequence[int], width: int = 1) -> int:
    """Elements from the first to the last, of a layout or of so many bytes."""
    if isinstance(memory, Layout):
        memory, width = bytes_of(memory), width_of(memory.dtype)
    return expression(memory, names, "bytes")(sizes) // width


def _program(interface: Interface, sizes: Sequence[int]) -> Program:
    named = dict(zip(interface.package.signature.sizes, sizes, strict=True))
    programs = interface.targets[0].programs
    return next((p for p in programs if all(named[k] <= n for k, n in p.bucket.upto.items())), programs[-1])


def _too_much(interface: Interface, program: Program, sizes: Sequence[int]) -> str | None:
    names = interface.package.signature.sizes
    layouts = [a.layout for a in interface.arguments] + [b.layout for b in program.buffers]
    if unknown := [x.dtype for x in layouts if x.dtype not in KINDS]:
        return f"the example has no values of type {unknown[0]}"
    if sum(count_of(x, names, sizes) for x in layouts) > MOST_ELEMENTS:
        return "its tensors are too large"
    programs = 0
    for call in program.calls:
        own = expression(call.sizes, names, call.name)(sizes)
        programs += sum(_grid(k, call.kernel.artifact, own) for k in call.kernel.artifact.kernels)
    return "it takes too many programs" if programs > MOST_PROGRAMS else None


def _grid(kernel: KernelArtifact, call: KernelArtifact, own: Sequence[int]) -> int:
    return function_of(kernel.launch["grid"], call.sizes)(own)


def values(dtype: str, count: int, number: int, below: int) -> torch.Tensor:
    """`fc_value` of each element, in float64, int64 or bool."""
    h = _low(torch.arange(count) * 2654435761 + number * 40503 + 12345)
    h = _low((h ^ (h >> 16)) * 2246822507)
    h = _low((h ^ (h >> 13)) * 3266489909)
    bits = (h ^ (h >> 16)) >> 8
    if dtype == "i1":
        return (bits & 1).bool()
    if dtype in ("i8", "ui8"):
        return (bits & 127) - 64 if dtype == "i8" else bits & 255
    if dtype.startswith("i"):
        return bits % below
    return ((bits & 127).double() - 64) / 64


def _low(x: torch.Tensor) -> torch.Tensor:
    """32 bits, as C has them; what leaves 64 bits does not change these."""
    return x & 0xFFFFFFFF


class _Run:
    """One call in flat memory: every root has its elements as they lie."""

    def __init__(
        self, interface: Interface, program: Program, sizes: Sequence[int], below: int, *, rounded: bool = True
    ) -> None:
        self._interface, self._program, self._sizes, self._rounded = interface, program, sizes, rounded
        self._package = interface.package
        self._names = self._package.signature.sizes
        self._arguments = {
            a.leaf: values(a.layout.dtype, count_of(a.layout, self._names, sizes), n, below)
            for n, a in enumerate(interface.arguments)
        }
        self._buffers: list[torch.Tensor] = []
        for call in program.calls:
            self._call(call)
        self._outputs = {b.output: self._buffers[n] for n, b in enumerate(program.buffers) if b.output is not None}
        changes = [(copy, self._read(copy.source).clone()) for copy in program.copies]
        for copy, found in changes:
            flat = torch.empty(count_of(copy.source.layout, self._names, sizes), dtype=found.dtype)
            self._strided(flat, copy.source.layout).copy_(found)
            if copy.output is not None:
                self._outputs[copy.output] = flat
            else:
                self._arguments[copy.argument or 0] = flat

    def expected(self, exact: _Run | None) -> dict[str, Expected]:
        """exact: the same call with nothing rounded, where that says how much rounding changes."""
        i = self._interface
        found = {}
        for n, name in enumerate(i.outputs):
            result = next(r for r in i.results if r.output == n)
            whole = next((b.layout for b in self._program.buffers if b.output == n), result.layout)
            found[name] = self._sampled(self._outputs[n], whole, exact and exact._outputs[n])
        for a in i.arguments:
            if a.changed:
                other = exact and exact._arguments[a.leaf]
                found[a.name] = self._sampled(self._arguments[a.leaf], a.layout, other)
        return found

    def _sampled(self, flat: torch.Tensor, layout: Layout, exact: torch.Tensor | None) -> Expected:
        places = torch.arange(flat.numel())
        written = self._strided(places, layout).reshape(-1).unique() if flat.numel() else places
        count = min(len(written), MOST_SAMPLES)
        chosen = [int(written[n * len(written) // count]) for n in range(count)]
        x = flat.to(torch.float64)
        whole = len(written) == flat.numel()
        total, size = (float(x.sum()), float(x.abs().sum())) if whole else (math.nan, math.nan)
        tolerance = tolerance_of(layout.dtype)
        if exact is not None and layout.dtype in FLOATS and written.numel():
            change, largest = (x - exact)[written].abs().max(), x[written].abs().max()
            if change.isfinite() and largest > 0:
                tolerance = max(tolerance, ROUNDINGS * float(change / largest))
        return Expected(tuple((n, float(x[n])) for n in chosen), total, size, tolerance)

    def _strided(self, flat: torch.Tensor, layout: Layout, offset: int = 0) -> torch.Tensor:
        shape, strides = expression((layout.shape, layout.strides), self._names, "a layout")(self._sizes)
        return flat.as_strided(shape, strides, offset)

    def _flat(self, place: Place) -> torch.Tensor:
        if place.root.kind == "argument":
            return self._arguments[place.root.number]
        if place.root.kind == "buffer":
            return self._buffers[place.root.number]
        layout = place.layout
        kinds = FLOATS | {
            "i1": torch.bool,
            "i8": torch.int8,
            "ui8": torch.uint8,
            "i16": torch.int16,
            "i32": torch.int32,
        }
        kind = (kinds | {"i64": torch.int64})[layout.dtype]
        data = bytearray(self._interface.constants[place.root.number :])
        usable = len(data) // kind.itemsize * kind.itemsize
        found = torch.frombuffer(data[:usable], dtype=kind) if usable else torch.empty(0, dtype=kind)
        return found if kind == torch.bool else found.to(torch.float64 if kind.is_floating_point else torch.int64)

    def _read(self, place: Place) -> torch.Tensor:
        offset = expression(place.offset, self._names, "an offset")(self._sizes)
        return self._strided(self._flat(place), place.layout, offset)

    def _call(self, call: Call) -> None:
        artifact = call.kernel.artifact
        own = expression(call.sizes, self._names, call.name)(self._sizes)
        memory: list[tuple[torch.Tensor, int]] = []
        for place in call.inputs:
            memory.append((self._flat(place), expression(place.offset, self._names, "an offset")(self._sizes)))
        written = [*artifact.workspaces, *artifact.outputs]
        for layout in written:
            count = count_of(layout, artifact.sizes, own)
            empty = {"i1": False}.get(layout.dtype, -1 if layout.dtype[0] in "iu" else math.nan)
            memory.append((torch.full((count,), empty, dtype=_wide(layout.dtype)), 0))
        stages = artifact.stages
        for n, kernel in enumerate(artifact.kernels):
            used = [*stages[n].reads, *stages[n].writes] if stages else list(range(len(memory)))
            named = {name: own[artifact.sizes.index(name)] for name in kernel.sizes}
            at = expression(
                tuple((x.shape, x.strides) for x in (*kernel.inputs, *kernel.outputs)), artifact.sizes, call.name
            )
            tensors = [
                memory[k][0].as_strided(shape, strides, memory[k][1])
                for k, (shape, strides) in zip(used, at(own), strict=True)
            ]
            inputs, outputs = tensors[: len(kernel.inputs)], tensors[len(kernel.inputs) :]
            found = run_kernel(_text(self._package, call.kernel, n), inputs, named)
            for to, x, layout in zip(outputs, found, kernel.outputs, strict=True):
                to.copy_(x.to(FLOATS[layout.dtype]) if self._rounded and layout.dtype in FLOATS else x)
        self._buffers += [flat for flat, _ in memory[len(memory) - len(artifact.outputs) :]]


def _wide(dtype: str) -> torch.dtype:
    return torch.bool if dtype == "i1" else torch.int64 if dtype[0] in "iu" else torch.float64


def _text(package: Package, kernel: Kernel, n: int) -> tile.KernelOp:
    """The tile program that the n-th kernel was printed from: the member that is named as its source is."""
    name = kernel.sources[n].rpartition("-")[0]
    found = [m for m in kernel.others if m.endswith(".mlir") and m.rpartition("-")[0] == name]
    if len(found) != 1:
        raise _NoText("a kernel's tile program is not in the package")
    op = parse_module(package.text(found[0])).body.block.first_op
    if not isinstance(op, tile.KernelOp):
        raise _NoText("a kernel's tile program is not in the package")
    return op


__all__ = ["Expected", "Reference", "count_of", "kind_of", "reference", "tolerance_of", "values", "width_of"]
