"""Contents of two caches: merged into one by stated rules, or compared.

Of two decisions for one key: what was measured before what was predicted; then the larger gain over the default that it
was timed in turns with, if the two gains differ by more than noise and the versions are the same (microseconds of two
runs are not comparable, their gains are); then the newer one.  So neither order nor repetition changes the outcome.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..records import MEASURED, Key
from .codec import decision_body
from .contents import Contents
from .decision import Decision

NOISE = 0.02  # two paired gains that differ by less tell nothing
FUTURE_SECONDS = 86_400.0  # a decision of later than tomorrow has a wrong clock: its time does not count


@dataclass(frozen=True)
class Conflict:
    """Two decisions for one key, which is kept and why."""

    key: Key
    kept: Decision
    dropped: Decision
    reason: str
    mine: bool  # the one that was there already is kept


@dataclass(frozen=True)
class Merged:
    """What a merge did.  contents: the whole outcome; the counts are of what is new in it."""

    contents: Contents
    keys: int
    decisions: int
    samples: int
    conflicts: tuple[Conflict, ...]

    @property
    def changed(self) -> bool:
        return bool(self.keys or self.decisions or self.samples or any(not c.mine for c in self.conflicts))

    def __str__(self) -> str:
        taken = sum(not c.mine for c in self.conflicts)
        said = f"{self.samples} new samples, {self.decisions} new decisions, {self.keys} new keys"
        return f"{said}; {len(self.conflicts)} conflicts, {taken} of them changed the decision"


def merge(mine: Contents, other: Contents, now: float | None = None) -> Merged:
    """Both together; neither argument is changed.  now: seconds since 1970, to tell times that cannot be."""
    now = time.time() if now is None else now
    out = Contents(
        dict(mine.keys), dict(mine.decisions), {digest: dict(found) for digest, found in mine.samples.items()}
    )
    samples = sum(body not in mine.samples.get(digest, {}) for digest, found in other.samples.items() for body in found)
    for digest, found in other.samples.items():
        out.samples.setdefault(digest, {}).update(found)
    out.keys.update(other.keys)
    conflicts, new = [], 0
    for digest, theirs in other.decisions.items():
        ours = mine.decisions.get(digest)
        if ours is None:
            out.decisions[digest] = theirs
            new += 1
        elif decision_body(ours) != decision_body(theirs):
            first, reason = better(ours, theirs, now)
            out.decisions[digest] = ours if first else theirs
            conflicts.append(Conflict(ours.key, *((ours, theirs) if first else (theirs, ours)), reason, first))
    return Merged(out, len(out.keys) - len(mine.keys), new, samples, tuple(conflicts))


def better(a: Decision, b: Decision, now: float) -> tuple[bool, str]:
    """Whether `a` stays before `b`, and why."""
    if a.kind != b.kind:
        return a.kind == MEASURED, "measured before predicted"
    if a.kind == MEASURED and a.gain and b.gain and a.versions == b.versions:
        ratio = a.gain / b.gain
        if abs(ratio - 1) > NOISE and abs(1 / ratio - 1) > NOISE:
            better_one, worse = max(a.gain, b.gain), min(a.gain, b.gain)
            return (
                a.gain > b.gain,
                f"{better_one:.2f} times faster than the default in its paired run, before {worse:.2f}",
            )
    times = [d.at if d.at <= now + FUTURE_SECONDS else 0.0 for d in (a, b)]
    if times[0] != times[1]:
        return times[0] > times[1], "the newer one"
    return decision_body(a) <= decision_body(b), "as new as the other: the first by its text"


@dataclass(frozen=True)
class Difference:
    """What one has and the other has not; `changed`: keys with two different decisions, (a's, b's)."""

    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]
    changed: tuple[tuple[Decision | None, Decision | None], ...]
    samples_only_a: int
    samples_only_b: int

    def __bool__(self) -> bool:
        return bool(self.only_a or self.only_b or self.changed or self.samples_only_a or self.samples_only_b)


def diff(a: Contents, b: Contents) -> Difference:
    changed = []
    for digest, _ in sorted({**dict(a.ordered()), **dict(b.ordered())}.items(), key=lambda item: repr(item[1])):
        pair = a.decisions.get(digest), b.decisions.get(digest)
        if digest in a.keys and digest in b.keys and _text(pair[0]) != _text(pair[1]):
            changed.append(pair)
    return Difference(
        tuple(key for digest, key in a.ordered() if digest not in b.keys),
        tuple(key for digest, key in b.ordered() if digest not in a.keys),
        tuple(changed), _missing(a, b), _missing(b, a),
    )  # fmt: skip


def _text(decision: Decision | None) -> str:
    return decision_body(decision) if decision else ""


def _missing(a: Contents, b: Contents) -> int:
    """Samples of `a` that `b` has not."""
    return sum(body not in b.samples.get(digest, {}) for digest, found in a.samples.items() for body in found)
