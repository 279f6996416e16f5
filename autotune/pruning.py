"""What a configuration may use before it is not worth timing: by the cost model, and by what the compiler reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..ir.target import Target
from .records import Configuration, Failure
from .space import Prediction


@dataclass(frozen=True)
class Resources:
    """What the compiler reports of a configuration.  occupancy_percent: of the threads that an SM can hold; None: unknown."""

    registers: int = 0
    spill_bytes: int = 0
    shared_bytes: int = 0
    occupancy_percent: int | None = None

    def to_mapping(self) -> dict[str, int]:
        """As samples hold it."""
        found = {"registers": self.registers, "spill_bytes": self.spill_bytes, "shared_bytes": self.shared_bytes}
        return found if self.occupancy_percent is None else found | {"occupancy_percent": self.occupancy_percent}

    @classmethod
    def from_mapping(cls, data: Mapping[str, int]) -> Resources | None:
        """None where a sample holds none."""
        return cls(**{k: v for k, v in data.items() if k in cls.__dataclass_fields__}) if data else None


Inspect = Callable[[Configuration], Resources | Failure | None]
"""Compiles a configuration: what it uses, why it does not compile, or None where there is nothing to say."""


@dataclass(frozen=True)
class Limits:
    """footprint_bytes, shared_bytes: of one program; None: any.  spill_bytes: of one thread.  occupancy_percent: at least.

    A candidate may spill as much, and occupy as little, as the default does: where all of them spill, the best of them
    is still to be found.
    """

    footprint_bytes: int | None = None
    shared_bytes: int | None = None
    spill_bytes: int | None = 0
    occupancy_percent: int = 0

    @classmethod
    def of(cls, target: Target) -> Limits:
        """Those of a GPU.  On a CPU nothing is pruned: a footprint beyond a cache costs time, and time is measured."""
        if target.kind == "cpu":
            return cls()
        return cls(footprint_bytes=target.max_sram_per_program, shared_bytes=target.max_sram_per_program)

    def against_prediction(self, prediction: Prediction) -> str | None:
        """Why it is not worth compiling."""
        if self.footprint_bytes is not None and prediction.footprint_bytes > self.footprint_bytes:
            return f"predicted to need {prediction.footprint_bytes} bytes of shared memory, of {self.footprint_bytes}"
        return None

    def against(self, found: Resources, default: Resources | None) -> str | None:
        """Why it is not worth timing.  default: what the default configuration uses, where that is known."""
        if self.shared_bytes is not None and found.shared_bytes > self.shared_bytes:
            return f"{found.shared_bytes} bytes of shared memory, of {self.shared_bytes}"
        spills = None if self.spill_bytes is None else max(self.spill_bytes, default.spill_bytes if default else 0)
        if spills is not None and found.spill_bytes > spills:
            return f"spills {found.spill_bytes} bytes of registers, more than {spills}"
        usual = default.occupancy_percent if default else None
        least = self.occupancy_percent if usual is None else min(self.occupancy_percent, usual)
        if found.occupancy_percent is not None and found.occupancy_percent < least:
            return f"occupies {found.occupancy_percent} % of the threads of an SM, less than {least} %"
        return None
