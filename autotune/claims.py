"""One process at a time takes times on a device: a lock on a file for each, which ends with the process that holds it.

    with claim(folder, ["gpu-4f0c", "gpu-9a1b"], on_wait=print) as device:     # the name of the one that is free
        ...

Which devices there are is handed in, so that nothing here knows what they are.  Processes of one cache folder see each
other's locks; the names of the files carry the machine's, because a folder may be on a network.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

LOOK_S = 0.2  # how often a process that waits looks


@contextmanager
def claim(
    folder: Path,
    devices: Sequence[str],
    *,
    on_wait: Callable[[str], None] = lambda why: None,
    machine: str | None = None,
) -> Iterator[str]:
    """Holds one of the devices, the first of those that are free; waits where there is none.

    folder: which exists.  on_wait: is told once who holds them, if there is something to wait for.  machine: the name of
    this one.  Where files cannot be locked, nobody is held up: the first device is taken.
    """
    paths = [folder / _file_name(machine or socket.gethostname(), device) for device in devices]
    waits = False
    while True:
        for device, path in zip(devices, paths, strict=True):
            try:
                held = _lock(path)
            except OSError:
                yield device  # no locks here
                return
            if held is None:
                continue
            try:
                yield device
            finally:
                os.close(held)
            return
        if not waits:
            waits = True
            on_wait(", ".join(f"{d} is in use{_by(p)}" for d, p in zip(devices, paths, strict=True)))
        time.sleep(LOOK_S)


def _lock(path: Path) -> int | None:
    """The open file that holds the lock, None where another one does.  Raises OSError where there are no locks."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:
        os.close(file)
        raise
    with suppress(OSError):  # a full disk: only the message of who waits is poorer
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
    return file


def _by(path: Path) -> str:
    """By which process, where that can be read; it may have ended by now."""
    try:
        process = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return f" by process {process}" if process.isdigit() else ""


def _file_name(machine: str, device: str) -> str:
    return re.sub(r"[^\w.-]", "_", f"{machine}-{device}.lock")
