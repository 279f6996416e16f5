"""`main.c`: a call of the entry point, and its expected values; and how all of it is built."""

from __future__ import annotations

from .interface import Interface
from .names import comment
from .reference import Reference, count_of, kind_of, tolerance_of, width_of
from .source import Source
from .templates import fill
from .text import commented

SUPPORT = "fusecade-example.h"


def expected_values(interface: Interface, found: Reference) -> str:
    """`PREFIX-expected.inc`."""
    lines = ["/* Elements of what the example gives, in float64, as the tile programs of the kernels compute them. */"]
    for name, x in found.expected.items():
        lines += ["", f"static const fc_expected expected_{name}[] = {{"]
        lines += [f"    {{{n}, {_double(value)}}}," for n, value in x.samples] or ["    {0, 0},"]
        lines[-1] = lines[-1].rstrip(",")
        lines += ["};"]
    return "\n".join(lines) + "\n"


def _double(value: float) -> str:
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "-INFINITY"
    return repr(value)


def main(source: Source, found: Reference) -> str:
    """`main.c`."""
    i = source.interface
    names, example = i.package.signature.sizes, i.samples[0]
    sizes = dict(zip(i.sizes.values(), example, strict=True))
    inputs = [(a.name, a.layout.dtype, count_of(a.layout, names, example)) for a in i.arguments]
    outputs = []
    for n, name in enumerate(i.outputs):
        dtype = next(r.layout.dtype for r in i.results if r.output == n)
        outputs.append((name, dtype, count_of(i.output_bytes[n], names, example, width_of(dtype))))
    about = f"Calls {i.prefix}_run once, with tensors that are the same everywhere, and looks at what it gives."
    if found.why_not is not None:
        about += f" There are no expected values: {found.why_not}. Results have to be finite."
    variables = [f"uint64_t {name} = 0;" for name, *_ in [*inputs, *outputs]]
    variables += [f"const int64_t {name} = {value};" for name, value in sizes.items()]
    load = ["status = FC_OK;"]
    if source.has_file:
        load = [f'status = {i.prefix}_load_constants(count > 1 ? arguments[1] : "{source.constants_name}");']
        load += ['if (report("the constants", status) != FC_OK)', "    return 2;"]
    made = [f"{kind_of(dtype)}, {count}, 1, {n}, {found.below}" for n, (_, dtype, count) in enumerate(inputs)]
    made += [f"{kind_of(dtype)}, {count}, 0, 0, 1" for _, dtype, count in outputs]
    make = []
    for (name, *_), how in zip([*inputs, *outputs], made, strict=True):
        make += ["if (status == FC_OK)", f"    status = fc_make(&{name}, {how});"]
    given = [f"(void *)(uintptr_t){name}" for name, *_ in [*inputs, *outputs]]
    given += [*sizes, "(void *)(uintptr_t)workspace", "workspace_bytes", "NULL"]
    changed = {a.name for a in i.arguments if a.changed}
    compared = [*outputs, *(x for x in inputs if x[0] in changed)]
    places = {
        "ABOUT": commented(about),
        "PREFIX": i.prefix,
        "VARIABLES": variables,
        "LOAD_CONSTANTS": load,
        "MAKE": make,
        "SIZES": "".join(f"{v}, " for v in sizes),
        "GIVEN": ",\n        ".join(given),
        "COMPARE": [line for name, dtype, count in compared for line in _compare(name, dtype, count, found)],
        "FREE": [f"(void)fc_free({name});" for name, *_ in [*inputs, *outputs]],
    }
    return fill("main.c.in", places)


def _compare(name: str, dtype: str, count: int, found: Reference) -> list[str]:
    x = found.expected.get(name)
    expected, tolerance = "NULL, 0, NAN, NAN", tolerance_of(dtype)
    if x is not None:
        tolerance = x.tolerance
        expected = f"expected_{name}, {len(x.samples)}, {_double(x.total)}, {_double(x.size)}"
    call = f'fc_compare("{name}", {name}, {kind_of(dtype)}, {count}, {expected}, {tolerance:.3g})'
    return [f"if ({call} != FC_OK)", "    wrong = 1;"]


def build_file(source: Source) -> str:
    """`CMakeLists.txt`."""
    file = f' "${{CMAKE_CURRENT_SOURCE_DIR}}/{source.constants_name}"' if source.has_file else ""
    places = {
        "NAME": comment(source.interface.package.signature.name),
        "PREFIX": source.prefix,
        "HIP": "ON" if source.kinds == ["hip"] else "OFF",
        "ARGUMENT": file,
    }
    return fill("CMakeLists.txt.in", places)
