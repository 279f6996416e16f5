"""How long and how a search searches: frozen records, and the two that have names."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InvalidArgument

COST, TPE, RANDOM, EXHAUSTIVE = SAMPLERS = ("cost", "tpe", "random", "exhaustive")


@dataclass(frozen=True)
class Options:
    """sampler: one of SAMPLERS.  trials: configurations measured or compiled, those of an earlier run included.
    seconds: of the whole search, the last comparisons included; a trial under way is not cut off, so whatever measures
    needs a deadline: candidate_seconds, for one candidate with everything.  ahead: how many further candidates are
    handed to `prepare` while one is timed.  prune_by_price: give up candidates that the corrected cost model holds for
    too slow.  stop_early: stop when the expected gain is under the noise.  finalists: how many of the best are compared
    with the default once more.  priced: how many configurations of a large space are predicted.
    """

    sampler: str = TPE
    trials: int = 60
    seconds: float = math.inf
    candidate_seconds: float = 30.0
    seed: int = 0
    ahead: int = 2
    prune_by_price: bool = True
    stop_early: bool = True
    finalists: int = 3
    priced: int = 5000

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise InvalidArgument.choice("sampler", self.sampler, SAMPLERS)
        if min(self.trials, self.finalists, self.priced) < 1 or self.ahead < 0:
            raise InvalidArgument(f"{self!r}: trials, finalists and priced are at least 1, ahead at least 0")
        if not (self.seconds > 0 and self.candidate_seconds > 0):
            raise InvalidArgument(f"{self!r}: a budget in seconds is more than 0")


QUICK = Options(trials=24, seconds=25.0, candidate_seconds=5.0, finalists=2)  # under half a minute a kernel
FULL = Options(trials=120, seconds=900.0)
MODES = {"quick": QUICK, "full": FULL}
