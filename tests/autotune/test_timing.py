"""Timing in turns, on a clock that is told what to show."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecade.autotune.statistics import Interval, half_quartile_range, median, median_interval, notch
from fusecade.autotune.timing import Comparison, Timed, TimingOptions, compare, decide
from fusecade.errors import InvalidArgument


@dataclass
class Machine:
    """A clock that moves when something runs.  speed: seconds for what takes one, at a time."""

    speed: Callable[[float], float] = lambda now: 1.0
    now: float = 0.0
    log: list[tuple[str, object]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def timed(self, name: str, seconds: Callable[[], float], flush: float = 0.0) -> Timed:
        def call(number: int) -> None:
            self.log.append((name, number))
            self.now += seconds() * self.speed(self.now)

        def prepare() -> None:
            self.log.append((name, "flush"))
            self.now += flush

        return Timed(call, prepare)

    def compare(self, candidate: Callable[[], float], reference: Callable[[], float], **options: object) -> Comparison:
        a, b = self.timed("a", candidate), self.timed("b", reference)
        return compare(a, b, TimingOptions(**options), self.timer, self.clock)  # type: ignore[arg-type]

    def timer(self, call: Callable[[], None]) -> float:
        start = self.now
        call()
        return self.now - start


def noisy(seconds: float, part: float, seed: int) -> Callable[[], float]:
    luck = random.Random(seed)
    return lambda: seconds * math.exp(luck.gauss(0, part))


MANY = {"seconds": 1e9, "rounds": (8, 256)}


def test_a_clear_difference_is_found_at_the_first_look():
    found = Machine().compare(noisy(0.8e-3, 0.03, 1), noisy(1e-3, 0.03, 2), **MANY)
    assert found.rounds == 8
    assert found.ratio == pytest.approx(0.8, rel=0.05) and 0.8 in found.interval
    assert found.us == pytest.approx(800, rel=0.05) and found.reference_us == pytest.approx(1000, rel=0.05)
    assert decide(found).faster


def test_a_small_difference_takes_more_rounds():
    found = Machine().compare(noisy(0.97e-3, 0.03, 1), noisy(1e-3, 0.03, 2), **MANY)
    assert found.rounds > 8 and decide(found).faster


@pytest.mark.parametrize(
    "speed",
    [
        lambda now: 1 + now * 2,  # slower and slower: three times at the end
        lambda now: 1.5 + math.sin(now * 40),
        lambda now: 1.0 if int(now * 30) % 2 else 2.0,  # two clock rates
    ],
)
def test_a_machine_that_changes_its_speed_changes_both(speed: Callable[[float], float]):
    found = Machine(speed).compare(noisy(0.9e-3, 0.01, 1), noisy(1e-3, 0.01, 2), **MANY)
    assert found.ratio == pytest.approx(0.9, rel=0.03)
    same = Machine(speed).compare(noisy(1e-3, 0.01, 1), noisy(1e-3, 0.01, 2), **MANY)
    assert not decide(same).faster and same.ratio == pytest.approx(1, rel=0.02)


def test_one_after_the_other_would_be_fooled_by_that():
    """What interleaving is for: the same two, timed in blocks on a machine that slows down."""
    machine = Machine(lambda now: 1 + now * 2)
    blocks = []
    for seconds in (1e-3, 0.9e-3):
        call = machine.timed("x", lambda seconds=seconds: seconds).call
        blocks.append(median([machine.timer(lambda call=call: call(0)) for _ in range(128)]))
    assert blocks[1] > blocks[0]


def test_who_goes_first_alternates_and_inputs_rotate():
    machine = Machine()
    found = machine.compare(lambda: 1e-3, lambda: 1e-3, inputs=3, rounds=(6, 6), seconds=1e9, warmups=0, shortest_s=0.0)
    order = [name for name, what in machine.log if what == "flush"]
    assert order == ["a", "b", "b", "a"] * 3
    for name in "ab":
        assert [n for who, n in machine.log if who == name and n != "flush"] == [0, 1, 2, 0, 1, 2]
    for before, after in zip(machine.log[::2], machine.log[1::2], strict=True):
        assert before == (after[0], "flush")
    assert found.ratio == 1


def test_flushing_is_not_timed():
    machine = Machine()
    a, b = machine.timed("a", lambda: 1e-3, flush=1.0), machine.timed("b", lambda: 2e-3, flush=0.1)
    found = compare(a, b, TimingOptions(seconds=1e9), machine.timer, machine.clock)
    assert found.us == pytest.approx(1000) and found.reference_us == pytest.approx(2000)


def test_the_first_call_is_not_counted():
    first = iter([5.0])
    found = Machine().compare(lambda: next(first, 1e-3), lambda: 1e-3, seconds=1e9)
    assert found.us == pytest.approx(1000) and found.spread_us == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_outliers_decide_nothing(seed: int):
    luck = random.Random(seed)

    def with_outliers() -> float:
        return 1e-3 * (50 if luck.random() < 0.1 else 1) * math.exp(luck.gauss(0, 0.02))

    found = Machine().compare(with_outliers, noisy(1e-3, 0.02, seed + 100), **MANY)
    assert not decide(found).faster
    assert found.us == pytest.approx(1000, rel=0.05)
    better = Machine().compare(lambda: 0.8 * with_outliers(), noisy(1e-3, 0.02, seed + 100), **MANY)
    assert decide(better).faster


def test_two_modes_are_not_a_difference():
    """Each call is fast or slow as it pleases: the medians jump, the interval knows it."""
    wrong = 0
    for seed in range(100):
        luck = random.Random(seed)

        def jumps(luck: random.Random = luck) -> float:
            return luck.choice((1e-3, 1.4e-3)) * math.exp(luck.gauss(0, 0.01))

        wrong += decide(Machine().compare(jumps, jumps, seconds=1e9, rounds=(8, 64))).faster
    assert wrong <= 7  # 2.5 % of them are to be expected, on this side


def test_looking_often_is_paid_for():
    """Of 300 comparisons of a thing with itself, no more come out as different than were allowed to."""
    wrong = 0
    for seed in range(300):
        found = Machine().compare(noisy(1e-3, 0.05, seed), noisy(1e-3, 0.05, -seed - 1), seconds=1e9, precision=0.0)
        wrong += 1 not in found.interval
    assert wrong <= 0.05 * 300


def test_what_takes_no_time_is_timed_many_times_in_a_row():
    machine, calls = Machine(), 0

    def short() -> float:
        nonlocal calls
        calls += 1
        return 3e-8

    tick = 1e-6  # the clock shows no less

    def timer(call: Callable[[], None]) -> float:
        start = math.floor(machine.now / tick)
        call()
        return (math.floor(machine.now / tick) - start) * tick

    options = TimingOptions(seconds=1e9, shortest_s=50e-6)
    found = compare(machine.timed("a", short), machine.timed("b", lambda: 6e-8), options, timer, machine.clock)
    assert found.us == pytest.approx(0.03, rel=0.1) and found.ratio == pytest.approx(0.5, rel=0.1)
    assert decide(found).faster and calls > 1000


def test_what_takes_no_time_at_all_is_the_same():
    found = Machine().compare(lambda: 0.0, lambda: 0.0, seconds=1e9)
    assert found.us == 0 and found.ratio == 1 and not decide(found).faster
    only_one = Machine().compare(lambda: 1e-3, lambda: 0.0, seconds=1e9)
    assert not decide(only_one).faster


def test_the_hopeless_are_given_up():
    machine = Machine()
    found = machine.compare(noisy(1.0, 0.02, 1), noisy(1e-3, 0.02, 2), seconds=1e9)
    assert found.rounds == 3 and not decide(found).faster and found.ratio > 500


def test_the_budget_ends_it():
    machine = Machine()
    found = machine.compare(lambda: 1.0, lambda: 1.0, seconds=0.5)
    assert found.rounds == 1 and "too few" in decide(found).why
    long = machine.compare(noisy(1.0, 0.1, 1), noisy(1.0, 0.1, 2), seconds=100.0, rounds=(8, 10_000))
    assert 45 <= long.rounds <= 56


def test_a_gain_can_be_asked_for():
    found = Machine().compare(noisy(0.95e-3, 0.001, 1), noisy(1e-3, 0.001, 2), **MANY)
    assert decide(found, gain=0.03).faster and not decide(found, gain=0.1).faster


def test_options_are_checked():
    for wrong in ({"inputs": 0}, {"rounds": (8, 4)}, {"seconds": 0.0}, {"miss": 1.0}, {"hopeless": 0.5}):
        with pytest.raises(InvalidArgument):
            TimingOptions(**wrong)  # type: ignore[arg-type]


# --- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "low", "high"), [(6, 0, 5), (9, 1, 7), (20, 5, 14), (50, 17, 32), (100, 39, 60)])
def test_the_interval_of_a_median_is_that_of_the_tables(count: int, low: int, high: int):
    """Ranks for 95 %, from 0, as tables of the sign test have them."""
    assert median_interval(range(count), 0.05) == Interval(low, high)


def test_few_values_say_nothing():
    for count in range(1, 6):
        assert median_interval([1.0] * count, 0.05) == Interval(-math.inf, math.inf)


def test_it_covers_the_median_as_often_as_it_says():
    def draws(seed: int) -> Iterator[float]:
        luck = random.Random(seed)
        while True:
            yield luck.expovariate(1.0)

    missed = 0
    for seed in range(2000):
        values = [next(source) for source in [draws(seed)] for _ in range(25)]
        missed += math.log(2) not in median_interval(values, 0.1)
    assert 0.03 < missed / 2000 <= 0.11


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.sampled_from([0.3, 0.05, 0.01]))
def test_an_interval_holds_its_median(values: list[float], miss: float):
    assert median(values) in median_interval(values, miss)
    assert half_quartile_range(values) >= 0 and notch(half_quartile_range(values), len(values)) >= 0
