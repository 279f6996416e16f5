"""Why the database under the cache could not do something.  They stay inside this package; users see `errors.py`."""

from __future__ import annotations


class Failure(Exception):
    """`reason` is for a person."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Damaged(Failure):
    """The file is not what was written."""


class Unavailable(Failure):
    """Not now, or not for this user: full, locked, read-only, not reachable."""


class Unsafe(Unavailable):
    """Somebody else could have written it."""


class Newer(Unavailable):
    """A later version of Fusecade has written it."""


class Missing(Unavailable):
    """There is no such database, and none may be made."""
