"""The tuning cache: samples that were taken, leases on candidates, decisions, and the lookup of a kernel's configuration.

    cache = open_cache(folder, versions=Versions(...))
    cache.lookup(key) -> Decision | None        # the hot path
    cache.record(key, sample); cache.samples(key); cache.claim(key, configuration, seconds); cache.decide(key, decision)

A session never raises for what is outside of the program: a full disk, a damaged file, a server that is gone.  It warns
once, keeps what it could not write for the next write, and answers "not known" where it cannot be sure.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ...errors import CacheWarning, InvalidArgument, UserError
from ..records import Configuration, Key, Sample, Versions
from . import leases
from .codec import configuration_digest
from .database import Database, DecisionRow
from .decision import Decision
from .failures import Damaged, Failure, Newer
from .leases import Lease
from .nearest import WITHIN, nearest
from .packaged import Packaged
from .rows import checked_decision, checked_sample
from .schema import Run
from .statements import ADD_DECISION, ADD_KEY, ADD_SAMPLE, decision_values, key_values, sample_values

T = TypeVar("T")
Statement = tuple[str, dict[str, Any]]
MOST_REMEMBERED = 10_000  # answers of lookups
MOST_PENDING = 100_000  # statements that could not be run yet
_OLD_DECISION = "SELECT digest, seal, body FROM tuned_decisions WHERE digest = :digest"


class TuningCache:
    """One session.  It may be used by several threads; after a fork the child opens its own.

    reopen: makes the database anew, for a child process.  versions: of this process.  strict: Failures raise UserError
    instead of a warning (for commands).  within: how far, in doublings, the nearest sizes may be.
    """

    def __init__(
        self, database: Database, *, reopen: Callable[[], Database], versions: Versions | None = None,
        packaged: Path | None = None, strict: bool = False, within: float = WITHIN,
    ) -> None:  # fmt: skip
        self.database, self.versions, self.strict = database, versions or Versions(), strict
        self._reopen, self._within = reopen, within
        self._packaged = Packaged(packaged, self.report) if packaged else Packaged(report=self.report)
        self._reported: set[str] = set()
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._inherited: list[Database] = []  # of the parent process: never closed here, its locks are the parent's
        self._answers: dict[Key, Decision | None] = {}
        self._read: dict[str, tuple[DecisionRow, Decision]] = {}  # rows that were checked, and what they say
        self._stamp: Hashable = None
        self._pending: list[Statement] = []

    @property
    def place(self) -> str:
        """The file, or the URL without its password."""
        return self.database.place

    @property
    def read_only(self) -> str:
        """Why nothing can be written, "" where it can."""
        return self.database.read_only

    # Reading

    def lookup(self, key: Key) -> Decision | None:
        """What to run a kernel with: for these sizes, else the nearest that were tuned, else as packaged, else None.

        A decision for other sizes or another device may not fit into the space of this kernel: check it there.
        """
        with self._lock:
            try:
                return self._answer(key)
            except Damaged:  # once more, with a file that is mended
                found = self._try(lambda: self._answer(key), None, "is not asked")
            except Failure as failure:
                self._failed(failure, "is not asked")
                found = None if isinstance(failure, Newer) else self._answers.get(key)  # what was known is still right
            return found or self._packaged.lookup(key, self.versions, self._within)

    def _answer(self, key: Key) -> Decision | None:
        stamp = self._here().stamp()
        if stamp != self._stamp or len(self._answers) > MOST_REMEMBERED:
            self._answers.clear()
            self._stamp = stamp
            if len(self._read) > MOST_REMEMBERED:
                self._read.clear()
        if key not in self._answers:
            self._answers[key] = self._found(key) or self._packaged.lookup(key, self.versions, self._within)
        return self._answers[key]

    def _found(self, key: Key) -> Decision | None:
        source = self.database.source
        row = self.database.decision(key.digest)
        found = self._whole([row] if row else [])
        if found:
            return found[0].seen_from(source, self.versions)
        family = key.family
        mine = [d for d in self._whole(self.database.family(family)) if d.key.family == family]
        near = nearest(key, mine, self._within)
        return near[1].seen_from(source, self.versions, near[0]) if near else None

    def _whole(self, rows: Iterable[DecisionRow]) -> list[Decision]:
        found = []
        for row in rows:
            known = self._read.get(row.digest)
            if known is not None and known[0] == row:
                found.append(known[1])
                continue
            try:
                decision = checked_decision(row)
                self._read[row.digest] = row, decision
                found.append(decision)
            except Damaged as damaged:
                self.report(f"a decision in the tuning cache {self.place} is left out: {damaged.reason}")
        return found

    def samples(self, key: Key) -> list[Sample]:
        """All that are known of a key, measured, predicted and failed, in the order of their times."""
        digest = key.digest
        rows = self._try(
            lambda: self._here().rows(
                "SELECT seal, body FROM tuned_samples WHERE digest = :digest ORDER BY at, seal", digest=digest
            ),
            [],
            "is not asked",
        )
        found = []
        for sealed, body in rows:
            try:
                found.append(checked_sample(digest, sealed, body))
            except Damaged as damaged:
                self.report(f"a sample in the tuning cache {self.place} is left out: {damaged.reason}")
        return found

    def rows(self, sql: str, **values: Any) -> list[Any]:
        """For the commands.  Raises UserError in a strict session."""
        return self._try(lambda: self._here().rows(sql, **values), [], "is not asked")

    # Writing

    def record(self, key: Key, sample: Sample) -> bool:
        """Keeps one more sample.  False where it could not be written: that is said, and tried again with the next."""
        return self.record_all(key, [sample])

    def record_all(self, key: Key, samples: Iterable[Sample]) -> bool:
        """The same for many, in one transaction."""
        digest = key.digest
        return self._write([(ADD_KEY, key_values(key)), *((ADD_SAMPLE, sample_values(digest, s)) for s in samples)])

    def decide(self, key: Key, decision: Decision) -> bool:
        """From now on this is the configuration of a key.  What was only predicted replaces nothing that was measured.

        False where it could not be written.  Raises InvalidArgument for the decision of another key.
        """
        if decision.key != key:
            raise InvalidArgument(
                "a decision is kept under the key that it was made for",
                next_step="pass `decision.key`, or decide for this key",
            )
        return self._write([(ADD_KEY, key_values(key)), (ADD_DECISION, decision_values(decision))])

    def claim(self, key: Key, configuration: Configuration, seconds: float, *, again: bool = False) -> Lease | None:
        """A lease on measuring a candidate; None where another process has it, or where it has been measured already
        (again: that does not matter).  Where nothing can be written, everybody gets a lease.

        seconds: after which the lease is over, whatever happened to its holder.
        """
        digest, candidate = key.digest, configuration_digest(configuration)

        def ask() -> str | None:
            database = self._here()
            now = database.now()
            with database.transaction() as run:
                return leases.take(run, digest, candidate, seconds, now, again=again)

        token = self._try(ask, "", "gives no leases")
        if token is None:
            return None
        return Lease(token, lambda: self._release(token))

    def _release(self, token: str) -> None:
        def give_back() -> None:
            with self._here().transaction() as run:
                leases.give_back(run, token)

        if token:
            self._try(give_back, None, "keeps a lease until its time is over")

    def change(self, what: Callable[[Run], T]) -> T:
        """Runs a function in one transaction, for the commands.  Raises UserError where it fails."""
        with self._lock:
            try:
                with self._here().transaction() as run:
                    done = what(run)
                self.database.refresh()
                return done
            except Failure as failure:
                raise self._error(failure) from failure

    def _write(self, statements: list[Statement]) -> bool:
        """With what could not be written before."""
        with self._lock:
            waiting = [*self._pending, *statements]

            def write() -> bool:
                database = self._here()
                with database.transaction() as run:
                    for sql, values in waiting:
                        if sql is ADD_DECISION:
                            self._make_room(run, values["digest"])
                        run(sql, **values)
                if any(sql is ADD_DECISION for sql, _ in waiting):
                    database.refresh()
                return True

            done = self._try(write, False, "keeps nothing for now")
            self._pending = [] if done else waiting[-MOST_PENDING:]
            return done

    def _make_room(self, run: Run, digest: str) -> None:
        """A damaged decision is in nobody's way."""
        for row in run(_OLD_DECISION, digest=digest):
            try:
                checked_decision(DecisionRow(*row))
            except Damaged:
                run("DELETE FROM tuned_decisions WHERE digest = :digest", digest=digest)

    # The session

    def refresh(self) -> None:
        """Lookups see what a team's database holds now; a file is always seen as it is."""
        self._try(lambda: self._here().refresh(), None, "is not asked")

    def close(self) -> None:
        with self._lock:
            if self._process == os.getpid():
                self.database.close()

    def __enter__(self) -> TuningCache:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _here(self) -> Database:
        if self._process != os.getpid():
            self._inherited.append(self.database)
            self._process, self._stamp, self._pending = os.getpid(), None, []
            self.database = self._reopen()
        return self.database

    def _try(self, what: Callable[[], T], otherwise: T, consequence: str) -> T:
        """A damaged file is replaced, and then it is tried once more."""
        with self._lock:
            try:
                try:
                    return what()
                except Damaged as damaged:
                    if not self._repaired(damaged):
                        raise
                    return what()
            except Failure as failure:
                self._failed(failure, consequence)
                return otherwise

    def _repaired(self, damaged: Damaged) -> bool:
        repair = getattr(self.database, "repair", None)
        if repair is None or not repair(damaged.reason):
            return False
        self._stamp = None
        self.say_what_was_salvaged()
        return True

    def mend(self, reason: str) -> None:
        """Replaces a file that SQLite finds wrong by one with all rows that are whole.  Raises UserError."""
        with self._lock:
            try:
                self._repaired(Damaged(reason))
            except Failure as failure:
                raise self._error(failure) from failure

    def say_what_was_salvaged(self) -> None:
        salvaged = getattr(self.database, "salvaged", None)
        if salvaged is not None:
            self.report(f"the tuning cache {self.place}: {salvaged}")

    def _failed(self, failure: Failure, consequence: str) -> None:
        if self.strict:
            raise self._error(failure) from failure
        self.report(f"the tuning cache {self.place} {consequence}: {failure.reason}")

    def _error(self, failure: Failure) -> UserError:
        return UserError(f"the tuning cache {self.place}: {failure.reason}", next_step=NEXT)

    def report(self, what: str) -> None:
        """A warning, once."""
        if what not in self._reported:
            self._reported.add(what)
            warnings.warn(CacheWarning(what, self.place, NEXT), stacklevel=4)


NEXT = (
    "`fusecade cache verify` says what is wrong with it; kernels without a known configuration run with the default one"
)
