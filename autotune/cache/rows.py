"""Rows of the database, checked: what is whole becomes a value, the rest says what is wrong with it."""

from __future__ import annotations

from ...errors import InvalidArgument
from ..records import Sample
from .codec import read_decision, read_sample, seal
from .database import DecisionRow
from .decision import Decision
from .failures import Damaged


def checked_sample(digest: str, sealed: str, body: str) -> Sample:
    """Raises Damaged for a row that is not what was written."""
    try:
        if sealed != seal(digest, body):
            raise Damaged("its hash is another")
        return read_sample(body)
    except (InvalidArgument, TypeError, ValueError) as error:
        raise Damaged(str(error)) from error


def checked_decision(row: DecisionRow) -> Decision:
    """Raises Damaged for a row that is not what was written, or that stands under another key."""
    try:
        if row.seal != seal(row.digest, row.body):
            raise Damaged("its hash is another")
        decision = read_decision(row.body)
    except (InvalidArgument, TypeError, ValueError) as error:
        raise Damaged(str(error)) from error
    if decision.key.digest != row.digest:
        raise Damaged("it belongs to another key")
    return decision
