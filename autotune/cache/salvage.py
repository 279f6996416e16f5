"""What is whole in a damaged file, row by row; every row proves itself by its hash."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...errors import InvalidArgument
from . import carving
from .codec import parse, read_key
from .database import DecisionRow
from .decision import Decision
from .failures import Damaged
from .rows import checked_decision, checked_sample
from .schema import Run
from .sqlite_errors import ERRORS
from .statements import ADD_DECISION, ADD_KEY, ADD_SAMPLE, decision_values, key_values, sample_values

LARGEST_GAP = 2_000  # rows between the readable ends of a table that are asked for one by one

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
    try:
        with suppress(*ERRORS):
            old.execute("PRAGMA trusted_schema = OFF")
            old.execute("PRAGMA cell_size_check = ON")
        samples, decisions, whole = _walk(old, run)
    finally:
        with suppress(*ERRORS):
            old.close()
    if not whole:
        more = _carve(aside, run, decisions)
        samples, decisions = samples | more[0], decisions | more[1]
    return Salvaged(reason, aside, len(samples), len(decisions))


Found = tuple[set[str], set[str]]  # seals of samples, digests of keys with a decision


def _walk(old: sqlite3.Connection, run: Run) -> tuple[set[str], set[str], bool]:
    """As SQLite reads it; the last says that it reads all."""
    samples: set[str] = set()
    decisions: set[str] = set()
    keys, rows, decided = (_Rows(old, table) for table in ("tuned_keys", "tuned_samples", "tuned_decisions"))
    for digest, body in keys.read("digest, body"):
        with suppress(InvalidArgument, TypeError):
            key = read_key(parse(body))
            if key.digest == digest:
                run(ADD_KEY, **key_values(key))
    for digest, sealed, body in rows.read("digest, seal, body"):
        with suppress(Damaged, TypeError, AttributeError):
            run(ADD_SAMPLE, **sample_values(digest, checked_sample(digest, sealed, body)))
            samples.add(sealed)
    for row in decided.read("digest, seal, body"):
        with suppress(Damaged, TypeError, AttributeError):
            _decide(run, checked_decision(DecisionRow(*row)))
            decisions.add(row[0])
    return samples, decisions, keys.whole and rows.whole and decided.whole


def _carve(aside: Path, run: Run, known: set[str]) -> Found:
    """Out of the bytes of the file and of its log.  known: keys with a decision: it is newer than what lies about."""
    samples: set[str] = set()
    decisions: set[str] = set()
    for end in ("", "-wal"):
        with suppress(OSError):
            blob = Path(f"{aside}{end}").read_bytes()
            for key in carving.keys(blob):
                run(ADD_KEY, **key_values(key))
            for digest, sample in carving.samples(blob):
                values = sample_values(digest, sample)
                run(ADD_SAMPLE, **values)
                samples.add(values["seal"])
            for decision in carving.decisions(blob):
                if decision.key.digest not in known:
                    _decide(run, decision)
                    decisions.add(decision.key.digest)
    return samples, decisions


def _decide(run: Run, decision: Decision) -> None:
    run(ADD_KEY, **key_values(decision.key))
    run(ADD_DECISION, **decision_values(decision))


class _Rows:
    """One table, from the front until a page cannot be read, from the back likewise, and what is between row by row.

    whole: whether the first of these reached the end.
    """

    def __init__(self, old: sqlite3.Connection, table: str) -> None:
        self._old, self._table = old, table
        self._seen: set[int] = set()
        self.whole = False

    def read(self, columns: str) -> Iterator[tuple[Any, ...]]:
        begun = yield from self._end(columns, "ASC")
        if self.whole:
            return
        ended = yield from self._end(columns, "DESC")
        first = (begun or 0) + 1
        refused = 0
        for number in range(first, min(ended or first + LARGEST_GAP, first + LARGEST_GAP)):
            if number in self._seen:
                continue
            try:
                yield from self._old.execute(
                    f"SELECT {columns} FROM {self._table} NOT INDEXED WHERE rowid = ?", (number,)
                )
                refused = 0
            except ERRORS:
                refused += 1
                if refused > LARGEST_HOLE:
                    return

    def _end(self, columns: str, order: str) -> Generator[tuple[Any, ...], None, int | None]:
        """Returns the last row that could be read."""
        last = None
        text = f"SELECT rowid, {columns} FROM {self._table} NOT INDEXED ORDER BY rowid {order}"
        try:
            for number, *row in self._old.execute(text):
                if type(number) is not int or number in self._seen:
                    return last
                self._seen.add(number)
                last = number
                yield tuple(row)
            self.whole = order == "ASC"
        except ERRORS:
            pass
        return last
