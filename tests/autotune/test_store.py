"""What every tuning cache does, on SQLite with and without its write-ahead log, on PostgreSQL, and in memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from data.tuning import A100, at_these_versions, configuration, decision, key, plain, sample

from fusecade.autotune.cache import TuningCache, open_cache, study_storage
from fusecade.autotune.cache.codec import LONGEST_NOTE
from fusecade.autotune.cache.sqlite_file import FILE, InMemory, SqliteFile
from fusecade.autotune.records import PREDICTED, Place, Versions
from fusecade.errors import CacheWarning, InvalidArgument, MissingTool

LOOKUP_US = 50.0


class Contract:
    """`open` makes a session; two of them share what they keep, where `shared`."""

    source = "user cache"
    shared = True

    @pytest.fixture
    def open(self, tmp_path: Path):
        raise NotImplementedError

    @pytest.fixture
    def cache(self, open) -> TuningCache:
        return open()

    def test_nothing_is_known_at_first(self, cache):
        assert cache.lookup(key()) is None
        assert cache.samples(key()) == []
        assert not cache.read_only

    def test_all_samples_are_kept(self, cache):
        given = [
            sample(0), sample(0, us=11.0), sample(1, us=None, state="predicted", predicted_us=3.0),
            sample(2, us=None, state="crashed", note="misaligned address\n\x00\ud800 é"), sample(3, us=0.25, at=0.0),
        ]  # fmt: skip
        for each in given:
            assert cache.record(key(), each)
        assert sorted(cache.samples(key()), key=repr) == sorted(given, key=repr)
        assert cache.samples(key(128)) == []

    def test_the_same_sample_is_one_sample(self, cache):
        for _ in range(3):
            cache.record(key(), sample(1))
        assert cache.samples(key()) == [sample(1)]

    def test_many_samples_at_once(self, cache):
        given = [sample(n) for n in range(500)]
        assert cache.record_all(key(), given)
        assert cache.samples(key()) == given

    def test_a_long_note_is_cut_once(self, cache):
        cache.record(key(), sample(1, us=None, state="crashed", note="x" * 10_000_000))
        (found,) = cache.samples(key())
        assert len(found.note) <= LONGEST_NOTE
        assert "more characters" in found.note
        cache.record(key(), found)
        assert cache.samples(key()) == [found]

    def test_a_decision_is_looked_up(self, cache):
        assert cache.decide(key(), decision(key()))
        found = cache.lookup(key())
        assert plain(found) == decision(key())
        assert (found.source, found.distance, found.mismatches) == (self.source, 0.0, ())
        assert found.exact

    def test_a_decision_belongs_to_its_key(self, cache):
        with pytest.raises(InvalidArgument, match="under the key that it was made for"):
            cache.decide(key(128), decision(key()))

    @pytest.mark.parametrize(
        ("first", "second", "kept"),
        [
            ("predicted", "measured", 2), ("measured", "predicted", 1),
            ("measured", "measured", 2), ("predicted", "predicted", 2),
        ],
    )  # fmt: skip
    def test_what_replaces_what(self, cache, first, second, kept):
        cache.decide(key(), decision(key(), 1, kind=first))
        cache.decide(key(), decision(key(), 2, kind=second))
        assert cache.lookup(key()).configuration == configuration(kept)

    def test_the_nearest_sizes(self, cache):
        for n in (64, 512):
            cache.decide(key(n), decision(key(n), n))
        for asked, nearest, distance in [(128, 64, 1.0), (256, 512, 1.0), (1024, 512, 1.0), (2048, 512, 2.0)]:
            found = cache.lookup(key(asked))
            assert (found.key, found.distance) == (key(nearest), distance)
            assert not found.exact
        assert cache.lookup(key(4096)) is None
        assert cache.lookup(key(128, m=256)) is None
        assert cache.lookup(key(64, m=0)) is None

    def test_the_nearest_sizes_only_where_all_else_is_the_same(self, cache):
        from dataclasses import replace

        cache.decide(key(), decision(key()))
        asked = key(128)
        for other in (
            replace(asked, program="cd" * 32), replace(asked, dtypes="f32"), replace(asked, strides="column"),
            replace(asked, generator="8"), replace(asked, place=A100), replace(asked, place=Place("sm_90", 114, 80 << 30)),
            replace(asked, sizes=(("i", 128), ("k", 64))), replace(asked, sizes=(("i", 128),)),
        ):  # fmt: skip
            assert cache.lookup(other) is None
        assert cache.lookup(asked) is not None

    def test_a_prediction_is_for_its_own_sizes(self, cache):
        cache.decide(key(), decision(key(), kind=PREDICTED))
        assert cache.lookup(key()).kind == PREDICTED
        assert cache.lookup(key(128)) is None

    def test_other_versions_are_said_and_used(self, open):
        with open() as cache:
            cache.decide(key(), decision(key()))
        with open(versions=Versions("3.10.0", "2.13.0", "")) as cache:
            if not self.shared:
                cache.decide(key(), decision(key()))
            found = cache.lookup(key())
        assert found.mismatches == ("triton 3.9.0 when tuned, 3.10.0 now",)
        assert found.configuration == configuration()
        assert not found.exact

    def test_one_candidate_is_measured_by_one(self, cache):
        lease = cache.claim(key(), configuration(1), 60)
        assert lease
        assert cache.claim(key(), configuration(1), 60) is None
        assert cache.claim(key(), configuration(2), 60)
        assert cache.claim(key(128), configuration(1), 60)
        lease.release()
        with cache.claim(key(), configuration(1), 60):
            cache.record(key(), sample(1))
        assert cache.claim(key(), configuration(1), 60) is None, "it has been measured since"
        assert cache.claim(key(), configuration(1), 60, again=True)

    def test_what_was_only_predicted_may_be_measured(self, cache):
        cache.record(key(), sample(1, us=None, state=PREDICTED))
        assert cache.claim(key(), configuration(1), 60)

    def test_a_lease_ends_by_itself(self, cache):
        assert cache.claim(key(), configuration(1), 0.05)
        time.sleep(0.1)
        assert cache.claim(key(), configuration(1), 60)

    def test_a_lookup_is_fast(self, cache):
        for n in range(50):
            cache.decide(
                key(64 << n % 5, program=f"{n % 10}{n // 10}"), decision(key(64 << n % 5, program=f"{n % 10}{n // 10}"))
            )
        asked = [key(64, program="00"), key(96, program="00"), key(64, program="99")]
        times = []
        for _ in range(700):
            for each in asked:
                start = time.perf_counter_ns()
                cache.lookup(each)
                times.append(time.perf_counter_ns() - start)
        median = statistics.median(times) / 1e3
        print(f"{type(self).__name__}: a lookup takes {median:.1f} us (median of {len(times)}; wanted: {LOOKUP_US:g})")
        assert median < 4 * LOOKUP_US, "far more than is allowed, even for a machine that is busy"

    def test_threads_share_a_session(self, cache):
        def work(number: int) -> None:
            for each in range(10):
                cache.record(key(), sample(100 * number + each))
                cache.decide(key(), decision(key(), number))
                assert cache.lookup(key()) is not None

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(cache.samples(key())) == 40

    def test_studies_lie_beside(self, cache):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(storage=study_storage(cache), study_name="a kernel")
        study.enqueue_trial({"x": 3})
        study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=2)
        cache.record(key(), sample())
        assert cache.samples(key()) == [sample()]
        if self.shared:
            again = optuna.load_study(storage=study_storage(cache), study_name="a kernel")
            assert again.trials[0].params["x"] == 3


class Kept(Contract):
    """What outlives a session."""

    def test_another_session_sees_it(self, open):
        with open() as cache:
            cache.record(key(), sample(1))
            cache.decide(key(), decision(key()))
        with open() as cache:
            assert cache.samples(key()) == [sample(1)]
            assert plain(cache.lookup(key())) == decision(key())

    def test_a_session_sees_what_another_decides(self, open):
        with open() as one, open() as other:
            assert one.lookup(key()) is None
            other.decide(key(), decision(key()))
            one.refresh()
            assert plain(one.lookup(key())) == decision(key())
            other.decide(key(), decision(key(), 5))
            one.refresh()
            assert plain(one.lookup(key())) == decision(key(), 5)

    def test_leases_hold_between_sessions(self, open):
        with open() as one, open() as other:
            assert one.claim(key(), configuration(), 60)
            assert other.claim(key(), configuration(), 60) is None

    def test_the_lease_of_a_process_that_is_gone(self, open, monkeypatch):
        from fusecade.autotune.cache import leases

        gone = subprocess.Popen([sys.executable, "-c", ""])
        mine = leases.owner().split()
        started = leases._started(gone.pid) or "1"
        monkeypatch.setattr(leases, "owner", lambda: f"{mine[0]} {gone.pid} {started}")
        with open() as one:
            assert one.claim(key(), configuration(), 3600)
        gone.wait()
        monkeypatch.undo()
        with open() as other:
            assert other.claim(key(), configuration(), 3600), "nobody holds it any more"

    def test_a_clock_that_was_set_back(self, open, monkeypatch):
        with open() as one:
            now = one.database.now()
            monkeypatch.setattr(type(one.database), "now", lambda self: now + 7200)
            assert one.claim(key(), configuration(), 60)
            monkeypatch.setattr(type(one.database), "now", lambda self: now)
            assert one.claim(key(), configuration(), 60), "the lease is of a time that was not yet"

    def test_rows_that_were_edited_are_left_out(self, open):
        with open() as cache:
            cache.decide(key(), decision(key()))
            cache.record_all(key(), [sample(n) for n in range(3)])
            edit = {"old": '"BI":16', "new": '"BI":32'}
            cache.change(lambda run: run("UPDATE tuned_decisions SET body = replace(body, :old, :new)", **edit))
            cache.change(
                lambda run: run("UPDATE tuned_samples SET body = replace(body, '10.0', '1.0') WHERE at > 1000000001")
            )
        with open() as cache:
            with pytest.warns(CacheWarning, match="a decision in .* is left out") as caught:
                assert [cache.lookup(key()) for _ in range(3)] == [None] * 3
            assert len(caught) == 1
            with pytest.warns(CacheWarning, match="a sample in .* is left out") as caught:
                assert [cache.samples(key()) for _ in range(3)] == [[sample(0), sample(1)]] * 3
            assert len(caught) == 1
            assert cache.decide(key(), decision(key(), 4, kind=PREDICTED)), "what is damaged is in nobody's way"
            assert cache.lookup(key()).configuration == configuration(4)

    def test_a_row_under_another_key_is_not_used(self, open):
        with open() as cache:
            cache.decide(key(), decision(key()))
            other = key(64, program="cd")
            cache.change(
                lambda run: run("UPDATE tuned_decisions SET digest = :d, family = :f", d=other.digest, f=other.family)
            )
        with open() as cache:
            with pytest.warns(CacheWarning, match="left out"):
                assert cache.lookup(other) is None
            assert cache.lookup(key()) is None

    def test_a_child_process_has_its_own_session(self, open):
        with open() as cache:
            cache.record(key(), sample(0))
            child = os.fork()
            if child == 0:
                ok = cache.record(key(), sample(1)) and len(cache.samples(key())) == 2
                os._exit(0 if ok else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            cache.record(key(), sample(2))
            assert cache.samples(key()) == [sample(n) for n in range(3)]


class TestSqlite(Kept):
    @pytest.fixture
    def open(self, tmp_path: Path):
        return lambda **given: open_cache(tmp_path / "a folder? 100% mine", **at_these_versions(given))

    def test_the_file_is_private(self, cache, tmp_path):
        path = tmp_path / "a folder? 100% mine" / FILE
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700

    def test_it_has_a_write_ahead_log(self, cache):
        assert cache.rows("PRAGMA journal_mode") == [("wal",)]

    def test_a_url_names_a_file(self, tmp_path):
        folder = tmp_path / "of the url"
        with open_cache(tmp_path / "unused", f"sqlite:///{folder}/tuning.sqlite") as cache:
            assert cache.place == str(folder / "tuning.sqlite")
        assert not (tmp_path / "unused").exists()


class TestSqliteWithoutItsLog(Kept):
    @pytest.fixture
    def open(self, tmp_path: Path):
        def opened() -> SqliteFile:
            return SqliteFile(tmp_path / "cache" / FILE, journal="delete")

        return lambda **given: TuningCache(opened(), reopen=opened, **at_these_versions(given))

    def test_it_has_none(self, cache, tmp_path):
        cache.record(key(), sample())
        assert cache.rows("PRAGMA journal_mode") == [("delete",)]
        assert {path.name for path in (tmp_path / "cache").iterdir()} == {FILE, "tuning.lock"}


class TestInMemory(Contract):
    source = "this process"
    shared = False

    @pytest.fixture
    def open(self):
        return lambda **given: TuningCache(InMemory(), reopen=InMemory, **at_these_versions(given))


class TestPostgres(Kept):
    source = "team database"

    @pytest.fixture
    def open(self, postgres_url: str, tmp_path: Path):
        return lambda **given: open_cache(tmp_path, postgres_url, **at_these_versions(given))

    def test_nobody_reads_the_password(self, cache, postgres_url):
        password = postgres_url.split(":")[2].partition("@")[0]
        assert password not in cache.place
        assert "tuner" in cache.place

    def test_a_snapshot_is_read_again_after_a_time(self, postgres_url):
        from fusecade.autotune.cache.postgres import Postgres

        def opened() -> Postgres:
            return Postgres(postgres_url, snapshot_seconds=0.05)

        with TuningCache(opened(), reopen=opened) as one, TuningCache(opened(), reopen=opened) as other:
            assert one.lookup(key()) is None
            other.decide(key(), decision(key()))
            give_up = time.monotonic() + 20
            while one.lookup(key()) is None and time.monotonic() < give_up:
                time.sleep(0.02)
            assert plain(one.lookup(key())) == decision(key())

    def test_a_role_that_may_only_read(self, open, postgres_url, tmp_path):
        import psycopg

        with open() as cache:
            cache.decide(key(), decision(key()))
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS reader")
            connection.execute("CREATE ROLE reader LOGIN PASSWORD 'readonly'")
            connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        where = postgres_url.partition("@")[2]
        with pytest.warns(CacheWarning, match="may only read"):
            cache = open_cache(tmp_path, f"postgresql://reader:readonly@{where}")
        with cache:
            assert plain(cache.lookup(key())) == decision(key())
            with pytest.warns(CacheWarning, match="keeps nothing for now: this role"):
                assert not cache.record(key(), sample())
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DROP OWNED BY reader; DROP ROLE reader")

    def test_a_server_that_is_not_there(self, tmp_path):
        url = "postgresql://tuner:secret@127.0.0.1:1/tuning"
        with pytest.warns(CacheWarning, match="the user's own cache is used") as caught:
            cache = open_cache(tmp_path, url)
        assert "secret" not in str(caught[0].message)
        with cache:
            assert cache.place == str(tmp_path / FILE)
            assert cache.record(key(), sample())

    def test_without_its_driver(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.warns(CacheWarning, match=r"psycopg is needed for .* the user's own cache is used"):
            open_cache(tmp_path, "postgresql://tuner@127.0.0.1:1/tuning").close()
        with pytest.raises(MissingTool, match="psycopg"):
            open_cache(tmp_path, "postgresql://tuner@127.0.0.1:1/tuning", strict=True)

    def test_a_server_that_goes_away(self, open, postgres_url):
        import psycopg

        with open() as cache:
            cache.decide(key(), decision(key()))
            name = postgres_url.rpartition("/")[2]
            with psycopg.connect(postgres_url.rpartition("/")[0] + "/postgres", autocommit=True) as connection:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
                with pytest.warns(CacheWarning, match="keeps nothing for now"):
                    assert not cache.record(key(), sample(1))
                assert plain(cache.lookup(key())) == decision(key()), "the snapshot is there"
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
            assert cache.record(key(), sample(2))
            assert cache.samples(key()) == [sample(1), sample(2)], "what could not be written came with the next"


@pytest.mark.parametrize("lookup", ["lookup(key())", "lookup(key(128))", "lookup(key(1 << 20))"])
def test_a_lookup_imports_the_standard_library_only(tmp_path: Path, lookup: str):
    with open_cache(tmp_path / "cache") as cache:
        cache.decide(key(), decision(key()))
    program = (
        "import sys; from pathlib import Path; from data.tuning import key; from fusecade.autotune.cache import open_cache;"
        f"cache = open_cache(Path({str(tmp_path / 'cache')!r})); cache.{lookup};"
        "print({'optuna', 'sqlalchemy', 'alembic', 'torch', 'triton', 'rich', 'numpy'} & set(sys.modules))"
    )
    path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_the_default_is_never_replaced_by_what_is_slower():
    with pytest.raises(InvalidArgument, match="is no improvement"):
        decision(key(), us=13.0, default_us=12.0)
    assert decision(key(), us=12.0, default_us=12.0).gain == 1.0


@pytest.mark.parametrize("us", [float("nan"), float("inf"), -1.0, None])
def test_times_that_are_none(us):
    with pytest.raises(InvalidArgument):
        decision(key(), us=us)
    with pytest.raises(InvalidArgument):
        sample(us=us)


@pytest.mark.parametrize("url", ["mysql://a:secret@b/c", "nothing", "sqlite:///"])
def test_a_url_of_another_kind(tmp_path: Path, url: str):
    with pytest.raises(InvalidArgument) as caught:
        open_cache(tmp_path, url)
    assert "secret" not in str(caught.value)
