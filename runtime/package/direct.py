"""The shortest way from a call to its result, for packages of one kernel that takes its arguments as they are.

A program in steps has several times as many calls of Python beside its kernel.  What is found here gives None for a call that
it does not know: that needs a closer look, which says what is wrong with it, or copies what comes in other strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .signature import Checks

Direct = Callable[[Sequence[Any]], torch.Tensor | None]
MOST_KNOWN = 256  # sizes whose plans are kept
_NOT_TENSORS = (AttributeError, TypeError, ValueError, IndexError)  # what an argument that is none makes of the checks


class Short(NamedTuple):
    """One kernel.  sizes_of: its own sizes, from those of the signature.  output_of: shape and strides of the result, from
    its own sizes.  launch_of: from its own sizes, what launches it on the inputs and the output.
    """

    sizes_of: Callable[[Sequence[int]], Sequence[int]]
    output_of: Callable[[Sequence[int]], tuple[Sequence[int], Sequence[int]]]
    dtype: torch.dtype
    launch_of: Callable[[Sequence[int]], Callable[[list[Any]], None]]


class _Plan(NamedTuple):
    """One kernel for some sizes.  usual: (dtype, shape, strides) of each argument."""

    usual: list[tuple[torch.dtype, Sequence[int], Sequence[int]]]
    shape: Sequence[int]
    strides: Sequence[int]
    dtype: torch.dtype
    launch: Callable[[list[Any]], None]


def direct_of(checks: Checks, short_for: Callable[[Sequence[int]], Short | None], device: torch.device) -> Direct:
    """short_for: the kernel for some sizes, if there is one.  The plans of the latest sizes are kept."""
    known: dict[tuple[int, ...], _Plan] = {}
    bindings = checks.bindings

    def plan_for(sizes: tuple[int, ...]) -> _Plan | None:
        plan = _plan(checks, short_for, sizes)
        if plan is not None:
            if len(known) >= MOST_KNOWN:
                known.clear()
            known[sizes] = plan
        return plan

    def call(args: Sequence[Any]) -> torch.Tensor | None:
        try:
            sizes = tuple([args[position].shape[dim] for position, dim in bindings])
            plan = known.get(sizes)
        except _NOT_TENSORS:
            return None
        if plan is None and (plan := plan_for(sizes)) is None:
            return None
        usual, shape, strides, dtype, launch = plan
        try:
            for x, (its_dtype, its_shape, its_strides) in zip(args, usual, strict=True):
                if (
                    x.dtype is not its_dtype or x.shape != its_shape or x.stride() != its_strides or x.requires_grad
                    or x.device != device
                ):  # fmt: skip
                    return None
        except _NOT_TENSORS:
            return None
        out = torch.empty_strided(shape, strides, dtype=dtype, device=device)
        launch([*args, out])
        return out

    return call


def _plan(checks: Checks, short_for: Callable[[Sequence[int]], Short | None], sizes: Sequence[int]) -> _Plan | None:
    """None for sizes that it was not compiled for, and for tensors without elements."""
    if not checks.fit(sizes) or (short := short_for(sizes)) is None:
        return None
    layouts = checks.layouts_of(sizes)
    own = short.sizes_of(sizes)
    shape, strides = short.output_of(own)
    if 0 in shape or (sizes and any(0 in given for given, _ in layouts)):
        return None
    usual = [(dtype, *layout) for dtype, layout in zip(checks.dtypes, layouts, strict=True)]
    return _Plan(usual, shape, strides, short.dtype, short.launch_of(own))
