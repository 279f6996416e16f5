"""Which of the sizes that were tuned is nearest to one that was not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ..records import MEASURED, Key, Place
from .decision import Decision

# In doublings, over all ranks together.  Tile sizes and split counts are powers of two, and where the best of them follows
# the extent of a rank, k doublings of the extent move it by k choices.  Two choices off is what the cost model's own pick
# may be (within 20% of the best on the median kernel); farther away it knows more than a neighbour does.
WITHIN = 2.0


def distance(a: tuple[tuple[str, int], ...], b: tuple[tuple[str, int], ...]) -> float:
    """The sum over ranks of |log2| of the ratio of extents; infinite for other ranks."""
    if [name for name, _ in a] != [name for name, _ in b]:
        return math.inf
    return sum(abs(math.log2(max(m, 1) / max(n, 1))) for (_, m), (_, n) in zip(a, b, strict=True))


def nearest(key: Key, decisions: Iterable[Decision], within: float = WITHIN) -> tuple[float, Decision] | None:
    """The measured decision for the nearest sizes, no farther than `within`; None where there is none.

    Predictions for other sizes are left out: the cost model can be asked for these.  Of equals, the one of larger sizes.
    """
    found = [(distance(key.sizes, d.key.sizes), d) for d in decisions if d.kind == MEASURED]
    near = [(far, [-size for _, size in d.key.sizes], d.key.sizes, d) for far, d in found if far <= within]
    if not near:
        return None
    far, *_, decision = min(near, key=lambda entry: entry[:3])
    return far, decision


def device_distance(asked: Place, tuned: Place) -> tuple[float, float, float] | None:
    """How unlike two devices are: generations apart, then SMs, then memory, both in doublings.

    None for makers that have nothing to do with each other.
    """
    a, b = _generation(asked.target), _generation(tuned.target)
    if a is None or b is None or a[0] != b[0]:
        return (0.0, *_sizes(asked, tuned)) if asked.target == tuned.target else None
    return (abs(a[1] - b[1]), *_sizes(asked, tuned))


def _sizes(a: Place, b: Place) -> tuple[float, float]:
    pairs = ((a.sms, b.sms), (a.memory_bytes, b.memory_bytes))
    sms, memory = (abs(math.log2(max(m, 1) / max(n, 1))) for m, n in pairs)
    return sms, memory


def _generation(target: str) -> tuple[str, int] | None:
    """ "sm_90" is ("sm_", 90); "gfx942" is ("gfx", 0x942)."""
    if match := re.fullmatch(r"(sm_)(\d+)[a-z]?", target):
        return match[1], int(match[2])
    if match := re.fullmatch(r"(gfx)([0-9a-f]+)", target):
        return match[1], int(match[2], 16)
    return None
