"""What the interpreter computes with: float64, int64 and boolean tensors, tensors with named ranks, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import Tensor
from xdsl.dialects.builtin import i1
from xdsl.ir import Attribute

from ...errors import InternalCompilerError, InvalidArgument
from .. import symbols
from ..attributes import AccessMap, compute_type, is_float

Space = dict[str, range]  # the coordinates that each rank takes here


@dataclass(frozen=True)
class Named:
    """A tensor whose dimensions are ranks."""

    tensor: Tensor
    ranks: tuple[str, ...]

    def over(self, order: Sequence[str]) -> Tensor:
        """The tensor with its ranks in `order`; ranks that it does not depend on get length 1."""
        if self.ranks == tuple(order):
            return self.tensor
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


def infer_from(
    shapes: Sequence[AccessMap], tensors: Sequence[Tensor], known: Mapping[str, int] | None
) -> dict[str, int]:
    if len(shapes) != len(tensors):
        raise InvalidArgument(f"{len(shapes)} tensors are needed, {len(tensors)} given")
    dims: list[tuple[sympy.Expr, int]] = []
    for n, (shape, tensor) in enumerate(zip(shapes, tensors, strict=True)):
        if len(shape.data) != tensor.dim():
            raise InvalidArgument(f"tensor {n} has {tensor.dim()} dimensions, {len(shape.data)} are declared")
        dims += zip(shape.data, tensor.shape, strict=True)
    return infer_sizes(dims, known)


def size_of(expression: sympy.Expr, sizes: Mapping[str, int]) -> int:
    try:
        return symbols.evaluate(expression, sizes)
    except KeyError as error:
        text = symbols.to_text(expression)
        raise InternalCompilerError(f"{text} needs {error.args[0]}, which has no value") from None
