"""Gauge freedom: what may stand in the place of a running maximum, proven and run."""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import sympy as sp
from sympy import Max, S, Symbol, exp, log, tanh

from fusecade.passes.algebra import Cascade, Reduction, Refused
from fusecade.passes.algebra.expressions import eq, lt, rsqrt, select, sigmoid
from fusecade.passes.algebra.gauge import STALE, FreeGauge, free_gauge
from fusecade.passes.algebra.intervals import ANY, bounds
from fusecade.passes.algebra.levels import Levels, count
from fusecade.passes.algebra.numeric import evaluate
from fusecade.passes.algebra.streaming import reference, run

x, v, t = LEAVES = [Symbol(n, real=True) for n in "x v t".split()]
cap, sink, scale = [Symbol(n, positive=True) for n in "cap sink scale".split()]
m, o, h = [Symbol(n, real=True) for n in "m o h".split()]
total = Symbol("l", positive=True)
ROWS, EXTENT = 4, 64
CONSTANTS = {cap: 30.0, sink: 0.5, scale: 20.0}
softcap = cap * tanh(x / cap)
masked = select(t, x, -S.Infinity)
safe = select(eq(m, -S.Infinity), 0, m)


def softmax(logits: sp.Expr, m_: sp.Expr = m, *more: Reduction, outputs: tuple[sp.Expr, ...] = (o / total,)) -> Cascade:
    weight = exp(logits - m_)
    reductions = (Reduction(m, "max", logits), Reduction(total, "sum", weight), Reduction(o, "sum", v * weight), *more)
    used = set().union(*(r.expr.free_symbols for r in reductions)) & set(LEAVES)
    return Cascade(reductions, outputs, (), frozenset(used))


entropy = Reduction(h, "sum", -(x - m - log(total)) * exp(x - m) / total)
FREE = {
    "values": softmax(x),
    "logsumexp": softmax(x, outputs=(m + log(total),)),
    "entropy": softmax(x, m, entropy, outputs=(h,)),
    "sink": softmax(x, Max(m, sink), outputs=(o / (total + exp(sink - Max(m, sink))),)),
    "masks": softmax(masked, safe),
    "softcap": softmax(softcap),
    "cosine": softmax(scale * x),
    "written": dataclasses.replace(softmax(x), outputs=(), maps=(exp(x - m) / total,)),
}
BOUNDED = {"softcap": {cap: (30.0, 30.0)}, "cosine": {x: (-1.0, 1.0), scale: (20.0, 20.0)}}


def data_for(seed: int, unit: bool = False) -> dict[Symbol, np.ndarray]:
    rng = np.random.default_rng(seed)
    spread = np.linspace(0, 12, EXTENT)  # a rising row, so that the maximum moves often
    logits = rng.uniform(-1, 1, size=(ROWS, EXTENT)) if unit else rng.normal(size=(ROWS, EXTENT)) + spread
    mask = rng.random((ROWS, EXTENT)) < 0.7
    mask[1] = np.arange(EXTENT) > 40
    return {x: logits, v: rng.normal(size=(ROWS, EXTENT)), t: mask * 1.0, **CONSTANTS}


def outputs(cascade: Cascade, results: dict, data: dict, dtype: type) -> list[np.ndarray]:
    env = {**data, **{n: np.asarray(a)[..., None] for n, a in results.items()}}
    return [evaluate(e, env, dtype=dtype) for e in (*cascade.outputs, *cascade.maps)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FREE)
def test_a_reference_that_lags_gives_the_same_values(name: str, dtype: type):
    cascade = FREE[name]
    levels = count(cascade)
    free = free_gauge(cascade, levels, m)
    assert isinstance(free, FreeGauge), free.reason
    assert free.stale == pytest.approx(STALE / free.slope)
    assert "is 0 when" in free.certificate
    data = data_for(1, unit=name == "cosine")
    exact = outputs(cascade, reference(cascade, data), data, np.float64)
    eager = outputs(cascade, reference(cascade, data, dtype), data, dtype)
    for merge in ("sequential", "tree"):
        truly = run(cascade, levels, data, [8], np.random.default_rng(0), merge, dtype)
        results = run(cascade, levels, data, [8], np.random.default_rng(0), merge, dtype, stale={m: free.stale})
        forms = [outputs(cascade, r, data, dtype) for r in (truly, results)]
        for e, g, true, found in zip(exact, eager, *forms, strict=True):
            ulp = np.finfo(dtype).eps * np.max(np.abs(e))
            as_good_as = max(np.max(np.abs(a - e)) for a in (g, true))
            assert np.max(np.abs(found - e)) <= 2 * as_good_as + 4 * ulp


def test_the_reference_does_lag():
    cascade = FREE["values"]
    levels, data = count(cascade), data_for(1)
    true = run(cascade, levels, data, [8])[m]
    lagging = run(cascade, levels, data, [8], stale={m: STALE})[m]
    assert np.all(lagging <= true) and np.all(lagging >= true - STALE)
    assert np.any(lagging < true)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", BOUNDED)
def test_bounded_logits_need_no_maximum(name: str, dtype: type):
    cascade = FREE[name]
    levels = count(cascade)
    assert free_gauge(cascade, levels, m).constant is None  # nothing is known
    free = free_gauge(cascade, levels, m, BOUNDED[name])
    assert (free.constant, max(map(abs, free.exponent))) == (0, {"softcap": 30, "cosine": 20}[name])
    assert f"with m = {free.constant}: no maximum is needed" in free.certificate
    forms = free.forms
    assert m not in forms and all(
        a.gauge is None and m not in a.psi.free_symbols for f in forms.values() for a in f.accumulators
    )
    kept = tuple(r for r in cascade.reductions if r.name != m)
    without = Cascade(kept, tuple(map(free.substitute, cascade.outputs)), (), cascade.leaves)
    plain = Levels(1, {r.name: 1 for r in kept}, forms, {})
    data = data_for(2, unit=name == "cosine")
    data[x] = data[x] if name == "cosine" else data[x] * 100  # the cap is reached on both sides
    exact = outputs(cascade, reference(cascade, data), data, np.float64)
    eager = outputs(cascade, reference(cascade, data, dtype), data, dtype)
    found = outputs(without, run(without, plain, data, [7], merge="tree", dtype=dtype), data, dtype)
    ulp = np.finfo(dtype).eps * np.max(np.abs(exact[0]))
    # exp(x) of a rounded x is off by |x| ulps, where exp(x - m) is off by |x - m| of them
    allowed = 2 * np.max(np.abs(eager[0] - exact[0])) + 2 * max(map(abs, free.exponent)) * ulp
    assert np.max(np.abs(found[0] - exact[0])) <= allowed


@pytest.mark.parametrize(
    ("cascade", "words"),
    [
        (softmax(x, outputs=(total,)), "l depends on m: it changes by -l_a0"),
        (softmax(x, outputs=(o / total, m)), "m depends on m: it changes by 1"),
        (softmax(x, outputs=(o / (total + 1),)), "depends on m"),
        (softmax(x, outputs=()), "no final value"),
        (softmax(x, outputs=(select(lt(total, 2), o / total, 0),)), "it asks for lt(l_a0, 2)"),
        (softmax(x, outputs=(select(lt(m, 2), o / total, 0),)), "it asks for lt(m, 2)"),
    ],
    ids=["sum itself", "maximum itself", "one too many", "no output", "sum compared", "maximum compared"],
)
def test_what_depends_on_the_maximum_is_refused(cascade: Cascade, words: str):
    refused = free_gauge(cascade, count(cascade), m)
    assert isinstance(refused, Refused)
    assert words in refused.reason
    assert free_gauge(cascade, count(cascade), total).reason == "l moves no accumulator"


def test_conditions_that_turn_out_the_same():
    """An empty row has no sum, from wherever it is measured; and a guard is nothing but its reference."""
    empty = select(eq(total, 0), 0, o / total)
    guarded = select(eq(sp.Abs(m), S.Infinity), 0, m) + log(total)
    cascade = softmax(softcap, select(eq(sp.Abs(m), S.Infinity), 0, m), outputs=(empty, guarded))
    free = free_gauge(cascade, count(cascade), m, BOUNDED["softcap"])
    assert isinstance(free, FreeGauge), free.reason
    assert free.constant == 0


def test_a_maximum_that_may_be_infinite_is_kept_for_who_asks():
    cascade = softmax(softcap, outputs=(select(eq(m, -S.Infinity), 0, o / total),))
    free = free_gauge(cascade, count(cascade), m, BOUNDED["softcap"])
    assert isinstance(free, FreeGauge), free.reason
    assert free.constant is None


def test_the_constant_is_in_the_middle_of_the_exponents():
    """What the leaf is made of: numbers between 1000 and 1090, halved."""
    cascade = softmax(x / 2, m / 2)
    cascade = dataclasses.replace(cascade, reductions=(Reduction(m, "max", x), *cascade.reductions[1:]))
    made_of = {x: Max(1000, sp.Min(v, 1090))}
    free = free_gauge(cascade, count(cascade), m, made_of=made_of)
    assert isinstance(free, FreeGauge), free.reason
    assert (free.constant, free.exponent) == (1045, (-22.5, 22.5))


def test_what_else_is_exponentiated_has_to_be_bounded_too():
    sunk = FREE["sink"]
    cascade = dataclasses.replace(sunk, reductions=softmax(softcap, Max(m, sink)).reductions)
    levels = count(cascade)
    assert free_gauge(cascade, levels, m, BOUNDED["softcap"]).constant is None
    free = free_gauge(cascade, levels, m, BOUNDED["softcap"], made_of={sink: 5 * tanh(sink)})
    assert (free.constant, free.exponent) == (0, (-35.0, 30.0))


def test_elements_masked_by_plus_infinity_are_there():
    cascade = softmax(select(t, softcap, S.Infinity))
    assert free_gauge(cascade, count(cascade), m, BOUNDED["softcap"]).constant is None
    cascade = softmax(select(t, softcap, -S.Infinity))
    assert free_gauge(cascade, count(cascade), m, BOUNDED["softcap"]).constant == 0


def test_a_cap_beyond_what_float32_holds_keeps_its_maximum():
    cascade = FREE["softcap"]
    levels = count(cascade)
    assert free_gauge(cascade, levels, m, {cap: (50.0, 50.0)}).constant == 0
    assert free_gauge(cascade, levels, m, {cap: (51.0, 51.0)}).constant is None
    assert free_gauge(cascade, levels, m, {cap: (51.0, 51.0)}, "fp64").constant == 0
    assert free_gauge(cascade, levels, m, {cap: (10.0, 10.0)}, "fp16").constant is None
    assert free_gauge(cascade, levels, m, {cap: (9.0, 9.0)}, "fp16").constant == 0


@pytest.mark.parametrize(
    ("e", "expected"),
    [
        (cap * tanh(x / cap), (-30.0, 30.0)),
        (2 * sigmoid(x) - 1, (-1.0, 1.0)),
        (sp.Abs(sp.sin(x)) + 1, (1.0, 2.0)),
        (Max(0, x), (0.0, math.inf)),
        (Max(-3, sp.Min(x, 5)), (-3.0, 5.0)),
        (sp.cos(x) ** 2, (0.0, 1.0)),
        (select(t, tanh(x), 4), (-1.0, 4.0)),
        (x * tanh(x), ANY),
        (exp(tanh(x)), (math.exp(-1), math.e)),
        (1 / (1 + exp(-x)), (0.0, 1.0)),
        (1 / (2 + tanh(x)), (1 / 3, 1.0)),
        (1 / tanh(x), ANY),
        (rsqrt(1 + x**2), (0.0, 1.0)),
        (sp.sqrt(sigmoid(x)), (0.0, 1.0)),
        (log(2 + sp.cos(x)), (0.0, math.log(3))),
        (sp.tanh(x) ** 3, (-1.0, 1.0)),
    ],
    ids=str,
)
def test_bounds(e: sp.Expr, expected: tuple[float, float]):
    low, high = bounds(e, {cap: (30.0, 30.0)})
    assert (low, high) == pytest.approx(expected)
    data = data_for(3)
    values = evaluate(e, {**data, x: data[x] * 10})
    assert low - 1e-12 <= values.min() and values.max() <= high + 1e-12


def test_masked_elements_are_not_there():
    assert bounds(select(t, tanh(x), -S.Infinity)) == (-math.inf, 1.0)
    assert bounds(select(t, tanh(x), -S.Infinity), masked=True) == (-1.0, 1.0)
