"""What was learnt of one kernel, in the order in which it was: for tables, drawings and whoever asks how a search went.

It is made of what the cache holds, so that a search of last month can be looked at like one that has just ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from .cache import Contents, Decision, TuningCache
from .importance import importance
from .records import MEASURED, Configuration, Key, Sample
from .statistics import FEW_PAIRS, rank_correlation


@dataclass(frozen=True)
class Step:
    """One trial.  number: from 1.  relative: its time as a part of the default's, timed in turns with it (else as known);
    None where it has none.  best: the least of these so far, inf before there is one.
    """

    number: int
    sample: Sample
    relative: float | None
    best: float


@dataclass(frozen=True)
class History:
    """Of one kernel for its sizes on one device.  name, operations: for a person.  samples: in the order of their times."""

    name: str
    operations: str
    key: Key
    samples: tuple[Sample, ...]
    decision: Decision | None = None

    @property
    def trials(self) -> list[Sample]:
        """What was compiled or measured; what was given up for its prediction alone is none."""
        return [s for s in self.samples if s.state != "pruned" or s.resources]

    @cached_property
    def default(self) -> Configuration | None:
        """The cost model's choice, which is what every search tries first."""
        decided = self.decision
        if decided is not None and decided.kind == MEASURED and decided.us == decided.default_us:
            return decided.configuration
        return next((s.configuration for s in self.trials if s.state != "pruned"), None)

    @cached_property
    def measured(self) -> dict[Configuration, Sample]:
        """The last time of each configuration."""
        return {s.configuration: s for s in self.samples if s.state == MEASURED}

    def relative(self, sample: Sample) -> float | None:
        if sample.us is None:
            return None
        usual = self.measured.get(self.default) if self.default is not None else None
        base = sample.default_us or (usual.us if usual is not None else None)
        return sample.us / base if base else None

    @cached_property
    def steps(self) -> list[Step]:
        found: list[Step] = []
        best = math.inf
        for number, sample in enumerate(self.trials, start=1):
            relative = self.relative(sample)
            best = min(best, relative if relative is not None else math.inf)
            found.append(Step(number, sample, relative, best))
        return found

    @cached_property
    def fastest(self) -> Sample | None:
        """The decided one if it was measured here, else that with the least time."""
        if self.decision is not None and self.decision.configuration in self.measured:
            return self.measured[self.decision.configuration]
        return min(self.measured.values(), key=lambda s: self.relative(s) or math.inf, default=None)

    @cached_property
    def predictions(self) -> list[tuple[float, float, Sample]]:
        """(predicted, measured) microseconds of what has both."""
        return [
            (s.predicted_us, s.us, s)
            for s in self.measured.values()
            if s.predicted_us is not None and s.us is not None and min(s.predicted_us, s.us) > 0
        ]

    @property
    def correlation(self) -> float | None:
        """Spearman's, of predicted and measured times of all measured configurations; None for too few."""
        if len(self.predictions) < FEW_PAIRS:
            return None
        found = rank_correlation([p for p, _, _ in self.predictions], [us for _, us, _ in self.predictions])
        return found if math.isfinite(found) else None

    @cached_property
    def importance(self) -> dict[str, float]:
        """Of the parameters, as far as can be said."""
        parts = ((c, self.relative(s)) for c, s in self.measured.items())
        return importance([(c, part) for c, part in parts if part is not None])

    @property
    def states(self) -> dict[str, int]:
        """How many trials ended how."""
        found: dict[str, int] = {}
        for sample in self.trials:
            found[sample.state] = found.get(sample.state, 0) + 1
        return found


def history_of(cache: TuningCache, key: Key, name: str, operations: str = "") -> History:
    """What a cache knows of a key."""
    found = cache.lookup(key)
    decided = found if found is not None and found.key == key and not found.device else None
    return History(name, operations, key, tuple(cache.samples(key)), decided)


def histories_of(contents: Contents) -> list[History]:
    """Of all that has samples, named by the hash of their programs."""
    found: list[History] = []
    for digest, key in contents.ordered():
        samples: Iterable[Sample] = contents.samples.get(digest, {}).values()
        if samples:
            ordered = tuple(sorted(samples, key=lambda s: s.at))
            found.append(History(key.program[:12], "", key, ordered, contents.decisions.get(digest)))
    return found
