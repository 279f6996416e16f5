"""The sampler `tpe`: Optuna's tree-structured Parzen estimator, started from what the cost model holds for best.

Only this file, `samplers.py` when it is asked for `tpe`, `studies.py` and `importance.py` import optuna.  The study is in
memory and holds the proposals; what came of them is also kept in a storage where one is handed in (`studies.py`).

Parameters go in as the number of their value in increasing order, so that near values are near.  A parameter of several
walks is one parameter as long as its values are the same.  Proposals that are inadmissible or known already end as
failed trials, of which the estimator learns nothing; configurations that crash or are pruned end as pruned, which it
avoids.  Where it only repeats itself, the configuration with the most to expect takes its place.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections import deque
from collections.abc import Iterator

import optuna

from .knowledge import Knowledge, is_priced_out
from .records import MEASURED, PREDICTED, Configuration, Sample
from .space import Space

STARTS = 10  # proposals before the estimator's first: the default, the best of each walk, the best that differ
APART = 2  # parameters in which those differ
TRIES = 3  # proposals that may be of no use, one after another
WALK = "(walk)"


class TreeParzen:
    """Proposes by Optuna; deterministic for a seed and the same samples."""

    def __init__(self, knowledge: Knowledge, seed: int) -> None:
        self._knowledge = knowledge
        self._axes = Axes(knowledge.space)
        self._open: dict[Configuration, optuna.Trial] = {}
        with quiet():
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=STARTS)
            self._study = optuna.create_study(sampler=sampler)
            for sample in list(knowledge.samples.values()):
                if (trial := self._finished(sample)) is not None:
                    self._study.add_trial(trial)
        self._starts = deque(starts(knowledge))

    def propose(self) -> Configuration | None:
        while self._starts:
            if self._new(start := self._starts.popleft()):
                self.adopt(start)
                return start
        for _ in range(TRIES):
            with quiet():
                trial = self._study.ask()
                configuration = self._axes.ask(trial)
            if self._new(configuration):
                self._open[configuration] = trial
                return configuration
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if (found := self._knowledge.most_promising(set(self._open))) is None:
            return None
        self.adopt(found[0])
        return found[0]

    def adopt(self, configuration: Configuration) -> None:
        """Makes it a proposal of the study, which has no other one waiting."""
        with quiet():
            self._study.enqueue_trial(self._axes.params(configuration))
            trial = self._study.ask()
            self._open[self._axes.ask(trial)] = trial

    def tell(self, sample: Sample) -> None:
        trial = self._open.pop(sample.configuration)
        state, value = self._outcome(sample)
        self._study.tell(trial, value, state)

    def _new(self, configuration: Configuration) -> bool:
        known = configuration in self._open or self._knowledge.tried(configuration)
        return not known and math.isfinite(self._knowledge.predicted_us(configuration))

    def _outcome(self, sample: Sample) -> tuple[optuna.trial.TrialState, float | None]:
        if sample.state == MEASURED:
            return optuna.trial.TrialState.COMPLETE, max(self._knowledge.score(sample), math.log(1e-9))
        unseen = sample.state == PREDICTED or is_priced_out(sample)
        return optuna.trial.TrialState.FAIL if unseen else optuna.trial.TrialState.PRUNED, None

    def _finished(self, sample: Sample) -> optuna.trial.FrozenTrial | None:
        """The trial of a sample of an earlier run."""
        state, value = self._outcome(sample)
        if state == optuna.trial.TrialState.FAIL:
            return None
        params = self._axes.params(sample.configuration)
        distributions = {name: self._axes.distribution(name) for name in params}
        return optuna.trial.create_trial(state=state, value=value, params=params, distributions=distributions)


class Axes:
    """The parameters of a space as Optuna sees them."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._walks = [v.name for v in space.variants]
        everywhere: dict[str, set[tuple[int, ...]]] = {}
        for variant in space.variants:
            for name, values in variant.parameters:
                everywhere.setdefault(name, set()).add(tuple(sorted(values)))
        self._axis = {
            (variant.name, name): name if len(everywhere[name]) == 1 else f"{name} of {variant.name}"
            for variant in space.variants
            for name, _ in variant.parameters
        }
        self._values = {
            self._axis[variant.name, name]: sorted(values)
            for variant in space.variants
            for name, values in variant.parameters
        }

    def distribution(self, axis: str) -> optuna.distributions.BaseDistribution:
        if axis == WALK:
            return optuna.distributions.CategoricalDistribution(self._walks)
        return optuna.distributions.IntDistribution(0, len(self._values[axis]) - 1)

    def params(self, configuration: Configuration) -> dict[str, str | int]:
        found: dict[str, str | int] = {WALK: configuration.variant} if len(self._walks) > 1 else {}
        for name, value in configuration.values:
            axis = self._axis[configuration.variant, name]
            found[axis] = self._values[axis].index(value)
        return found

    def ask(self, trial: optuna.Trial) -> Configuration:
        """Which configuration a trial is of: first its walk, then the parameters that this walk has."""
        walk = self._walks[0] if len(self._walks) == 1 else trial.suggest_categorical(WALK, self._walks)
        values = {}
        for name in self._space.variant(walk).choices:
            axis = self._axis[walk, name]
            values[name] = self._values[axis][trial.suggest_int(axis, 0, len(self._values[axis]) - 1)]
        return Configuration.of(walk, values)


def starts(knowledge: Knowledge) -> list[Configuration]:
    """The default, the best predicted of each walk, and the best predicted that differ from all of these."""
    found = [knowledge.space.default]
    walks = {found[0].variant}
    for c in knowledge.ranked:
        if len(found) < STARTS and c.variant not in walks:
            walks.add(c.variant)
            found.append(c)
    for c in knowledge.ranked:
        if len(found) >= STARTS:
            break
        if all(apart(c, other) >= APART for other in found):
            found.append(c)
    return found


def apart(one: Configuration, other: Configuration) -> int:
    """In how many parameters two configurations differ; another walk differs in all of them."""
    if one.variant != other.variant:
        return max(len(one.values), len(other.values), APART)
    return sum(a != b for a, b in zip(one.values, other.values, strict=True))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna announces studies and experimental options; that is not for whoever waits for a kernel."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
