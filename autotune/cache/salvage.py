"""What is whole in a damaged file, row by row; every row proves itself by its hash."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...errors import InvalidArgument
from .codec import parse, read_decision, read_key, seal
from .failures import Damaged
from .rows import checked_sample
from .schema import Run
from .sqlite_errors import ERRORS
from .statements import ADD_DECISION, ADD_KEY, ADD_SAMPLE, decision_values, key_values, sample_values

LARGEST_GAP = 20_000  # rows between the readable ends of a table that are asked for one by one

LARGEST_HOLE = 500  # rows in a row that cannot be read: there is no table behind them


@dataclass(frozen=True)
class Salvaged:
    """What was saved.  aside: where the damaged file lies now, None where it was not there any more."""

    reason: str
    aside: Path | None
    samples: int = 0
    decisions: int = 0

    def __str__(self) -> str:
        kept = f"{self.samples} samples and {self.decisions} decisions could be read from it and are kept"
        return f"it was damaged ({self.reason}) and lies aside as {self.aside}; {kept}"


def salvage(reason: str, aside: Path, run: Run) -> Salvaged:
    """Copies what can be read and is right from the file at `aside` into the tables under `run`."""
    try:
        old = sqlite3.connect(f"file:{quote(str(aside.absolute()))}?mode=rw", uri=True, isolation_level=None)
    except ERRORS:
        return Salvaged(reason, aside)
    old.text_factory = lambda blob: blob.decode("utf-8", "replace")
    samples = decisions = 0
    try:
        with suppress(*ERRORS):
            old.execute("PRAGMA trusted_schema = OFF")
            old.execute("PRAGMA cell_size_check = ON")
        for body, *_ in _readable(old, "tuned_keys", "body, digest"):
            with suppress(InvalidArgument, TypeError):
                run(ADD_KEY, **key_values(read_key(parse(body))))
        for digest, sealed, body in _readable(old, "tuned_samples", "digest, seal, body"):
            with suppress(InvalidArgument, TypeError, Damaged):
                run(ADD_SAMPLE, **sample_values(digest, checked_sample(digest, sealed, body)))
                samples += 1
        for digest, sealed, body in _readable(old, "tuned_decisions", "digest, seal, body"):
            with suppress(InvalidArgument, TypeError):
                decision = read_decision(body)
                if decision.key.digest == digest and sealed == seal(digest, body):
                    run(ADD_KEY, **key_values(decision.key))
                    run(ADD_DECISION, **decision_values(decision))
                    decisions += 1
    finally:
        with suppress(*ERRORS):
            old.close()
    return Salvaged(reason, aside, samples, decisions)


def _readable(old: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Rows from the front until a page cannot be read, from the back likewise, and those between one by one."""
    seen: set[int] = set()
    ends = []
    for order in ("ASC", "DESC"):
        last = None
        try:
            for number, *row in old.execute(f"SELECT rowid, {columns} FROM {table} NOT INDEXED ORDER BY rowid {order}"):
                if type(number) is not int or number in seen:
                    break
                seen.add(number)
                last = number
                yield tuple(row)
            else:
                if order == "ASC":
                    return  # all of it
        except ERRORS:
            pass
        ends.append(last)
    if ends[0] is None and ends[1] is None:
        first, end = 1, LARGEST_GAP
    else:
        first = (ends[0] or 0) + 1
        end = ends[1] if ends[1] is not None else first + LARGEST_GAP
    refused = 0
    for number in range(first, min(end, first + LARGEST_GAP)):
        if number in seen:
            continue
        try:
            yield from old.execute(f"SELECT {columns} FROM {table} NOT INDEXED WHERE rowid = ?", (number,))
            refused = 0
        except ERRORS:
            refused += 1
            if refused > LARGEST_HOLE:
                return
