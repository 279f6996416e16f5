"""Optuna's studies, in the database of the cache; imported only by who tunes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage

from .folder import Turns
from .sqlite_file import LOCK, WRITE_SECONDS, SqliteFile
from .store import TuningCache


def storage(cache: TuningCache) -> BaseStorage:
    """A storage beside the cache; where the cache cannot be written, one that ends with the process."""
    database = cache.database
    if cache.read_only:
        return InMemoryStorage()
    if isinstance(database, SqliteFile):
        turns = Turns(database.path.with_name(LOCK))
        try:
            with turns.hold(alone=True):  # two processes that make Optuna's tables at once hinder each other
                return RDBStorage(url_of(database.path), engine_kwargs={"connect_args": {"timeout": WRITE_SECONDS}})
        finally:
            turns.close()
    made = getattr(database, "beside", None)
    return made(lambda url: RDBStorage(url, engine_kwargs={"pool_pre_ping": True})) if made else InMemoryStorage()


def url_of(path: Path) -> str:
    """Of a SQLite file, for SQLAlchemy, whatever its name has in it; `optuna-dashboard` takes it."""
    return f"sqlite:///file:{quote(str(path.absolute()))}?uri=true"
