"""Two candidates timed in turns, so that a machine that changes its speed changes both.

A round times each of them once, on the same inputs, and gives one ratio; who goes first alternates.  What is decided is
decided on the median ratio and its interval: no time is ever compared with one of another minute.  Nothing here knows a
device: a timer is handed in that runs a call and says how long it took.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InvalidArgument
from .statistics import Interval, half_quartile_range, median, median_interval, notch

MICROSECONDS = 1e6
MOST_REPEATS = 1024  # calls in a row, where the clock does not see one
Timer = Callable[[Callable[[], None]], float]
"""Runs a call to its end, launch included, and returns the seconds that it took: a clock around it, or two events."""


def nothing() -> None:
    """A `prepare` that does nothing."""


@dataclass(frozen=True)
class Timed:
    """Something to time.

    call: runs it on the inputs of a number, which rotates so that no call finds its inputs in a cache.  prepare: before
    each timing and outside of it, to flush caches.
    """

    call: Callable[[int], None]
    prepare: Callable[[], None] = nothing


@dataclass(frozen=True)
class TimingOptions:
    """How long to time.

    inputs: how many sets of them there are to rotate through.  rounds: at least (the first look) and at most.
    seconds: for one comparison.  miss: the probability that the interval of the ratio is wrong, over all looks.
    precision: an interval this close to 1 on both sides ends it as well: the two are the same.  hopeless: a candidate
    that takes so many times longer in each of the first three rounds is not timed any further.  warmups: rounds that
    are not counted.  shortest_s: calls that take less are timed several in a row.
    """

    inputs: int = 1
    rounds: tuple[int, int] = (8, 128)
    seconds: float = 2.0
    miss: float = 0.05
    precision: float = 0.01
    hopeless: float = 2.0
    warmups: int = 1
    shortest_s: float = 2e-6

    def __post_init__(self) -> None:
        if self.inputs < 1 or not 1 <= self.rounds[0] <= self.rounds[1]:
            raise InvalidArgument(f"{self.inputs} inputs, {self.rounds} rounds: at least one, and no fewer at most")
        if not (self.seconds > 0 and 0 < self.miss < 1 and self.precision >= 0 and self.hopeless > 1):
            raise InvalidArgument(f"{self!r} leaves no time, or no chance to be right")


@dataclass(frozen=True)
class Comparison:
    """A candidate and a reference, timed in turns.

    us, reference_us: medians of a call.  spread_us: half of the range between the quartiles of the candidate's times.
    ratio: the median of candidate / reference of each round, which is within `interval` (infinite: too few rounds).
    """

    us: float
    spread_us: float
    rounds: int
    reference_us: float
    ratio: float
    interval: Interval

    def to_json(self) -> dict[str, Any]:
        """What a worker sends home; an interval that is infinite is left out."""
        bounds = [self.interval.low, self.interval.high]
        return asdict(self) | {"interval": bounds if all(map(math.isfinite, bounds)) else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        """Raises InvalidArgument for what `to_json` does not write."""
        try:
            bounds = data["interval"]
            interval = Interval(-math.inf, math.inf) if bounds is None else Interval(*map(float, bounds))
            numbers = {name: float(data[name]) for name in ("us", "spread_us", "reference_us", "ratio")}
            return cls(rounds=int(data["rounds"]), interval=interval, **numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument(f"{data!r} is no comparison of two candidates") from error

    @property
    def noise(self) -> float:
        """Half of the width of the interval, as a part of the ratio; from the spread where there is no interval."""
        if math.isfinite(width := self.interval.high - self.interval.low) and self.ratio > 0:
            return width / 2 / self.ratio
        return notch(self.spread_us, self.rounds) / self.us if self.us > 0 else math.inf


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate takes the place of what is there, and why (not)."""

    faster: bool
    why: str


def wall(clock: Callable[[], float] = time.perf_counter) -> Timer:
    """A timer by a clock that counts seconds; the call has to wait for its own end."""

    def timer(call: Callable[[], None]) -> float:
        start = clock()
        call()
        return clock() - start

    return timer


def compare(
    candidate: Timed,
    reference: Timed,
    options: TimingOptions = TimingOptions(),
    timer: Timer | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Times both in turns until the interval of their ratio is clear of 1, or narrow around it, or the budget is spent.

    The interval is looked at after 8, 16, 32, ... rounds.  Whoever looks often sees something by chance at last, so the
    j-th look may miss with miss / 2^j only; the sum is `miss` (spending the error: Lan and DeMets, Biometrika 1983).
    """
    timer, end = timer or wall(), clock() + options.seconds
    repeats = _warm_up(candidate, reference, options, timer)
    times: list[tuple[float, float]] = []
    look, miss = options.rounds[0], options.miss / 2
    interval = Interval(-math.inf, math.inf)
    for turn in range(options.rounds[1]):
        mine_first = turn % 2 == 0
        pair = (candidate, reference) if mine_first else (reference, candidate)
        first, second = (_time(timed, turn * repeats, repeats, options, timer) for timed in pair)
        times.append((first, second) if mine_first else (second, first))
        spent = clock() >= end
        if len(times) == look or len(times) == options.rounds[1] or spent:
            interval, look, miss = median_interval(_ratios(times), miss), 2 * look, miss / 2
            if spent or 1 not in interval or _narrow(interval, options.precision):
                break
        if len(times) == 3 and min(_ratios(times)) > options.hopeless:
            break
    mine = [first * MICROSECONDS for first, _ in times]
    theirs = [second * MICROSECONDS for _, second in times]
    return Comparison(
        us=median(mine),
        spread_us=half_quartile_range(mine),
        rounds=len(times),
        reference_us=median(theirs),
        ratio=median(_ratios(times)),
        interval=interval,
    )


def decide(comparison: Comparison, gain: float = 0.0) -> Verdict:
    """Whether the candidate replaces the reference: only if the whole interval of their ratio is below 1 - gain."""
    low, high = comparison.interval.low, comparison.interval.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return Verdict(False, f"{comparison.rounds} rounds are too few to tell")
    text = f"{comparison.ratio:.3f} of its time ({low:.3f} to {high:.3f}, {comparison.rounds} rounds in turns)"
    return Verdict(high < 1 - gain, text)


def _ratios(times: list[tuple[float, float]]) -> list[float]:
    """Of each round; where both took no time that the clock knows, they took the same."""
    return [a / b if b > 0 else (math.inf if a > 0 else 1.0) for a, b in times]


def _narrow(interval: Interval, precision: float) -> bool:
    return 1 - precision <= interval.low and interval.high <= 1 + precision


def _time(timed: Timed, number: int, repeats: int, options: TimingOptions, timer: Timer) -> float:
    """Seconds of one call, on the inputs of that number and those that follow."""

    def calls() -> None:
        for n in range(number, number + repeats):
            timed.call(n % options.inputs)

    timed.prepare()
    return max(timer(calls), 0.0) / repeats


def _warm_up(candidate: Timed, reference: Timed, options: TimingOptions, timer: Timer) -> int:
    """Runs both uncounted; how many calls in a row then take long enough for the clock: 1 for all but the shortest."""
    took = 0.0
    for turn in range(options.warmups):
        took = min(_time(timed, turn, 1, options, timer) for timed in (candidate, reference))
    repeats = 1
    while took * repeats < options.shortest_s and repeats < MOST_REPEATS:
        repeats *= 2
        took = min(_time(timed, 0, repeats, options, timer) for timed in (candidate, reference))
    return repeats
