"""The form of arguments and results: tuples, lists and dictionaries of leaves, as data.

"*"                                      a leaf
{"tuple": [...]}, {"list": [...]}        of forms
{"dict": [["a", ...], [3, ...]]}         with texts or integers for keys
{"named": ["Point", ["x", "y"], [...]]}  a named tuple: a package has no classes, so that one with these names is made
{"returned": ["max", [...]]}             a result of PyTorch, `torch.return_types.max`
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from functools import cache
from keyword import iskeyword
from typing import Any

import torch

from ...errors import InvalidPackage

LEAF = "*"
LONGEST_NAME = 200
RETURNED: dict[str, Any] = {kind.__name__: kind for kind in torch.return_types.all_return_types}


def count_leaves(form: Any, where: str) -> int:
    """How many leaves a form has.  Raises InvalidPackage for what is no form."""
    if form == LEAF:
        return 1
    match form:
        case {"tuple": list(parts)} | {"list": list(parts)} if len(form) == 1:
            return sum(count_leaves(p, where) for p in parts)
        case {"dict": list(parts)} if len(form) == 1:
            keys = [p[0] for p in parts if isinstance(p, list) and len(p) == 2 and type(p[0]) in (str, int)]
            if len(keys) == len(parts) == len(set(keys)):
                return sum(count_leaves(p[1], where) for p in parts)
        case {"named": [str(name), list(fields), list(parts)]} if len(form) == 1:
            if can_be_named(name, fields) and len(fields) == len(parts):
                return sum(count_leaves(p, where) for p in parts)
        case {"returned": [str(name), list(parts)]} if len(form) == 1:
            if name in RETURNED and RETURNED[name].n_sequence_fields == len(parts):
                return sum(count_leaves(p, where) for p in parts)
    raise InvalidPackage(f"{where} is no form of arguments or results")


def flatten(form: Any, value: Any, into: list[Any]) -> bool:
    """Append the leaves of a value to `into`; whether it has this form.

    Of tuples only length and names count: a named one is taken for a plain one and the other way round.
    """
    if form == LEAF:
        into.append(value)
        return not isinstance(value, tuple | list | dict)
    [(kind, parts)] = form.items()
    if kind == "dict":
        if type(value) is not dict or len(value) != len(parts) or any(key not in value for key, _ in parts):
            return False
        return all(flatten(p, value[key], into) for key, p in parts)
    if kind == "list":
        if type(value) is not list:
            return False
    elif not isinstance(value, tuple):
        return False
    elif kind == "named":
        if list(getattr(value, "_fields", parts[1])) != parts[1]:
            return False
        parts = parts[2]
    elif kind == "returned":
        parts = parts[1]
    return len(value) == len(parts) and all(flatten(p, v, into) for p, v in zip(parts, value, strict=True))


class Builder:
    """The other way round: a value of a form, from its leaves in order."""

    def __init__(self, form: Any) -> None:
        [(self._kind, parts)] = form.items() if form != LEAF else [("leaf", [])]
        self._keys: list[Any] = []
        self._type: Any = None
        if self._kind == "dict":
            self._keys, parts = [key for key, _ in parts], [p for _, p in parts]
        elif self._kind == "named":
            self._type, parts = _named(parts[0], tuple(parts[1])), parts[2]
        elif self._kind == "returned":
            self._type, parts = RETURNED[parts[0]], parts[1]
        self._parts = [Builder(p) for p in parts]

    def __call__(self, leaves: Iterator[Any]) -> Any:
        if self._kind == "leaf":
            return next(leaves)
        made = [build(leaves) for build in self._parts]
        if self._kind == "list":
            return made
        if self._kind == "dict":
            return dict(zip(self._keys, made, strict=True))
        if self._kind == "named":
            return self._type(*made)
        return self._type(made) if self._kind == "returned" else tuple(made)


@cache
def _named(name: str, fields: tuple[str, ...]) -> type:
    """The same for the same names, whichever package they come from."""
    return namedtuple(name, fields)


def can_be_named(name: Any, fields: list[Any]) -> bool:
    """Whether there can be a named tuple of these names."""
    if not all(isinstance(text, str) and len(text) <= LONGEST_NAME for text in (name, *fields)):
        return False
    fine = all(text.isascii() and text.isidentifier() and not iskeyword(text) for text in (name, *fields))
    return fine and not any(text.startswith("_") for text in fields) and len(set(fields)) == len(fields)
