"""Launch a generated Triton kernel: on a CUDA or HIP device, or under Triton's interpreter on CPU tensors.

Triton compiles at the first launch and keeps the binary in its own cache; alignment of pointers and divisibility of
sizes are looked at anew by each launch, so that the same source serves every tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..codegen.artifact import KernelArtifact
from ..errors import InvalidArgument
from .descriptors import aligned, provide_scratch
from .expressions import function_of

OPTIONS = ("num_warps", "num_stages")  # of a launch, and not of a kernel, though one may have parameters of these names
LARGEST_TILE = 1 << 16  # elements that the last tile may reach beyond the end


class Launcher:
    """One kernel, ready to be launched on tensors and sizes."""

    def __init__(self, kernel: Any, artifact: KernelArtifact) -> None:
        self.kernel, self.artifact = kernel, artifact
        launch = artifact.launch
        self.narrow = "i32" in launch.get("signature", {}).values()
        self.described: tuple[int, ...] = tuple(launch.get("described", ()))
        self.grid = function_of(launch["grid"], artifact.sizes)
        self.constants: dict[str, Any] = dict(launch.get("constexprs", {}))
        self.constants |= {name: launch[name] for name in OPTIONS if name in launch}
        self.whole: dict[str, tuple[Callable[[Sequence[int]], int], int]] = {
            name: (function_of(extent, artifact.sizes), int(least))
            for name, (extent, least) in launch.get("whole", {}).items()
        }

    def __call__(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> None:
        """Run it; the tensors are inputs, then outputs."""
        programs = self.grid(sizes)
        if programs == 0:
            return
        if self.narrow and any(s >= 2**31 - LARGEST_TILE for s in sizes):
            raise InvalidArgument(
                f"kernel {self.artifact.name} counts in 32 bits, and a size is {max(sizes)}",
                next_step="compile it for that size, not for a symbol",
            )
        constants = self.constants | self.whole_constants(sizes)
        device = tensors[0].device
        if self.described:
            tensors = aligned(tensors, self.described)
        if is_interpreted(self.kernel):
            self._interpretable(tensors)
            self.kernel[(programs,)](*tensors, *sizes, **constants)
        elif device.type == "cpu":
            raise InvalidArgument(
                f"kernel {self.artifact.name} is for {self.artifact.target}, and its tensors are on the CPU",
                next_step="compile with tensors on a GPU, or with target='cpu'; to run it here for a test, slowly, "
                "set TRITON_INTERPRET=1 before Python starts",
            )
        else:
            if self.described:
                provide_scratch()
            with torch.accelerator.device_index(device.index):
                self.kernel[(programs,)](*tensors, *sizes, **constants)

    def whole_constants(self, sizes: Sequence[int]) -> dict[str, int]:
        """The constants that depend on sizes: how many lanes hold a whole rank."""
        return {name: lanes(max(least, f(sizes))) for name, (f, least) in self.whole.items()}

    def configured(self) -> Any:
        """The kernel with the options of its launch, as a choice between configurations of which there is one.

        This is how kernels of users have options in Inductor, which launches them itself.  A kernel that has an option as a
        parameter too is given it by the choice.
        """
        import triton

        options = {name: self.constants[name] for name in OPTIONS if name in self.constants}
        parameters = {name: value for name, value in options.items() if name in self.kernel.arg_names}
        return triton.autotune(configs=[triton.Config(parameters, **options)], key=[])(self.kernel)

    def _interpretable(self, tensors: Sequence[torch.Tensor]) -> None:
        """Triton's interpreter keeps bfloat16 as bits, and multiplies the bits (triton-lang/triton, issue 11584)."""
        if "tl.dot(" in self.artifact.source and any(t.dtype == torch.bfloat16 for t in tensors):
            raise InvalidArgument(
                f"kernel {self.artifact.name} has products of bfloat16, which Triton's interpreter computes wrongly",
                next_step="try it with float16 or float32 tensors, or run it on a GPU without TRITON_INTERPRET",
            )


def lanes(extent: int) -> int:
    """The least power of two that is not below `extent`: what a block holds a whole rank in."""
    return 1 << max(0, extent - 1).bit_length()


def is_interpreted(kernel: Any) -> bool:
    """Whether Triton's interpreter runs this kernel, which is decided when Triton is imported."""
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(kernel, InterpretedFunction)
