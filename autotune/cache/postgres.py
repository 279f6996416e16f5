"""The database of a team: PostgreSQL through SQLAlchemy, imported only where a URL asks for it.

Lookups are answered from a snapshot of all decisions in memory.  It is read when the cache is opened, after each decision
of this process, on `refresh`, and again by a thread of its own when it is older than a minute: no lookup waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ...errors import MissingTool
from . import schema
from .database import DecisionRow
from .failures import Damaged, Failure, Unavailable

try:
    import sqlalchemy
    from sqlalchemy import exc
except ImportError as error:
    raise MissingTool(
        "SQLAlchemy", needed_for="a team's tuning cache", install="pip install 'fusecade[team]'"
    ) from error

T = TypeVar("T")
SNAPSHOT_SECONDS = 60.0
CONNECT_SECONDS = 10
STATEMENT_SECONDS = 60
LOCK_KEY = 0x66757365  # of the advisory lock that migrations take in turns; "fuse"
_ALL = "SELECT digest, seal, body, family FROM tuned_decisions"


class Postgres:
    """url: postgresql://user:password@host:port/database, with any of psycopg's parameters.  Raises Failure, and
    MissingTool where psycopg is not installed."""

    source = "team database"

    def __init__(self, url: str, snapshot_seconds: float = SNAPSHOT_SECONDS) -> None:
        self.read_only = ""
        try:
            parsed = sqlalchemy.make_url(url.replace("postgres://", "postgresql://", 1))
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            self._url = parsed
            self._engine = sqlalchemy.create_engine(
                parsed, pool_pre_ping=True, pool_size=2,
                connect_args={
                    "connect_timeout": CONNECT_SECONDS,
                    "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout=60s",
                },
            )  # fmt: skip
        except ModuleNotFoundError as error:
            raise MissingTool(
                str(error.name),
                needed_for="a team's tuning cache on PostgreSQL",
                install="pip install 'fusecade[team]'",
            ) from error
        except exc.ArgumentError as error:
            raise Unavailable("its URL cannot be read") from error
        self.place = parsed.render_as_string(hide_password=True)
        self._snapshot_seconds = snapshot_seconds
        self._by_key: dict[str, DecisionRow] = {}
        self._by_family: dict[str, list[DecisionRow]] = {}
        self._generation = 0
        self._due = 0.0
        self._reading: threading.Thread | None = None
        try:
            self._migrate()
            self.refresh()
        except BaseException:
            self.close()
            raise

    def _migrate(self) -> None:
        """Where the role may only read, the schema has to be there."""
        with self._translated(), self._engine.connect() as connection:
            run = _runner(connection)
            if run("SELECT to_regclass('tuned_schema')")[0][0] and schema.version(run) >= len(schema.STEPS):
                schema.check(run)
                if not run("SELECT has_table_privilege('tuned_samples', 'INSERT')")[0][0]:
                    self.read_only = "this role of the database may only read"
                return
        with self.transaction(checked=False) as run:
            run("SELECT pg_advisory_xact_lock(:key)", key=LOCK_KEY)
            schema.migrate(run)

    def stamp(self) -> Hashable:
        if time.monotonic() > self._due and self._reading is None:
            self._reading = threading.Thread(target=self._read_again, name="fusecade-tuning-snapshot", daemon=True)
            self._reading.start()
        return self._generation

    def _read_again(self) -> None:
        try:
            self.refresh()
        except Failure:
            self._due = time.monotonic() + self._snapshot_seconds  # what is there stays good
        finally:
            self._reading = None

    def refresh(self) -> None:
        with self._translated(), self._engine.connect() as connection:
            run = _runner(connection)
            schema.check(run)  # a later version may have migrated it
            rows = run(_ALL)
        families: dict[str, list[DecisionRow]] = {}
        for *row, family in rows:
            families.setdefault(family, []).append(DecisionRow(*row))
        self._by_key = {row.digest: row for found in families.values() for row in found}
        self._by_family = families
        self._due = time.monotonic() + self._snapshot_seconds
        self._generation += 1

    def decision(self, digest: str) -> DecisionRow | None:
        return self._by_key.get(digest)

    def family(self, family: str) -> list[DecisionRow]:
        return self._by_family.get(family, [])

    def rows(self, sql: str, **values: Any) -> list[Any]:
        with self._translated(), self._engine.connect() as connection:
            return _runner(connection)(sql, **values)

    @contextmanager
    def transaction(self, *, checked: bool = True) -> Iterator[schema.Run]:
        if self.read_only:
            raise Unavailable(self.read_only)
        with self._translated(), self._engine.begin() as connection:
            run = _runner(connection)
            if checked:
                schema.check(run)
            yield run

    def wait_for_others(self, run: schema.Run) -> None:
        run("LOCK TABLE tuned_decisions, tuned_samples IN SHARE ROW EXCLUSIVE MODE")

    def now(self) -> float:
        """By the server's clock: those of a fleet differ."""
        return float(self.rows("SELECT extract(epoch FROM clock_timestamp())")[0][0])

    def beside(self, make: Callable[[str], T]) -> T:
        """Something else that makes tables of its own in this database, one process at a time."""
        with self._translated(), self._engine.connect() as connection:
            run = _runner(connection)
            run("SELECT pg_advisory_lock(:key)", key=LOCK_KEY)
            try:
                return make(self._url.render_as_string(hide_password=False))
            finally:
                run("SELECT pg_advisory_unlock(:key)", key=LOCK_KEY)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exc.DataError, exc.IntegrityError) as error:
            raise Damaged(_first_line(error)) from error
        except exc.SQLAlchemyError as error:
            raise Unavailable(_first_line(error)) from error


def _runner(connection: sqlalchemy.Connection) -> schema.Run:
    def run(sql: str, **values: Any) -> list[Any]:
        done = connection.execute(sqlalchemy.text(sql), values)
        return [tuple(row) for row in done] if done.returns_rows else []

    return run


def _first_line(error: exc.SQLAlchemyError) -> str:
    """What the server says, without the statement and without the URL."""
    said = str(getattr(error, "orig", None) or error).strip().splitlines()
    return said[0] if said else type(error).__name__
