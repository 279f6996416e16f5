"""The GPU binaries of plans' kernels, compiled without a GPU, several at a time, while the next plan is made.

with Binaries(folder) as binaries:
    binaries.begin(plan, sizes)  # ... and other plans
    found = binaries.of(plan, sizes)
"""

from __future__ import annotations

import json
import os
import queue
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ..codegen.artifact import KernelArtifact
from ..driver import Plan
from ..ir.target import get_target
from ..runtime.expressions import function_of
from ..runtime.files import private_folder
from ..runtime.loaded import write_source
from ..runtime.triton_compile import Compiled, CompileFailure, CompileRequest, CompilerPool
from ..runtime.triton_launch import lanes

GUESS = 4096  # stands for a size that is not known: a block that holds a whole rank is compiled for that
MOST_JOBS = 4  # compiler processes, of some 400 MB each

Outcome = Compiled | CompileFailure


class Binaries:
    """Compiler processes that are kept until the end of the `with` block: each imports Triton once.

    What a kernel uses (`Compiled.resources`) is read along with it.
    """

    def __init__(self, folder: Path, jobs: int | None = None) -> None:
        private_folder(folder)
        self._folder = folder
        jobs = jobs or max(2, min(MOST_JOBS, len(os.sched_getaffinity(0))))
        self._threads = ThreadPoolExecutor(jobs)
        self._pools = [CompilerPool(cache_dir=folder, jobs=1) for _ in range(jobs)]
        self._idle: queue.SimpleQueue[CompilerPool] = queue.SimpleQueue()
        for pool in self._pools:
            self._idle.put(pool)
        self._begun: dict[str, Future[Outcome]] = {}

    def __enter__(self) -> Binaries:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        for pool in self._pools:
            pool.close()

    def begin(self, plan: Plan, sizes: Mapping[str, int] | None = None) -> dict[str, Future[Outcome]]:
        """By the kernel's fingerprint; equal requests are one.  sizes: as in `of`."""
        if plan.target.kind == "cpu":
            return {}
        found = {}
        for key, kernel in {k.fingerprint: k for call in plan.calls for k in call.artifact.kernels}.items():
            of = f"{key} {json.dumps(blocks_of(kernel, sizes), sort_keys=True)}"
            if of not in self._begun:
                self._begun[of] = self._threads.submit(self._compile, request_of(kernel, self._folder, sizes))
            found[key] = self._begun[of]
        return found

    def of(
        self,
        plan: Plan,
        sizes: Mapping[str, int] | None = None,
        on_progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> dict[str, Outcome]:
        """Each kernel's binary, or why there is none, by the kernel's fingerprint.  `on_progress(done, total)` is told.

        sizes: the largest values of dynamic sizes, by the kernel's names for them: blocks that hold a whole rank hold that.
        """
        found: dict[str, Outcome] = {}
        waiting = self.begin(plan, sizes)
        for key, future in waiting.items():
            found[key] = future.result()
            on_progress(len(found), len(waiting))
        return found

    def _compile(self, request: CompileRequest) -> Outcome:
        pool = self._idle.get()
        try:
            [found] = pool.compile([request])
        finally:
            self._idle.put(pool)
        if isinstance(found, Compiled):
            _ = found.resources  # tools read them, which this thread waits for and not the one that plans
        return found


def blocks_of(artifact: KernelArtifact, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """The lanes of the blocks that hold a whole rank, by their names."""
    values = [(sizes or {}).get(name, GUESS) for name in artifact.sizes]
    return {
        name: lanes(max(int(least), function_of(extent, artifact.sizes)(values)))
        for name, (extent, least) in artifact.launch.get("whole", {}).items()
    }


def request_of(artifact: KernelArtifact, folder: Path, sizes: Mapping[str, int] | None = None) -> CompileRequest:
    """What Triton is asked to compile for an artifact."""
    launch = artifact.launch
    constants = {**launch.get("constexprs", {}), **blocks_of(artifact, sizes)}
    return CompileRequest(
        source_path=write_source(artifact, folder / "kernels"),
        kernel_name=artifact.function,
        signature=launch["signature"],
        constexprs=constants,
        target=get_target(artifact.target),
        divisible_by_16=tuple(launch.get("divisible", ())),
        num_warps=launch["num_warps"],
        num_stages=launch["num_stages"],
    )
