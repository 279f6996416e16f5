"""The launch of a packaged GPU kernel, up to the driver: a library in C in its place notes what it is asked for."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import packaged
import pytest
import torch

import fusecade
from fusecade.errors import InvalidArgument, PackagedKernelFailed
from fusecade.runtime.package import devices
from fusecade.runtime.package.gpu import Driver, Launcher
from fusecade.runtime.package.manifest import Package

STREAM = 0x1234
CPU = torch.device("cpu")
SIZES = {"pointer": 8, "scratch": 8, "i64": 8, "i32": 4}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    path = tmp_path_factory.mktemp("driver") / "stub.so"
    source = Path(__file__).with_name("driver_stub.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", path, source], check=True)
    found = ctypes.CDLL(str(path))
    found.stub_said.restype = ctypes.c_char_p
    return found


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A kernel with sizes among its parameters, and one that holds a whole rank of dynamic size."""
    path = tmp_path_factory.mktemp("packages") / "dynamic.fcade"
    names = {0: {1: "n"}, 1: {1: "m"}, 2: {1: "m"}}
    fusecade.export(packaged.attend, packaged.qkv(4, 96, 64), path, targets=["sm_90"], dynamic=names, fuse="always")
    return Package.open(path)


class Launched:
    """A launcher on the stub, and what the stub was asked for."""

    def __init__(self, library: Any, package: Package, target: str, prefix: str = "cu", **changes: Any) -> None:
        [self.kernel] = [k for k in package.kernels.values() if k.artifact.target == target]
        self.artifact, self.library = self.kernel.artifact, library
        self.binary = replace(self.kernel.binaries[0], **changes)
        driver = Driver(library, prefix, "cuda" if prefix == "cu" else "hip")
        image = package.data(self.binary.member)
        self.launcher = Launcher(driver, self.binary, image, self.artifact, stream_of=lambda device: STREAM)

    def __call__(self, tensors: list[torch.Tensor], sizes: list[int], failing: int = 0) -> list[str]:
        widths = [SIZES[p] for p in self.binary.parameters]
        self.library.stub_expect(len(widths), (ctypes.c_int * len(widths))(*widths), failing)
        programs = self.launcher._grid(sizes)
        self.launcher._check(programs, sizes)
        self.launcher.launch(tensors, sizes, programs, CPU)
        return [line for line in self.library.stub_said().decode().splitlines() if not line.startswith("context")]


def given(said: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in said if line.startswith("parameter")]


@pytest.mark.parametrize(
    ("target", "prefix", "warp"), [("sm_80", "cu", 32), ("sm_90", "cu", 32), ("gfx942", "hip", 64)]
)
def test_arguments_in_their_places(library, several: Path, target, prefix, warp):
    launched = Launched(library, Package.open(several), target, prefix)
    tensors = [*packaged.qkv(4, 96, 64), torch.empty(4, 96, 64)]
    said = launched(tensors, [])
    b, artifact = launched.binary, launched.artifact
    programs, threads = artifact.launch["grid"], artifact.launch["num_warps"] * warp
    assert b.parameters == ("pointer",) * 4 + ("scratch",) * 2  # global scratch, and scratch for profiling
    assert said[:2] == ["load 7f454c46", f"find {b.symbol} in 0x10"]
    shared = f"shared {b.shared_bytes} stream 0x1234 extra (nil)"
    assert f"launch 0x20 grid {programs} 1 1 block {threads} 1 1 {shared}" in said
    assert given(said) == [*(t.data_ptr() for t in tensors), 0, 0]
    assert launched(tensors, [])[0].startswith("launch")  # the module is loaded once


@pytest.mark.slow
def test_sizes_are_packed_by_their_types(library, dynamic: Package):
    launched = Launched(library, dynamic, "sm_90")
    assert launched.binary.arch == "sm_90a"
    names, n, m = launched.artifact.sizes, 100, 77
    sizes = [{"n": n, "m": m}[name] for name in names]
    q, out = torch.empty(4, n, 64), torch.empty(4, n, 64)
    k, v = torch.empty(4, m, 64), torch.empty(4, m, 64)
    said = launched([q, k, v, out], sizes)
    kinds = [*launched.binary.parameters]
    assert kinds == ["pointer"] * 4 + ["i32"] * len(names) + ["scratch"] * 2
    assert given(said) == [*(t.data_ptr() for t in (q, k, v, out)), *sizes, 0, 0]
    with pytest.raises(InvalidArgument, match="counts in 32 bits"):
        launched([q, k, v, out], [2**31 - 1] * len(names))


def test_large_shared_memory_is_asked_for(library, several: Path):
    launched = Launched(library, Package.open(several), "sm_80", shared_bytes=100_000)
    said = launched([*packaged.qkv(4, 96, 64), torch.empty(4, 96, 64)], [])
    assert "set 0x20 8 100000" in said


def test_scratch_is_allocated_for_every_program(library, several: Path):
    launched = Launched(library, Package.open(several), "sm_90", scratch_bytes=128)
    said = launched([*packaged.qkv(4, 96, 64), torch.empty(4, 96, 64)], [])
    assert given(said)[-2] != 0 and given(said)[-1] == 0


def test_tensors_that_begin_anywhere_are_copied(library, several: Path):
    """The binary was compiled for addresses that 16 divides."""
    launched = Launched(library, Package.open(several), "sm_90")
    odd = torch.empty(4 * 96 * 64 + 1)[1:].view(4, 96, 64)
    q, k, _ = packaged.qkv(4, 96, 64)
    out = torch.empty(4, 96, 64)
    found = given(launched([q, k, odd, out], []))
    assert odd.data_ptr() % 16 and not any(address % 16 for address in found)
    assert found[:2] + found[3:4] == [q.data_ptr(), k.data_ptr(), out.data_ptr()]


def test_a_thread_enters_the_context_of_the_device_once(library, several: Path):
    launched, said = Launched(library, Package.open(several), "sm_80"), []

    def work() -> None:
        for _ in range(2):
            launched([*packaged.qkv(4, 96, 64), torch.empty(4, 96, 64)], [])
            said.append("context of 7" in library.stub_said().decode())

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert said == [True, False, True, False]


@pytest.mark.parametrize(
    ("failing", "words"), [(1, "could not load its module: error 200"), (2, "could not launch: error 700")]
)
def test_what_the_driver_refuses_is_said(library, several: Path, failing, words):
    launched = Launched(library, Package.open(several), "sm_80")
    with pytest.raises((PackagedKernelFailed, RuntimeError), match=words):
        launched([*packaged.qkv(4, 96, 64), torch.empty(4, 96, 64)], [], failing)


def test_sizes_beyond_the_blocks_are_refused(library, several: Path):
    """A block that holds a whole rank was compiled for sizes up to some."""
    launched = Launched(library, Package.open(several), "sm_80")
    artifact = replace(launched.artifact, sizes=("n",), launch={**launched.artifact.launch, "whole": {"BW": ["n", 16]}})
    launcher = Launcher(launched.launcher.driver, replace(launched.binary, constants={"BW": 64}), b"", artifact)
    launcher._check(1, [64])
    with pytest.raises(InvalidArgument, match="holds 64 elements in its block BW, and these sizes need 128"):
        launcher._check(1, [65])
    with pytest.raises(InvalidArgument, match="a launch has at most"):
        launcher._check(1 << 31, [64])


class TestWhichTarget:
    @pytest.mark.parametrize(
        ("kind", "arch", "target"),
        [
            ("cpu", "", "cpu"), ("cuda", "sm_80", "sm_80"), ("cuda", "sm_86", "sm_80"), ("cuda", "sm_89", "sm_80"),
            ("cuda", "sm_90", "sm_90"), ("cuda", "sm_75", None), ("cuda", "sm_100", None), ("hip", "gfx942", "gfx942"),
            ("hip", "gfx950", None), ("mps", "", None),
        ],
    )  # fmt: skip
    def test_by_device(self, several: Path, kind, arch, target):
        found = devices.fitting(Package.open(several), kind, arch)
        assert (found.name if found else None) == target

    @pytest.mark.parametrize(("arch", "target"), [("sm_120", "sm_90"), ("sm_86", "sm_80"), ("sm_75", "sm_80")])
    def test_to_compile_from(self, several: Path, arch, target):
        found = devices.nearest(Package.open(several), "cuda", arch)
        assert found is not None and found.name == target

    def test_a_device_by_its_name(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        assert devices.describe(torch.device("cuda", 0)) == ("cuda", "sm_90")
        monkeypatch.setattr(torch.version, "hip", "6.4")
        properties = SimpleNamespace(gcnArchName="gfx942:sramecc+:xnack-")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        assert devices.describe(torch.device("cuda", 0)) == ("hip", "gfx942")
        assert devices.describe(CPU) == ("cpu", "")


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path):
    """Where there is one: the same results through the driver alone, in a CUDA graph, too."""
    inputs = [x.cuda() for x in packaged.qkv(4, 96, 64)]
    targets = ["sm_80", "sm_89", "sm_90", "sm_100"]
    path = fusecade.export(packaged.attend, inputs, tmp_path / "p.fcade", targets=targets, fuse="always").path
    loaded = fusecade.load(path)
    torch.testing.assert_close(loaded(*inputs), packaged.attend(*inputs), rtol=1e-3, atol=1e-3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = loaded(*inputs)
    inputs[0].copy_(torch.randn_like(inputs[0]))
    graph.replay()
    torch.testing.assert_close(out, packaged.attend(*inputs), rtol=1e-3, atol=1e-3)
