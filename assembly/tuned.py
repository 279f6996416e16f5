"""What was tuned, put to use: the tuning cache asked for each kernel of a plan.

    tuned = Tuned.of(environment, machine)
    plan = cached_plan(gm, target, options, folder, ..., tuned=tuned)

A kernel's configuration is what the cache has for it, if it is one of the kernel's own, else the cost model's choice; which
of the two it is, and how far what was tuned is from what is asked, is said in the report.  Nothing here measures, and
nothing imports Optuna or SQLAlchemy.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch

from ..autotune.cache import Decision, TuningCache, open_cache
from ..autotune.cache.sqlite_file import FILE
from ..autotune.records import MEASURED, Key, Versions
from ..codegen.artifact import GENERATOR
from ..runtime.triton_compile import triton_version
from .devices import Machine
from .tunable import Configured, Subject, Tunable

COST_MODEL = "cost model"


@dataclass(frozen=True)
class Tuned:
    """A tuning cache, and the machine that its answers are for."""

    cache: TuningCache
    machine: Machine

    @staticmethod
    def of(folder: Path, url: str | None, machine: Machine, *, make: bool = False) -> Tuned:
        """make: whether a cache that is not there yet is made; without one, only packaged defaults are known."""
        if make or url or os.path.exists(folder / FILE):
            return Tuned(_session(folder, url, machine.driver, os.getpid()), machine)
        return Tuned(_nothing_yet(machine.driver), machine)

    def keys(self, subject: Subject) -> tuple[Key, ...]:
        """What is looked up, in order; measurements on this machine are kept under the first."""
        return _keys(subject, self.machine)

    def decision(self, subject: Subject) -> Decision | None:
        """What was measured for this kernel, else what was predicted, else for sizes nearby, else what is packaged."""
        found: list[Decision] = []
        for key in self.keys(subject):
            if (decision := self.cache.lookup(key)) is not None:
                found.append(decision)
                if decision.kind == MEASURED and decision.exact:
                    break
        return min(found, key=_rank, default=None)

    def configure(self, tunable: Tunable) -> Configured:
        """The answer for the driver."""
        subject = tunable.subject
        decision = self.decision(subject)
        about = {"subject": subject.to_json(), "found": print_of(decision)}
        if decision is None:
            return Configured(None, note=COST_MODEL, about=about)
        configuration = decision.configuration
        about |= {"configuration": configuration.to_json(), "kind": decision.kind, "source": decision.source}
        about |= {"us": decision.us, "default_us": decision.default_us}
        return Configured(configuration.variant, dict(configuration.values), note_of(decision), about)

    def current(self, about: Mapping[str, Any]) -> bool:
        """Whether the cache still says of a kernel what it said when its plan was made.  `about`: of a `Configured`."""
        try:
            return print_of(self.decision(Subject.from_json(about["subject"]))) == about["found"]
        except (KeyError, TypeError, ValueError):
            return False

    def close(self) -> None:
        """Nothing is held."""


@lru_cache(maxsize=4096)
def _keys(subject: Subject, machine: Machine) -> tuple[Key, ...]:
    """The same objects for the same subject: they remember their hashes."""
    return tuple(
        Key(subject.program, subject.sizes, subject.dtypes, subject.strides, place, GENERATOR)
        for place in machine.places
    )


def _rank(decision: Decision) -> tuple[bool, bool, float]:
    return (decision.kind != MEASURED or bool(decision.device), bool(decision.distance), decision.distance)


def print_of(decision: Decision | None) -> str:
    """A short hash of an answer, "" where there is none."""
    if decision is None:
        return ""
    data = [
        decision.key.digest, decision.configuration.to_json(), decision.kind, decision.us, decision.default_us,
        decision.source, decision.distance, decision.mismatches,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def note_of(decision: Decision) -> str:
    """For the report: where the parameters come from."""
    if decision.kind != MEASURED:
        what = "predicted offline"
    else:
        gain = decision.gain
        what = "tuned here" if decision.source == "user cache" else "tuned"
        if gain is not None:
            what += (
                f", {100 * (gain - 1):.0f} % faster" if gain >= 1.005 else ", the cost model's choice is the fastest"
            )
    if decision.distance:
        what += ", for sizes nearby"
    if decision.source not in ("user cache", ""):
        what += f" ({decision.source})"
    return "; ".join([what, *decision.mismatches])


def versions(driver: str = "") -> Versions:
    """Of this process."""
    return Versions(triton=triton_version(), torch=torch.__version__, driver=driver)


@cache
def _session(folder: Path, url: str | None, driver: str, process: int) -> TuningCache:
    return open_cache(folder, url, versions=versions(driver))


@cache
def _nothing_yet(driver: str) -> TuningCache:
    from ..autotune.cache.sqlite_file import InMemory

    return TuningCache(InMemory(), reopen=InMemory, versions=versions(driver))


__all__ = ["COST_MODEL", "Tuned", "note_of", "print_of", "versions"]
