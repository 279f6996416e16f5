"""A schedule as data: the tile kernel with its parameters, its price, and the kernels ahead of it and behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ir import tile
from ..ir.attributes import AccessMap
from .census import Work
from .cost import Price
from .data_bounds import DataBounds
from .split_reduction import Split
from .walk import Walk


@dataclass(frozen=True)
class Scheduled:
    """A tile kernel with its parameters bound to the cheapest choice, what it does, what that costs.

    space: every admissible binding, the chosen one first, then cheapest first, as (parameters, predicted microseconds of
    the whole call).  walk: how its ranks are walked.  outputs: the layouts and accesses of the results that it was
    scheduled for.  filled: microseconds that some binding would take if its programs filled the target, and how many
    programs that binding has.
    choices: of each parameter the values that it may take, the chosen one first; what price says nothing of is off.
    merge: where the streamed rank is cut into parts, so that the results are their states: what follows.
    even: microseconds that some binding would take if all multiprocessors had the same to do.
    before: where the kernel loads bounds of its streamed rank: what finds them.
    roles: of its ranks, as `KernelShape.variants` has them.
    """

    kernel: tile.KernelOp
    work: Work
    price: Price
    space: tuple[tuple[tuple[tuple[str, int], ...], float], ...]
    walk: Walk
    outputs: tuple[tuple[tile.BufferType, AccessMap], ...]
    filled: tuple[float, int]
    choices: tuple[tuple[str, tuple[int, ...]], ...] = ()
    merge: Merge | None = None
    even: float = math.inf
    before: Before | None = None
    roles: tuple[tuple[str, str], ...] = ()

    @property
    def us(self) -> float:
        """Predicted microseconds of the whole call."""
        others = [step.scheduled.us for step in (self.before, self.merge) if step is not None]
        return self.price.us + sum(others)


@dataclass(frozen=True)
class Before:
    """The kernel ahead of one that loads the bounds of a loop.

    found: the two as cascades, and what the first reads.  states: the layouts between them.
    """

    found: DataBounds
    states: tuple[tile.BufferType, ...]
    scheduled: Scheduled

    @property
    def text(self) -> str:
        """A line for a derivation."""
        within = self.found.within
        return f"  {'bounds':8} {within.rank} where, for some row of a tile, {within.asked}: found by a kernel ahead"


@dataclass(frozen=True)
class Merge:
    """The kernel behind one that computes the states of parts.

    split: the two as cascades, and what each reads.  states: the layouts between them.  parts: how many; of equal shares,
    the most pieces of a tile.  each: steps of a share, 0 where parts are of a tile.
    """

    split: Split
    states: tuple[tile.BufferType, ...]
    parts: int
    scheduled: Scheduled
    each: int = 0

    @property
    def text(self) -> str:
        """A line for a derivation."""
        if self.each:
            cut = f"a tile in at most {self.parts} pieces, merged by a second kernel"
            return f"  {'split':8} {self.split.rank} over all tiles into shares of {self.each} steps, {cut}"
        return f"  {'split':8} {self.split.rank} over {self.parts} parts, merged by a second kernel"
