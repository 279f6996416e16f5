"""The search through a space: ask a sampler, refuse what is not worth it, measure the rest, keep the fastest.

    result = search(space, predict, measure, QUICK, known=stored, on_sample=store)

The default, which is the cost model's choice, is the first trial, and all others are timed in turns with it.  At the end
the best few are compared with it once more, because the least of many noisy times is too small; only one that is
faster there takes its place.  Every sample is handed over the moment it is there, so that whatever ends a run loses the
trial under way and no more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .knowledge import Knowledge, is_priced_out
from .options import COST, EXHAUSTIVE, TPE, Options
from .pruning import Inspect, Limits, Resources
from .records import MEASURED, PREDICTED, Configuration, Failure, Sample, Versions
from .samplers import Sampler, sampler_of
from .space import Predict, Prediction, Space
from .stopping import not_worth_it
from .timing import Comparison, Verdict, decide

Measure = Callable[[Configuration, Configuration], Comparison | Failure]
"""Checks the first and times it in turns with the second, which runs; or says why the first cannot be timed."""

FEW = 8  # trials before which no search is ended for want of gain
SEARCHED, UNLIMITED, UNSAID = Options(), Limits(), Versions()  # what is meant where nothing is said
LOOK_EVERY = 4  # trials between two looks at what is left to gain
PATIENCE = 2  # proposals of a sampler that may be refused, one after another


@dataclass(frozen=True)
class Progress:
    """Where a search is.  trial: how many are done, those of earlier runs included; trials: at most.  seconds_left: of the
    budget, or as the trials so far make expect, whichever is less; None before the first.
    """

    trial: int
    trials: int
    last: Sample
    best: Sample | None
    seconds: float
    seconds_left: float | None


@dataclass(frozen=True)
class Result:
    """What a search found.

    winner: what to use, which is the default unless something else is faster.  sample: of the winner; None where nothing
    is known of it.  default: of the default.  verdict: why the winner is the winner.  confirmed: whether the verdict
    comes from the last comparison.  kind: "measured" or "predicted".  samples: of this run, in their order.
    stopped: why it ended: "trials", "seconds", "gain" (what is left to gain is under the noise), "exhausted"
    (nothing is left), "interrupted".  noise: by which part two times may differ for no reason.  comparison: of the winner
    with the default, the last of this run.
    """

    winner: Configuration
    sample: Sample | None
    default: Sample | None
    verdict: Verdict
    confirmed: bool
    kind: str
    samples: tuple[Sample, ...]
    stopped: str
    trials: int
    seconds: float
    noise: float
    comparison: Comparison | None = None


def search(
    space: Space,
    predict: Predict,
    measure: Measure | None,
    options: Options = SEARCHED,
    known: Iterable[Sample] = (),
    *,
    on_sample: Callable[[Sample], None] = lambda sample: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    inspect: Inspect | None = None,
    prepare: Callable[[Configuration], None] | None = None,
    confirm: Measure | None = None,
    limits: Limits = UNLIMITED,
    versions: Versions = UNSAID,
    storage: Any = None,
    study: str = "fusecade",
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> Result:
    """Finds the fastest configuration within a budget.

    measure: may be None for the sampler `cost`, which measures nothing.  known: samples of earlier runs, which are not
    repeated.  on_sample: is handed every new sample at once.  inspect: compiles and reports resources, before `measure`.
    prepare: is told of configurations that will be inspected or measured soon, and returns at once.  confirm: as
    `measure`, with more time, for the last comparisons.  storage: an Optuna storage (or its URL) that also gets the
    trials, as the study named `study`.  clock: seconds, for budgets; now: seconds since 1970, for samples.
    Ctrl-C ends it with what was found so far; other exceptions of what is handed in come through.
    """
    run = _Run(space, predict, measure, options, on_sample, on_progress, inspect, prepare, confirm or measure, limits)
    run.versions, run.clock, run.now, run.start = versions, clock, now, clock()
    if storage is not None:
        from .studies import Studies  # which imports optuna

        run.studies = Studies(space, storage, study)
    for sample in known:
        if sample.configuration in space and not is_priced_out(sample):  # what is too dear is judged anew
            run.knowledge.add(sample)
    try:
        run.trials()
        if options.sampler != COST:
            run.last_comparisons()
    except KeyboardInterrupt:
        run.stopped = "interrupted"
    return run.result()


@dataclass
class _Run:
    space: Space
    predict: Predict
    measure: Measure | None
    options: Options
    on_sample: Callable[[Sample], None]
    on_progress: Callable[[Progress], None]
    inspect: Inspect | None
    prepare: Callable[[Configuration], None] | None
    confirm: Measure | None
    limits: Limits
    versions: Versions = UNSAID
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    start: float = 0.0
    studies: Any = None
    stopped: str = "trials"
    new: list[Sample] = field(default_factory=list)
    comparisons: dict[Configuration, Comparison] = field(default_factory=dict)
    confirmed: dict[Configuration, Comparison] = field(default_factory=dict)
    ready: deque[Configuration] = field(default_factory=deque)  # proposed and prepared
    longest: float = 0.0  # seconds that a trial took
    reference: Configuration | None = None  # what candidates are timed with: the default, or the first that runs

    def __post_init__(self) -> None:
        self.knowledge = Knowledge(self.space, self.predict, self.options.priced)

    # --- trials --------------------------------------------------------------------------------------------------

    def trials(self) -> None:
        sampler = sampler_of(self.options, self.knowledge)
        ready = self.ready
        done = spent = self._trials_of(self.knowledge.samples.values())
        while True:
            while len(ready) <= self.options.ahead and spent < self.options.trials:
                if (candidate := self._next(sampler, done)) is None:
                    break
                if self.prepare is not None:
                    self.prepare(candidate)
                ready.append(candidate)
                spent += 1
            if not ready:
                self.stopped = "trials" if spent >= self.options.trials else self.stopped
                return
            if self._too_late():
                self.stopped = "seconds"
                return
            began = self.clock()
            sample = self._trial(ready.popleft())
            self.longest = max(self.longest, self.clock() - began)
            done += 1
            self._record(sample)
            sampler.tell(sample)
            self._report(done, sample)

    def _next(self, sampler: Sampler, done: int) -> Configuration | None:
        """The next candidate that is worth a trial; says in `stopped` why there is none."""
        if self._nothing_to_gain(done):
            self.stopped = "gain"
            return None
        for _ in range(PATIENCE if self.options.sampler == TPE else self.space.size):
            if (candidate := sampler.propose()) is None:
                self.stopped = "exhausted"
                return None
            if (why := self._against(candidate)) is None:
                return candidate
            self._refuse(candidate, why, sampler)
        # The sampler comes up with nothing but slow ones.
        found = self.knowledge.most_promising(set(self.ready))
        if found is None or self._against(found[0]) is not None:
            self.stopped = "gain"
            return None
        sampler.adopt(found[0])
        return found[0]

    def _refuse(self, candidate: Configuration, why: str, sampler: Sampler) -> None:
        prediction = self.knowledge.predicted(candidate)
        assert isinstance(prediction, Prediction)
        sample = self._sample(candidate, "pruned", prediction, note=why)
        self._record(sample)
        sampler.tell(sample)

    def _against(self, candidate: Configuration) -> str | None:
        """Why a candidate is not worth compiling."""
        prediction = self.knowledge.predicted(candidate)
        assert isinstance(prediction, Prediction)
        if candidate == self.space.default:
            return None
        if (why := self.limits.against_prediction(prediction)) is not None:
            return why
        by_price = self.options.prune_by_price and self.options.sampler not in (EXHAUSTIVE, COST)
        return self.knowledge.priced_out(candidate) if by_price else None

    def _nothing_to_gain(self, done: int) -> bool:
        """Whether the best of what is left can be expected to be faster by less than the noise."""
        stops = self.options.stop_early and self.options.sampler == TPE
        if not stops or done < FEW or done % LOOK_EVERY or self.knowledge.best is None:
            return False
        found = self.knowledge.most_promising(set())
        return found is None or not_worth_it(found[1], self.knowledge.resolution)

    def _too_late(self) -> bool:
        """Whether a trial more would leave no time for the last comparisons."""
        last = min(self.options.finalists, len(self.comparisons)) * self.longest if self.confirm is not None else 0.0
        return self.clock() - self.start + self.longest + last > self.options.seconds

    def _trial(self, candidate: Configuration) -> Sample:
        prediction = self.knowledge.predicted(candidate)
        assert isinstance(prediction, Prediction)
        found = self.inspect(candidate) if self.inspect is not None else None
        if isinstance(found, Failure):
            return self._sample(candidate, found.state, prediction, note=found.note)
        if found is not None and (why := self._over_limits(candidate, found)) is not None:
            return self._sample(candidate, "pruned", prediction, found, why)
        if self.options.sampler == COST or self.measure is None:
            return self._sample(candidate, PREDICTED, prediction, found)
        outcome = self.measure(candidate, self.reference or self._reference(candidate))
        if isinstance(outcome, Comparison):
            self.comparisons[candidate] = outcome
        return self._measured(candidate, outcome, prediction, found)

    def _over_limits(self, candidate: Configuration, found: Resources) -> str | None:
        default = found if candidate == self.space.default else self.knowledge.default_resources()
        return self.limits.against(found, default)

    def _reference(self, candidate: Configuration) -> Configuration:
        """The default; where it does not run, the first that did, and the candidate itself where none did."""
        default = self.knowledge.samples.get(self.space.default)
        if default is None or default.state in (MEASURED, PREDICTED):
            return self.space.default
        ran = min(self.knowledge.measured, key=lambda s: s.configuration, default=None)
        return ran.configuration if ran is not None else candidate

    def _measured(
        self,
        candidate: Configuration,
        outcome: Comparison | Failure,
        prediction: Prediction,
        found: Resources | None,
    ) -> Sample:
        if isinstance(outcome, Failure):
            return self._sample(candidate, outcome.state, prediction, found, outcome.note)
        default = self.knowledge.samples.get(self.space.default)
        beside_default = default is None or default.state in (MEASURED, PREDICTED)
        return replace(
            self._sample(candidate, MEASURED, prediction, found, us=outcome.us),
            spread_us=outcome.spread_us,
            rounds=outcome.rounds,
            default_us=outcome.reference_us if beside_default else None,
        )

    def _sample(
        self,
        candidate: Configuration,
        state: str,
        prediction: Prediction,
        found: Resources | None = None,
        note: str = "",
        us: float | None = None,
    ) -> Sample:
        return Sample(
            candidate,
            state,
            us=us,
            predicted_us=prediction.us,
            resources=found.to_mapping() if found is not None else {},
            versions=self.versions,
            at=self.now(),
            note=note,
        )

    def _record(self, sample: Sample) -> None:
        self.new.append(sample)
        self.on_sample(sample)
        self.knowledge.add(sample)
        if self.studies is not None:
            self.studies.add(sample)

    def _report(self, done: int, sample: Sample) -> None:
        seconds, mine = self.clock() - self.start, self._trials_of(self.new)
        left = None
        if mine:
            expected = seconds / mine * max(self.options.trials - done, 0)
            left = max(min(expected, self.options.seconds - seconds), 0.0)
        self.on_progress(Progress(done, self.options.trials, sample, self.knowledge.best, seconds, left))

    def _trials_of(self, samples: Iterable[Sample]) -> int:
        """How many of them were compiled or measured in a search of this kind, and not only priced."""
        free = (PREDICTED, "pruned") if self.options.sampler != COST else ("pruned",)
        return sum(s.state not in free or (s.state == "pruned" and bool(s.resources)) for s in samples)

    # --- the winner ----------------------------------------------------------------------------------------------

    def last_comparisons(self) -> None:
        """The best few in turns with the default again, with all the time that a comparison may take."""
        default = self.space.default
        assert self.confirm is not None
        if self._reference(default) != default or not self.knowledge.measured:
            return
        for n in range(self.options.finalists):
            late = self.clock() - self.start + self.longest > self.options.seconds
            if (finalist := self._finalist()) is None or (n and late):
                return
            outcome = self.confirm(finalist.configuration, default)
            prediction = self.knowledge.predicted(finalist.configuration)
            assert isinstance(prediction, Prediction)
            found = Resources.from_mapping(finalist.resources)
            self._record(self._measured(finalist.configuration, outcome, prediction, found))
            if isinstance(outcome, Comparison):
                self.confirmed[finalist.configuration] = outcome

    def _finalist(self) -> Sample | None:
        """The fastest that was not compared again, if it is as fast as the fastest of all but for noise."""
        ordered = sorted(self.knowledge.measured, key=lambda s: (self.knowledge.score(s), s.configuration))
        margin = self.knowledge.score(ordered[0]) + 2 * self.knowledge.noise
        settled = {self.space.default, *self.confirmed}
        near = (s for s in ordered if self.knowledge.score(s) <= margin and s.configuration not in settled)
        return next(near, None)

    def result(self) -> Result:
        winner, verdict, confirmed = self._winner()
        samples, default = self.knowledge.samples, self.space.default
        sample = samples.get(winner)
        return Result(
            winner=winner,
            sample=sample,
            default=samples.get(default),
            verdict=verdict,
            confirmed=confirmed,
            kind=MEASURED if sample is not None and sample.state == MEASURED else PREDICTED,
            samples=tuple(self.new),
            stopped=self.stopped,
            trials=self._trials_of(samples.values()),
            seconds=self.clock() - self.start,
            noise=self.knowledge.noise,
            comparison=self.confirmed.get(winner) or self.comparisons.get(winner),
        )

    def _winner(self) -> tuple[Configuration, Verdict, bool]:
        default, measured = self.space.default, self.knowledge.measured
        if not measured:
            return self._predicted_winner()
        of_default = self.knowledge.samples.get(default)
        if of_default is not None and of_default.state not in (MEASURED, PREDICTED):
            best = self.knowledge.best
            assert best is not None
            return best.configuration, Verdict(True, f"the default does not run: {of_default.state}"), False
        confirmed = bool(self.confirmed)
        ratios = {c: r for c, r in (self.confirmed or self.comparisons).items() if c != default}
        for configuration in sorted(ratios, key=lambda c: (ratios[c].ratio, c)):
            if (verdict := decide(ratios[configuration])).faster:
                return configuration, verdict, confirmed
        return default, Verdict(False, "nothing is faster than the default in turns with it"), confirmed

    def _predicted_winner(self) -> tuple[Configuration, Verdict, bool]:
        """The cheapest predicted of those that compile within the limits; the default where nothing is known."""
        samples = self.knowledge.samples
        usable = [s for s in samples.values() if s.state == PREDICTED and s.predicted_us is not None]
        best = min(usable, key=lambda s: (s.predicted_us, s.configuration != self.space.default), default=None)
        if best is None:
            return self.space.default, Verdict(False, "nothing was measured"), False
        faster = best.configuration != self.space.default
        return best.configuration, Verdict(faster, "by its prediction, which nothing has measured"), False
