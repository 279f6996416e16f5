"""When a candidate is not worth a trial, and when no trial is."""

from __future__ import annotations

import math

from .residuals import Estimate

SURE = 2.33  # standard deviations: a candidate is given up that has one chance in a hundred of being the best
ENOUGH = 0.25  # of the measured noise: an expected gain below it is not worth a trial


def expected_gain(predicted: float, estimate: Estimate, best: float) -> float:
    """By which part a candidate is expected to be faster than the best, counting 0 where it is not.

    predicted, best: logarithms of times.  With d = best - (predicted + mean) and s the deviation, the expected
    improvement is d Φ(d / s) + s φ(d / s) (Jones, Schonlau and Welch, Journal of Global Optimization 1998, equation 15);
    of a logarithm, it is a part of the time.
    """
    d, s = best - (predicted + estimate.mean), estimate.deviation
    if s <= 0:
        return max(d, 0.0)
    return d * _normal_below(d / s) + s * math.exp(-((d / s) ** 2) / 2) / math.sqrt(2 * math.pi)


def bound(estimate: Estimate) -> float:
    """k: a candidate predicted to take more than k times the best measured time is not worth a trial.

    Its own time is predicted · exp(mean ± deviation); were it the best, the deviation would be off by more than SURE.
    """
    return math.exp(SURE * estimate.deviation - estimate.mean)


def not_worth_it(gain: float, noise: float) -> bool:
    """Whether a gain would hardly be told from noise, even by the last comparison.  Both are parts of the time of a call."""
    return gain < ENOUGH * noise


def _normal_below(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))
