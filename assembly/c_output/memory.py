"""One bucket of a package as launches over memory: which pointers each kernel is given, and what lies in the workspace.

What lies between kernels lives in *slots* of one workspace: from the step that writes it to the last one that reads it, and
a slot is used again by what comes later.  A result lies in memory of the caller.  Steps that only look at memory otherwise
(views) are gone, and so are operators on constants alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ...codegen.artifact import Layout
from ...errors import InternalCompilerError, SourceLine, UnsupportedProgram
from ...frontend.externs import REASONS, reason_of
from ...frontend.table import TABLE
from ...runtime.package.manifest import Bucket, Kernel, Package, Step
from ...runtime.package.operators import find
from ...runtime.package.signature import TensorLeaf
from ...runtime.package.values import dtype_of, expression
from .arithmetic import plus, simplified, times
from .constants import Constants, computed, held
from .views import NoView, is_view, view_of

KEEP_OUT = (
    "keep this line outside of the function, and pass what it gives as an argument; write it in operations that become kernels "
    "(`fusecade inspect` lists what did); or use the package from Python"
)
Number = int | str  # an integer, or an expression over the package's sizes
LineOf = Callable[[int], SourceLine | None]  # of a step


@dataclass(frozen=True)
class Root:
    """Memory of its own.  kind: "argument" (a leaf's number), "constant" (bytes into their block), "buffer" (a number)."""

    kind: str
    number: int


@dataclass(frozen=True)
class Place:
    """Where a value lies.  offset: in elements, behind the beginning of its root.  copied: the program has a copy there."""

    root: Root
    offset: Number
    layout: Layout
    copied: bool = False


@dataclass
class Buffer:
    """What a kernel writes.  It lives from step `first` to step `last`; slot: of the workspace; output: of the caller."""

    layout: Layout
    first: int
    last: int
    slot: int | None = None
    output: int | None = None

    @property
    def bytes(self) -> Number:
        return bytes_of(self.layout)


@dataclass(frozen=True)
class Call:
    """One kernel call: its kernels one after the other.  workspaces, scratch: slots, of a stage None where it has none."""

    step: int
    name: str
    kernel: Kernel
    inputs: tuple[Place, ...]
    outputs: tuple[int, ...]
    sizes: tuple[Number, ...]
    workspaces: tuple[int, ...]
    scratch: tuple[int | None, ...]


@dataclass(frozen=True)
class Copy:
    """From a place to an argument that the function changes, or to an output, when all kernels have run."""

    source: Place
    argument: int | None = None
    output: int | None = None


@dataclass(frozen=True)
class Result:
    """Where a result lies.  output: memory of the caller; argument: it is memory of that leaf."""

    layout: Layout
    offset: Number
    output: int | None = None
    argument: int | None = None


@dataclass
class Program:
    """One bucket of one target.  outputs: bytes of each block of memory that the caller gives for results."""

    bucket: Bucket
    buffers: list[Buffer] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    outputs: list[Number] = field(default_factory=list)
    offsets: list[Number] = field(default_factory=list)  # that views begin at: none may be negative
    slots: int = 0


def bytes_of(layout: Layout) -> Number:
    """From the first element to the last.  Expressions: a dimension without elements counts as one."""
    if all(isinstance(n, int) for n in layout.shape) and 0 in layout.shape:
        return 0
    reach = plus([1, *(times((plus((n, -1)), s)) for n, s in zip(layout.shape, layout.strides, strict=True))])
    return simplified(times((reach, dtype_of(layout.dtype).itemsize)))


class Builder:
    """Makes the programs of a package, one bucket after the other; their constants are one block."""

    def __init__(self, package: Package, samples: Sequence[tuple[int, ...]], constants: Constants) -> None:
        self.package, self.samples, self.constants = package, samples, constants
        self.names = package.signature.sizes
        self._held = held(package)
        self._leaves = [n for n, x in enumerate(package.signature.leaves) if isinstance(x, TensorLeaf)]

    def program(self, bucket: Bucket, line_of: LineOf = lambda step: None) -> Program:
        """Raises UnsupportedProgram for an operator that computes something, with its line where that is known."""
        return _Bucket(self, bucket, line_of).program


class _Bucket:
    def __init__(self, builder: Builder, bucket: Bucket, line_of: LineOf) -> None:
        self._package, self._names, self._samples = builder.package, builder.names, builder.samples
        self._constants, self._line_of = builder.constants, line_of
        self.program = Program(bucket)
        self._layouts: list[Layout | str | None] = []
        self._places: list[Place | None] = []
        self._known: list[torch.Tensor | None] = []
        for x, c in zip(builder._held, self._package.constants, strict=True):
            self._append(c.layout, None, x)
        for leaf in builder._leaves:
            found = self._package.signature.leaves[leaf]
            assert isinstance(found, TensorLeaf)
            # Of a tensor without elements all is known: what operators make of such alone is the same each time.
            empty = 0 in found.layout.shape and all(isinstance(n, int) for n in found.layout.shape)
            known = torch.empty(found.layout.shape, dtype=dtype_of(found.layout.dtype)) if empty else None
            self._append(found.layout, Place(Root("argument", leaf), 0, found.layout), known)
        for n, step in enumerate(bucket.steps):
            self._step(n, step)
        self._results()
        self._copies()
        Slots(self.program).fill()

    def _append(self, layout: Layout | str | None, place: Place | None, known: torch.Tensor | None = None) -> None:
        self._layouts.append(layout)
        self._places.append(place)
        self._known.append(known)

    def _step(self, n: int, step: Step) -> None:
        if step.kernel is not None:
            self._call(n, step)
        elif all(x == "number" for x in step.gives):  # what is read of it is refused there
            for x in step.gives:
                self._append(x, None)
        elif (made := computed(step, self._known, self._names)) is not None:
            for layout, x in zip(step.gives, made, strict=True):
                self._append(layout, None, x)
        else:
            self._view(n, step)

    def _view(self, n: int, step: Step) -> None:
        if not is_view(step):
            raise self._refused(n, step, *_why_left(step))
        try:
            view = view_of(step, self._layouts, self._names, self._samples)
        except NoView as error:
            raise self._refused(n, step, str(error)) from error
        source = self._place(view.source)
        if source is None:
            raise self._refused(n, step, "it is given no tensor")
        for layout, offset in zip(step.gives, view.offsets, strict=True):
            assert isinstance(layout, Layout)
            if isinstance(offset, str):
                self.program.offsets.append(offset)
            place = Place(source.root, plus((source.offset, offset)), layout, source.copied or view.copies)
            self._append(layout, place)

    def _place(self, value: int) -> Place | None:
        """Where a value lies; a constant gets a place when something reads it."""
        if self._places[value] is None and (x := self._known[value]) is not None:
            layout = self._layouts[value]
            assert isinstance(layout, Layout)
            self._places[value] = Place(Root("constant", self._constants.place(x)), 0, layout)
        return self._places[value]

    def _call(self, n: int, step: Step) -> None:
        assert step.kernel is not None
        kernel = self._package.kernels[step.kernel]
        self._check_outputs(step, kernel)
        inputs = []
        for value in step.inputs:
            place = self._place(value)
            if place is None:
                raise self._refused(n, step, "it reads a number that is computed")
            self._check_on_device(place)
            inputs.append(place)
        first = len(self.program.buffers)
        for layout in step.gives:
            assert isinstance(layout, Layout)
            self._append(layout, Place(Root("buffer", len(self.program.buffers)), 0, layout))
            self.program.buffers.append(Buffer(layout, n, n))
        outputs = tuple(range(first, len(self.program.buffers)))
        for place in inputs:
            if place.root.kind == "buffer":
                self.program.buffers[place.root.number].last = n
        self.program.calls.append(Call(n, step.kernel, kernel, tuple(inputs), outputs, step.sizes, (), ()))

    def _check_on_device(self, place: Place) -> None:
        leaf = self._package.signature.leaves[place.root.number] if place.root.kind == "argument" else None
        if isinstance(leaf, TensorLeaf) and leaf.device == "cpu":
            raise UnsupportedProgram(
                f"argument {leaf.path} of {self._package.signature.name} is a number on the CPU that a kernel reads",
                next_step="export the function with that argument on the device of the others",
            )

    def _check_outputs(self, step: Step, kernel: Kernel) -> None:
        """What the program says of a kernel's results is what the kernel writes."""
        own = kernel.artifact.sizes
        for sizes in self._samples:
            values = expression(step.sizes, self._names, step.kernel or "")(sizes)
            for said, written in zip(step.gives, kernel.artifact.outputs, strict=True):
                assert isinstance(said, Layout)
                a = expression((said.shape, said.strides), self._names, step.kernel or "")(sizes)
                if a != expression((written.shape, written.strides), own, step.kernel or "")(values):
                    raise InternalCompilerError(
                        f"kernel {step.kernel} writes {written}, and {said} is read", stage="export"
                    )

    # --- results --------------------------------------------------------------------------------------------------------

    def _results(self) -> None:
        count = sum(isinstance(x, TensorLeaf) for x in self._package.signature.results)
        for value in self.program.bucket.results[:count]:
            place = self._place(value)
            layout = self._layouts[value]
            if place is None or not isinstance(layout, Layout):
                raise UnsupportedProgram("a result of the function is no tensor in memory")
            if place.root.kind == "argument" and not place.copied:
                self.program.results.append(Result(layout, place.offset, argument=place.root.number))
            else:
                offset = place.offset if place.root.kind == "buffer" else 0  # what is copied is copied alone
                self.program.results.append(Result(layout, offset, output=self._output(place, layout)))

    def _output(self, place: Place, layout: Layout) -> int:
        """The caller's memory for a result.  A view that is returned lies in the whole that it is a view of."""
        if place.root.kind == "buffer":
            buffer = self.program.buffers[place.root.number]
            if buffer.output is None:
                buffer.output = len(self.program.outputs)
                self.program.outputs.append(buffer.bytes)
            return buffer.output
        whole = Place(place.root, place.offset, layout)
        for copy in self.program.copies:
            if copy.output is not None and copy.source == whole:
                return copy.output
        self.program.outputs.append(bytes_of(layout))
        self.program.copies.append(Copy(whole, output=len(self.program.outputs) - 1))
        return len(self.program.outputs) - 1

    def _copies(self) -> None:
        """Arguments that the function changes get their values when nothing reads the old ones any more."""
        signature = self._package.signature
        count = len(self.program.results)
        for leaf, value in zip(signature.mutates, self.program.bucket.results[count:], strict=True):
            place, layout, to = self._place(value), self._layouts[value], signature.leaves[leaf]
            assert isinstance(to, TensorLeaf)
            if place is not None and place.root == Root("argument", leaf) and place.layout == to.layout:
                continue  # it keeps its values
            dense = isinstance(layout, Layout) and self._is_dense(layout) and layout.strides == to.layout.strides
            if place is None or not dense or place.root.kind == "argument":
                raise UnsupportedProgram(
                    f"argument {to.path} of {signature.name} is changed, and its new values lie in memory otherwise than it "
                    "does: that copy is an operator of PyTorch",
                    next_step="return the new values, and copy them in the caller; or pass that argument contiguous",
                )
            if place.root.kind == "buffer":
                self.program.buffers[place.root.number].last = len(self.program.bucket.steps)
            self.program.copies.append(Copy(place, argument=leaf))

    def _is_dense(self, layout: Layout) -> bool:
        """Whether there is no gap between its elements, nor any element twice."""
        for sizes in self._samples:
            shape, strides = expression((layout.shape, layout.strides), self._names, "a layout")(sizes)
            expected = 1
            for stride, n in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n != 1):
                if stride != expected:
                    return False
                expected *= n
        return True

    def _refused(self, n: int, step: Step, why: str, next_step: str = KEEP_OUT) -> UnsupportedProgram:
        what = step.operator or f"kernel {step.kernel}"
        return UnsupportedProgram(
            f"{what}, step {n} of {self._package.signature.name}, has no form in C: {why}",
            source=self._line_of(n),
            next_step=next_step,
        )


def _why_left(step: Step) -> tuple[str, str]:
    """Why an operator that computes is no kernel, and what to do."""
    op = find(step.operator)
    if not isinstance(op, torch._ops.OpOverload):
        return "it computes, and C has no PyTorch", KEEP_OUT
    if op.overloadpacket in TABLE and str(op.overloadpacket) not in REASONS:  # a row may do some calls and not others
        return (
            "it computes, and C has no PyTorch",
            "export the package with remainder='kernels', as format='c' does (`fusecade compile --remainder kernels`): then "
            f"what can be a kernel is one. If this was: {KEEP_OUT}",
        )
    return f"it computes, C has no PyTorch, and no kernel does this: {reason_of(op)}", KEEP_OUT


class Slots:
    """Gives every buffer that is no result a slot, and to each call slots for the time that it runs."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._free: list[int] = []
        self._sizes: list[Number] = []  # of what was put there first

    def fill(self) -> None:
        program, live = self._program, []
        calls = []
        for call in program.calls:
            for n in call.outputs:
                buffer = program.buffers[n]
                if buffer.output is None:
                    buffer.slot = self._take(buffer.bytes)
                    live.append(buffer)
            artifact = call.kernel.artifact
            workspaces = tuple(self._take(f"{call.step}.{n}") for n, _ in enumerate(artifact.workspaces))
            scratch = tuple(self._take("scratch") if b.scratch_bytes else None for b in call.kernel.binaries)
            calls.append(
                Call(call.step, call.name, call.kernel, call.inputs, call.outputs, call.sizes, workspaces, scratch)
            )
            self._free += [*workspaces, *(s for s in scratch if s is not None)]
            self._free += [b.slot for b in live if b.last <= call.step and b.slot is not None]
            live = [b for b in live if b.last > call.step]
        program.calls, program.slots = calls, len(self._sizes)

    def _take(self, size: Number) -> int:
        """A free slot, one that held as much if there is one; else a new one."""
        fitting = [n for n in self._free if self._sizes[n] == size] or self._free
        if fitting:
            slot = fitting[0]
            self._free.remove(slot)
            return slot
        self._sizes.append(size)
        return len(self._sizes) - 1


__all__ = ["Buffer", "Builder", "Call", "Copy", "Place", "Program", "Result", "Root", "bytes_of"]
