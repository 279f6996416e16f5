"""The space of a kernel: the walks that it may have, the parameters of each, and the values that each may take.

    Space.of({"i grid, j loop": {"BI": (64, 32, 128), "BJ": (128, 64)}, "j in 8 parts": {"BI": (64,), "BJ": (128, 256)}})

The first walk with the first value of everything is the default: the cost model's choice.  Which points of the product
are admissible is for `predict` to say, and what it says costs no trial.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import InvalidArgument
from .records import Configuration

FIX = "correct the space that the schedule declares: each walk once, each parameter once, each value once"


@dataclass(frozen=True)
class Prediction:
    """What the cost model says of a configuration, without compiling it.

    us: of the whole call.  bound_by: what bounds it ("hbm", "dots", ...).  footprint_bytes: of one program, in shared
    memory (of a CPU: in the private caches).
    """

    us: float
    bound_by: str = ""
    footprint_bytes: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.us) and self.us > 0):
            raise InvalidArgument(f"{self.us} is no predicted time in microseconds", next_step=FIX)


@dataclass(frozen=True)
class Inadmissible:
    """Why a configuration cannot be compiled.  `None` in its place says the same without a reason."""

    reason: str


Predict = Callable[[Configuration], Prediction | Inadmissible | None]


@dataclass(frozen=True)
class Variant:
    """One walk: its name, and (parameter, values that it may take, the default first).  Raises InvalidArgument."""

    name: str
    parameters: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.parameters]
        if not isinstance(self.name, str) or len(set(names)) != len(names):
            raise InvalidArgument(f"the walk {self.name!r} has a parameter twice: {names}", next_step=FIX)
        for name, values in self.parameters:
            if not values or len(set(values)) != len(values) or any(type(v) is not int for v in values):
                raise InvalidArgument(f"the values {values!r} of {name!r} in the walk {self.name!r}", next_step=FIX)
        Configuration.of(self.name, {name: values[0] for name, values in self.parameters})  # which checks the names

    @cached_property
    def choices(self) -> Mapping[str, tuple[int, ...]]:
        """The values of each parameter, the default first."""
        return dict(self.parameters)

    @property
    def size(self) -> int:
        return math.prod(len(values) for _, values in self.parameters)

    def at(self, index: int) -> Configuration:
        """The configuration of that number, from 0: that of `itertools.product`."""
        found: dict[str, int] = {}
        for name, values in reversed(self.parameters):
            index, digit = divmod(index, len(values))
            found[name] = values[digit]
        return Configuration.of(self.name, found)


@dataclass(frozen=True)
class Space:
    """The walks of a kernel, the default first.  Iterates over all points of all walks, in a fixed order."""

    variants: tuple[Variant, ...]

    def __post_init__(self) -> None:
        names = [v.name for v in self.variants]
        if not names or len(set(names)) != len(names):
            raise InvalidArgument(f"a space needs walks with different names, not {names}", next_step=FIX)

    @classmethod
    def of(cls, variants: Mapping[str, Mapping[str, Sequence[int]]]) -> Space:
        return cls(
            tuple(
                Variant(name, tuple((p, tuple(values)) for p, values in parameters.items()))
                for name, parameters in variants.items()
            )
        )

    @cached_property
    def _named(self) -> Mapping[str, Variant]:
        return {v.name: v for v in self.variants}

    def variant(self, name: str) -> Variant:
        """Raises KeyError."""
        return self._named[name]

    @property
    def default(self) -> Configuration:
        return self.variants[0].at(0)

    @property
    def size(self) -> int:
        """How many points, admissible or not."""
        return sum(v.size for v in self.variants)

    def __len__(self) -> int:
        return self.size

    def at(self, index: int) -> Configuration:
        """The point of that number, as in the order of iteration.  Raises IndexError."""
        if index >= 0:
            for variant in self.variants:
                if index < variant.size:
                    return variant.at(index)
                index -= variant.size
        raise IndexError("the space has fewer points")

    def __contains__(self, configuration: object) -> bool:
        if not isinstance(configuration, Configuration) or configuration.variant not in self._named:
            return False
        choices, values = self._named[configuration.variant].choices, dict(configuration.values)
        return values.keys() == choices.keys() and all(value in choices[name] for name, value in values.items())

    def __iter__(self) -> Iterator[Configuration]:
        for variant in self.variants:
            names = [name for name, _ in variant.parameters]
            for values in itertools.product(*(values for _, values in variant.parameters)):
                yield Configuration.of(variant.name, dict(zip(names, values, strict=True)))

    def neighbours(self, configuration: Configuration) -> list[Configuration]:
        """One parameter a step up or down, or another walk with the same values, as far as it has them.

        Raises InvalidArgument for a configuration of another space.
        """
        if configuration not in self:
            raise InvalidArgument(f"{configuration} is not in this space", next_step=FIX)
        values, found = dict(configuration.values), []
        for name, choices in self._named[configuration.variant].parameters:
            ordered = sorted(choices)
            place = ordered.index(values[name])
            for value in ordered[max(place - 1, 0) : place] + ordered[place + 1 : place + 2]:
                found.append(Configuration.of(configuration.variant, values | {name: value}))
        for other in self.variants:
            if other.name != configuration.variant:
                kept = {n: values[n] if values.get(n) in choices else choices[0] for n, choices in other.parameters}
                found.append(Configuration.of(other.name, kept))
        return found
