"""Index expressions: sizes and rank variables as sympy integers, and their one textual form.

A size (`s0`) and a rank variable (`i`) are the same kind of symbol: a nonnegative integer.  There is one factory,
`symbol`, so that a symbol that was printed parses back to the very same symbol, assumptions included.

    i * 32 + d          affine access
    (i + 5) floordiv 32 quasi-affine access, integer division rounding down
    i mod 32
    min(i, n), max(i, 0)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import cast

import sympy
from xdsl.context import Context
from xdsl.parser import AttrParser, Parser


@lru_cache(maxsize=4096)
def symbol(name: str) -> sympy.Symbol:
    """The only way an index symbol is made: a nonnegative integer called `name`."""
    return sympy.Symbol(name, integer=True, nonnegative=True)


def expr(value: int | str | sympy.Expr) -> sympy.Expr:
    """An index expression from an integer, a symbol's name, or an expression (returned unchanged)."""
    if isinstance(value, str):
        return symbol(value)
    return sympy.sympify(value)


def floordiv(a: sympy.Expr, b: sympy.Expr | int) -> sympy.Expr:
    """`a // b` rounding down; `b` is positive."""
    return sympy.floor(sympy.sympify(a) / b)


def ceildiv(a: sympy.Expr | int, b: sympy.Expr | int) -> sympy.Expr:
    """`a / b` rounding up; `b` is positive."""
    return sympy.ceiling(sympy.sympify(a) / b)


def fraction(e: sympy.floor | sympy.ceiling) -> tuple[sympy.Expr, sympy.Expr]:
    """Numerator and denominator of what `e` rounds."""
    return cast(sympy.Expr, sympy.together(e.args[0])).as_numer_denom()


def names(expression: sympy.Expr) -> set[str]:
    """Names of the symbols that occur in `expression`."""
    return {s.name for s in expression.free_symbols if isinstance(s, sympy.Symbol)}


def substitute(expression: sympy.Expr, table: Mapping[sympy.Symbol, sympy.Expr]) -> sympy.Expr:
    """`expression` with symbols replaced, all at once (much faster than sympy's for a bare symbol, the common case)."""
    if isinstance(expression, sympy.Symbol):
        return table.get(expression, expression)
    if not expression.free_symbols & table.keys():
        return expression
    return cast(sympy.Expr, expression.xreplace(dict(table)))


def affine(expression: sympy.Expr, ranks: Iterable[str]) -> tuple[dict[str, sympy.Expr], sympy.Expr] | None:
    """`expression` as Σ coefficient·rank + constant, or None when it is not affine in `ranks`.

    Coefficients and the constant may contain sizes, never ranks; ranks with coefficient zero are left out.
    """
    free = expression.free_symbols
    found = _affine(expression, tuple(v for v in map(symbol, ranks) if v in free))
    return None if found is None else (dict(found[0]), found[1])


@lru_cache(maxsize=16384)
def _affine(
    expression: sympy.Expr, present: tuple[sympy.Symbol, ...]
) -> tuple[dict[str, sympy.Expr], sympy.Expr] | None:
    coefficients: dict[str, sympy.Expr] = {}
    rest = expression
    for v in present:
        if expression.is_polynomial(*present) is not True:
            return None
        c = expression.diff(v)
        if any(p in c.free_symbols for p in present):
            return None
        coefficients[v.name] = c
        rest = rest - c * v
    return coefficients, sympy.expand(rest)


def evaluate(expression: sympy.Expr | int, sizes: Mapping[str, int]) -> int:
    """The integer value of `expression` when every symbol is bound by `sizes`.

    Raises KeyError with the name of a symbol that is not bound.
    """
    e = cast(sympy.Expr, sympy.sympify(expression))
    if e.is_Integer:
        return int(e)
    missing = sorted(names(e) - set(sizes))
    if missing:
        raise KeyError(missing[0])
    return int(e.subs({symbol(n): v for n, v in sizes.items()}))


# --- text ---------------------------------------------------------------------------------------------------------


def to_text(expression: sympy.Expr | int) -> str:
    """The textual form of an index expression (parsed back by `from_text` to an equal expression)."""
    return _print(sympy.sympify(expression), 0)


def _print(e: sympy.Basic, level: int) -> str:
    """`level` 0: sum position, 1: factor position, 2: atom position."""
    assert isinstance(e, sympy.Expr), e

    def wrap(text: str, own: int) -> str:
        return f"({text})" if own < level else text

    if e.is_Integer:
        return wrap(str(int(e)), 2 if int(e) >= 0 else 0)
    if isinstance(e, sympy.Symbol):
        return e.name
    if isinstance(e, sympy.Add):
        text = ""
        for t in _terms(e):
            negative = t.could_extract_minus_sign()
            piece = _print(-t if negative else t, _under_minus(-t) if negative and not text else 1)
            text = (f"-{piece}" if negative else piece) if not text else f"{text} {'-' if negative else '+'} {piece}"
        return wrap(text, 0)
    if isinstance(e, sympy.Mul):
        if e.could_extract_minus_sign():
            return wrap("-" + _print(-e, _under_minus(cast(sympy.Expr, -e))), 0)
        factors = sorted(e.args, key=lambda f: (f.is_Number, sympy.default_sort_key(f)))
        return wrap(" * ".join(_print(f, 1 if f.is_Pow else 2) for f in factors), 1)
    if isinstance(e, sympy.Pow) and e.exp.is_Integer and int(e.exp) > 0:
        return wrap(" * ".join([_print(e.base, 2)] * int(e.exp)), 1)
    if isinstance(e, sympy.floor | sympy.ceiling):
        top, bottom = fraction(e)
        word = "floordiv" if isinstance(e, sympy.floor) else "ceildiv"
        return wrap(f"{_print(top, 2)} {word} {_print(bottom, 2)}", 1)
    if isinstance(e, sympy.Mod):
        return wrap(f"{_print(e.args[0], 2)} mod {_print(e.args[1], 2)}", 1)
    if isinstance(e, sympy.Min | sympy.Max):
        args = ", ".join(_print(a, 0) for a in sorted(e.args, key=sympy.default_sort_key))
        return f"{'min' if isinstance(e, sympy.Min) else 'max'}({args})"
    raise ValueError(f"{e!r} is not an index expression")


def _under_minus(e: sympy.Expr) -> int:
    """The level after a leading minus, which binds closer than a division does in Python: `-(n // 3)`."""
    return 2 if isinstance(e, sympy.floor | sympy.ceiling | sympy.Mod) else 1


def _terms(total: sympy.Add) -> list[sympy.Expr]:
    """The terms of a sum as one writes them: `b * n * 64 + i * 64 + d`, `i - j + 1`, `3 - i`."""

    def key(term: sympy.Expr):
        coefficient, rest = term.as_coeff_Mul()
        degree = sum(int(p) for p in rest.as_powers_dict().values() if isinstance(p, sympy.Integer))
        negative = term.could_extract_minus_sign()
        return bool(term.is_Number), negative, -degree, -abs(coefficient), sympy.default_sort_key(rest)

    terms = sorted(cast(tuple[sympy.Expr, ...], total.args), key=key)
    if terms[0].could_extract_minus_sign() and terms[-1].is_positive and terms[-1].is_Number:
        terms.insert(0, terms.pop())
    return terms


@lru_cache(maxsize=4096)
def to_python(expression: sympy.Expr | int) -> int | str:
    """The same expression for Python: an integer where it is one, else text over the size names."""
    e = cast(sympy.Expr, sympy.sympify(expression))
    if e.is_Integer:
        return int(e)
    return (
        _print(e.replace(sympy.ceiling, lambda x: -sympy.floor(-x)), 0)
        .replace(" floordiv ", " // ")
        .replace(" mod ", " % ")
    )


def from_text(text: str) -> sympy.Expr:
    """Parse the textual form of one index expression."""
    return parse(Parser(Context(), text))


def parse(parser: AttrParser) -> sympy.Expr:
    """Parse an index expression from the tokens of an xDSL parser."""
    negative = parser.parse_optional_punctuation("-") is not None
    total = _parse_product(parser)
    if negative:
        total = -total
    while True:
        if parser.parse_optional_punctuation("+") is not None:
            total = total + _parse_product(parser)
        elif parser.parse_optional_punctuation("-") is not None:
            total = total - _parse_product(parser)
        else:
            return total


def _parse_product(parser: AttrParser) -> sympy.Expr:
    total = _parse_atom(parser)
    while True:
        if parser.parse_optional_punctuation("*") is not None:
            total = total * _parse_atom(parser)
        elif parser.parse_optional_keyword("floordiv") is not None:
            total = floordiv(total, _parse_atom(parser))
        elif parser.parse_optional_keyword("ceildiv") is not None:
            total = ceildiv(total, _parse_atom(parser))
        elif parser.parse_optional_keyword("mod") is not None:
            total = sympy.Mod(total, _parse_atom(parser))
        else:
            return total


def _parse_atom(parser: AttrParser) -> sympy.Expr:
    if parser.parse_optional_punctuation("(") is not None:
        inner = parse(parser)
        parser.parse_punctuation(")")
        return inner
    value = parser.parse_optional_integer(allow_boolean=False, allow_negative=False)
    if value is not None:
        return sympy.Integer(value)
    name = parser.parse_identifier(" for an index expression")
    if name in ("min", "max"):
        args = parser.parse_comma_separated_list(parser.Delimiter.PAREN, lambda: parse(parser))
        return (sympy.Min if name == "min" else sympy.Max)(*args)
    return symbol(name)
