"""Medians, quartiles and intervals of them: all that is said about times, and nothing assumed about their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FEW_PAIRS = 5


@dataclass(frozen=True)
class Interval:
    """Where the median is, at some level of confidence; infinite where there are too few values to say."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def quantile(ordered: Sequence[float], part: float) -> float:
    """The value that `part` of the sorted values do not exceed, linear between two of them."""
    place = part * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def median(values: Sequence[float]) -> float:
    return quantile(sorted(values), 0.5)


def half_quartile_range(values: Sequence[float]) -> float:
    """Half of what lies between the quartiles: a spread that outliers do not move."""
    ordered = sorted(values)
    return (quantile(ordered, 0.75) - quantile(ordered, 0.25)) / 2


def median_interval(values: Sequence[float], miss: float) -> Interval:
    """An interval that misses the median of independent values with at most the probability `miss`.

    Between order statistics: of n values the number below the median is binomial (n, 1/2), so that the k-th smallest and
    the k-th largest enclose it but for twice P(fewer than k) (David and Nagaraja, Order Statistics, 2003, section 7.1).
    """
    n, k, outside, term = len(values), 0, 0.0, 0.5 ** len(values)
    while k < n / 2 and 2 * (outside + term) <= miss:
        outside += term
        term *= (n - k) / (k + 1)
        k += 1
    if k == 0:
        return Interval(-math.inf, math.inf)
    ordered = sorted(values)
    return Interval(ordered[k - 1], ordered[n - k])


def notch(half_quartile_range: float, count: int) -> float:
    """Half of the width of about a 95 % interval for comparing medians, from their spread and count alone.

    1.57 times the interquartile range over √n (McGill, Tukey and Larsen, Variations of Box Plots, 1978).
    """
    return 1.57 * 2 * half_quartile_range / math.sqrt(count)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: Pearson's correlation of the ranks, equal values having the mean of theirs; NaN where one is constant."""
    a, b = _ranks(first), _ranks(second)
    mean = (len(a) - 1) / 2
    spreads = [math.sqrt(sum((x - mean) ** 2 for x in side)) for side in (a, b)]
    if not all(spreads):
        return math.nan
    return sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True)) / (spreads[0] * spreads[1])


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda n: values[n])
    ranks, start = [0.0] * len(values), 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            ranks[place] = (start + end) / 2
        start = end + 1
    return ranks
