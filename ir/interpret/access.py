"""Index expressions, and the elements that an access map touches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import sympy
import torch
from torch import Tensor

from ...errors import InternalCompilerError
from .. import symbols
from .values import Named, Space


def symbol_values(space: Space, sizes: Mapping[str, int]) -> dict[str, Named]:
    """What every symbol of an index expression stands for."""
    table = {name: Named(torch.tensor(value), ()) for name, value in sizes.items()}
    table.update({r: Named(torch.arange(p.start, p.stop), (r,)) for r, p in space.items()})
    return table


def index_value(e: sympy.Expr, table: Mapping[str, Named]) -> Named:
    """The value of an index expression at every point of the ranks that it depends on."""
    if e.is_Integer:
        return Named(torch.tensor(int(e)), ())
    if isinstance(e, sympy.Symbol):
        if e.name not in table:
            raise InternalCompilerError(f"the symbol {e.name} has no value here")
        return table[e.name]
    if isinstance(e, sympy.floor | sympy.ceiling):
        top, bottom = (index_value(x, table) for x in symbols.fraction(e))
        if isinstance(e, sympy.floor):
            return apply(lambda a, b: a.div(b, rounding_mode="floor"), top, bottom)
        return apply(lambda a, b: -(-a).div(b, rounding_mode="floor"), top, bottom)
    functions: dict[type, Callable] = {
        sympy.Add: torch.add,
        sympy.Mul: torch.mul,
        sympy.Pow: torch.pow,
        sympy.Mod: torch.remainder,
        sympy.Min: torch.minimum,
        sympy.Max: torch.maximum,
    }
    for kind, function in functions.items():
        if isinstance(e, kind):
            first, *rest = (index_value(cast(sympy.Expr, a), table) for a in e.args)
            for other in rest:
                first = apply(function, first, other)
            return first
    raise InternalCompilerError(f"{e} is not an index expression")


def apply(function: Callable, *operands: Named) -> Named:
    """`function` elementwise; ranks broadcast by name."""
    ranks = tuple(dict.fromkeys(r for o in operands for r in o.ranks))
    return Named(function(*(o.over(ranks) for o in operands)), ranks)


def read_elements(
    source: Tensor, access: Sequence[sympy.Expr], space: Space, table: Mapping[str, Named]
) -> tuple[Named, bool]:
    """The accessed elements, zero outside the tensor's bounds, and whether any access was outside."""
    view = _read_plain(source, access, space, table)
    if view is not None:
        return view, False
    index = [index_value(e, table) for e in access]
    inside: list[Named] = [
        Named((n.tensor >= 0) & (n.tensor < size), n.ranks) for n, size in zip(index, source.shape, strict=True)
    ]
    ranks = tuple(dict.fromkeys(r for n in index for r in n.ranks))
    if not all(bool(n.tensor.all()) for n in inside):
        valid = torch.ones([1] * len(ranks), dtype=torch.bool)
        for n in inside:
            valid = valid & n.over(ranks)
        if 0 in source.shape:
            return Named(torch.zeros(valid.shape, dtype=source.dtype), ranks), True
        clamped = [n.over(ranks).clamp(0, size - 1) for n, size in zip(index, source.shape, strict=True)]
        return Named(torch.where(valid, source[tuple(clamped)], torch.zeros((), dtype=source.dtype)), ranks), True
    return Named(source[tuple(n.over(ranks) for n in index)] if index else source, ranks), False


def _read_plain(source: Tensor, access: Sequence[sympy.Expr], space: Space, table: Mapping[str, Named]) -> Named | None:
    """The read as a view, when every index is one number or a rank of its own, and stays inside the tensor."""
    ranks: list[str] = []
    view = source
    for e, size in zip(access, source.shape, strict=True):
        if isinstance(e, sympy.Symbol) and e.name in space and e.name not in ranks:
            part = space[e.name]
            if part.start < 0 or part.stop > size:
                return None
            view = view.narrow(len(ranks), part.start, len(part))
            ranks.append(e.name)
        elif symbols.names(e) & set(space):
            return None
        else:
            index = index_value(e, table)
            if index.ranks or not 0 <= int(index.tensor) < size:
                return None
            view = view.select(len(ranks), int(index.tensor))
    return Named(view, tuple(ranks))
