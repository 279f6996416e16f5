"""One compilation at a time in a process: PyTorch's tracers keep what they patch in globals.

The lock is Dynamo's own, so that `fusecade.compile` in one thread waits for `torch.compile` in another.  A thread that
holds it may take it again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager


def compiling() -> AbstractContextManager[object]:
    from torch._dynamo.convert_frame import compile_lock  # tracing imports all of Dynamo anyway

    return compile_lock
