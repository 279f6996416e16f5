"""The GPU binaries of a plan's kernels, compiled without a GPU, several at a time."""

from __future__ import annotations

from collections.abc import Callable
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
    plan: Plan, folder: Path, jobs: int = 2, on_progress: Callable[[int, int], object] = lambda done, total: None
) -> dict[str, Compiled | CompileFailure]:
    """Each kernel's binary, or why there is none, by the kernel's fingerprint.  `on_progress(done, total)` is told."""
    artifacts = {kernel.fingerprint: kernel for call in plan.calls for kernel in call.artifact.kernels}
    found: dict[str, Compiled | CompileFailure] = {}
    private_folder(folder)
    with CompilerPool(cache_dir=folder, jobs=jobs) as pool:
        waiting = list(artifacts.items())
        for start in range(0, len(waiting), jobs):
            part = waiting[start : start + jobs]
            results = pool.compile([request_of(artifact, folder) for _, artifact in part])
            for (key, _), result in zip(part, results, strict=True):
                found[key] = result
                on_progress(len(found), len(artifacts))
    return found


def request_of(artifact: KernelArtifact, folder: Path) -> CompileRequest:
    """What Triton is asked to compile for an artifact."""
    launch, guess = artifact.launch, [GUESS] * len(artifact.sizes)
    constants = dict(launch.get("constexprs", {}))
    for name, (extent, least) in launch.get("whole", {}).items():
        constants[name] = lanes(max(int(least), function_of(extent, artifact.sizes)(guess)))
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
