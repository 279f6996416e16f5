"""What Inductor does before its first kernel for the CPU, done while our kernels are still being planned.

Which vector instructions the C++ compiler can build for is tried out by building and loading small programs, and the
headers of all kernels are compiled once for a machine: 8 and 4 s on two cores where nothing is kept of either, all of them
spent in other processes.
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
        """Start them for a large graph, once.  check: what is asked, by default all that Inductor asks."""
        if self._running is None and len(gm.graph.nodes) >= LARGE:
            context = contextvars.copy_context()  # where Inductor keeps settings
            self._running = threading.Thread(
                target=lambda: context.run(_quietly, check or _ask), name="fusecade-checks", daemon=True
            )
            self._running.start()

    @property
    def running(self) -> bool:
        return self._running is not None and self._running.is_alive()

    def finish(self) -> None:
        """Wait for them: asked twice at the same time, they would be made twice."""
        if self._running is not None:
            self._running.join()
            self._running = None


def _ask() -> None:
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    # All that comes before the kernel itself, which `submit_fn` is to compile and does not.
    CppPythonBindingsCodeCache.load_pybinding_async(
        [], 'extern "C" void kernel() {}', submit_fn=lambda compile_it: None
    )


def _quietly(check: Callable[[], object]) -> None:
    try:
        check()
    except Exception:  # whatever it is, Inductor comes upon it where there is somebody to tell
        return
