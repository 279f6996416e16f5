"""Random cascades: whatever the engine accepts must equal the definition, under any tiles and any tree of merges."""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false

from __future__ import annotations

import hypothesis
import numpy as np
import sympy as sp
from hypothesis import strategies as st
from sympy import Abs, Max, Min, Symbol, exp, log, sqrt, tanh

from fusecade.passes.algebra import Cascade, Reduction
from fusecade.passes.algebra.expressions import eq, expm1, gt, log1p, relu, round_, select, sigmoid
from fusecade.passes.algebra.levels import count
from fusecade.passes.algebra.numeric import evaluate, fold
from fusecade.passes.algebra.streaming import reference, run

x, v, c, m, s, r = [Symbol(name, real=True) for name in "x v c m s r".split()]
u, total, N = [Symbol(name, positive=True) for name in "u total N".split()]
ss = Symbol("ss", nonnegative=True)
LEAVES = frozenset([x, v, u])
EXTENT = 23

# what every random reduction may refer to; all of it is finished in one pass
PRELUDE = (
    Reduction(m, "max", x),
    Reduction(total, "sum", exp(x - m)),
    Reduction(s, "sum", v),
    Reduction(ss, "sum", u**2),
)

atoms = st.sampled_from([x, x, v, u, m, m, total, s, ss, c, N, sp.Integer(1), sp.Integer(2), sp.Rational(1, 2)])


def _unary(e: sp.Expr, kind: str) -> sp.Expr:
    positive = 1 + e**2
    return {
        "neg": lambda: -e,
        "square": lambda: e**2,
        "cube": lambda: e**3,
        "abs": lambda: Abs(e),
        "relu": lambda: relu(e),
        "max0": lambda: Max(0, e),
        "exp": lambda: exp(e),
        "exp-m": lambda: exp(e - m),
        "expm1": lambda: expm1(e),
        "tanh": lambda: tanh(e),
        "sigmoid": lambda: sigmoid(e),
        "log": lambda: log(e) if e.is_positive else log(positive),
        "log1p": lambda: log1p(e) if e.is_nonnegative else log1p(e**2),
        "sqrt": lambda: sqrt(e) if e.is_nonnegative else sqrt(positive),
        "inverse": lambda: 1 / e if e.is_positive else 1 / positive,
        "round": lambda: round_(e),
        "sin": lambda: sp.sin(e),
        "sign": lambda: sp.sign(e),
    }[kind]()


UNARY = ["neg", "square", "cube", "abs", "relu", "max0", "exp", "exp-m", "expm1", "tanh", "sigmoid"]
UNARY += ["log", "log1p", "sqrt", "inverse", "round", "sin", "sign"]
BINARY = ["add", "add", "sub", "mul", "mul", "mul", "div", "select row", "select leaf", "max", "min"]


def _binary(a: sp.Expr, b: sp.Expr, kind: str) -> sp.Expr:
    return {
        "add": lambda: a + b,
        "sub": lambda: a - b,
        "mul": lambda: a * b,
        "div": lambda: a / b if b.is_positive else a / (1 + b**2),
        "select row": lambda: select(gt(s, c), a, b),
        "select leaf": lambda: select(gt(v, 0), a, b),
        "max": lambda: Max(a, b),
        "min": lambda: Min(a, b),
    }[kind]()


expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds(_unary, inner, st.sampled_from(UNARY)), st.builds(_binary, inner, inner, st.sampled_from(BINARY))
    ),
    max_leaves=6,
)
# biased towards what real programs hold: products with exponentials, affine maps of statistics
shaped = st.builds(
    lambda e, f, kind: {
        "weighted": e * exp(x - m) / total,
        "difference": e * (f - s / N),
        "normalised": e / sqrt(1 + ss / N) + f,
        "guarded": select(eq(total, 0), 0, e / total) * f,
        "plain": e,
    }[kind],
    expressions,
    expressions,
    st.sampled_from(["weighted", "difference", "normalised", "guarded", "plain", "plain"]),
)
combiners = st.sampled_from(["sum"] * 6 + ["max", "min", "argmax", "argmin", "prod"])

tally = {"accepted": 0, "refused": 0, "not comparable": 0}


def compare(combiner: str, e: sp.Expr, seed: int) -> str:
    """Derive, run, compare.  "accepted", "refused", or why the comparison says nothing.  Raises AssertionError."""
    if e.has(sp.nan, sp.zoo, sp.oo, sp.I) or not e.free_symbols & LEAVES or e.count_ops() > 40:
        return "not comparable"
    cascade = Cascade((*PRELUDE, Reduction(r, combiner, e)), leaves=LEAVES)
    levels = count(cascade)
    if levels.passes > 1:
        assert "self-check" not in levels.reasons[r], levels.reasons[r]
        return "refused"
    rng = np.random.default_rng(seed)
    data = {
        x: rng.normal(size=EXTENT),
        v: rng.normal(size=EXTENT),
        u: rng.uniform(0.2, 1.5, size=EXTENT),
        c: 0.4,
        N: 23.0,
    }
    expected = reference(cascade, data)
    values = np.broadcast_to(evaluate(e, {**data, **expected}), (EXTENT,))
    form = levels.forms[r]
    parts = [evaluate(a.psi, {**data, **expected}) for a in form.accumulators]
    if any(not np.all(np.isfinite(p)) or np.max(np.abs(p), initial=0) > 1e8 for p in [values, *parts]):
        return "not comparable"  # overflow; an accumulator may be larger than the value it makes up
    scale = 1 + np.sum(np.abs(values))
    if combiner == "prod":
        scale = 1 + np.abs(expected[r]) + sum(np.abs(fold("prod", p, EXTENT)) for p in parts)
    final = {**data, **expected}
    final |= {a.symbol: fold("sum", np.abs(p), EXTENT) for a, p in zip(form.accumulators, parts, strict=True)}
    largest = np.max(np.abs(evaluate(form.readout, final)), initial=0)
    scale += largest if np.isfinite(largest) else 0.0
    for merge in ("sequential", "tree"):
        found = run(cascade, levels, data, rng=rng, merge=merge)[r]
        a, b = found, expected[r]
        if combiner.startswith("arg"):  # equal keys up to rounding are equally right
            a, b = values[int(found)], values[int(b)]
        if not np.isfinite(b) or abs(b) > 1e12:
            return "not comparable"
        assert np.abs(a - b) <= 1e-8 * scale, f"{merge}: {a} instead of {b}; {form.certificate}"
    return "accepted"


@hypothesis.given(combiners, shaped, st.integers(0, 5))
@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_accepted_forms_equal_the_definition(combiner: str, e: sp.Expr, seed: int):
    outcome = compare(combiner, e, seed)
    tally[outcome] += 1
    hypothesis.event(outcome)


def test_many_are_accepted():
    """Runs after the property above: an engine that refuses everything would pass it."""
    if not sum(tally.values()):
        return
    decided = tally["accepted"] + tally["refused"]
    print(f"random reductions: {tally}; accepted {tally['accepted'] / max(1, decided):.0%} of {decided}")
    assert tally["accepted"] >= 0.3 * decided
