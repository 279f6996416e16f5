"""JSON of others, read with care: every field has a type and limits, and an error says where it is wrong.

    top = Fields.parse(text)
    name, tensors = top.text("name"), [Layout(...) for item in top.each("tensors")]
    top.done()                                   # raises where fields are left that nobody asked for

All raise InvalidPackage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ...errors import InvalidPackage

LARGEST = 1 << 62  # no size, stride or count is larger
DEEPEST = 50
LONGEST = 64 << 20  # bytes of a text


def parse(text: bytes, what: str) -> Any:
    """JSON without what JSON does not know (NaN, infinity), without keys that come twice, and not too deep."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(found)
        if len(made) != len(found):
            raise ValueError("a key comes twice")
        return made

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number")

    if len(text) > LONGEST:
        raise InvalidPackage(f"its {what} has {len(text)} bytes, and {LONGEST} is the most")
    try:
        made = json.loads(text.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        reason = "it is too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidPackage(f"its {what} is not JSON that packages have: {reason[:200]}") from error
    if _depth(made) > DEEPEST:
        raise InvalidPackage(f"its {what} is nested too deep")
    return made


def _depth(value: Any) -> int:
    level, deepest = [value], 0
    while level and deepest <= DEEPEST:
        deepest += 1
        level = [y for x in level if isinstance(x, dict | list) for y in (x.values() if isinstance(x, dict) else x)]
    return deepest


class Fields:
    """One JSON object."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise InvalidPackage(f"{where} is {_kind(data)} where fields are needed")
        self.data, self.where = dict(data), where

    def wrong(self, name: str, what: str) -> InvalidPackage:
        return InvalidPackage(f"{self.where}.{name} {what}")

    def take(self, name: str) -> Any:
        if name not in self.data:
            raise InvalidPackage(f"{self.where} has no {name}")
        return self.data.pop(name)

    def text(self, name: str, most: int = 1000) -> str:
        value = self.take(name)
        if not isinstance(value, str) or len(value) > most:
            raise self.wrong(name, f"is {_kind(value)} where a text is needed")
        return value

    def optional_text(self, name: str) -> str | None:
        if name in self.data and self.data[name] is None:
            return self.data.pop(name)
        return self.text(name)

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        value = self.text(name)
        if value not in allowed:
            raise self.wrong(name, f"is {value[:80]!r}, which is not one of: {', '.join(allowed)}")
        return value

    def integer(self, name: str, least: int = 0, most: int = LARGEST) -> int:
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, f"is {_kind(value)} where an integer is needed")
        if not least <= value <= most:
            raise self.wrong(name, f"is outside of {least} to {most}")
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.wrong(name, f"is {_kind(value)} where true or false is needed")
        return value

    def listing(self, name: str, most: int = 100_000) -> list[Any]:
        value = self.take(name)
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(name, f"is {_kind(value)} where a list is needed")
        return value

    def integers(self, name: str, least: int, most: int) -> tuple[int, ...]:
        """least: included; most: not."""
        values = self.listing(name)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < most:
                raise self.wrong(name, f"has {_short(value)}, which is no number from {least} to {most - 1}")
        return tuple(values)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.listing(name)
        if not all(isinstance(x, str) for x in values):
            raise self.wrong(name, "is no list of texts")
        return tuple(values)

    def each(self, name: str) -> Iterator[Fields]:
        for n, item in enumerate(self.listing(name)):
            yield Fields(item, f"{self.where}.{name}[{n}]")

    def table(self, name: str) -> dict[str, Any]:
        value = self.take(name)
        if not isinstance(value, dict):
            raise self.wrong(name, f"is {_kind(value)} where a table is needed")
        return value

    def inside(self, name: str) -> Fields:
        return Fields(self.take(name), f"{self.where}.{name}")

    def optional(self, name: str) -> Fields | None:
        value = self.take(name)
        return None if value is None else Fields(value, f"{self.where}.{name}")

    def done(self) -> None:
        """Raises where there is a field that this version does not know."""
        if self.data:
            raise InvalidPackage(
                f"{self.where} has a field {sorted(self.data)[0][:80]!r}, which this version does not know"
            )


def _kind(value: Any) -> str:
    names = {
        dict: "a table",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "an integer",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    return repr(value)[:80]
