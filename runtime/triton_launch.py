"""Launch a generated Triton kernel: on a CUDA or HIP device, or under Triton's interpreter on CPU tensors.

Triton compiles at the first launch and keeps the binary in its own cache; alignment of pointers and divisibility of sizes
are looked at anew by each launch, so that the same source serves every tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..codegen.artifact import KernelArtifact
from ..errors import InvalidArgument


def launch(kernel: Any, artifact: KernelArtifact, grid: Sequence[int], tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> None:
    """Run `kernel` over `grid`; the tensors are inputs, then outputs."""
    if 0 in grid:
        return
    parameters = dict(artifact.launch.get("constexprs", {}))
    for name in ("num_warps", "num_stages"):
        if name in artifact.launch:
            parameters[name] = artifact.launch[name]
    if is_interpreted(kernel):
        kernel[tuple(grid)](*tensors, *sizes, **parameters)
        return
    device = tensors[0].device
    if device.type == "cpu":
        raise InvalidArgument(
            f"kernel {artifact.name} is for {artifact.target}, and its tensors are on the CPU",
            next_step="move the tensors to a GPU, or compile with target='cpu'; to run it here for a test, slowly, set "
            "TRITON_INTERPRET=1 before Python starts",
        )
    with torch.accelerator.device_index(device.index):
        kernel[tuple(grid)](*tensors, *sizes, **parameters)


def is_interpreted(kernel: Any) -> bool:
    """Whether Triton's interpreter runs this kernel, which is decided when Triton is imported."""
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(kernel, InterpretedFunction)
