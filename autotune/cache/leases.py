"""Who measures which candidate: leases, so that two processes do not measure the same one.

A lease ends when it is given back, when its time is over, and when its process is gone, which is seen at once on the
machine on which it ran.  A clock that was set back voids it: the worst that comes of that is one measurement twice.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..records import PREDICTED
from .schema import Run

CLOCK_SLACK = 60.0  # seconds that a clock may be set back before leases of its future are void
_TAKE = """INSERT INTO tuned_claims (digest, configuration, token, owner, since, until)
    VALUES (:digest, :configuration, :token, :owner, :since, :until) ON CONFLICT (digest, configuration) DO NOTHING"""
_SEE = "SELECT token, owner, since, until FROM tuned_claims WHERE digest = :digest AND configuration = :configuration"
_DROP = "DELETE FROM tuned_claims WHERE token = :token"
_KNOWN = f"""SELECT 1 FROM tuned_samples WHERE digest = :digest AND configuration = :configuration
    AND state <> '{PREDICTED}' LIMIT 1"""


@dataclass(frozen=True)
class Lease:
    """One candidate is yours until it is released, or its time is over; also as `with lease:`."""

    token: str
    release: Callable[[], None]

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


def take(run: Run, digest: str, configuration: str, seconds: float, now: float, *, again: bool) -> str | None:
    """The token of a new lease; None where a live process has one, or (but for `again`) a sample is there already."""
    token = uuid.uuid4().hex
    where = {"digest": digest, "configuration": configuration}
    mine = where | {"token": token, "owner": owner(), "since": now, "until": now + seconds}
    run(_TAKE, **mine)
    for held, by, since, until in run(_SEE, **where):
        if held != token and void(by, since, until, now):
            run(_DROP, token=held)
            run(_TAKE, **mine)
    if not any(held == token for held, *_ in run(_SEE, **where)):
        return None
    # Looked at with the lease in hand: the one who had it before has recorded before giving it back.
    if not again and run(_KNOWN, **where):
        run(_DROP, token=token)
        return None
    return token


def give_back(run: Run, token: str) -> None:
    run(_DROP, token=token)


def void(owner: str, since: float, until: float, now: float) -> bool:
    return not since - CLOCK_SLACK <= now < until or not alive(owner)


def owner() -> str:
    """This process: where, its number, and when it was started, as numbers are used again."""
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def alive(owner: str) -> bool:
    """False only for a process of this machine that is gone; what runs elsewhere is believed to run."""
    machine, _, process = owner.rpartition(" ")[0].rpartition(" ")
    if machine != _machine() or not process.isdigit():
        return True
    return _started(int(process)) == owner.rpartition(" ")[2]


@cache
def _machine() -> str:
    """The host since it was started, and the process numbers that it shows here (a container has its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}".replace(" ", "_")
    except OSError:
        return f"{socket.gethostname()}/{uuid.getnode():x}".replace(" ", "_")


def _started(process: int) -> str:
    """In clock ticks since the machine was started; "" where there is no such process, or it has ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *fields = text.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
