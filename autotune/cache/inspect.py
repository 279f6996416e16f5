"""The cache as a whole: what is in it, chosen by target, kernel and age; checked, taken out, put in, thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidArgument
from ..records import Key, Sample
from .codec import configuration_digest, key_body, parse, read_key
from .contents import Contents
from .database import DecisionRow
from .decision import Decision
from .exchange import Merged, merge
from .failures import Damaged
from .rows import checked_decision, checked_sample
from .schema import Run
from .sqlite_file import SqliteFile
from .statements import ADD_DECISION, ADD_KEY, ADD_SAMPLE, decision_values, key_values, sample_values
from .store import TuningCache


@dataclass(frozen=True)
class Filter:
    """Which keys: all that fit every field that is given.

    target: its name.  kernel: how the hash of the program, or of the key, begins.  older, newer: seconds since 1970 that
    the last thing known of a key is before, or after.
    """

    target: str | None = None
    kernel: str | None = None
    older: float | None = None
    newer: float | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.target, self.kernel, self.older, self.newer))

    def takes(self, key: Key, last: float) -> bool:
        if self.target is not None and key.place.target != self.target:
            return False
        if (
            self.kernel is not None
            and not key.program.startswith(self.kernel)
            and not key.digest.startswith(self.kernel)
        ):
            return False
        return (self.older is None or last < self.older) and (self.newer is None or last > self.newer)


@dataclass
class Checked:
    """All rows, sorted into those that are whole and those that are not.  bad: (table, column, value, what is wrong)."""

    contents: Contents = field(default_factory=Contents)
    orphans: int = 0  # samples of keys that nothing describes: they are found by their key all the same
    bad: list[tuple[str, str, str, str]] = field(default_factory=list)


def read_all(cache: TuningCache) -> Checked:
    """Every row, checked against its hash and against its columns."""
    out = Checked()
    for digest, program, target, body in cache.rows("SELECT digest, program, target, body FROM tuned_keys"):
        try:
            key = read_key(parse(body))
            if (key.digest, key.program, key.place.target) != (digest, program, target) or key_body(key) != body:
                raise Damaged("it is not the key that it says")
            out.contents.add_key(key)
        except (InvalidArgument, Damaged, TypeError, ValueError) as error:
            out.bad.append(("tuned_keys", "digest", digest, str(getattr(error, "message", error))))
    for *row, family, kind in cache.rows("SELECT digest, seal, body, family, kind FROM tuned_decisions"):
        try:
            decision = checked_decision(DecisionRow(*row))
            if (decision.key.family, decision.kind) != (family, kind):
                raise Damaged("its columns are not those of its body")
            out.contents.add_decision(decision)
        except (Damaged, TypeError) as error:
            out.bad.append(("tuned_decisions", "digest", row[0], str(error)))
    orphans = set()
    for digest, sealed, body, configuration, state in cache.rows(
        "SELECT digest, seal, body, configuration, state FROM tuned_samples"
    ):
        try:
            sample = checked_sample(digest, sealed, body)
            if (configuration_digest(sample.configuration), sample.state) != (configuration, state):
                raise Damaged("its columns are not those of its body")
            if digest in out.contents.keys:
                out.contents.add_sample(digest, sample)
            else:
                orphans.add(sealed)
        except (Damaged, TypeError) as error:
            out.bad.append(("tuned_samples", "seal", sealed, str(error)))
    out.orphans = len(orphans)
    return out


def structure(cache: TuningCache) -> list[str]:
    """What SQLite finds wrong with its file: an index that has lost rows, say.  A server looks after itself."""
    if not isinstance(cache.database, SqliteFile):
        return []
    return [line for (line,) in cache.rows("PRAGMA integrity_check") if line != "ok"]


def last_of(contents: Contents, digest: str) -> float:
    """When something was last learnt of a key; 0 where nothing says."""
    decision = contents.decisions.get(digest)
    times = [s.at for s in contents.samples.get(digest, {}).values()] + ([decision.at] if decision else [])
    return max(times, default=0.0)


def only(contents: Contents, chosen: Filter) -> Contents:
    """Those keys that the filter takes, with all that is known of them."""
    out = Contents()
    for digest, key in contents.keys.items():
        if chosen.takes(key, last_of(contents, digest)):
            out.keys[digest] = key
            if digest in contents.decisions:
                out.decisions[digest] = contents.decisions[digest]
            if digest in contents.samples:
                out.samples[digest] = dict(contents.samples[digest])
    return out


def winners(contents: Contents) -> Contents:
    """The decisions, without the samples that led to them: small enough to be shipped."""
    found = contents.decisions
    return Contents({digest: contents.keys[digest] for digest in found}, dict(found))


def take_in(cache: TuningCache, other: Contents, *, dry_run: bool = False) -> Merged:
    """Merges contents into the cache, by the rules of `exchange`, in one transaction that others wait for."""
    if dry_run:
        return merge(read_all(cache).contents, other)

    def put(run: Run) -> Merged:
        cache.database.wait_for_others(run)
        merged = merge(read_all(cache).contents, other)
        for key in other.keys.values():
            run(ADD_KEY, **key_values(key))
        for digest, samples in other.samples.items():
            for sample in samples.values():
                run(ADD_SAMPLE, **sample_values(digest, sample))
        for digest in other.decisions:
            run("DELETE FROM tuned_decisions WHERE digest = :digest", digest=digest)
            run(ADD_DECISION, **decision_values(merged.contents.decisions[digest]))
        return merged

    return cache.change(put)


@dataclass(frozen=True)
class Gone:
    """What was deleted, or would be."""

    keys: int = 0
    decisions: int = 0
    samples: int = 0
    claims: int = 0
    damaged: int = 0

    def __str__(self) -> str:
        parts = ((self.keys, "keys"), (self.decisions, "decisions"), (self.samples, "samples"))
        more = ((self.damaged, "damaged rows"), (self.claims, "leases"))
        return ", ".join(f"{count} {name}" for count, name in (*parts, *more))


def remove(cache: TuningCache, chosen: Filter, *, dry_run: bool = False) -> Gone:
    """Everything that is known of the keys that a filter takes.  Raises InvalidArgument for a filter that takes all."""
    if not chosen:
        raise InvalidArgument(
            "without a filter everything would be deleted",
            next_step="add --target, --kernel, --older or --newer; `--older 0s` is everything",
        )
    found = only(read_all(cache).contents, chosen)
    if not dry_run:
        cache.change(lambda run: [_drop_key(run, digest) for digest in found.keys])
    return Gone(*found.count)


def _drop_key(run: Run, digest: str) -> None:
    for table in ("tuned_samples", "tuned_decisions", "tuned_claims", "tuned_keys"):
        run(f"DELETE FROM {table} WHERE digest = :digest", digest=digest)


def prune(cache: TuningCache, chosen: Filter, now: float, *, invalid: bool = False, dry_run: bool = False) -> Gone:
    """What nobody needs: rows that are damaged, leases that are over; and by a filter for age, samples of that age, but
    those of the configuration that was decided for, and those that another filter leaves out.

    invalid: only what is damaged.
    """
    found = read_all(cache)
    claims = cache.rows("SELECT token FROM tuned_claims WHERE until < :now", now=now)
    drop = [] if invalid else list(_old_samples(found.contents, chosen))

    def delete(run: Run) -> None:
        for table, column, value, _ in found.bad:
            run(f"DELETE FROM {table} WHERE {column} = :value", value=value)
        for digest, sample in drop:
            run("DELETE FROM tuned_samples WHERE seal = :seal", seal=sample_values(digest, sample)["seal"])
        for (token,) in claims:
            run("DELETE FROM tuned_claims WHERE token = :token", token=token)

    if not dry_run:
        if wrong := structure(cache):
            cache.mend(wrong[0])
        cache.change(delete)
    return Gone(samples=len(drop), claims=len(claims), damaged=len(found.bad))


def _old_samples(contents: Contents, chosen: Filter) -> Iterator[tuple[str, Sample]]:
    if chosen.older is None and chosen.newer is None:
        return
    for digest, samples in contents.samples.items():
        decision = contents.decisions.get(digest)
        for sample in samples.values():
            if decision and sample.configuration == decision.configuration:
                continue
            if chosen.takes(contents.keys[digest], sample.at):
                yield digest, sample


def statistics(found: Checked) -> dict[str, Any]:
    """Counts, by target and by state."""
    contents = found.contents
    keys, decisions, samples = contents.count
    targets: dict[str, dict[str, int]] = {}
    states: dict[str, int] = {}
    for digest, key in contents.keys.items():
        of_target = targets.setdefault(key.place.target, {"keys": 0, "measured": 0, "predicted": 0, "samples": 0})
        of_target["keys"] += 1
        decision: Decision | None = contents.decisions.get(digest)
        if decision:
            of_target[decision.kind] += 1
        of_target["samples"] += len(contents.samples.get(digest, {}))
        for sample in contents.samples.get(digest, {}).values():
            states[sample.state] = states.get(sample.state, 0) + 1
    gains = sorted(d.gain for d in contents.decisions.values() if d.kind == "measured" and d.gain)
    return {
        "keys": keys, "decisions": decisions, "samples": samples, "damaged": len(found.bad), "orphans": found.orphans,
        "targets": dict(sorted(targets.items())), "states": dict(sorted(states.items())),
        "median_gain": gains[len(gains) // 2] if gains else None,
    }  # fmt: skip
