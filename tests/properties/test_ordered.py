"""Ordered merges: running values from the states of parts, and recurrences with decay, against their definitions."""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Symbol, exp, log

from fusecade.passes.algebra import Cascade, Reduction
from fusecade.passes.algebra.levels import count
from fusecade.passes.algebra.ordered import shifts
from fusecade.passes.algebra.streaming import prefixes, reference, run

x, v, g, p, b, i = [Symbol(n, real=True) for n in "x v g p b i".split()]
m, c, h, o = [Symbol(n, real=True) for n in "m c h o".split()]
total = Symbol("l", nonnegative=True)

SOFTMAX = (Reduction(m, "max", x), Reduction(total, "sum", exp(x - m)))
RUNNING = {
    "cumulative sum": (Reduction(c, "sum", x),),
    "cumulative maximum": (Reduction(m, "max", x),),
    "softmax, values": (*SOFTMAX, Reduction(o, "sum", v * exp(x - m) / total)),
    "entropy": (*SOFTMAX, Reduction(h, "sum", -(x - m - log(total)) * exp(x - m) / total)),
}
DECAYED = {
    "recurrence": (Reduction(c, "sum", g), Reduction(h, "sum", b * exp(c - p))),
    "recurrence and its normaliser": (
        Reduction(c, "sum", g),
        Reduction(total, "sum", exp(c - p)),
        Reduction(h, "sum", b * exp(c - p) / total),
    ),
    "stabilised by a maximum": (
        Reduction(c, "sum", g),
        Reduction(m, "max", i - p),
        Reduction(total, "sum", exp(i - p - m)),
        Reduction(o, "sum", b * exp(i - p - m) / total),
    ),
}
ROWS, EXTENT = 3, 23


def cascade_of(reductions) -> Cascade:
    leaves = frozenset({x, v, g, p, b, i}) & set().union(*(r.expr.free_symbols for r in reductions))
    return Cascade(tuple(reductions), (), (), leaves)


def drawn(cascade: Cascade, seed: int, masked: bool = False) -> dict[Symbol, np.ndarray]:
    rng = np.random.default_rng(seed)
    data = {s: rng.normal(size=(ROWS, EXTENT)) for s in sorted(cascade.leaves - {p}, key=str)}
    if g in data:
        data[g] = -np.abs(data[g])  # a decay
    if masked and x in data:
        data[x][0] = -np.inf
        data[x][1, :9] = -np.inf
    return data


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.size == wanted.size
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", RUNNING)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), masked=st.booleans())
def test_running_values_are_those_of_each_prefix(name: str, seed: int, masked: bool):
    cascade = cascade_of(RUNNING[name])
    levels = count(cascade)
    data = drawn(cascade, seed, masked)
    found = prefixes(cascade, levels, data, rng=np.random.default_rng(seed))
    for k in (1, 2, 9, 10, EXTENT):
        wanted = reference(cascade, {s: a[..., :k] for s, a in data.items()})
        for r in cascade.reductions:
            with np.errstate(all="ignore"):
                seen = ~np.isnan(wanted[r.name])  # exp(-inf - -inf) of a prefix that is all masked; the guards give 0
                close(found[r.name][seen, k - 1], wanted[r.name][seen])


@pytest.mark.parametrize("merge", ["sequential", "tree"])
@pytest.mark.parametrize("name", DECAYED)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_reductions_over_running_values_merge_in_order(name: str, merge: str, seed: int):
    cascade, running = cascade_of(DECAYED[name]), {p: c}
    levels = count(cascade)
    assert levels.passes == 1
    data = drawn(cascade, seed)
    wanted = reference(cascade, data, running=running)
    found = run(cascade, levels, data, rng=np.random.default_rng(seed), merge=merge, running=running)
    for r in cascade.reductions:
        close(found[r.name], wanted[r.name])


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_gated_recurrence_in_chunks_is_the_loop(seed: int):
    cascade = cascade_of(DECAYED["recurrence"])
    data = drawn(cascade, seed)
    found = prefixes(cascade, count(cascade), data, rng=np.random.default_rng(seed), running={p: c})[h]
    state = np.zeros(ROWS)
    for k in range(EXTENT):
        state = np.exp(data[g][:, k]) * state + data[b][:, k]
        close(found[:, k], state)


def test_neighbours_do_not_commute():
    """Merged the other way round, the decay of the wrong part is applied."""
    cascade, running = cascade_of(DECAYED["recurrence"]), {p: c}
    data = drawn(cascade, 0)
    half = EXTENT // 2
    swapped = {s: np.concatenate([a[..., half:], a[..., :half]], axis=-1) for s, a in data.items()}
    straight, other = (reference(cascade, d, running=running)[h] for d in (data, swapped))
    assert not np.allclose(straight, other)


def test_what_a_part_has_to_learn():
    forms = count(cascade_of(DECAYED["stabilised by a maximum"])).forms
    found = shifts([forms[n] for n in (c, m, total, o)], {p: c})
    assert found
    offset = Symbol("c_before", real=True)
    assert found[c] == offset and found[m] == -offset
    assert {d for s, d in found.items() if s not in (c, m)} <= {sp.S.Zero, -offset}


def test_a_part_that_cannot_learn_it_is_refused():
    """Σ b p: the sum of a running value itself moves by δ Σ b, which is no factor."""
    cascade = cascade_of((Reduction(c, "sum", g), Reduction(h, "sum", b * p)))
    with pytest.raises(ValueError, match="cannot learn what lies before it"):
        run(cascade, count(cascade), drawn(cascade, 0), running={p: c})


def test_two_traversals_have_no_running_value():
    cascade = cascade_of((Reduction(c, "sum", x), Reduction(h, "sum", sp.Abs(x - c))))
    with pytest.raises(ValueError, match="2 traversals"):
        prefixes(cascade, count(cascade), drawn(cascade, 0))
