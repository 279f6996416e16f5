"""What measured times say of the cost model's: a correction of its predictions, and how far to trust that.

The logarithm of measured / predicted is taken to be a constant (the model is wrong everywhere by some factor), plus a term
for the walk and for the value of each parameter, plus what is left.  This is Bayesian linear regression under the
normal-inverse-gamma prior, one sample at a time (Gelman et al., Bayesian Data Analysis, section 14; the evidence of
each new value is a Student t).  How much of the deviations the terms explain is not known: three shares are kept, and
the one with the most evidence speaks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .records import Configuration

SHARES = (0.3, 0.6, 0.9)  # of the variance of deviations that the terms explain
USUAL = 0.15  # standard deviation of log (measured / predicted) before anything is measured: 30 % are two of them
WEIGHT = 4.0  # how many samples that guess is worth
FACTOR = 7.0  # standard deviations, in units of USUAL, of the factor by which the whole model may be wrong


@dataclass(frozen=True)
class Estimate:
    """Of log (measured / predicted): mean and standard deviation."""

    mean: float
    deviation: float


class Residuals:
    """What is known of log (measured / predicted)."""

    def __init__(self) -> None:
        self._terms: dict[tuple[str, int], int] = {}
        self._terms_by: dict[Configuration, list[int]] = {}
        self._models = [_Model(share) for share in SHARES]

    def add(self, configuration: Configuration, residual: float) -> None:
        terms = self._terms_of(configuration)
        for model in self._models:
            model.add(terms, residual)

    def estimate(self, configuration: Configuration) -> Estimate:
        terms, model = self._terms_of(configuration), self._model
        return Estimate(model.mean_of(terms), model.deviation(model.variance(terms)))

    def mean(self, configuration: Configuration) -> float:
        """Of the estimate, for less."""
        return self._model.mean_of(self._terms_of(configuration))

    @property
    def widest(self) -> float:
        """No estimate has a larger deviation, once something is known of the constant."""
        return self._model.deviation(1.0 + self._model.constant)

    @property
    def _model(self) -> _Model:
        return max(self._models, key=lambda model: model.evidence)

    def _terms_of(self, configuration: Configuration) -> list[int]:
        """The numbers of its terms: 0 is the constant."""
        if (found := self._terms_by.get(configuration)) is None:
            keys = [(configuration.variant, 0), *((f"{name} =", value) for name, value in configuration.values)]
            found = [0, *(self._terms.setdefault(key, len(self._terms) + 1) for key in keys)]
            self._terms_by[configuration] = found
        return found


@dataclass
class _Model:
    """One regression.  Variances are in units of that of a deviation, which is estimated as `scale / degrees`."""

    share: float
    evidence: float = 0.0
    degrees: float = WEIGHT
    scale: float = WEIGHT * USUAL**2
    mean: list[float] = field(default_factory=list)
    covariance: list[list[float]] = field(default_factory=list)

    def add(self, terms: list[int], value: float) -> None:
        column, variance = self._column(terms), self.variance(terms)
        error = value - self.mean_of(terms)
        self.evidence += _log_student(error, self.degrees, self.scale / self.degrees * variance)
        self.degrees += 1
        self.scale += error**2 / variance
        nonzero = [n for n, c in enumerate(column) if c]
        for n in nonzero:
            gain = column[n] / variance
            self.mean[n] += gain * error
            row = self.covariance[n]
            for m in nonzero:
                row[m] -= gain * column[m]

    def mean_of(self, terms: list[int]) -> float:
        self._grow(max(terms) + 1, len(terms))
        return sum([self.mean[t] for t in terms])

    def deviation(self, variance: float) -> float:
        heavy = self.degrees / (self.degrees - 2)  # a Student t is wider than the normal that stands for it
        return math.sqrt(self.scale / self.degrees * variance * heavy)

    @property
    def constant(self) -> float:
        """The variance of the constant."""
        return self.covariance[0][0] if self.covariance else FACTOR**2

    def variance(self, terms: list[int]) -> float:
        self._grow(max(terms) + 1, len(terms))
        rows = [self.covariance[t] for t in terms]
        return 1 - self.share + sum([row[u] for row in rows for u in terms])

    def _column(self, terms: list[int]) -> list[float]:
        self._grow(max(terms) + 1, len(terms))
        return [sum(row[t] for t in terms) for row in self.covariance]

    def _grow(self, size: int, together: int) -> None:
        """Terms not yet met: independent of the others, their variances adding up to the share."""
        while (n := len(self.mean)) < size:
            for row in self.covariance:
                row.append(0.0)
            own = FACTOR**2 if n == 0 else self.share / max(together - 1, 1)
            self.covariance.append([0.0] * n + [own])
            self.mean.append(0.0)


def _log_student(error: float, degrees: float, variance: float) -> float:
    """The logarithm of the density of a Student t."""
    return (
        math.lgamma((degrees + 1) / 2)
        - math.lgamma(degrees / 2)
        - 0.5 * math.log(degrees * math.pi * variance)
        - (degrees + 1) / 2 * math.log1p(error**2 / (degrees * variance))
    )
