"""Arguments that are spelt another way than those that were compiled: by keyword for by position, or the other way round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Signature
from typing import Any


class ArgumentOrder:
    """The way in which arguments were given: so many by position, then these by keyword.

    signature: of the function; None where it has none, and no other way is known.
    """

    def __init__(self, signature: Signature | None, positional: int, keywords: Sequence[str]) -> None:
        self._signature, self._positional, self._keywords = signature, positional, keywords
        # The same call with, in the place of each argument, its position or keyword.
        self._places = self._bound(range(positional), {name: name for name in keywords})

    def of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A call in this way; None for a call with other arguments."""
        given = self._bound(args, kwargs)
        if given is None or self._places is None or given.keys() != self._places.keys():
            return None
        values = {place: given[key] for key, place in self._places.items()}
        return tuple(values[n] for n in range(self._positional)), {name: values[name] for name in self._keywords}

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[int | str, Any] | None:
        """The arguments, by position where the function takes them by position, by keyword otherwise."""
        if self._signature is None:
            return None
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError:
            return None
        return {**dict(enumerate(bound.args)), **bound.kwargs}
