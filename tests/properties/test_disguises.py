"""A cascade in disguise takes the passes, and the accumulators, of the plain one: in the algebra, and from PyTorch."""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import sympy as sp
from sympy import Max, S, Symbol, exp, log, sqrt

from fusecade.passes.algebra import Cascade, Reduction
from fusecade.passes.algebra.expressions import eq, exp2, expm1, log2, relu, round_, rsqrt, select, sigmoid
from fusecade.passes.algebra.levels import count
from fusecade.passes.algebra.streaming import reference, run

x, v, w, y = LEAVES = [Symbol(n, real=True) for n in "x v w y".split()]
N, c, eps = [Symbol(n, positive=True) for n in "N c eps".split()]
bias = Symbol("bias", real=True)
m, m2, s, o, q, z = [Symbol(n, real=True) for n in "m m2 s o q z".split()]
total, total2, ss, n = [Symbol(k, positive=True) for k in "l l2 ss n".split()]
EXTENT = 41

Rows = tuple[tuple[Symbol, str, sp.Expr], ...]
M, L = (m, "max", x), (total, "sum", exp(x - m))
SUM, SQUARES = (s, "sum", x), (ss, "sum", x**2)
weight = exp(x - m)


@dataclass(frozen=True)
class Pair:
    """Two spellings.  J: also the last reduction takes as many accumulators."""

    name: str
    plain: Rows
    disguised: Rows
    J: bool = True


def softmax(e: sp.Expr, m_: sp.Expr = m, top: sp.Expr = x) -> Rows:
    """max of top, the sum of e, and values weighted by e; m_ is not used, it says what e subtracts."""
    return ((m, "max", top), (total, "sum", e), (o, "sum", v * e / total))


SOFTMAX = softmax(weight)
VARIANCE = (SUM, (q, "sum", (x - s / N) ** 2))
PAIRS = [
    Pair("power of two", softmax(exp2(x - m)), softmax(2 ** (x - m))),
    Pair("exp by exp2", SOFTMAX, softmax(exp2((x - m) / log(2)))),
    Pair("exp by exp2 and log2(e)", SOFTMAX, softmax(exp2((x - m) * log2(sp.E)))),
    Pair("power of a constant", softmax(exp((x - m) * log(c + 1))), softmax((c + 1) ** (x - m))),
    Pair("expm1", SOFTMAX, softmax(expm1(x - m) + 1)),
    Pair("exponentials divided", SOFTMAX, softmax(exp(x) / exp(m))),
    Pair("exponentials multiplied", SOFTMAX, softmax(exp(x) * exp(-m))),
    Pair("inverse of the inverse", SOFTMAX, softmax(1 / exp(m - x))),
    Pair("square root of a square", SOFTMAX, softmax(sqrt(exp(2 * x - 2 * m)))),
    Pair("square of a half", SOFTMAX, softmax(exp((x - m) / 2) ** 2)),
    Pair("swapped operands", SOFTMAX, softmax(exp(-(m - x)))),
    Pair("plus and minus a constant", SOFTMAX, softmax(exp((x + bias) - (m + bias)))),
    Pair("maximum of the shifted", SOFTMAX, softmax(exp(x + bias - m), top=x + bias)),
    Pair(
        "maximum, negated minimum",
        SOFTMAX,
        ((m, "min", -x), (total, "sum", exp(x + m)), (o, "sum", v * exp(x + m) / total)),
    ),
    Pair("exp of log-softmax", SOFTMAX, (M, L, (o, "sum", v * exp(x - m - log(total))))),
    Pair("exp of log-softmax, in two", SOFTMAX, (M, L, (o, "sum", v * exp(x - (m + log(total)))))),
    Pair("exp2 of a log2-softmax", SOFTMAX, (M, L, (o, "sum", v * exp2((x - m) / log(2) - log2(total))))),
    Pair("times the inverse", SOFTMAX, (M, L, (o, "sum", v * (weight * (1 / total))))),
    Pair("divided twice", SOFTMAX, (M, L, (o, "sum", v / (total / weight)))),
    Pair(
        "softmax of what is already shifted",
        SOFTMAX,
        (M, (m2, "max", x - m), (total, "sum", exp(x - m - m2)), (o, "sum", v * exp(x - m - m2) / total)),
    ),
    Pair(
        "softmax of a softmax's logarithm",
        SOFTMAX,
        (
            M,
            L,
            (m2, "max", x - m - log(total)),
            (total2, "sum", exp(x - m - log(total) - m2)),
            (o, "sum", v * exp(x - m - log(total) - m2) / total2),
        ),
    ),
    Pair("zero through a select", SOFTMAX, softmax(select(eq(x, x), weight, weight))),
    Pair("variance by squares", VARIANCE, (SUM, SQUARES, (q, "sum", (x**2 - (s / N) ** 2))), J=False),
    Pair("variance, multiplied out", VARIANCE, (SUM, (q, "sum", x**2 - 2 * x * s / N + (s / N) ** 2))),
    Pair("variance, as a product", VARIANCE, (SUM, (q, "sum", (x - s / N) * (x - s / N)))),
    Pair("variance, of the mean of means", VARIANCE, ((s, "sum", x / N), (q, "sum", (x - s) ** 2 / (N - 1)))),
    Pair("variance, by absolute value", VARIANCE, (SUM, (q, "sum", sp.Abs(x - s / N) ** 2))),
    Pair("mean by a product with ones", VARIANCE, ((s, "sum", x * 1), (n, "sum", S.One), (q, "sum", (x - s / n) ** 2))),
    Pair("norm by rsqrt", (SQUARES, (o, "sum", w * x / sqrt(ss))), (SQUARES, (o, "sum", w * x * rsqrt(ss)))),
    Pair(
        "norm by a power",
        (SQUARES, (o, "sum", w * x / sqrt(ss))),
        (SQUARES, (o, "sum", w * x * ss ** sp.Rational(-1, 2))),
    ),
    Pair(
        "norm of absolutes",
        (SQUARES, (o, "sum", w * x / sqrt(ss))),
        ((ss, "sum", sp.Abs(x) ** 2), (o, "sum", x / sqrt(ss) * w)),
    ),
    Pair(
        "root mean square, squared",
        (SQUARES, (o, "sum", x**2 / (eps + ss / N))),
        (SQUARES, (o, "sum", (x * rsqrt(eps + ss / N)) ** 2)),
    ),
    Pair("sigmoid", (SUM, (o, "sum", s * sigmoid(x))), (SUM, (o, "sum", s / (1 + exp(-x))))),
    Pair("sigmoid by tanh", (SUM, (o, "sum", s * sigmoid(x))), (SUM, (o, "sum", s * (sp.tanh(x / 2) + 1) / 2))),
    Pair("silu", (SUM, (o, "sum", s * x * sigmoid(x))), (SUM, (o, "sum", x * s / (1 + exp(-x))))),
    Pair("relu", (SQUARES, (o, "sum", relu(x / sqrt(ss)))), (SQUARES, (o, "sum", Max(x / sqrt(ss), 0)))),
    Pair(
        "relu by absolute value",
        (SQUARES, (o, "sum", relu(x / sqrt(ss)))),
        (SQUARES, (o, "sum", (x + sp.Abs(x)) / sqrt(ss) / 2)),
    ),
    Pair(
        "largest of absolutes",
        ((z, "max", sp.Abs(x)), (o, "sum", w * x / (eps + z))),
        ((z, "max", Max(x, -x)), (o, "sum", w * x / (eps + z))),
    ),
    Pair("logarithm of a product", (SQUARES, (o, "sum", log(ss * exp(x)))), (SQUARES, (o, "sum", log(ss) + x))),
]
# what no spelling may hide: these stay apart
APART = {
    "rounding": (M, (o, "sum", round_(x / (1 + m**2)))),
    "rounding inside an exponential": (M, (o, "sum", exp(round_(x - m)))),
    "sum of softplus, by log of a sum": (M, (o, "sum", log(exp(m) + exp(x)))),
    "deviation by a root": (SUM, (o, "sum", sqrt((x - s / N) ** 2))),
}


def cascade_of(rows: Rows) -> Cascade:
    reductions = tuple(Reduction(*r) for r in rows)
    used = frozenset(LEAVES) & frozenset().union(*(r.expr.free_symbols for r in reductions))
    return Cascade(reductions, leaves=used)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: p.name)
def test_algebra_sees_through(pair: Pair):
    found = [count(cascade_of(rows)) for rows in (pair.plain, pair.disguised)]
    assert [f.passes for f in found] == [1, 1], [dict(f.reasons) for f in found]
    counts = [f.forms[rows[-1][0]].J for f, rows in zip(found, (pair.plain, pair.disguised), strict=True)]
    assert not pair.J or counts[0] == counts[1], found[1].forms[pair.disguised[-1][0]].certificate
    cascade = cascade_of(pair.disguised)
    rng = np.random.default_rng(0)
    data = {a: rng.normal(size=(3, EXTENT)) for a in sorted(cascade.leaves, key=str)}
    data |= {N: float(EXTENT), c: 0.7, eps: 1e-2, bias: 2.0}
    expected, online = reference(cascade, data), run(cascade, found[1], data, merge="tree")
    for name in expected:
        np.testing.assert_allclose(online[name], expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", APART)
def test_no_spelling_hides_two_passes(name: str):
    assert count(cascade_of(APART[name])).passes == 2
