"""What a search knows at a moment: predictions, samples, and what the samples say of the configurations not yet tried."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property

from .pruning import Resources
from .records import MEASURED, PREDICTED, Configuration, Sample
from .residuals import Estimate, Residuals
from .space import Inadmissible, Predict, Prediction, Space
from .statistics import median, notch, quantile
from .stopping import bound, expected_gain


class Knowledge:
    """Of one space.  most: how many configurations are predicted at most, where the space has more of them.

    Times are compared as parts of the default's, timed in turns with it; where the default does not run, as they are.
    """

    def __init__(self, space: Space, predict: Predict, most: int) -> None:
        self.space = space
        self.samples: dict[Configuration, Sample] = {}
        self._predict, self._most = predict, most
        self._predictions: dict[Configuration, Prediction | Inadmissible] = {}
        self._residuals = Residuals()
        self._failures: list[Configuration] = []
        self._deviations: dict[Configuration, float] = {}  # log (measured / predicted)
        self._over_a_cliff: set[Configuration] = set()
        self._ran: Counter[tuple[tuple[str, int], tuple[str, int]]] = Counter()
        self._failed: Counter[tuple[tuple[str, int], tuple[str, int]]] = Counter()

    # --- predictions ---------------------------------------------------------------------------------------------

    def predicted(self, configuration: Configuration) -> Prediction | Inadmissible:
        """By the cost model, asked once."""
        if configuration not in self._predictions:
            found = self._predict(configuration)
            self._predictions[configuration] = found if found is not None else Inadmissible("no admissible point")
        return self._predictions[configuration]

    def predicted_us(self, configuration: Configuration) -> float:
        """Infinite where it is inadmissible."""
        found = self.predicted(configuration)
        return found.us if isinstance(found, Prediction) else math.inf

    @cached_property
    def ranked(self) -> list[Configuration]:
        """The admissible configurations, the cheapest first; of a space that is too large, those found from the default."""
        walk: Iterable[Configuration] = self.space
        if self.space.size > self._most:
            walk = itertools.islice(self._downhill(), self._most)
        admissible = [c for c in walk if math.isfinite(self.predicted_us(c))]
        return sorted(admissible, key=lambda c: (self.predicted_us(c), c))

    def _downhill(self) -> Iterator[Configuration]:
        """From the default of every walk through neighbours, the cheapest first."""
        starts = [variant.at(0) for variant in self.space.variants]
        seen = set(starts)
        heap = [(self.predicted_us(c), c) for c in starts]
        heapq.heapify(heap)
        while heap:
            _, best = heapq.heappop(heap)
            yield best
            for c in self.space.neighbours(best):
                if c not in seen:
                    seen.add(c)
                    heapq.heappush(heap, (self.predicted_us(c), c))

    # --- samples -------------------------------------------------------------------------------------------------

    def add(self, sample: Sample) -> None:
        """Takes a sample in; a second one of a configuration takes the place of the first."""
        first = self.samples.get(sample.configuration)
        if first is not None and sample.state == PREDICTED != first.state:
            return  # a prediction tells nothing that a measurement has not said
        self.samples[sample.configuration] = sample
        if sample.state == PREDICTED or (first is not None and first.state != PREDICTED):
            return
        if sample.state == MEASURED:
            if math.isfinite(price := self.predicted_us(sample.configuration)) and self.score(sample) > -math.inf:
                self._learn(sample.configuration, self.score(sample) - math.log(price))
        elif not is_priced_out(sample):
            self._failed.update(_pairs(sample.configuration))
            self._failures.append(sample.configuration)

    def _learn(self, configuration: Configuration, deviation: float) -> None:
        """Takes a deviation in.  What is far above the others (registers that ran out, say) is no deviation: one such
        value would move the terms of everything that has something in common with it.  It counts like a failure.
        """
        self._deviations[configuration] = deviation
        edge = quantile(sorted(self._deviations.values()), 0.25) + CLIFF
        over = {c for c, value in self._deviations.items() if value > edge}
        if over - {configuration} == self._over_a_cliff:
            new = {configuration: deviation}
        else:  # what is far above the others depends on the others
            self._residuals, self._ran, new = Residuals(), Counter(), self._deviations
            self._failed = Counter(pair for c in self._failures for pair in _pairs(c))
        self._over_a_cliff = over
        for c, value in new.items():
            if c in over:
                self._failed.update(_pairs(c))
            else:
                self._ran.update(_pairs(c))
                self._residuals.add(c, value)

    def tried(self, configuration: Configuration) -> bool:
        """Whether there is more than a prediction of it."""
        sample = self.samples.get(configuration)
        return sample is not None and sample.state != PREDICTED

    def predicted_before(self, configuration: Configuration) -> bool:
        """Whether there is a sample of it, and be it a prediction."""
        return configuration in self.samples

    @property
    def measured(self) -> list[Sample]:
        return [s for s in self.samples.values() if s.state == MEASURED]

    def score(self, sample: Sample) -> float:
        """The logarithm of a measured time, as a part of the default's."""
        assert sample.us is not None
        return math.log(sample.us / self._base(sample)) if sample.us > 0 else -math.inf

    def _base(self, sample: Sample) -> float:
        if sample.default_us:
            return sample.default_us
        default = self.samples.get(self.space.default)
        return default.us if default is not None and default.us else 1.0

    @property
    def best(self) -> Sample | None:
        """The measured sample with the least time."""
        return min(self.measured, key=lambda s: (self.score(s), s.configuration), default=None)

    @property
    def noise(self) -> float:
        """By which part two medians may differ for no reason; the median over the samples.  0 where none has a spread."""
        return self._told_apart(1)

    @property
    def resolution(self) -> float:
        """By which part two times have to differ for the last comparison, which has more rounds, to tell."""
        return self._told_apart(LAST_ROUNDS)

    def _told_apart(self, rounds: int) -> float:
        """The same for medians of at least so many rounds."""
        known = (s for s in self.measured if s.us and s.rounds and s.spread_us)
        parts = [notch(s.spread_us or 0.0, max(s.rounds, rounds)) / (s.us or 1.0) for s in known]
        return median(parts) if parts else 0.0

    def default_resources(self) -> Resources | None:
        sample = self.samples.get(self.space.default)
        return Resources.from_mapping(sample.resources) if sample is not None else None

    # --- what may be expected ------------------------------------------------------------------------------------

    def bound(self, configuration: Configuration) -> float:
        """k: predicted to take more than k times the best, it is not worth a trial."""
        return bound(self._residuals.estimate(configuration))

    def priced_out(self, configuration: Configuration) -> str | None:
        """Why it is not worth a trial by its price."""
        best, predicted = self.best, self.predicted_us(configuration)
        if best is None or not math.isfinite(self.score(best)):
            return None
        k, times = self.bound(configuration), predicted / math.exp(self.score(best))
        if times <= k:
            return None
        corrected = predicted * math.exp(self._residuals.estimate(configuration).mean - self.score(best))
        return f"{PRICED_OUT} {corrected:.2f} times the best, by its price and what was measured of others like it"

    def most_promising(self, without: set[Configuration]) -> tuple[Configuration, float] | None:
        """Of those not tried, the one that may be expected to be faster than the best by the largest part, as far as it
        runs at all, and that part; None where none is left.
        """
        left = [c for c in self.ranked if c not in without and not self.tried(c)]
        if (best := self.best) is None or not left:
            return (left[0], math.inf) if left else None
        fastest, mean = self.score(best), self._residuals.mean
        ordered = sorted((math.log(self.predicted_us(c)) + mean(c), n) for n, c in enumerate(left))
        found, largest, widest = left[ordered[0][1]], 0.0, Estimate(0.0, self._residuals.widest)
        for corrected, n in ordered:
            if expected_gain(corrected, widest, fastest) <= largest:
                break  # nor has any that follows more to expect
            estimate = Estimate(0.0, self._residuals.estimate(left[n]).deviation)
            if (gain := expected_gain(corrected, estimate, fastest) * self._runs(left[n])) > largest:
                found, largest = left[n], gain
        return found, largest

    def _runs(self, configuration: Configuration) -> float:
        """The chance that it runs, and over no cliff: of the pair of its values that failed most often, by Laplace's rule."""
        if not self._failed:
            return 1.0
        pairs = (p for p in _pairs(configuration) if self._failed[p])
        return min(((self._ran[p] + 1) / (self._ran[p] + self._failed[p] + 1) for p in pairs), default=1.0)


CLIFF = math.log(1.7)  # twice as much as a cost model is usually off, above the lower quartile of what it is
PRICED_OUT = "predicted to take"
LAST_ROUNDS = 64  # about as many as the best few get in the end, where a trial gets 8 to 48


def is_priced_out(sample: Sample) -> bool:
    """Whether it was pruned by its price, which is no failure of its own."""
    return sample.state == "pruned" and sample.note.startswith(PRICED_OUT)


def _pairs(configuration: Configuration) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    return itertools.combinations([(configuration.variant, 0), *configuration.values], 2)
