"""What tuning speaks of: configurations of a kernel, keys that say which kernel and where, samples that say how it went.

Plain frozen data, checked when it is made; it goes to JSON and back, and nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ..errors import InvalidArgument

MEASURED, PREDICTED = "measured", "predicted"
FAILURES = ("wrong", "crashed", "hung", "out_of_memory", "pruned", "invalid")
STATES = (MEASURED, PREDICTED, *FAILURES)
AGAIN = "delete the entry with `fusecade cache prune --invalid`, and tune again"


@dataclass(frozen=True, order=True)
class Configuration:
    """One point of a kernel's space: how it is walked, and a value for each parameter of that walk.

    variant: the name of the walk ("i grid, j loop", "j in 8 parts", "132 shares").  values: (name, value), sorted by name.
    Raises InvalidArgument for anything else.
    """

    variant: str
    values: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.values]
        if not isinstance(self.variant, str) or names != sorted(set(names)):
            raise InvalidArgument(f"{self!r} is no configuration: names are given once, in order", next_step=AGAIN)
        for name, value in self.values:
            if not isinstance(name, str) or not name.isidentifier() or type(value) is not int:
                raise InvalidArgument(f"{name!r} = {value!r} is no parameter of a kernel", next_step=AGAIN)

    @classmethod
    def of(cls, variant: str, values: Mapping[str, int]) -> Configuration:
        return cls(variant, tuple(sorted(values.items())))

    def to_json(self) -> dict[str, Any]:
        return {"variant": self.variant, "values": dict(self.values)}

    @classmethod
    def from_json(cls, data: Any) -> Configuration:
        """Raises InvalidArgument for what `to_json` does not write."""
        if not isinstance(data, dict) or set(data) != {"variant", "values"} or not isinstance(data["values"], dict):
            raise InvalidArgument(f"{data!r} is no configuration", next_step=AGAIN)
        return cls.of(data["variant"], data["values"])

    def __str__(self) -> str:
        return ", ".join([self.variant, *(f"{name} = {value}" for name, value in self.values)])


@dataclass(frozen=True)
class Place:
    """Where a kernel runs, as far as times depend on it.  target: its name; memory_bytes: of the device."""

    target: str
    sms: int
    memory_bytes: int


@dataclass(frozen=True)
class Key:
    """Which kernel, for which sizes, where.  All of it has to match exactly for a configuration to be that of a kernel,
    but `sizes`, of which the nearest will do.

    program: the hash of the kernel's program, without names and sizes.  sizes: (rank, bucket of its extent), sorted.
    dtypes, strides: of inputs and outputs, in order.  generator: the version of the code generator.
    """

    program: str
    sizes: tuple[tuple[str, int], ...]
    dtypes: str
    strides: str
    place: Place
    generator: str

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits that stand for the key."""
        return _digest(asdict(self))

    @cached_property
    def family(self) -> str:
        """The same for kernels that differ in sizes only."""
        return _digest({k: v for k, v in asdict(self).items() if k != "sizes"})


@dataclass(frozen=True)
class Versions:
    """What may differ between tuning and use: a configuration stays usable, and that is said."""

    triton: str = ""
    torch: str = ""
    driver: str = ""


@dataclass(frozen=True)
class Sample:
    """How one configuration did.

    state: one of STATES.  us: the median microseconds of a call, None where it was not measured.  spread_us: half of the
    range between its quartiles.  rounds: how often it was timed.  predicted_us: by the cost model.  default_us: of the
    cost model's choice, timed in turns with it.  resources: what the compiler reports (registers, spill_bytes,
    shared_bytes).  at: seconds since 1970.  note: why it failed, for a person.
    """

    configuration: Configuration
    state: str
    us: float | None = None
    spread_us: float | None = None
    rounds: int = 0
    predicted_us: float | None = None
    default_us: float | None = None
    resources: Mapping[str, int] = field(default_factory=dict)
    versions: Versions = Versions()
    at: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise InvalidArgument.choice("the state of a sample", self.state, STATES)
        if (self.us is not None) != (self.state == MEASURED):
            raise InvalidArgument(f"a sample that is {self.state} with the time {self.us}", next_step=AGAIN)
        for value in (self.us, self.spread_us, self.predicted_us, self.default_us):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidArgument(f"{value} is no time in microseconds", next_step=AGAIN)


@dataclass(frozen=True)
class Failure:
    """Why a configuration has no time.  state: one of FAILURES.  note: for a person."""

    state: str
    note: str

    def __post_init__(self) -> None:
        if self.state not in FAILURES:
            raise InvalidArgument.choice("the state of a failure", self.state, FAILURES)


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
