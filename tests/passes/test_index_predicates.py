"""Index predicates against brute force: nothing true is left out, nothing false is taken for true."""

from __future__ import annotations

import itertools
import math

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from fusecade.ir import symbols
from fusecade.passes.index_predicates import (
    FALSE,
    TRUE,
    AtLeast,
    Every,
    Predicate,
    about,
    at_least,
    comparison,
    every,
    implied,
    opposite,
    segments,
    some,
    span,
    to_text,
)
from fusecade.passes.trips import evaluated

ROW, K, H, BI, BK, N = map(symbols.symbol, ("i", "k", "h", "BI", "BK", "n"))

numbers = st.integers(-9, 9)
steps = st.integers(1, 5)


@st.composite
def expressions(draw) -> sympy.Expr:
    """Affine in i, k and h, or with quotients of them."""
    a, b, c, d = draw(st.integers(-2, 2)), draw(st.integers(-2, 2)), draw(st.integers(-1, 1)), draw(numbers)
    row, column = ROW, K
    match draw(st.integers(0, 5)):
        case 0:
            row, column = symbols.floordiv(ROW, draw(steps)), symbols.floordiv(K + draw(numbers), draw(steps))
        case 1:
            column = symbols.floordiv(K - ROW, draw(steps))
        case 2:
            row = sympy.Mod(ROW, draw(steps))
        case 3:
            column = sympy.Max(K - ROW, ROW - K)
    return a * row + b * column + c * H + d


@st.composite
def predicates(draw, depth: int = 2) -> Predicate:
    if not depth or draw(st.booleans()):
        name = draw(st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"]))
        return comparison(name, draw(expressions()), draw(expressions()))
    parts = draw(st.lists(predicates(depth - 1), min_size=1, max_size=3))
    p = draw(st.sampled_from([every, some]))(*parts)
    return opposite(p) if draw(st.booleans()) else p


def holds(p: Predicate, at: dict[str, int]) -> bool:
    if isinstance(p, AtLeast):
        return bool(evaluated(p.e, at) >= 0)
    return (all if isinstance(p, Every) else any)(holds(q, at) for q in p.parts)


@given(p=predicates(), i=st.integers(0, 9), k=st.integers(0, 9), h=st.integers(0, 3))
def test_the_opposite_holds_elsewhere(p: Predicate, i: int, k: int, h: int):
    at = {"i": i, "k": k, "h": h}
    assert holds(p, at) != holds(opposite(p), at), to_text(p)


@given(p=predicates(), q=predicates(), i=st.integers(0, 9), k=st.integers(0, 9))
def test_what_is_implied_holds(p: Predicate, q: Predicate, i: int, k: int):
    at = {"i": i, "k": k, "h": 1}
    for x in (p, q, opposite(q)):
        assert not (implied(x, every(p, q)) and holds(every(p, q), at)) or holds(x, at)
    assert implied(p, every(p, q)) or p == TRUE or every(p, q) in (FALSE,)


@given(
    p=predicates(),
    bi=steps,
    bk=steps,
    rows=st.integers(1, 11),
    n=st.integers(1, 11),
    whole=st.booleans(),
    apart=st.booleans(),
)
def test_walks_visit_what_is_true_and_full_tiles_are(p, bi, bk, rows, n, whole, apart):
    """Rows in tiles (or all at once), one h a program, k streamed."""
    reach = {"i": (sympy.Integer(0), sympy.Integer(rows - 1)) if whole else (ROW, ROW + BI - 1), "h": (H, H)}
    walks = segments(p, "k", N, BK, reach, apart)
    assert apart or not any(w.full for w in walks)
    certain = about(p, "k")
    for start, h in itertools.product([0] if whole else range(0, rows, bi), range(2)):
        tile = range(rows) if whole else range(start, start + bi)
        known = {"i": start, "h": h, "BI": bi, "BK": bk, "n": n}
        visited: list[int] = []
        for w in walks:
            lower, upper = (int(evaluated(e, known)) for e in (w.lower, w.upper))
            for first in range(lower, upper, bk):
                assert first >= 0 and first % bk == 0
                visited.extend(range(first, min(first + bk, n)))
                if w.full:
                    assert first + bk <= n
                    points = itertools.product(tile, range(first, first + bk))
                    assert all(holds(certain, {"i": i, "k": k, "h": h}) for i, k in points), to_text(p)
        assert visited == sorted(set(visited))
        rows_here = [i for i in tile if i < rows]
        wanted = {k for k in range(n) if any(holds(p, {"i": i, "k": k, "h": h}) for i in rows_here)}
        assert wanted <= set(visited), to_text(p)


@pytest.mark.parametrize(
    ("p", "visits", "full"),
    [
        (comparison("le", K, ROW), lambda i, k: k <= i, 6),
        (
            every(comparison("le", K, ROW), comparison("lt", ROW - K, sympy.Integer(20))),
            lambda i, k: k <= i < k + 20,
            6,
        ),
        (some(comparison("le", K, ROW), comparison("lt", K, sympy.Integer(9))), lambda i, k: k <= i or k < 9, 7),
        (comparison("eq", symbols.floordiv(K, 8), symbols.floordiv(ROW, 8)), lambda i, k: k // 8 == i // 8, 8),
        (comparison("le", sympy.Max(K - ROW, ROW - K), sympy.Integer(5)), lambda i, k: abs(i - k) <= 5, 3),
    ],
    ids=["causal", "window", "prefix", "blocks", "band"],
)
def test_no_tile_is_visited_for_nothing(p, visits, full):
    """Of tiles of 4 rows and 4 columns, exactly those with something to see; and the full ones in a walk of their own."""
    n, t = 32, 4
    walks = segments(p, "k", sympy.Integer(n), BK, {"i": (ROW, ROW + BI - 1)})
    seen, whole = set(), set()
    for i in range(0, n, t):
        known = {"i": i, "BI": t, "BK": t}
        for w in walks:
            steps = range(*(int(evaluated(e, known)) for e in (w.lower, w.upper)), t)
            seen |= {(i, k) for k in steps}
            whole |= {(i, k) for k in steps if w.full}
    tiles = list(itertools.product(range(0, n, t), repeat=2))
    inside = {at: [visits(i, k) for i in range(at[0], at[0] + t) for k in range(at[1], at[1] + t)] for at in tiles}
    assert seen == {at for at in tiles if any(inside[at])}
    assert whole == {at for at in tiles if all(inside[at])}
    assert len(whole) >= full


def test_text():
    assert to_text(comparison("le", K, ROW)) == "k <= i"
    assert (
        to_text(every(comparison("le", K, ROW), comparison("lt", ROW - K, sympy.Integer(5)))) == "k <= i and i <= k + 4"
    )
    assert to_text(some(TRUE, at_least(ROW))) == "true"


def test_spans_of_what_is_always_or_never_true():
    assert span(TRUE, "k", {}, "may") == span(TRUE, "k", {}, "is")
    assert span(FALSE, "k", {}, "may") is None
    assert segments(FALSE, "k", N, BK, {})[0].upper == 0
    assert math.prod(w.full for w in segments(TRUE, "k", N, BK, {})) == 0
