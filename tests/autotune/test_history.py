"""What samples say of a search afterwards: ranks, parameters that mattered, the best so far; and the page that draws it."""

from __future__ import annotations

import itertools
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
from data.tuning import key
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fusecade.autotune.cache import Contents, Decision, open_cache
from fusecade.autotune.history import History, histories_of, history_of
from fusecade.autotune.importance import WALK, importance
from fusecade.autotune.records import MEASURED, Configuration, Sample
from fusecade.autotune.statistics import rank_correlation
from fusecade.errors import InvalidArgument
from fusecade.tuning_page import page, write_page
from fusecade.tuning_plots import Axis, logarithmic

KEY = key()


def of(walk: str = "i grid", **values: int) -> Configuration:
    return Configuration.of(walk, values)


def measured(
    n: int, c: Configuration, us: float, default_us: float = 100.0, predicted_us: float | None = 50.0
) -> Sample:
    return Sample(c, MEASURED, us, 1.0, 8, predicted_us, default_us, at=float(n))


def a_search() -> History:
    """The default, nine others of two walks, one that crashed, one that was too dear, and the best one measured again."""
    found = [measured(n, of("i grid" if n % 2 else "parts", BI=16 << n % 5, BJ=32), 100.0 - 3 * n) for n in range(10)]
    found[0] = measured(0, of(BI=64, BJ=128), 101.0)
    found.append(Sample(of(BI=8, BJ=32), "crashed", at=10.0, note="signal <11>"))
    found.append(Sample(of(BI=4, BJ=32), "pruned", at=10.5, note="predicted to take 9 times the best"))
    found.append(measured(11, found[9].configuration, 70.0, 105.0))
    chosen = Decision(KEY, found[9].configuration, MEASURED, 70.0, 105.0)
    return History("k0", "mul & sum", KEY, tuple(found), chosen)


class TestRanks:
    @given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=5, max_size=30))
    def test_as_scipy_has_it(self, pairs: list[tuple[int, int]]):
        one, other = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
        found = rank_correlation(one, other)
        if len(set(one)) == 1 or len(set(other)) == 1:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(stats.spearmanr(one, other).statistic)


class TestImportance:
    def test_what_decides_comes_first(self):
        points = itertools.product((16, 32, 64, 128), (1, 2, 4), (0, 1))
        times = [(of(BI=i, BJ=j, stages=s, BK=8), abs(i - 64) + 0.5 * j) for i, j, s in points]
        found = importance(times)
        assert next(iter(found)) == "BI" and found["BI"] > 0.6 > 0.1 > found["stages"]
        assert "BK" not in found and sum(found.values()) == pytest.approx(1.0)

    def test_the_walk_is_a_parameter_and_walks_have_parameters_of_their_own(self):
        times = [(of("slow", BI=i, BJ=j), 20.0 + i) for i in range(3) for j in range(3)]
        times += [(of("fast", BI=i, parts=j), 1.0 + (i + j) % 3) for i in range(3) for j in range(3)]
        found = importance(times)
        assert set(found) == {WALK, "BI", "BJ", "parts"} and next(iter(found)) == WALK

    def test_too_few_or_all_the_same_say_nothing(self):
        assert importance([(of(BI=n), float(n)) for n in range(9)]) == {}
        assert importance([(of(BI=1), float(n)) for n in range(20)]) == {}


class TestHistory:
    def test_steps_are_parts_of_the_default_and_the_best_never_rises(self):
        history = a_search()
        assert history.default == of(BI=64, BJ=128)
        assert [s.number for s in history.steps] == list(range(1, 13)) and history.states == {
            "measured": 11,
            "crashed": 1,
        }
        best = [s.best for s in history.steps]
        assert best == sorted(best, reverse=True) and best[0] == 1.01 and best[-1] == pytest.approx(70 / 105)
        assert history.steps[10].relative is None

    def test_the_last_time_of_a_configuration_counts_and_what_was_decided_is_the_fastest(self):
        history = a_search()
        assert len(history.measured) == len(history.predictions) == 10
        assert history.fastest is not None and history.fastest.us == 70.0
        undecided = History("k0", "", KEY, history.samples)
        assert undecided.fastest == history.fastest

    def test_a_default_that_was_found_the_fastest_is_known_by_its_decision(self):
        history = a_search()
        decided = Decision(KEY, of("parts", BI=16, BJ=32), MEASURED, 90.0, 90.0)
        assert History("k0", "", KEY, history.samples, decided).default == decided.configuration

    def test_predictions_in_the_right_order_correlate(self):
        samples = [measured(n, of(BI=n), 10.0 * n, predicted_us=5.0 * n) for n in range(1, 7)]
        assert History("k", "", KEY, tuple(samples)).correlation == pytest.approx(1.0)
        assert History("k", "", KEY, tuple(samples[:4])).correlation is None

    def test_from_a_cache_or_from_an_export(self, tmp_path: Path):
        given = a_search()
        with open_cache(tmp_path / "cache") as cache:
            assert history_of(cache, KEY, "k0").samples == ()
            cache.record_all(KEY, given.samples)
            assert given.decision is not None and cache.decide(KEY, given.decision)
            assert history_of(cache, KEY, "k0").steps == given.steps
        contents = Contents()
        contents.add_key(KEY)
        for s in given.samples:
            contents.add_sample(KEY.digest, s)
        (found,) = histories_of(contents)
        assert found.steps == given.steps and found.name == KEY.program[:12]


class _Checked(HTMLParser):
    """Every element is closed, in the right order; nothing comes from elsewhere."""

    VOID = ("meta", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attrs:
            assert name not in ("src", "href") or str(value).startswith(("#", "data:")), value
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @classmethod
    def of(cls, text: str) -> _Checked:
        found = cls()
        found.feed(text)
        assert not found.open
        return found


class TestPage:
    def test_a_dot_for_each_time_and_a_cross_for_each_failure(self):
        text = page([a_search()])
        found = _Checked.of(text)
        assert found.counts["svg"] == 3
        assert found.counts["circle"] == 11 + 10 + 2  # history, predictions, the default and the chosen one
        assert text.count('class="cross"') == 1 and "signal &lt;11&gt;" in text and "mul &amp; sum" in text
        assert ">default</text>" in text and ">chosen</text>" in text and "1.50× as fast as the default" in text

    def test_several_kernels_have_a_table_before_them(self):
        found = _Checked.of(page([a_search(), a_search()]))
        assert found.counts["svg"] == 6 and found.counts["a"] == 2

    def test_little_is_drawn_of_little(self):
        few = History("k0", "", KEY, a_search().samples[:3])
        text = page([few])
        assert _Checked.of(text).counts["svg"] == 2 and "too few to say" in text and "no rank correlation" in text
        nothing = History("k0", "", KEY, (Sample(of(BI=1), "predicted", predicted_us=5.0),))
        assert "svg" not in _Checked.of(page([nothing])).counts

    def test_where_it_goes(self, tmp_path: Path):
        assert write_page(tmp_path, [a_search()]) == tmp_path / "tuning.html"
        assert write_page(tmp_path / "b.html", [a_search()]).read_text().startswith("<!doctype html>")
        with pytest.raises(InvalidArgument, match="there is no folder"):
            write_page(tmp_path / "no" / "b.html", [])

    @given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=5))
    def test_axes_hold_their_values_and_have_ticks(self, values: list[float]):
        axis = logarithmic(values, 10.0, 90.0)
        assert all(10.0 <= axis(v) <= 90.0 for v in values)
        assert 1 <= len(axis.ticks) <= 8 and all(axis.low <= t <= axis.high for t in axis.ticks)

    @pytest.mark.parametrize("count", [1, 2, 7, 24, 60, 121, 1000])
    def test_numbers_of_trials(self, count: int):
        axis = Axis(0, count + 1, 0.0, 1.0, logarithmic=False)
        assert 1 <= len(axis.ticks) <= 8 and all(0 < t <= count + 1 and t == int(t) for t in axis.ticks)
