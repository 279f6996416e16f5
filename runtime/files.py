"""Files that generated things live in: folders of one user, files that are whole or not there."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import warnings
from functools import cache
from pathlib import Path

from ..errors import CacheWarning, UserError

PARTS = ("plans", "kernels")  # of the cache folder; what lies in them can be made anew
ATTEMPTS = 5  # to write into a folder that others delete meanwhile


@cache
def usable_folder(folder: Path) -> Path:
    """The cache folder; where it cannot be used, with one warning, a folder that is gone when the process ends."""
    try:
        for part in PARTS:
            if not os.access(private_folder(folder / part), os.W_OK):
                raise UserError(f"the cache folder {folder / part} cannot be written to")
    except UserError as error:
        warnings.warn(CacheWarning(f"{error.message}; nothing is kept for the next process", folder), stacklevel=4)
        made = tempfile.mkdtemp(prefix="fusecade-")
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return Path(made)
    return folder


def private_folder(folder: Path) -> Path:
    """The folder, made with mode 0700 where it is not there.  Raises UserError for one that others can open."""
    try:
        for made in (folder.parent, folder):  # the mode is that of the last folder only
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be made: {error.strerror}",
            next_step="set FUSECADE_CACHE_DIR to a folder that you can write to",
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UserError(
            f"the cache folder {folder} is not a folder of your own that nobody else can open",
            next_step=f"`chmod 700 {folder}` if it is yours, or set FUSECADE_CACHE_DIR to another folder",
        )
    return folder


def write_kept(path: Path, blob: bytes) -> None:
    """`write_whole` into a private folder, which somebody may delete at any time: then it is made again.

    Raises OSError or UserError where it cannot be written.
    """
    for attempt in range(ATTEMPTS):
        try:
            private_folder(path.parent)
            return write_whole(path, blob)
        except (FileNotFoundError, UserError) as error:
            deleted = isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError)
            if not deleted or attempt + 1 == ATTEMPTS:
                raise


def write_whole(path: Path, blob: bytes) -> None:
    """All of the file or none of it, whoever else is writing."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(blob)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
