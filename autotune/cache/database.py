"""What the store asks of a database: the same few statements on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from .schema import Run


class DecisionRow(NamedTuple):
    """One row of tuned_decisions; nothing of it is checked yet."""

    digest: str
    seal: str
    body: str


class Database(Protocol):
    """All methods raise `failures.Failure`.

    place: the file, or the URL without its password.  source: what a decision that is found here says of its origin.
    read_only: why nothing can be written, "" where it can.
    """

    place: str
    source: str
    read_only: str

    def stamp(self) -> Hashable:
        """Another value after any change by any process, as far as lookups have to see it.  A few microseconds."""
        ...

    def decision(self, digest: str) -> DecisionRow | None: ...

    def family(self, family: str) -> list[DecisionRow]:
        """The decisions for any sizes."""
        ...

    def rows(self, sql: str, **values: Any) -> list[Any]: ...

    def transaction(self) -> AbstractContextManager[Run]:
        """All that is run inside is kept, or nothing."""
        ...

    def wait_for_others(self, run: Run) -> None:
        """Inside a transaction: until it ends, nobody else decides or records."""
        ...

    def now(self) -> float:
        """Seconds since 1970, by the one clock that all users of this database share."""
        ...

    def refresh(self) -> None:
        """Lookups see what is there now."""
        ...

    def close(self) -> None: ...
