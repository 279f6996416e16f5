"""Index expressions: one symbol factory, one textual form, affine forms."""

from __future__ import annotations

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from fusecade.ir import symbols
from fusecade.ir.attributes import AccessMap
from fusecade.ir.symbols import affine, ceildiv, evaluate, floordiv, from_text, symbol, to_text

NAMES = ("i", "j", "n", "s0")
i, j, n, b, d, L = (symbol(name) for name in ("i", "j", "n", "b", "d", "L"))


def _combined(inner: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
    divisor = st.integers(1, 40).map(sympy.Integer)
    return st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] - p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
        st.tuples(inner, divisor).map(lambda p: floordiv(*p)),
        st.tuples(inner, divisor).map(lambda p: ceildiv(*p)),
        st.tuples(inner, divisor).map(lambda p: sympy.Mod(*p)),
        st.tuples(inner, inner).map(lambda p: sympy.Min(*p)),
        st.tuples(inner, inner).map(lambda p: sympy.Max(*p)),
    )


EXPRESSIONS = st.recursive(
    st.one_of(st.sampled_from(NAMES).map(symbol), st.integers(-40, 40).map(sympy.Integer)), _combined, max_leaves=6
)


@given(EXPRESSIONS)
def test_what_is_printed_parses_to_an_equal_expression(expression: sympy.Expr):
    text = to_text(expression)
    parsed = from_text(text)
    assert parsed == expression or sympy.simplify(parsed - expression) == 0
    assert to_text(parsed) == text


@given(EXPRESSIONS, st.lists(st.integers(0, 50), min_size=4, max_size=4))
def test_the_value_survives_printing(expression: sympy.Expr, values: list[int]):
    sizes: dict[str, int] = dict(zip(NAMES, values, strict=True))
    assert evaluate(from_text(to_text(expression)), sizes) == evaluate(expression, sizes)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (i * 32 + d, "i * 32 + d"),
        (b * n * 64 + i * 64 + d, "b * n * 64 + i * 64 + d"),
        (j - i + L - 1, "L + j - i - 1"),
        (i - j + 1, "i - j + 1"),
        (3 - i, "3 - i"),
        (-i * 2, "-i * 2"),
        (i * i * n, "i * i * n"),
        (floordiv(i + 5, 32), "(i + 5) floordiv 32"),
        (ceildiv(n, 32) * 32, "(n ceildiv 32) * 32"),
        (sympy.Mod(i + 1, 7), "(i + 1) mod 7"),
        (sympy.Min(i, n), "min(i, n)"),
        (sympy.Max(i - 3, 0), "max(0, i - 3)"),
    ],
)
def test_expressions_print_as_one_writes_them(expression: sympy.Expr, text: str):
    assert to_text(expression) == text
    assert from_text(text) == expression


def test_a_symbol_is_the_same_symbol_wherever_it_is_made():
    assert symbol("i") == symbols.expr("i") == from_text("i")
    assert symbol("i") != sympy.Symbol("i")
    assert symbol("i").is_nonnegative
    assert symbol("i").is_integer


@pytest.mark.parametrize(
    ("expression", "ranks", "expected"),
    [
        (i * 32 + d, "i d", ({"i": 32, "d": 1}, 0)),
        (j - i + L - 1, "i j", ({"i": -1, "j": 1}, L - 1)),
        (i * n, "i", ({"i": n}, 0)),
        (n + 1, "i", ({}, n + 1)),
        ((i + 1) * (n + 2), "i", ({"i": n + 2}, n + 2)),
        (i * j, "i j", None),
        (i * i, "i", None),
        (floordiv(i, 2), "i", None),
        (sympy.Mod(i, 3) + j, "i j", None),
        (sympy.Min(i, 3), "i", None),
    ],
)
def test_affine(expression: sympy.Expr, ranks: str, expected: tuple | None):
    assert affine(expression, ranks.split()) == expected


def test_evaluate_names_the_symbol_that_is_missing():
    assert evaluate(i * n + 2, {"i": 3, "n": 4}) == 14
    with pytest.raises(KeyError, match="n"):
        evaluate(i * n, {"i": 3})


@pytest.mark.parametrize("expression", [sympy.Rational(1, 2), i / 2, sympy.sqrt(i)])
def test_only_index_expressions_print(expression: sympy.Expr):
    with pytest.raises(ValueError, match="not an index expression"):
        to_text(expression)


def test_access_maps_know_their_ranks_and_substitute_at_once():
    access = AccessMap.of(["b", j - i + L])
    assert access.ranks == ("b", "L", "i", "j")
    assert access.bare() is None
    assert AccessMap.of(["b", "i"]).bare() == ("b", "i")
    assert access.substitute({"i": j, "j": i}).text() == "[b, L + i - j]"
