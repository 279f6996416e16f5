"""Expressions over sizes (`n * 64`, `-((-n) // 16)`) as C: 64 bits, with a flag for what does not fit.

    Arithmetic({"n": "size_n"}).of("-((-n) // 16) * 4")
    # fc_mul(fc_neg(fc_floordiv(fc_neg(size_n, &bad), INT64_C(16), &bad), &bad), INT64_C(4), &bad)

What has no size in it is computed here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

import sympy

from ...errors import InvalidPackage
from ...ir import symbols
from ...runtime.expressions import function_of

_BINARY = {ast.Add: "fc_add", ast.Sub: "fc_sub", ast.Mult: "fc_mul", ast.FloorDiv: "fc_floordiv", ast.Mod: "fc_mod"}
MOST = (1 << 63) - 1


class Arithmetic:
    """Expressions over some names.  variables: how C calls each."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = dict(variables)

    def of(self, value: int | str) -> str:
        """An expression of type int64_t; where it is not total, `bad` is in scope.  Raises InvalidPackage."""
        if isinstance(value, str):
            function_of(value, tuple(self.variables))  # raises ValueError for what is no arithmetic over these names
            return self._print(ast.parse(value, mode="eval").body)
        return number(value)

    def constant(self, value: int | str) -> int | None:
        """The value of what has no size in it, else None."""
        if isinstance(value, int):
            return value
        body = ast.parse(value, mode="eval").body
        return None if self._names_in(body) else _computed(body)

    def _names_in(self, node: ast.expr) -> bool:
        return any(isinstance(n, ast.Name) and n.id in self.variables for n in ast.walk(node))

    def _print(self, node: ast.expr) -> str:
        if not self._names_in(node):
            return number(_computed(node))
        match node:
            case ast.Name(id=name):
                return self.variables[name]
            case ast.UnaryOp(operand=operand):
                return f"fc_neg({self._print(operand)}, &bad)"
            case ast.BinOp(left=left, op=op, right=right):
                return f"{_BINARY[type(op)]}({self._print(left)}, {self._print(right)}, &bad)"
            case ast.Call(func=ast.Name(id="cdiv"), args=[left, right]):
                return f"fc_cdiv({self._print(left)}, {self._print(right)}, &bad)"
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=[first, *others]):
                found = self._print(first)
                for other in others:
                    found = f"fc_{name}({found}, {self._print(other)})"
                return found
        raise InvalidPackage(f"the expression {ast.unparse(node)[:100]!r} is none that packages have")


def _computed(node: ast.expr) -> int:
    try:
        return int(function_of(ast.unparse(node), ())(()))
    except ArithmeticError as error:
        raise InvalidPackage(f"the expression {ast.unparse(node)[:100]!r} has no value: {error}") from error


def number(value: int) -> str:
    """Raises InvalidPackage for one of more than 64 bits."""
    if abs(value) > MOST:
        raise InvalidPackage(f"a number of {value.bit_length()} bits, where C counts in 64")
    return f"INT64_C({value})" if value >= 0 else f"(-INT64_C({-value}))"


def times(values: Sequence[int | str]) -> int | str:
    """The product, as a number where it is one."""
    known, texts = 1, []
    for v in values:
        if isinstance(v, int):
            known *= v
        else:
            texts.append(f"({v})")
    if not texts or known == 0:
        return known
    return " * ".join([*([str(known)] if known != 1 else []), *texts])


def plus(values: Sequence[int | str]) -> int | str:
    """The sum, as a number where it is one."""
    known = sum(v for v in values if isinstance(v, int))
    texts = [f"({v})" for v in values if isinstance(v, str)]
    if not texts:
        return known
    return " + ".join([*texts, *([f"({known})"] if known else [])])


def simplified(value: int | str) -> int | str:
    """The same, multiplied out; what is long, or is not arithmetic alone, stays as it is."""
    if isinstance(value, int) or len(value) > 200:
        return value
    names = tuple(dict.fromkeys(n.id for n in ast.walk(ast.parse(value, mode="eval")) if isinstance(n, ast.Name)))
    if {"min", "max", "cdiv"} & set(names):
        return value
    return symbols.to_python(sympy.expand(function_of(value, names)([symbols.symbol(n) for n in names])))


__all__ = ["Arithmetic", "number", "plus", "simplified", "times"]
