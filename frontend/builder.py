"""How an einsum is built: read operands at index expressions, compute with scalars, populate outputs.

    e = Einsum(translator, node, {"i": n, "j": m, "k": c})
    x = e.read(a, [e.rank("i"), e.rank("k")]) * e.read(b, [e.rank("k"), e.rank("j")])
    (out,) = e.finish([Out("sum", x, ["i", "j"], torch.float32)])

Ranks of extent 1 disappear; ranks that some operand reads through `floordiv` and `mod` split into two or more, so that
the accesses of the operation are affine.  What comes back are views in terms of the ranks that were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy
import torch
from xdsl.dialects.builtin import f32, f64, i1, i64
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from ..ir import scalar, symbols
from ..ir.attributes import AccessMap, RankSpace, TensorType, compute_type, is_float
from ..ir.cascade import EinsumOp, GatherOp, IndexOp, ScanOp, ScatterOp, YieldOp
from . import indices, ranges
from .indices import ONE, ZERO, Expr
from .sizes import Opaque, compute_dtype, element_type


@dataclass(frozen=True)
class View:
    """What a tensor is, in terms of an SSA value.

    value: the result of a cascade operation, or a program argument.
    access: the index into the value for a node's index: node[d0, d1, …] == value[access(d0, d1, …)].
    inverse: the node's dimensions over the value's dimensions v0, v1, …, when the node holds every element of the value
    exactly once (permuted, merged, split, flipped); None otherwise.
    """

    value: SSAValue
    access: AccessMap
    inverse: tuple[Expr, ...] | None


@dataclass(frozen=True)
class Tensor:
    """An operand: a view with the shape and dtype of the tensor that it is."""

    view: View
    shape: tuple[Expr, ...]
    dtype: torch.dtype


# --- scalars ------------------------------------------------------------------------------------------------------


class Scalar:
    """A scalar inside a map region, with Python's arithmetic.  Integers use the integer functions of the table."""

    def __init__(self, block: Block, value: SSAValue):
        self.block = block
        self.value = value

    @property
    def type(self) -> Attribute:
        return self.value.type

    @property
    def floating(self) -> bool:
        return is_float(self.type)

    def _new(self, op: Operation) -> Scalar:
        self.block.add_op(op)
        return Scalar(self.block, op.results[0])

    def of(self, value: Scalar | float | int | bool) -> Scalar:
        """`value` in the type of this scalar."""
        if isinstance(value, Scalar):
            return value.to(self.type)
        return self._new(scalar.constant(value, self.type))

    def call(self, name: str, *others: Scalar | float | int | bool, cast_to: Attribute | None = None) -> Scalar:
        """A function of the scalar table on this scalar and others, brought to its type."""
        operands = [self.value, *(self.of(o).value for o in others)]
        return self._new(scalar.build(name, operands, cast_to))

    def to(self, kind: Attribute) -> Scalar:
        """This scalar in another compute type, as a torch cast does it."""
        here = self.type
        if here == kind:
            return self
        if is_float(kind):
            if self.floating:
                return self.call("widen" if kind == f64 else "narrow", cast_to=kind)
            return self.call("bool_to_float" if here == i1 else "int_to_float", cast_to=kind)
        if kind == i64:
            return self.call("bool_to_int" if here == i1 else "float_to_int", cast_to=kind)
        return self != 0

    def rounded(self, name: str, element: Attribute) -> Scalar:
        """This float rounded to a 16-bit type by the scalar function `name`, in f32 again."""
        return self.call(name, cast_to=element).call("widen", cast_to=f32)

    def _arith(self, name: str, other: Any) -> Scalar:
        if self.type == i1:
            raise Opaque(f"{name} of booleans is not in the scalar table")
        return self.call(name if self.floating else "i" + name, other)

    def __add__(self, other: Any) -> Scalar:
        return self._arith("add", other)

    def __radd__(self, other: Any) -> Scalar:
        return self.of(other) + self

    def __sub__(self, other: Any) -> Scalar:
        return self._arith("sub", other)

    def __rsub__(self, other: Any) -> Scalar:
        return self.of(other) - self

    def __mul__(self, other: Any) -> Scalar:
        return self._arith("mul", other)

    def __rmul__(self, other: Any) -> Scalar:
        return self.of(other) * self

    def __truediv__(self, other: Any) -> Scalar:
        return self.call("div", other)

    def __rtruediv__(self, other: Any) -> Scalar:
        return self.of(other) / self

    def __neg__(self) -> Scalar:
        return self.call("neg") if self.floating else self.of(0) - self

    def maximum(self, other: Any) -> Scalar:
        return self._arith("maximum", other)

    def minimum(self, other: Any) -> Scalar:
        return self._arith("minimum", other)

    def compare(self, name: str, other: Any) -> Scalar:
        """lt, le, gt, ge, eq or ne.  Booleans compare as integers."""
        if self.type == i1:
            if name in ("eq", "ne"):
                different = self.call("xor", other)
                return different if name == "ne" else different.logical_not()
            return self.to(i64).compare(name, self.of(other).to(i64))
        return self.call(name if self.floating else "i" + name, other)

    def inside(self, size: Any) -> Scalar:
        """Whether an index is one of so many elements; a kernel for the CPU raises IndexError where it is not."""
        return self.call("inside", size)

    def __lt__(self, other: Any) -> Scalar:
        return self.compare("lt", other)

    def __le__(self, other: Any) -> Scalar:
        return self.compare("le", other)

    def __gt__(self, other: Any) -> Scalar:
        return self.compare("gt", other)

    def __ge__(self, other: Any) -> Scalar:
        return self.compare("ge", other)

    def __eq__(self, other: Any) -> Scalar:  # type: ignore[override]
        return self.compare("eq", other)

    def __ne__(self, other: Any) -> Scalar:  # type: ignore[override]
        return self.compare("ne", other)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Any) -> Scalar:
        return self.call("and", other)

    def __or__(self, other: Any) -> Scalar:
        return self.call("or", other)

    def __xor__(self, other: Any) -> Scalar:
        return self.call("xor", other)

    def logical_not(self) -> Scalar:
        return self.to(i1) ^ True

    def select(self, yes: Scalar, no: Scalar | float | int | bool) -> Scalar:
        """`yes` where this condition holds, `no` elsewhere, in the type of `yes`."""
        return self._new(scalar.build("select", [self.value, yes.value, yes.of(no).value]))

    def square(self) -> Scalar:
        return self * self

    def wrapped(self, dtype: torch.dtype) -> Scalar:
        """This integer modulo 2 to the bits of `dtype`, among the numbers that `dtype` holds."""
        least, greatest = (int(end) for end in ranges.of_element(element_type(dtype)))
        number = self.value.owner
        if isinstance(number, Operation) and scalar.name_of(number) == scalar.CONSTANT:
            return self.of((int(scalar.constant_value(number)) - least) % (greatest - least + 1) + least)
        low = self & (greatest - least)
        return low if least == 0 else (low ^ -least) + least

    def __getattr__(self, name: str):
        """The unary functions of the scalar table: `x.exp()`."""
        if name in scalar.SCALARS and scalar.SCALARS[name].arity == 1 and scalar.SCALARS[name].result == "same":
            return lambda: self.call(name)
        raise AttributeError(name)


# --- einsums ------------------------------------------------------------------------------------------------------


@dataclass
class Out:
    """One result: combiner, the scalar that is combined, the rank of each dimension (None: length 1), dtype."""

    combiner: str
    value: Scalar
    dims: Sequence[str | None]
    dtype: torch.dtype
    hint: str = ""


_BATCH = ("b", "h", "g")


class Einsum:
    """One `cascade.einsum` under construction.

    ranks: name -> extent.  whole: ranks that may not be split (an argmax has one reduced rank).  exact: the results
    have exactly these ranks, split nowhere and with those of extent 1 (a copy in a node's own layout).
    """

    def __init__(
        self,
        translator: Any,
        node: torch.fx.Node,
        ranks: Mapping[str, Expr],
        whole: Iterable[str] = (),
        exact: bool = False,
    ):
        self.translator = translator
        self.node = node
        self.exact = exact
        self.names = {name: self._free(name) for name in ranks}
        self.extents = {self.names[name]: extent for name, extent in ranks.items()}
        self.whole = {self.names[name] for name in whole}
        self.block = Block()
        self.bounds: indices.Bounds = tuple(self.extents.items())
        self._reads: dict[tuple[SSAValue, tuple[Expr, ...]], Scalar] = {}

    def _free(self, name: str) -> str:
        while name in self.translator.size_names:
            name += "_"
        return name

    def rank(self, name: str) -> Expr:
        """The index of a rank; 0 when its extent is 1."""
        name = self.names[name]
        return ZERO if self.extents[name] == ONE else symbols.symbol(name)

    def read(self, tensor: Tensor, index: Sequence[Expr]) -> Scalar:
        """The element of `tensor` at `index`, one expression over the ranks a dimension."""
        key = (tensor.view.value, self.access(tensor, index))
        if key not in self._reads:
            element = tensor.view.value.type.element_type  # type: ignore[attr-defined]
            argument = self.block.insert_arg(compute_type(element), len(self.block.args))
            self._reads[key] = Scalar(self.block, argument)
        return self._reads[key]

    def broadcast(self, tensor: Tensor, dims: Sequence[str]) -> Scalar:
        """The element of `tensor` broadcast against ranks `dims` by the rule of torch (trailing dimensions align)."""
        aligned = dims[len(dims) - len(tensor.shape) :]
        index = [ZERO if n == ONE else self.rank(r) for r, n in zip(aligned, tensor.shape, strict=True)]
        return self.read(tensor, index)

    def index(self, e: Expr) -> Scalar:
        """An index expression over ranks and sizes as an i64."""
        return Scalar(self.block, self._add(IndexOp(e)))

    def constant(self, value: float | int | bool, kind: Attribute) -> Scalar:
        return Scalar(self.block, self._add(scalar.constant(value, kind)))

    def _add(self, op: Operation) -> SSAValue:
        self.block.add_op(op)
        return op.results[0]

    def number(self, value: Any, kind: Attribute) -> Scalar:
        """A Python or symbolic number as a scalar of a compute type."""
        if isinstance(value, torch.SymBool):
            raise Opaque("a condition on sizes is data here")
        if isinstance(value, torch.SymInt | torch.SymFloat):
            return self._symbolic(value.node.expr).to(kind)
        if not is_float(kind) and isinstance(value, float) and not (kind == i64 and value.is_integer()):
            raise Opaque(f"the number {value} among integers")
        return self.constant(value, kind)

    def _symbolic(self, e: sympy.Expr) -> Scalar:
        try:
            return self.index(self.translator.size(e))
        except Opaque:
            pass
        if e.is_Number:
            return self.constant(float(e), f32)
        args = [self._symbolic(a).to(f32) for a in indices.arguments(e)]
        name = type(e).__name__
        if name == "ToFloat":
            return args[0]
        if name in ("IntTrueDiv", "FloatTrueDiv"):
            return args[0] / args[1]
        if name == "OpaqueUnaryFn_sqrt" or (name in ("Pow", "FloatPow") and e.args[1] == sympy.Rational(1, 2)):
            return args[0].sqrt()
        if name in ("Pow", "FloatPow"):
            return args[0].call("pow", args[1])
        if name in ("Add", "Mul"):
            total = args[0]
            for a in args[1:]:
                total = total + a if name == "Add" else total * a
            return total
        raise Opaque(f"the size {e} is not an index expression")

    def extent(self, ranks: Iterable[str], kind: Attribute) -> Scalar:
        """The product of extents as a scalar."""
        n = indices.product(self.extents[self.names[r]] for r in ranks)
        return self.constant(int(n), kind) if n.is_Integer else self.index(n).to(kind)

    # --- the end

    def finish(self, outs: Sequence[Out]) -> list[View]:
        """Append the operation to the program; the results as views over the dimensions that were asked for.

        Integers wrap to their dtype, as in PyTorch; what is summed, only once: the sum is an i64 up to there.
        """
        asked, outs = outs, [self._within(out) for out in outs]
        ranks, table, kept = self._layout([access for _, access in self._reads])
        reads = [(v, self._renamed(a, table, ranks)) for v, a in self._reads]
        self._rename_indices(table, ranks)
        if all(out.combiner == "map" for out in outs):
            indexed = [op.expr for op in self.block.ops if isinstance(op, IndexOp)]
            ranks = self._used(ranks, [*(e for _, access in reads for e in access), *indexed])
        present = {n for n, _ in ranks}
        out_ranks = [
            [n for d in out.dims if d is not None for n, _, _ in kept[self.names[d]] if n in present] for out in outs
        ]
        reduces = len(out_ranks[0]) < len(ranks)
        values, results = [], []
        for out, names in zip(outs, out_ranks, strict=True):
            combiner, value = out.combiner, out.value
            arg = combiner in ("argmax", "argmin")
            if not reduces:  # every reduced rank had length 1
                value = value.of(0).to(i64) if arg else value
                combiner = "map"
            if not (arg and reduces):
                value = value.to(compute_dtype(out.dtype))
            values.append(value.value)
            results.append((combiner, AccessMap.of(names), element_type(out.dtype)))
        self.block.add_op(YieldOp(*values))
        accessed = [(v, AccessMap(a)) for v, a in reads]
        op = EinsumOp(RankSpace(tuple(ranks)), accessed, results, Region(self.block))
        self.translator.append(op, self.node, [out.hint for out in outs])
        views = [self._result(result, out.dims, kept, present) for result, out in zip(op.results, outs, strict=True)]
        return [
            v if out.dtype == want.dtype else self._narrowed(v, want)
            for v, out, want in zip(views, outs, asked, strict=True)
        ]

    def _within(self, out: Out) -> Out:
        """`out` without integers that its dtype does not hold: they are wrapped, or what they are summed to is an i64."""
        if out.dtype.is_floating_point or out.dtype in (torch.bool, torch.int64) or out.combiner.startswith("arg"):
            return out
        value = out.value.to(compute_dtype(out.dtype))
        holds = ranges.of_element(element_type(out.dtype))
        if out.combiner in ("sum", "prod"):
            return replace(out, value=value, dtype=torch.int64)
        sources = dict(zip(self.block.args, (v for v, _ in self._reads), strict=True))
        found = ranges.Region(self.block, sources, ranges.ranks(self.extents), self.translator.positions)
        if ranges.inside(found.of(value.value), holds):
            return replace(out, value=value)
        return replace(out, value=value.wrapped(out.dtype))

    def _narrowed(self, view: View, out: Out) -> View:
        """A view of an i64 result of this operation in the dtype of `out`."""
        extents = {f"d{k}": ONE if d is None else self.extents[self.names[d]] for k, d in enumerate(out.dims)}
        tensor = Tensor(view, tuple(extents.values()), torch.int64)
        e = Einsum(self.translator, self.node, extents)
        dims = list(extents)
        return e.finish([Out("map", e.broadcast(tensor, dims), dims, out.dtype, out.hint)])[0]

    def _rename_indices(self, table: Mapping[str, Expr], ranks: list[tuple[str, Expr]]) -> None:
        """Index expressions in the region over the final ranks."""
        if table:
            for op in self.block.ops:
                if isinstance(op, IndexOp):
                    op.expression = AccessMap(self._renamed([op.expr], table, ranks))

    def _body(self, table: Mapping[str, Expr], ranks: list[tuple[str, Expr]], *values: Scalar) -> Region:
        """The region so far, over the final ranks, ending in `values`."""
        self._rename_indices(table, ranks)
        self.block.add_op(YieldOp(*(v.value for v in values)))
        return Region(self.block)

    def scan(self, out: Out, over: str | None) -> View:
        """Append a scan of one result, with all ranks, along rank `over` (declared `whole`; None: of a single number)."""
        if over is None or self.extents[self.names[over]] == ONE:
            return self.finish([replace(out, combiner="map")])[0]
        asked, out = out, self._within(out)
        ranks, table, kept = self._layout([access for _, access in self._reads])
        reads = [(v, AccessMap(self._renamed(a, table, ranks))) for v, a in self._reads]
        body = self._body(table, ranks, out.value)
        indexed = [op.expr for op in self.block.ops if isinstance(op, IndexOp)]
        ranks = self._used(ranks, [*(e for _, a in reads for e in a.data), *indexed, symbols.symbol(self.names[over])])
        present = {n for n, _ in ranks}
        names = [n for d in out.dims if d is not None for n, _, _ in kept[self.names[d]] if n in present]
        results = [(out.combiner, AccessMap.of(names), element_type(out.dtype))]
        op = ScanOp(RankSpace(tuple(ranks)), self.names[over], reads, results, body)
        self.translator.append(op, self.node, [out.hint])
        view = self._result(op.results[0], out.dims, kept, present)
        return view if out.dtype == asked.dtype else self._narrowed(view, asked)

    def scatter(
        self,
        combiner: str,
        value: Scalar,
        at: Sequence[tuple[Tensor, Sequence[Expr]]],
        target: Sequence[Expr],
        shape: Sequence[Expr],
        dtype: torch.dtype,
        init: SSAValue | None,
    ) -> View:
        """Append a scatter of `value` to `target`, which may mention `slot(n)`, the value of index tensor n.

        Every point counts, so no rank is left out.  The result has `shape`; `init`, of that type, is what it starts as.
        """
        given = [(tensor.view.value, self.access(tensor, index)) for tensor, index in at]
        ranks, table, _ = self._layout([*(a for _, a in self._reads), *(a for _, a in given), target])
        reads = [(v, AccessMap(self._renamed(a, table, ranks))) for v, a in self._reads]
        places = [(v, AccessMap(self._renamed(a, table, ranks))) for v, a in given]
        body = self._body(table, ranks, value)
        out = (combiner, AccessMap(self._renamed(target, table, ranks)), TensorType.of(shape, element_type(dtype)))
        op = ScatterOp(RankSpace(tuple(ranks)), reads, places, out, body, init)
        self.translator.append(op, self.node)
        return self.translator.whole(op.result)

    def access(self, tensor: Tensor, index: Sequence[Expr]) -> tuple[Expr, ...]:
        """Which element of the tensor's value is at `index`, one expression over the ranks a dimension."""
        table = {f"d{k}": e for k, e in enumerate(index)}
        return tuple(indices.substitute(e, table, self.bounds) for e in tensor.view.access.data)

    def gather(
        self,
        source: SSAValue,
        access: Sequence[Expr],
        at: Sequence[tuple[SSAValue, Sequence[Expr]]],
        dims: Sequence[str],
    ) -> View:
        """Append a gather over `dims`; `access` may mention `GatherOp.slot(n)`, the value of index tensor n."""
        ranks, table, kept = self._layout([access, *(a for _, a in at)])
        access = self._renamed(access, table, ranks)
        at = [(v, self._renamed(a, table, ranks)) for v, a in at]
        ranks = self._used(ranks, [*access, *(e for _, a in at for e in a)])
        op = GatherOp(RankSpace(tuple(ranks)), source, AccessMap(access), [(v, AccessMap(tuple(a))) for v, a in at])
        self.translator.append(op, self.node)
        return self._result(op.result, dims, kept, {n for n, _ in ranks})

    def _layout(self, accesses: Sequence[Sequence[Expr]]):
        """The ranks of the operation, what each rank that was asked for is in them, and its digits."""
        digits = self._split(accesses)
        table: dict[str, Expr] = {}
        ranks: list[tuple[str, Expr]] = []
        kept: dict[str, list[tuple[str, Expr, Expr]]] = {}  # rank -> its digits: (name, stride, extent)
        for name, extent in self.extents.items():
            if extent == ONE and not self.exact:
                table[name] = ZERO
                kept[name] = []
                continue
            parts = digits.get(name) or [(name, ONE, extent)]
            kept[name] = parts
            ranks += [(n, size) for n, _, size in parts]
            if len(parts) > 1:
                total: Expr = ZERO
                for n, stride, _ in parts:
                    total = total + symbols.symbol(n) * stride
                table[name] = total
        return ranks, table, kept

    @staticmethod
    def _renamed(
        access: Sequence[Expr], table: Mapping[str, Expr], ranks: Sequence[tuple[str, Expr]]
    ) -> tuple[Expr, ...]:
        if not table:
            return tuple(access)
        return tuple(indices.substitute(e, table, tuple(ranks)) for e in access)

    def _used(self, ranks: list[tuple[str, Expr]], expressions: Iterable[Expr]) -> list[tuple[str, Expr]]:
        """The ranks that something depends on; along the others a map is one value, and its result is a broadcast."""
        if self.exact:
            return ranks
        names = {s.name for e in expressions for s in e.free_symbols}  # type: ignore[attr-defined]
        return [(n, extent) for n, extent in ranks if n in names]

    def _result(
        self,
        value: SSAValue,
        dims: Sequence[str | None],
        kept: Mapping[str, list[tuple[str, Expr, Expr]]],
        present: set[str],
    ) -> View:
        digits = [kept[self.names[d]] if d is not None else [] for d in dims]
        shape = [self.extents[self.names[d]] if d is not None else ONE for d in dims]
        return self._view(value, digits, shape, present)

    def _split(self, accesses: Sequence[Sequence[Expr]]) -> dict[str, list[tuple[str, Expr, Expr]]]:
        """The digits of each rank that has to be split: (name, stride, extent), the outermost first."""
        found = {}
        taken = set(self.extents)
        for name, extent in self.extents.items():
            if self.exact or extent in (ONE, ZERO) or name in self.whole:
                continue
            points = indices.split_points(name, extent, accesses)
            if not points:
                continue
            strides = [ONE, *points]
            ends = [*points, extent]
            sizes = [indices.exact_quotient(b, a) or ONE for a, b in zip(strides, ends, strict=True)]
            taken.discard(name)
            names = self._digit_names(name, len(sizes), taken)
            taken.update(names)
            found[name] = list(zip(names, reversed(strides), reversed(sizes), strict=True))
        return found

    def _digit_names(self, name: str, count: int, taken: set[str]) -> list[str]:
        if name == "b" and count <= len(_BATCH):
            wanted = list(_BATCH[:count])
        elif name in ("i", "k") and "b" not in self.extents and count == 2:
            wanted = [{"i": "b", "k": "h"}[name], name]  # rows are batch × sequence, columns are heads × width
        else:
            wanted = [f"{name}_{n}" for n in range(count)]
        names = []
        for w in wanted:
            w = self._free(w)
            while w in taken or w in names:
                w += "_"
            names.append(w)
        return names

    @staticmethod
    def _view(
        value: SSAValue, dims: Sequence[Sequence[tuple[str, Expr, Expr]]], shape: Sequence[Expr], present: set[str]
    ) -> View:
        """The view of a result whose dimension k has the digits `dims[k]`, of which those in `present` are ranks."""
        access: list[Expr] = []
        inverse: list[Expr] = []
        bounds = indices.bounds_of(shape)
        for k, parts in enumerate(dims):
            total: Expr = ZERO
            for n, (name, stride, size) in enumerate(parts):
                if name in present:
                    total = total + indices.dim(len(access), "v") * stride
                    digit = indices.floordiv(indices.dim(k), stride, bounds)
                    access.append(digit if n == 0 else indices.mod(digit, size, bounds))
            inverse.append(total)
        whole = all(name in present for parts in dims for name, _, _ in parts)
        return View(value, AccessMap(tuple(access)), tuple(inverse) if whole else None)


def symbolic_index(op: EinsumOp, known: Mapping[SSAValue, Expr]) -> Expr | None:
    """What an integer map is as an index expression over its ranks, when it is one (positions and their offsets)."""
    env: dict[SSAValue, Expr] = {}
    for argument, (value, access) in zip(op.body.block.args, op.operand_accesses, strict=True):
        e = known.get(value)
        if e is not None:
            table = {f"v{k}": a for k, a in enumerate(access.data)}
            env[argument] = indices.substitute(e, table, tuple(op.extents.items()))
    for inner in op.body.block.ops:
        if isinstance(inner, IndexOp):
            env[inner.result] = inner.expr
            continue
        name = scalar.name_of(inner)
        if name == scalar.CONSTANT and inner.results[0].type == i64:
            env[inner.results[0]] = sympy.Integer(scalar.constant_value(inner))
        elif name in ("iadd", "isub", "imul") and all(o in env for o in inner.operands):
            a, b = (env[o] for o in inner.operands)
            env[inner.results[0]] = sympy.expand({"iadd": a + b, "isub": a - b, "imul": a * b}[name])
    return env.get(op.yields[0])
