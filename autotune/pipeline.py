"""Work ahead: some candidates are being compiled while another one is timed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from .workers import Outcome

Candidate = TypeVar("Candidate", bound=Hashable)
Submit = Callable[[Candidate], "Future[Outcome]"]


def pipeline(
    candidates: Iterable[Candidate], submit: Submit[Candidate], ahead: int
) -> Iterator[tuple[Candidate, Outcome]]:
    """Each candidate with its outcome, in their order, while up to `ahead` of those that follow are being worked on.

    Candidates are drawn no earlier than that.  Where the caller stops, what was not begun is cancelled.
    """
    under_way: deque[tuple[Candidate, Future[Outcome]]] = deque()
    source = iter(candidates)
    try:
        while True:
            while len(under_way) <= ahead and (drawn := next(((c,) for c in source), None)) is not None:
                under_way.append((drawn[0], submit(drawn[0])))
            if not under_way:
                return
            candidate, future = under_way.popleft()
            yield candidate, future.result()
    finally:
        for _, future in under_way:
            future.cancel()


class Prefetch(Generic[Candidate]):
    """The same where candidates are announced: `prepare` and `inspect` of a search.

    ready = Prefetch(lambda c: pool.submit(request(c), 60.0));  search(..., prepare=ready.prepare, inspect=...ready.take...)
    """

    def __init__(self, submit: Submit[Candidate]) -> None:
        self._submit = submit
        self._under_way: dict[Candidate, Future[Outcome]] = {}

    def prepare(self, candidate: Candidate) -> None:
        """Begins, and returns at once."""
        if candidate not in self._under_way:
            self._under_way[candidate] = self._submit(candidate)

    def take(self, candidate: Candidate) -> Outcome:
        """Waits for what became of it, which may be taken once."""
        self.prepare(candidate)
        return self._under_way.pop(candidate).result()

    def cancel(self) -> None:
        """What was not begun will not be."""
        for future in self._under_way.values():
            future.cancel()
        self._under_way.clear()
