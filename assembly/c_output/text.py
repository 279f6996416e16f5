"""Pieces of C: comments, declarations, arrays."""

from __future__ import annotations

from collections.abc import Sequence

from ...codegen.artifact import Layout
from .names import comment, paragraph


def commented(text: str | Sequence[str]) -> list[str]:
    """Lines as a comment; a text is wrapped."""
    lines = paragraph(text) if isinstance(text, str) else [comment(line) for line in text]
    if len(lines) == 1:
        return [f"/* {lines[0]} */"]
    return [f"/* {lines[0]}", *(f" * {line}".rstrip() for line in lines[1:]), " */"]


def declared(head: str, parts: Sequence[str], width: int = 116) -> str:
    """`head(part, part, ...)` in lines."""
    lines = [f"{head}("]
    for n, part in enumerate(parts):
        text = part + (")" if n + 1 == len(parts) else ",")
        if len(lines[-1]) + 1 + len(text) > width:
            lines.append("        " + text)
        else:
            lines[-1] += text if lines[-1].endswith("(") else f" {text}"
    return "\n".join(lines)


def array(name: str, data: bytes, per_line: int = 28) -> list[str]:
    """Bytes that begin where any number may: cuModuleLoadData reads headers of numbers."""
    lines = [
        "static const union {",
        f"    unsigned char bytes[{len(data)}];",
        "    uint64_t align;",
        f"}} {name} = {{{{",
    ]
    lines += ["    " + ",".join(map(str, data[at : at + per_line])) + "," for at in range(0, len(data), per_line)]
    lines[-1] = lines[-1].rstrip(",")
    return [*lines, "}};"]


def described(layout: Layout) -> str:
    shape, strides = (f"[{', '.join(map(str, side))}]" for side in (layout.shape, layout.strides))
    return f"{layout.dtype} {shape}, strides {strides}"
