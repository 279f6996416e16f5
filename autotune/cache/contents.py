"""All that a cache holds, as a value; and its text form, one line a row, the last line a hash of all others.

The lines come in one order and each has one form, so that the same contents are the same bytes, and a diff shows what
changed.  A key comes first, then its decision, then its samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import FusecadeError, InvalidArgument
from ..records import Key, Sample
from .codec import canonical, decision_body, key_body, parse, read_decision, read_key, read_sample, sample_body
from .decision import Decision

FORMAT = "fusecade-tuning"
FORMAT_VERSION = 1
WHOLE = "get the file again from where it comes, or `fusecade cache export` from a cache that has it"


@dataclass
class Contents:
    """keys: by their digest, as in the other two.  samples: by their text, so that the same one is there once."""

    keys: dict[str, Key] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    samples: dict[str, dict[str, Sample]] = field(default_factory=dict)

    def add_key(self, key: Key) -> str:
        digest = key.digest
        self.keys[digest] = key
        return digest

    def add_sample(self, digest: str, sample: Sample) -> bool:
        """Whether it was not there yet."""
        of_key = self.samples.setdefault(digest, {})
        body = sample_body(sample)
        new = body not in of_key
        of_key[body] = read_sample(body)
        return new

    def add_decision(self, decision: Decision) -> None:
        self.decisions[self.add_key(decision.key)] = decision

    @property
    def count(self) -> tuple[int, int, int]:
        """Keys, decisions, samples."""
        return len(self.keys), len(self.decisions), sum(map(len, self.samples.values()))

    def ordered(self) -> list[tuple[str, Key]]:
        """(digest, key): by program, target and sizes."""
        return sorted(
            self.keys.items(), key=lambda item: (item[1].program, item[1].place.target, item[1].sizes, item[0])
        )


def to_text(contents: Contents) -> str:
    lines = [canonical({"format": FORMAT, "version": FORMAT_VERSION}), *_lines(contents)]
    body = "".join(f"{line}\n" for line in lines)
    return f"{body}{canonical({'sha256': hashlib.sha256(body.encode()).hexdigest()})}\n"


def _lines(contents: Contents) -> Iterator[str]:
    for digest, key in contents.ordered():
        yield f'{{"key":{key_body(key)}}}'
        if digest in contents.decisions:
            decided = parse(decision_body(contents.decisions[digest]))
            yield canonical({"decision": {name: value for name, value in decided.items() if name != "key"}})
        for body in sorted(contents.samples.get(digest, ())):
            yield f'{{"sample":{body}}}'


def read_file(path: Path) -> Contents:
    try:
        return from_text(path.read_bytes().decode("ascii"))
    except OSError as error:
        raise InvalidArgument(
            f"{path} cannot be read: {error.strerror}", next_step="give a file that is there"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is no export of a tuning cache: it is no ASCII text", next_step=WHOLE) from error
    except FusecadeError as error:
        raise InvalidArgument(f"{path}: {error.message}", next_step=error.next_step) from error


def from_text(text: str) -> Contents:
    """Raises InvalidArgument for a text that is not, to the last byte, what `to_text` writes."""
    body, _, last = text.removesuffix("\n").rpartition("\n")
    body = f"{body}\n"
    sealed = canonical({"sha256": hashlib.sha256(body.encode()).hexdigest()})
    lines = body.splitlines()
    if not text.endswith("\n") or not text.startswith(f'{{"format":"{FORMAT}"'):
        raise InvalidArgument("this is no export of a tuning cache, or its end is missing", next_step=WHOLE)
    if last != sealed:
        raise InvalidArgument(
            "the last line is not the hash of the others: the file was edited or cut", next_step=WHOLE
        )
    version = _record(lines[0]).get("version")
    if version != FORMAT_VERSION:
        raise InvalidArgument(
            f"the export has format {version!r}, and this version of Fusecade reads {FORMAT_VERSION}",
            next_step="import it with the version that wrote it, or a later one",
        )
    contents = Contents()
    digest = ""
    for number, line in enumerate(lines[1:], start=2):
        try:
            digest = _add(contents, digest, _record(line))
        except (InvalidArgument, TypeError, ValueError) as error:
            why = error.message if isinstance(error, InvalidArgument) else str(error)
            raise InvalidArgument(f"line {number}: {why}", next_step=WHOLE) from error
    return contents


def _add(contents: Contents, digest: str, record: Mapping[str, Any]) -> str:
    """One line; returns the digest of the key that the next lines belong to."""
    match list(record.items()):
        case [("key", data)]:
            return contents.add_key(read_key(data))
        case [("decision", dict(data))] if digest and "key" not in data:
            contents.add_decision(read_decision(data | {"key": parse(key_body(contents.keys[digest]))}))
            return digest
        case [("sample", data)] if digest:
            contents.add_sample(digest, read_sample(canonical(data)))
            return digest
    raise InvalidArgument("it is neither a key nor a decision nor a sample", next_step=WHOLE)


def _record(line: str) -> Mapping[str, Any]:
    found = parse(line)
    if not isinstance(found, dict):
        raise InvalidArgument("it is no record", next_step=WHOLE)
    return found
