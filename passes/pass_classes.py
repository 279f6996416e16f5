"""What a pass of `fusecade opt` is applied to: each program of a module, each kernel, or each kernel that streams a rank."""

from __future__ import annotations

from abc import abstractmethod

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ..ir.cascade import KernelOp, ProgramOp


class ProgramPass(ModulePass):
    """A pass over each program by itself."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for program in [p for p in op.walk() if isinstance(p, ProgramOp)]:
            self.on_program(program)

    @abstractmethod
    def on_program(self, program: ProgramOp) -> None:
        """Rewrite or annotate one program in place."""


class KernelPass(ModulePass):
    """A pass over each kernel by itself."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for kernel in [k for k in op.walk() if isinstance(k, KernelOp)]:
            self.on_kernel(kernel)

    @abstractmethod
    def on_kernel(self, kernel: KernelOp) -> None:
        """Rewrite or annotate one kernel in place."""


class StreamedPass(KernelPass):
    """A pass over each kernel that streams a rank."""

    def on_kernel(self, kernel: KernelOp) -> None:
        if kernel.streamed:
            self.on_stream(kernel, kernel.streamed)

    @abstractmethod
    def on_stream(self, kernel: KernelOp, stream: str) -> None:
        """Rewrite or annotate one kernel in place.  stream: the rank that it streams."""


__all__ = ["KernelPass", "ProgramPass", "StreamedPass"]
