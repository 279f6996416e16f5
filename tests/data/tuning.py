"""Keys, samples and decisions for the tests of the tuning cache, and a file that is full of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fusecade.autotune.cache import Contents, Decision, TuningCache, open_cache
from fusecade.autotune.cache.sqlite_file import FILE
from fusecade.autotune.records import MEASURED, Configuration, Key, Place, Sample, Versions

H100 = Place("sm_90", 132, 80 << 30)
A100 = Place("sm_80", 108, 80 << 30)
NOW = Versions("3.9.0", "2.13.0", "570.1")


def key(n: int = 64, program: str = "ab", place: Place = H100, m: int = 64) -> Key:
    return Key(program * 32, (("i", n), ("j", m)), "f16 f16 f16", "row row", place, "7")


def configuration(number: int = 0) -> Configuration:
    return Configuration.of(f"walk {number % 3}", {"BI": 16 << number % 4, "BJ": 16 + number})


def sample(number: int = 0, us: float | None = 10.0, **given: Any) -> Sample:
    state = given.pop("state", MEASURED)
    told: dict[str, Any] = {
        "rounds": 5,
        "spread_us": 0.5,
        "resources": {"registers": 64},
        "versions": NOW,
        "at": 1e9 + number,
    }
    return Sample(configuration(number), state, us, **(told | given))


def decision(of: Key, number: int = 0, us: float = 10.0, **given: Any) -> Decision:
    told: dict[str, Any] = {"kind": MEASURED, "default_us": 12.0, "versions": NOW, "at": 1e9 + number}
    return Decision(of, configuration(number), us=us, **(told | given))


def at_these_versions(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a session, of these versions where nothing else is said."""
    return {"versions": NOW} | given


def known(cache: TuningCache, of: Key) -> Decision:
    """What a lookup finds, where it has to find something."""
    found = cache.lookup(of)
    assert found is not None
    return found


def plain(found: Decision | None) -> Decision | None:
    """As it was decided, without what a lookup says of it."""
    return found and replace(found, source="", device="", distance=0.0, mismatches=())


def some_contents(keys: int = 6, samples: int = 5) -> Contents:
    out = Contents()
    for number in range(keys):
        of = key(64 << number % 4, program="abcdef0"[number % 7] * 2)
        out.add_decision(decision(of, number, us=5.0 + number))
        for each in range(samples):
            out.add_sample(of.digest, sample(each, us=7.0 + each + number))
    return out


KEYS = [key(64 << n, program="abcd"[n] * 2) for n in range(4)]
GIVEN = {k: [sample(n, us=8.0 + n) for n in range(40)] for k in KEYS}
DECIDED = {k: decision(k, n) for n, k in enumerate(KEYS)}


def filled(folder: Path) -> Path:
    """A cache with some hundred rows, closed; returns its file."""
    with open_cache(folder) as cache:
        for each in KEYS:
            cache.record_all(each, GIVEN[each])
            cache.decide(each, DECIDED[each])
    return folder / FILE


def only_what_was_written(cache: TuningCache) -> int:
    """How many samples are left; fails for one, or for a decision, that was never written."""
    left = 0
    for each in KEYS:
        found = cache.lookup(each)
        assert found is None or plain(found) in DECIDED.values()
        assert found is None or found.key.family == each.family
        samples = cache.samples(each)
        assert all(s in GIVEN[each] for s in samples)
        left += len(samples)
    return left
