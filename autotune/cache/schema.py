"""The tables, and how an older database becomes one of this version.

Numbered steps of plain SQL that SQLite and PostgreSQL both take, and not Alembic: opening the cache must not import
SQLAlchemy, and Optuna keeps an `alembic_version` of its own in the same database.  A step adds to what is there and keeps
the old rows; it runs in one transaction with the number that says so.  Step n is final once it was released: a change is
a further step.

A row has a body in canonical JSON, and `seal`, the hash of its key and body.  The other columns are there to find rows
by, and are taken from the body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .failures import Damaged, Newer

Run = Callable[..., list[Any]]  # run(sql, name=value, ...) -> rows
Step = Sequence[str | Callable[[Run], None]]

STEPS: tuple[Step, ...] = (
    (
        "CREATE TABLE tuned_keys (digest TEXT PRIMARY KEY, program TEXT NOT NULL, target TEXT NOT NULL, body TEXT NOT NULL)",
        """CREATE TABLE tuned_samples (seal TEXT PRIMARY KEY, digest TEXT NOT NULL, configuration TEXT NOT NULL,
        state TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, body TEXT NOT NULL)""",
        "CREATE INDEX tuned_samples_of_key ON tuned_samples (digest, configuration)",
        """CREATE TABLE tuned_decisions (digest TEXT PRIMARY KEY, family TEXT NOT NULL, kind TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL, seal TEXT NOT NULL, body TEXT NOT NULL)""",
        "CREATE INDEX tuned_decisions_of_family ON tuned_decisions (family)",
        """CREATE TABLE tuned_claims (digest TEXT NOT NULL, configuration TEXT NOT NULL, token TEXT NOT NULL,
        owner TEXT NOT NULL, since DOUBLE PRECISION NOT NULL, until DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (digest, configuration))""",
    ),
)
VERSION_TABLE = "CREATE TABLE IF NOT EXISTS tuned_schema (version INTEGER NOT NULL)"


def version(run: Run) -> int:
    """0 for a database without tables of ours (`tuned_schema` has to be there).  Raises Damaged for no version at all."""
    rows = run("SELECT version FROM tuned_schema")
    if not rows:
        return 0
    if len(rows) > 1 or type(rows[0][0]) is not int or rows[0][0] < 1:
        raise Damaged("it does not say which version wrote it")
    return rows[0][0]


def check(run: Run, steps: Sequence[Step] | None = None) -> None:
    """Raises Newer where a later version has been here, Damaged where the version is another in some other way."""
    known = len(STEPS if steps is None else steps)
    found = version(run)
    if found > known:
        raise Newer(f"it has schema {found}, and this version of Fusecade knows {known}")
    if found != known:
        raise Damaged(f"it has schema {found} in place of {known}")


def migrate(run: Run, steps: Sequence[Step] | None = None) -> int:
    """Takes the steps that are missing, inside the transaction of the caller; returns how many.  Raises Newer."""
    steps = STEPS if steps is None else steps
    run(VERSION_TABLE)
    found = version(run)
    if found > len(steps):
        raise Newer(f"it has schema {found}, and this version of Fusecade knows {len(steps)}")
    for step in steps[found:]:
        for part in step:
            part(run) if callable(part) else run(part)
    if found < len(steps):
        run("DELETE FROM tuned_schema")
        run("INSERT INTO tuned_schema (version) VALUES (:version)", version=len(steps))
    return len(steps) - found
