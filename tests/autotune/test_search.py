"""The search: on landscapes that look like kernels, against exhaustive search and against chance; and its rules."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecade.autotune.knowledge import Knowledge, is_priced_out
from fusecade.autotune.options import Options
from fusecade.autotune.pruning import Limits, Resources
from fusecade.autotune.records import Configuration, Failure, Sample
from fusecade.autotune.search import Progress, Result, search
from fusecade.autotune.space import Inadmissible, Prediction, Space
from fusecade.autotune.statistics import Interval
from fusecade.autotune.timing import Comparison
from fusecade.autotune.tpe import TreeParzen, starts

sys.path.insert(0, str(Path(__file__).parent))  # for its neighbour

from landscapes import Landscape, landscapes

NEAR = 0.05
LANDSCAPES = landscapes()
EVERY_THIRD = range(0, len(LANDSCAPES), 3)


@cache
def tried(number: int, sampler: str, seed: int) -> tuple[float, Result]:
    """The regret of one search of 60 trials, and what it found."""
    land = LANDSCAPES[number]
    land.measured.clear()
    by_price = sampler != "random"
    options = Options(sampler=sampler, trials=60, seed=seed, prune_by_price=by_price)
    found = search(land.space, land.predict, land.measure, options, confirm=land.confirm)
    return land.regret(found.winner), found


def table(numbers: range, seeds: int) -> tuple[dict[str, list[float]], str]:
    """Regrets by sampler, and a line for each landscape."""
    lines = [f"{'landscape':22}{'points':>7}{'default':>9}{'tpe':>26}{'trials':>13}{'random':>26}"]
    regrets: dict[str, list[float]] = {"tpe": [], "random": []}
    for n in numbers:
        land = LANDSCAPES[n]
        runs = {sampler: [tried(n, sampler, seed) for seed in range(seeds)] for sampler in regrets}
        for sampler, these in runs.items():
            regrets[sampler] += [regret for regret, _ in these]
        tpe, chance = (" ".join(f"{100 * regret:.1f}%" for regret, _ in runs[s]) for s in ("tpe", "random"))
        trials = " ".join(str(result.trials) for _, result in runs["tpe"])
        default = f"{100 * land.regret(land.space.default):.0f}%"
        lines.append(f"{land.name:22}{len(land.truth):7}{default:>9}{tpe:>26}{trials:>13}{chance:>26}")
    for sampler, values in regrets.items():
        near = sum(r <= NEAR for r in values)
        lines.append(f"{sampler}: {near} of {len(values)} within 5 %, mean {100 * sum(values) / len(values):.1f} %")
    return regrets, "\n".join(lines)


def check(regrets: dict[str, list[float]]) -> None:
    tpe, chance = regrets["tpe"], regrets["random"]
    assert sum(r <= NEAR for r in tpe) >= 0.85 * len(tpe)
    assert sum(tpe) / len(tpe) <= 0.03
    assert sorted(tpe)[len(tpe) // 2] <= 0.01
    assert sum(tpe) < 0.5 * sum(chance)


def test_sixty_trials_come_near_to_all_of_them():
    """Where all points were measured without noise, the winner of 60 noisy trials is within 5 % of the best of them."""
    regrets, text = table(EVERY_THIRD, seeds=1)
    print(text)
    check(regrets)


@pytest.mark.slow
def test_sixty_trials_come_near_to_all_of_them_with_any_seed():
    regrets, text = table(range(len(LANDSCAPES)), seeds=4)
    print(text)
    check(regrets)


def test_no_winner_is_slower_than_the_default():
    for n in EVERY_THIRD:
        for sampler in ("tpe", "random"):
            regret, _ = tried(n, sampler, 0)
            assert regret <= LANDSCAPES[n].regret(LANDSCAPES[n].space.default)


def test_exhaustive_search_finds_the_best():
    land = min(LANDSCAPES, key=lambda land: len(land.truth) if land.regret(land.space.default) > 0.1 else math.inf)
    land.measured.clear()
    found = search(land.space, land.predict, land.measure, Options("exhaustive", trials=10_000), confirm=land.confirm)
    assert found.stopped == "exhausted" and found.trials == len(land.truth)
    assert land.regret(found.winner) <= 0.02
    assert found.confirmed and found.verdict.faster and found.kind == "measured"


# --- rules -----------------------------------------------------------------------------------------------------------

SMALL = Space.of(
    {
        "i grid": {"BI": (64, 16, 32, 128), "BJ": (32, 64, 128), "num_warps": (4, 8)},
        "shares": {"BI": (64, 128), "each": (4, 8, 16)},
    }
)


PLAIN = Options()


class Toy:
    """A small kernel: what is asked of it is written down.  bad: what does not run."""

    def __init__(self, seed: int = 0, bad: frozenset[int] = frozenset()) -> None:
        self.seed, self.bad = seed, bad
        self.predicted: list[Configuration] = []
        self.asked: list[Configuration] = []
        self.confirmed: list[Configuration] = []
        self.order = list(SMALL)

    def predict(self, c: Configuration) -> Prediction | Inadmissible | None:
        self.predicted.append(c)
        if dict(c.values).get("BI", 0) == 128 and dict(c.values).get("BJ") == 128:
            return Inadmissible("too wide")
        return Prediction(100.0 + 5 * self.order.index(c) % 37)

    def us(self, c: Configuration) -> float:
        return 80.0 + (31 + self.order.index(c) * (7 + self.seed)) % 61

    def measure(self, c: Configuration, reference: Configuration) -> Comparison | Failure:
        self.asked.append(c)
        return self.time(c, reference)

    def confirm(self, c: Configuration, reference: Configuration) -> Comparison | Failure:
        self.confirmed.append(c)
        return self.time(c, reference)

    def time(self, c: Configuration, reference: Configuration) -> Comparison | Failure:
        assert self.order.index(reference) not in self.bad or reference == c, "timed in turns with what does not run"
        if self.order.index(c) in self.bad:
            return Failure("crashed", "SIGSEGV")
        mine, theirs = self.us(c), self.us(reference)
        ratio = mine / theirs
        return Comparison(mine, 0.01 * mine, 16, theirs, ratio, Interval(0.99 * ratio, 1.01 * ratio))

    def admissible(self) -> set[Configuration]:
        return {c for c in SMALL if isinstance(self.predict(c), Prediction)}

    def search(self, options: Options = PLAIN, **more) -> Result:
        return search(SMALL, self.predict, self.measure, options, confirm=self.confirm, **more)


OPTIONS = st.builds(
    Options,
    sampler=st.sampled_from(["tpe", "random", "exhaustive"]),
    trials=st.integers(1, 40),
    seed=st.integers(0, 3),
    ahead=st.integers(0, 3),
    prune_by_price=st.booleans(),
    stop_early=st.booleans(),
)
BAD = st.frozensets(st.integers(0, SMALL.size - 1), max_size=12)


@settings(max_examples=25)
@given(OPTIONS, BAD, st.integers(0, 5))
def test_nothing_is_measured_twice_or_outside_of_the_space_and_all_is_recorded(options: Options, bad, seed: int):
    toy, recorded = Toy(seed, bad), []
    found = toy.search(options, on_sample=recorded.append)
    assert len(set(toy.asked)) == len(toy.asked) <= options.trials
    assert set(toy.asked) <= toy.admissible()
    assert toy.asked[0] == SMALL.default
    assert recorded == list(found.samples)
    trials = [s.configuration for s in recorded if s.state in ("measured", "crashed")]
    assert trials == toy.asked + toy.confirmed
    assert found.winner in SMALL
    if (of_default := found.default) is not None and of_default.state == "measured":
        assert toy.us(found.winner) <= toy.us(SMALL.default)


@settings(max_examples=20)
@given(OPTIONS, BAD, st.integers(0, 5), st.integers(1, 40))
def test_a_run_that_was_cut_off_goes_on_without_repeating(options: Options, bad, seed: int, cut: int):
    """Whatever was recorded before is not measured again; what a finished run found, it finds again."""
    first, kept = Toy(seed, bad), []

    def record(sample: Sample) -> None:
        if len(kept) == cut:
            raise KeyboardInterrupt
        kept.append(sample)

    first.search(options, on_sample=record)
    again, samples = Toy(seed, bad), list(kept)
    whole = again.search(options, known=tuple(kept), on_sample=samples.append)
    assert not {s.configuration for s in kept if not is_priced_out(s)} & set(again.asked)
    assert whole.trials <= options.trials
    third = Toy(seed, bad)
    same = third.search(options, known=tuple(samples))
    if whole.stopped == "trials" or options.sampler == "exhaustive":
        assert third.asked == [] and same.winner == whole.winner


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_and_times_give_the_same_search(sampler: str):
    def samples(seed: int) -> list[tuple[Configuration, str]]:
        land = landscapes()[9]
        options = Options(sampler, trials=25, seed=seed)
        found = search(land.space, land.predict, land.measure, options, confirm=land.confirm)
        return [(s.configuration, s.state) for s in found.samples]

    assert samples(1) == samples(1) != samples(2)


def test_the_default_that_does_not_run_is_replaced():
    toy = Toy(bad=frozenset({0}))
    found = toy.search()
    assert toy.asked[0] == SMALL.default != found.winner
    assert found.default is not None and found.default.state == "crashed"
    assert "does not run" in found.verdict.why
    assert all(s.default_us is None for s in found.samples)


def test_where_nothing_runs_the_default_stays():
    found = Toy(bad=frozenset(range(SMALL.size))).search(Options("exhaustive"))
    assert found.winner == SMALL.default and not found.verdict.faster
    assert {s.state for s in found.samples} == {"crashed"}


def test_a_lucky_trial_does_not_win():
    """One that seemed faster, and is slower when it is compared again."""
    toy = Toy()
    lucky = next(c for c in toy.order if toy.us(c) > toy.us(SMALL.default) and c in toy.admissible())

    def measure(c: Configuration, reference: Configuration) -> Comparison | Failure:
        found = toy.measure(c, reference)
        fast = Comparison(1.0, 0.01, 16, 80.0, 0.0125, Interval(0.01, 0.02))
        return fast if c == lucky else found

    found = search(SMALL, toy.predict, measure, Options("exhaustive"), confirm=toy.confirm)
    assert toy.confirmed[0] == lucky != found.winner
    assert toy.us(found.winner) == min(map(toy.us, toy.asked))
    kept = [s for s in found.samples if s.configuration == lucky]
    assert len(kept) == 2 and kept[0].us == 1.0 and kept[1].us == toy.us(lucky)


def test_equally_fast_is_no_reason_to_change():
    def measure(c: Configuration, reference: Configuration) -> Comparison:
        return Comparison(10.0, 0.1, 64, 10.0, 0.995, Interval(0.985, 1.005))

    found = search(SMALL, Toy().predict, measure, Options(trials=20))
    assert found.winner == SMALL.default and not found.verdict.faster


def test_ctrl_c_gives_what_was_found():
    toy = Toy()

    def measure(c: Configuration, reference: Configuration) -> Comparison | Failure:
        if len(toy.asked) == 12:
            raise KeyboardInterrupt
        return toy.measure(c, reference)

    found = search(SMALL, toy.predict, measure, Options("exhaustive"), confirm=toy.confirm)
    assert found.stopped == "interrupted" and len(found.samples) == 12 and not found.confirmed
    assert toy.us(found.winner) == min(map(toy.us, toy.asked))


def test_other_exceptions_come_through():
    def measure(c: Configuration, reference: Configuration) -> Comparison:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(SMALL, Toy().predict, measure)


def test_seconds_are_a_budget():
    now = 0.0
    toy = Toy()

    def slow(measure):
        def timed(c: Configuration, reference: Configuration) -> Comparison | Failure:
            nonlocal now
            now += 2.0
            return measure(c, reference)

        return timed

    shown: list[Progress] = []
    found = search(
        SMALL, toy.predict, slow(toy.measure), Options("exhaustive", seconds=25.0), confirm=slow(toy.confirm),
        clock=lambda: now, on_progress=shown.append,
    )  # fmt: skip
    assert found.stopped == "seconds" and found.confirmed
    assert 15 <= found.seconds <= 25
    assert [p.trial for p in shown] == list(range(1, len(shown) + 1))
    assert all(p.seconds_left is not None and p.seconds + p.seconds_left <= 25 for p in shown)
    assert shown[-1].best is not None and shown[-1].best.us == min(toy.us(c) for c in toy.asked)


def test_it_stops_when_what_is_left_is_under_the_noise():
    """A cost model that is right leaves nothing to find behind its first choices."""
    space = Space.of({"i grid": {"BI": tuple(range(16, 1616, 16)), "BJ": (32, 64, 128)}})
    order = {c: n for n, c in enumerate(space)}

    def us(c: Configuration) -> float:
        return 100 * 1.01 ** order[c]

    def measure(c: Configuration, reference: Configuration) -> Comparison:
        ratio = us(c) / us(reference)
        return Comparison(us(c), 0.02 * us(c), 16, us(reference), ratio, Interval(0.98 * ratio, 1.02 * ratio))

    found = search(space, lambda c: Prediction(us(c)), measure, Options(trials=200))
    assert found.stopped == "gain" and found.trials < 40 and found.winner == space.default
    on = search(space, lambda c: Prediction(us(c)), measure, Options(trials=60, stop_early=False, prune_by_price=False))
    assert on.stopped == "trials" and on.trials == 60


# --- what is pruned --------------------------------------------------------------------------------------------------


def resources(c: Configuration) -> Resources | Failure | None:
    values = dict(c.values)
    if values.get("num_warps") == 8 and values["BI"] == 16:
        return Failure("invalid", "not enough rows for eight warps")
    spills = 64 if values.get("BJ") == 128 else 0
    return Resources(128, spills, 1024 * values["BI"], 50 if values["BI"] < 128 else 25)


def test_what_the_compiler_reports_is_pruned_before_it_is_timed():
    toy = Toy()
    limits = Limits(shared_bytes=100_000, occupancy_percent=30)
    found = toy.search(Options("exhaustive"), inspect=resources, limits=limits)
    by_state = {state: [s for s in found.samples if s.state == state] for state in ("pruned", "invalid", "measured")}
    assert all(by_state.values())
    notes = " ".join(s.note for s in by_state["pruned"])
    assert "spills 64 bytes" in notes and "131072 bytes of shared memory, of 100000" in notes
    assert {s.note for s in by_state["invalid"]} == {"not enough rows for eight warps"}
    timed = {s.configuration for s in by_state["measured"]}
    assert timed == set(toy.asked) and all(s.resources["registers"] == 128 for s in by_state["measured"])
    assert not timed & {s.configuration for s in by_state["pruned"] + by_state["invalid"]}
    low = toy.search(Options("exhaustive"), inspect=resources, limits=Limits(occupancy_percent=30))
    assert any("occupies 25 %" in s.note for s in low.samples)


def test_where_the_default_spills_others_may():
    def all_spill(c: Configuration) -> Resources:
        return Resources(255, 128 if c == SMALL.default else 64 + dict(c.values)["BI"])

    found = Toy().search(Options("exhaustive"), inspect=all_spill)
    assert all((s.resources["spill_bytes"] > 128) == (s.state == "pruned") for s in found.samples)
    assert {s.state for s in found.samples} == {"pruned", "measured"}


def test_a_footprint_is_pruned_before_it_is_compiled():
    compiled: list[Configuration] = []

    def predict(c: Configuration) -> Prediction:
        return Prediction(100.0, footprint_bytes=1000 * dict(c.values)["BI"])

    def inspect(c: Configuration) -> None:
        compiled.append(c)

    found = search(
        SMALL, predict, Toy().measure, Options("exhaustive"), inspect=inspect, limits=Limits(footprint_bytes=64_000)
    )
    assert {dict(c.values)["BI"] for c in compiled} == {16, 32, 64}
    assert {dict(s.configuration.values)["BI"] for s in found.samples if s.state == "pruned"} == {128}


def test_prices_prune_what_cannot_win():
    """Everything is as predicted: what is predicted to take five times as long is never measured."""
    space = Space.of({"i grid": {"BI": (16, 32, 64, 128), "BJ": (16, 32, 64, 128), "num_warps": (1, 2, 4, 8)}})
    measured: list[float] = []

    def predict(c: Configuration) -> Prediction:
        return Prediction(100 * math.prod(1 + 0.2 * space.variants[0].choices[n].index(v) for n, v in c.values))

    def measure(c: Configuration, reference: Configuration) -> Comparison:
        mine, theirs = 2 * predict(c).us, 2 * predict(reference).us
        measured.append(mine / 200)
        return Comparison(
            mine, 0.02 * mine, 16, theirs, mine / theirs, Interval(0.98 * mine / theirs, 1.02 * mine / theirs)
        )

    found = search(space, predict, measure, Options(sampler="random", trials=64))
    pruned = [s for s in found.samples if s.state == "pruned"]
    assert pruned and all("times the best, by its price" in s.note for s in pruned)
    assert max(measured[20:], default=1.0) < 2.5
    assert found.winner == space.default


# --- without measuring -----------------------------------------------------------------------------------------------


def price(sample: Sample) -> float:
    assert sample.predicted_us is not None
    return sample.predicted_us


def test_the_cost_model_alone_measures_nothing():
    found = search(SMALL, Toy().predict, None, Options("cost", trials=30), inspect=resources)
    assert found.kind == "predicted" and {s.state for s in found.samples} <= {"predicted", "pruned", "invalid"}
    usable = [s for s in found.samples if s.state == "predicted"]
    assert found.sample in usable
    assert found.sample.predicted_us == min(price(s) for s in usable)
    prices = [price(s) for s in found.samples[1:]]
    assert prices == sorted(prices) and found.samples[0].configuration == SMALL.default
    again = search(SMALL, Toy().predict, None, Options("cost", trials=30), known=found.samples, inspect=resources)
    assert again.samples == () and again.winner == found.winner


def test_a_measured_run_starts_from_predictions():
    offline = search(SMALL, Toy().predict, None, Options("cost", trials=30), inspect=resources)
    toy = Toy()
    found = toy.search(Options(trials=20), known=offline.samples)
    ruled_out = {s.configuration for s in offline.samples if s.state != "predicted"}
    assert found.kind == "measured" and not set(toy.asked) & ruled_out
    assert toy.us(found.winner) <= toy.us(SMALL.default)


def test_samples_of_another_space_are_left_alone():
    strange = Sample(Configuration.of("i grid", {"BI": 7}), "measured", us=0.1)
    found = Toy().search(Options(trials=10), known=[strange])
    assert found.winner in SMALL and found.sample != strange


# --- what goes on around it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 2])
def test_candidates_are_announced_ahead(ahead: int):
    toy, announced = Toy(), []

    def measure(c: Configuration, reference: Configuration) -> Comparison | Failure:
        assert c in announced
        if len(toy.asked) < 10:
            assert len(announced) == len(toy.asked) + 1 + ahead
        return toy.measure(c, reference)

    search(
        SMALL, toy.predict, measure, Options("exhaustive", ahead=ahead), prepare=announced.append, confirm=toy.confirm
    )
    assert announced == toy.asked


def test_a_large_space_is_not_predicted_as_a_whole():
    names = [f"B{n}" for n in range(9)]
    space = Space.of({"large": dict.fromkeys(names, (8, 1, 2, 4, 16, 32))})
    toy_asked: set[Configuration] = set()

    def predict(c: Configuration) -> Prediction:
        toy_asked.add(c)
        return Prediction(10.0 + sum(abs(math.log2(v) - 4) for _, v in c.values))

    def measure(c: Configuration, reference: Configuration) -> Comparison:
        mine, theirs = predict(c).us, predict(reference).us
        return Comparison(
            mine, 0.02 * mine, 16, theirs, mine / theirs, Interval(0.98 * mine / theirs, 1.02 * mine / theirs)
        )

    found = search(space, predict, measure, Options(trials=20, priced=300))
    assert len(toy_asked) < 10_000 < space.size
    assert predict(found.winner).us == 10.0


def test_studies_are_kept_for_the_dashboard(tmp_path: Path):
    import optuna

    url = f"sqlite:///{tmp_path / 'studies.db'}"
    toy = Toy(bad=frozenset({3}))
    found = toy.search(Options("exhaustive", trials=8), storage=url, study="a kernel")
    search(
        SMALL,
        toy.predict,
        toy.measure,
        Options("exhaustive", trials=12),
        known=found.samples,
        storage=url,
        study="a kernel",
    )
    [name] = optuna.get_all_study_names(url)
    study = optuna.load_study(study_name=name, storage=url)
    assert name.startswith("a kernel-")
    states = [t.state.name for t in study.trials]
    assert len(states) >= 12 and set(states) == {"COMPLETE", "FAIL"}
    best = study.best_trial
    assert best.value == min(t.value for t in study.trials if t.value is not None)
    assert best.params["BI of i grid"] in (16, 32, 64, 128) and best.user_attrs["state"] == "measured"


def test_what_is_said_of_a_sample_is_kept():
    toy = Toy()
    found = toy.search(Options(trials=5), now=lambda: 1234.5)
    for sample in found.samples:
        assert sample.at == 1234.5 and sample.predicted_us is not None
        if sample.state == "measured":
            assert sample.default_us == toy.us(SMALL.default) and sample.rounds == 16 and sample.spread_us


def test_two_samples_of_a_configuration_count_as_the_later():
    toy = Toy()
    one = Sample(SMALL.default, "measured", us=50.0, default_us=50.0)
    found = toy.search(Options(trials=1), known=[one, replace(one, us=70.0, default_us=70.0)])
    assert found.default is not None and found.default.us == 70.0 and toy.asked == []


def test_landscapes_are_as_they_say():
    """Deviations of up to 30 %, cliffs beyond them, and failures."""
    for land in LANDSCAPES:
        ratios = [us / land.price(c).us / land.factor for c, us in itertools.islice(land.truth.items(), 500)]
        smooth = [r for r in ratios if r < 1.35]
        assert 1 / 1.31 < min(smooth) < 0.85 and 1.15 < max(smooth) < 1.31
        assert isinstance(land, Landscape) and 60 < len(land.truth) < 5000
    assert any(
        len(land.truth) < len([c for c in land.space if isinstance(land.predict(c), Prediction)]) for land in LANDSCAPES
    )


# --- what samples say ------------------------------------------------------------------------------------------------


def knowledge_of(us: Callable[[Configuration], float], known: Iterable[Configuration]) -> Knowledge:
    """Of SMALL, where everything is predicted to take 100 us."""
    knowledge = Knowledge(SMALL, lambda c: Prediction(100.0), 5000)
    for c in known:
        knowledge.add(Sample(c, "measured", us=us(c), spread_us=0.5, rounds=16, default_us=us(SMALL.default)))
    return knowledge


def test_a_value_that_is_faster_wherever_it_was_tried_is_expected_to_be_so_elsewhere():
    def us(c: Configuration) -> float:
        return 70.0 if dict(c.values).get("num_warps") == 8 else 100.0

    points = [c for c in SMALL if c.variant == "i grid"]
    knowledge = knowledge_of(us, points[:16])
    fast, slow = (next(c for c in points[16:] if dict(c.values)["num_warps"] == warps) for warps in (8, 4))
    assert knowledge.priced_out(slow) is not None and knowledge.priced_out(fast) is None
    promising = knowledge.most_promising(set())
    assert promising is not None and dict(promising[0].values).get("num_warps", 8) == 8


def test_a_cliff_is_not_the_fault_of_everything_on_it():
    """BI = 16 with 8 warps takes four times as long; the two apart from each other do not."""

    def us(c: Configuration) -> float:
        values = dict(c.values)
        return 400.0 if values["BI"] == 16 and values.get("num_warps") == 8 else 100.0

    points = [c for c in SMALL if c.variant == "i grid"]
    knowledge = knowledge_of(us, [c for c in points if dict(c.values)["BJ"] != 128])
    left = [c for c in points if not knowledge.tried(c)]
    assert all(knowledge.priced_out(c) is None for c in left)
    seen = {c for c in SMALL if c.variant == "shares"}
    for _ in range(len(left) - 1):  # the one on the cliff comes last
        seen.add(found := promising(knowledge, seen))
        assert us(found) == 100.0
    assert us(promising(knowledge, seen)) == 400.0


def promising(knowledge: Knowledge, without: set[Configuration]) -> Configuration:
    found = knowledge.most_promising(without)
    assert found is not None
    return found[0]


def test_a_proposal_of_somebody_else_does_not_come_between_the_first_ones():
    knowledge = knowledge_of(lambda c: 100.0, [])
    sampler = TreeParzen(knowledge, seed=0)
    first = [sampler.propose() for _ in range(2)]
    other = next(c for c in SMALL if c not in starts(knowledge))
    sampler.adopt(other)
    sampler.tell(Sample(other, "measured", us=1.0))
    assert [*first, *(sampler.propose() for _ in range(3))] == starts(knowledge)[:5]
