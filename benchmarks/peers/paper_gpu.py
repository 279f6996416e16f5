"""A GPU on paper: host code of Triton kernels believes in it, and what it launches is compiled, or interpreted.

A hand-written kernel's launcher picks its tiles by asking the device, and Triton derives from the arguments what it may
assume of them (alignment, constants). Both happen here as in a real launch, on CPU tensors; only the launch itself does
not. An autotuner has nothing to time: it takes the first configuration of its pruned list that has the wanted constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime import autotuner, driver, jit

from fusecade.runtime.resources import Resources, read_resources
from fusecade.runtime.triton_compile import Compiled


@dataclass(frozen=True)
class Device:
    """What launchers ask about; sizes in bytes, clock rates in kHz."""

    arch: int
    name: str
    processors: int
    shared: int
    memory_clock: int
    bus_bits: int
    clock: int


DEVICES = {
    80: Device(80, "NVIDIA A100-SXM4-80GB", 108, 166912, 1593000, 5120, 1410000),
    90: Device(90, "NVIDIA H100 80GB HBM3", 132, 232448, 2619000, 5120, 1980000),
}


@dataclass(frozen=True)
class Launch:
    """One launch: the kernel, its integer constants, and what its binary uses."""

    kernel: str
    programs: int
    constants: Mapping[str, int]
    num_warps: int
    num_stages: int
    resources: Resources


@dataclass
class Record:
    """Everything that was launched, and what each autotuner chose out of how many."""

    launches: list[Launch] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)


@contextmanager
def paper_gpu(arch: int, wanted: Mapping[str, int] | None = None, *, interpreted: bool) -> Iterator[Record]:
    """Inside, launches on CPU tensors go to this GPU.

    wanted: constants that an autotuner's choice must have; it raises LookupError where no configuration has them.
    interpreted: leave launches to Triton's interpreter, which must be on; else compile each and record it.
    """
    record, device = Record(), DEVICES[arch]
    major, minor = divmod(arch, 10)
    properties = SimpleNamespace(
        name=device.name,
        major=major,
        minor=minor,
        multi_processor_count=device.processors,
        shared_memory_per_block_optin=device.shared,
        shared_memory_per_multiprocessor=device.shared + 1024,
        total_memory=80 << 30,
        warp_size=32,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        L2_cache_size=50 << 20,
    )
    functions: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_capability": lambda *_: (major, minor),
        "get_device_properties": lambda *_: properties,
        "get_device_name": lambda *_: device.name,
        "set_device": lambda *_: None,
        "synchronize": lambda *_: None,
        "is_current_stream_capturing": lambda: False,
        "device": lambda *_: nullcontext(),
    }
    with ExitStack() as patched:
        for name, function in functions.items():
            patched.enter_context(patch.object(torch.cuda, name, function))
        patched.enter_context(patch.object(torch.Tensor, "is_cuda", property(lambda _: True), create=True))
        patched.enter_context(patch.object(autotuner.Autotuner, "run", _choose(record, wanted or {})))
        if not interpreted:
            patched.enter_context(patch.object(jit.JITFunction, "run", _compile_instead(record, arch)))
        patched.enter_context(patch.object(driver, "_active", _Driver(device)))
        yield record


class _Driver:
    """What Triton and launchers ask the driver."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.utils = SimpleNamespace(get_device_properties=self._properties)

    def _properties(self, *_: object) -> dict[str, int]:
        return {
            "max_shared_mem": self._device.shared,
            "multiprocessor_count": self._device.processors,
            "max_num_regs": 65536,
            "warpSize": 32,
            "sm_clock_rate": self._device.clock,
            "mem_clock_rate": self._device.memory_clock,
            "mem_bus_width": self._device.bus_bits,
        }

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._device.arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, *_: object) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cuda


def _choose(record: Record, wanted: Mapping[str, int]) -> Callable[..., Any]:
    def run(tuner: Any, *args: Any, **kwargs: Any) -> Any:
        tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
        configs = tuner.prune_configs(kwargs) if len(tuner.configs) > 1 else tuner.configs
        fitting = [config for config in configs if wanted.items() <= config.all_kwargs().items()]
        if not fitting:
            raise LookupError(f"none of {len(configs)} configurations has {dict(wanted)}")
        if len(configs) > 1:
            record.chosen.append(f"{fitting[0]} (1 of {len(configs)})")
        options = fitting[0].all_kwargs()
        tuner.best_config = fitting[0]
        if fitting[0].pre_hook is not None:
            fitting[0].pre_hook({**tuner.nargs, **kwargs, **options})
        return tuner.fn.run(*args, **kwargs, **options)

    return run


def _compile_instead(record: Record, arch: int) -> Callable[..., None]:
    """In place of `JITFunction.run`: the same specialisation and the same compiler, and then no launch."""

    def run(function: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        target = GPUTarget("cuda", arch, 32)
        backend = make_backend(target)
        binder = jit.create_function_from_signature(function.signature, function.params, backend)
        kwargs.setdefault("debug", False)
        bound, specialization, options = binder(*args, **kwargs)
        options, signature, constants, attributes = function._pack_args(backend, kwargs, bound, specialization, options)
        source = ASTSource(function, signature, constants, attributes)
        made = triton.compile(source, target=target, options=vars(options))
        extents: Any = grid(bound) if callable(grid) else grid
        record.launches.append(
            Launch(
                made.metadata.name,
                math.prod(extents),
                {
                    path[0] if isinstance(path[0], str) else function.arg_names[path[0]]: value
                    for path, value in constants.items()
                    if len(path) == 1 and type(value) is int
                },
                made.metadata.num_warps,
                made.metadata.num_stages,
                _resources(made, arch),
            )
        )

    return run


def _resources(made: Any, arch: int) -> Resources:
    return read_resources(
        Compiled(
            kernel_name=made.metadata.name,
            kind="cuda",
            arch=arch,
            binary=made.asm["cubin"],
            assembly=made.asm["ptx"],
            ttir="",
            ttgir="",
            shared_bytes=made.metadata.shared,
            num_warps=made.metadata.num_warps,
            num_stages=made.metadata.num_stages,
            metadata=made.metadata._asdict(),
            cache_key="",
            seconds=0.0,
        )
    )
