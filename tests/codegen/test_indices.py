"""Index expressions as text of a printed function: whatever their signs, quotients and remainders, the same number."""

from __future__ import annotations

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusecade.codegen.text import PYTHON, index_text
from fusecade.codegen.torch_functions import TENSORS
from fusecade.ir.symbols import ceildiv, evaluate, floordiv, symbol

NAMES = ("i", "j", "n")
i, j, n = map(symbol, NAMES)


def _combined(inner: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
    two, divisor = st.tuples(inner, inner), st.integers(1, 40).map(sympy.Integer)
    return st.one_of(
        two.map(lambda p: p[0] + p[1]),
        two.map(lambda p: p[0] - p[1]),
        st.tuples(inner, divisor).map(lambda p: 50 - sympy.Mod(*p)),
        st.tuples(inner, divisor).map(lambda p: 50 - floordiv(*p)),
        two.map(lambda p: p[0] * p[1]),
        *(st.tuples(inner, divisor).map(lambda p, make=make: make(*p)) for make in (floordiv, ceildiv, sympy.Mod)),
        *(two.map(lambda p, make=make: make(*p)) for make in (sympy.Min, sympy.Max)),
    )


LEAVES = st.one_of(st.sampled_from(NAMES).map(symbol), st.integers(-40, 40).map(sympy.Integer))


@given(st.recursive(LEAVES, _combined, max_leaves=6), st.tuples(*[st.integers(0, 100)] * 3))
def test_the_text_is_worth_what_the_expression_is(expression: sympy.Expr, numbers: tuple[int, int, int]):
    sizes = dict(zip(NAMES, numbers, strict=True))
    for spelling, values in ((PYTHON, sizes), (TENSORS, {name: torch.tensor([v]) for name, v in sizes.items()})):
        text = index_text(expression, str, spelling)
        assert int(eval(text, {"torch": torch}, values)) == evaluate(expression, sizes), text


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (32 - sympy.Mod(i + 5, 33), "-((i + 5) % 33) + 32"),
        (32 - floordiv(i + 5, 3), "-((i + 5) // 3) + 32"),
        (j - sympy.Mod(i, 3), "j - i % 3"),
        (32 - 2 * sympy.Mod(i, 3), "-(i % 3) * 2 + 32"),
        (n - 1 - i, "-i + n - 1"),
    ],
)
def test_a_sign_in_front_of_a_quotient(expression: sympy.Expr, text: str):
    assert index_text(expression, str, PYTHON) == text
