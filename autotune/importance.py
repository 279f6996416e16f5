"""Which parameters made the difference between the fast configurations of a kernel and all that were measured.

Optuna's PED-ANOVA (Watanabe, Bansal and Hutter, 2023; with parameters that only some walks have, as its version of 2026
treats them): how much the values among the fastest differ from those among all, for each parameter.  It says what the
search found to matter where it looked, not what would matter everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from .records import Configuration

FASTEST = 5  # at least so many make up "the fastest"; a tenth of all, where that is more
LEAST = 2 * FASTEST  # with fewer measured configurations nothing is said
WALK = "the walk"


def importance(times: Sequence[tuple[Configuration, float]]) -> dict[str, float]:
    """The part of each parameter, the largest first, with a sum of 1; nothing where too few were measured.

    times: of each configuration once; parts of the default's, so that those of several runs can be compared.
    Parameters that had one value only are left out.
    """
    if len(times) < LEAST:
        return {}
    import optuna

    from .tpe import quiet

    values: dict[str, list[int]] = {}
    for configuration, _ in times:
        for name, value in configuration.values:
            values.setdefault(name, []).append(value)
    ordered = {name: sorted(set(found)) for name, found in values.items()}
    walks = sorted({configuration.variant for configuration, _ in times})
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.IntDistribution(0, len(found) - 1)
        for name, found in ordered.items()
        if len(found) > 1
    }
    if len(walks) > 1:
        distributions[WALK] = optuna.distributions.CategoricalDistribution(walks)
    if not distributions:
        return {}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of walks that few trials have
        study = optuna.create_study()
        for configuration, time in times:
            places = {n: ordered[n].index(v) for n, v in configuration.values if n in distributions}
            params = places | ({WALK: configuration.variant} if WALK in distributions else {})
            used = {name: distributions[name] for name in params}
            study.add_trial(optuna.trial.create_trial(value=time, params=params, distributions=used))
        part = max(0.1, FASTEST / len(times))
        judge = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=part)
        found = optuna.importance.get_param_importances(study, evaluator=judge)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
