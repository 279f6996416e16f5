"""What SQLite's errors mean for the cache."""

from __future__ import annotations

import sqlite3

from .failures import Damaged, Failure, Unavailable

# By primary code, https://sqlite.org/rescode.html
_UNAVAILABLE = {
    3: "permission was denied",
    5: "another process has it locked",
    6: "another process has it locked",
    7: "there is no memory left",
    8: "it is read-only",
    10: "the disk reports an error",
    13: "the disk is full",
    14: "it cannot be opened",
    15: "its locks cannot be had",
    23: "permission was denied",
}
# SQLite's message may quote a damaged name, which Python cannot decode.
ERRORS = (sqlite3.Error, MemoryError, UnicodeDecodeError)
_SHORT_READ = 10 | 2 << 8  # the file ends where it should not


def failure_of(error: Exception) -> Failure:
    """Damaged for everything that a whole file of ours does not answer, Unavailable for what is outside of it."""
    if isinstance(error, MemoryError):
        return Unavailable(_UNAVAILABLE[7])
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or code == _SHORT_READ:
        return Damaged(str(error))
    reason = _UNAVAILABLE.get(code & 0xFF)
    return Unavailable(f"{reason} ({error})") if reason else Damaged(str(error))
