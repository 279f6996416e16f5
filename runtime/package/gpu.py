"""Launch a compiled kernel through the driver's own functions: cubin by CUDA's, hsaco by HIP's, called by ctypes.

    launcher = Launcher(driver_of("cuda"), binary, image, artifact)
    launcher([*inputs, *outputs], sizes)

A kernel's parameters are those of its source (buffers, sizes), then what Triton's compiler adds: a pointer to global
scratch, and one to scratch for profiling, which is null.  Triton 3.6 to 3.9 add both, on NVIDIA and on AMD; the manifest
has the list as the assembly declares it.  PyTorch has made the device's context before there is a tensor to
launch on; a thread of its own may have to enter it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from ...codegen.artifact import KernelArtifact
from ...errors import InvalidArgument, MissingTool, PackagedKernelFailed
from ..descriptors import ALIGNED, aligned
from ..expressions import function_of
from ..triton_launch import LARGEST_TILE, lanes
from .manifest import Binary

STATIC_SHARED = 48 << 10  # bytes that every kernel may have without asking
MOST_PROGRAMS = (1 << 31) - 1
_MAX_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_TYPES = {"pointer": ctypes.c_uint64, "scratch": ctypes.c_uint64, "i32": ctypes.c_int32, "i64": ctypes.c_int64}
_P, _U = ctypes.c_void_p, ctypes.c_uint


class Driver:
    """The functions of a driver library that a launch needs.  Each of them returns 0, or what went wrong."""

    def __init__(self, library: Any, prefix: str, kind: str) -> None:
        """prefix: "cu" or "hip"."""
        self.kind = kind
        self._load = _function(library, f"{prefix}ModuleLoadData", ctypes.POINTER(_P), _P)
        self._find = _function(library, f"{prefix}ModuleGetFunction", ctypes.POINTER(_P), _P, ctypes.c_char_p)
        launch = "cuLaunchKernel" if prefix == "cu" else "hipModuleLaunchKernel"
        self._launch = _function(library, launch, _P, *[_U] * 6, _U, _P, ctypes.POINTER(_P), ctypes.POINTER(_P))
        # AMD's compute units have no more than every kernel may use.
        self._attribute = (
            _function(library, "cuFuncSetAttribute", _P, ctypes.c_int, ctypes.c_int) if prefix == "cu" else None
        )
        self._contexts = None
        if prefix == "cu":
            self._contexts = (
                _function(library, "cuCtxGetCurrent", ctypes.POINTER(_P)),
                _function(library, "cuDeviceGet", ctypes.POINTER(ctypes.c_int), ctypes.c_int),
                _function(library, "cuDevicePrimaryCtxRetain", ctypes.POINTER(_P), ctypes.c_int),
                _function(library, "cuCtxSetCurrent", _P),
            )

    def enter(self, index: int) -> None:
        """Make the device's context that of this thread, if it has none: PyTorch sets it only when it needs it itself."""
        if self._contexts is None:  # HIP finds it by the device
            return
        current, device_of, retain, use = self._contexts
        context, device = _P(), ctypes.c_int()
        _check("tell the context", current(ctypes.byref(context)))
        if context.value is None:
            _check("find the device", device_of(ctypes.byref(device), index))
            _check("find the device's context", retain(ctypes.byref(context), device))
            _check("enter the device's context", use(context))

    def load(self, image: bytes, symbol: str, shared_bytes: int) -> int:
        """A function of a module, on the present device; both stay as long as the process."""
        module, function = _P(), _P()
        _check("load its module", self._load(ctypes.byref(module), image))
        _check("find it in its module", self._find(ctypes.byref(function), module, symbol.encode()))
        if shared_bytes > STATIC_SHARED and self._attribute is not None:
            _check("set its shared memory", self._attribute(function, _MAX_SHARED, shared_bytes))
        assert function.value is not None
        return function.value

    def launch(
        self, function: int, programs: int, threads: int, shared_bytes: int, stream: int, arguments: Any
    ) -> None:
        _check("launch", self._launch(function, programs, 1, 1, threads, 1, 1, shared_bytes, stream, arguments, None))


def _function(library: Any, name: str, *types: Any) -> Callable[..., int]:
    found = getattr(library, name)
    found.argtypes, found.restype = types, ctypes.c_int
    return found


def _check(what: str, status: int) -> None:
    if status != 0:
        raise RuntimeError(f"the driver could not {what}: error {status}")


@cache
def driver_of(kind: str) -> Driver:
    """Raises MissingTool where the library of the driver is not there."""
    names, prefix = (("libcuda.so.1", "nvcuda.dll"), "cu") if kind == "cuda" else (("libamdhip64.so",), "hip")
    for name in names:
        try:
            return Driver(ctypes.CDLL(name), prefix, kind)
        except (OSError, AttributeError):
            continue
    raise MissingTool(
        names[0], needed_for=f"kernels for {kind}", install="install the driver of the GPU; PyTorch needs it, too"
    )


def current_stream(device: torch.device) -> int:
    """The stream that PyTorch would launch on, as the driver knows it."""
    return torch._C._cuda_getCurrentRawStream(device.index)  # type: ignore[attr-defined]


class Launcher:
    """One kernel of a package, ready to be launched on tensors and sizes."""

    def __init__(
        self,
        driver: Driver,
        binary: Binary,
        image: bytes,
        artifact: KernelArtifact,
        stream_of: Callable[[torch.device], int] = current_stream,
    ) -> None:
        self.driver, self.binary, self.artifact, self.stream_of = driver, binary, artifact, stream_of
        launch, names = artifact.launch, artifact.sizes
        self._image = image
        self._grid = function_of(launch["grid"], names)
        buffers = len(artifact.inputs) + len(artifact.outputs)
        known = set(launch.get("divisible", ()))
        self._aligned = tuple(n for n, a in enumerate(launch["arguments"][:buffers]) if a in known)
        self._divisible = tuple(n for n, a in enumerate(launch["arguments"][buffers:]) if a in known)
        self._blocks = [
            (name, function_of(extent, names), int(least)) for name, (extent, least) in launch.get("whole", {}).items()
        ]
        self._narrow = "i32" in binary.parameters
        kinds = [_TYPES[p] for p in binary.parameters]
        self._fields = type("Arguments", (ctypes.Structure,), {"_fields_": [(f"a{n}", k) for n, k in enumerate(kinds)]})
        self._offsets = [getattr(self._fields, f"a{n}").offset for n in range(len(kinds))]
        self._pointers = _P * len(kinds)
        self._scratches = binary.parameters.count("scratch")
        self._bound: Callable[[Sequence[torch.Tensor]], None] | None = None  # for sizes that are fixed
        self._loaded: dict[int, int] = {}
        self._loading = threading.Lock()

    def __call__(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> None:
        """Run it; the tensors are inputs, then outputs."""
        if self._bound is not None:
            return self._bound(tensors)
        run = self.bound(sizes)
        if not self.artifact.sizes:  # it is the same for every call
            self._bound = run
        run(tensors)

    def bound(self, sizes: Sequence[int]) -> Callable[[Sequence[torch.Tensor]], None]:
        """The same for these sizes, to be called with tensors alone.  Raises InvalidArgument for others than it is for."""
        programs = self._grid(sizes)
        if programs == 0:
            return lambda tensors: None
        self._check(programs, sizes)

        def run(tensors: Sequence[torch.Tensor]) -> None:
            device = tensors[-1].device
            with torch.accelerator.device_index(device.index):
                self.launch(tensors, sizes, programs, device)

        return run

    def launch(
        self, tensors: Sequence[torch.Tensor], sizes: Sequence[int], programs: int, device: torch.device
    ) -> None:
        """On the present device, which is that of the tensors."""
        inputs = len(self.artifact.inputs)
        if any(tensors[n].data_ptr() % ALIGNED for n in self._aligned):
            tensors = aligned(tensors, [n for n in self._aligned if n < inputs])
        scratch = None
        if self.binary.scratch_bytes:
            scratch = torch.empty(programs * self.binary.scratch_bytes, dtype=torch.uint8, device=device)
        extra = [scratch.data_ptr() if scratch is not None else 0, 0][: self._scratches]
        packed = self._fields(*[t.data_ptr() for t in tensors], *sizes, *extra)
        base = ctypes.addressof(packed)
        arguments = self._pointers(*[base + offset for offset in self._offsets])
        index = device.index or 0
        self.driver.enter(index)
        function = self._loaded.get(index) or self._load(index)
        b = self.binary
        self.driver.launch(function, programs, b.threads, b.shared_bytes, self.stream_of(device), arguments)

    def _load(self, index: int) -> int:
        with self._loading:
            if index not in self._loaded:
                try:
                    found = self.driver.load(self._image, self.binary.symbol, self.binary.shared_bytes)
                except RuntimeError as error:
                    raise PackagedKernelFailed(self.artifact.name, self.artifact.target, error) from error
                self._loaded[index] = found
            return self._loaded[index]

    def _check(self, programs: int, sizes: Sequence[int]) -> None:
        """Raises InvalidArgument for sizes that the binary was not compiled for."""
        name = self.artifact.name
        if not 0 < programs <= MOST_PROGRAMS:
            raise InvalidArgument(
                f"kernel {name} would need {programs} programs, and a launch has at most {MOST_PROGRAMS}"
            )
        if self._narrow and any(s >= 2**31 - LARGEST_TILE for s in sizes):
            raise InvalidArgument(
                f"kernel {name} counts in 32 bits, and a size is {max(sizes)}",
                next_step="export it for that size, not for a symbol",
            )
        if any(sizes[n] % ALIGNED for n in self._divisible):
            raise InvalidArgument(f"kernel {name} was compiled for sizes that {ALIGNED} divides")
        for block, extent, least in self._blocks:
            needed, there = lanes(max(least, extent(sizes))), self.binary.constants[block]
            if needed > there:
                raise InvalidArgument(
                    f"kernel {name} holds {there} elements in its block {block}, and these sizes need {needed}",
                    next_step="export the package with a bucket for sizes as large as these",
                )
