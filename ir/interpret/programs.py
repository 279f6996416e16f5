"""The `cascade` dialect: a program, run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import sympy
import torch
from torch import Tensor
from xdsl.ir import Block, SSAValue

from ...errors import InternalCompilerError, InvalidArgument
from .. import cascade, symbols
from ..attributes import AccessMap, TensorType
from .access import index_value, read_elements, symbol_values
from .externs import call_extern
from .regions import combine_values, evaluate_region, identity_of, reduce_region, running, scattered
from .values import Named, Space, infer_from, reference_dtype, size_of, to_reference

Merge = Literal["fold", "sequential", "tree"]
EXTREMES = {"argmax": "max", "argmin": "min"}


def run_program(
    program: cascade.ProgramOp,
    tensors: Sequence[Tensor],
    sizes: Mapping[str, int] | None = None,
    *,
    chunk: int | Sequence[int] | None = None,
    merge: Merge = "fold",
) -> list[Tensor]:
    """The results of a program, in float64, int64 and bool.

    Sizes are inferred from the shapes of `tensors` (`sizes` adds what they do not tell).  An online operation streams
    its rank in pieces of `chunk` elements (several lengths are used in turn; default: a third of the rank), which are
    folded into one state (`merge="fold"`), or make a state each, merged from left to right ("sequential") or in pairs
    ("tree").

    Raises InvalidArgument when the tensors do not fit the program, InternalCompilerError for an unknown operation.
    """
    shapes = [cast(TensorType, a.type).shape for a in program.body.block.args]
    run = ProgramRun(infer_from(shapes, tensors, sizes), chunk, merge)
    return run.block(program.body.block, [to_reference(t) for t in tensors])


class ProgramRun:
    """One run of a program: the sizes and how online operations are to be streamed."""

    def __init__(self, sizes: dict[str, int], chunk: int | Sequence[int] | None, merge: Merge):
        self.sizes = sizes
        self.chunk = chunk
        self.merge = merge

    def block(self, block: Block, arguments: Sequence[Tensor]) -> list[Tensor]:
        """The values that a program's or a kernel's block returns."""
        values: dict[SSAValue, Tensor] = dict(zip(block.args, arguments, strict=True))
        for op in block.ops:
            operands = [values[o] for o in op.operands]
            if isinstance(op, cascade.ReturnOp):
                return operands
            if isinstance(op, cascade.EinsumOp):
                results = self.einsum(op, operands)
            elif isinstance(op, cascade.OnlineOp):
                results = self.online(op, operands)
            elif isinstance(op, cascade.ScanOp):
                results = self.scan(op, operands)
            elif isinstance(op, cascade.GatherOp):
                results = [self.gather(op, operands)]
            elif isinstance(op, cascade.ScatterOp):
                results = [self.scatter(op, operands)]
            elif isinstance(op, cascade.ExternOp):
                results = self.extern(op, operands)
            elif isinstance(op, cascade.KernelOp):
                results = self.block(op.body.block, operands)
            else:
                raise InternalCompilerError(f"the reference interpreter does not know {op.name}")
            values.update(zip(op.results, results, strict=True))
        raise InternalCompilerError("a block does not end in cascade.return")

    def space(self, ranks: Mapping[str, sympy.Expr]) -> Space:
        return {r: range(size_of(extent, self.sizes)) for r, extent in ranks.items()}

    def elements(
        self,
        op: cascade.EinsumOp | cascade.OnlineOp | cascade.ScanOp | cascade.ScatterOp,
        operands: Sequence[Tensor],
        space: Space,
    ) -> list[Named]:
        """The accessed elements of every input."""
        table = symbol_values(space, self.sizes)
        return [read_elements(t, a.data, space, table)[0] for t, a in zip(operands, op.accesses.data, strict=True)]

    def einsum(self, op: cascade.EinsumOp, operands: Sequence[Tensor]) -> list[Tensor]:
        block = op.body.block

        def arguments(space: Space) -> dict[SSAValue, Named]:
            return dict(zip(block.args, self.elements(op, operands, space), strict=True))

        space = self.space(op.extents)
        return [
            reduce_region(block, arguments, y, combiner, op.out_ranks(n), op.reduced, space, self.sizes)
            for n, (combiner, y) in enumerate(zip(op.combiner_names, op.yields, strict=True))
        ]

    def scan(self, op: cascade.ScanOp, operands: Sequence[Tensor]) -> list[Tensor]:
        block, space = op.body.block, self.space(op.extents)
        known: dict[SSAValue, Named] = dict(zip(block.args, self.elements(op, operands, space), strict=True))
        wanted = [y for yielded in op.yields for y in yielded]
        values = evaluate_region(block, known, wanted, symbol_values(space, self.sizes))
        results = []
        for n, (combiner, yielded) in enumerate(zip(op.combiner_names, op.yields, strict=True)):
            ranks = op.out_ranks(n)
            mapped = [values[y].spread(ranks, space) for y in yielded]
            exclusive, reverse = op.exclusive is not None, op.reversed is not None
            results.append(running(combiner, mapped, ranks.index(op.over.data), exclusive, reverse))
        return results

    def at(self, indices: Sequence[Tensor], accesses: Sequence[AccessMap], space: Space) -> dict[str, Named]:
        """What every symbol stands for, the values of index tensors among them."""
        table = symbol_values(space, self.sizes)
        read = [read_elements(t, a.data, space, table)[0] for t, a in zip(indices, accesses, strict=True)]
        return {**table, **{cascade.slot(n).name: named for n, named in enumerate(read)}}

    def gather(self, op: cascade.GatherOp, operands: Sequence[Tensor]) -> Tensor:
        source, *indices = operands
        space = self.space(op.ranks.extents)
        table = self.at(indices, op.index_accesses.data, space)
        access = _counted(op.source_access, source.shape, table, len(indices))
        return read_elements(source, access, space, table)[0].spread(op.ranks.names, space)

    def scatter(self, op: cascade.ScatterOp, operands: Sequence[Tensor]) -> Tensor:
        count, slots, block = len(op.inputs), len(op.indices), op.body.block
        space = self.space(op.ranks.extents)
        known: dict[SSAValue, Named] = dict(zip(block.args, self.elements(op, operands[:count], space), strict=True))
        value = evaluate_region(block, known, [op.yielded], symbol_values(space, self.sizes))[op.yielded]
        kind = cast(TensorType, op.result.type)
        shape = [size_of(e, self.sizes) for e in kind.dims]
        table = self.at(operands[count : count + slots], op.index_accesses.data, space)
        at = [index_value(e, table) for e in _counted(op.out_access, shape, table, slots)]
        for dim, (index, size) in enumerate(zip(at, shape, strict=True)):
            outside = (index.tensor < 0) | (index.tensor >= size)
            if bool(outside.any()):
                raise InvalidArgument(
                    f"cascade.scatter writes at {int(index.tensor[outside][0])} in dimension {dim}, which has {size}"
                )
        ranks = op.ranks.names
        if op.init is not None:
            start = operands[-1]
        else:
            dtype = reference_dtype(kind.element_type)
            start = torch.full(shape, identity_of(op.combiner.data, dtype), dtype=dtype)
        return scattered(op.combiner.data, start, [i.spread(ranks, space) for i in at], value.spread(ranks, space))

    def extern(self, op: cascade.ExternOp, operands: Sequence[Tensor]) -> list[Tensor]:
        results = call_extern(op.target.data, operands, op.arguments.data if op.arguments else None, self.sizes)
        if len(results) != len(op.results):
            raise InternalCompilerError(f"{op.target.data} gives {len(results)} tensors, not {len(op.results)}")
        shapes = [cast(TensorType, r.type).shape for r in op.results]
        self.sizes = infer_from(shapes, results, self.sizes)
        return [to_reference(r) for r in results]

    # Online operations.  A state is one tensor a result, over that result's ranks.

    def online(self, op: cascade.OnlineOp, operands: Sequence[Tensor]) -> list[Tensor]:
        space = self.space(op.extents)
        identity = [
            torch.full([len(space[r]) for r in op.out_ranks(n)], start, dtype=dtype)
            for n, combiner in enumerate(op.combiner_names)
            for dtype in [reference_dtype(cast(TensorType, op.results[n].type).element_type)]
            for start in [0 if combiner in EXTREMES else identity_of(combiner, dtype)]
        ]
        for n in _keys(op):  # behind the results, the extremes whose places are kept
            kind = reference_dtype(op.yields[n].type)
            extreme = identity_of(EXTREMES[op.combiner_names[n]], kind)
            identity.append(torch.full(identity[n].shape, extreme, dtype=kind))
        pieces = [{**space, op.over.data: part} for part in self.pieces(space[op.over.data])]
        if self.merge == "fold":
            state = identity
            for piece in pieces:
                state = self.fold(op, operands, state, piece)
            return state[: len(op.results)]
        states = [self.fold(op, operands, identity, piece) for piece in pieces] or [identity]
        while len(states) > 1:
            first, second, *rest = states
            if self.merge == "sequential":
                states = [self.join(op, operands, first, second, space), *rest]
            else:
                pairs = [states[n : n + 2] for n in range(0, len(states), 2)]
                states = [self.join(op, operands, p[0], p[1], space) if len(p) == 2 else p[0] for p in pairs]
        return states[0][: len(op.results)]

    def pieces(self, whole: range) -> list[range]:
        chunk = self.chunk if self.chunk is not None else max(1, -(-len(whole) // 3))
        lengths = itertools.cycle([chunk] if isinstance(chunk, int) else list(chunk))
        parts = []
        while whole:
            length = max(1, next(lengths))
            parts.append(whole[:length])
            whole = whole[length:]
        return parts

    def fold(self, op: cascade.OnlineOp, operands: Sequence[Tensor], state: list[Tensor], piece: Space) -> list[Tensor]:
        """The state after one more piece of the streamed rank."""
        block = op.step.block
        yields = cast(cascade.YieldOp, block.last_op).values
        count, gauges = len(op.inputs), op.gauge_indices

        def contribution(n: int, at: Mapping[SSAValue, Named], combiner: str = "") -> Tensor:
            def arguments(space: Space) -> dict[SSAValue, Named]:
                here = {value: _within(named, space, piece) for value, named in at.items()}
                return {**dict(zip(block.args, self.elements(op, operands, space), strict=False)), **here}

            kept, over = op.out_ranks(n), (op.over.data,)
            return reduce_region(
                block, arguments, yields[n], combiner or op.combiner_names[n], kept, over, piece, self.sizes
            )

        new, keys = list(state), _keys(op)
        for g in gauges:
            if (k := keys.get(g)) is not None:
                extreme = contribution(g, {}, EXTREMES[op.combiner_names[g]])
                found = contribution(g, {}), extreme
                new[g], new[k] = _better(op.combiner_names[g], (state[g], state[k]), found)
            else:
                new[g] = combine_values(op.combiner_names[g], state[g], contribution(g, {}))
        moved = self.transport(op, operands, state, new, piece)
        at: dict[SSAValue, Named] = dict(zip(block.args[count:], self.guarded(op, new), strict=True))
        for n in range(len(op.results)):
            if n not in gauges:
                new[n] = combine_values(op.combiner_names[n], moved[n], contribution(n, at))
        return new

    def join(
        self, op: cascade.OnlineOp, operands: Sequence[Tensor], a: list[Tensor], b: list[Tensor], space: Space
    ) -> list[Tensor]:
        """Two partial states as one: each transported to the combined gauge, then combined."""
        combined, keys = list(a), _keys(op)
        for n in op.gauge_indices:
            if (k := keys.get(n)) is not None:
                combined[n], combined[k] = _better(op.combiner_names[n], (a[n], a[k]), (b[n], b[k]))
            else:
                combined[n] = combine_values(op.combiner_names[n], a[n], b[n])
        a, b = (self.transport(op, operands, part, combined, space) for part in (a, b))
        for n in range(len(op.results)):
            if n not in op.gauge_indices:
                combined[n] = combine_values(op.combiner_names[n], a[n], b[n])
        return combined

    def transport(
        self, op: cascade.OnlineOp, operands: Sequence[Tensor], state: list[Tensor], new: list[Tensor], space: Space
    ) -> list[Tensor]:
        """The accumulators of `state`, re-expressed in the gauges of `new`."""
        block = op.transport.block
        rest = [n for n in range(len(op.results)) if n not in op.gauge_indices]
        old = [Named(state[g], op.out_ranks(g)) for g in op.gauge_indices]
        accumulators = [Named(state[n], op.out_ranks(n)) for n in rest]
        elements = self.elements(op, operands, space) if op.row_inputs else []
        bound = [*old, *self.guarded(op, new), *accumulators, *(elements[n] for n in op.row_inputs)]
        known: dict[SSAValue, Named] = dict(zip(block.args, bound, strict=True))
        yields = cast(cascade.YieldOp, block.last_op).values
        values = evaluate_region(block, known, yields, symbol_values({}, self.sizes))
        moved = list(state)
        for n, y in zip(rest, yields, strict=True):
            moved[n] = values[y].spread(op.out_ranks(n), space)
        return moved

    def guarded(self, op: cascade.OnlineOp, state: list[Tensor]) -> list[Named]:
        """The gauges as `step` and `transport` see the new ones: 0 where a max is -inf or a min is +inf."""
        seen = []
        for g in op.gauge_indices:
            value = state[g]
            if value.is_floating_point() and op.combiner_names[g] in ("max", "min"):
                value = torch.where(value == identity_of(op.combiner_names[g], value.dtype), 0.0, value)
            seen.append(Named(value, op.out_ranks(g)))
        return seen


def _keys(op: cascade.OnlineOp) -> dict[int, int]:
    """Where in a state the extreme behind each index is."""
    places = [g for g in op.gauge_indices if op.combiner_names[g] in EXTREMES]
    return {g: len(op.results) + n for n, g in enumerate(places)}


def _better(combiner: str, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The better of two (index, extreme) pairs; the first on a tie; NaN is better than any number."""
    (i, x), (j, y) = a, b
    take = (y > x) if combiner == "argmax" else (y < x)
    take = take | ((y != y) & (x == x))
    return torch.where(take, j, i), torch.where(take, y, x)


def _within(named: Named, space: Space, whole: Space) -> Named:
    """A value over the ranks of `whole`, at the part of them that is `space`."""
    tensor = named.tensor
    for dim, r in enumerate(named.ranks):
        tensor = tensor.narrow(dim, space[r].start - whole[r].start, len(space[r]))
    return Named(tensor, named.ranks)


def _counted(access: AccessMap, shape: Sequence[int], table: dict[str, Named], slots: int) -> list[sympy.Expr]:
    """The access with entries that are just an index tensor counted from the end where negative; adds to `table`."""
    counted: list[sympy.Expr] = []
    for dim, e in enumerate(access.data):
        if e in {cascade.slot(n) for n in range(slots)}:
            named, name = table[cast(sympy.Symbol, e).name], f"index of dimension {dim}"
            index = named.tensor
            table[name] = Named(torch.where(index < 0, index + shape[dim], index), named.ranks)
            e = symbols.symbol(name)
        counted.append(e)
    return counted
