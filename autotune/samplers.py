"""Which configuration next: one class for each way to choose.

A sampler proposes, and is told what became of every proposal.  It knows nothing of budgets and of pruning.  The sampler
`tpe`, which needs optuna, is in a file of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Protocol

from .knowledge import Knowledge
from .options import COST, RANDOM, TPE, Options
from .records import Configuration, Sample


class Sampler(Protocol):
    def propose(self) -> Configuration | None:
        """An admissible configuration that was neither tried nor proposed before; None when there is none left."""
        ...

    def adopt(self, configuration: Configuration) -> None:
        """Somebody else's proposal, which becomes one of its own."""
        ...

    def tell(self, sample: Sample) -> None:
        """What became of a proposal."""
        ...


def sampler_of(options: Options, knowledge: Knowledge) -> Sampler:
    if options.sampler == TPE:
        from .tpe import TreeParzen  # which imports optuna

        return TreeParzen(knowledge, options.seed)
    order = _at_random(knowledge, options.seed) if options.sampler == RANDOM else _by_cost(knowledge)
    return _Listed(order, knowledge.predicted_before if options.sampler == COST else knowledge.tried)


class _Listed:
    """An order that does not depend on what is measured."""

    def __init__(self, order: Iterator[Configuration], done: Callable[[Configuration], bool]) -> None:
        self._order, self._done = order, done

    def propose(self) -> Configuration | None:
        return next((c for c in self._order if not self._done(c)), None)

    def adopt(self, configuration: Configuration) -> None:
        pass

    def tell(self, sample: Sample) -> None:
        pass


def _by_cost(knowledge: Knowledge) -> Iterator[Configuration]:
    """The default, then the cheapest predicted first."""
    default = knowledge.space.default
    yield default
    yield from (c for c in knowledge.ranked if c != default)


def _at_random(knowledge: Knowledge, seed: int) -> Iterator[Configuration]:
    """The default, then all admissible ones, each as probable as any other."""
    default = knowledge.space.default
    others = [c for c in knowledge.ranked if c != default]
    random.Random(seed).shuffle(others)
    yield default
    yield from others
