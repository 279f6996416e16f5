"""Sizes as functions: arithmetic is evaluated, and nothing else is."""

import pytest
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fusecade.ir import symbols
from fusecade.runtime.expressions import function_of

NAMES = ("n", "m")


@pytest.mark.parametrize(
    ("text", "sizes", "value"),
    [
        ("n * 64", (3, 0), 192),
        ("-(-n // 4)", (9, 0), 3),
        ("(n + 3) // 4 * m", (9, 2), 6),
        ("n % 4 - m", (9, 2), -1),
        ("min(n, m, 5)", (9, 7), 5),
        ("max(n - m, 0)", (2, 7), 0),
        ("cdiv(n, 4)", (9, 0), 3),
        (7, (0, 0), 7),
        ("7", (0, 0), 7),
    ],
)
def test_arithmetic(text, sizes, value):
    assert function_of(text, NAMES)(sizes) == value


N, M = symbols.symbol("n"), symbols.symbol("m")
WRITTEN = [
    symbols.ceildiv(N, 16), symbols.ceildiv(N, 16) * M, symbols.ceildiv(N, 16) * symbols.ceildiv(M, 3), N * M - 1,
    -symbols.floordiv(N, 3), 1 - symbols.floordiv(N, 3), -symbols.floordiv(N, 3) - symbols.floordiv(M, 2), N % 7 + M,
]  # fmt: skip


@pytest.mark.parametrize("expression", WRITTEN, ids=str)
@pytest.mark.parametrize("sizes", [(20, 7), (0, 1), (33, 2)])
def test_what_the_compiler_writes_means_the_same_here(expression, sizes):
    text = symbols.to_python(expression)
    assert function_of(text, NAMES)(sizes) == symbols.evaluate(expression, dict(zip(NAMES, sizes, strict=True)))


@pytest.mark.parametrize("name", ["model", "mod", "floordiv", "a_mod_b"])
def test_names_that_look_like_operators(name):
    size = symbols.symbol(name)
    assert function_of(symbols.to_python(symbols.ceildiv(size, 16) + size % 7), (name,))((33,)) == 3 + 33 % 7


def test_nested_tuples_keep_their_form():
    assert function_of((("n", 64), ("m * 64", 1), ()), NAMES)((3, 5)) == ((3, 64), (320, 1), ())


def test_symbolic_sizes_stay_symbolic():
    env = ShapeEnv()
    n = env.create_unbacked_symint()
    value = function_of("min(n * 4, m)", NAMES)((n, 8))
    assert isinstance(value, torch.SymInt)
    assert not env.guards


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "k", "n.bit_length()", "n ** m", "[n]", "n if m else 0", "lambda: n",
        "abs(n)", "min(n, key=m)", "n / m", "1.5", "'n'", "True", "(n := 3)", "n; m", "print(n)", "min", "min()", "",
        "n, m", "(n, m)", "(" * 500 + "n",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"is not"):
        function_of(text, NAMES)


@pytest.mark.parametrize("value", [1.5, None, True, {"n": 1}])
def test_other_values_are_refused(value):
    function_of(1, NAMES)  # which True equals
    with pytest.raises((ValueError, TypeError)):
        function_of(value, NAMES)


@pytest.mark.parametrize("name", ["lambda", "a b", "", "1n"])
def test_names_are_names(name):
    with pytest.raises(ValueError, match="cannot be the name of a size"):
        function_of(1, (name,))
