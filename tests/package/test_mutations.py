"""Packages that were damaged, or edited by somebody who mends all hashes: refused, or right; never a crash."""

from __future__ import annotations

import copy
import random
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import packaged
import pytest
import torch

import fusecade
from fusecade.commands.inspect import as_data
from fusecade.errors import FusecadeError
from fusecade.runtime.package import archive
from fusecade.runtime.package.manifest import Package

# What PyTorch's operators raise for arguments that they do not take, as they do in a program of one's own.
OF_OPERATORS = (RuntimeError, IndexError, ValueError, TypeError, ArithmeticError, MemoryError, NotImplementedError)
SECONDS = 20


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        pytest.fail(f"a mutated package kept us for {seconds} s", pytrace=False)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Tried:
    """A package, its right answer, and what became of its mutations."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.members = archive.read(self.data)
        self.manifest = packaged.manifest_of(self.members)
        generator = torch.Generator().manual_seed(0)
        self.inputs = [torch.randn(40, 16, generator=generator), torch.randn(16, 24, generator=generator)]
        self.loaded = fusecade.load(path)
        self.digest = self.loaded.package.digest
        self.right = self.loaded(*self.inputs)
        self.counts: Counter[str] = Counter()
        self.folder = Path(tempfile.mkdtemp())

    def try_(self, data: bytes, kind: str, *, digest: str | None) -> None:
        """Load, inspect, call.  digest: known to the caller, so that only the right answer will do."""
        path = self.folder / "mutated.fcade"
        path.write_bytes(data)
        given = [x.clone() for x in self.inputs]
        with warnings.catch_warnings(), within(SECONDS):
            warnings.simplefilter("ignore")
            try:
                inspected = Package.open(path)
                as_data(inspected, inspected.kernels)
                found = fusecade.load(path, digest=digest)
            except FusecadeError:
                self.counts[f"{kind}: refused"] += 1
                return
            try:
                result = found(*given)
            except FusecadeError:
                self.counts[f"{kind}: refused when called"] += 1
                return
            except OF_OPERATORS:
                assert digest is None
                self.counts[f"{kind}: an operator refused"] += 1
                return
        if same(result, self.right):
            self.counts[f"{kind}: right"] += 1
        else:
            # Nobody asked for a digest, and every hash was made to fit: it is another package, well formed.
            assert digest is None and kind == "edited"
            assert len(data) != len(self.data) or data != self.data
            self.counts[f"{kind}: another program"] += 1


def same(a: Any, b: Any) -> bool:
    try:
        torch.testing.assert_close(a, b, equal_nan=True)
    except (AssertionError, TypeError, ValueError, RuntimeError):  # the last where a number was to be true or false
        return False
    return True


# --- mutations ---------------------------------------------------------------------------------------------------------


def damaged(of: Tried, r: random.Random) -> bytes:
    """Bits that flip, bytes that are lost, parts that change places: what files suffer."""
    data = bytearray(of.data)
    match r.randrange(6):
        case 0 | 1:
            for _ in range(r.choice((1, 1, 2, 8))):
                data[r.randrange(len(data))] ^= 1 << r.randrange(8)
        case 2:
            del data[r.randrange(len(data)) :]
        case 3:
            begin = r.randrange(len(data))
            del data[begin : begin + r.randrange(1, 100)]
        case 4:
            begin = r.randrange(len(data))
            data[begin:begin] = bytes(r.randrange(256) for _ in range(r.randrange(1, 40)))
        case _:
            a, b = sorted(r.sample(range(len(data)), 2))
            size = r.randrange(1, 200)
            data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return bytes(data)


def swapped(of: Tried, r: random.Random) -> bytes:
    """Members that change places or names, are missing or too many; the manifest is as it was."""
    members = dict(of.members)
    names = [n for n in members if n != archive.MANIFEST]
    match r.randrange(4):
        case 0:
            a, b = r.sample(names, 2)
            members[a], members[b] = members[b], members[a]
        case 1:
            del members[r.choice(names)]
        case 2:
            members[f"{r.choice(names)}.more"] = b"more"
        case _:
            name = r.choice(names)
            members[f"other/{r.randrange(9)}"] = members.pop(name)
    return archive.write(members)


STRANGE: list[Any] = [
    None, True, -1, 0, 1, 2, 7, 1 << 31, 1 << 62, 1 << 70, 0.5, "", "n", "n * 2", "n // 0", "__import__('os')", "a" * 2000,
    [], {}, [[]], {"value": 0}, {"value": 99}, {"size": "n"}, {"float": "nan"}, "f64", "cpu", "sm_90", "../x",
]  # fmt: skip


def edited(of: Tried, r: random.Random) -> bytes:
    """Fields of the manifest that are lost, doubled, or something else, with all hashes as they have to be."""
    members = dict(of.members)
    if r.random() < 0.2:  # the text of a kernel
        name = r.choice([n for n in members if n.endswith(".py")])
        text = members[name].decode().split(" ")
        n = r.randrange(len(text))
        text[n] = r.choice([*text, "torch.load", "x.__class__", "(lambda: 0)()", "0", "-1", "128"])
        members[name] = " ".join(text).encode("utf-8", "ignore")

    def edit(manifest: dict[str, Any]) -> None:
        for _ in range(r.choice((1, 1, 2))):
            places = list(_places(manifest, r))
            holder, key = r.choice(places)
            match r.randrange(5):
                case 0:
                    del holder[key]
                case 1:
                    other, at = r.choice(places)
                    holder[key] = copy.deepcopy(other[at]) if _has(other, at) else None
                case 2 if isinstance(holder[key], int):
                    holder[key] += r.choice((-1, 1, 16, 1 << 40))
                case 3 if isinstance(holder, dict):
                    holder["unknown"] = r.choice(STRANGE)
                case _:
                    holder[key] = copy.deepcopy(r.choice(STRANGE))

    try:
        return packaged.repacked(members, edit)
    except (ValueError, TypeError, KeyError):
        return of.data


def _places(value: Any, r: random.Random) -> Iterator[tuple[Any, Any]]:
    """All fields, but of long lists and tables only some."""
    pending = [value]
    while pending:
        found = pending.pop()
        keys = list(found) if isinstance(found, dict) else list(range(len(found)))
        for key in keys if len(keys) < 12 else r.sample(keys, 12):
            yield found, key
            if isinstance(found[key], dict | list):
                pending.append(found[key])


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def mutate(path: Path, count: int, seed: int) -> Counter[str]:
    of, r = Tried(path), random.Random(seed)
    kinds: list[tuple[str, Callable[[Tried, random.Random], bytes]]] = [
        ("damaged", damaged), ("swapped", swapped), ("edited", edited), ("edited", edited)
    ]  # fmt: skip
    for n in range(count):
        kind, make = kinds[n % len(kinds)]
        data = make(of, r)
        of.try_(data, kind, digest=None)
        if kind == "edited" and data != of.data:
            of.try_(data, "edited, digest known", digest=of.digest)
    assert not any(name.startswith(("damaged: a", "swapped: a")) for name in of.counts)
    assert not any(name.startswith("edited, digest known: ") and "refused" not in name for name in of.counts)
    return of.counts


def test_a_few_hundred(small: Path):
    counts = mutate(small, 300, seed=1)
    assert counts["damaged: refused"] >= 70 and counts["swapped: refused"] == 75 and counts["edited: refused"] >= 75


@pytest.mark.slow
def test_ten_thousand(small: Path, capsys: pytest.CaptureFixture[str]):
    counts = mutate(small, 10_000, seed=2)
    with capsys.disabled():
        print("", *(f"{name}: {count}" for name, count in sorted(counts.items())), sep="\n  ")
