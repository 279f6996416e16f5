"""The header and the source of an entry point, and the kernels' binaries as arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ...runtime.package.signature import TensorLeaf
from .arithmetic import Arithmetic
from .interface import Interface, Target
from .memory import Number, bytes_of
from .names import comment, literal, paragraph
from .program import Lengths, Names, ProgramText

RUNTIME = "fusecade-launch.h"
MOST_EMBEDDED = 1 << 16  # bytes of constants in the source; more of them are a file
CODES = (
    ("SIZE_TOO_SMALL", 1, "a size is below 2"),
    ("SIZE_TOO_LARGE", 2, "a number that follows from the sizes does not fit"),
    ("SIZE_BEYOND_BUCKETS", 3, "a kernel holds a whole rank in a block, and it is longer"),
    ("SIZES_UNSUPPORTED", 4, "the function was not compiled for these sizes"),
    ("NULL_POINTER", 5, "a tensor is missing"),
    ("MISALIGNED_POINTER", 6, "a tensor does not begin at a multiple of 16 bytes, the workspace not at one of 256"),
    ("WORKSPACE_TOO_SMALL", 7, "it has fewer bytes than were asked for"),
    ("NO_CONTEXT", 8, "no CUDA context is current in this thread"),
    ("NO_KERNELS_FOR_DEVICE", 9, "there is no target for this device"),
    ("OUT_OF_HOST_MEMORY", 10, "malloc gave nothing"),
    ("CONSTANTS_NOT_LOADED", 11, "their file has not been loaded in this context"),
    ("CONSTANTS_UNREADABLE", 12, "their file is not there, or another one"),
    ("DRIVER", 1000, "and more: 1000 and the driver's own code"),
)


def fnv(data: bytes) -> int:
    """FNV-1a of 64 bits: whether a file is the one that was written, not who wrote it."""
    found = 14695981039346656037
    for byte in data:
        found = (found ^ byte) * 1099511628211 & (1 << 64) - 1
    return found


class Source:
    """Everything that is printed of an interface."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.prefix = interface.prefix
        self.embedded = len(interface.constants) <= MOST_EMBEDDED
        self.kinds = [kind for kind in ("cuda", "hip") if any(t.kind == kind for t in interface.targets)]
        self._names = Names(
            {a.leaf: a.name for a in interface.arguments}, interface.outputs, interface.sizes
        )  # fmt: skip
        self._tables = {kind: self._kernels(kind) for kind in self.kinds}
        members = dict.fromkeys(member for table in self._tables.values() for member, _ in table)
        self._images = {member: n for n, member in enumerate(members)}
        self._programs = {t.name: self._texts(t) for t in interface.targets}
        self._lengths = Lengths()
        for texts in self._programs.values():
            for text in texts:
                self._lengths.cover(text)

    def _kernels(self, kind: str) -> dict[tuple[str, str], int]:
        """Of each kernel its number: equal binaries and symbols are one."""
        binaries = [
            b
            for t in self.interface.targets
            if t.kind == kind
            for p in t.programs
            for c in p.calls
            for b in c.kernel.binaries
        ]
        return {key: n for n, key in enumerate(dict.fromkeys((b.member, b.symbol) for b in binaries))}

    def _texts(self, target: Target) -> list[ProgramText]:
        before = 0
        for t in self.interface.targets:
            if t.name == target.name:
                break
            before += len(t.programs)
        return [
            ProgramText(before + n, p, self._title(target, n), self._names, self._tables[target.kind])
            for n, p in enumerate(target.programs)
        ]

    @staticmethod
    def _title(target: Target, n: int) -> str:
        bounds = ", ".join(f"{k} = {v}" for k, v in sorted(target.programs[n].bucket.upto.items()))
        return f"{target.name}, {f'sizes up to {bounds}' if bounds else 'all sizes'}"

    # --- the header -----------------------------------------------------------------------------------------------------

    def header(self) -> str:
        upper, prefix = self.prefix.upper(), self.prefix
        codes = [f"    {upper}_{name} = {value}{',' if n < len(CODES) else ''} /* {text} */" for n, (name, value, text) in
                 enumerate(CODES, 1)]  # fmt: skip
        lines = [*_commented(self._about()), f"#ifndef {upper}_H", f"#define {upper}_H", "", "#include <stddef.h>"]
        lines += ["#include <stdint.h>", "", "#ifdef __cplusplus", 'extern "C" {', "#endif", ""]
        lines += [f"enum {prefix}_status {{", f"    {upper}_OK = 0,", *codes, "};", ""]
        lines += _commented(
            "What a code says.  The text stays where it is; nobody frees it.",
        )
        lines += [f"const char *{prefix}_error_string(int status);", ""]
        lines += _commented(
            "How many bytes of workspace a call with these sizes needs on the device that is current; maybe 0."
        )
        lines += [*self._declaration("workspace_bytes"), ""]
        lines += _commented(
            "One call.  It checks everything first, and launches nothing where something is wrong; what it launches runs on "
            "`stream` (a CUstream, cudaStream_t or hipStream_t; NULL is the default stream) and has not ended when it returns. "
            "Tensors are addresses on the device, multiples of 16; the workspace begins at a multiple of 256, belongs to the "
            "call until the stream has passed it, and may be NULL where 0 bytes are needed.  Threads may call at once.",
        )
        lines += [*self._declaration("run"), ""]
        lines += _commented(
            "Loads every kernel for the device that is current.  A call loads what it needs when it needs it: this is for before "
            "a graph is captured, or a time is measured.",
        )
        lines += [f"int {prefix}_load(void);", ""]
        if self.has_file:
            lines += _commented(
                f"Loads the constants ({len(self.interface.constants)} bytes) from their file, {self.constants_name}, to the "
                "device that is current.  To be called before the first call in each context.",
            )
            lines += [f"int {prefix}_load_constants(const char *path);", ""]
        lines += _commented(
            "Takes what was loaded out of the context that is current.  No call may be under way in it; a later call loads again. "
            "To be called before a context is destroyed.",
        )
        lines += [f"int {prefix}_unload(void);", "", "#ifdef __cplusplus", "}", "#endif", "", "#endif"]
        return "\n".join(lines) + "\n"

    def _about(self) -> list[str]:
        i, package = self.interface, self.interface.package
        made = package.versions
        lines = [
            f"{package.signature.name}, compiled by Fusecade {made.get('fusecade', '')} and Triton {made.get('triton', '')}."
        ]
        lines += [f"Digest of the package: {package.digest}.", f"Targets: {', '.join(t.name for t in i.targets)}."]
        if i.skipped:
            lines.append(
                f"The package also has {', '.join(i.skipped)}, whose kernels are programs of torch: not in here."
            )
        lines += ["", "Shapes and strides are in elements."]
        for a in i.arguments:
            how = ", is changed" if a.changed else "" if a.used else ", is not read and may be NULL"
            lines.append(f"  {a.name}: {_layout(a.layout)}{how}")
        for path, value in i.fixed:
            lines.append(f"  argument {path} is the constant {str(value)[:60]!r}")
        for n, (name, size) in enumerate(zip(i.outputs, i.output_bytes, strict=True)):
            own = [p for p, r in zip(i.result_paths, i.results, strict=True) if r.output == n]
            lines.append(f"  {name}: {size} bytes, for result {', '.join(own)}")
        for path, r in zip(i.result_paths, i.results, strict=True):
            where = i.outputs[r.output] if r.output is not None else self._names.inputs[r.argument or 0]
            begin = f", {r.offset} elements behind its beginning" if r.offset != 0 else ""
            lines.append(f"  result {path}: {_layout(r.layout)}, in {where}{begin}")
        lines += [f"  {v}: the size {name}, 2 or more" for name, v in i.sizes.items()]
        lines += [f"  where {text}" for text, *_ in package.signature.relations]
        return lines

    @property
    def has_file(self) -> bool:
        return bool(self.interface.constants) and not self.embedded

    @property
    def constants_name(self) -> str:
        return f"{self.prefix}.constants"

    def parameters(self, function: str) -> list[str]:
        sizes = [f"int64_t {v}" for v in self.interface.sizes.values()]
        if function == "workspace_bytes":
            return [*sizes, "size_t *bytes"]
        tensors = [f"{'' if a.changed else 'const '}void *{a.name}" for a in self.interface.arguments]
        tensors += [f"void *{name}" for name in self.interface.outputs]
        return [*tensors, *sizes, "void *workspace", "size_t workspace_bytes", "void *stream"]

    def _declaration(self, function: str, end: str = ";") -> list[str]:
        return _wrapped(f"int {self.prefix}_{function}(", self.parameters(function), f"){end}")

    # --- the source -----------------------------------------------------------------------------------------------------

    def source(self) -> str:
        lines = [
            *_commented([f"The source of {self.prefix}.h: how each of the package's programs is counted and launched."])
        ]
        lines += [
            f'#include "{self.prefix}.h"',
            "",
            f'#include "{RUNTIME}"',
            f'#include "{self.prefix}-images.inc"',
            "",
        ]
        if self.kinds == ["hip"]:
            lines += [
                "#if !defined(FUSECADE_HIP)",
                '#error "its kernels are for AMD: compile with -DFUSECADE_HIP"',
                "#endif",
                "",
            ]
        if self.kinds == ["cuda"]:
            lines += [
                "#if defined(FUSECADE_HIP)",
                '#error "its kernels are for NVIDIA: leave out FUSECADE_HIP"',
                "#endif",
                "",
            ]
        lines += [*self._call_struct(), "", *self._sizes_check(), ""]
        for kind in self.kinds:
            lines += self._only(kind, list(self._of_kind(kind)))
        lines += [*self._entry_points(), ""]
        return "\n".join(lines)

    def _only(self, kind: str, lines: list[str]) -> list[str]:
        """Lines for one of the drivers; where the package has one kind of targets, without a condition."""
        if len(self.kinds) == 1:
            return [*lines, ""]
        return [f"#if {'' if kind == 'hip' else '!'}defined(FUSECADE_HIP)", "", *lines, "", "#endif", ""]

    def _call_struct(self) -> list[str]:
        i, n = self.interface, self._lengths
        lines = [
            "/* One call: addresses on the device, sizes, and what is counted of them. */",
            "typedef struct fc_call {",
        ]
        lines += [f"    uint64_t {name};" for name in [*(a.name for a in i.arguments), *i.outputs]]
        lines += [f"    int64_t {name};" for name in i.sizes.values()]
        lines += ["    uint64_t workspace, constants;", "    int64_t workspace_bytes;", "    void *stream;"]
        lines += [f"    int64_t programs[{n.programs}]; /* of each launch */"]
        lines += [f"    int64_t numbers[{n.numbers}];  /* sizes that kernels are given */"]
        lines += [f"    int64_t slots[{n.slots}];    /* where parts of the workspace begin */"]
        lines += [f"    int64_t begins[{n.begins}];   /* where parts of tensors begin, in bytes */"]
        return [*lines, "} fc_call;"]

    def _sizes_check(self) -> list[str]:
        """`fc_check_sizes`: whether the function was compiled for them, and every tensor's bytes are a number."""
        i, signature = self.interface, self.interface.package.signature
        arithmetic = Arithmetic(i.sizes)
        body = ["if (size_ < 2)\n        return FC_SIZE_TOO_SMALL;".replace("size_", v) for v in i.sizes.values()]
        for text, sign, left, right in signature.relations:
            body += [f"/* {comment(text)} */", f"if (!({arithmetic.of(left)} {sign} {arithmetic.of(right)}))"]
            body += ["    return bad ? FC_SIZE_TOO_LARGE : FC_SIZES_UNSUPPORTED;"]
        tensors: list[Number] = [
            bytes_of(x.layout) for x in (*signature.leaves, *signature.results) if isinstance(x, TensorLeaf)
        ]
        counted = dict.fromkeys(x for x in (*tensors, *i.output_bytes) if isinstance(x, str))
        body += [f"fc_need(&most, {arithmetic.of(x)});" for x in counted]
        text = "\n".join(body)
        lines = ["static int fc_check_sizes(const fc_call *call)", "{", "    int bad = 0;", "    int64_t most = 0;"]
        lines += [f"    const int64_t {v} = call->{v};" for v in i.sizes.values() if re.search(rf"\b{v}\b", text)]
        lines += ["    (void)call;", *(f"    {line}" for line in body)]
        return [*lines, "    return bad || most < 0 ? FC_SIZE_TOO_LARGE : FC_OK;", "}"]

    def _of_kind(self, kind: str) -> Iterator[str]:
        programs = [text for t in self.interface.targets if t.kind == kind for text in self._programs[t.name]]
        for text in programs:
            yield from [*text.plan(), "", *text.launch(), ""]
        shared = {(b.member, b.symbol): b.shared_bytes for t in self.interface.targets for p in t.programs for c in p.calls
                  for b in c.kernel.binaries}  # fmt: skip
        yield "static const fc_kernel fc_kernels[] = {"
        for member, symbol in self._tables[kind]:
            yield f"    {{&fc_image_{self._images[member]}, {literal(symbol)}, {shared[member, symbol]}}},"
        yield "    {NULL, NULL, 0}"
        yield "};"
        yield ""
        for text in programs:
            yield f"static const int fc_needed_{text.number}[] = {{{', '.join(map(str, [*text.needed, -1]))}}};"
        yield ""
        yield "static const struct {"
        yield "    int target;"
        yield "    int (*plan)(fc_call *call);"
        yield "    int (*launch)(const fc_call *call, const fc_loaded *loaded);"
        yield "    const int *needed;"
        yield "    int count;"
        yield "} fc_programs[] = {"
        places = [n for n, t in enumerate(t for t in self.interface.targets if t.kind == kind) for _ in t.programs]
        for n, (place, t) in enumerate(zip(places, programs, strict=True)):
            end = "," if n + 1 < len(programs) else ""
            yield f"    {{{place}, fc_plan_{t.number}, fc_launch_{t.number}, fc_needed_{t.number}, {len(t.needed)}}}{end}"
        yield "};"
        yield ""
        yield from self._choice(kind)
        yield ""
        yield from self._target_of(kind)
        yield ""
        yield f"static fc_library fc_this = {{PTHREAD_MUTEX_INITIALIZER, NULL, fc_kernels, {len(self._tables[kind])}, fc_target_of}};"

    def _choice(self, kind: str) -> Iterator[str]:
        """Which program: of a target, the first bucket that the sizes fit into, else the last."""
        sizes = self.interface.sizes
        yield "static int fc_choose(int target, const fc_call *call)"
        yield "{"
        yield "    (void)call;"
        yield "    switch (target) {"
        first = 0
        for n, target in enumerate(t for t in self.interface.targets if t.kind == kind):
            yield f"    case {n}: /* {comment(target.name)} */"
            for at, p in enumerate(target.programs[:-1]):
                bounds = " && ".join(f"call->{sizes[k]} <= INT64_C({v})" for k, v in sorted(p.bucket.upto.items()))
                if bounds:
                    yield f"        if ({bounds})"
                    yield f"            return {first + at};"
                else:
                    yield f"        if (1) /* all sizes */\n            return {first + at};"
            yield f"        return {first + len(target.programs) - 1};"
            first += len(target.programs)
        yield "    default:"
        yield "        return -1;"
        yield "    }"
        yield "}"

    def _target_of(self, kind: str) -> Iterator[str]:
        """Which target runs on a device, as `runtime/package/devices.py` chooses: its own; on NVIDIA, one that is older."""
        targets = [(n, t) for n, t in enumerate(t for t in self.interface.targets if t.kind == kind)]
        yield "static int fc_target_of(const fc_device *device)"
        yield "{"
        if kind == "hip":
            for n, t in targets:
                if len(set(t.archs)) == 1:
                    yield f"    if (strcmp(device->name, {literal(t.archs[0])}) == 0)"
                    yield f"        return {n};"
        else:
            own = [(n, t, {a.rstrip("a") for a in t.archs}) for n, t in targets]
            for n, t, archs in own:
                if len(archs) == 1 and (found := _capability(next(iter(archs)))):
                    yield f"    if (device->major == {found[0]} && device->minor == {found[1]}) /* {comment(t.name)} */"
                    yield f"        return {n};"
            older = [(max(map(_known, t.archs)), n, t) for n, t in targets if all(map(_capability, t.archs))]
            for (major, minor), n, t in sorted(older, key=lambda x: (-x[0][0], -x[0][1], x[1])):
                if all(_known(a)[0] == major for a in t.archs):
                    yield f"    if (device->major == {major} && device->minor >= {minor}) /* {comment(t.name)}, later */"
                    yield f"        return {n};"
        yield "    (void)device;"
        yield "    return -1;"
        yield "}"

    def _entry_points(self) -> list[str]:
        i, prefix = self.interface, self.prefix
        sizes = [f"    call.{v} = {v};" for v in i.sizes.values()]
        loads = bool(i.constants) and self.embedded
        load = ["    if (status == FC_OK)", "        status = fc_load_constants(&fc_this, loaded, &fc_constants_data, "
                f"{len(i.constants)}u);"] if loads else []  # fmt: skip
        lines = [
            "/* The sizes are checked, the context is entered, its program is chosen, and everything is counted. */"
        ]
        lines += ["static int fc_prepare(fc_call *call, fc_loaded **loaded, int *program)", "{"]
        lines += [
            "    int status = fc_check_sizes(call);",
            "    if (status == FC_OK)",
            "        status = fc_enter(&fc_this, loaded);",
        ]
        lines += [
            "    if (status != FC_OK)",
            "        return status;",
            "    *program = fc_choose((*loaded)->target, call);",
        ]
        lines += ["    return *program < 0 ? FC_NO_KERNELS_FOR_DEVICE : fc_programs[*program].plan(call);", "}", ""]
        lines += [f"const char *{prefix}_error_string(int status) {{ return fc_error_string(status); }}", ""]
        lines += [
            *self._declaration("workspace_bytes", ""),
            "{",
            "    fc_call call;",
            "    fc_loaded *loaded;",
            "    int program, status;",
        ]
        lines += [
            "    if (bytes == NULL)",
            "        return FC_NULL_POINTER;",
            "    memset(&call, 0, sizeof call);",
            *sizes,
        ]
        lines += ["    if ((status = fc_prepare(&call, &loaded, &program)) != FC_OK)", "        return status;"]
        lines += ["    *bytes = (size_t)call.workspace_bytes;"]
        lines += ["    return (int64_t)*bytes == call.workspace_bytes ? FC_OK : FC_SIZE_TOO_LARGE;", "}", ""]
        lines += [
            *self._declaration("run", ""),
            "{",
            "    fc_call call;",
            "    fc_loaded *loaded;",
            "    int program, status;",
        ]
        lines += ["    memset(&call, 0, sizeof call);", *sizes]
        lines += [f"    call.{a.name} = fc_address({a.name});" for a in i.arguments]
        lines += [f"    call.{name} = fc_address({name});" for name in i.outputs]
        lines += ["    call.workspace = fc_address(workspace);", "    call.stream = stream;"]
        lines += ["    if ((status = fc_prepare(&call, &loaded, &program)) != FC_OK)", "        return status;"]
        used = [a.name for a in i.arguments if a.used and bytes_of(a.layout) != 0]
        used += [name for name, size in zip(i.outputs, i.output_bytes, strict=True) if size != 0]
        for name in used:
            lines += [f"    if ((status = fc_check_pointer({name})) != FC_OK)", "        return status;"]
        lines += ["    if (call.workspace_bytes > 0 && workspace == NULL)", "        return FC_NULL_POINTER;"]
        lines += [
            "    if (call.workspace_bytes > 0 && call.workspace % FC_SLOT != 0)",
            "        return FC_MISALIGNED_POINTER;",
        ]
        lines += [
            "    if ((uint64_t)workspace_bytes < (uint64_t)call.workspace_bytes)",
            "        return FC_WORKSPACE_TOO_SMALL;",
        ]
        lines += [
            "    status = fc_load(&fc_this, loaded, fc_programs[program].needed, fc_programs[program].count);",
            *load,
        ]
        lines += ["    if (status != FC_OK)", "        return status;"]
        if i.constants:
            if not self.embedded:
                lines += ["    if (fc_constants(&fc_this, loaded) == 0)", "        return FC_CONSTANTS_NOT_LOADED;"]
            lines += ["    call.constants = fc_constants(&fc_this, loaded);"]
        lines += ["    return fc_programs[program].launch(&call, loaded);", "}", ""]
        lines += [
            f"int {prefix}_load(void)",
            "{",
            "    fc_loaded *loaded;",
            "    int n, status = fc_enter(&fc_this, &loaded);",
        ]
        lines += ["    for (n = 0; status == FC_OK && n < (int)(sizeof fc_programs / sizeof fc_programs[0]); n++)"]
        lines += ["        if (fc_programs[n].target == loaded->target)"]
        lines += ["            status = fc_load(&fc_this, loaded, fc_programs[n].needed, fc_programs[n].count);", *load]
        lines += ["    return status;", "}", ""]
        if self.has_file:
            lines += [
                f"int {prefix}_load_constants(const char *path)",
                "{",
                "    fc_loaded *loaded;",
                "    unsigned char *data;",
            ]
            lines += ["    int status = fc_enter(&fc_this, &loaded);", "    if (status == FC_OK)"]
            size, check = len(i.constants), fnv(i.constants)
            lines += [
                f"        status = fc_read_constants(path, {size}u, UINT64_C({check}), &data);",
                "    if (status != FC_OK)",
            ]
            lines += [
                "        return status;",
                f"    status = fc_load_constants(&fc_this, loaded, data, {size}u);",
                "    free(data);",
            ]
            lines += ["    return status;", "}", ""]
        lines += [f"int {prefix}_unload(void) {{ return fc_unload(&fc_this); }}"]
        return lines

    # --- data -----------------------------------------------------------------------------------------------------------

    def images(self) -> str:
        """The binaries, and the constants where they are few.  A union begins where any of its members may."""
        package = self.interface.package
        lines = _commented([f"The binaries of {self.prefix}.c."])
        for kind in self.kinds:
            found: list[str] = []
            for member in dict.fromkeys(member for member, _ in self._tables[kind]):
                found += [
                    "",
                    f"/* {comment(member)} */",
                    *_array(f"fc_image_{self._images[member]}", package.data(member)),
                ]
            lines += self._only(kind, found)
        if self.interface.constants and self.embedded:
            lines += _array("fc_constants_data", self.interface.constants)
        return "\n".join(lines) + "\n"


def _capability(arch: str) -> tuple[int, int] | None:
    """(8, 0) of sm_80; None of sm_90a, which runs on nothing else."""
    found = re.fullmatch(r"sm_(\d+)(\d)", arch)
    return (int(found[1]), int(found[2])) if found else None


def _known(arch: str) -> tuple[int, int]:
    return _capability(arch) or (0, 0)


def _layout(layout) -> str:
    shape, strides = (f"[{', '.join(map(str, side))}]" for side in (layout.shape, layout.strides))
    return f"{layout.dtype} {shape}, strides {strides}"


def _commented(text: str | Sequence[str]) -> list[str]:
    """Lines as a comment; a text is wrapped."""
    lines = paragraph(text) if isinstance(text, str) else [comment(line) for line in text]
    if len(lines) == 1:
        return [f"/* {lines[0]} */"]
    return [f"/* {lines[0]}", *(f" * {line}".rstrip() for line in lines[1:]), " */"]


def _wrapped(head: str, parts: Sequence[str], end: str, width: int = 116) -> list[str]:
    lines = [head]
    for n, part in enumerate(parts):
        text = part + (end if n + 1 == len(parts) else ", ")
        if len(lines[-1]) + len(text.rstrip()) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append(" " * 8)
        lines[-1] += text
    return lines


def _array(name: str, data: bytes, per_line: int = 28) -> list[str]:
    lines = [
        "static const union {",
        f"    unsigned char bytes[{len(data)}];",
        "    uint64_t align;",
        f"}} {name} = {{{{",
    ]
    lines += ["    " + ",".join(map(str, data[at : at + per_line])) + "," for at in range(0, len(data), per_line)]
    lines[-1] = lines[-1].rstrip(",")
    return [*lines, "}};"]
