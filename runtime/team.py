"""Python on the threads with which torch itself computes: its OpenMP team.

Threads of our own beside that team are in its way, and it in theirs: after each operation its threads spin for some
milliseconds, waiting for the next one.  On the team there is nobody to wait for.  Within it torch's operations use one
thread each, because OpenMP says that they are in a parallel region.

Measured on two cores, right after an operation of torch: kernels of 6 to 25 ms take 0.84 to 0.96 of the time that they
take on threads of their own.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache

import torch

_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_forked = False


def available() -> bool:
    """Whether torch has such a team here, and this process its threads: a child of a fork has not."""
    return not _forked and _openmp() is not None


def is_member() -> bool:
    """Whether the calling thread works for a team now."""
    library = _openmp()
    return library is not None and bool(library.omp_in_parallel())


def run(work: Callable[[], None], threads: int) -> None:
    """Calls `work` on each of so many threads, the calling one among them, and returns when all are done.

    `work` must not raise: there is nobody to raise to.
    """
    library = _openmp()
    assert library is not None
    library.GOMP_parallel(_WORK(lambda _: work()), None, threads, 0)


@cache
def _openmp() -> ctypes.CDLL | None:
    """OpenMP as torch has it; None where torch has none, or one without the entry point of GNU's."""
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        library = ctypes.CDLL(torch._C.__file__)  # a name is looked for in all that this was linked with
        library.GOMP_parallel.argtypes = [_WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
        library.omp_in_parallel.restype = ctypes.c_int
    except (OSError, AttributeError):
        return None
    return library


def _forget() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_forget)
