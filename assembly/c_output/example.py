"""`main.c`: a call of the entry point, its inputs and its expected values; and how all of it is built."""

from __future__ import annotations

from ...runtime.package.values import expression
from .interface import Interface
from .names import comment, paragraph
from .reference import KINDS, Reference, count_of
from .source import Source

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
    prefix, names = i.prefix, i.package.signature.sizes
    sizes = dict(zip(i.sizes.values(), i.samples[0], strict=True))
    every = [(a.name, a.layout.dtype, count_of(a.layout, names, i.samples[0]), n) for n, a in enumerate(i.arguments)]
    outputs = []
    for n, name in enumerate(i.outputs):
        dtype = next(r.layout.dtype for r in i.results if r.output == n)
        width = KINDS[dtype][1] if dtype in KINDS else 1
        outputs.append((name, dtype, expression(i.output_bytes[n], names, name)(i.samples[0]) // width))
    about = f"Calls {prefix}_run once, with tensors that are the same everywhere, and looks at what it gives."
    if found.why_not is not None:
        about += f" There are no expected values: {found.why_not}. Results have to be finite."
    lines = ["/* " + "\n * ".join(paragraph(about)) + " */", "#include <stdio.h>", "", f'#include "{prefix}.h"', ""]
    lines += [f'#include "{SUPPORT}"', f'#include "{prefix}-expected.inc"', ""]
    lines += ["static int report(const char *what, int status)", "{", "    if (status != FC_OK)"]
    lines += [f'        fprintf(stderr, "%s: %s (%d)\\n", what, {prefix}_error_string(status), status);']
    lines += ["    return status;", "}", "", "int main(int count, char **arguments)", "{"]
    lines += ["    int status, wrong = 0;", "    size_t workspace_bytes = 0;", "    uint64_t workspace = 0;"]
    lines += [f"    uint64_t {name} = 0;" for name, *_ in [*every, *outputs]]
    lines += [f"    const int64_t {name} = {value};" for name, value in sizes.items()]
    lines += ["", '    if (report("the device", fc_open()) != FC_OK)', "        return 2;"]
    if source.has_file:
        lines += [f'    status = {prefix}_load_constants(count > 1 ? arguments[1] : "{source.constants_name}");']
        lines += ['    if (report("the constants", status) != FC_OK)', "        return 2;"]
    else:
        lines += ["    (void)count;", "    (void)arguments;"]
    makes = [f"fc_make(&{name}, {_kind(dtype)}, {n}, 1, {number}, {found.below})" for name, dtype, n, number in every]
    makes += [f"fc_make(&{name}, {_kind(dtype)}, {n}, 0, 0, 1)" for name, dtype, n in outputs]
    for make in makes:
        lines += [f'    if (report("memory", {make}) != FC_OK)', "        return 2;"]
    lines += [f"    status = {prefix}_workspace_bytes({''.join(f'{v}, ' for v in sizes)}&workspace_bytes);"]
    lines += ['    if (report("the workspace", status) != FC_OK)', "        return 2;"]
    lines += [
        '    if (workspace_bytes > 0 && report("memory", fc_make(&workspace, FC_UI8, workspace_bytes, 0, 0, 1)) != FC_OK)'
    ]
    lines += ["        return 2;"]
    pointers = [f"(void *)(uintptr_t){name}" for name, *_ in [*every, *outputs]]
    given = [*pointers, *sizes, "(void *)(uintptr_t)workspace", "workspace_bytes", "NULL"]
    lines += [f"    status = {prefix}_run({', '.join(given)});" if len(given) < 6 else f"    status = {prefix}_run("]
    if len(given) >= 6:
        lines += [f"        {x}{', ' if n + 1 < len(given) else ');'}".rstrip() for n, x in enumerate(given)]
    lines += [
        '    if (report("the call", status) != FC_OK || report("the kernels", fc_wait()) != FC_OK)',
        "        return 2;",
        "",
    ]
    changed = {a.name for a in i.arguments if a.changed}
    for name, dtype, n in [*outputs, *(x[:3] for x in every if x[0] in changed)]:
        lines += [*_compare(name, dtype, n, found), "        wrong = 1;"]
    lines += [""]
    for name, *_ in [*every, *outputs]:
        lines += [f"    if ({name} != 0)", f"        (void)fc_free({name});"]
    lines += ["    if (workspace != 0)", "        (void)fc_free(workspace);"]
    lines += [
        f'    if (report("the end", {prefix}_unload()) != FC_OK || report("the end", fc_close()) != FC_OK)',
        "        return 2;",
    ]
    return "\n".join([*lines, "    return wrong;", "}"]) + "\n"


def _kind(dtype: str) -> str:
    return KINDS[dtype][0] if dtype in KINDS else "FC_UI8"


def _compare(name: str, dtype: str, count: int, found: Reference) -> list[str]:
    tolerance = KINDS[dtype][2] if dtype in KINDS else 0
    if (x := found.expected.get(name)) is None:
        return [
            f'    if (fc_compare("{name}", {name}, {_kind(dtype)}, {count}, NULL, 0, NAN, NAN, {tolerance}) != FC_OK)'
        ]
    head = f'    if (fc_compare("{name}", {name}, {_kind(dtype)}, {count}, expected_{name}, {len(x.samples)},'
    return [head, f"                   {_double(x.total)}, {_double(x.size)}, {tolerance}) != FC_OK)"]


def build_file(source: Source) -> str:
    """`CMakeLists.txt`."""
    prefix, hip = source.prefix, "ON" if source.kinds == ["hip"] else "OFF"
    about = comment(source.interface.package.signature.name)
    file = f' "${{CMAKE_CURRENT_SOURCE_DIR}}/{source.constants_name}"' if source.has_file else ""
    return f"""\
# {about}: a library of one function, and an example that calls it.
#
#   cmake -S . -B build && cmake --build build && build/{prefix}_example
#
# Another driver library than that of the CUDA toolkit or ROCm: -DFUSECADE_DRIVER_INCLUDE=... -DFUSECADE_DRIVER_LIBRARY=...
cmake_minimum_required(VERSION 3.18)
project({prefix} LANGUAGES C)

option(FUSECADE_HIP "for AMD's GPUs, through HIP" {hip})
set(FUSECADE_DRIVER_INCLUDE "" CACHE PATH "the folder of cuda.h, or of hip/hip_runtime_api.h")
set(FUSECADE_DRIVER_LIBRARY "" CACHE FILEPATH "libcuda.so, or libamdhip64.so")
find_package(Threads REQUIRED)

add_library({prefix} {prefix}.c)
target_include_directories({prefix} PUBLIC "${{CMAKE_CURRENT_SOURCE_DIR}}")
set_target_properties({prefix} PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON POSITION_INDEPENDENT_CODE ON)
if(FUSECADE_HIP)
  target_compile_definitions({prefix} PUBLIC FUSECADE_HIP)
endif()
if(FUSECADE_DRIVER_LIBRARY)
  target_include_directories({prefix} SYSTEM PUBLIC "${{FUSECADE_DRIVER_INCLUDE}}")
  target_link_libraries({prefix} PUBLIC "${{FUSECADE_DRIVER_LIBRARY}}" Threads::Threads)
elseif(FUSECADE_HIP)
  find_package(hip REQUIRED)
  target_link_libraries({prefix} PUBLIC hip::host Threads::Threads)
else()
  find_package(CUDAToolkit REQUIRED)
  target_link_libraries({prefix} PUBLIC CUDA::cuda_driver Threads::Threads)
  target_include_directories({prefix} SYSTEM PUBLIC ${{CUDAToolkit_INCLUDE_DIRS}})
endif()

add_executable({prefix}_example main.c)
set_target_properties({prefix}_example PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON)
target_link_libraries({prefix}_example PRIVATE {prefix} m)

enable_testing()
add_test(NAME {prefix}_example COMMAND {prefix}_example{file})
"""
