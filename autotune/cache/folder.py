"""The folder of the cache: of one user, with a lock that the processes which share it take in turns.

`runtime/files.py` has a check like `private` for its own folders; neither of the two layers may import the other.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .failures import Missing, Unavailable, Unsafe

# Several machines see these, and the shared memory that SQLite's write-ahead log needs is that of one machine.
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "gpfs", "beegfs", "ceph", "afs", "glusterfs"}
LOCK_SECONDS = 60.0


def private(folder: Path, *, make: bool = True) -> Path:
    """The folder, made with mode 0700 where it is not there.

    Raises Unsafe for one that others can open, Missing where there is none, Unavailable where none can be made.
    """
    try:
        if make:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except FileNotFoundError as error:
        raise Missing(f"there is no folder {folder}") from error
    except OSError as error:
        raise Unavailable(f"the folder {folder} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise Unsafe(f"{folder} is not a folder of your own that nobody else can open")
    return folder


def journal_for(folder: Path, mounts: str | None = None) -> str:
    """SQLite's journal mode for a folder: "wal", or "delete" where several machines may see it.

    mounts: the text of /proc/self/mounts (device, mount point, type, ... in each line).
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "wal"
    here = folder.resolve()
    lines = [line.split(" ") for line in mounts.splitlines()]
    points = [(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), p[1]), p[2]) for p in lines if len(p) > 2]
    above = [(len(point), kind) for point, kind in points if here.is_relative_to(point)]
    kind = max(above, default=(0, ""), key=lambda found: found[0])[1]
    return "delete" if kind in NETWORK or kind.startswith("fuse.") else "wal"


class Turns:
    """A lock on a file of the folder: shared by those who write rows, alone for who replaces the database.

    It ends with the process that holds it.  Where a file system has no locks, it holds nobody up.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held = 0  # 0, LOCK_SH or LOCK_EX

    @contextmanager
    def hold(self, *, alone: bool, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Raises Unavailable after so many seconds.  Inside a hold that is strong enough it does nothing."""
        wanted = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        if self._held in (fcntl.LOCK_EX, wanted):
            yield
            return
        assert not self._held, "a shared lock is given back before a lone one is taken"
        self._take(wanted, seconds)
        self._held = wanted
        try:
            yield
        finally:
            self._held = 0
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _take(self, wanted: int, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while True:
            try:
                return fcntl.flock(self._file, wanted | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise Unavailable(f"another process has it locked for more than {seconds:g} s") from None
                time.sleep(0.01)
            except OSError:
                return  # no locks here

    def close(self) -> None:
        os.close(self._file)
