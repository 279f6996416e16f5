"""The GPU binaries of a plan's kernels, compiled without a GPU, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def compile_binaries(
    plan: Plan,
    folder: Path,
    jobs: int = 2,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Compiled | CompileFailure]:
    """Each kernel's binary, or why there is none, by the kernel's fingerprint.  `on_progress(done, total)` is told.

    sizes: the largest values of dynamic sizes, by the kernel's names for them: blocks that hold a whole rank hold that.
    """
    artifacts = {kernel.fingerprint: kernel for call in plan.calls for kernel in call.artifact.kernels}
    found: dict[str, Compiled | CompileFailure] = {}
    private_folder(folder)
    with CompilerPool(cache_dir=folder, jobs=jobs) as pool:
        waiting = list(artifacts.items())
        for start in range(0, len(waiting), jobs):
            part = waiting[start : start + jobs]
            results = pool.compile([request_of(artifact, folder, sizes) for _, artifact in part])
            for (key, _), result in zip(part, results, strict=True):
                found[key] = result
                on_progress(len(found), len(artifacts))
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
