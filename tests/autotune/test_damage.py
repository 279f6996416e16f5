"""Damaged files: what is whole is saved, what is not is said, and nothing that was never written is believed."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
import warnings
from pathlib import Path

import pytest
from data.tuning import DECIDED, GIVEN, KEYS, decision, filled, key, only_what_was_written, plain, sample

from fusecade.autotune.cache import open_cache
from fusecade.autotune.cache.inspect import Filter, prune, read_all, structure
from fusecade.autotune.cache.sqlite_file import FILE
from fusecade.errors import CacheWarning


def flip(blob: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 3, 30, 300])):
        blob[chance.randrange(len(blob))] = chance.randrange(256)


def cut(blob: bytearray, chance: random.Random) -> None:
    del blob[chance.randrange(len(blob)) :]


def blank(blob: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(blob))
    length = min(chance.choice([64, 4096, 20000]), len(blob) - start)
    blob[start : start + length] = bytes(length)


def text(blob: bytearray, chance: random.Random) -> None:
    """As an editor would: digits inside rows."""
    places = [n for n, byte in enumerate(blob) if chr(byte).isdigit() and chance.random() < 0.002]
    for place in places or [len(blob) // 2]:
        blob[place] = ord(chance.choice("0123456789"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return filled(tmp_path_factory.mktemp("whole") / "cache").read_bytes()


class TestDamage:
    @staticmethod
    def survive(folder: Path, whole: bytes, seed: int, log: bytes = b"") -> int:
        """Damages a file, uses it, and returns how many samples were left; the cache works afterwards."""
        chance = random.Random(seed)
        damaged = bytearray(log or whole)
        chance.choice([flip, flip, cut, blank, text])(damaged, chance)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        (folder / FILE).write_bytes(whole if log else damaged)
        if log:
            (folder / f"{FILE}-wal").write_bytes(damaged)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with open_cache(folder) as cache:
                left = only_what_was_written(cache)
                extra = key(64, program="ef")
                assert cache.record(extra, sample(1))
                assert cache.decide(extra, decision(extra, 1))
                assert cache.samples(extra) == [sample(1)]
                assert plain(cache.lookup(extra)) == decision(extra, 1)
                only_what_was_written(cache)
            with open_cache(folder) as cache:
                assert cache.samples(extra) == [sample(1)]
                assert plain(cache.lookup(extra)) == decision(extra, 1)
                only_what_was_written(cache)
                found = [*read_all(cache).bad, *structure(cache)]
        assert {type(w.message) for w in said} - {ResourceWarning} <= {CacheWarning}  # of other tests' processes
        if left < 4 * 40:
            assert said or found or log, "what is lost is said, or `verify` says it"
        return left

    def test_damaged_files(self, tmp_path: Path, whole: bytes):
        left = [self.survive(tmp_path / "cache", whole, seed) for seed in range(40)]
        assert sum(left) > 40 * 4 * 40 / 2, "most of it is saved"

    @pytest.mark.slow
    def test_many_damaged_files(self, tmp_path: Path, whole: bytes):
        left = [self.survive(tmp_path / "cache", whole, seed) for seed in range(1000, 4000)]
        print(f"3000 damaged files: {sum(left) / len(left) / 160:.1%} of the samples saved, {left.count(0)} lost whole")

    def test_pruning_mends_an_index(self, tmp_path: Path, whole: bytes):
        """Rows that only an index has lost come back."""
        (tmp_path / "cache").mkdir(mode=0o700)
        damaged = bytearray(whole)
        for place in _places(whole, KEYS[0].digest.encode()):
            if whole[place - 4 : place + 300].count(b"{") == 0:  # in a page of an index: no bodies there
                damaged[place : place + 8] = b"ffffffff"
        assert damaged != whole
        (tmp_path / "cache" / FILE).write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            with open_cache(tmp_path / "cache") as cache:
                if structure(cache):
                    prune(cache, Filter(), time.time(), invalid=True)
                assert not structure(cache)
                assert only_what_was_written(cache) == 160
                assert all(plain(cache.lookup(k)) == DECIDED[k] for k in KEYS)

    @pytest.mark.parametrize("seeds", [range(10), pytest.param(range(1000, 2000), marks=pytest.mark.slow)], ids=len)
    def test_a_damaged_log(self, tmp_path: Path, seeds: range):
        """The log of a process that was killed, damaged, beside a file that knows nothing of it."""
        with open_cache(tmp_path / "one") as cache:
            cache.rows("PRAGMA wal_checkpoint(TRUNCATE)")
            bare = (tmp_path / "one" / FILE).read_bytes()
            for each in KEYS:
                cache.record_all(each, GIVEN[each])
                cache.decide(each, DECIDED[each])
            log = (tmp_path / "one" / f"{FILE}-wal").read_bytes()
        assert len(log) > 100_000
        left = [self.survive(tmp_path / "cache", bare, seed, log) for seed in seeds]
        assert any(left)

    @pytest.mark.parametrize(
        "content", [b"", b"SQLite format 3\0", b"hello", bytes(8192)], ids=["empty", "header", "text", "zeros"]
    )
    def test_a_file_that_is_none(self, tmp_path: Path, content: bytes):
        (tmp_path / "cache").mkdir(mode=0o700)
        (tmp_path / "cache" / FILE).write_bytes(content)
        with pytest.warns(CacheWarning, match="was damaged .* lies aside as .*damaged-"):
            cache = open_cache(tmp_path / "cache")
        with cache:
            assert cache.record(key(), sample())
        assert [p.read_bytes() for p in (tmp_path / "cache").glob("*damaged*")] == [content]

    def test_a_kill_while_it_is_saved(self, tmp_path: Path, whole: bytes, monkeypatch):
        """The damaged file stays in its place until a new one with its rows is there."""
        from fusecade.autotune.cache import sqlite_file

        (tmp_path / "cache").mkdir(mode=0o700)
        damaged = bytearray(whole)
        damaged[4096 * 4 : 4096 * 6] = bytes(8192)
        (tmp_path / "cache" / FILE).write_bytes(damaged)

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patched.setattr(sqlite_file, "salvage", killed)
            with pytest.raises(KeyboardInterrupt):
                with open_cache(tmp_path / "cache") as cache:
                    only_what_was_written(cache)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_cache(tmp_path / "cache") as cache:
                assert only_what_was_written(cache) > 0
                assert only_what_was_written(cache) > 100

    def test_a_database_of_something_else_is_left_as_it_is(self, tmp_path: Path):
        (tmp_path / "cache").mkdir(mode=0o700)
        with sqlite3.connect(tmp_path / "cache" / FILE) as connection:
            connection.execute("CREATE TABLE notes (text TEXT)")
            connection.execute("INSERT INTO notes VALUES ('mine')")
        connection.close()
        with open_cache(tmp_path / "cache") as cache:
            cache.record(key(), sample())
            assert cache.rows("SELECT text FROM notes") == [("mine",)]

    def test_damage_while_it_is_in_use(self, tmp_path: Path):
        """Two sessions are open when pages go bad; both go on, on the same new file."""
        path = filled(tmp_path / "cache")
        with open_cache(tmp_path / "cache") as one, open_cache(tmp_path / "cache") as other:
            one.rows("PRAGMA cache_size = 0")
            blob = path.read_bytes()
            with open(path, "r+b") as file:
                for page in range(4, len(blob) // 4096):
                    file.seek(4096 * page)
                    file.write(b"\xff" * 64)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CacheWarning)
                assert one.record(key(), sample(900))
                assert other.record(key(), sample(901))
                both = [s for s in one.samples(key()) if s.at >= 1e9 + 900]
                assert both == [sample(900), sample(901)] == [s for s in other.samples(key()) if s.at >= 1e9 + 900]

    def test_a_file_that_is_deleted_while_it_is_in_use(self, tmp_path: Path):
        path = filled(tmp_path / "cache")
        with open_cache(tmp_path / "cache") as cache:
            assert cache.lookup(KEYS[0])
            path.unlink()
            assert cache.lookup(KEYS[0]) is None
            assert cache.record(key(), sample(1))
        with open_cache(tmp_path / "cache") as cache:
            assert cache.samples(key()) == [sample(1)]

    def test_a_log_that_is_left_over(self, tmp_path: Path):
        """Someone deletes the file and not its log: rows of the old file do not come into the new one."""
        with open_cache(tmp_path / "cache") as cache:
            cache.record_all(key(), [sample(n) for n in range(50)])
            for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
                shutil.copy(tmp_path / "cache" / name, tmp_path / name)
        (tmp_path / "cache" / FILE).unlink()
        shutil.copy(tmp_path / f"{FILE}-wal", tmp_path / "cache")
        shutil.copy(tmp_path / f"{FILE}-shm", tmp_path / "cache")
        with open_cache(tmp_path / "cache") as cache:
            assert cache.samples(key()) == []
            cache.record(key(), sample(7))
            assert cache.rows("PRAGMA integrity_check") == [("ok",)]
        assert list((tmp_path / "cache").glob("*left-over*"))


def _places(blob: bytes, word: bytes) -> list[int]:
    found, at = [], blob.find(word)
    while at >= 0:
        found.append(at)
        at = blob.find(word, at + 1)
    return found
