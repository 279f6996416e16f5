"""Rows in the bytes of a database that SQLite cannot walk any more: found by their form, believed for their hash.

A record of SQLite has its columns one behind the other, and a row that fits into a page lies there in one piece.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress

from ...errors import InvalidArgument
from ..records import Key, Sample
from .codec import parse, read_key
from .database import DecisionRow
from .decision import Decision
from .failures import Damaged
from .rows import checked_decision, checked_sample

_HASH = rb"([0-9a-f]{64})"
_TIME = rb".{0,8}?"  # a number of SQLite's, in up to eight bytes
_SAMPLE = re.compile(rb"(?s)" + _HASH + _HASH + rb"[0-9a-f]{64}[a-z_]{5,20}" + _TIME + rb'(?=\{"at":)')
_DECISION = re.compile(rb"(?s)" + _HASH + rb"[0-9a-f]{64}(?:measured|predicted)" + _TIME + _HASH + rb'(?=\{"at":)')
_KEY = re.compile(rb'(?=\{"dtypes":)')
_PRINTED = re.compile(rb"[\x20-\x7e]*")
_BEFORE_A_KEY = 400  # bytes in which its digest stands before it


def samples(blob: bytes) -> Iterator[tuple[str, Sample]]:
    """(digest of the key, sample)."""
    for found in _SAMPLE.finditer(blob):
        with suppress(Damaged, ValueError):
            sealed, digest = (part.decode("ascii") for part in found.groups())
            yield digest, checked_sample(digest, sealed, _body(blob, found.end()))


def decisions(blob: bytes) -> list[Decision]:
    """The oldest first: rows that were replaced may still be there."""
    out = []
    for found in _DECISION.finditer(blob):
        with suppress(Damaged, ValueError):
            digest, sealed = (part.decode("ascii") for part in found.groups())
            out.append(checked_decision(DecisionRow(digest, sealed, _body(blob, found.end()))))
    return sorted(out, key=lambda decision: decision.at)


def keys(blob: bytes) -> Iterator[Key]:
    for found in _KEY.finditer(blob):
        with suppress(InvalidArgument, TypeError, ValueError):
            key = read_key(parse(_body(blob, found.end())))
            if key.digest.encode() in blob[max(0, found.end() - _BEFORE_A_KEY) : found.end()]:
                yield key


def _body(blob: bytes, start: int) -> str:
    """The JSON that begins there; raises ValueError where there is none."""
    printed = _PRINTED.match(blob, start)
    assert printed is not None
    text = printed[0].decode("ascii")
    return text[: json.JSONDecoder().raw_decode(text)[1]]
