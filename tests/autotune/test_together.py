"""Search, workers and timing together: as a compiler puts them to use."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from fusecade.autotune.options import Options
from fusecade.autotune.pipeline import Prefetch
from fusecade.autotune.pruning import Resources
from fusecade.autotune.records import Configuration, Failure
from fusecade.autotune.search import search
from fusecade.autotune.space import Prediction, Space
from fusecade.autotune.statistics import Interval
from fusecade.autotune.timing import Comparison
from fusecade.autotune.workers import Outcome, Pool
from fusecade.errors import InvalidArgument

COMMAND = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]
SPACE = Space.of({"i grid": {"BI": (64, 16, 32, 128, 256), "num_warps": (4, 8)}})
BEST = Configuration.of("i grid", {"BI": 128, "num_warps": 8})


def us(c: Configuration) -> float:
    values = dict(c.values)
    return 100.0 * abs(values["BI"] - 128) / 64 + 50.0 - values["num_warps"]


BAD = {  # by BI, with 4 warps
    16: ({"do": "segfault"}, "crashed"),
    32: ({"do": "hang"}, "hung"),
    128: ({"do": "wrong"}, "wrong"),
}


def test_candidates_compile_and_run_in_workers_and_may_do_anything():
    with Pool(COMMAND, 2, nice=5) as compilers, Pool(COMMAND, 1) as timers:

        def compile_one(c: Configuration) -> Future[Outcome]:
            return compilers.submit({"do": "compile", "spills": 8 if dict(c.values)["BI"] == 256 else 0}, 30.0)

        ready = Prefetch(compile_one)

        def inspect(c: Configuration) -> Resources | Failure | None:
            outcome = ready.take(c)
            return outcome.failure or Resources.from_mapping(outcome.value)

        def measure(c: Configuration, reference: Configuration) -> Comparison | Failure:
            values = dict(c.values)
            request = {"do": "time", "us": us(c), "reference_us": us(reference)}
            if values["num_warps"] == 4 and values["BI"] in BAD:
                request, _ = BAD[values["BI"]]
            outcome = timers.submit(request, 0.5 if request["do"] == "hang" else 30.0).result()
            return outcome.failure or Comparison.from_json(outcome.value)

        start = time.monotonic()
        found = search(
            SPACE, lambda c: Prediction(us(c)), measure, Options("exhaustive"), inspect=inspect, prepare=ready.prepare
        )
    assert time.monotonic() - start < 60
    assert found.winner == BEST and found.confirmed and found.stopped == "exhausted"
    states = {s.configuration: s.state for s in found.samples}
    for bi, (_, state) in BAD.items():
        assert states[Configuration.of("i grid", {"BI": bi, "num_warps": 4})] == state
    assert {state for c, state in states.items() if dict(c.values)["BI"] == 256} == {"pruned"}
    assert sum(state == "measured" for state in states.values()) == 5


def test_a_comparison_goes_to_json_and_back():
    for interval in (Interval(0.7, 0.9), Interval(float("-inf"), float("inf"))):
        comparison = Comparison(8.0, 0.5, 16, 10.0, 0.8, interval)
        assert Comparison.from_json(comparison.to_json()) == comparison
    for wrong in ({}, {"us": "fast"}, comparison.to_json() | {"interval": [1]}):
        with pytest.raises(InvalidArgument, match="no comparison"):
            Comparison.from_json(wrong)
