"""How `fusecade cache` shows what is in the cache: for a person, and as data."""

from __future__ import annotations

import json
import time
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..autotune.cache import Contents, Decision
from ..autotune.cache.codec import decision_body, key_body, sample_body
from ..autotune.cache.exchange import Difference, Merged
from ..autotune.cache.inspect import last_of
from ..autotune.records import Key, Sample

SHORT = 12  # digits of a hash that are shown


def count(contents: Contents) -> str:
    keys, decisions, samples = contents.count
    return f"{keys} keys, {decisions} decisions, {samples} samples"


def count_as_data(contents: Contents) -> dict[str, Any]:
    return dict(zip(("keys", "decisions", "samples"), contents.count, strict=True))


def table_of_keys(contents: Contents) -> RenderableType:
    if not contents.keys:
        return "nothing is known of any kernel that was asked for"
    table = _table("kernel", "target", "sizes", "samples", "kind", "gain", "age", "configuration")
    for digest, key in contents.ordered():
        found = contents.decisions.get(digest)
        row = (key.program[:SHORT], key.place.target, _sizes(key), str(len(contents.samples.get(digest, ()))))
        decided = (found.kind, _gain(found), str(found.configuration)) if found else ("", "", "")
        table.add_row(*map(Text, (*row, *decided[:2], _age(last_of(contents, digest)), decided[2])))
    return table


def keys_as_data(contents: Contents) -> list[dict[str, Any]]:
    return [
        {
            "digest": digest, "key": json.loads(key_body(key)), "samples": len(contents.samples.get(digest, ())),
            "decision": _decision_as_data(contents.decisions.get(digest)), "last": last_of(contents, digest),
        }
        for digest, key in contents.ordered()
    ]  # fmt: skip


def details(contents: Contents) -> list[RenderableType]:
    if not contents.keys:
        return ["nothing is known of any kernel that was asked for"]
    shown: list[RenderableType] = []
    for digest, key in contents.ordered():
        place = f"{key.place.target}, {key.place.sms} SMs, {key.place.memory_bytes / 1e9:.0f} GB"
        shown += [
            f"key       {digest}", f"kernel    {key.program}", f"sizes     {_sizes(key)}",
            f"dtypes    {key.dtypes}", f"strides   {key.strides}", f"device    {place}", f"generator {key.generator}",
        ]  # fmt: skip
        found = contents.decisions.get(digest)
        if found:
            shown.append(f"decision  {_decision(found)}, {found.us:g} us, {_gain(found) or 'gain unknown'}")
            shown.append(f"          with {_versions(found)}, {_age(found.at)} ago")
        shown.append(_samples(list(contents.samples.get(digest, {}).values())))
    return shown


def details_as_data(contents: Contents) -> list[dict[str, Any]]:
    data = keys_as_data(contents)
    for entry in data:
        entry["samples"] = [json.loads(body) for body in sorted(contents.samples.get(entry["digest"], ()))]
    return data


def _samples(samples: list[Sample]) -> Table:
    table = _table("state", "us", "spread", "predicted", "configuration", "age", "note")
    for s in sorted(samples, key=lambda s: (s.us is None, s.us or 0.0, s.state, sample_body(s))):
        times = ("" if t is None else f"{t:.4g}" for t in (s.us, s.spread_us, s.predicted_us))
        table.add_row(*map(Text, (s.state, *times, str(s.configuration), _age(s.at), s.note[:200])))
    return table


def statistics_as_text(data: dict[str, Any]) -> list[RenderableType]:
    table = _table("target", "keys", "measured", "predicted", "samples")
    for target, of in data["targets"].items():
        table.add_row(*map(Text, (target, *(str(of[n]) for n in ("keys", "measured", "predicted", "samples")))))
    states = ", ".join(f"{n} {state}" for state, n in data["states"].items()) or "no samples"
    gain = "" if data["median_gain"] is None else f"\nmedian gain over the default: {data['median_gain']:.2f} times"
    said = (
        f"{data['place']}\n{states}\n{data['damaged']} damaged rows, {data['orphans']} samples without their key{gain}"
    )
    return [said, *([table] if data["targets"] else [])]


def merged(name: str, done: Merged, dry_run: bool) -> str:
    """One line, and one for each conflict."""
    lines = [f"{name}{' (nothing is written)' if dry_run else ''}: {done}"]
    for c in done.conflicts:
        which = "kept here" if c.mine else "taken from there"
        lines.append(
            f"  {c.key.program[:SHORT]} {c.key.place.target} {_sizes(c.key)}: {c.kept.configuration} {which}: {c.reason}"
        )
    return "\n".join(lines)


def merged_as_data(done: Merged) -> dict[str, Any]:
    conflicts = [
        {
            "key": c.key.digest, "kept": _decision_as_data(c.kept), "dropped": _decision_as_data(c.dropped),
            "reason": c.reason, "changed": not c.mine,
        }
        for c in done.conflicts
    ]  # fmt: skip
    return {"keys": done.keys, "decisions": done.decisions, "samples": done.samples, "conflicts": conflicts}


def difference(found: Difference, a: str, b: str) -> str:
    if not found:
        return "no difference"
    lines = [f"- {_named(key)}" for key in found.only_a] + [f"+ {_named(key)}" for key in found.only_b]
    for old, new in found.changed:
        known = old or new
        assert known is not None
        lines.append(f"! {_named(known.key)}: {_decision(old) or 'no decision'} -> {_decision(new) or 'no decision'}")
    samples = f"{found.samples_only_a} samples only in {a}, {found.samples_only_b} only in {b}"
    return "\n".join([*lines, samples])


def difference_as_data(found: Difference) -> dict[str, Any]:
    return {
        "only_a": [key.digest for key in found.only_a], "only_b": [key.digest for key in found.only_b],
        "changed": [[_decision_as_data(old), _decision_as_data(new)] for old, new in found.changed],
        "samples_only_a": found.samples_only_a, "samples_only_b": found.samples_only_b,
    }  # fmt: skip


def verified(data: dict[str, Any]) -> str:
    said = (
        f"{data['place']}: {data['keys']} keys, {data['decisions']} decisions and {data['samples']} samples are whole"
    )
    lines = [said, *(f"damaged: {row['table']} {row['row'][:SHORT]}: {row['why']}" for row in data["damaged"])]
    if data["salvaged"]:
        lines.append(data["salvaged"])
    if data["orphans"]:
        lines.append(f"{data['orphans']} samples belong to keys that are not described; they are used all the same")
    if data["damaged"]:
        lines.append("next: `fusecade cache prune --invalid` deletes the damaged rows; they are never used")
    return "\n".join(lines)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("kernel", "target", "state", "kind"))
    return table


def _named(key: Key) -> str:
    return f"{key.program[:SHORT]} {key.place.target} {_sizes(key)} {key.dtypes}"


def _sizes(key: Key) -> str:
    return " ".join(f"{name}={size}" for name, size in key.sizes)


def _decision(found: Decision | None) -> str:
    return f"{found.configuration} ({found.kind})" if found else ""


def _gain(found: Decision | None) -> str:
    return f"{found.gain:.2f}x" if found and found.gain else ""


def _versions(found: Decision) -> str:
    return ", ".join(f"{name} {value}" for name, value in vars(found.versions).items() if value) or "unknown versions"


def _decision_as_data(found: Decision | None) -> dict[str, Any] | None:
    return json.loads(decision_body(found)) if found else None


def _age(at: float) -> str:
    seconds = time.time() - at
    if at <= 0 or seconds < 0:
        return "unknown"
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
