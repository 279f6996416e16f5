"""PyTorch's operators that compute nothing: what they give is their argument's memory, begun elsewhere and strided otherwise.

Shape and strides of the result are in the package; where it begins is worked out here, as an expression over sizes, and
held against what PyTorch itself makes of a tensor without memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...codegen.artifact import Layout
from ...errors import InternalCompilerError
from ...runtime.package.manifest import Step
from ...runtime.package.steps import OperatorStep
from ...runtime.package.values import dtype_of, expression
from .arithmetic import plus, times

Number = int | str  # an expression over sizes
META = torch.device("meta")


class NoView(ValueError):
    """Why a result is not known to be memory of an argument."""


# Operators whose result begins where their argument does.
_IN_PLACE = set(
    "aten.view.default aten._unsafe_view.default aten.reshape.default aten.permute.default aten.transpose.int aten.t.default "
    "aten.expand.default aten.expand_as.default aten.unsqueeze.default aten.squeeze.default aten.squeeze.dim "
    "aten.squeeze.dims aten.flatten.using_ints aten.unflatten.int aten.movedim.int aten.movedim.intlist aten.alias.default "
    "aten.detach.default prims.transpose.default prims.squeeze.default prims.collapse_view.default "
    "prims.split_dim.default prims.broadcast_in_dim.default".split()
)


def _of_select(given: Layout, args: Sequence[Any], gives: Sequence[Layout]) -> list[Number]:
    dim = _dim(given, _at(args, 1))
    return [times((_from_end(_number(_at(args, 2)), given.shape[dim]), given.strides[dim]))]


def _of_slice(given: Layout, args: Sequence[Any], gives: Sequence[Layout]) -> list[Number]:
    dim, start = _dim(given, _at(args, 1, 0)), _at(args, 2)
    size = given.shape[dim]
    begin = 0 if start is None else _cut(_from_end(_number(start), size), size)
    return [times((begin, given.strides[dim]))]


def _of_narrow(given: Layout, args: Sequence[Any], gives: Sequence[Layout]) -> list[Number]:
    dim = _dim(given, _at(args, 1))
    return [times((_from_end(_number(_at(args, 2)), given.shape[dim]), given.strides[dim]))]


def _of_split(given: Layout, args: Sequence[Any], gives: Sequence[Layout]) -> list[Number]:
    dim = _dim(given, _at(args, 2, 0))
    return [times((plus([x.shape[dim] for x in gives[:n]]), given.strides[dim])) for n in range(len(gives))]


def _of_unbind(given: Layout, args: Sequence[Any], gives: Sequence[Layout]) -> list[Number]:
    dim = _dim(given, _at(args, 1, 0))
    return [times((n, given.strides[dim])) for n in range(len(gives))]


_OFFSETS: dict[str, Callable[[Layout, Sequence[Any], Sequence[Layout]], list[Number]]] = {
    "aten.select.int": _of_select,
    "aten.slice.Tensor": _of_slice,
    "aten.narrow.default": _of_narrow,
    "aten.split.Tensor": _of_split,
    "aten.split_with_sizes.default": _of_split,
    "aten.chunk.default": _of_split,
    "aten.unbind.int": _of_unbind,
}


# Operators that copy: where strides stay, nothing has to be moved before somebody changes one of the two.  Which argument.
_COPIES = {"aten.clone.default": 0, "aten.copy.default": 1}


def is_view(step: Step) -> bool:
    """Whether a step computes nothing; `view_of` says whether it moves something."""
    return step.operator in _IN_PLACE or step.operator in _OFFSETS or step.operator in _COPIES


@dataclass(frozen=True)
class ViewStep:
    """A step that gives views of one value.

    source: its number.  offsets: of each result, in elements behind the beginning of the source.  copies: whether what it
    gives is a tensor of its own, which has to keep its values when the source's are changed.
    """

    source: int
    offsets: tuple[Number, ...]
    copies: bool = False


def view_of(step: Step, given: Sequence[Any], names: tuple[str, ...], samples: Sequence[Sequence[int]]) -> ViewStep:
    """given: the layouts of all values so far.  samples: sizes for which PyTorch is asked.

    Raises NoView for an operator that copies at these strides, or begins where no expression says.
    """
    first = _at(step.args, _COPIES.get(step.operator, 0))
    source = first.get("value") if isinstance(first, dict) else None
    layout = given[source] if isinstance(source, int) else None
    gives = [x for x in step.gives if isinstance(x, Layout)]
    if not isinstance(source, int) or not isinstance(layout, Layout) or len(gives) != len(step.gives):
        raise NoView("it is given no tensor")
    if step.operator in _COPIES:
        if gives != [layout]:
            raise NoView("it copies a tensor to other strides, another shape or another dtype")
        return ViewStep(source, (0,), copies=True)
    args = list(step.args)
    if step.kwargs:
        raise NoView("it is called with keywords")
    offsets = [0] if step.operator in _IN_PLACE else _OFFSETS[step.operator](layout, args, gives)
    found = ViewStep(source, tuple(offsets))
    for sizes in samples:
        _hold_against_pytorch(step, found, given, names, sizes)
    return found


def _hold_against_pytorch(
    step: Step, found: ViewStep, given: Sequence[Any], names: tuple[str, ...], sizes: Sequence[int]
) -> None:
    values: list[Any] = [_meta(x, names, sizes) if isinstance(x, Layout) else None for x in given]
    source = values[found.source]
    OperatorStep(step, len(values), names, META, step.operator)(values, sizes)
    for made, layout, offset in zip(values[len(given) :], step.gives, found.offsets, strict=True):
        assert isinstance(layout, Layout)
        if made.untyped_storage()._cdata != source.untyped_storage()._cdata:
            raise NoView("it copies a tensor of these strides")
        strides, begin = expression((layout.strides, offset), names, step.operator)(sizes)
        if made.storage_offset() != begin or any(
            s != t for n, s, t in zip(made.shape, made.stride(), strides, strict=True) if n > 1
        ):
            raise InternalCompilerError(
                f"{step.operator} of {source.shape}, {source.stride()} begins at {made.storage_offset()} with strides "
                f"{made.stride()}, and {begin}, {strides} were expected",
                stage="export",
            )


def _meta(layout: Layout, names: tuple[str, ...], sizes: Sequence[int]) -> torch.Tensor:
    shape, strides = expression((layout.shape, layout.strides), names, "a layout")(sizes)
    return torch.empty_strided(shape, strides, dtype=dtype_of(layout.dtype), device=META)


def _at(args: Sequence[Any], n: int, otherwise: Any = None) -> Any:
    return args[n] if n < len(args) else otherwise


def _dim(given: Layout, dim: Any) -> int:
    if not isinstance(dim, int) or not -len(given.shape) <= dim < len(given.shape):
        raise NoView("its dimension is not known")
    return dim % len(given.shape)


def _number(x: Any) -> Number:
    """An argument that is an integer or an expression over sizes."""
    if isinstance(x, int):
        return x
    if isinstance(x, dict) and isinstance(x.get("size"), str):
        return x["size"]
    raise NoView("it begins at a number that is computed")


def _from_end(start: Number, size: Number) -> Number:
    """Python counts from the end what is negative.  Of an expression the sign is known when it runs: C refuses it then."""
    return plus((size, start)) if isinstance(start, int) and start < 0 else start


def _cut(start: Number, size: Number) -> Number:
    """Within the dimension."""
    if isinstance(start, int) and isinstance(size, int):
        return max(0, min(start, size))
    return start if start == 0 else f"min({start}, {size})"
