"""What a kernel with tensor descriptors needs of its launch: aligned tensors, and scratch memory on the device.

A descriptor is made by the kernel itself, in memory that Triton asks an allocator for; without one it refuses to launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

ALIGNED = 16  # bytes


def aligned(tensors: Sequence[torch.Tensor], described: Sequence[int]) -> list[torch.Tensor]:
    """The tensors; of those that descriptors describe, copies at aligned addresses where they begin elsewhere.

    A copy costs a pass over the tensor, as one of other strides does: slices that begin in the middle of a row are rare.
    """
    found = list(tensors)
    for n in described:
        if found[n].data_ptr() % ALIGNED:
            found[n] = _copy(found[n])
    return found


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements in the same strides, in memory of their own; strides may be 0."""
    length = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else 0
    return tensor.as_strided((length,), (1,)).clone().as_strided(tensor.shape, tensor.stride())


def provide_scratch() -> None:
    """Give Triton an allocator in this context (a thread, a task), where nobody has given it one."""
    import triton
    from triton.runtime import _allocation

    if isinstance(_allocation._allocator.get(), _allocation.NullAllocator):
        triton.set_allocator(_scratch)


def _scratch(size: int, alignment: int, stream: int | None) -> Any:
    """Memory on the present device: PyTorch hands out more aligned than is asked for, and reuses it in stream order."""
    return torch.empty(size, dtype=torch.int8, device=torch.accelerator.current_accelerator())
