"""From a rewritten program back to the graph: what a pass computes in another way, as ATen nodes.

The graph stays the truth about what runs: a value that no kernel covers is computed by its nodes.  So a pass that makes
new values has them written into the graph, and the graph is imported again.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import BlockArgument, Operation, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import TensorType
from ..ir.cascade import EinsumOp, IndexOp, ProgramOp
from ..ir.digits import Digits, digits
from .edit import Edit, Editor
from .importer import Imported
from .indices import ONE, ZERO, Expr, same
from .sizes import element_type, size

aten = torch.ops.aten


class Unrealisable(Exception):
    """Why an operation has no ATen nodes here."""


Place = tuple[fx.Node, tuple[Digits, ...]]


_FLOATS = {element_type(d): d for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


def trial_of(imported: Imported) -> tuple[ProgramOp, dict[SSAValue, Place]]:
    """A copy of the program, to be rewritten, and the places of its values.

    For each value that a node holds, element for element: the first such node, and what each of its dimensions runs
    through (dimensions v0, v1, … of the value).
    """
    copies: dict[SSAValue, SSAValue] = {}
    program = imported.program.clone(copies)
    found: dict[SSAValue, Place] = {}
    for node, view in imported.views.items():
        value = copies[view.value]
        if value in found or view.inverse is None:
            continue
        assert isinstance(view.value.type, TensorType)
        extents = {f"v{k}": n for k, n in enumerate(view.value.type.dims)}
        runs = [digits(e, extents) for e in view.inverse]
        if all(d is not None and d.start == ZERO for d in runs):
            found[value] = node, tuple(runs)  # type: ignore[assignment]
    return program, found


def realise(
    gm: fx.GraphModule,
    imported: Imported,
    places: Mapping[SSAValue, Place],
    rewrites: Sequence[tuple[SSAValue, Sequence[EinsumOp]]],
    size_names: Mapping[str, str] | None = None,
) -> tuple[fx.GraphModule, Edit, list[int]]:
    """A copy of `gm` in which values are computed by given operations.

    rewrites: (a value of the trial, the operations of which the last one gives it anew), in program order; places: where
    the values of the trial are.
    Also returns the record of the edit, and which rewrites are in it; the others are left as they were.
    """
    return _Realiser(gm, imported, places, size_names or {}).run(rewrites)


class _Realiser:
    def __init__(
        self, gm: fx.GraphModule, imported: Imported, places: Mapping[SSAValue, Place], names: Mapping[str, str]
    ):
        self.imported, self.places, self.size_names = imported, places, names
        self.editor = Editor(gm)
        self.placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
        self.tensor: dict[SSAValue, fx.Node] = {}  # in the layout of the value
        self.stands_for: dict[SSAValue, SSAValue] = {}
        self.before: fx.Node = gm.graph.output_node()

    def run(self, rewrites: Sequence[tuple[SSAValue, Sequence[EinsumOp]]]) -> tuple[fx.GraphModule, Edit, list[int]]:
        done: list[int] = []
        for n, (old, ops) in enumerate(rewrites):
            mark, known = len(self.editor.made), dict(self.tensor)
            try:
                found = self.places.get(old)
                if found is None:
                    raise Unrealisable("no node holds the value")
                self.before = found[0]
                for op in ops:
                    self.tensor[op.results[0]] = self._operation(op)
                new = self._like(self.tensor[ops[-1].results[0]], old, *found)
            except (Unrealisable, RuntimeError, NotImplementedError):
                self.editor.undo(mark)
                self.tensor = known
                self.stands_for[ops[-1].results[0]] = old
            else:
                self.editor.replace(found[0], new)
                done.append(n)
        return *self.editor.finish(), done

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self.editor.call(target, *args, before=self.before, **kwargs)

    # --- values of the program

    def _value(self, value: SSAValue) -> fx.Node:
        """A tensor with the dimensions of `value`."""
        if value not in self.tensor:
            value = self.stands_for.get(value, value)
        if value not in self.tensor:
            found = self.places.get(value)
            if found is None:
                raise Unrealisable("a value has no node")
            node, runs = found
            dims: tuple[Expr, ...] = value.type.dims  # type: ignore[attr-defined]
            flat = [r for d in runs for r in d.ranks]
            x = self._view(node, [dims[int(r[1:])] for r in flat])
            order = sorted(range(len(flat)), key=lambda n: int(flat[n][1:]))
            self.tensor[value] = self._view(self._permute(x, order), dims)
        return self.tensor[value]

    def _like(self, x: fx.Node, value: SSAValue, node: fx.Node, runs: Sequence[Digits]) -> fx.Node:
        """`x`, which holds `value`, in the layout of `node`, strides included."""
        dims: tuple[Expr, ...] = value.type.dims  # type: ignore[attr-defined]
        flat = [r for d in runs for r in d.ranks]
        x = self._view(x, [dims[k] for k in sorted(int(r[1:]) for r in flat)])
        places = sorted(flat, key=lambda r: int(r[1:]))
        x = self._permute(x, [places.index(r) for r in flat])
        old = node.meta["val"]
        x = self._view(x, [d.count for d in runs])
        if self._strides(x) != self._strides(node):
            order = sorted(range(old.dim()), key=lambda k: (-_hint(old.stride(k)), -_hint(old.shape[k]), k))
            x = self._call(aten.clone.default, self._permute(x, order), memory_format=torch.contiguous_format)
            x = self._permute(x, [order.index(k) for k in range(old.dim())])
        if self._strides(x) != self._strides(node) or x.meta["val"].dtype != old.dtype:
            raise Unrealisable("its layout cannot be had")
        if x not in self.editor.made:
            x = self._call(aten.alias.default, x)
        return x

    # --- operations

    def _operation(self, op: EinsumOp) -> fx.Node:
        factors = _two_factors(op)
        if factors is not None:
            a, b = (self._ranked(op, n) for n in factors)
            return self._contraction(op, a, b)
        before = _before(op)
        return self._formula(op) if before is None else self._sum_before(op, *before)

    def _ranked(self, op: EinsumOp, n: int) -> tuple[fx.Node, tuple[str, ...]]:
        """Operand `n` with one dimension a rank, and the ranks."""
        value, access = op.operand_accesses[n]
        x = self._value(value)
        runs: list[Digits] = []
        merged = _merged(access.data, value.type.dims)  # type: ignore[attr-defined]
        if [len(g) for g in merged] != [1] * len(access.data):
            x = self._view(x, [_product(value.type.dims[k] for k in g) for g in merged])  # type: ignore[attr-defined]
        for k, group in enumerate(merged):
            extent = _product(value.type.dims[m] for m in group)  # type: ignore[attr-defined]
            e = access.data[group[0]] if len(group) == 1 else _counted(access.data[group[0]])
            run = digits(e, op.extents)
            if run is None:
                raise Unrealisable(f"the access {access.text()}")
            if not same(run.count, extent):
                start = self._size(run.start)
                x = self._call(aten.slice.Tensor, x, k, start, self._size(sympy.expand(run.start + run.count)))
            runs.append(run)
        names = tuple(r for run in runs for r in run.ranks)
        return self._view(x, [op.extents[r] for r in names]), names

    def _contraction(self, op: EinsumOp, a: tuple[fx.Node, tuple[str, ...]], b: tuple[fx.Node, tuple[str, ...]]):
        (x, left), (y, right) = a, b
        out = op.out_ranks(0)
        batch = [r for r in out if r in left and r in right]
        rows, columns = [r for r in out if r not in right], [r for r in out if r not in left]
        over = [r for r in left if r in right and r not in out]
        if set(left) != {*batch, *rows, *over} or set(right) != {*batch, *columns, *over}:
            raise Unrealisable("a rank is summed on one side only")
        shape = lambda *groups: [_product(op.extents[r] for r in g) for g in groups]  # noqa: E731
        dtype = _FLOATS.get(op.results[0].type.element_type)  # type: ignore[attr-defined]
        # Casts are no operations of their own in the program: the product is in the dtype of its result.
        x, y = (
            z if dtype in (None, z.meta["val"].dtype) else self._call(aten._to_copy.default, z, dtype=dtype)
            for z in (x, y)
        )
        groups = [batch] if batch else []
        x = self._view(self._permute(x, [left.index(r) for r in (*batch, *rows, *over)]), shape(*groups, rows, over))
        y = self._view(
            self._permute(y, [right.index(r) for r in (*batch, *over, *columns)]), shape(*groups, over, columns)
        )
        z = self._call(aten.bmm.default if batch else aten.mm.default, x, y)
        names = [*batch, *rows, *columns]
        z = self._view(z, [op.extents[r] for r in names])
        return self._permute(z, [names.index(r) for r in out])

    def _sum_before(self, op: EinsumOp, over: str, here: str) -> fx.Node:
        """Sums of all earlier elements: a running sum, moved by one."""
        x, names = self._ranked(op, 0)
        out = op.out_ranks(0)
        order = [names.index(over if r == here else r) for r in out]
        place = out.index(here)
        x = self._call(aten.cumsum.default, self._permute(x, order), place)
        x = self._call(aten.slice.Tensor, x, place, 0, -1)
        padding = [0, 0] * (len(out) - 1 - place) + [1, 0]
        return self._call(aten.constant_pad_nd.default, x, padding, 0.0)

    def _formula(self, op: EinsumOp) -> fx.Node:
        """Any map, or a plain sum of one: the operands spread over all ranks, the region node by node."""
        names = [*op.out_ranks(0), *op.reduced]
        known: dict[SSAValue, Any] = {}
        for n, argument in enumerate(op.body.block.args):
            x, own = self._ranked(op, n)
            x = self._widened(x, op.results[0])
            x = self._permute(x, sorted(range(len(own)), key=lambda k: names.index(own[k])))
            known[argument] = self._view(x, [op.extents[r] if r in own else ONE for r in names])
        result = self._scalar(op.yields[0], op, names, known)
        shape = [op.extents[r] for r in names]
        if not isinstance(result, fx.Node):
            raise Unrealisable("a constant")
        if self._expressions(result.meta["val"].shape) != shape:
            result = self._call(aten.expand.default, result, [self._size(n) for n in shape])
        if op.combiner_names[0] in _REDUCTIONS and op.reduced:
            kept = len(op.out_ranks(0))
            result = self._call(_REDUCTIONS[op.combiner_names[0]], result, list(range(kept, len(names))))
        elif op.combiner_names[0] != "map":
            raise Unrealisable(f"the combiner {op.combiner_names[0]}")
        return result

    def _widened(self, x: fx.Node, result: SSAValue) -> fx.Node:
        """`x` in full precision where the result is: arithmetic on 16 bits would round it."""
        full = isinstance(result.type.element_type, Float32Type)  # type: ignore[attr-defined]
        if full and x.meta["val"].dtype in (torch.float16, torch.bfloat16):
            return self._call(aten._to_copy.default, x, dtype=torch.float32)
        return x

    def _scalar(self, value: SSAValue, op: EinsumOp, names: Sequence[str], known: dict[SSAValue, Any]) -> Any:
        if value not in known:
            known[value] = self._compute(value, op, names, known)
        return known[value]

    def _compute(self, value: SSAValue, op: EinsumOp, names: Sequence[str], known: dict[SSAValue, Any]) -> Any:
        assert not isinstance(value, BlockArgument)
        inner = value.owner
        assert isinstance(inner, Operation)
        if isinstance(inner, IndexOp):
            return self._positions(inner.expr, op, names)
        name = scalar.name_of(inner)
        if name == scalar.CONSTANT:
            return scalar.constant_value(inner)
        args = [self._scalar(o, op, names, known) for o in inner.operands]
        if name in ("widen", "narrow"):
            return args[0]
        if name == "select" and args[2] == 0.0 and isinstance(args[0], fx.Node) and isinstance(args[1], fx.Node):
            return self._call(aten.masked_fill.Scalar, args[1], self._call(aten.logical_not.default, args[0]), 0.0)
        if name == "select" and args[1] == 0.0 and isinstance(args[0], fx.Node) and isinstance(args[2], fx.Node):
            return self._call(aten.masked_fill.Scalar, args[2], args[0], 0.0)
        if name == "bool_to_float" and isinstance(args[0], fx.Node):
            if all(_scales(u.operation, value) for u in value.uses):
                return args[0]
            return self._call(aten._to_copy.default, args[0], dtype=self.before.meta["val"].dtype)
        target = _FUNCTIONS.get(name or "")
        if target is None or not args or not isinstance(args[0], fx.Node):
            if name in ("add", "mul") and len(args) == 2 and isinstance(args[1], fx.Node):
                return self._call(_FUNCTIONS[name], args[1], args[0])
            raise Unrealisable(f"the function {name}")
        if len(args) == 2 and not isinstance(args[1], fx.Node):
            target = target.overloadpacket.Scalar
        return self._call(target, *args)

    def _positions(self, e: Expr, op: EinsumOp, names: Sequence[str]) -> fx.Node:
        if not isinstance(e, sympy.Symbol) or e.name not in names:
            raise Unrealisable(f"the index {e}")
        device = self.before.meta["val"].device
        x = self._call(aten.arange.default, self._size(op.extents[e.name]), device=device, pin_memory=False)
        return self._view(x, [op.extents[e.name] if r == e.name else ONE for r in names])

    # --- shapes

    def _expressions(self, sizes: Sequence[Any]) -> list[Expr]:
        return [size(n, self.size_names) for n in sizes]

    def _strides(self, node: fx.Node) -> list[Expr]:
        """Strides of the dimensions that are longer than one."""
        x = node.meta["val"]
        pairs = zip(self._expressions(x.shape), self._expressions(x.stride()), strict=True)
        return [stride for n, stride in pairs if n != ONE]

    def _permute(self, x: fx.Node, order: Sequence[int]) -> fx.Node:
        return x if list(order) == list(range(len(order))) else self._call(aten.permute.default, x, list(order))

    def _view(self, x: fx.Node, shape: Sequence[Expr]) -> fx.Node:
        if self._expressions(x.meta["val"].shape) == list(shape):
            return x
        wanted = [self._size(n) for n in shape]
        mark = len(self.editor.made)
        try:
            return self._call(aten.view.default, x, wanted)
        except (RuntimeError, ValueError):
            self.editor.undo(mark)
            x = self._call(aten.clone.default, x, memory_format=torch.contiguous_format)
            return self._call(aten.view.default, x, wanted)

    def _size(self, e: Expr) -> int | fx.Node:
        """A size expression as an argument of a node."""
        if e.is_Integer:
            return int(e)
        if isinstance(e, sympy.Symbol):
            source = self.imported.sizes.get(e.name)
            if source is None:
                raise Unrealisable(f"the size {e}")
            node = self.placeholders[source.placeholder]
            return node if source.dim is None else self._call(aten.sym_size.int, node, source.dim)
        if isinstance(e, sympy.Add | sympy.Mul):
            total, *rest = (self._size(a) for a in e.args)  # type: ignore[arg-type]
            for part in rest:
                total = self._call(operator.add if isinstance(e, sympy.Add) else operator.mul, total, part)
            return total
        raise Unrealisable(f"the size {e}")


_FUNCTIONS: dict[str, Any] = {
    "add": aten.add.Tensor,
    "sub": aten.sub.Tensor,
    "mul": aten.mul.Tensor,
    "div": aten.div.Tensor,
    "neg": aten.neg.default,
    "lt": aten.lt.Tensor,
    "le": aten.le.Tensor,
    "gt": aten.gt.Tensor,
    "ge": aten.ge.Tensor,
    "ieq": aten.eq.Tensor,
    "ine": aten.ne.Tensor,
    "ile": aten.le.Tensor,
    "ilt": aten.lt.Tensor,
    "ige": aten.ge.Tensor,
    "igt": aten.gt.Tensor,
}

_REDUCTIONS: dict[str, Any] = {"sum": aten.sum.dim_IntList, "max": aten.amax.default, "min": aten.amin.default}


def _scales(op: Operation, value: SSAValue) -> bool:
    """Whether `op` multiplies a number by `value`, which may then be a boolean as well."""
    owners = [o.owner for o in op.operands if o is not value]
    booleans = [o for o in owners if isinstance(o, Operation) and scalar.name_of(o) == "bool_to_float"]
    return scalar.name_of(op) == "mul" and bool(owners) and not booleans


def _two_factors(op: EinsumOp) -> tuple[int, int] | None:
    """The two operands of a sum of their products."""
    if op.combiner_names[0] != "sum" or not isinstance(op.yields[0].owner, Operation) or len(op.inputs) != 2:
        return None
    product = op.yields[0].owner
    if scalar.name_of(product) != "mul" or set(product.operands) != set(op.body.block.args):
        return None
    return 0, 1


def _before(op: EinsumOp) -> tuple[str, str] | None:
    """(b, a) of a sum over all b < a of one operand's elements at b, with a in the place of b in the result."""
    if op.combiner_names[0] != "sum" or len(op.inputs) != 1 or len(op.reduced) != 1:
        return None
    chosen = op.yields[0].owner
    if not isinstance(chosen, Operation) or scalar.name_of(chosen) != "select":
        return None
    condition, value, other = chosen.operands
    test, zero = condition.owner, other.owner
    if value is not op.body.block.args[0] or not isinstance(test, Operation) or not isinstance(zero, Operation):
        return None
    if scalar.name_of(zero) != scalar.CONSTANT or scalar.constant_value(zero) != 0 or scalar.name_of(test) != "ilt":
        return None
    ends = [o.owner for o in test.operands]
    if not all(isinstance(e, IndexOp) and isinstance(e.expr, sympy.Symbol) for e in ends):
        return None
    over, here = (e.expr.name for e in ends)  # type: ignore[union-attr]
    names = op.accesses.data[0].bare()
    if names is None or over != op.reduced[0] or here not in op.out_ranks(0) or here in names:
        return None
    return (over, here) if op.extents[over] == op.extents[here] else None


def _merged(access: Sequence[Expr], dims: Sequence[Expr]) -> list[list[int]]:
    """Dimensions grouped so that `i floordiv n, i mod n` (the last dimension n long) are one."""
    groups: list[list[int]] = []
    for k, e in enumerate(access):
        before = access[groups[-1][-1]] if groups else None
        if isinstance(e, sympy.Mod) and e.args[1] == dims[k] and before == symbols.floordiv(e.args[0], e.args[1]):  # type: ignore[arg-type]
            groups[-1].append(k)
        else:
            groups.append([k])
    return groups


def _counted(e: Expr) -> Expr:
    """i of `i floordiv n`."""
    return symbols.fraction(e)[0] if isinstance(e, sympy.floor) else e


def _product(factors: Any) -> Expr:
    total: Expr = ONE
    for f in factors:
        total = sympy.expand(total * f)
    return total


def _hint(n: Any) -> Any:
    """A number to compare by; equal expressions give equal numbers."""
    return n if isinstance(n, int) else n.node.hint if n.node.has_hint() else 1 << 20
