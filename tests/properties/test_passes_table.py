"""Passes over a rank, as written, after deferral and in full; over each tensor; and the pairs that force each of them.

Also what holds for all derivations: they are fast, and nothing in the engine calls a solver.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sympy as sp
from sympy import Abs, Max, S, Symbol, exp, log, sqrt, tanh

import fusecade.passes.algebra as engine
from fusecade.passes.algebra import Cascade, Reduction
from fusecade.passes.algebra.anchored import derive_anchored
from fusecade.passes.algebra.derive import derive
from fusecade.passes.algebra.expressions import exp2, gt, round_, select
from fusecade.passes.algebra.levels import Levels, count, passes_over

LEAVES = A, B, x, v, w, W, b, t, dp, kk, y = [Symbol(n, real=True) for n in "A B x v w W b t dp kk y".split()]
N, eps, cap = [Symbol(n, positive=True) for n in "N eps cap".split()]
sink, Lse = [Symbol(n, real=True) for n in "sink Lse".split()]
m, m2, s, o, h, z, mu, delta, Y, Z = [Symbol(n, real=True) for n in "m m2 s o h z mu delta Y Z".split()]
total, l2, ss, q, n, amax = [Symbol(k, nonnegative=True) for k in "l l2 ss q n amax".split()]

Rows = tuple[tuple[Symbol, str, sp.Expr], ...]
Pairs = dict[int, set[tuple[Symbol, Symbol | sp.Expr]]]
M, L, SUM = (m, "max", x), (total, "sum", exp(x - m)), (s, "sum", x)
VALUES = (o, "sum", v * exp(x - m) / total)
VAR, SS = (q, "sum", (x - s / N) ** 2), (ss, "sum", x**2)
P = exp(x - m) / total
LAYER = b + w * (x - s / N) / sqrt(eps + q / N)
RMS = w * x / sqrt(eps + ss / N)
TEMPERATURE = sqrt(eps + q / N)


@dataclass(frozen=True)
class Row:
    """A cascade, and for each of "none", "defer", "full": its passes, those over some tensors, the pairs behind them."""

    name: str
    reductions: Rows
    passes: tuple[int, int, int]
    maps: tuple[sp.Expr, ...] = ()
    tensors: dict[Symbol, tuple[int, int, int]] = field(default_factory=dict)
    written: Pairs = field(default_factory=dict)
    deferred: Pairs = field(default_factory=dict)
    full: Pairs = field(default_factory=dict)

    @property
    def cascade(self) -> Cascade:
        reductions = tuple(Reduction(*r) for r in self.reductions)
        used = frozenset().union(*(e.free_symbols for e in (*self.maps, *(r.expr for r in reductions))))
        return Cascade(reductions, (), self.maps, used & frozenset(LEAVES))


TABLE = [
    Row(
        "product of two sums",
        ((s, "sum", A), (Y, "sum", A * B), (Z, "sum", Y * A)),
        (2, 1, 1),
        tensors={A: (2, 1, 1), B: (1, 1, 1)},
        written={2: {(Y, Z)}},
    ),
    Row(
        "softmax and values",
        (M, L, VALUES),
        (3, 2, 1),
        tensors={x: (3, 2, 1), v: (1, 1, 1)},
        written={2: {(m, total)}, 3: {(total, o)}},
        deferred={2: {(m, total)}},
    ),
    Row(
        "softmax that writes its rank",
        (M, L),
        (3, 3, 2),
        (P,),
        tensors={x: (3, 3, 2)},
        written={2: {(m, total)}, 3: {(total, P)}},
        deferred={2: {(m, total)}, 3: {(total, P)}},
        full={2: {(m, P), (total, P)}},
    ),
    Row(
        "logsumexp",
        (M, L),
        (2, 2, 1),
        tensors={x: (2, 2, 1)},
        written={2: {(m, total)}},
        deferred={2: {(m, total)}},
    ),
    Row(
        "layer norm, written",
        (SUM, VAR),
        (3, 3, 2),
        (LAYER,),
        tensors={x: (3, 3, 2), w: (1, 1, 1)},
        written={2: {(s, q)}, 3: {(q, LAYER)}},
        deferred={2: {(s, q)}, 3: {(q, LAYER)}},
        full={2: {(s, LAYER), (q, LAYER)}},
    ),
    Row(
        "layer norm into a product",
        (SUM, VAR, (o, "sum", W * LAYER)),
        (3, 3, 1),
        tensors={x: (3, 3, 1), W: (1, 1, 1)},
        written={2: {(s, q)}, 3: {(q, o)}},
        deferred={2: {(s, q)}, 3: {(q, o)}},
    ),
    Row(
        "root mean square, written",
        (SS,),
        (2, 2, 2),
        (RMS,),
        tensors={x: (2, 2, 2), w: (1, 1, 1)},
        written={2: {(ss, RMS)}},
        deferred={2: {(ss, RMS)}},
        full={2: {(ss, RMS)}},
    ),
    Row(
        "root mean square into a product",
        (SS, (o, "sum", W * RMS)),
        (2, 1, 1),
        tensors={x: (2, 1, 1), W: (1, 1, 1)},
        written={2: {(ss, o)}},
    ),
    Row(
        "entropy of a softmax",
        (M, L, (h, "sum", -(x - m - log(total)) * exp(x - m) / total)),
        (3, 3, 1),
        tensors={x: (3, 3, 1)},
        written={2: {(m, total)}, 3: {(total, h)}},
        deferred={2: {(m, total)}, 3: {(total, h)}},
    ),
    Row(
        "variance under softmax weights",
        (M, L, (mu, "sum", v * P), (q, "sum", (v - mu) ** 2 * P)),
        (4, 3, 1),
        tensors={x: (4, 3, 1), v: (2, 2, 1)},
        written={2: {(m, total)}, 3: {(total, mu)}, 4: {(mu, q)}},
        deferred={2: {(m, total)}, 3: {(mu, q)}},
    ),
    Row(
        "softmax with the row's deviation as temperature",
        (
            SUM,
            VAR,
            (m, "max", x / TEMPERATURE),
            (total, "sum", exp(x / TEMPERATURE - m)),
            (o, "sum", v * exp(x / TEMPERATURE - m) / total),
        ),
        (5, 3, 2),
        tensors={x: (5, 3, 2), v: (1, 1, 1)},
        written={2: {(s, q)}, 3: {(q, m)}, 4: {(m, total)}, 5: {(total, o)}},
        full={2: {(q, total)}},
    ),
    Row(
        "backward of attention with its own delta",
        ((delta, "sum", dp * exp(x - Lse)), (o, "sum", kk * (dp - delta) * exp(x - Lse))),
        (2, 2, 1),
        tensors={dp: (2, 2, 1), kk: (1, 1, 1)},
        written={2: {(delta, o)}},
        deferred={2: {(delta, o)}},
    ),
    Row(
        "absmax, rounded, product",
        ((amax, "max", Abs(x)), (o, "sum", W * round_(127 * x / amax))),
        (2, 2, 2),
        tensors={x: (2, 2, 2), W: (1, 1, 1)},
        written={2: {(amax, o)}},
        deferred={2: {(amax, o)}},
        full={2: {(amax, o)}},
    ),
    Row(
        "threshold step of sparsemax",
        (SUM, (o, "sum", Max(0, x - s / N))),
        (2, 2, 2),
        tensors={x: (2, 2, 2)},
        written={2: {(s, o)}},
        deferred={2: {(s, o)}},
        full={2: {(s, o)}},
    ),
]
REPAIRS = ("none", "defer", "full")


@pytest.mark.parametrize("column", range(3), ids=REPAIRS)
@pytest.mark.parametrize("row", TABLE, ids=lambda r: r.name)
def test_passes(row: Row, column: int):
    cascade = row.cascade
    levels = count(cascade, REPAIRS[column])
    assert levels.passes == row.passes[column]
    assert {a: passes_over(cascade, levels, a) for a in row.tensors} == {a: k[column] for a, k in row.tensors.items()}
    expected = (row.written, row.deferred, row.full)[column]
    if expected or levels.passes == 1:
        assert {k: set(pairs) for k, pairs in levels.pairs.items()} == expected


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("row", TABLE, ids=lambda r: r.name)
def test_every_pass_has_its_pair_and_its_reason(row: Row, repair: str):
    levels = count(row.cascade, repair)
    assert set(levels.pairs) == set(range(2, levels.passes + 1))
    for number, pairs in levels.pairs.items():
        for earlier, later in pairs:
            assert levels.level[earlier] == number - 1
            if later in levels.level:
                assert levels.level[later] == number
                assert re.match(rf"{later} waits for .*\b{earlier}\b.*: \S", levels.reasons[later])
            else:
                words = levels.map_reasons[row.maps.index(later)]
                assert "is written for every element: it waits for " in words
                assert str(earlier) in words.split("waits for ")[1]


def test_only_the_culprit_is_named():
    """o reads two results of one traversal; it could follow m, but not round with s."""
    rows = (M, SUM, (o, "sum", exp(x - m) * round_(x / (1 + s**2))))
    levels = count(Row("", rows, (2, 2, 2)).cascade)
    assert levels.pairs == {2: ((s, o),)}
    assert levels.reasons[o].startswith("o waits for s: round_ ties x to s in ")
    written = count(Row("", rows, (2, 2, 2)).cascade, "none")
    assert written.pairs == {2: ((m, o), (s, o))}


# --- time ---------------------------------------------------------------------------------------------------------

SOFTCAP = select(gt(t, 0), b + cap * tanh(x / cap), -100)
MASKED = select(gt(t, 0), x, -S.Infinity)
TIMED: dict[str, Rows] = {r.name: r.reductions for r in TABLE} | {
    "softcap and sink": (
        (m, "max", SOFTCAP),
        (total, "sum", exp(SOFTCAP - Max(m, sink))),
        (o, "sum", v * exp(SOFTCAP - Max(m, sink))),
    ),
    "masked": ((m, "max", MASKED), (total, "sum", exp(MASKED - m)), (o, "sum", v * exp(MASKED - m))),
    "gradient of cross-entropy": (M, L, (o, "sum", w * (P - t))),
    "divergence": (
        M,
        (m2, "max", y),
        L,
        (l2, "sum", exp(y - m2)),
        (h, "sum", P * (x - m - log(total) - (y - m2 - log(l2)))),
    ),
    "variance, counted": ((n, "sum", S.One), SUM, (q, "sum", (x - s / n) ** 2)),
    "unit length": (SS, (o, "sum", W * x / sqrt(ss))),
    "absmax": ((amax, "max", Abs(x)), (o, "sum", 127 * W * x / amax)),
    "log1p of relu": ((m, "max", log(1 + Max(0, x))),),
    "max of the centred": (SUM, (m, "max", x - s / N)),
    "max of the scaled": (SS, (m, "max", RMS)),
    "entmax step": (SUM, (o, "sum", Max(0, x - s / N) ** 2)),
    "softmax, deviation as temperature": (M, SUM, VAR, (total, "sum", exp((x - m) / TEMPERATURE))),
    "sum of deviations": (SUM, (o, "sum", Abs(x - s / N))),
    "softplus": (M, (o, "sum", log(1 + exp(x - m)))),
    "relu of the scaled": (SS, (o, "sum", Max(0, x / sqrt(eps + ss)))),
    "cubes": (SS, (o, "sum", (x / sqrt(eps + ss / N)) ** 3)),
    "powers of two": (M, (total, "sum", 2 ** (x - m)), (o, "sum", v * 2 ** (x - m))),
    "exp2": (M, (total, "sum", exp2(x - m)), (o, "sum", v * exp2(x - m) / total)),
}


def cleared() -> None:
    derive.cache_clear()
    derive_anchored.cache_clear()


def best_of_3(body: Callable[[], Levels]) -> float:
    """Milliseconds of this process (the machines that run tests are shared), without what was derived before."""
    times = []
    for _ in range(3):
        cleared()
        started = time.process_time()
        body()
        times.append(1e3 * (time.process_time() - started))
    return min(times)


def test_a_derivation_is_fast():
    """Median of 5 ms a reduction, 100 ms a cascade: on a free core these are met many times over."""
    a_reduction, slowest = [], ("", 0.0)
    for name, rows in TIMED.items():
        cascade = Row(name, rows, (0, 0, 0)).cascade
        spent = best_of_3(lambda cascade=cascade: count(cascade, anchored=True))
        a_reduction.append(spent / len(rows))
        slowest = max(slowest, (name, spent), key=lambda pair: pair[1])
    median = statistics.median(a_reduction)
    print(f"derivation: median {median:.2f} ms a reduction; slowest cascade {slowest[1]:.1f} ms ({slowest[0]})")
    assert median <= 5
    assert slowest[1] <= 100, slowest


def test_nothing_is_simplified_or_solved():
    """Neither has a bound on its time, and a solver's answer may lose a branch."""
    calls = re.compile(
        r"\b(simplify|nsimplify|trigsimp|powsimp|radsimp|solve|solveset|nsolve|linsolve|integrate|limit)\s*\("
    )
    for path in sorted(Path(engine.__file__).parent.glob("*.py")):
        found = calls.findall(path.read_text(encoding="utf-8"))
        assert not found, f"{path.name} calls {found}"
