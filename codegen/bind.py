"""Binding: a kernel with its parameters and some sizes given, and without the edge work that is then not needed.

    before   tile.kernel [i = 128 * n grid BI, d = 64 whole] params {BI = 64} ...
               tile.load %q<[i, d]> guard ["i", "d"] ...          tile.pad %s over ["i", "d"] ...
    after    with BI = 128: no tile of i is ragged, and 64 is a power of two: the guard is empty, the pad is gone

A loop of which every program takes one step is marked as such: no loop need be printed.

Guards and pads only matter to a printer of fixed block shapes (Triton), where lanes beyond the extent exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import sympy
from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, UnitAttr, i64
from xdsl.ir import Attribute
from xdsl.rewriter import Rewriter

from ..errors import InternalCompilerError
from ..ir import symbols, tile
from ..ir.attributes import AccessMap
from ..ir.launch import LAUNCH_PARAMETERS
from ..ir.verify import verify
from . import text

MOST_PARTS = 256  # whose bounds are looked at one by one


def bind(
    kernel: tile.KernelOp,
    params: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
    multiples: Mapping[str, int] | None = None,
) -> tile.KernelOp:
    """A clone of `kernel` with parameters and sizes bound, without guards and pads where no lane is beyond an extent.

    `sizes` become literals everywhere, and so do parameters that are extents.  `multiples` says of sizes that stay symbols
    what they are multiples of; the caller answers for it when the kernel runs.  Unknown parameters are an
    InternalCompilerError.
    """
    unknown = sorted(set(params or {}) - set(kernel.parameters) - set(LAUNCH_PARAMETERS))
    if unknown:
        raise InternalCompilerError(f"kernel {kernel.sym_name.data} has no parameters {unknown}")
    bound = kernel.clone()
    values = {**kernel.parameters, **(params or {})}
    counts = {n: values.pop(n) for n in sorted(_counts(kernel))}
    bound.properties["params"] = DictionaryAttr({k: IntegerAttr(v, i64) for k, v in sorted(values.items())})
    _bind_sizes(bound, {k: v for k, v in {**(sizes or {}), **counts}.items() if k not in kernel.ranks.names})
    known = {**text.multiples(kernel), **(multiples or {})}
    if known:
        bound.attributes[text.MULTIPLES] = DictionaryAttr({k: IntegerAttr(v, i64) for k, v in sorted(known.items())})
    _drop_edges(bound)
    _mark_single_steps(bound)
    verify(bound)
    return bound


def _counts(kernel: tile.KernelOp) -> set[str]:
    """The parameters that are extents of ranks: how many parts there are."""
    return {n for r in kernel.ranks.data for n in symbols.names(r.extent)} & set(kernel.parameters)


def _bind_sizes(kernel: tile.KernelOp, sizes: Mapping[str, int]) -> None:
    if not sizes:
        return
    table = {n: sympy.Integer(v) for n, v in sizes.items()}
    pairs: Any = {symbols.symbol(n): v for n, v in table.items()}

    def substituted(attribute: Attribute) -> Attribute:
        if isinstance(attribute, AccessMap):
            return attribute.substitute(table)
        if isinstance(attribute, tile.BufferType):
            shape, strides = attribute.shape.substitute(table), attribute.strides.substitute(table)
            return tile.BufferType(shape, strides, attribute.element_type)
        return attribute

    ranks = tuple(
        tile.TileRank(
            r.name,
            cast(sympy.Expr, r.extent.subs(pairs, simultaneous=True)),
            r.role,
            r.tile,
            cast(sympy.Expr, r.of.subs(pairs, simultaneous=True)) if r.of is not None else None,
        )
        for r in kernel.ranks.data
    )
    kernel.properties["ranks"] = tile.TileRanks(ranks)
    if (share := kernel.share) is not None:
        steps = cast(sympy.Expr, share.steps.subs(pairs, simultaneous=True))
        kernel.properties["share"] = tile.Share((share.part, share.each, steps))
    for argument in kernel.arguments:
        Rewriter.replace_value_with_new_type(argument, substituted(argument.type))
    for op in kernel.body.walk():
        for name, attribute in op.properties.items():
            op.properties[name] = substituted(attribute)


def _mark_single_steps(kernel: tile.KernelOp) -> None:
    for op in kernel.body.walk():
        if isinstance(op, tile.ForOp):
            op.attributes.pop(tile.ONCE, None)
            if _takes_one_step(kernel, op):
                op.attributes[tile.ONCE] = UnitAttr()


def _takes_one_step(kernel: tile.KernelOp, op: tile.ForOp) -> bool:
    """Whether each program takes one step of a loop, neither more nor none, as far as is known."""
    if op.within:  # or none
        return False
    rank = kernel.ranks[op.rank.data]
    step = kernel.parameters[rank.tile] if rank.tile is not None else 1
    lower, upper = (e.subs({symbols.symbol(n): v for n, v in kernel.parameters.items()}) for e in op.bounds)
    varying = sorted({s.name for e in (lower, upper) for s in e.free_symbols})
    if not varying:
        return 0 < int(upper - lower) <= step
    parts = kernel.ranks[varying[0]] if varying[0] in kernel.ranks.names else None
    if len(varying) > 1 or parts is None or parts.role != "unit" or not parts.extent.is_Integer:
        return False
    count = int(parts.extent)
    if count > MOST_PARTS:
        return False
    ends = ((symbols.evaluate(e, {parts.name: p}) for e in (lower, upper)) for p in range(count))
    return all(0 < end - begin <= step for begin, end in ends)


def _drop_edges(kernel: tile.KernelOp) -> None:
    for op in list(kernel.body.walk()):
        if isinstance(op, tile.LoadOp | tile.StoreOp):
            op.properties["guard"] = tile.strings(r for r in op.guards if not text.is_even(kernel, r))
        elif isinstance(op, tile.PadOp):
            ragged = [r for r in op.over_ranks if not text.is_even(kernel, r)]
            op.properties["over"] = tile.strings(ragged)
            if not ragged:
                op.result.replace_all_uses_with(op.value)
                op.detach()
                op.erase()
