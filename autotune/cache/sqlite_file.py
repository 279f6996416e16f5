"""The database of one user: a SQLite file in a private folder, by the standard library alone.

Two connections: one that reads and never waits for long, for lookups, and one that writes and waits for its turn.  The
file is in WAL mode, so that readers wait for nobody; where the folder is on a network, in the older journal mode, which
works between machines.  A commit is on the disk when it returns.

A new file is written under another name and renamed, so that an empty file is always one that was cut short.  Processes
that write rows hold a shared lock on `tuning.lock`; whoever makes, migrates or replaces the file holds it alone.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import schema
from .database import DecisionRow
from .failures import Damaged, Failure, Missing, Unavailable
from .folder import Turns, journal_for, private
from .salvage import Salvaged, salvage
from .sqlite_errors import ERRORS, failure_of

FILE = "tuning.sqlite"
LOCK = "tuning.lock"
BESIDE = ("", "-wal", "-shm", "-journal")  # what belongs to one database
WRITE_SECONDS = 60.0  # a writer waits that long for others
READ_SECONDS = {"wal": 0.25, "delete": 2.0}  # a reader that long; in the first mode nobody makes it wait
_ONE = "SELECT digest, seal, body FROM tuned_decisions WHERE digest = ?"
_FAMILY = "SELECT digest, seal, body FROM tuned_decisions WHERE family = ?"


class SqliteFile:
    """`path` inside a private folder; see `Database`.

    make: whether a file that is not there is made.  journal: "wal" or "delete"; by the file system where it is None.
    look: only read, wherever it lies and whoever wrote it: rows prove themselves.
    salvaged: what was saved out of a damaged file that this one replaces.  Raises Failure.
    """

    source = "user cache"

    def __init__(self, path: Path, *, make: bool = True, journal: str | None = None, look: bool = False) -> None:
        self.path, self.place = path, str(path)
        self.read_only = ""
        self.salvaged: Salvaged | None = None
        self._turns: Turns | None = None
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._version: Any = None
        self._opened = 0  # how often: SQLite's count of changes begins anew with each
        self._look = look
        if not look:
            private(path.parent, make=make)
        if not (make and not look) and not path.exists():
            raise Missing(f"there is no file {path}")
        self._journal = journal or journal_for(path.parent)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if why := "it is only looked at" if self._look else self._not_writable():
            self._open_to_read(why)
            return
        try:
            self._turns = Turns(self.path.with_name(LOCK))
            with self._turns.hold(alone=False):
                if self._open_ready():
                    return
            with self._turns.hold(alone=True):
                self._open_to_write()
        except Damaged as error:
            self._replace(error.reason)
        except OSError as error:
            self._open_to_read(f"{self.path.parent} cannot be written to: {error.strerror}")
        except Unavailable as error:
            if type(error) is not Unavailable or not self.path.exists():
                raise
            self._open_to_read(error.reason)  # a full disk, say: what was learnt is still there to use

    def _not_writable(self) -> str:
        for path in (self.path.parent, self.path):
            if path.exists() and not os.access(path, os.W_OK):
                return f"{path} cannot be written to"
        return ""

    def _open_ready(self) -> bool:
        """The usual case: the file is there, of this version.  It waits for no writer."""
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        self._open_writer()
        assert self._writer is not None
        run = self._runner(self._writer)
        if not _tables(run) or schema.version(run) < len(schema.STEPS):
            self._drop()
            return False
        self._open_reader()
        return True

    def _open_writer(self) -> None:
        self._writer = self._connect("rw", WRITE_SECONDS)
        run = self._runner(self._writer)
        mode = run(f"PRAGMA journal_mode = {self._journal}")[0][0]
        run(f"PRAGMA synchronous = {'FULL' if mode == 'wal' else 'EXTRA'}")

    def _open_to_write(self) -> None:
        """With the lock held alone."""
        if not self.path.exists():
            self._set_aside("left-over")  # a log without its file would be taken for the log of the new one
            self._make()
        elif not self.path.stat().st_size:
            raise Damaged("it is empty: it was cut short")
        self._open_writer()
        assert self._writer is not None
        run = self._runner(self._writer)
        with self._begun(self._writer):
            if _tables(run):
                schema.version(run)  # Damaged for tables without a version
            schema.migrate(run)
        self._open_reader()

    def _make(self, reason: str = "", aside: Path | None = None) -> None:
        """A new file in the place of this one, with what can be read from the damaged one, all of it or nothing."""
        new = self.path.with_name(f".{self.path.name}.new")
        for end in BESIDE:
            Path(f"{new}{end}").unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = self._connect("rw", WRITE_SECONDS, new)
        try:
            run = self._runner(connection)
            with self._begun(connection):
                schema.migrate(run)
                if reason:
                    self.salvaged = salvage(reason, aside, run) if aside else Salvaged(reason, None)
        finally:
            connection.close()
        for end in BESIDE[1:]:
            Path(f"{self.path}{end}").unlink(missing_ok=True)  # a log of the old file would be taken for one of the new
        os.replace(new, self.path)

    def _open_to_read(self, why: str) -> None:
        """Raises Missing where there is no file, Failure where it cannot be read."""
        self._drop()
        self.read_only = why
        if not self.path.exists():
            raise Missing(f"there is no file {self.path}, and none can be made: {why}")
        for how in ("ro", "ro&immutable=1"):  # the second where not even the log's index can be written
            try:
                self._open_reader(how)
                return
            except Unavailable as error:
                self._drop()
                if type(error) is not Unavailable or "immutable" in how:
                    raise

    def _open_reader(self, how: str = "rw") -> None:
        self._reader = self._connect(how, READ_SECONDS[self._journal])
        run = self._runner(self._reader)
        run("PRAGMA query_only = ON")
        self._file, self._version = self._identity(), None
        self._opened += 1
        schema.check(run)

    def _connect(self, how: str, seconds: float, path: Path | None = None) -> sqlite3.Connection:
        name = f"file:{quote(str((path or self.path).absolute()))}?mode={how}"
        made = None
        try:
            made = sqlite3.connect(name, uri=True, timeout=seconds, isolation_level=None, check_same_thread=False)
            made.text_factory = _text
            made.execute("PRAGMA trusted_schema = OFF")  # an edited file runs no functions
            made.execute("PRAGMA cell_size_check = ON")
        except ERRORS as error:
            if made is not None:
                made.close()
            raise failure_of(error) from error
        return made

    def stamp(self) -> Hashable:
        reader = self._reading()
        try:
            version = reader.execute("PRAGMA data_version").fetchone()
        except ERRORS as error:
            raise failure_of(error) from error
        if version != self._version:
            schema.check(self._runner(reader))  # a later version may have migrated the file
            self._version = version
        return version, self._opened

    def decision(self, digest: str) -> DecisionRow | None:
        try:
            row = self._reading().execute(_ONE, (digest,)).fetchone()
        except ERRORS as error:
            raise failure_of(error) from error
        return DecisionRow(*row) if row else None

    def family(self, family: str) -> list[DecisionRow]:
        try:
            return [DecisionRow(*row) for row in self._reading().execute(_FAMILY, (family,))]
        except ERRORS as error:
            raise failure_of(error) from error

    def rows(self, sql: str, **values: Any) -> list[Any]:
        """Unlike a lookup, it has time."""
        run = self._runner(self._reading())
        run(f"PRAGMA busy_timeout = {int(1000 * WRITE_SECONDS)}")
        try:
            return run(sql, **values)
        finally:
            with suppress(Failure):
                run(f"PRAGMA busy_timeout = {int(1000 * READ_SECONDS[self._journal])}")

    def _reading(self) -> sqlite3.Connection:
        """The reader, of the file that is there now: another process may have replaced a damaged one."""
        if self._reader is None or self._file != self._identity():
            self._again()
        assert self._reader is not None
        return self._reader

    @contextmanager
    def transaction(self) -> Iterator[schema.Run]:
        if self.read_only or self._turns is None:
            raise Unavailable(self.read_only)
        with self._turns.hold(alone=False):
            if self._file != self._identity():
                pass  # replaced since: it is opened anew below, when the shared lock is given back
            elif self._writer is not None:
                with self._begun(self._writer):
                    run = self._runner(self._writer)
                    schema.check(run)
                    yield run
                return
        self._again()
        if self.read_only or self._turns is None or self._writer is None:
            raise Unavailable(self.read_only)
        with self._turns.hold(alone=False), self._begun(self._writer):
            yield self._runner(self._writer)

    @contextmanager
    def _begun(self, connection: sqlite3.Connection) -> Iterator[None]:
        run = self._runner(connection)
        run("BEGIN IMMEDIATE")
        try:
            yield
            run("COMMIT")
        except BaseException:
            with suppress(*ERRORS):  # SQLite may have rolled back by itself
                connection.rollback()
            raise

    @staticmethod
    def _runner(connection: sqlite3.Connection) -> schema.Run:
        def run(sql: str, **values: Any) -> list[Any]:
            try:
                return connection.execute(sql, values).fetchall()
            except ERRORS as error:
                raise failure_of(error) from error

        return run

    def wait_for_others(self, run: schema.Run) -> None:
        """A transaction that writes is alone."""

    def now(self) -> float:
        return time.time()

    def refresh(self) -> None:
        """Readers see every commit at once."""

    def repair(self, reason: str) -> bool:
        """After Damaged: another process may have replaced the file, or it is done here.  False where it cannot be."""
        if self.read_only or self._turns is None:
            return False
        self._replace(reason)
        return not self.read_only

    def _replace(self, reason: str) -> None:
        """The file goes aside, what is whole in it comes into a new one."""
        assert self._turns is not None
        self._drop()
        try:
            with self._turns.hold(alone=True):
                if self._sound():
                    self._open_to_write()  # somebody else has replaced it
                    return
                self._make(reason, self._set_aside("damaged"))
                self._open_to_write()
        except OSError as error:
            raise Unavailable(f"it is damaged ({reason}), and cannot be set aside: {error.strerror}") from error

    def _sound(self) -> bool:
        """Whether SQLite finds nothing wrong with the file."""
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        connection = None
        try:
            connection = self._connect("rw", WRITE_SECONDS)
            run = self._runner(connection)
            schema.check(run)
            for table in ("tuned_keys", "tuned_samples", "tuned_decisions", "tuned_claims"):
                run(f"SELECT count(*) FROM {table}")
            return run("PRAGMA integrity_check(1)") == [("ok",)]
        except Damaged:
            return False
        finally:
            if connection is not None:
                connection.close()

    def _set_aside(self, why: str) -> Path | None:
        """Gives the file and what belongs to it a second name, so that it is there until a new one is in its place;
        returns that name, None where there was no file."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        count = 0
        while any(Path(f"{self.path}.{why}-{stamp}-{count}{end}").exists() for end in BESIDE):
            count += 1
        new = Path(f"{self.path}.{why}-{stamp}-{count}")
        for end in BESIDE:
            with suppress(FileNotFoundError):
                _second_name(f"{self.path}{end}", f"{new}{end}")
        return new if new.exists() else None

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _again(self) -> None:
        self.close()
        self._open()

    def _drop(self) -> None:
        """Without the connections; the lock is kept."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                with suppress(*ERRORS):
                    connection.close()
        self._reader = self._writer = None

    def close(self) -> None:
        self._drop()
        if self._turns is not None:
            self._turns.close()
        self._turns, self.read_only = None, ""


class InMemory:
    """Where nothing can be kept: the same tables for as long as the process runs.  place: what it stands for."""

    source, read_only = "this process", ""

    def __init__(self, place: str = "in memory") -> None:
        self.place = place
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._run = SqliteFile._runner(self._connection)
        self._changes = 0
        schema.migrate(self._run)

    def stamp(self) -> Hashable:
        return self._changes

    def decision(self, digest: str) -> DecisionRow | None:
        row = self._connection.execute(_ONE, (digest,)).fetchone()
        return DecisionRow(*row) if row else None

    def family(self, family: str) -> list[DecisionRow]:
        return [DecisionRow(*row) for row in self._connection.execute(_FAMILY, (family,))]

    def rows(self, sql: str, **values: Any) -> list[Any]:
        return self._run(sql, **values)

    @contextmanager
    def transaction(self) -> Iterator[schema.Run]:
        self._changes += 1
        self._run("BEGIN")
        try:
            yield self._run
            self._run("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise

    def wait_for_others(self, run: schema.Run) -> None:
        """A transaction that writes is alone."""

    def now(self) -> float:
        return time.time()

    def refresh(self) -> None:
        """There is nothing that is not seen."""

    def repair(self, reason: str) -> bool:
        raise Failure(reason)

    def close(self) -> None:
        self._connection.close()


def _second_name(old: str, new: str) -> None:
    try:
        os.link(old, new)
    except FileNotFoundError:
        raise
    except OSError:
        os.rename(old, new)  # this file system has no links


def _tables(run: schema.Run) -> set[str]:
    return {
        name
        for (name,) in run("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'tuned\\_%' ESCAPE '\\'")
    }


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "replace")  # the row's hash finds out
