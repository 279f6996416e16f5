"""What the cache answers: a configuration for a kernel, how well it did, and what a user of it has to know."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

from ...errors import InvalidArgument
from ..records import AGAIN, MEASURED, PREDICTED, Configuration, Key, Versions

KINDS = (MEASURED, PREDICTED)


@dataclass(frozen=True)
class Decision:
    """The configuration to run a kernel with.  Raises InvalidArgument for a time that is none, and for a configuration
    that was slower than the default in the run that timed them in turns.

    key: the kernel and sizes that it was found for.  kind: "measured" or "predicted".  us: microseconds of a call, as
    measured or as predicted.  default_us: of the cost model's choice in the same run, None where it has none.  versions:
    with which it was found.  at: seconds since 1970.

    Filled in by a lookup: source: "user cache", "team database", "packaged", "packaged, for" another device.  device:
    that one.  distance: in doublings of sizes from what was asked for, 0 for the same.  mismatches: versions that are
    not those of now; it is to be measured again before it is believed.
    """

    key: Key
    configuration: Configuration
    kind: str
    us: float
    default_us: float | None = None
    versions: Versions = field(default_factory=Versions)
    at: float = 0.0
    source: str = ""
    device: str = ""
    distance: float = 0.0
    mismatches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidArgument.choice("the kind of a decision", self.kind, KINDS)
        for value in (self.us, self.default_us):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidArgument(f"{value} is no time in microseconds", next_step=AGAIN)
        if self.us is None or not math.isfinite(self.at):
            raise InvalidArgument("a decision has a time, and a moment at which it was taken", next_step=AGAIN)
        if self.kind == MEASURED and self.default_us is not None and self.us > self.default_us:
            raise InvalidArgument(
                f"{self.configuration} took {self.us:g} us and the default {self.default_us:g} us: it is no improvement",
                next_step="decide for the default's configuration, with its own time",
            )

    @property
    def exact(self) -> bool:
        """Whether it was found for these very sizes, with these versions, on such a device."""
        return not self.distance and not self.mismatches and not self.device

    @property
    def gain(self) -> float | None:
        """How many times faster than the default, None where that is not known."""
        return self.default_us / self.us if self.default_us is not None and self.us else None

    def seen_from(self, source: str, versions: Versions, distance: float = 0.0, device: str = "") -> Decision:
        """The same, for a process that runs these versions."""
        source = f"{source}, for {device}" if device else source
        told = mismatches(self.versions, versions)
        return replace(self, source=source, device=device, distance=distance, mismatches=told)


def mismatches(then: Versions, now: Versions) -> tuple[str, ...]:
    """Where two versions are known and differ: "triton 3.6.0 when tuned, 3.9.0 now"."""
    pairs = ((f.name, getattr(then, f.name), getattr(now, f.name)) for f in fields(Versions))
    return tuple(f"{name} {old} when tuned, {new} now" for name, old, new in pairs if old and new and old != new)
