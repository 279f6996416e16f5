"""Random cascades: whatever the engine accepts must equal the definition, under any tiles and any tree of merges.

Refusing is always sound, so the share of what is accepted is printed (`-s`) and has a floor.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from random_cascades import cascades, check, data_for, errors_in_float32

from fusecade.passes.algebra import Cascade
from fusecade.passes.algebra.forms import COMBINERS
from fusecade.passes.algebra.levels import Levels, count

ACCEPTED_FLOOR = 0.7  # of the reductions that read an earlier one; three in ten of those at random cannot be separated
COMPARED_FLOOR = 0.9  # of the accepted: the others overflow, or are not numbers
CHUNK = 1000


def explore(body: Callable[[Cascade, int], None], examples: int) -> None:
    """Run `body` on random cascades, in several runs: hypothesis slows down as one run grows longer."""
    done = 0
    while done < examples:
        now = min(CHUNK, examples - done)
        run = hypothesis.given(cascades(), st.integers(0, 9))(body)
        run = hypothesis.settings(
            max_examples=now,
            derandomize=False,
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )(run)
        hypothesis.seed(done)(run)()
        done += now


def dependent(cascade: Cascade, levels: Levels) -> dict:
    """The reductions that read an earlier one -> whether they are computed beside it."""
    names = {r.name for r in cascade.reductions}
    return {r.name: r.name not in levels.reasons for r in cascade.reductions if r.expr.free_symbols & names}


@pytest.mark.parametrize("examples", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_accepted_forms_equal_the_definition(examples: int, record_property):
    tally, combiners = collections.Counter(), collections.Counter()

    def body(cascade: Cascade, seed: int) -> None:
        tally["cascades"] += 1
        levels = count(cascade)
        for reason in levels.reasons.values():
            assert "self-check" not in reason, reason
        comparable = check(cascade, levels, seed)
        kinds = {r.name: r.combiner for r in cascade.reductions}
        for name, accepted in dependent(cascade, levels).items():
            tally["accepted" if accepted else "refused"] += 1
            tally["compared"] += accepted and comparable[name]
            combiners[kinds[name]] += accepted

    explore(body, examples)
    decided = tally["accepted"] + tally["refused"]
    rate = tally["accepted"] / decided
    print(f"random cascades: {dict(tally)}; accepted {rate:.0%} of {decided} reductions that read an earlier one")
    print(f"accepted by combiner: {dict(combiners)}")
    record_property("acceptance rate", round(rate, 3))
    assert {c for c, n in combiners.items() if n} == set(COMBINERS)
    assert tally["cascades"] >= examples
    assert rate >= ACCEPTED_FLOOR
    assert tally["compared"] >= COMPARED_FLOOR * tally["accepted"]


@pytest.mark.parametrize("examples", [200, pytest.param(4000, marks=pytest.mark.slow)])
def test_accepted_forms_are_as_accurate_as_eager_in_float32(examples: int, record_property):
    """Error against float64, over 16 rows, data around 0, 50 and 1e4: at most twice eager's plus one ulp.

    Held against it: every form of one accumulator, and anchored moments of sums.  Left out, with the reason: other moments
    (they cancel, which is why only `anchored` ones are used in float32), the product of exponentials as the exponential
    of a sum (whose relative error is the sum's absolute one), and what reads one of these.
    """
    tally, worst = collections.Counter(), 0.0

    def body(cascade: Cascade, seed: int) -> None:
        nonlocal worst
        levels = count(cascade, anchored=True)
        joined = [name for name, accepted in dependent(cascade, levels).items() if accepted]
        kinds = {r.name: r.combiner for r in cascade.reductions}
        plain = {n for n in joined if levels.forms[n].J <= 1}
        anchored = {n for n in joined if levels.forms[n].anchors and kinds[n] == "sum"}
        left_out = set(joined) - plain - anchored
        for r in cascade.reductions:  # in order: each reads earlier ones
            left_out |= {r.name} if r.expr.free_symbols & left_out else set()
        held = (plain | anchored) - left_out
        if not held:
            return
        for offset in (0.0, 50.0, 1e4):
            found = errors_in_float32(cascade, levels, data_for(seed, offset, 16, 48), 16)
            for name in held & set(found):
                tally["anchored" if name in anchored else "one accumulator"] += 1
                worst = max(worst, found[name].excess)
                form = levels.forms[name]
                assert found[name].excess <= 1, f"offset {offset}: {found[name]}\n{form.certificate}\n{cascade}"

    explore(body, examples)
    print(f"float32: {dict(tally)}; the largest error is {worst:.2f} of what is allowed")
    record_property("largest error", worst)
    assert tally["anchored"] >= examples / 20
    assert tally["one accumulator"] >= examples / 4


def test_the_check_would_notice():
    """A form whose gauge is lost, or whose readout is off by a factor, does not pass."""
    import dataclasses

    import sympy as sp
    from random_cascades import LEAVES, x

    from fusecade.passes.algebra import Reduction

    m, total = sp.symbols("m total", real=True)
    cascade = Cascade((Reduction(m, "max", x), Reduction(total, "sum", sp.exp(x - m))), leaves=LEAVES)
    levels = count(cascade)
    check(cascade, levels, 0)
    form = levels.forms[total]
    lost = dataclasses.replace(form, accumulators=(dataclasses.replace(form.accumulators[0], gauge=None),))
    twice = dataclasses.replace(form, readout=form.readout * (1 + sp.Rational(1, 10**6)))
    for wrong in (lost, twice):
        with pytest.raises((AssertionError, KeyError)):
            check(cascade, dataclasses.replace(levels, forms={**levels.forms, total: wrong}), 0)
    assert np.isfinite(errors_in_float32(cascade, levels, data_for(0), 4)[total].excess)
