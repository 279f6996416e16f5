"""Offsets of buffers in one arena: published greedy heuristics, tried in turn, and the lower bound.

Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020 (arXiv:2001.03288): §4 shared objects,
§5 offsets.  Buffers are of known size and lifetime; two that are alive at the same time must not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

ALIGNMENT = 64  # bytes


@dataclass(frozen=True)
class Interval:
    """One buffer: `size` bytes, alive from operation `first` to operation `last`, both included."""

    name: str
    size: int
    first: int
    last: int

    def overlaps(self, other: Interval) -> bool:
        return self.first <= other.last and other.first <= self.last


Offsets = dict[str, int]


def lower_bound(buffers: Sequence[Interval]) -> int:
    """The largest total that is alive at one operation, in bytes: no arena is smaller."""
    moments = {b.first for b in buffers}
    return max((sum(aligned(b.size) for b in buffers if b.first <= m <= b.last) for m in moments), default=0)


def extent(buffers: Sequence[Interval], offsets: Offsets) -> int:
    """Bytes of the arena."""
    return max((offsets[b.name] + aligned(b.size) for b in buffers), default=0)


def offsets_by_size(buffers: Sequence[Interval]) -> Offsets:
    """Largest first, each into the tightest gap between buffers that are alive at the same time (§5.2)."""
    return _place(sorted(buffers, key=lambda b: (-b.size, b.first, b.name)), tightest=True)


def offsets_by_size_low(buffers: Sequence[Interval]) -> Offsets:
    """Largest first, each at the lowest offset where it fits."""
    return _place(sorted(buffers, key=lambda b: (-b.size, b.first, b.name)), tightest=False)


def offsets_by_breadth(buffers: Sequence[Interval]) -> Offsets:
    """The buffers of the operation with the most bytes alive first, largest first, each into the tightest gap (§5.3)."""
    return _place(_by_breadth(buffers), tightest=True)


def offsets_by_area(buffers: Sequence[Interval]) -> Offsets:
    """Those first that hold the most bytes for the longest time, each at the lowest offset where it fits."""
    return _place(
        sorted(buffers, key=lambda b: (-b.size * (b.last - b.first + 1), -b.size, b.first, b.name)), tightest=False
    )


def objects_by_size(buffers: Sequence[Interval]) -> Offsets:
    """Shared objects: largest buffer first, each into the smallest object that is free for its lifetime (§4.3)."""
    return _share(sorted(buffers, key=lambda b: (-b.size, b.first, b.name)))


def objects_by_breadth(buffers: Sequence[Interval]) -> Offsets:
    """Shared objects: buffers of the operation with the most bytes alive first (§4.2)."""
    return _share(_by_breadth(buffers))


METHODS: dict[str, Callable[[Sequence[Interval]], Offsets]] = {
    "offsets by size": offsets_by_size,
    "offsets by size, lowest": offsets_by_size_low,
    "offsets by breadth": offsets_by_breadth,
    "offsets by area": offsets_by_area,
    "objects by size": objects_by_size,
    "objects by breadth": objects_by_breadth,
}
PUBLISHED = ("offsets by size", "offsets by breadth", "objects by size", "objects by breadth")


def _by_breadth(buffers: Sequence[Interval]) -> list[Interval]:
    moments = sorted({b.first for b in buffers})
    alive = {m: [b for b in buffers if b.first <= m <= b.last] for m in moments}
    ordered: dict[Interval, None] = {}
    for m in sorted(moments, key=lambda m: (-sum(b.size for b in alive[m]), m)):
        ordered.update(dict.fromkeys(sorted(alive[m], key=lambda b: (-b.size, b.name))))
    return list(ordered)


def _place(order: Iterable[Interval], tightest: bool) -> Offsets:
    placed: list[tuple[int, Interval]] = []
    for b in order:
        need, at, best = aligned(b.size), 0, None
        for offset, other in sorted(((o, p) for o, p in placed if p.overlaps(b)), key=lambda p: (p[0], p[1].name)):
            gap = offset - at
            if gap >= need and (best is None or gap < best[0]):
                best = (gap, at)
                if not tightest:
                    break
            at = max(at, offset + aligned(other.size))
        placed.append((best[1] if best else at, b))
    return {b.name: offset for offset, b in placed}


def _share(order: Iterable[Interval]) -> Offsets:
    objects: list[tuple[int, list[Interval]]] = []
    for b in order:
        free = [n for n, (_, held) in enumerate(objects) if not any(b.overlaps(h) for h in held)]
        fitting = [n for n in free if objects[n][0] >= b.size]
        if fitting:
            n = min(fitting, key=lambda n: objects[n][0])
        elif free:
            n = max(free, key=lambda n: objects[n][0])
        else:
            objects.append((0, []))
            n = len(objects) - 1
        size, held = objects[n]
        objects[n] = (max(size, b.size), [*held, b])
    starts, at = {}, 0
    for size, held in objects:
        starts.update({b.name: at for b in held})
        at += aligned(size)
    return starts


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
