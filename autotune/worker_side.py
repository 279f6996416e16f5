"""The worker's half of `workers.py`: requests in, answers out, one JSON object a line.

    if __name__ == "__main__":
        serve(handle)       # handle(request) returns a dictionary, or raises Failed

The answers go through a copy of standard output that nobody else knows; what a kernel, a compiler or a child process
prints there goes to standard error, and standard input is empty.  When the other end is gone the process ends.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from typing import Any

from .records import FAILURES

Handler = Callable[[dict[str, Any]], dict[str, Any]]
NO_MEMORY = ("out of memory", "outofmemory", "cannot allocate memory", "bad_alloc", "memoryerror", "not enough memory")
BROKEN_DEVICE = ("cuda error", "hip error", "illegal memory access", "misaligned address", "unspecified launch failure")


class Failed(Exception):
    """A handler's refusal.  state: one of records.FAILURES.  fresh: whether the next request needs a new process."""

    def __init__(self, state: str, note: str, fresh: bool = False) -> None:
        super().__init__(state, note, fresh)
        if state not in FAILURES:
            raise ValueError(f"{state!r} is no failure: one of {FAILURES}")
        self.state, self.note, self.fresh = state, note, fresh


def serve(handle: Handler) -> int:
    """Answers requests until there are no more; returns the exit status.  Call it in the main thread, before others run."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        for line in requests:
            request = json.loads(line)
            answer = _setup(request["setup"]) if "setup" in request else _answer(handle, request["request"])
            answers.write(json.dumps({"id": request["id"], **answer}) + "\n")
            answers.flush()
    except BrokenPipeError:
        return 1
    return 0


def _setup(limits: dict[str, Any]) -> dict[str, Any]:
    if memory := limits.get("memory_bytes"):
        # Of private memory that can be written, not of addresses, of which drivers of GPUs reserve terabytes.
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if more := limits.get("nice"):
        os.nice(more)
    return {"done": {}}


def _answer(handle: Handler, request: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = handle(request)
        json.dumps(answer)
        return {"done": answer}
    except Failed as failed:
        return {"failed": failed.state, "note": failed.note, "fresh": failed.fresh}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        traceback.print_exc(file=sys.stderr)
        if isinstance(error, MemoryError) or speaks_of(NO_MEMORY, text):
            return {"failed": "out_of_memory", "note": text, "fresh": True}
        if speaks_of(BROKEN_DEVICE, text):
            return {"failed": "crashed", "note": text, "fresh": True}
        return {"failed": "invalid", "note": text, "fresh": False}


def speaks_of(words: tuple[str, ...], text: str) -> bool:
    return any(word in text.lower() for word in words)
