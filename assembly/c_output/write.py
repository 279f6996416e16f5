"""A package as a folder of C: PREFIX.h, PREFIX.c and what they include, main.c, CMakeLists.txt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import InvalidArgument
from ...runtime.files import write_whole
from ...runtime.package.manifest import Package
from .example import SUPPORT, build_file, expected_values, main
from .interface import Interface, LineOf
from .reference import reference
from .source import RUNTIME, Source
from .templates import text_of


def write(
    package: Package,
    folder: Path,
    *,
    prefix: str | None = None,
    example: Mapping[str, int] | None = None,
    line_of: LineOf | None = None,
) -> Interface:
    """Writes the folder, the same to the byte for the same package; other files in it are left as they are.

    prefix: of all names; by default `fusecade_` and the function's.  example: the dynamic sizes of the call in main.c.
    line_of: the line of the program that a step comes from.

    Raises UnsupportedProgram for what has no form in C, InvalidArgument for a folder or a prefix that will not do.
    """
    interface = Interface(package, prefix, example, line_of)
    contents = files_of(interface)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            write_whole(folder / name, data)
    except OSError as error:
        raise InvalidArgument(
            f"the folder {folder} cannot be written to: {error.strerror}",
            next_step="give a folder that you can write to",
        ) from error
    return interface


def files_of(interface: Interface) -> dict[str, bytes]:
    """By name."""
    source, found = Source(interface), reference(interface)
    contents = {
        f"{source.prefix}.h": source.header().encode(),
        f"{source.prefix}.c": source.source().encode(),
        f"{source.prefix}-images.inc": source.images().encode(),
        f"{source.prefix}-expected.inc": expected_values(interface, found).encode(),
        RUNTIME: text_of(RUNTIME).encode(),
        SUPPORT: text_of(SUPPORT).encode(),
        "main.c": main(source, found).encode(),
        "CMakeLists.txt": build_file(source).encode(),
    }
    if source.has_file:
        contents[source.constants_name] = interface.constants
    return contents
