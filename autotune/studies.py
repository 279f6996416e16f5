"""Samples as the trials of an Optuna study, in a storage that `optuna-dashboard` opens.

A trial is written when its sample is there, and finished: whatever ends the process leaves no trial that seems to run.
"""

from __future__ import annotations

import hashlib
from typing import Any

import optuna

from .records import MEASURED, PREDICTED, Sample
from .space import Space
from .tpe import WALK, quiet


class Studies:
    """The study of a space.  Its name ends in a hash of the space, because the values of a parameter may not change."""

    def __init__(self, space: Space, storage: Any, name: str) -> None:
        self.name = f"{name}-{hashlib.sha256(repr(space.variants).encode()).hexdigest()[:8]}"
        with quiet():
            self._study = optuna.create_study(storage=storage, study_name=self.name, load_if_exists=True)
        self._space = space

    def add(self, sample: Sample) -> None:
        """Measured samples are complete, failures and what was pruned are so; predictions are no trials."""
        if sample.state == PREDICTED:
            return
        states = optuna.trial.TrialState
        failed = states.PRUNED if sample.state == "pruned" else states.FAIL
        attributes = {"state": sample.state, "note": sample.note, **sample.resources}
        times = {"predicted_us": sample.predicted_us, "default_us": sample.default_us, "spread_us": sample.spread_us}
        walk = optuna.distributions.CategoricalDistribution([v.name for v in self._space.variants])
        params: dict[str, Any] = {WALK: sample.configuration.variant}
        distributions: dict[str, optuna.distributions.BaseDistribution] = {WALK: walk}
        for name, values in self._space.variant(sample.configuration.variant).parameters:
            axis = name if len(self._values(name)) == 1 else f"{name} of {sample.configuration.variant}"
            params[axis] = dict(sample.configuration.values)[name]
            distributions[axis] = optuna.distributions.CategoricalDistribution(sorted(values))
        self._study.add_trial(
            optuna.trial.create_trial(
                state=states.COMPLETE if sample.state == MEASURED else failed,
                value=sample.us,
                params=params,
                distributions=distributions,
                user_attrs=attributes | {name: value for name, value in times.items() if value is not None},
            )
        )

    def _values(self, name: str) -> set[tuple[int, ...]]:
        """The lists of values that a parameter has, over all walks."""
        return {tuple(sorted(v.choices[name])) for v in self._space.variants if name in v.choices}
