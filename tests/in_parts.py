"""Where one test has many cases that differ little, CI runs a part of them; the slow tests run all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def in_parts(cases: Iterable[Any], first: int = 0, *, of: int = 3) -> list[Any]:
    """Parameters for pytest: of every `of` cases the one at `first` runs in CI, the others are marked slow.

    A case that is a tuple is several parameters.
    """
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=slow_unless(at, first, of=of))
        for at, case in enumerate(cases)
    ]


def slow_unless(at: int, first: int = 0, *, of: int = 3) -> list[pytest.MarkDecorator]:
    """The marks of the case at a position: none where it runs in CI."""
    return [] if at % of == first else [pytest.mark.slow]


def taking_turns(names: Iterable[str], places: Iterable[str]) -> list[Any]:
    """Names with places: in CI each name has one place, and the places take turns; with the slow tests each has all."""
    names, places = list(names), list(places)
    return [p for at, place in enumerate(places) for p in in_parts([(n, place) for n in names], at, of=len(places))]
