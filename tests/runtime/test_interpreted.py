"""Reductions under the interpreter, pairwise: the results are those of one element after the other."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl

from fusecade.runtime.interpreted import quick_reductions


@triton.jit
def nan_max(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def last(a, b):
    """Associative, and depends on the order."""
    return b


@triton.jit
def longest(value, index, other, other_index):
    """The greatest value and its first index."""
    take = (other > value) | ((other == value) & (other_index < index))
    return tl.where(take, other, value), tl.where(take, other_index, index)


@triton.jit
def kernel(x_ptr, top_ptr, last_ptr, at_ptr, all_ptr, N: tl.constexpr, M: tl.constexpr, AXIS: tl.constexpr):
    i = tl.arange(0, N)
    j = tl.arange(0, M)
    x = tl.load(x_ptr + i[:, None] * M + j[None, :])
    out = j if AXIS == 0 else i
    tl.store(top_ptr + out, tl.reduce(x, AXIS, nan_max))
    tl.store(last_ptr + out, tl.reduce(x, AXIS, last))
    index = (i[:, None] if AXIS == 0 else j[None, :]) + tl.zeros([N, M], tl.int32)
    _, at = tl.reduce((x, index), AXIS, longest)
    tl.store(at_ptr + out, at)
    tl.store(all_ptr, tl.reduce(x, None, nan_max))


@pytest.mark.parametrize(("n", "m"), [(8, 16), (1, 4), (16, 1), (2, 2)])
@pytest.mark.parametrize("axis", [0, 1])
def test_reductions_of_a_kernels_own(n: int, m: int, axis: int):
    x = torch.randn(n, m, generator=torch.Generator().manual_seed(n * m))
    if n > 2 and m > 2:
        x[0, 1] = math.nan
    top, final = torch.empty(m if axis == 0 else n), torch.empty(m if axis == 0 else n)
    at, every = torch.empty(m if axis == 0 else n, dtype=torch.int32), torch.empty(1)
    with quick_reductions():
        kernel[(1,)](x, top, final, at, every, n, m, axis)
    assert torch.equal(top.isnan(), x.isnan().any(axis))
    torch.testing.assert_close(top, x.amax(axis), equal_nan=True)
    assert torch.equal(final.nan_to_num(7.0), x.select(axis, -1).nan_to_num(7.0))
    without = ~x.isnan().any(axis)
    assert torch.equal(at[without].long(), x.argmax(axis)[without])
    torch.testing.assert_close(every[0], x.amax(), equal_nan=True)
