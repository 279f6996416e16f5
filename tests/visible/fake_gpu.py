"""A GPU that PyTorch and Triton can ask about, and that runs nothing: enough to have Inductor write its code here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.codecache import AotCodeCompiler
from torch._inductor.codegen.cpp_wrapper_gpu import DeferredTritonCallWrapper
from torch._inductor.codegen.wrapper import PythonWrapperCodegen
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from triton.backends.compiler import GPUTarget

PROPERTIES = SimpleNamespace(
    name="none", type="cuda", major=9, minor=0, multi_processor_count=132, total_memory=80 << 30, warp_size=32,
    regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024,
    shared_memory_per_block=49152, shared_memory_per_block_optin=232448, L2_cache_size=50 << 20, is_integrated=False,
    gcnArchName="",
)  # fmt: skip


class _Driver:
    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)


class Stop(BaseException):
    """Inductor has written its code; there is nothing to run it on.  No error, which would have another way tried."""


@contextmanager
def fake_gpu() -> Iterator[list[str]]:
    """While it is there, compilation goes as far as the code, which is put into the list, and ends with Stop."""
    written: list[str] = []

    def save(code: str) -> None:
        written.append(code)
        raise Stop

    def save_ahead(graph: Any, code: str, *_: Any, **__: Any) -> None:
        save(code)

    define = DeferredTritonCallWrapper.generate

    def define_here(self: Any, wrapper: Any) -> None:
        if not V.graph.aot_mode:
            define(self, wrapper)

    always: Callable[[Any], Callable[..., Any]] = lambda value: lambda *_, **__: value  # noqa: E731
    state = torch.zeros(16, dtype=torch.uint8)
    with ExitStack() as stack:
        for name, value in {
            "get_device_properties": PROPERTIES, "get_device_capability": (9, 0), "current_device": 0,
            "is_available": True, "_exchange_device": 0, "_maybe_exchange_device": 0, "synchronize": None,
            "get_rng_state": state, "set_rng_state": None,
        }.items():  # fmt: skip
            stack.enter_context(patch.object(torch.cuda, name, always(value)))
        for name, value in {
            "get_device_properties": PROPERTIES, "current_device": 0, "is_available": True,
            "get_compute_capability": 90, "raise_if_triton_unavailable": None,
        }.items():  # fmt: skip
            stack.enter_context(patch.object(CudaInterface, name, staticmethod(always(value))))
        worker = CudaInterface.Worker
        stack.enter_context(patch.object(worker, "get_device_properties", staticmethod(always(PROPERTIES))))
        # Patterns of attention are traced on the device itself.
        stack.enter_context(patch("torch._inductor.fx_passes.joint_graph.lazy_init", always(None)))
        stack.enter_context(patch.object(GraphLowering, "save_output_code", staticmethod(save)))
        # Ahead of time kernels are compiled, and their sizes noted, before the code is complete.
        stack.enter_context(patch.object(PythonWrapperCodegen, "generate_and_run_autotune_block", always(None)))
        stack.enter_context(patch.object(DeferredTritonCallWrapper, "generate", define_here))
        stack.enter_context(patch.object(AotCodeCompiler, "compile", staticmethod(save_ahead)))
        stack.enter_context(patch.object(triton.runtime.driver, "_active", _Driver()))
        yield written
