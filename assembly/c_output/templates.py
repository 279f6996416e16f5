"""Texts with places in them: `@NAME@` in a line is replaced, and alone in a line it stands for lines of that indentation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path


@cache
def text_of(name: str) -> str:
    """A file of this folder."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def fill(name: str, values: Mapping[str, str | Sequence[str]]) -> str:
    """The template with every place filled; a place of no lines is gone with its line.  Raises KeyError for an unknown one."""
    lines = []
    for line in text_of(name).splitlines():
        alone = re.fullmatch(r"( *)@([A-Z_]+)@", line)
        if alone is not None and not isinstance(found := values[alone[2]], str):
            lines += [f"{alone[1]}{x}" if x else "" for x in found]
        else:
            lines.append(re.sub(r"@([A-Z_]+)@", lambda place: _text(values[place[1]]), line))
    return "\n".join(lines) + "\n"


def _text(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else "".join(value)
