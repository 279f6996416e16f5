"""Python's collector of cycles, and when it rests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cycles meanwhile.  Operations of the IR are cycles, and most live until fusion is done: looking through
    them, and through all that PyTorch has imported, took a tenth of the time of planning.

    A collector that is already off stays off.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
