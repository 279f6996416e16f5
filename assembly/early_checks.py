"""What Inductor asks of the machine before its first kernel for the CPU, asked while our kernels are still being planned.

Which vector instructions the C++ compiler can build for is tried out by building and loading small programs: 8 s on two
cores with an empty cache, all of them spent in other processes.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from torch import fx

LARGE = 100  # nodes of a graph whose plan takes long enough, and of which Inductor will be left a part


class EarlyChecks:
    """The checks of one compilation; Inductor keeps their answers for the process."""

    def __init__(self) -> None:
        self._running: threading.Thread | None = None

    def start(self, gm: fx.GraphModule, check: Callable[[], object] | None = None) -> None:
        """Start them for a large graph, once.  check: what is asked, by default Inductor's choice of vector instructions."""
        if self._running is None and len(gm.graph.nodes) >= LARGE:
            context = contextvars.copy_context()  # where Inductor keeps settings
            self._running = threading.Thread(
                target=lambda: context.run(_quietly, check or _vector_instructions), name="fusecade-checks", daemon=True
            )
            self._running.start()

    def finish(self) -> None:
        """Wait for them: asked twice at the same time, they would be made twice."""
        if self._running is not None:
            self._running.join()
            self._running = None


def _vector_instructions() -> None:
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    pick_vec_isa()


def _quietly(check: Callable[[], object]) -> None:
    try:
        check()
    except Exception:  # whatever it is, Inductor comes upon it where there is somebody to tell
        return
