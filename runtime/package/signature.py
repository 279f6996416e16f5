"""How a packaged function is called, and the check that a call is one of those: shapes, dtypes, strides, devices.

A signature is data: the form of the arguments and of the result (`forms.py`), what each leaf
is, and what sizes go by a name.  All of it comes from a manifest, so all of it is checked when it is read.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ...codegen.artifact import Layout
from ...errors import InvalidPackage, UnsupportedProgram
from ..argument_order import ArgumentOrder
from .fields import LARGEST, Fields
from .forms import LEAF, count_leaves, flatten
from .values import DEVICES, decode_constant, dtype_of, expression

LEAST = 2  # a dynamic size was traced as one that is neither 0 nor 1
MOST_DIMENSIONS = 64
LONGEST = 1000  # characters of an expression
AGAIN = "export a package for this argument"
KINDS = ("positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword")
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


# --- what a manifest says of it -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorLeaf:
    """A tensor among the arguments or results.  device: "target", or "cpu" for a number that stays there.

    alias: of a result, what it shares memory with: ("argument", leaf) or ("result", number); None where it is its own."""

    path: str
    layout: Layout
    device: str
    alias: tuple[str, int] | None = None


@dataclass(frozen=True)
class ConstantLeaf:
    path: str
    value: Any


Leaf = TensorLeaf | ConstantLeaf


@dataclass(frozen=True)
class Signature:
    """arguments: the form of `(args, kwargs)`.  parameters: of the function, (name, kind, has a default); None where unknown.

    sizes: names of dynamic sizes.  relations: what has to hold of them, as (text, comparison, left, right).
    mutates: the leaves of the arguments that a call changes.
    """

    name: str
    arguments: Any
    parameters: tuple[tuple[str, str, bool], ...] | None
    leaves: tuple[Leaf, ...]
    sizes: tuple[str, ...]
    relations: tuple[tuple[str, str, Any, Any], ...]
    result: Any
    results: tuple[Leaf, ...]
    mutates: tuple[int, ...]

    @staticmethod
    def read(fields: Fields) -> Signature:
        """Raises InvalidPackage for what is no signature."""
        name, where = fields.text("name"), fields.where
        sizes = fields.texts("sizes")
        if len(set(sizes)) != len(sizes):
            raise InvalidPackage(f"{where}.sizes names a size twice")
        expression(1, sizes, f"{where}.sizes")  # they are names
        leaves = tuple(_read_leaf(f, sizes, 0) for f in fields.each("leaves"))
        results = tuple(_read_leaf(f, sizes, len(leaves)) for f in fields.each("results"))
        arguments, result = fields.take("arguments"), fields.take("result")
        if count_leaves(arguments, f"{where}.arguments") != len(leaves):
            raise InvalidPackage(f"{where}.arguments has another number of leaves than {where}.leaves")
        match arguments:
            case {"tuple": [{"tuple": _}, {"dict": keywords}]} if all(isinstance(k, str) for k, _ in keywords):
                pass
            case _:
                raise InvalidPackage(f"{where}.arguments is not the form of positional and keyword arguments")
        if count_leaves(result, f"{where}.result") != len(results):
            raise InvalidPackage(f"{where}.result has another number of leaves than {where}.results")
        relations = tuple(_read_relation(r, sizes, f"{where}.relations") for r in fields.listing("relations"))
        given = fields.take("parameters")
        parameters = None if given is None else tuple(_read_parameter(p, f"{where}.parameters") for p in _listed(given))
        mutates = fields.integers("mutates", 0, len(leaves))
        if not all(isinstance(leaves[n], TensorLeaf) for n in mutates):
            raise InvalidPackage(f"{where}.mutates names an argument that is no tensor")
        fields.done()
        made = Signature(name, arguments, parameters, leaves, sizes, relations, result, results, mutates)
        made.python()  # raises where the parameters cannot be those of a function
        return made

    def python(self) -> inspect.Signature | None:
        """The parameters as Python has them."""
        if self.parameters is None:
            return None
        try:
            made = [
                inspect.Parameter(name, getattr(inspect.Parameter, kind.upper()), default=None if has else _EMPTY)
                for name, kind, has in self.parameters
            ]
            return inspect.Signature(made)
        except (ValueError, TypeError, IndexError) as error:
            raise InvalidPackage(f"the parameters of {self.name[:80]} are none of a function: {error}") from error


_EMPTY = inspect.Parameter.empty


def is_size(n: Any) -> bool:
    """An integer that a tensor can have, or a text, which `expression` looks at."""
    return (isinstance(n, str) and len(n) <= LONGEST) or (type(n) is int and 0 <= n <= LARGEST)


def read_layout(fields: Fields, sizes: tuple[str, ...]) -> Layout:
    """shape, strides, dtype.  Raises InvalidPackage."""
    shape, strides = (tuple(fields.listing(side, MOST_DIMENSIONS)) for side in ("shape", "strides"))
    if len(shape) != len(strides):
        raise fields.wrong("strides", "has another number of dimensions than the shape")
    if not all(is_size(n) for n in (*shape, *strides)):
        raise fields.wrong("shape", "or its strides have something that is no size")
    expression((shape, strides), sizes, fields.where)
    dtype = fields.text("dtype")
    dtype_of(dtype)
    return Layout(shape, strides, dtype)


def _read_leaf(fields: Fields, sizes: tuple[str, ...], arguments: int) -> Leaf:
    path = fields.text("path")
    if "constant" in fields.data:
        value = decode_constant(fields.take("constant"), f"{fields.where}.constant")
        fields.done()
        return ConstantLeaf(path, value)
    layout, device = read_layout(fields, sizes), fields.choice("device", DEVICES)
    alias = fields.take("alias")
    if alias is not None:
        match alias:
            case ["argument" | "result" as side, int(n)] if 0 <= n < (arguments if side == "argument" else LARGEST):
                alias = (side, n)
            case _:
                raise fields.wrong("alias", "is no argument or result")
    fields.done()
    return TensorLeaf(path, layout, device, alias)


def _read_relation(data: Any, sizes: tuple[str, ...], where: str) -> tuple[str, str, Any, Any]:
    match data:
        case [str(text), str(sign), int() | str() as left, int() | str() as right] if sign in COMPARISONS:
            expression((left, right), sizes, where)
            return text, sign, left, right
    raise InvalidPackage(f"{where} has something that is no relation of sizes")


def _read_parameter(data: Any, where: str) -> tuple[str, str, bool]:
    match data:
        case [str(name), str(kind), bool(has)] if kind in KINDS:
            return name, kind, has
    raise InvalidPackage(f"{where} has something that is no parameter")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]


# --- the check of a call ------------------------------------------------------------------------------------------------


class _Tensor:
    """What one tensor among the arguments has to be."""

    def __init__(self, position: int, leaf: TensorLeaf, sizes: tuple[str, ...]) -> None:
        self.position, self.leaf, self.rank = position, leaf, len(leaf.layout.shape)
        self.dtype, self.on_cpu = dtype_of(leaf.layout.dtype), leaf.device == "cpu"
        self.of = expression((leaf.layout.shape, leaf.layout.strides), sizes, leaf.path)
        fixed = all(isinstance(n, int) for n in (*leaf.layout.shape, *leaf.layout.strides))
        self.fixed: tuple[Any, Any] | None = self.of(()) if fixed else None  # shape, strides


class Checked(NamedTuple):
    """A call that fits.  tensors: in the strides that were compiled for.  device: where it runs; None: it does not say."""

    tensors: Sequence[torch.Tensor]
    leaves: Sequence[Any]
    sizes: Sequence[int]
    device: torch.device | None


class Checks:
    """The checks of a signature, ready to be made many times."""

    def __init__(self, signature: Signature) -> None:
        self.signature, self.name = signature, signature.name
        args, kwargs = (part for part in signature.arguments["tuple"])
        self._plain = not kwargs["dict"] and all(part == LEAF for part in args["tuple"])
        self._leaves = len(signature.leaves)
        self._constants = [(n, x) for n, x in enumerate(signature.leaves) if isinstance(x, ConstantLeaf)]
        self._tensors = [
            _Tensor(n, x, signature.sizes) for n, x in enumerate(signature.leaves) if isinstance(x, TensorLeaf)
        ]
        self._bindings = [self._binding(name) for name in signature.sizes]
        self._relations = [
            (text, COMPARISONS[sign], expression((left, right), signature.sizes, text))
            for text, sign, left, right in signature.relations
        ]
        self._order = ArgumentOrder(signature.python(), len(args["tuple"]), [key for key, _ in kwargs["dict"]])
        # Whether it takes nothing but tensors of one device; and what these are, in order.
        self.alike = self._plain and not self._constants and not any(t.on_cpu for t in self._tensors)
        self.bindings = [(tensor.position, dim) for tensor, dim in self._bindings]
        self.dtypes = [t.dtype for t in self._tensors]
        layouts = tuple((t.leaf.layout.shape, t.leaf.layout.strides) for t in self._tensors)
        self.layouts_of = expression(layouts, signature.sizes, "the arguments")

    def _binding(self, size: str) -> tuple[_Tensor, int]:
        for tensor in self._tensors:
            if size in tensor.leaf.layout.shape:
                return tensor, tensor.leaf.layout.shape.index(size)
        raise InvalidPackage(f"the size {size} of {self.name} is no dimension of an argument")

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Checked:
        """Raises UnsupportedProgram for another call than those that were compiled."""
        leaves = self.flat(args, kwargs)
        return self._check_leaves(leaves)

    def check_tensors(self, tensors: Sequence[torch.Tensor]) -> Checked:
        """The same for the tensors among the arguments."""
        leaves: list[Any] = [None] * len(self.signature.leaves)
        if len(tensors) != len(self._tensors):
            raise UnsupportedProgram(
                f"{self.name} takes {len(self._tensors)} tensors, and is called with {len(tensors)}"
            )
        for t, x in zip(self._tensors, tensors, strict=True):
            leaves[t.position] = x
        return self._check_leaves(leaves)

    def flat(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """The leaves of a call.  Raises UnsupportedProgram for one of another form, or with other constants."""
        leaves = args if self._plain and not kwargs and len(args) == self._leaves else self._flatten(args, kwargs)
        for position, leaf in self._constants:
            if not _equal(leaves[position], leaf.value):
                raise UnsupportedProgram(
                    f"argument {leaf.path} of {self.name} is {leaves[position]!r}, and was compiled as the constant "
                    f"{leaf.value!r}",
                    next_step="pass the value that was compiled, or export a package for this one",
                )
        return leaves

    def empty(self, leaf: TensorLeaf, sizes: Sequence[Any], device: torch.device) -> torch.Tensor:
        """A tensor as a leaf says; sizes may be symbolic."""
        shape, strides = expression((leaf.layout.shape, leaf.layout.strides), self.signature.sizes, leaf.path)(sizes)
        place = torch.device("cpu") if leaf.device == "cpu" else device
        return torch.empty_strided(shape, strides, dtype=dtype_of(leaf.layout.dtype), device=place)

    def _check_leaves(self, leaves: Sequence[Any]) -> Checked:
        sizes = [self._size(leaves, tensor, dim) for tensor, dim in self._bindings] if self._bindings else []
        device: torch.device | None = None
        grad, tensors = torch.is_grad_enabled(), []
        for t in self._tensors:
            x = leaves[t.position]
            shape, strides = t.fixed or t.of(sizes)
            if not isinstance(x, torch.Tensor) or x.dtype is not t.dtype or x.shape != shape:
                raise self._misfit(x, t, sizes)
            place = x.device
            if t.on_cpu:
                if place.type != "cpu":
                    raise self._elsewhere(x, t, "cpu")
            elif device is None:
                device = place
            elif place != device:
                raise self._elsewhere(x, t, str(device))
            if grad and x.requires_grad:
                raise self._refusal(
                    t, "needs a gradient, and a packaged function is forward only", "call it under torch.no_grad()"
                )
            if x.stride() != strides:
                x = torch.empty_strided(shape, strides, dtype=x.dtype, device=place).copy_(x)
            tensors.append(x)
        if sizes:
            self._check_sizes(sizes)
        return Checked(tensors, leaves, sizes, device)

    def fit(self, sizes: Sequence[int]) -> bool:
        """Whether it was compiled for sizes such as these."""
        return min(sizes, default=LEAST) >= LEAST and all(holds(*sides(sizes)) for _, holds, sides in self._relations)

    def _check_sizes(self, sizes: list[int]) -> None:
        for name, value in zip(self.signature.sizes, sizes, strict=True):
            if value < LEAST:
                raise UnsupportedProgram(
                    f"the dynamic size {name} of {self.name} is {value}, and was compiled for {LEAST} or more",
                    next_step="export a package apart for this size: PyTorch broadcasts and skips sizes 0 and 1",
                )
        for text, holds, sides in self._relations:
            if not holds(*sides(sizes)):
                raise UnsupportedProgram(
                    f"{self.name} was compiled for sizes with {text}, and is called with {self.listed(sizes)}",
                    next_step="call it with sizes for which that holds, or export a package for these",
                )

    def listed(self, sizes: Sequence[int]) -> str:
        return ", ".join(f"{name} = {value}" for name, value in zip(self.signature.sizes, sizes, strict=True))

    def _size(self, leaves: Sequence[Any], tensor: _Tensor, dim: int) -> int:
        x = leaves[tensor.position]
        if not isinstance(x, torch.Tensor) or x.dim() != tensor.rank:
            raise self._misfit(x, tensor, None)
        return x.shape[dim]

    def _flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        leaves: list[Any] = []
        if flatten(self.signature.arguments, (tuple(args), dict(kwargs)), leaves):
            return leaves
        again = self._order.of(args, kwargs)
        leaves = []
        if again is not None and flatten(self.signature.arguments, again, leaves):
            return leaves
        paths = ", ".join(x.path for x in self.signature.leaves)
        raise UnsupportedProgram(
            f"{self.name} was compiled for the arguments ({paths}), and is called with others, or in another arrangement",
            next_step="pass as many arguments, with the same keywords, as in `fusecade.export`, or export again",
        )

    def _refusal(self, t: _Tensor, what: str, next_step: str) -> UnsupportedProgram:
        return UnsupportedProgram(f"argument {t.leaf.path} of {self.name} {what}", next_step=next_step)

    def _elsewhere(self, x: torch.Tensor, t: _Tensor, wanted: str) -> UnsupportedProgram:
        return self._refusal(
            t, f"is on {x.device}, and has to be on {wanted}, with the others", f"move it to {wanted}, or {AGAIN}"
        )

    def _misfit(self, x: Any, t: _Tensor, sizes: Sequence[int] | None) -> UnsupportedProgram:
        if not isinstance(x, torch.Tensor):
            return self._refusal(t, f"is {type(x).__name__}, and was compiled as a tensor", "pass a tensor")
        if x.dtype != t.dtype:
            step = f"convert it: x.to({t.dtype}); or {AGAIN}"
            return self._refusal(t, f"is {x.dtype}, and was compiled for {t.dtype}", step)
        wanted = ", ".join(map(str, t.leaf.layout.shape))
        where = f" with {self.listed(sizes)}" if sizes else ""
        what = f"has shape {list(x.shape)}, and was compiled for [{wanted}]{where}"
        return self._refusal(t, what, f"name the dimensions that change in `dynamic`, or {AGAIN}")


def _equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    return bool(a == b) or (a != a and b != b)
