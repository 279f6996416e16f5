"""One bucket of one target in C: a function that counts and checks everything, and one that launches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...codegen.artifact import KernelArtifact
from ...errors import UnsupportedProgram
from ...runtime.descriptors import ALIGNED
from ...runtime.package.gpu import MOST_PROGRAMS
from ...runtime.package.manifest import Binary
from ...runtime.package.values import dtype_of
from .arithmetic import Arithmetic, number, times
from .memory import Call, Copy, Number, Place, Program, bytes_of
from .names import comment, identifiers


@dataclass
class Launch:
    """One launch: which kernel of the source's table, where its programs and its sizes are in `fc_call`."""

    kernel: int
    artifact: KernelArtifact
    binary: Binary
    programs: int
    numbers: list[int]
    pointers: list[str]
    scratch: int | None


@dataclass
class Lengths:
    """Of the arrays in `fc_call`, for the largest program."""

    programs: int = 1
    numbers: int = 1
    slots: int = 1
    begins: int = 1

    def cover(self, program: ProgramText) -> None:
        self.programs = max(self.programs, len(program.launches))
        self.numbers = max(self.numbers, sum(len(x.numbers) for x in program.launches))
        self.slots = max(self.slots, program.program.slots)
        self.begins = max(self.begins, len(program.begins))


@dataclass
class Names:
    """How the caller's tensors and the sizes are called.  inputs: by leaf; outputs: by number; sizes: by name."""

    inputs: Mapping[int, str]
    outputs: Sequence[str]
    sizes: Mapping[str, str]


def reads(text: str, variable: str) -> bool:
    """Whether C text uses a variable."""
    return re.search(rf"\b{variable}\b", text) is not None


class ProgramText:
    """number: of the program in the source.  kernel_numbers: of (member, symbol) in its table of kernels."""

    def __init__(
        self, number: int, program: Program, title: str, names: Names, kernel_numbers: Mapping[tuple[str, str], int]
    ) -> None:
        self.number, self.program, self.title = number, program, title
        self._names, self._kernels = names, kernel_numbers
        self._sizes = Arithmetic(names.sizes)
        self.launches: list[Launch] = []
        self.begins: list[str] = []  # bytes that sizes decide: where views begin, how much is copied
        self._aligned: set[int] = set()  # those of them that 16 has to divide
        self._next_number = 0
        self._plan = [line for call in program.calls for line in self._plan_call(call)]
        self._copies = [line for copy in program.copies for line in self._copy(copy)]

    # --- counting -------------------------------------------------------------------------------------------------------

    def plan(self) -> list[str]:
        """`fc_plan_N`: checks the sizes, and fills programs, numbers, slots and begins of the call."""
        lines = [
            f"/* {comment(self.title)} */",
            f"static int fc_plan_{self.number}(fc_call *call)",
            "{",
            "    int bad = 0;",
        ]
        body = [*self._offsets(), *self._buffers(), *self._plan]
        body += [f"call->begins[{n}] = {text};" for n, text in enumerate(self.begins)]
        aligned = [f"call->begins[{n}] % FC_ALIGNED != 0" for n in sorted(self._aligned)]
        body += [f"call->workspace_bytes = fc_lay_out(call->slots, {self.program.slots}, &bad);"]
        body += ["if (bad)", "    return FC_SIZE_TOO_LARGE;"]
        body += [f"if ({' || '.join(aligned)})", "    return FC_SIZES_UNSUPPORTED;"] if aligned else []
        used = "\n".join(body)
        lines += [f"    const int64_t {v} = call->{v};" for v in self._names.sizes.values() if reads(used, v)]
        lines += [f"    {line}" if line else "" for line in body]
        return [*lines, "    return FC_OK;", "}"]

    def _offsets(self) -> Iterator[str]:
        for offset in dict.fromkeys(self.program.offsets):
            yield f"if ({self._sizes.of(offset)} < 0)"
            yield "    return bad ? FC_SIZE_TOO_LARGE : FC_SIZES_UNSUPPORTED;"

    def _buffers(self) -> Iterator[str]:
        for buffer in self.program.buffers:
            if buffer.slot is not None:
                yield f"fc_need(&call->slots[{buffer.slot}], {self._sizes.of(buffer.bytes)});"

    def _plan_call(self, call: Call) -> Iterator[str]:
        artifact = call.kernel.artifact
        if not self._sizes.variables and all(0 in x.shape for x in artifact.outputs):
            return  # nothing to write
        variables = dict(zip(artifact.sizes, identifiers("own", artifact.sizes), strict=True))
        own = Arithmetic(variables)
        body = list(self._plan_kernels(call, own))
        used = "\n".join(body)
        yield f"{{ /* {comment(call.name)} */"
        for name, value in zip(artifact.sizes, call.sizes, strict=True):
            if reads(used, variables[name]):
                yield f"    const int64_t {variables[name]} = {self._sizes.of(value)};"
        yield from (f"    {line}" for line in body)
        yield "}"

    def _plan_kernels(self, call: Call, own: Arithmetic) -> Iterator[str]:
        artifact = call.kernel.artifact
        for slot, layout in zip(call.workspaces, artifact.workspaces, strict=True):
            yield f"fc_need(&call->slots[{slot}], {own.of(bytes_of(layout))});"
        inputs = [n for layout in artifact.inputs for n in layout.shape]
        outputs = [n for layout in artifact.outputs for n in layout.shape]
        if doubtful := self._doubtful([*inputs, *outputs], own):
            yield f"if ({' || '.join(f'{own.of(n)} < 0' for n in doubtful)})"
            yield "    return bad ? FC_SIZE_TOO_LARGE : FC_SIZES_UNSUPPORTED;"
        if self._sizes.variables and (doubtful := self._doubtful(inputs, own)):
            yield f"if ({' || '.join(f'{own.of(n)} == 0' for n in doubtful)})"
            yield "    return bad ? FC_SIZE_TOO_LARGE : FC_SIZES_UNSUPPORTED; /* a tensor without elements */"
        empty = [self._doubtful(x.shape, own) for x in artifact.outputs]
        condition = " && ".join(f"({' || '.join(f'{own.of(n)} == 0' for n in dims)})" for dims in empty)
        guard = f"{condition} ? 0 : " if all(empty) else ""
        for stage, kernel in enumerate(artifact.kernels):
            yield from self._plan_launch(call, stage, kernel, own, guard)

    @staticmethod
    def _doubtful(dims: Sequence[Number], own: Arithmetic) -> list[Number]:
        """The dimensions that may have no elements; those that are a size of their own have some."""
        return list(dict.fromkeys(n for n in dims if n == 0 or (isinstance(n, str) and n not in own.variables)))

    def _plan_launch(
        self, call: Call, stage: int, kernel: KernelArtifact, own: Arithmetic, guard: str
    ) -> Iterator[str]:
        binary = call.kernel.binaries[stage]
        programs, first = len(self.launches), self._next_number
        self._next_number += len(kernel.sizes)
        numbers = list(range(first, self._next_number))
        scratch = call.scratch[stage]
        self.launches.append(
            Launch(
                self._kernels[binary.member, binary.symbol], kernel, binary, programs, numbers,
                self._pointers(call, stage, kernel), scratch,
            )
        )  # fmt: skip
        grid = own.of(kernel.launch["grid"])
        yield f"call->programs[{programs}] = {guard}{grid};"
        for n, name in zip(numbers, kernel.sizes, strict=True):
            yield f"call->numbers[{n}] = {own.variables[name]};"
        if scratch is not None:
            bytes_ = f"fc_mul(call->programs[{programs}], {number(binary.scratch_bytes)}, &bad)"
            yield f"fc_need(&call->slots[{scratch}], {bytes_});"
        checks = list(self._checks(kernel, binary, own))
        count = own.constant(kernel.launch["grid"])
        known = not guard and count is not None and count != 0
        if count is None:
            yield f"if (call->programs[{programs}] < 0 || call->programs[{programs}] > FC_MOST_PROGRAMS)"
            yield "    return FC_SIZE_TOO_LARGE;"
        elif not 0 <= count <= MOST_PROGRAMS:
            raise UnsupportedProgram(
                f"kernel {kernel.name} needs {count} programs, and a launch has at most {MOST_PROGRAMS}"
            )
        for condition, code in checks:
            when = "" if known else f"call->programs[{programs}] != 0 && "
            yield f"if ({when}{f'({condition})' if when and '||' in condition else condition})"
            yield f"    return {code};"

    def _checks(self, kernel: KernelArtifact, binary: Binary, own: Arithmetic) -> Iterator[tuple[str, str]]:
        """What the binary was not compiled for: (condition, code)."""
        names = [own.variables[name] for name in kernel.sizes]
        if "i32" in binary.parameters and names:
            yield " || ".join(f"{name} >= FC_NARROW" for name in names), "FC_SIZE_TOO_LARGE"
        divisible = set(kernel.launch.get("divisible", ()))
        buffers = len(kernel.inputs) + len(kernel.outputs)
        arguments = kernel.launch["arguments"][buffers:]
        if odd := [f"{v} % FC_ALIGNED != 0" for a, v in zip(arguments, names, strict=True) if a in divisible]:
            yield " || ".join(odd), "FC_SIZES_UNSUPPORTED"
        for block, (extent, least) in kernel.launch.get("whole", {}).items():
            there = 1 << (binary.constants[block].bit_length() - 1)
            if least > there:
                raise UnsupportedProgram(f"kernel {kernel.name} holds {there} elements in its block {block}")
            if not isinstance(extent, int):
                yield f"{own.of(extent)} > {number(there)}", "FC_SIZE_BEYOND_BUCKETS"
            elif extent > there:
                raise UnsupportedProgram(f"kernel {kernel.name} holds {there} elements in its block {block}")

    # --- pointers -------------------------------------------------------------------------------------------------------

    def _pointers(self, call: Call, stage: int, kernel: KernelArtifact) -> list[str]:
        """The addresses that a kernel is given: inputs, then outputs."""
        every = [self._address(p) for p in call.inputs]
        every += [f"call->workspace + (uint64_t)call->slots[{n}]" for n in call.workspaces]
        every += [self._of_buffer(n) for n in call.outputs]
        places: list[Place | None] = [*call.inputs, *[None] * (len(every) - len(call.inputs))]
        stages = call.kernel.artifact.stages
        used = [*stages[stage].reads, *stages[stage].writes] if stages else list(range(len(every)))
        divisible = set(kernel.launch.get("divisible", ()))
        for n, argument in zip(used, kernel.launch["arguments"], strict=False):
            place = places[n]
            if place is not None and argument in divisible:
                if isinstance(place.offset, str):
                    self._aligned.add(self._begin(self._begin_of(place)))
                elif place.offset * dtype_of(place.layout.dtype).itemsize % ALIGNED:
                    raise UnsupportedProgram(
                        f"kernel {call.name} reads a part of a tensor that begins {place.offset} elements behind it, and "
                        f"that is no multiple of {ALIGNED} bytes: from Python it would be copied",
                        next_step="pass that part as an argument of its own, at an address that 16 divides",
                    )
        return [every[n] for n in used]

    def _address(self, place: Place) -> str:
        if place.root.kind == "argument":
            base = f"call->{self._names.inputs[place.root.number]}"
        elif place.root.kind == "constant":
            base = f"call->constants + UINT64_C({place.root.number})"
        else:
            base = self._of_buffer(place.root.number)
        begin = self._begin_of(place)
        if begin == 0:
            return base
        if isinstance(begin, int):
            return f"{base} + UINT64_C({begin})"
        return f"{base} + (uint64_t)call->begins[{self._begin(begin)}]"

    @staticmethod
    def _begin_of(place: Place) -> Number:
        return times((place.offset, dtype_of(place.layout.dtype).itemsize))

    def _begin(self, value: Number) -> int:
        """Where in `begins` a number of bytes is."""
        text = self._sizes.of(value)
        if text not in self.begins:
            self.begins.append(text)
        return self.begins.index(text)

    def _of_buffer(self, number: int) -> str:
        buffer = self.program.buffers[number]
        if buffer.output is not None:
            return f"call->{self._names.outputs[buffer.output]}"
        return f"call->workspace + (uint64_t)call->slots[{buffer.slot}]"

    # --- launching ------------------------------------------------------------------------------------------------------

    @property
    def needed(self) -> list[int]:
        """The kernels that are launched, by their numbers in the table."""
        return list(dict.fromkeys(x.kernel for x in self.launches))

    def launch(self) -> list[str]:
        """`fc_launch_N`."""
        lines = [f"static int fc_launch_{self.number}(const fc_call *call, const fc_loaded *loaded)", "{"]
        lines += ["    int status = FC_OK;", "    (void)call;", "    (void)loaded;"]
        for launch in self.launches:
            lines += [f"    {line}" for line in self._launch(launch)]
        lines += [f"    {line}" for line in self._copies]
        return [*lines, "    return status;", "}"]

    def _copy(self, copy: Copy) -> Iterator[str]:
        to = self._names.outputs[copy.output] if copy.output is not None else self._names.inputs[copy.argument or 0]
        bytes_ = f"call->begins[{self._begin(bytes_of(copy.source.layout))}]"
        yield f"if (status == FC_OK && {bytes_} > 0)"
        yield f"    status = fc_copy(call->{to}, {self._address(copy.source)}, {bytes_}, call->stream);"

    def _launch(self, launch: Launch) -> Iterator[str]:
        binary = launch.binary
        yield f"if (status == FC_OK && call->programs[{launch.programs}] != 0) {{ /* {comment(launch.artifact.name)} */"
        pointers, numbers, names = iter(launch.pointers), iter(launch.numbers), list[str]()
        scratches = 0
        for n, kind in enumerate(binary.parameters):
            names.append(f"a{n}")
            if kind == "pointer":
                yield f"    uint64_t a{n} = {next(pointers)};"
            elif kind == "scratch":
                first = scratches == 0 and launch.scratch is not None
                yield f"    uint64_t a{n} = {f'call->workspace + (uint64_t)call->slots[{launch.scratch}]' if first else '0'};"
                scratches += 1
            else:
                wide = "int32_t" if kind == "i32" else "int64_t"
                yield f"    {wide} a{n} = {'(int32_t)' if kind == 'i32' else ''}call->numbers[{next(numbers)}];"
        yield f"    void *parameters[] = {{{', '.join(f'&{a}' for a in names)}}};"
        given = f"loaded->functions[{launch.kernel}], call->programs[{launch.programs}]"
        yield f"    status = fc_launch({given}, {binary.threads}, {binary.shared_bytes}, call->stream, parameters);"
        yield "}"


__all__ = ["Launch", "Lengths", "Names", "ProgramText", "reads"]
