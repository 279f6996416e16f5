"""The ATen graph as one `cascade.program`: the walk over the nodes; what each operator means is in the tables.

The graph is what AOTAutograd or `capture` gives: functional, no mutation, `node.meta["val"]` on every node.  Views are
access maps and make no operation; everything else becomes einsums and gathers, or an extern with its reason.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import sympy
import torch
from torch import fx
from xdsl.dialects.builtin import ComplexType, IntegerType, ModuleOp, StringAttr, UnitAttr
from xdsl.ir import Attribute, Operation, SSAValue

from ..errors import SourceLine, UnsupportedProgram
from ..ir import symbols
from ..ir.attributes import AccessMap, TensorType
from ..ir.cascade import EinsumOp, ExternOp, ProgramOp, ScanOp, ScatterOp
from . import indices, sizes
from .builder import Einsum, Out, Tensor, View, symbolic_index
from .externs import reason_of
from .indices import ONE, ZERO, Expr
from .sizes import Opaque

Results = Sequence[Any]  # views of the results of an operator, None for what is no tensor; some are nested

__all__ = ["Imported", "Output", "SizeSource", "Translator", "View", "import_graph"]


@dataclass(frozen=True)
class SizeSource:
    """Where a size comes from at run time: dimension `dim` of placeholder number `placeholder` of the graph, or the
    placeholder itself when `dim` is None (a SymInt input)."""

    placeholder: int
    dim: int | None


@dataclass(frozen=True)
class Output:
    """One output of the graph.  value: what the program returns for it, in the output's own layout.

    view and value are None for an output that is no tensor; `node` is then the constant that is returned, or its node.
    """

    node: fx.Node | Any
    view: View | None
    value: SSAValue | None


@dataclass
class Imported:
    """An imported graph.

    views: every tensor-valued node (operators with several results: their getitem nodes).
    arguments: placeholders in program argument order, then `get_attr` nodes of constants; SymInt placeholders give
    sizes instead.  nodes_of: which FX nodes an operation implements.
    """

    module: ModuleOp
    program: ProgramOp
    views: dict[fx.Node, View]
    arguments: list[fx.Node]
    outputs: list[Output]
    sizes: dict[str, SizeSource]
    nodes_of: dict[Operation, list[fx.Node]]

    @property
    def externs(self) -> list[tuple[str, str]]:
        """(operator, reason) of everything that no kernel computes, in order: opaque calls, scans and scatters."""
        return list(self.opaque().values())

    def opaque(self) -> dict[Operation, tuple[str, str]]:
        """The same, by operation of the program as it is now."""
        found: dict[Operation, tuple[str, str]] = {}
        for op in self.program.body.block.ops:
            if isinstance(op, ExternOp):
                found[op] = (op.target.data, op.reason.data)
            elif isinstance(op, ScanOp | ScatterOp):
                target = self.nodes_of[op][0].target
                assert isinstance(target, torch._ops.OpOverload)
                found[op] = (str(target), reason_of(target))
        return found


def import_graph(gm: fx.GraphModule, name: str = "main", size_names: Mapping[str, str] | None = None) -> Imported:
    """The graph as a program.  `size_names` gives torch's size symbols other names (`Captured.size_names`).

    Raises UnsupportedProgram for a graph that is not functional ATen, with the source line.
    """
    return Translator(gm, name, size_names or {}).run()


@dataclass
class Translator:
    """The state of one import, and what the rows of the tables are given to work with."""

    gm: fx.GraphModule
    name: str
    renamed: Mapping[str, str]
    views: dict[fx.Node, View] = field(default_factory=dict)
    several: dict[fx.Node, Results] = field(default_factory=dict)
    nodes_of: dict[Operation, list[fx.Node]] = field(default_factory=dict)
    positions: dict[SSAValue, Expr] = field(
        default_factory=dict
    )  # integer values that are index expressions over v0, …
    numbers: dict[SSAValue, float | int | bool] = field(default_factory=dict)  # zero-dimensional constants
    copies: dict[fx.Node, SSAValue] = field(default_factory=dict)

    def run(self) -> Imported:
        from .table import TABLE

        nodes = list(self.gm.graph.nodes)
        arguments = [n for n in nodes if n.op in ("placeholder", "get_attr") and self._is_argument(n)]
        self.size_names = self._size_names(nodes)
        self.program = ProgramOp.empty(self.name, [self._type(n) for n in arguments])
        self.block = self.program.body.block
        for argument, node in zip(self.block.args, arguments, strict=True):
            argument.name_hint = _hint(node.name)
            self.views[node] = self.whole(argument)
        outputs: list[Output] = []
        for node in nodes:
            if node.op == "output":
                outputs = [self._output(x) for x in _flat(node.args[0])]
            elif node.op == "get_attr" and node not in self.views:
                self._constant(node)
            elif node.op == "call_function":
                self._call(node, TABLE)
            elif node.op in ("call_method", "call_module"):
                raise self.unsupported(node, f"{node.op} {node.target} is not ATen")
        self.program.finish(*(o.value for o in outputs if o.value is not None))
        return Imported(
            ModuleOp([self.program]), self.program, self.views, arguments, outputs, self._sizes(nodes), self.nodes_of
        )

    # --- what the tables use

    def shape(self, node: fx.Node) -> tuple[Expr, ...]:
        return tuple(self.size(n) for n in node.meta["val"].shape)

    def dtype(self, node: fx.Node) -> torch.dtype:
        return node.meta["val"].dtype

    def size(self, value: Any) -> Expr:
        """A Python, symbolic or sympy integer as an index expression."""
        return sizes.size(value, self.renamed)

    def operand(self, node: fx.Node) -> Tensor:
        if node not in self.views:
            raise Opaque(f"{node.name} is not a tensor")
        sizes.compute_dtype(self.dtype(node))
        return Tensor(self.views[node], self.shape(node), self.dtype(node))

    def elementwise(self, node: fx.Node, shape: Sequence[Expr] | None = None) -> tuple[Einsum, list[str]]:
        """An einsum over the dimensions d0, d1, … of `node`, and their names."""
        shape = self.shape(node) if shape is None else shape
        dims = [f"d{k}" for k in range(len(shape))]
        return Einsum(self, node, dict(zip(dims, shape, strict=True))), dims

    def whole(self, value: SSAValue) -> View:
        """A value as a view of itself."""
        assert isinstance(value.type, TensorType)
        shape = value.type.dims
        return View(
            value,
            AccessMap(tuple(ZERO if n == ONE else indices.dim(k) for k, n in enumerate(shape))),
            tuple(ZERO if n == ONE else indices.dim(k, "v") for k, n in enumerate(shape)),
        )

    def reindex(
        self, view: View, index: Sequence[Expr], shape: Sequence[Expr], back: Sequence[Expr] | None = None
    ) -> View:
        """The view whose element at d is the element of `view` at `index`, over d; `shape` bounds d.

        back: d over the dimensions of `view`, when every element is met exactly once.
        """
        table = {f"d{k}": e for k, e in enumerate(index)}
        bounds = indices.bounds_of(shape)
        access = AccessMap(tuple(indices.substitute(e, table, bounds) for e in view.access.data))
        inverse = None
        if back is not None and view.inverse is not None:
            assert isinstance(view.value.type, TensorType)
            over = {f"d{k}": e for k, e in enumerate(view.inverse)}
            within = indices.bounds_of(view.value.type.dims, "v")
            inverse = tuple(indices.substitute(e, over, within) for e in back)
        return View(view.value, access, inverse)

    def append(self, op: Operation, node: fx.Node, hints: Sequence[str] = ()) -> None:
        """Append an operation that belongs to `node`; `hints` are suffixes for the names of its results."""
        op.attributes["node"] = StringAttr(node.name)
        for n, result in enumerate(op.results):
            suffix = hints[n] if n < len(hints) else ""
            result.name_hint = _hint(f"{node.name}_{suffix}" if suffix else node.name)
        self.block.add_op(op)
        self.nodes_of[op] = [node]
        if isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1 and _is_integer(op.results[0].type):
            e = symbolic_index(op, self.positions)
            if e is not None:
                table = {r: indices.dim(k, "v") for k, r in enumerate(op.out_ranks())}
                self.positions[op.results[0]] = indices.substitute(e, table, indices.bounds_of(op.out_shape(), "v"))

    def full(self, node: fx.Node, value: Any, dtype: torch.dtype, rank: int, hint: str = "") -> View:
        """A constant of any shape: a zero-dimensional value, broadcast."""
        e = Einsum(self, node, {})
        (view,) = e.finish([Out("map", e.number(value, sizes.compute_dtype(dtype)), [], dtype, hint)])
        if not isinstance(value, torch.SymInt | torch.SymFloat):
            self.numbers[view.value] = value
        return View(view.value, view.access, () if rank == 0 else None)

    def materialise(self, node: fx.Node) -> SSAValue:
        """A value in the node's own layout: its value, or a copy of it."""
        if node in self.copies:
            return self.copies[node]
        view, shape = self.views[node], self.shape(node)
        kind = view.value.type
        assert isinstance(kind, TensorType)
        if kind.dims == shape and view.access == self.whole(view.value).access:
            return view.value
        self.copies[node] = self.copy_of(node, self.operand(node))
        return self.copies[node]

    def copy_of(self, node: fx.Node, x: Tensor) -> SSAValue:
        """A value in the layout of `x`, made by an einsum that is marked `copy`; it belongs to `node`."""
        dims = [f"d{k}" for k in range(len(x.shape))]
        e = Einsum(self, node, dict(zip(dims, x.shape, strict=True)), exact=True)
        (copy,) = e.finish([Out("map", e.broadcast(x, dims), dims, x.dtype, "copy")])
        copy.value.owner.attributes["copy"] = UnitAttr()  # type: ignore[union-attr]
        return copy.value

    def unsupported(self, node: fx.Node, message: str) -> UnsupportedProgram:
        return UnsupportedProgram(message, source=source_line(node))

    # --- one node

    def _call(self, node: fx.Node, table: Mapping[Any, Any]) -> None:
        target = node.target
        if getattr(target, "__name__", "") == "getitem" and node.args[0] in self.several:
            view = self.several[node.args[0]][node.args[1]]  # type: ignore[index]
            if isinstance(view, list):
                self.several[node] = view
            elif view is not None:
                self.views[node] = view
            return
        if isinstance(target, torch._ops.HigherOrderOperator):
            self.several[node] = self._higher_order(node, target)
            return
        if not isinstance(target, torch._ops.OpOverload):
            if isinstance(target, torch._ops.HigherOrderOperator):
                return self._keep(node, self._extern(node, "it is an operator whose arguments are programs"))
            if _has_tensor(node.meta.get("val")):
                raise self.unsupported(node, f"{target} is not an ATen operator")
            return  # arithmetic on sizes
        if target.namespace == "aten" and str(target.overloadpacket).startswith("aten.sym_"):
            return
        if not any(_has_tensor(n.meta.get("val")) for n in (node, *node.all_input_nodes)) and node.all_input_nodes:
            return  # an assertion on sizes: it stays in the graph
        row = table.get(target.overloadpacket)
        mark = self.block.last_op
        try:
            if row is None:
                raise Opaque(reason_of(target))
            if not _has_tensor(node.meta.get("val")):
                raise Opaque("its result is no tensor")
            result = row(self, node, self._bind(node))
        except Opaque as why:
            self._forget(mark)
            result = self._extern(node, str(why))
        self._keep(node, result)

    def _keep(self, node: fx.Node, result: View | list[View | None] | None) -> None:
        if isinstance(result, View):
            self.views[node] = result
        elif result is not None:
            self.several[node] = result

    def _forget(self, mark: Operation | None) -> None:
        """Erase the operations that a row appended before it gave up."""
        while (op := self.block.last_op) is not None and op is not mark:
            self.nodes_of.pop(op, None)
            op.detach()
            op.erase()

    def _bind(self, node: fx.Node) -> SimpleNamespace:
        """The arguments by their schema names, defaults included: tensors as `Tensor`, numbers as they are."""
        given = dict(zip((a.name for a in node.target._schema.arguments), node.args, strict=False))  # type: ignore[union-attr]
        given.update(node.kwargs)
        bound = {}
        for a in node.target._schema.arguments:  # type: ignore[union-attr]
            bound[a.name] = self._resolve(given[a.name]) if a.name in given else a.default_value
        return SimpleNamespace(**bound)

    def _resolve(self, x: Any) -> Any:
        if isinstance(x, fx.Node):
            value = x.meta.get("val")
            return self.operand(x) if isinstance(value, torch.Tensor) else value
        if isinstance(x, list | tuple):
            return [self._resolve(y) for y in x]
        return x

    def _constant(self, node: fx.Node) -> None:
        """A tensor that the graph holds: a number when it is one."""
        value: Any = self.gm
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if isinstance(value, torch.Tensor):
            self.views[node] = self.full(node, value.item(), value.dtype, 0)

    def _higher_order(self, node: fx.Node, target: torch._ops.HigherOrderOperator) -> Results:
        """An operator that runs another one, such as a random one from a state of the generator: opaque as a whole."""
        value = node.meta.get("val")
        found = self._extern(
            node, f"{target.name()} runs an operator of its own", _items(node) if value is None else value
        )
        if isinstance(found, View):
            self.views[node] = found
            return []
        return found or []

    def _extern(self, node: fx.Node, reason: str, value: Any = None) -> Any:
        """An opaque call; its result, or its results as they are nested.  value: what it gives, where the node does not say."""
        operands: list[SSAValue] = []
        value = node.meta.get("val") if value is None else value

        def encode(x: Any) -> Any:
            if isinstance(x, fx.Node):
                value = x.meta.get("val")
                if not isinstance(value, torch.Tensor):
                    return encode(value)
                operands.append(self.materialise(x))
                return {"tensor": len(operands) - 1}
            if isinstance(x, torch.SymInt):
                return {"size": symbols.to_text(self.size(x))}
            if isinstance(x, list | tuple):
                return [encode(y) for y in x]
            if isinstance(x, float) and not math.isfinite(x):
                return {"float": str(x)}
            if isinstance(x, torch.dtype):
                return {"dtype": str(x).removeprefix("torch.")}
            for kind in ("device", "layout", "memory_format"):
                if isinstance(x, getattr(torch, kind)):
                    return {kind: str(x).removeprefix("torch.")}
            if isinstance(x, torch._ops.OpOverload):
                return {"operator": str(x)}
            if x is None or isinstance(x, bool | int | float | str):
                return x
            if isinstance(x, torch._ops.OpOverload):
                return {"operator": str(x)}
            raise self.unsupported(node, f"{node.target} is called with {x!r}, which an extern cannot hold")

        try:
            encoded = {"args": [encode(a) for a in node.args]}
            if node.kwargs:
                encoded["kwargs"] = {k: encode(v) for k, v in node.kwargs.items()}  # type: ignore[assignment]
            types = [self._type_of(p) for p in _flat(value) if p is not None]
        except Opaque as why:
            raise self.unsupported(node, f"{node.target}: {why}") from None
        op = ExternOp(str(node.target), operands, types, reason, json.dumps(encoded))
        self.append(op, node, [""] if len(types) == 1 else [str(n) for n in range(len(types))])
        results = iter(op.results)

        def views(x: Any) -> Any:
            if isinstance(x, list | tuple):
                return [views(y) for y in x]
            return None if x is None else self.whole(next(results))

        found = views(value)
        return found if isinstance(value, list | tuple | torch.Tensor) else None

    # --- arguments, outputs, sizes

    def _is_argument(self, node: fx.Node) -> bool:
        if node.op == "placeholder":
            return isinstance(node.meta.get("val"), torch.Tensor)
        value: Any = self.gm
        for part in str(node.target).split("."):
            value = getattr(value, part, None)
        if not isinstance(value, torch.Tensor):
            return False
        node.meta.setdefault("val", value)
        return bool(value.dim()) or isinstance(value, torch._subclasses.FakeTensor) or value.is_meta

    def _type(self, node: fx.Node) -> TensorType:
        try:
            return self._type_of(node.meta["val"])
        except Opaque as why:
            raise self.unsupported(node, f"{node.name}: {why}") from None

    def _type_of(self, value: Any) -> TensorType:
        if not isinstance(value, torch.Tensor):
            dtype = torch.float64 if isinstance(value, float | torch.SymFloat) else torch.int64
            return TensorType.of(
                [], sizes.element_type(torch.bool if isinstance(value, bool | torch.SymBool) else dtype)
            )
        if value.layout != torch.strided:
            raise Opaque(f"a tensor of layout {value.layout} is not dense")
        return TensorType.of([self.size(n) for n in value.shape], _storage_type(value.dtype))

    def _output(self, x: Any) -> Output:
        if not isinstance(x, fx.Node) or x not in self.views:
            return Output(x, None, None)
        return Output(x, self.views[x], self.materialise(x))

    def _size_names(self, nodes: Sequence[fx.Node]) -> set[str]:
        found: set[str] = set()
        for node in nodes:
            for value in _flat(node.meta.get("val")):
                dims = value.shape if isinstance(value, torch.Tensor) else [value]
                for n in dims:
                    if isinstance(n, torch.SymInt):
                        found |= {self.renamed.get(s.name, s.name) for s in n.node.expr.free_symbols}
        return found

    def _sizes(self, nodes: Sequence[fx.Node]) -> dict[str, SizeSource]:
        found: dict[str, SizeSource] = {}
        placeholders = [n for n in nodes if n.op == "placeholder"]
        for n, node in enumerate(placeholders):
            value = node.meta.get("val")
            dims = [(k, e) for k, e in enumerate(value.shape)] if isinstance(value, torch.Tensor) else [(None, value)]
            for k, e in dims:
                if isinstance(e, torch.SymInt) and isinstance(e.node.expr, sympy.Symbol):
                    name = self.size(e).name  # type: ignore[attr-defined]
                    if name not in found or k is None:
                        found[name] = SizeSource(n, k)
        return found


# --- helpers ------------------------------------------------------------------------------------------------------


def source_line(node: fx.Node) -> SourceLine | None:
    """The line of the user's program that made a node."""
    return SourceLine.from_stack_trace(node.meta.get("stack_trace"))


def _hint(name: str) -> str | None:
    name = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return name if name and not name[0].isdigit() else f"n_{name}"


def _flat(x: Any) -> list[Any]:
    if isinstance(x, list | tuple):
        return [z for y in x for z in _flat(y)]
    return [x]


def _items(node: fx.Node) -> list[Any]:
    """What a node gives, as far as nodes that take its items say, nested as they take them; None for the rest."""
    found: dict[int, Any] = {}
    for user in node.users:
        if user.target is operator.getitem and isinstance(n := user.args[1], int):
            value = user.meta.get("val")
            found[n] = (_items(user) or None) if value is None else value
    return [found.get(n) for n in range(max(found, default=-1) + 1)]


def _has_tensor(value: Any) -> bool:
    return any(isinstance(v, torch.Tensor) for v in _flat(value))


def _is_integer(kind: Attribute) -> bool:
    return (
        isinstance(kind, TensorType) and isinstance(kind.element_type, IntegerType) and kind.element_type.width.data > 1
    )


def _storage_type(dtype: torch.dtype) -> Attribute:
    """The element type of a value that need not be computed with: complex numbers pass from extern to extern."""
    if dtype.is_complex:
        return ComplexType(sizes.element_type(dtype.to_real()))  # type: ignore[type-var]
    return sizes.element_type(dtype)
