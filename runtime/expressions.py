"""Sizes at run time: the layouts and grids of an artifact, which are text over size names, as functions of the sizes.

Only arithmetic is read (`+ - * // %`, `min`, `max`, `cdiv`): text from a cache or a package is data, never a program.
The functions take Python integers and symbolic ones alike.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from keyword import iskeyword
from typing import Any

import torch

Nested = Any  # an integer, an expression, or a tuple of these


def _min(*values: Any) -> Any:
    return reduce(torch.sym_min, values)


def _max(*values: Any) -> Any:
    return reduce(torch.sym_max, values)


def _cdiv(a: Any, b: Any) -> Any:
    return -(-a // b)


_FUNCTIONS = {"min": _min, "max": _max, "cdiv": _cdiv}
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)


@lru_cache(maxsize=None, typed=True)  # True is no size, though it equals 1
def function_of(value: Nested, names: tuple[str, ...]) -> Callable[[Sequence[Any]], Any]:
    """A function from the sizes, in the order of `names`, to `value` with its expressions evaluated.

    Raises ValueError for text that is not arithmetic over the names.
    """
    if bad := [name for name in names if not name.isidentifier() or iskeyword(name)]:
        raise ValueError(f"{bad[0]!r} cannot be the name of a size")
    text = _text(value, frozenset(names))
    if not any(isinstance(node, ast.Name) for node in ast.walk(ast.parse(text, mode="eval"))):
        constant = eval(text, {"__builtins__": {}})
        return lambda _: constant
    head = f"lambda sizes: (lambda {', '.join(names)}: {text})(*sizes)"
    return eval(head, {"__builtins__": {}, **_FUNCTIONS})  # checked: names, numbers and arithmetic only


def _text(value: Nested, names: frozenset[str]) -> str:
    """Python text of the whole, every part of it checked."""
    if isinstance(value, tuple | list):
        return f"({''.join(f'{_text(v, names)}, ' for v in value)})"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is neither an integer nor an expression over sizes")
    if isinstance(value, str):
        try:
            _check(ast.parse(value, mode="eval").body, names, value)
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"{value[:100]!r} is not an expression over sizes") from error
    return f"({value})"


def _check(node: ast.expr, names: frozenset[str], text: str) -> None:
    match node:
        case ast.Constant(value=int()) if not isinstance(node.value, bool):
            return
        case ast.Name(id=name) if name in names:
            return
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
            parts: list[ast.expr] = [left, right]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            parts = [operand]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS and arguments:
            parts = arguments
        case _:
            raise ValueError(f"{ast.unparse(node)!r} in {text!r} is not arithmetic over the sizes {sorted(names)}")
    for part in parts:
        _check(part, names, text)
