"""Exports, merges, differences, and what comes with the package."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from data.tuning import A100, H100, at_these_versions, configuration, decision, key, known, plain, sample, some_contents
from hypothesis import given, settings

from fusecade.autotune.cache import Contents, Decision, TuningCache, diff, from_text, merge, open_cache, to_text
from fusecade.autotune.cache.codec import (
    canonical,
    decision_body,
    parse,
    read_decision,
    read_key,
    read_sample,
    sample_body,
)
from fusecade.autotune.cache.inspect import Filter, only, prune, read_all, remove, structure, take_in, winners
from fusecade.autotune.cache.sqlite_file import FILE, InMemory
from fusecade.autotune.records import FAILURES, Configuration, Key, Place, Sample, Versions
from fusecade.errors import CacheWarning, InvalidArgument, UserError

TIMES = st.floats(0, 1e12, allow_nan=False)
TEXT = st.text(max_size=20)
SIZES = st.lists(st.tuples(st.sampled_from("ijkm"), st.integers(0, 1 << 40)), max_size=4).map(
    lambda s: tuple(sorted(s))
)
PLACES = st.builds(Place, st.sampled_from(["cpu", "sm_90"]), st.integers(0, 500), st.integers(0, 1 << 40))
KEYS = st.builds(Key, st.text("abcdef0123456789", max_size=4), SIZES, TEXT, TEXT, PLACES, TEXT)
VALUES = st.dictionaries(st.sampled_from(["BI", "BJ", "warps"]), st.integers(-5, 1 << 40))
CONFIGURATIONS = st.builds(Configuration.of, TEXT, VALUES)
VERSIONS = st.builds(Versions, TEXT, TEXT, TEXT)
DECISIONS = st.builds(
    lambda of, c, kind, us, more, versions, at: Decision(of, c, kind, us, us + more, versions, at),
    KEYS, CONFIGURATIONS, st.sampled_from(["measured", "predicted"]), TIMES, TIMES, VERSIONS, st.floats(0, 2e9),
)  # fmt: skip
SAMPLES = st.one_of(
    st.builds(
        Sample, CONFIGURATIONS, st.just("measured"), TIMES, st.none() | TIMES, st.integers(0, 99), at=st.floats(0, 2e9)
    ),
    st.builds(Sample, CONFIGURATIONS, st.sampled_from(FAILURES), versions=VERSIONS, note=st.text()),
)


@st.composite
def contents(draw) -> Contents:
    out = Contents()
    for each in draw(st.lists(DECISIONS, max_size=4)):
        out.add_decision(each)
    for of in draw(st.lists(KEYS, max_size=2)):
        out.add_key(of)
    for digest in list(out.keys):
        for each in draw(st.lists(SAMPLES, max_size=3)):
            out.add_sample(digest, each)
    return out


class TestText:
    @settings(max_examples=30)
    @given(contents())
    def test_what_is_written_is_read(self, given: Contents):
        text = to_text(given)
        assert to_text(from_text(text)) == text
        assert from_text(text).decisions == given.decisions

    @given(DECISIONS, SAMPLES, KEYS)
    def test_rows_come_back(self, decided: Decision, sampled: Sample, of: Key):
        assert read_decision(decision_body(decided)) == decided
        assert read_sample(sample_body(sampled)) == sampled
        assert read_key(parse(canonical(asdict(of)))) == of

    def test_the_order_of_arrival_does_not_matter(self):
        given = some_contents()
        mixed = Contents()
        digests = list(given.keys)
        random.Random(1).shuffle(digests)
        for digest in digests:
            for each in reversed(given.samples[digest].values()):
                mixed.add_sample(digest, each)
            mixed.add_decision(given.decisions[digest])
        assert to_text(mixed) == to_text(given)

    def test_one_more_sample_is_a_small_diff(self):
        given = some_contents()
        before = to_text(given).splitlines()
        given.add_sample(next(iter(given.keys)), sample(99))
        after = to_text(given).splitlines()
        assert len(set(after) ^ set(before)) == 3, "the sample, the old hash, the new hash"

    @settings(max_examples=100)
    @given(st.data())
    def test_a_changed_byte_is_seen(self, data):
        text = to_text(some_contents(2, 2))
        place = data.draw(st.integers(0, len(text) - 1))
        letter = data.draw(st.characters(max_codepoint=127).filter(lambda c: c != text[place]))
        for other in (text[:place] + letter + text[place + 1 :], text[:place], text[:place] + text[place + 1 :]):
            if other != text:
                with pytest.raises(InvalidArgument):
                    from_text(other)

    @pytest.mark.parametrize(
        "line",
        [
            '{"sample":{}}', '{"decision":{}}', '{"key":{}}', "[]", "{}", "null", '{"us":NaN}', "[" * 5000, '{"a":1,"b":2}',
            '{"other":{}}', "",
        ],
    )  # fmt: skip
    def test_a_line_that_is_none_with_the_right_hash(self, line: str):
        import hashlib

        given = to_text(some_contents(1, 1)).splitlines()
        body = "\n".join([*given[:-1], line]) + "\n"
        text = f'{body}{{"sha256":"{hashlib.sha256(body.encode()).hexdigest()}"}}\n'
        with pytest.raises(InvalidArgument, match="line 5"):
            from_text(text)

    def test_a_later_format(self):
        import hashlib

        body = '{"format":"fusecade-tuning","version":2}\n'
        with pytest.raises(InvalidArgument, match="has format 2, and this version of Fusecade reads 1"):
            from_text(f'{body}{{"sha256":"{hashlib.sha256(body.encode()).hexdigest()}"}}\n')

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("us", "1"), ("us", True), ("us", None), ("us", -1), ("us", [1]), ("kind", "guessed"), ("kind", 3), ("at", "now"),
            ("configuration", {"variant": 3, "values": {}}), ("configuration", {"variant": "a", "values": {"BI": 1.5}}),
            ("configuration", {"variant": "a", "values": {"BI": True}}),
            ("configuration", {"variant": "a", "values": {"a b": 1}}),
            ("configuration", {"variant": "a", "values": {"BI": "__import__('os')"}}), ("versions", {}), ("key", {}),
            ("source", "x"), ("default_us", 1.0),
        ],
    )  # fmt: skip
    def test_values_are_checked(self, name: str, value: object):
        data = json.loads(decision_body(decision(key()))) | {name: value}
        with pytest.raises((InvalidArgument, TypeError)):
            read_decision(data)


class TestMerge:
    PAIRS = (
        (decision(key(), 1, kind="predicted", at=2e9), decision(key(), 2), 1, "measured before predicted"),
        (decision(key(), 1, us=10.0, at=1.7e9), decision(key(), 2, us=6.0), 1, "2.00 times faster than the default"),
        (decision(key(), 1, us=10.0), decision(key(), 2, us=30.0, default_us=90.0), 1, "3.00 times faster"),
        (decision(key(), 1, us=10.0), decision(key(), 2, us=9.95), 1, "the newer one"),
        (decision(key(), 1, us=10.0, at=4e9), decision(key(), 2, us=9.95), 1, "the newer one"),
        (decision(key(), 1, us=5.0), decision(key(), 2, versions=Versions("4")), 1, "the newer one"),
        (decision(key(), 1, us=5.0), decision(key(), 2, default_us=None), 1, "the newer one"),
        (decision(key(), 1, at=0.0), decision(key(), 2, at=0.0), 0, "the first by its text"),
    )

    @pytest.mark.parametrize(("first", "second", "which", "why"), PAIRS)
    @pytest.mark.parametrize("turned", [False, True])
    def test_rules(self, first: Decision, second: Decision, which: int, why: str, turned: bool):
        sides = [Contents(), Contents()]
        for side, each in zip(sides, (second, first) if turned else (first, second), strict=True):
            side.add_decision(each)
        merged = merge(*sides, now=1.8e9)
        (conflict,) = merged.conflicts
        kept = (first, second)[which]
        assert merged.contents.decisions[key().digest] == conflict.kept == kept
        assert why in conflict.reason
        assert conflict.mine == ((which == 0) != turned)

    @settings(max_examples=30)
    @given(contents(), contents())
    def test_neither_order_nor_repetition_matters(self, a: Contents, b: Contents):
        both = merge(a, b, now=1e9).contents
        assert to_text(both) == to_text(merge(b, a, now=1e9).contents)
        assert to_text(merge(both, b, now=1e9).contents) == to_text(both)
        assert not merge(a, a, now=1e9).changed
        assert set(a.keys) | set(b.keys) == set(both.keys)

    def test_no_sample_is_lost(self):
        a, b = some_contents(3, 2), some_contents(6, 5)
        before = to_text(a), to_text(b)
        merged = merge(a, b)
        assert merged.contents.count == b.count
        assert (merged.keys, merged.decisions, merged.samples) == (3, 3, 24)
        assert (to_text(a), to_text(b)) == before, "the arguments are as they were"

    def test_differences(self):
        a, b = some_contents(3, 2), some_contents(3, 2)
        assert not diff(a, b)
        b.add_decision(decision(key(1 << 20), 3))
        digest = next(iter(a.keys))
        a.add_decision(replace(a.decisions[digest], us=1.0))
        a.add_sample(digest, sample(88))
        found = diff(a, b)
        assert (found.only_a, found.only_b) == ((), (key(1 << 20),))
        assert [(old and old.us, new and new.us) for old, new in found.changed] == [(1.0, 5.0)]
        assert (found.samples_only_a, found.samples_only_b) == (1, 0)


class InACache:
    @pytest.fixture
    def cache(self) -> TuningCache:
        raise NotImplementedError

    def test_out_and_in(self, cache: TuningCache):
        given = some_contents()
        done = take_in(cache, given)
        assert (done.keys, done.decisions, done.samples) == given.count
        assert to_text(read_all(cache).contents) == to_text(given)
        assert not take_in(cache, given).changed
        assert plain(cache.lookup(key(64, program="aa"))) == given.decisions[key(64, program="aa").digest]

    def test_a_dry_run_writes_nothing(self, cache: TuningCache):
        assert take_in(cache, some_contents(), dry_run=True).changed
        assert read_all(cache).contents.count == (0, 0, 0)

    def test_a_merge_may_bring_back_what_decide_would_not(self, cache: TuningCache):
        """Both rules agree: what was measured stays."""
        cache.decide(key(), decision(key(), 1))
        other = Contents()
        other.add_decision(decision(key(), 2, kind="predicted", us=1.0))
        take_in(cache, other)
        assert known(cache, key()).configuration == configuration(1)

    def test_filters(self, cache: TuningCache):
        take_in(cache, some_contents())
        cache.decide(key(place=A100), decision(key(place=A100), 5, at=1.5e9))
        everything = read_all(cache).contents
        counts = {
            Filter(): 7, Filter(target="sm_80"): 1, Filter(target="sm"): 0, Filter(kernel="aa"): 1, Filter(kernel="ab"): 1,
            Filter(kernel=key(place=A100).digest[:20]): 1, Filter(newer=1.4e9): 1, Filter(older=1.4e9): 6,
            Filter(target="sm_90", newer=1.4e9): 0,
        }  # fmt: skip
        assert {f: len(only(everything, f).keys) for f in counts} == counts
        assert winners(everything).count == (7, 7, 0)

    def test_removing(self, cache: TuningCache):
        take_in(cache, some_contents())
        with pytest.raises(InvalidArgument, match="without a filter everything would be deleted"):
            remove(cache, Filter())
        assert remove(cache, Filter(kernel="aa"), dry_run=True).keys == 1
        assert read_all(cache).contents.count == (6, 6, 30)
        assert str(remove(cache, Filter(kernel="aa"))) == "1 keys, 1 decisions, 5 samples, 0 damaged rows, 0 leases"
        assert read_all(cache).contents.count == (5, 5, 25)
        assert cache.lookup(key(64, program="aa")) is None

    def test_pruning(self, cache: TuningCache):
        take_in(cache, some_contents(2, 5))
        cache.claim(key(), configuration(40), 0.0)
        cache.change(lambda run: run("UPDATE tuned_decisions SET at = 0, body = '{}' WHERE digest = :d", d=_second()))
        assert prune(cache, Filter(older=2e9), 3e9, invalid=True, dry_run=True).damaged == 1
        gone = prune(cache, Filter(older=2e9), 3e9)
        assert (gone.damaged, gone.claims, gone.samples) == (1, 1, 9), "all but that of the decided configuration"
        checked = read_all(cache)
        assert (checked.contents.count, checked.bad) == ((2, 1, 1), [])
        assert str(prune(cache, Filter(older=2e9), 3e9)).startswith("0 keys, 0 decisions, 0 samples")

    def test_every_row_is_checked(self, cache: TuningCache):
        take_in(cache, some_contents(2, 2))
        assert (read_all(cache).bad, structure(cache)) == ([], [])
        for table in ("tuned_keys", "tuned_decisions", "tuned_samples"):
            cache.change(lambda run, table=table: run(f"UPDATE {table} SET body = replace(body, '1', '2')"))
        checked = read_all(cache)
        assert {row[0] for row in checked.bad} == {"tuned_keys", "tuned_decisions", "tuned_samples"}
        assert checked.contents.count == (0, 0, 0)


def _second() -> str:
    return list(some_contents(2, 5).keys)[1]


class TestInSqlite(InACache):
    @pytest.fixture
    def cache(self, tmp_path: Path):
        with open_cache(tmp_path / "cache", strict=True) as opened:
            yield opened

    def test_an_index_that_lost_rows(self, tmp_path: Path):
        """The rows are whole, and SQLite's own check says what is wrong."""
        with open_cache(tmp_path / "cache") as cache:
            take_in(cache, some_contents(2, 40))
            page = cache.rows("SELECT rootpage FROM sqlite_master WHERE name = 'tuned_decisions_of_family'")[0][0]
        path = tmp_path / "cache" / FILE
        blob = bytearray(path.read_bytes())
        blob[4096 * (page - 1) + 3 : 4096 * (page - 1) + 5] = b"\0\0"
        path.write_bytes(blob)
        with open_cache(tmp_path / "cache") as cache:
            assert structure(cache)
            assert not read_all(cache).bad


class TestInPostgres(InACache):
    @pytest.fixture
    def cache(self, postgres_url: str, tmp_path: Path):
        with open_cache(tmp_path, postgres_url, strict=True) as opened:
            yield opened

    def test_from_a_file_to_a_server_and_back(self, cache: TuningCache, tmp_path: Path):
        given = to_text(some_contents())
        take_in(cache, from_text(given))
        assert to_text(read_all(cache).contents) == given


class TestPackaged:
    """Defaults in a folder, after the user's own cache."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "defaults").mkdir()
        return tmp_path / "defaults"

    @staticmethod
    def ship(folder: Path, *decided: Decision) -> None:
        by_target = sorted(decided, key=lambda d: d.key.place.target)
        for target, group in itertools.groupby(by_target, lambda d: d.key.place.target):
            out = Contents()
            for each in group:
                out.add_decision(each)
            (folder / f"{target}.jsonl").write_text(to_text(out))

    @staticmethod
    def session(folder: Path, **given) -> TuningCache:
        return TuningCache(InMemory(), reopen=InMemory, packaged=folder, **at_these_versions(given))

    def test_the_user_comes_first(self, folder: Path):
        self.ship(folder, decision(key(), 1))
        cache = self.session(folder)
        assert known(cache, key()).source == "packaged"
        cache.decide(key(), decision(key(), 2))
        found = known(cache, key())
        assert (found.source, found.configuration) == ("this process", configuration(2))

    def test_near_sizes(self, folder: Path):
        self.ship(folder, decision(key(512), 1))
        cache = self.session(folder)
        assert (known(cache, key(256)).distance, known(cache, key(256)).source) == (1.0, "packaged")
        assert cache.lookup(key(64)) is None

    def test_the_nearest_device_is_said(self, folder: Path):
        l40 = Place("sm_89", 142, 48 << 30)
        self.ship(
            folder,
            decision(key(place=A100), 1),
            decision(key(place=l40), 2),
            decision(key(place=Place("gfx942", 304, 1)), 3),
        )
        found = known(self.session(folder), key(place=H100))
        assert found.configuration == configuration(2), "sm_89 is nearer to sm_90 than sm_80 is"
        assert found.source == "packaged, for sm_89 with 142 SMs and 52 GB"
        assert not found.exact

    def test_the_same_chip_with_other_sms(self, folder: Path):
        pcie = Place("sm_90", 114, 80 << 30)
        self.ship(folder, decision(key(place=pcie), 1), decision(key(place=A100), 2))
        found = known(self.session(folder), key(place=H100))
        assert (found.configuration, found.source) == (configuration(1), "packaged, for sm_90 with 114 SMs and 86 GB")

    def test_no_other_maker(self, folder: Path):
        self.ship(folder, decision(key(place=Place("gfx942", 304, 1)), 3), decision(key(place=Place("cpu", 2, 1)), 3))
        assert self.session(folder).lookup(key(place=H100)) is None

    def test_versions_are_said(self, folder: Path):
        self.ship(folder, decision(key(), 1))
        found = known(self.session(folder, versions=Versions("3.6.0")), key())
        assert found.mismatches == ("triton 3.9.0 when tuned, 3.6.0 now",)

    def test_a_file_that_was_edited(self, folder: Path):
        self.ship(folder, decision(key(), 1))
        path = folder / "sm_90.jsonl"
        path.write_text(path.read_text().replace('"BI":32', '"BI":64'))
        with pytest.warns(CacheWarning, match="the packaged defaults .* are left out"):
            assert self.session(folder).lookup(key()) is None

    def test_without_a_folder(self, folder: Path):
        assert self.session(folder / "none").lookup(key()) is None

    def test_what_is_shipped_is_whole(self):
        from fusecade.autotune.cache import read_file
        from fusecade.autotune.cache.packaged import FOLDER

        assert FOLDER.is_dir()
        for path in FOLDER.glob("*.jsonl"):
            shipped = read_file(path)
            assert {k.place.target for k in shipped.keys.values()} == {path.stem}
            assert all(d.gain is None or d.gain >= 1 for d in shipped.decisions.values() if d.kind == "measured")


def test_errors_say_what_to_do(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text("nothing")
    from fusecade.autotune.cache import open_database, read_file

    for fails in (lambda: read_file(tmp_path / "x.jsonl"), lambda: open_database(str(tmp_path / "none.sqlite"))):
        with pytest.raises(UserError) as caught:
            fails()
        assert str(caught.value).splitlines()[-1].startswith("next: ")
