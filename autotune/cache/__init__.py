"""The tuning cache: what was learnt of kernels, kept for good and shared by a team.

    open_cache(folder, url) -> TuningCache      lookup, record, samples, claim, decide
    Contents, to_text, from_text, merge, diff   exchange, as values and as text
    study_storage(cache)                        Optuna's studies in the same database (this imports Optuna)

Opening it and looking something up imports the standard library only; PostgreSQL and Optuna are imported when they are
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .contents import Contents, from_text, read_file, to_text
from .decision import Decision
from .exchange import diff, merge
from .leases import Lease
from .opening import open_cache, open_database
from .store import TuningCache

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

__all__ = [
    "Contents",
    "Decision",
    "Lease",
    "TuningCache",
    "diff",
    "from_text",
    "merge",
    "open_cache",
    "open_database",
    "read_file",
    "study_storage",
    "to_text",
]


def study_storage(cache: TuningCache) -> BaseStorage:
    """Where Optuna keeps its studies beside this cache; `optuna-dashboard` opens the same URL."""
    from .studies import storage

    return storage(cache)
