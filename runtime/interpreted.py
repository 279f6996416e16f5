"""Triton's interpreter, quicker: reductions by a function of a kernel's own, on halves of a tile at once.

The interpreter combines the elements of a tile one by one, by calling the function for each: minutes for what takes a
second. A reduction may combine in any order that keeps the elements in theirs, so neighbours are combined pairwise, all
pairs in one call, until one is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np


@contextmanager
def quick_reductions() -> Iterator[None]:
    """Inside the block, interpreted kernels reduce in this way."""
    from triton.runtime import interpreter

    with patch.object(interpreter.ReduceOps, "generic_reduce", _reduce):
        yield


def _reduce(self: Any, input: Any) -> list[Any]:
    """In the place of `ReduceOps.generic_reduce`.  input: a tuple of tensors; self: the axis (None: all), the function."""
    tensors, axis = self.unravel(input, self.axis)
    shape = input[0].handle.data.shape
    kinds = [t.dtype for t in tensors]
    parts = [np.moveaxis(t.handle.data, axis, 0) for t in tensors]
    while parts[0].shape[0] > 1:
        even = parts[0].shape[0] // 2 * 2
        firsts, seconds = ([self.to_tensor(p[n:even:2], k) for p, k in zip(parts, kinds, strict=True)] for n in (0, 1))
        made = self.combine_fn.fn(*firsts, *seconds)
        made = made if isinstance(made, tuple) else (made,)
        parts = [np.concatenate([_data(m, p[:even:2]), p[even:]]) for m, p in zip(made, parts, strict=True)]
    found = [p[0] for p in parts]
    if self.keep_dims:
        found = [x.reshape((1,) * len(shape)) if self.axis is None else np.expand_dims(x, axis) for x in found]
    return [self.to_tensor(x if x.shape else x.item(), k) for x, k in zip(found, kinds, strict=True)]


def _data(made: Any, like: np.ndarray) -> np.ndarray:
    """What the function gave, which may be a number of Python's where it does not depend on the elements."""
    data = made.handle.data if hasattr(made, "handle") else np.asarray(made)
    return np.broadcast_to(data, like.shape).astype(like.dtype)
