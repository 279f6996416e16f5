"""The reference interpreter: what a program means, in float64 torch.  It is the oracle of every pass.

`run_program` runs the `cascade` dialect, `run_kernel` one kernel of the `tile` dialect.  All floats are float64, all
integers int64, booleans bool: nothing is rounded to a storage type.  Values inside a region are tensors with *named*
ranks that broadcast by name, so `x[i, d] * w[d]` never holds a rank that it does not depend on.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import sympy
import torch
from torch import Tensor
from xdsl.dialects.builtin import f64, i1, i64
from xdsl.ir import Attribute, Block, Operation, SSAValue

from ..errors import InternalCompilerError, InvalidArgument
from . import cascade, scalar, symbols, tile
from .attributes import AccessMap, TensorType, compute_type, is_float

Merge = Literal["fold", "sequential", "tree"]
Space = dict[str, range]  # the coordinates that each rank takes here

BIG = 1 << 24  # a reduction over more points than this is evaluated in halves of its output


@dataclass(frozen=True)
class Named:
    """A tensor whose dimensions are ranks."""

    tensor: Tensor
    ranks: tuple[str, ...]

    def over(self, order: Sequence[str]) -> Tensor:
        """The tensor with its ranks in `order`; ranks that it does not depend on get length 1."""
        present = [r for r in order if r in self.ranks]
        if len(present) != len(self.ranks):
            raise InternalCompilerError(f"a value over {list(self.ranks)} is needed over {list(order)}")
        permuted = self.tensor.permute([self.ranks.index(r) for r in present])
        return permuted[tuple(slice(None) if r in self.ranks else None for r in order)]

    def spread(self, order: Sequence[str], space: Space) -> Tensor:
        """The tensor with its ranks in `order`, repeated along those that it does not depend on."""
        return self.over(order).expand([len(space[r]) for r in order])


def reference_dtype(element: Attribute) -> torch.dtype:
    """The dtype in which the interpreter holds elements of this type: float64, int64 or bool."""
    if is_float(element):
        return torch.float64
    return torch.bool if compute_type(element) == i1 else torch.int64


def to_reference(tensor: Tensor) -> Tensor:
    """`tensor` in float64, int64 or bool, on the CPU."""
    if tensor.dtype.is_complex:
        raise InvalidArgument("the reference interpreter does not know complex numbers")
    if tensor.dtype.is_floating_point:
        return tensor.detach().to("cpu", torch.float64)
    return tensor.detach().to("cpu", tensor.dtype if tensor.dtype == torch.bool else torch.int64)


# --- sizes --------------------------------------------------------------------------------------------------------


def infer_sizes(dims: Sequence[tuple[sympy.Expr, int]], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """The sizes for which every expression has its value.

    A size is found where it is a dimension of its own, or else from `c * size + k`.  Raises InvalidArgument when the
    shapes contradict each other.
    """
    sizes = dict(known or {})
    for expression, value in dims:
        if isinstance(expression, sympy.Symbol):
            sizes.setdefault(expression.name, value)
    for expression, value in dims:
        missing = sorted(symbols.names(expression) - set(sizes))
        if len(missing) == 1:
            linear = symbols.affine(expression.subs({symbols.symbol(n): v for n, v in sizes.items()}), missing)
            if linear is not None:
                sizes[missing[0]] = int((value - linear[1]) / linear[0][missing[0]])
    for expression, value in dims:
        if not symbols.names(expression) - set(sizes) and symbols.evaluate(expression, sizes) != value:
            raise InvalidArgument(
                f"a dimension is {value}, but {symbols.to_text(expression)} is "
                f"{symbols.evaluate(expression, sizes)} here"
            )
    return sizes


def _infer(shapes: Sequence[AccessMap], tensors: Sequence[Tensor], known: Mapping[str, int] | None) -> dict[str, int]:
    if len(shapes) != len(tensors):
        raise InvalidArgument(f"{len(shapes)} tensors are needed, {len(tensors)} given")
    dims: list[tuple[sympy.Expr, int]] = []
    for n, (shape, tensor) in enumerate(zip(shapes, tensors, strict=True)):
        if len(shape.data) != tensor.dim():
            raise InvalidArgument(f"tensor {n} has {tensor.dim()} dimensions, {len(shape.data)} are declared")
        dims += zip(shape.data, tensor.shape, strict=True)
    return infer_sizes(dims, known)


def _number(expression: sympy.Expr, sizes: Mapping[str, int]) -> int:
    try:
        return symbols.evaluate(expression, sizes)
    except KeyError as error:
        text = symbols.to_text(expression)
        raise InternalCompilerError(f"{text} needs {error.args[0]}, which has no value") from None


# --- index expressions and accesses -------------------------------------------------------------------------------


def _coordinates(space: Space, sizes: Mapping[str, int]) -> dict[str, Named]:
    """What every symbol of an index expression stands for."""
    table = {name: Named(torch.tensor(value), ()) for name, value in sizes.items()}
    table.update({r: Named(torch.arange(p.start, p.stop), (r,)) for r, p in space.items()})
    return table


def _index(e: sympy.Expr, table: Mapping[str, Named]) -> Named:
    """The value of an index expression at every point of the ranks that it depends on."""
    if e.is_Integer:
        return Named(torch.tensor(int(e)), ())
    if isinstance(e, sympy.Symbol):
        if e.name not in table:
            raise InternalCompilerError(f"the symbol {e.name} has no value here")
        return table[e.name]
    if isinstance(e, sympy.floor | sympy.ceiling):
        top, bottom = (_index(x, table) for x in symbols.fraction(e))
        if isinstance(e, sympy.floor):
            return _apply(lambda a, b: a.div(b, rounding_mode="floor"), top, bottom)
        return _apply(lambda a, b: -(-a).div(b, rounding_mode="floor"), top, bottom)
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
            first, *rest = (_index(cast(sympy.Expr, a), table) for a in e.args)
            for other in rest:
                first = _apply(function, first, other)
            return first
    raise InternalCompilerError(f"{e} is not an index expression")


def _apply(function: Callable, *operands: Named) -> Named:
    """`function` elementwise; ranks broadcast by name."""
    ranks = tuple(dict.fromkeys(r for o in operands for r in o.ranks))
    return Named(function(*(o.over(ranks) for o in operands)), ranks)


def _read(source: Tensor, access: Sequence[sympy.Expr], space: Space, table: Mapping[str, Named]) -> tuple[Named, bool]:
    """The accessed elements, zero outside the tensor's bounds, and whether any access was outside."""
    view = _read_plain(source, access, space, table)
    if view is not None:
        return view, False
    index = [_index(e, table) for e in access]
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
            index = _index(e, table)
            if index.ranks or not 0 <= int(index.tensor) < size:
                return None
            view = view.select(len(ranks), int(index.tensor))
    return Named(view, tuple(ranks))


# --- regions and reductions ---------------------------------------------------------------------------------------


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
    }
    return table.get(name) or getattr(torch, name)


def _evaluate(block: Block, known: Mapping[SSAValue, Named], wanted: Iterable[SSAValue], table: Mapping[str, Named]):
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
            values[op.result] = _index(op.expr, table)
        elif name == scalar.CONSTANT:
            values[op.results[0]] = _constant(scalar.constant_value(op), op.results[0].type)
        elif name is not None:
            if any(o not in values for o in op.operands):
                raise InternalCompilerError(f"{op.name} uses a value not known here (a gauge that needs gauges?)")
            values[op.results[0]] = _apply(torch_function(name), *(values[o] for o in op.operands))
        else:
            raise InternalCompilerError(f"the reference interpreter does not know {op.name} in a region")
    for value in wanted:
        if value not in values:
            raise InternalCompilerError("a region yields a value not known here (a gauge that needs gauges?)")
    return values


def _constant(value: float | int | bool, element: Attribute) -> Named:
    return Named(torch.tensor(value, dtype=reference_dtype(element)), ())


def _factors(value: SSAValue) -> list[SSAValue]:
    """The values whose product `value` is."""
    op = value.owner
    if isinstance(op, Operation) and scalar.name_of(op) in ("mul", "imul"):
        return [f for o in op.operands for f in _factors(o)]
    return [value]


def _reduce_region(
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
    table = _coordinates(space, sizes)
    known = arguments(space)
    factors = _factors(yielded)
    if combiner == "sum" and len(factors) > 1:
        values = _evaluate(block, known, factors, table)
        contracted = _contract([values[f] for f in factors], kept, reduced, space)
        if contracted is not None:
            return contracted
    points = math.prod(len(space[r]) for r in (*kept, *reduced))
    if reduced and points > BIG and any(len(space[r]) > 1 for r in kept):
        widest = max(kept, key=lambda r: len(space[r]))
        whole, middle = space[widest], len(space[widest]) // 2
        halves = [
            _reduce_region(block, arguments, yielded, combiner, kept, reduced, {**space, widest: part}, sizes)
            for part in (whole[:middle], whole[middle:])
        ]
        return torch.cat(halves, kept.index(widest))
    value = _evaluate(block, known, [yielded], table)[yielded]
    return _reduce(combiner, value, kept, reduced, space)


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


def _reduce(combiner: str, value: Named, kept: tuple[str, ...], reduced: tuple[str, ...], space: Space) -> Tensor:
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
        return torch.full([len(space[r]) for r in kept], _identity(combiner, x.dtype), dtype=x.dtype)
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


def _combine(combiner: str, a: Tensor, b: Tensor) -> Tensor:
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


def _identity(combiner: str, dtype: torch.dtype) -> float | int | bool:
    return scalar.identity(combiner, {torch.float64: f64, torch.int64: i64, torch.bool: i1}[dtype])


# --- cascade ------------------------------------------------------------------------------------------------------


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
    run = _Run(_infer(shapes, tensors, sizes), chunk, merge)
    return run.block(program.body.block, [to_reference(t) for t in tensors])


class _Run:
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
            elif isinstance(op, cascade.GatherOp):
                results = [self.gather(op, operands)]
            elif isinstance(op, cascade.ExternOp):
                results = self.extern(op, operands)
            elif isinstance(op, cascade.KernelOp):
                results = self.block(op.body.block, operands)
            else:
                raise InternalCompilerError(f"the reference interpreter does not know {op.name}")
            values.update(zip(op.results, results, strict=True))
        raise InternalCompilerError("a block does not end in cascade.return")

    def space(self, ranks: Mapping[str, sympy.Expr]) -> Space:
        return {r: range(_number(extent, self.sizes)) for r, extent in ranks.items()}

    def elements(
        self, op: cascade.EinsumOp | cascade.OnlineOp, operands: Sequence[Tensor], space: Space
    ) -> list[Named]:
        """The accessed elements of every input."""
        table = _coordinates(space, self.sizes)
        return [_read(t, a.data, space, table)[0] for t, a in zip(operands, op.accesses.data, strict=True)]

    def einsum(self, op: cascade.EinsumOp, operands: Sequence[Tensor]) -> list[Tensor]:
        block = op.body.block

        def arguments(space: Space) -> dict[SSAValue, Named]:
            return dict(zip(block.args, self.elements(op, operands, space), strict=True))

        space = self.space(op.extents)
        return [
            _reduce_region(block, arguments, y, combiner, op.out_ranks(n), op.reduced, space, self.sizes)
            for n, (combiner, y) in enumerate(zip(op.combiner_names, op.yields, strict=True))
        ]

    def gather(self, op: cascade.GatherOp, operands: Sequence[Tensor]) -> Tensor:
        source, *indices = operands
        space = self.space(op.ranks.extents)
        table = _coordinates(space, self.sizes)
        for n, (tensor, access) in enumerate(zip(indices, op.index_accesses.data, strict=True)):
            table[op.slot(n).name] = _read(tensor, access.data, space, _coordinates(space, self.sizes))[0]
        slots = {op.slot(n) for n in range(len(indices))}
        accessed: list[sympy.Expr] = []
        for dim, e in enumerate(op.source_access.data):
            if e in slots:  # a negative index counts from the end
                named, counted = table[cast(sympy.Symbol, e).name], symbols.symbol(f"index of dimension {dim}")
                index = named.tensor
                table[counted.name] = Named(torch.where(index < 0, index + source.shape[dim], index), named.ranks)
                e = counted
            accessed.append(e)
        return _read(source, accessed, space, table)[0].spread(op.ranks.names, space)

    def extern(self, op: cascade.ExternOp, operands: Sequence[Tensor]) -> list[Tensor]:
        results = call_extern(op.target.data, operands, op.arguments.data if op.arguments else None, self.sizes)
        if len(results) != len(op.results):
            raise InternalCompilerError(f"{op.target.data} gives {len(results)} tensors, not {len(op.results)}")
        shapes = [cast(TensorType, r.type).shape for r in op.results]
        self.sizes = _infer(shapes, results, self.sizes)
        return [to_reference(r) for r in results]

    # Online operations.  A state is one tensor a result, over that result's ranks.

    def online(self, op: cascade.OnlineOp, operands: Sequence[Tensor]) -> list[Tensor]:
        space = self.space(op.extents)
        identity = [
            torch.full([len(space[r]) for r in op.out_ranks(n)], _identity(combiner, dtype), dtype=dtype)
            for n, combiner in enumerate(op.combiner_names)
            for dtype in [reference_dtype(cast(TensorType, op.results[n].type).element_type)]
        ]
        pieces = [{**space, op.over.data: part} for part in self.pieces(space[op.over.data])]
        if self.merge == "fold":
            state = identity
            for piece in pieces:
                state = self.fold(op, operands, state, piece)
            return state
        states = [self.fold(op, operands, identity, piece) for piece in pieces] or [identity]
        while len(states) > 1:
            first, second, *rest = states
            if self.merge == "sequential":
                states = [self.join(op, first, second, space), *rest]
            else:
                pairs = [states[n : n + 2] for n in range(0, len(states), 2)]
                states = [self.join(op, p[0], p[1], space) if len(p) == 2 else p[0] for p in pairs]
        return states[0]

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

        def contribution(n: int, at: Mapping[SSAValue, Named]) -> Tensor:
            def arguments(space: Space) -> dict[SSAValue, Named]:
                here = {value: _within(named, space, piece) for value, named in at.items()}
                return {**dict(zip(block.args, self.elements(op, operands, space), strict=False)), **here}

            kept, over = op.out_ranks(n), (op.over.data,)
            return _reduce_region(block, arguments, yields[n], op.combiner_names[n], kept, over, piece, self.sizes)

        new = list(state)
        for g in gauges:
            new[g] = _combine(op.combiner_names[g], state[g], contribution(g, {}))
        moved = self.transport(op, state, new, piece)
        at: dict[SSAValue, Named] = dict(zip(block.args[count:], self.guarded(op, new), strict=True))
        for n in range(len(state)):
            if n not in gauges:
                new[n] = _combine(op.combiner_names[n], moved[n], contribution(n, at))
        return new

    def join(self, op: cascade.OnlineOp, a: list[Tensor], b: list[Tensor], space: Space) -> list[Tensor]:
        """Two partial states as one: each transported to the combined gauge, then combined."""
        combined = [_combine(c, x, y) for c, x, y in zip(op.combiner_names, a, b, strict=True)]
        a, b = self.transport(op, a, combined, space), self.transport(op, b, combined, space)
        return [
            combined[n] if n in op.gauge_indices else _combine(op.combiner_names[n], a[n], b[n]) for n in range(len(a))
        ]

    def transport(self, op: cascade.OnlineOp, state: list[Tensor], new: list[Tensor], space: Space) -> list[Tensor]:
        """The accumulators of `state`, re-expressed in the gauges of `new`."""
        block = op.transport.block
        rest = [n for n in range(len(state)) if n not in op.gauge_indices]
        old = [Named(state[g], op.out_ranks(g)) for g in op.gauge_indices]
        accumulators = [Named(state[n], op.out_ranks(n)) for n in rest]
        bound = [*old, *self.guarded(op, new), *accumulators]
        known: dict[SSAValue, Named] = dict(zip(block.args, bound, strict=True))
        yields = cast(cascade.YieldOp, block.last_op).values
        values = _evaluate(block, known, yields, _coordinates({}, self.sizes))
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
                value = torch.where(value == _identity(op.combiner_names[g], value.dtype), 0.0, value)
            seen.append(Named(value, op.out_ranks(g)))
        return seen


def _within(named: Named, space: Space, whole: Space) -> Named:
    """A value over the ranks of `whole`, at the part of them that is `space`."""
    tensor = named.tensor
    for dim, r in enumerate(named.ranks):
        tensor = tensor.narrow(dim, space[r].start - whole[r].start, len(space[r]))
    return Named(tensor, named.ranks)


def call_extern(
    target: str, tensors: Sequence[Tensor], arguments: str | None, sizes: Mapping[str, int]
) -> list[Tensor]:
    """Call an ATen operator by its name, `aten.topk.default` or `aten.topk`; see `cascade.ExternOp` for `arguments`."""
    namespace, *path = target.removeprefix("torch.ops.").split(".")
    function: Any = getattr(torch.ops, namespace)
    try:
        for part in path:
            function = getattr(function, part)
    except AttributeError:
        raise InternalCompilerError(f"cascade.extern calls {target}, and torch has no such operator") from None
    if not path or not callable(function):
        raise InternalCompilerError(f"cascade.extern calls {target}, which is not an operator")
    read: Any = json.loads(arguments) if arguments is not None else [{"tensor": n} for n in range(len(tensors))]
    given: dict[str, Any] = {"args": read} if isinstance(read, list) else read

    def value(x: Any) -> Any:
        if isinstance(x, list):
            return [value(y) for y in x]
        if not isinstance(x, dict):
            return x
        match list(x.items()):
            case [("tensor", n)]:
                return tensors[n]
            case [("size", text)]:
                return _number(symbols.from_text(text), sizes)
            case [("float", text)]:
                return float(text)
            case [("dtype", name)]:
                dtype = getattr(torch, name)
                return torch.float64 if dtype.is_floating_point else dtype
            case [("device" | "layout" | "memory_format", _)]:
                return None
        raise InternalCompilerError(f"cascade.extern {target}: cannot read the argument {json.dumps(x)}")

    result = function(*value(given.get("args", [])), **{k: value(v) for k, v in given.get("kwargs", {}).items()})
    results = result if isinstance(result, list | tuple) else [result]
    return [r if isinstance(r, Tensor) else torch.tensor(r) for r in results]


# --- tile ---------------------------------------------------------------------------------------------------------


def run_kernel(
    kernel: tile.KernelOp,
    inputs: Sequence[Tensor],
    sizes: Mapping[str, int] | None = None,
    *,
    params: Mapping[str, int] | None = None,
    outputs: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The buffers that a kernel writes, in float64, int64 and bool: every program of the grid, one after another.

    `inputs` have the buffers' logical shapes; the strides in the buffers' types are ignored.  `params` overrides the
    kernel's parameters.  Outputs start as `outputs`, or else as NaN (-1, False), so that what is never written shows.
    Tiles are cut at their ranks' extents; an access outside its buffer is an InternalCompilerError, unless it is a
    load marked `checked`.
    """
    declared = [cast(tile.BufferType, v.type) for v in kernel.inputs]
    bound = _infer([t.shape for t in declared], inputs, sizes)
    values: dict[SSAValue, Tensor] = dict(zip(kernel.inputs, [to_reference(t) for t in inputs], strict=True))
    for n, value in enumerate(kernel.written):
        kind = cast(tile.BufferType, value.type)
        dtype = reference_dtype(kind.element_type)
        shape = [_number(e, bound) for e in kind.shape.data]
        unwritten = {torch.float64: math.nan, torch.int64: -1, torch.bool: False}[dtype]
        start = to_reference(outputs[n]).clone() if outputs is not None else torch.full(shape, unwritten, dtype=dtype)
        values[value] = start
    tiles = {**kernel.parameters, **(params or {})}
    _Program.run_grid(kernel, values, {**tiles, **bound}, tiles)
    return [values[v] for v in kernel.written]


class _Program:
    """One program of a kernel's grid.  A tile has exactly the ranks of its type, cut at their extents."""

    @staticmethod
    def run_grid(kernel: tile.KernelOp, buffers: dict[SSAValue, Tensor], sizes: dict[str, int], tiles: dict[str, int]):
        ranks = [kernel.ranks[name] for name in kernel.grid_ranks]
        extents = [_number(r.extent, sizes) for r in ranks]
        steps = [tiles[r.tile] if r.tile else 1 for r in ranks]
        for starts in itertools.product(*(range(0, e, s) for e, s in zip(extents, steps, strict=True))):
            space: Space = {}
            here = dict(sizes)
            for rank, extent, step, start in zip(ranks, extents, steps, starts, strict=True):
                here[rank.name] = start
                if rank.role == "grid":
                    space[rank.name] = range(start, min(start + step, extent))
            for rank in kernel.ranks.data:
                if rank.role == "whole":
                    space[rank.name] = range(_number(rank.extent, here))
            _Program(kernel, buffers, here, tiles).block(kernel.body.block, {}, space)

    def __init__(
        self, kernel: tile.KernelOp, buffers: dict[SSAValue, Tensor], sizes: dict[str, int], tiles: dict[str, int]
    ):
        self.kernel = kernel
        self.buffers = buffers
        self.sizes = sizes  # sizes, parameters, the value of a unit rank, the first index of a grid or loop rank
        self.tiles = tiles

    def block(self, block: Block, values: dict[SSAValue, Tensor], space: Space) -> list[Tensor]:
        """Run a block; the values that it yields."""
        for op in block.ops:
            if isinstance(op, tile.ReturnOp):
                return []
            if isinstance(op, tile.YieldOp):
                return [values[v] for v in op.values]
            if isinstance(op, tile.StoreOp):
                self.store(op, self.named(op.value, values), space)
                continue
            if isinstance(op, tile.ForOp):
                results = self.loop(op, values, space)
            else:
                results = [
                    n.spread(tile.tile_type(r).names, space)
                    for n, r in zip(self.compute(op, values, space), op.results, strict=True)
                ]
            values.update(zip(op.results, results, strict=True))
        raise InternalCompilerError("a block does not end in tile.yield or tile.return")

    def named(self, value: SSAValue, values: Mapping[SSAValue, Tensor]) -> Named:
        return Named(values[value], tile.tile_type(value).names)

    def compute(self, op: Operation, values: Mapping[SSAValue, Tensor], space: Space) -> list[Named]:
        """The results of an operation without effects."""
        if isinstance(op, tile.LoadOp):
            loaded, outside = _read(self.buffers[op.buffer], op.access.data, space, self.table(space))
            if outside and op.checked is None:
                raise InternalCompilerError(f"tile.load {op.access.text()} reads outside its buffer; mark it checked")
            return [loaded]
        if isinstance(op, tile.IndexOp):
            return [_index(op.expr, self.table(space))]
        if isinstance(op, tile.FillOp):
            return [_constant(op.python_value, tile.tile_type(op.result).element_type)]
        if isinstance(op, tile.MapOp):
            operands = [self.named(o, values) for o in op.operands]
            return [_apply(torch_function(op.function.data), *operands)]
        if isinstance(op, tile.CastOp):
            value = self.named(op.value, values)
            return [Named(value.tensor.to(reference_dtype(tile.tile_type(op.result).element_type)), value.ranks)]
        if isinstance(op, tile.PadOp):
            return [self.named(op.value, values)]  # a cut tile has no lanes beyond the extent
        if isinstance(op, tile.DotOp):
            return [self.dot(op, values)]
        if isinstance(op, tile.ReduceOp):
            return self.reduce(op, self.named(op.value, values), space)
        raise InternalCompilerError(f"the reference interpreter does not know {op.name}")

    def table(self, space: Space) -> dict[str, Named]:
        return _coordinates(space, self.sizes)

    def dot(self, op: tile.DotOp, values: Mapping[SSAValue, Tensor]) -> Named:
        lhs, rhs = self.named(op.lhs, values), self.named(op.rhs, values)
        out = tile.tile_type(op.result).names
        number = {r: n for n, r in enumerate((*out, op.over.data))}
        left, right, result = ([number[r] for r in ranks] for ranks in (lhs.ranks, rhs.ranks, out))
        total = torch.einsum(lhs.tensor, left, rhs.tensor, right, result)
        return Named(total if op.acc is None else total + values[op.acc], out)

    def reduce(self, op: tile.ReduceOp, value: Named, space: Space) -> list[Named]:
        kept = tuple(r for r in value.ranks if r != op.over.data)
        combiner = op.combiner.data
        if combiner not in ("argmax", "argmin"):
            return [Named(_reduce(combiner, value, kept, (op.over.data,), space), kept)]
        extreme = _reduce(combiner.removeprefix("arg"), value, kept, (op.over.data,), space)
        return [Named(extreme, kept), Named(_reduce(combiner, value, kept, (op.over.data,), space), kept)]

    def loop(self, op: tile.ForOp, values: Mapping[SSAValue, Tensor], space: Space) -> list[Tensor]:
        rank = self.kernel.ranks[op.rank.data]
        step = self.tiles[rank.tile] if rank.tile else 1
        lower, upper = (_number(e, self.sizes) for e in op.bounds)
        extent = _number(rank.extent, self.sizes)
        if lower % step:
            raise InternalCompilerError(f"tile.for {rank.name} starts at {lower}, no multiple of its tile {step}")
        state = [values[v] for v in op.init]
        for start in range(lower, upper, step):
            inner = {**space, rank.name: range(start, max(start, min(start + step, extent)))}
            program = _Program(self.kernel, self.buffers, {**self.sizes, rank.name: start}, self.tiles)
            state = program.block(op.body.block, {**values, **dict(zip(op.body.block.args, state, strict=True))}, inner)
        return state

    def store(self, op: tile.StoreOp, value: Named, space: Space) -> None:
        buffer = self.buffers[op.buffer]
        index = [_index(e, self.table(space)) for e in op.access.data]
        for n, size in zip(index, buffer.shape, strict=True):
            if bool(((n.tensor < 0) | (n.tensor >= size)).any()):
                raise InternalCompilerError(f"tile.store {op.access.text()} writes outside its buffer")
        ranks = tuple(dict.fromkeys(r for n in index for r in n.ranks))
        if index:
            buffer[tuple(n.over(ranks) for n in index)] = value.over(ranks).to(buffer.dtype)
        else:
            buffer.copy_(value.tensor)
