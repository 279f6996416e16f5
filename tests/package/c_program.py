"""A folder that `fusecade` wrote in C, built against a driver that stands for the real one, and called from here.

The driver's memory is the host's, and its launches run the kernels' Triton source under Triton's interpreter: what the C
program computes is right or wrong.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from fusecade.codegen.artifact import KernelArtifact
from fusecade.runtime.loaded import load
from fusecade.runtime.package.manifest import Binary, Package
from fusecade.runtime.package.values import dtype_of, expression

HERE = Path(__file__).parent
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
BACKENDS = Path(triton.__file__).parent / "backends"
INCLUDE = {"cuda": BACKENDS / "nvidia" / "include", "hip": BACKENDS / "amd" / "include"}
DEFINES = {"cuda": [], "hip": ["-DFUSECADE_HIP"]}
DEVICES = {"sm_80": (8, 0), "sm_86": (8, 6), "sm_89": (8, 9), "sm_90": (9, 0), "sm_100": (10, 0)}
STREAM = 0x5678
Runner = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.c_uint, ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
)  # fmt: skip


@dataclass(frozen=True)
class Launched:
    """What a driver was asked for.  values: of the parameters, by what the manifest says of their types."""

    member: str
    symbol: str
    dims: tuple[int, ...]
    shared: int
    stream: int
    values: tuple[int, ...]
    kinds: tuple[str, ...]


def compiler() -> str:
    found = shutil.which("gcc") or shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler here: apt install gcc")
    return found


def headers(kind: str) -> list[str]:
    """Those of the driver, which come with Triton."""
    folder = INCLUDE[kind]
    if not (folder / ("cuda.h" if kind == "cuda" else "hip/hip_runtime_api.h")).is_file():
        pytest.skip(f"this Triton brings no headers of {kind}: the one that `pip install .[test]` takes does")
    return ["-isystem", str(folder)]


def compile_strictly(folder: Path, kind: str, command: Sequence[str]) -> None:
    """Every source of the folder, with all warnings as errors."""
    for source in sorted(folder.glob("*.c")):
        command_line = [*command, *STRICT, *DEFINES[kind], *headers(kind), "-c", str(source), "-o", os.devnull]
        done = subprocess.run(command_line, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]


class Built:
    """The folder's source, its example and the driver as one library.  launches: what was launched, in order."""

    def __init__(self, folder: Path, package: Package, target: str, *, execute: bool = True) -> None:
        self.folder, self.package, self.target = folder, package, target
        self.kind = "hip" if target.startswith("gfx") else "cuda"
        [self.header] = [p for p in folder.glob("*.h") if "-" not in p.name]
        self.prefix = self.header.stem
        where = Path(tempfile.mkdtemp(dir=folder.parent))
        path = where / f"{self.prefix}.so"
        sources = [*sorted(folder.glob("*.c")), HERE / "c_driver.c"]
        line = [compiler(), "-shared", "-fPIC", "-O1", "-Dmain=example_main", *DEFINES[self.kind], *headers(self.kind)]
        subprocess.run([*line, *map(str, sources), "-o", str(path), "-lm", "-lpthread"], check=True)
        self.library = ctypes.CDLL(str(path))
        self.library.stub_said.restype = ctypes.c_char_p
        self._said = getattr(self.library, f"{self.prefix}_error_string")
        self._said.restype = ctypes.c_char_p
        self.launches: list[Launched] = []
        self._kernels = [
            (b, k)
            for kernel in package.kernels.values()
            for b, k in zip(kernel.binaries, kernel.artifact.kernels, strict=False)  # a kernel for the CPU has none
        ]
        self._runner = Runner(self._run)  # to be kept as long as the driver may call it
        self._execute, self._folder = execute, where / "kernels"
        self._loaded: dict[str, Callable[..., Any]] = {}
        self._running = threading.Lock()  # the interpreter runs one kernel at a time
        self.error: BaseException | None = None
        self.begin(target)

    def begin(self, device: str) -> None:
        """The driver anew, with such a device in the machine."""
        major, minor = DEVICES.get(device, (0, 0))
        self.launches.clear()
        self.library.stub_begin(self._runner, major, minor, device.encode())

    def enter(self, context: int = 0x30) -> None:
        if self.kind == "cuda":
            self.library.cuCtxSetCurrent(ctypes.c_void_p(context))

    @property
    def said(self) -> list[str]:
        return self.library.stub_said().decode().splitlines()

    @property
    def held(self) -> int:
        """Modules and allocations that nobody gave back."""
        return self.library.stub_held()

    def function(self, name: str) -> Any:
        return getattr(self.library, f"{self.prefix}_{name}")

    def text(self, status: int) -> str:
        return self._said(status).decode()

    def workspace_bytes(self, *sizes: int) -> tuple[int, int]:
        found = ctypes.c_size_t(12345)
        status = self.function("workspace_bytes")(*map(ctypes.c_int64, sizes), ctypes.byref(found))
        return status, found.value

    def run(self, pointers: Sequence[int], sizes: Sequence[int], workspace: int = 0, size: int = 0) -> int:
        status = self.function("run")(
            *map(ctypes.c_void_p, pointers), *map(ctypes.c_int64, sizes), ctypes.c_void_p(workspace),
            ctypes.c_size_t(size), ctypes.c_void_p(STREAM),
        )  # fmt: skip
        self._raise()
        return status

    def _raise(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error

    def call(self, pointers: Sequence[int], sizes: Sequence[int] = ()) -> int:
        """`run` with a workspace as large as it says."""
        status, size = self.workspace_bytes(*sizes)
        assert status == 0, self.text(status)
        memory = torch.full((size + 512,), 0xAA, dtype=torch.uint8)
        begin = memory.data_ptr() + -memory.data_ptr() % 256
        found = self.run(pointers, sizes, begin if size else 0, size)
        after = memory[begin - memory.data_ptr() + size :]
        assert bool((after == 0xAA).all()), "something was written behind the workspace"
        return found

    def example(self, *arguments: str) -> int:
        """`main` of the example, in this process."""
        given = [b"example", *(a.encode() for a in arguments)]
        status = self.library.example_main(len(given), (ctypes.c_char_p * len(given))(*given))
        self._raise()
        return status

    # --- the kernels ----------------------------------------------------------------------------------------------------

    def _run(self, image: int, symbol: bytes, dims: Any, shared: int, stream: int | None, parameters: Any) -> int:
        """Called by the driver.  An error cannot pass through C: it is kept."""
        try:
            binary, artifact = self._kernel_of(image, symbol.decode())
            kinds = {"i32": ctypes.c_int32, "i64": ctypes.c_int64}
            values = tuple(
                kinds.get(kind, ctypes.c_uint64).from_address(parameters[n]).value
                for n, kind in enumerate(binary.parameters)
            )
            self.launches.append(
                Launched(binary.member, binary.symbol, tuple(dims[:6]), shared, stream or 0, values, binary.parameters)
            )
            if self._execute:
                with self._running:
                    self._interpret(artifact, values)
            return 0
        except BaseException as error:
            self.error = error
            return 1

    def _kernel_of(self, image: int, symbol: str) -> tuple[Binary, KernelArtifact]:
        for binary, artifact in self._kernels:
            data = self.package.data(binary.member)
            start = data[
                :512
            ]  # no binary is shorter than its headers, and others may lie at the end of readable memory
            if binary.symbol == symbol and ctypes.string_at(image, len(start)) == start:
                if ctypes.string_at(image, len(data)) == data:
                    return binary, artifact
        raise AssertionError(f"{symbol} of a binary that is not in the package")

    def _interpret(self, artifact: KernelArtifact, values: Sequence[int]) -> None:
        layouts = [*artifact.inputs, *artifact.outputs]
        sizes = values[len(layouts) : len(layouts) + len(artifact.sizes)]
        if artifact.fingerprint not in self._loaded:
            self._loaded[artifact.fingerprint] = load(artifact, self._folder).launch
        tensors = []
        for address, layout in zip(values, layouts, strict=False):
            shape, strides = expression((layout.shape, layout.strides), artifact.sizes, "a layout")(sizes)
            tensors.append(tensor_at(address, shape, strides, dtype_of(layout.dtype)))
        self._loaded[artifact.fingerprint](tensors, sizes)


def tensor_at(address: int, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Memory of somebody else's."""
    count = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if all(shape) else 0
    if not count:
        return torch.empty(tuple(shape), dtype=dtype)
    data = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(data, dtype=dtype).as_strided(tuple(shape), tuple(strides))
