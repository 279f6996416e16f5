"""The header and the source of an entry point, and the kernels' binaries as arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...runtime.package.signature import TensorLeaf
from .arithmetic import Arithmetic
from .interface import Interface, Target
from .memory import Number, bytes_of
from .names import comment, literal
from .program import Lengths, Names, ProgramText, reads
from .templates import fill
from .text import array, commented, declared, described

RUNTIME = "fusecade-launch.h"
MOST_EMBEDDED = 1 << 16  # bytes of constants in the source; more of them are a file


class Source:
    """Everything that is printed of an interface.  has_file: whether the constants are one beside it."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.prefix = interface.prefix
        self.has_file = len(interface.constants) > MOST_EMBEDDED
        self.constants_name = f"{self.prefix}.constants"
        self.kinds = [kind for kind in ("cuda", "hip") if any(t.kind == kind for t in interface.targets)]
        self._names = Names({a.leaf: a.name for a in interface.arguments}, interface.outputs, interface.sizes)
        self._kinds = {
            kind: OfKind([t for t in interface.targets if t.kind == kind], self._names) for kind in self.kinds
        }
        members = dict.fromkeys(member for k in self._kinds.values() for member, _ in k.kernels)
        self._images = {member: n for n, member in enumerate(members)}

    def _places(self) -> dict[str, str]:
        """Of the templates."""
        sizes = [f"int64_t {v}" for v in self.interface.sizes.values()]
        tensors = [f"{'' if a.changed else 'const '}void *{a.name}" for a in self.interface.arguments]
        tensors += [f"void *{name}" for name in self.interface.outputs]
        workspace = ["void *workspace", "size_t workspace_bytes", "void *stream"]
        return {
            "PREFIX": self.prefix,
            "UPPER": self.prefix.upper(),
            "BYTES": str(len(self.interface.constants)),
            "WORKSPACE_BYTES": declared(f"int {self.prefix}_workspace_bytes", [*sizes, "size_t *bytes"]),
            "RUN": declared(f"int {self.prefix}_run", [*tensors, *sizes, *workspace]),
        }

    # --- the header -----------------------------------------------------------------------------------------------------

    def header(self) -> str:
        file = fill("header-constants.h.in", {**self._places(), "NAME": self.constants_name}).splitlines()
        return fill(
            "header.h.in",
            {**self._places(), "ABOUT": commented(self._about()), "FILE": file if self.has_file else [""]},
        )

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
            lines.append(f"  {a.name}: {described(a.layout)}{how}")
        lines += [f"  argument {path} is the constant {str(value)[:60]!r}" for path, value in i.fixed]
        for n, (name, size) in enumerate(zip(i.outputs, i.output_bytes, strict=True)):
            own = [p for p, r in zip(i.result_paths, i.results, strict=True) if r.output == n]
            lines.append(f"  {name}: {size} bytes, for result {', '.join(own)}")
        for path, r in zip(i.result_paths, i.results, strict=True):
            where = i.outputs[r.output] if r.output is not None else self._names.inputs[r.argument or 0]
            begin = f", {r.offset} elements behind its beginning" if r.offset != 0 else ""
            lines.append(f"  result {path}: {described(r.layout)}, in {where}{begin}")
        lines += [f"  {v}: the size {name}, 2 or more" for name, v in i.sizes.items()]
        return [*lines, *(f"  where {text}" for text, *_ in package.signature.relations)]

    # --- the source -----------------------------------------------------------------------------------------------------

    def source(self) -> str:
        lines = commented(
            [f"The source of {self.prefix}.h: how each of the package's programs is counted and launched."]
        )
        lines += [
            f'#include "{self.prefix}.h"',
            "",
            f'#include "{RUNTIME}"',
            f'#include "{self.prefix}-images.inc"',
            "",
        ]
        if len(self.kinds) == 1:
            hip = self.kinds == ["hip"]
            lines += [f"#if {'!' if hip else ''}defined(FUSECADE_HIP)"]
            lines += [
                f'#error "its kernels are for {"AMD: define" if hip else "NVIDIA: leave out"} FUSECADE_HIP"',
                "#endif",
                "",
            ]
        lines += [*self._call_struct(), "", *self._sizes_check(), ""]
        for kind in self.kinds:
            lines += self._only(kind, list(self._kinds[kind].text(self._images)))
        return "\n".join(lines) + "\n" + self._entry_points()

    def _only(self, kind: str, lines: list[str]) -> list[str]:
        """Lines for one of the drivers; where the package has one kind of targets, without a condition."""
        if len(self.kinds) == 1:
            return [*lines, ""]
        return [f"#if {'' if kind == 'hip' else '!'}defined(FUSECADE_HIP)", "", *lines, "", "#endif", ""]

    def _call_struct(self) -> list[str]:
        i, n = self.interface, Lengths()
        for kind in self._kinds.values():
            for text in kind.programs:
                n.cover(text)
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
        lines += [f"    int64_t begins[{n.begins}];   /* bytes: where parts of tensors begin, how much is copied */"]
        return [*lines, "} fc_call;"]

    def _sizes_check(self) -> list[str]:
        """`fc_check_sizes`: whether the function was compiled for them, and every tensor's bytes are a number."""
        i, signature = self.interface, self.interface.package.signature
        arithmetic = Arithmetic(i.sizes)
        body = [line for v in i.sizes.values() for line in (f"if ({v} < 2)", "    return FC_SIZE_TOO_SMALL;")]
        for text, sign, left, right in signature.relations:
            body += [f"/* {comment(text)} */", f"if (!({arithmetic.of(left)} {sign} {arithmetic.of(right)}))"]
            body += ["    return bad ? FC_SIZE_TOO_LARGE : FC_SIZES_UNSUPPORTED;"]
        leaves = [x for x in (*signature.leaves, *signature.results) if isinstance(x, TensorLeaf)]
        tensors: list[Number] = [*(bytes_of(x.layout) for x in leaves), *i.output_bytes]
        body += [f"fc_need(&most, {arithmetic.of(x)});" for x in dict.fromkeys(tensors) if isinstance(x, str)]
        used = "\n".join(body)
        lines = ["static int fc_check_sizes(const fc_call *call)", "{", "    int bad = 0;", "    int64_t most = 0;"]
        lines += [f"    const int64_t {v} = call->{v};" for v in i.sizes.values() if reads(used, v)]
        lines += ["    (void)call;", *(f"    {line}" for line in body)]
        return [*lines, "    return bad || most < 0 ? FC_SIZE_TOO_LARGE : FC_OK;", "}"]

    def _entry_points(self) -> str:
        i = self.interface
        used = [a.name for a in i.arguments if a.used and bytes_of(a.layout) != 0]
        used += [name for name, size in zip(i.outputs, i.output_bytes, strict=True) if size != 0]
        checks = [x for v in used for x in (f"if ((status = fc_check_pointer({v})) != FC_OK)", "    return status;")]
        constants = ["call.constants = fc_constants(&fc_this, loaded);"] if i.constants else []
        embedded = list[str]()
        if self.has_file:
            constants += ["if (call.constants == 0)", "    return FC_CONSTANTS_NOT_LOADED;"]
        elif i.constants:
            embedded += ["if (status == FC_OK)"]
            embedded += [f"    status = fc_load_constants(&fc_this, loaded, &fc_constants_data, {len(i.constants)}u);"]
        places = {
            **self._places(),
            "LOAD_EMBEDDED": embedded,
            "SET_SIZES": [f"call.{v} = {v};" for v in i.sizes.values()],
            "SET_TENSORS": [f"call.{v} = fc_address({v});" for v in [*(a.name for a in i.arguments), *i.outputs]],
            "CHECK_TENSORS": checks,
            "SET_CONSTANTS": constants,
            "HASH": str(fnv(i.constants) if self.has_file else 0),
        }
        file = fill("entry-constants.c.in", places).splitlines() if self.has_file else [""]
        return fill("entry.c.in", {**places, "FILE": file})

    # --- data -----------------------------------------------------------------------------------------------------------

    def images(self) -> str:
        """The binaries, and the constants where they are few."""
        package = self.interface.package
        lines = commented([f"The binaries of {self.prefix}.c."])
        for kind in self.kinds:
            found: list[str] = []
            for member in dict.fromkeys(member for member, _ in self._kinds[kind].kernels):
                found += [
                    "",
                    f"/* {comment(member)} */",
                    *array(f"fc_image_{self._images[member]}", package.data(member)),
                ]
            lines += self._only(kind, found)
        if self.interface.constants and not self.has_file:
            lines += array("fc_constants_data", self.interface.constants)
        return "\n".join(lines) + "\n"


class OfKind:
    """The programs of the targets of one driver, and how one of them is chosen.

    kernels: (member, symbol) of each kernel and its number: equal binaries and symbols are one.
    """

    def __init__(self, targets: list[Target], names: Names) -> None:
        self._targets, self._names = targets, names
        binaries = [b for t in targets for p in t.programs for c in p.calls for b in c.kernel.binaries]
        self.kernels = {key: n for n, key in enumerate(dict.fromkeys((b.member, b.symbol) for b in binaries))}
        self._shared = {(b.member, b.symbol): b.shared_bytes for b in binaries}
        every = [(t, n) for t in targets for n in range(len(t.programs))]
        self.programs = [
            ProgramText(number, t.programs[n], _title(t, n), names, self.kernels) for number, (t, n) in enumerate(every)
        ]

    def text(self, images: dict[str, int]) -> Iterator[str]:
        for program in self.programs:
            yield from [*program.plan(), "", *program.launch(), ""]
        yield "static const fc_kernel fc_kernels[] = {"
        for member, symbol in self.kernels:
            yield f"    {{&fc_image_{images[member]}, {literal(symbol)}, {self._shared[member, symbol]}}},"
        yield from ["    {NULL, NULL, 0}", "};", ""]
        for program in self.programs:
            yield f"static const int fc_needed_{program.number}[] = {{{', '.join(map(str, [*program.needed, -1]))}}};"
        yield from ["", "static const struct {", "    int target;", "    int (*plan)(fc_call *call);"]
        yield "    int (*launch)(const fc_call *call, const fc_loaded *loaded);"
        yield from ["    const int *needed;", "    int count;", "} fc_programs[] = {"]
        places = [n for n, t in enumerate(self._targets) for _ in t.programs]
        for place, p in zip(places, self.programs, strict=True):
            end = "," if p is not self.programs[-1] else ""
            number = p.number
            yield f"    {{{place}, fc_plan_{number}, fc_launch_{number}, fc_needed_{number}, {len(p.needed)}}}{end}"
        yield from ["};", "", *self._choice(), "", *self._target_of(), ""]
        yield "static fc_library fc_this = {"
        yield f"    PTHREAD_MUTEX_INITIALIZER, NULL, fc_kernels, {len(self.kernels)}, fc_target_of"
        yield "};"

    def _choice(self) -> Iterator[str]:
        """Which program: of a target, the first bucket that the sizes fit into, else the last."""
        yield from [
            "static int fc_choose(int target, const fc_call *call)",
            "{",
            "    (void)call;",
            "    switch (target) {",
        ]
        first = 0
        for n, target in enumerate(self._targets):
            yield f"    case {n}: /* {comment(target.name)} */"
            for at, p in enumerate(target.programs[:-1]):
                bounds = [f"call->{self._names.sizes[k]} <= INT64_C({v})" for k, v in sorted(p.bucket.upto.items())]
                yield f"        if ({' && '.join(bounds) or '1'})"
                yield f"            return {first + at};"
            first += len(target.programs)
            yield f"        return {first - 1};"
        yield from ["    default:", "        return -1;", "    }", "}"]

    def _target_of(self) -> Iterator[str]:
        """Which target runs on a device, as `runtime/package/devices.py` chooses: its own; on NVIDIA, one that is older."""
        yield from ["static int fc_target_of(const fc_device *device)", "{"]
        for n, t in enumerate(self._targets):
            archs = {a.rstrip("a") for a in t.archs}
            if t.kind == "hip" and len(set(t.archs)) == 1:
                yield f"    if (strcmp(device->name, {literal(t.archs[0])}) == 0)"
                yield f"        return {n};"
            elif len(archs) == 1 and (found := _capability(archs.pop())):
                yield f"    if (device->major == {found[0]} && device->minor == {found[1]}) /* {comment(t.name)} */"
                yield f"        return {n};"
        for (major, minor), n in sorted(self._older(), reverse=True):
            yield f"    if (device->major == {major} && device->minor >= {minor}) /* later ones of a generation */"
            yield f"        return {n};"
        yield from ["    (void)device;", "    return -1;", "}"]

    def _older(self) -> Iterator[tuple[tuple[int, int], int]]:
        """Targets whose binaries run on later devices of their generation: from which one on, and their numbers."""
        for n, t in enumerate(self._targets):
            known = [_capability(a) for a in t.archs]
            found = [x for x in known if x is not None]
            if t.kind == "cuda" and len(found) == len(known) and len({major for major, _ in found}) == 1:
                yield max(found), n


def _title(target: Target, n: int) -> str:
    bounds = ", ".join(f"{k} = {v}" for k, v in sorted(target.programs[n].bucket.upto.items()))
    return f"{target.name}, {f'sizes up to {bounds}' if bounds else 'all sizes'}"


def _capability(arch: str) -> tuple[int, int] | None:
    """(8, 0) of sm_80; None of sm_90a, which runs on nothing else."""
    found = re.fullmatch(r"sm_(\d+)(\d)", arch)
    return (int(found[1]), int(found[2])) if found else None


def fnv(data: bytes) -> int:
    """FNV-1a of 64 bits: whether a file is the one that was written, not who wrote it."""
    found = 14695981039346656037
    for byte in data:
        found = (found ^ byte) * 1099511628211 & (1 << 64) - 1
    return found
