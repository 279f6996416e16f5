"""Regions of scalars at every point of a rank space, and reductions of what they yield."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from xdsl.dialects.builtin import f64, i1, i64
from xdsl.ir import Attribute, Block, Operation, SSAValue

from ...errors import InternalCompilerError
from .. import cascade, scalar
from .access import apply, index_value, symbol_values
from .values import Named, Space, reference_dtype

BIG = 1 << 24  # a reduction over more points than this is evaluated in halves of its output


def torch_function(name: str) -> Callable:
    """What a function of the scalar table does to float64, int64 and bool tensors."""
    table: dict[str, Callable] = {
        "div": torch.true_divide,
        "ne": torch.ne,
        "iadd": torch.add,
        "isub": torch.sub,
        "imul": torch.mul,
        "ifloordiv": partial(torch.div, rounding_mode="floor"),
        "irem": torch.fmod,
        "imaximum": torch.maximum,
        "iminimum": torch.minimum,
        "ilt": torch.lt,
        "ile": torch.le,
        "igt": torch.gt,
        "ige": torch.ge,
        "ieq": torch.eq,
        "ine": torch.ne,
        "inside": lambda i, n: (i >= 0) & (i < n),
        "and": torch.bitwise_and,
        "or": torch.bitwise_or,
        "xor": torch.bitwise_xor,
        "select": torch.where,
        "int_to_float": lambda x: x.to(torch.float64),
        "bool_to_float": lambda x: x.to(torch.float64),
        "float_to_int": lambda x: x.to(torch.int64),
        "bool_to_int": lambda x: x.to(torch.int64),
        "widen": lambda x: x,
        "narrow": lambda x: x,
        "to_bf16": lambda x: x.to(torch.bfloat16).to(x.dtype),
        "to_f16": lambda x: x.to(torch.float16).to(x.dtype),
    }
    return table.get(name) or getattr(torch, name)


def evaluate_region(
    block: Block, known: Mapping[SSAValue, Named], wanted: Iterable[SSAValue], table: Mapping[str, Named]
):
    """The values of a region, at least the wanted ones; `known` binds its arguments."""
    values = dict(known)
    needed = set(wanted)
    for op in reversed(list(block.ops)):
        if any(r in needed for r in op.results):
            needed.update(op.operands)
    for op in block.ops:
        if not any(r in needed for r in op.results):
            continue
        name = scalar.name_of(op)
        if isinstance(op, cascade.IndexOp):
            values[op.result] = index_value(op.expr, table)
        elif name == scalar.CONSTANT:
            values[op.results[0]] = constant_value(scalar.constant_value(op), op.results[0].type)
        elif name is not None:
            if any(o not in values for o in op.operands):
                raise InternalCompilerError(f"{op.name} uses a value not known here (a gauge that needs gauges?)")
            values[op.results[0]] = apply(torch_function(name), *(values[o] for o in op.operands))
        else:
            raise InternalCompilerError(f"the reference interpreter does not know {op.name} in a region")
    for value in wanted:
        if value not in values:
            raise InternalCompilerError("a region yields a value not known here (a gauge that needs gauges?)")
    return values


def constant_value(value: float | int | bool, element: Attribute) -> Named:
    return Named(torch.tensor(value, dtype=reference_dtype(element)), ())


def _factors(value: SSAValue) -> list[SSAValue]:
    """The values whose product `value` is."""
    op = value.owner
    if isinstance(op, Operation) and scalar.name_of(op) in ("mul", "imul"):
        return [f for o in op.operands for f in _factors(o)]
    return [value]


def reduce_region(
    block: Block,
    arguments: Callable[[Space], Mapping[SSAValue, Named]],
    yielded: SSAValue,
    combiner: str,
    kept: tuple[str, ...],
    reduced: tuple[str, ...],
    space: Space,
    sizes: Mapping[str, int],
) -> Tensor:
    """Map and reduce: the region at every point of `space`, combined over `reduced`, as a tensor over `kept`."""
    table = symbol_values(space, sizes)
    known = arguments(space)
    factors = _factors(yielded)
    if combiner == "sum" and len(factors) > 1:
        values = evaluate_region(block, known, factors, table)
        contracted = _contract([values[f] for f in factors], kept, reduced, space)
        if contracted is not None:
            return contracted
    points = math.prod(len(space[r]) for r in (*kept, *reduced))
    if reduced and points > BIG and any(len(space[r]) > 1 for r in kept):
        widest = max(kept, key=lambda r: len(space[r]))
        whole, middle = space[widest], len(space[widest]) // 2
        halves = [
            reduce_region(block, arguments, yielded, combiner, kept, reduced, {**space, widest: part}, sizes)
            for part in (whole[:middle], whole[middle:])
        ]
        return torch.cat(halves, kept.index(widest))
    value = evaluate_region(block, known, [yielded], table)[yielded]
    return reduce_values(combiner, value, kept, reduced, space)


def _contract(factors: Sequence[Named], kept: tuple[str, ...], reduced: tuple[str, ...], space: Space) -> Tensor | None:
    """Σ of a product without holding the product; None where infinities or NaN make the order matter."""
    if not all(bool(f.tensor.isfinite().all()) for f in factors):
        return None
    number = {r: n for n, r in enumerate((*kept, *reduced))}
    present = {r for f in factors for r in f.ranks}
    out = tuple(r for r in kept if r in present)
    arguments: list[Any] = []
    for f in factors:
        arguments += [f.tensor, [number[r] for r in f.ranks]]
    total = torch.einsum(*arguments, [number[r] for r in out])
    total = total * math.prod(len(space[r]) for r in reduced if r not in present)
    return Named(total, out).spread(kept, space)


def reduce_values(combiner: str, value: Named, kept: tuple[str, ...], reduced: tuple[str, ...], space: Space) -> Tensor:
    """Combine `value` over `reduced`; over no points at all, the combiner's identity."""
    x = value.spread((*kept, *reduced), space)
    if not reduced:
        return x
    dims = tuple(range(len(kept), x.dim()))
    if combiner in ("argmax", "argmin"):
        if not len(space[reduced[0]]):
            return torch.zeros([len(space[r]) for r in kept], dtype=torch.int64)
        return getattr(torch, combiner)(x, dim=dims[0]) + space[reduced[0]].start  # first index; a NaN wins
    if 0 in [len(space[r]) for r in reduced]:
        return torch.full([len(space[r]) for r in kept], identity_of(combiner, x.dtype), dtype=x.dtype)
    if combiner == "prod":
        for dim in reversed(dims):
            x = x.prod(dim)
        return x
    functions: dict[str, Callable] = {
        "sum": torch.sum,
        "max": torch.amax,
        "min": torch.amin,
        "any": torch.any,
        "all": torch.all,
    }
    if combiner not in functions:
        raise InternalCompilerError(f"the reference interpreter does not know the combiner {combiner}")
    return functions[combiner](x, dim=dims)


def combine_values(combiner: str, a: Tensor, b: Tensor) -> Tensor:
    functions: dict[str, Callable] = {
        "sum": torch.add,
        "prod": torch.mul,
        "max": torch.maximum,
        "min": torch.minimum,
        "any": torch.logical_or,
        "all": torch.logical_and,
    }
    if combiner not in functions:
        raise InternalCompilerError(f"two partial results of {combiner} cannot be combined")
    return functions[combiner](a, b)


def identity_of(combiner: str, dtype: torch.dtype) -> float | int | bool:
    return scalar.identity(combiner, {torch.float64: f64, torch.int64: i64, torch.bool: i1}[dtype])


def running(combiner: str, values: Sequence[Tensor], dim: int, exclusive: bool, reverse: bool) -> Tensor:
    """Combinations of the elements up to each index of `dim`; `values` is (decay, contribution) for "linear"."""
    if reverse:
        return running(combiner, [v.flip(dim) for v in values], dim, exclusive, False).flip(dim)
    x = values[-1]
    if combiner == "linear":
        found = torch.empty_like(x)
        state = torch.zeros_like(x.select(dim, 0)) if x.shape[dim] else x
        for t in range(x.shape[dim]):
            state = values[0].select(dim, t) * state + x.select(dim, t)
            found.select(dim, t).copy_(state)
    elif combiner == "sum":
        found = x.cumsum(dim)
    elif combiner == "prod":
        found = x.cumprod(dim)
    elif combiner in ("max", "any"):
        found = x.cummax(dim)[0]
    elif combiner in ("min", "all"):
        found = x.cummin(dim)[0]
    else:
        raise InternalCompilerError(f"the reference interpreter does not know the scan {combiner}")
    if not exclusive:
        return found
    start = 0 if combiner == "linear" else identity_of(combiner, x.dtype)
    first = torch.full_like(x.narrow(dim, 0, min(1, x.shape[dim])), start)
    return torch.cat([first, found], dim).narrow(dim, 0, x.shape[dim])


def scattered(combiner: str, start: Tensor, at: Sequence[Tensor], values: Tensor) -> Tensor:
    """`start` with every value combined into the element at its coordinates, all of which are inside."""
    flat = torch.zeros(values.shape, dtype=torch.int64)
    for index, size in zip(at, start.shape, strict=True):
        flat = flat * size + index
    names = {"sum": "sum", "prod": "prod", "max": "amax", "min": "amin", "any": "amax", "all": "amin"}
    if combiner not in names:
        raise InternalCompilerError(f"the reference interpreter does not know the scatter {combiner}")
    whole, given = start.reshape(-1), values.reshape(-1)
    if start.dtype == torch.bool:
        whole, given = whole.to(torch.int64), given.to(torch.int64)
    found = whole.scatter_reduce(0, flat.reshape(-1), given, names[combiner], include_self=True)
    return found.to(start.dtype).reshape(start.shape)
