"""Keys, samples and decisions as text, and back: JSON in one fixed form, read strictly, with a hash beside it.

What is read is either what was written or it is refused: InvalidArgument, never another value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ...errors import InvalidArgument
from ..records import AGAIN, Configuration, Key, Place, Sample, Versions
from .decision import Decision

LONGEST_NOTE = 4000  # characters of a note that are kept: a compiler may say megabytes
LONGEST_BODY = 1 << 20  # of a row; one that is longer was not written here
_NUMBER = (int, float)
_INTEGERS = (1 << 63) - 1


def canonical(data: Any) -> str:
    """One text for one value: sorted names, no spaces, ASCII only; no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse(text: str) -> Any:
    """Raises InvalidArgument for what is no JSON, and for NaN and infinities, which are none."""
    try:
        if len(text) > LONGEST_BODY:
            raise ValueError("longer than anything that is written")
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"a row of the tuning cache is no JSON: {error}", next_step=AGAIN) from error


def seal(owner: str, body: str) -> str:
    """The hash of a row: of what it says, and of the key that it says it about."""
    return hashlib.sha256(f"{owner}\n{body}".encode()).hexdigest()


def key_body(key: Key) -> str:
    return canonical(asdict(key))


def read_key(data: Any) -> Key:
    given = _object(data, {f.name for f in fields(Key)}, "key")
    place = _object(given["place"], {f.name for f in fields(Place)}, "place")
    sizes = given["sizes"]
    _want(isinstance(sizes, list), "sizes", sizes)
    for pair in sizes:
        _want(isinstance(pair, list) and len(pair) == 2, "sizes", sizes)
        _want(isinstance(pair[0], str) and type(pair[1]) is int and 0 <= pair[1] <= _INTEGERS, "sizes", pair)
    for name in ("program", "dtypes", "strides", "generator"):
        _want(isinstance(given[name], str), name, given[name])
    _want(isinstance(place["target"], str), "target", place["target"])
    for name in ("sms", "memory_bytes"):
        _want(type(place[name]) is int and place[name] >= 0, name, place[name])
    return Key(**(given | {"sizes": tuple((n, v) for n, v in sizes), "place": Place(**place)}))


def configuration_digest(configuration: Configuration) -> str:
    return hashlib.sha256(canonical(configuration.to_json()).encode()).hexdigest()


def sample_body(sample: Sample) -> str:
    note = sample.note
    if len(note) > LONGEST_NOTE:
        kept = LONGEST_NOTE - 60  # with what is said of the rest it is short enough to be kept as it is
        note = f"{note[:kept]} ... and {len(note) - kept} more characters"
    data = asdict(sample) | {"configuration": sample.configuration.to_json(), "note": note}
    return _written(data | {"resources": dict(sample.resources)}, _sample)


def read_sample(text: str) -> Sample:
    return _sample(parse(text))


def _sample(data: Any) -> Sample:
    given = _object(data, {f.name for f in fields(Sample)}, "sample")
    for name in ("us", "spread_us", "predicted_us", "default_us"):
        _want(given[name] is None or type(given[name]) in _NUMBER, name, given[name])
    _want(type(given["rounds"]) is int and given["rounds"] >= 0, "rounds", given["rounds"])
    _want(type(given["at"]) in _NUMBER and abs(given["at"]) <= _INTEGERS, "at", given["at"])
    _want(isinstance(given["state"], str), "state", given["state"])
    _want(isinstance(given["note"], str), "note", given["note"])
    resources = given["resources"]
    _want(isinstance(resources, dict) and all(type(v) is int for v in resources.values()), "resources", resources)
    given["configuration"] = Configuration.from_json(given["configuration"])
    given["versions"] = _versions(given["versions"])
    return Sample(**given)


_KEPT = ("key", "configuration", "kind", "us", "default_us", "versions", "at")  # of a decision; a lookup adds the rest


def decision_body(decision: Decision) -> str:
    data = {name: getattr(decision, name) for name in _KEPT}
    data |= {"key": asdict(decision.key), "configuration": decision.configuration.to_json()}
    return _written(data | {"versions": asdict(decision.versions)}, read_decision)


def read_decision(data: Any) -> Decision:
    given = _object(parse(data) if isinstance(data, str) else data, set(_KEPT), "decision")
    _want(type(given["us"]) in _NUMBER, "us", given["us"])
    _want(given["default_us"] is None or type(given["default_us"]) in _NUMBER, "default_us", given["default_us"])
    _want(type(given["at"]) in _NUMBER and abs(given["at"]) <= _INTEGERS, "at", given["at"])
    _want(isinstance(given["kind"], str), "kind", given["kind"])
    given["configuration"] = Configuration.from_json(given["configuration"])
    given["versions"] = _versions(given["versions"])
    given["key"] = read_key(given["key"])
    return Decision(**given)


def _written(data: Mapping[str, Any], read: Any) -> str:
    """The text, after reading it back: what cannot be read again is refused here, with its writer to see it."""
    try:
        body = canonical(data)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"this cannot be kept in the tuning cache: {error}", next_step=AGAIN) from error
    read(parse(body))
    return body


def _versions(data: Any) -> Versions:
    given = _object(data, {f.name for f in fields(Versions)}, "versions")
    _want(all(isinstance(v, str) for v in given.values()), "versions", given)
    return Versions(**given)


def _object(data: Any, names: set[str], what: str) -> dict[str, Any]:
    """A copy.  Raises InvalidArgument for other names."""
    _want(isinstance(data, dict) and set(data) == names, what, data)
    return dict(data)


def _want(right: bool, what: str, got: object) -> None:
    if not right:
        raise InvalidArgument(f"{what} {str(got)[:200]!r} is not what the tuning cache writes", next_step=AGAIN)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
