"""The gallery for GPUs that are not here: every binary comes apart again, and a rebuild is the same to the byte."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

import fusecade
from fusecade.commands.inspect import disassembled
from fusecade.runtime.package.manifest import Package
from fusecade.runtime.resources import find_tool

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
TARGETS = ["sm_80", "sm_90", "sm_100", "gfx942"]
CASES = {
    "flash_attention": ("attend", lambda m: [torch.empty(s) for s in m.shapes(1, 4, 512, 64)]),
    "decode": ("decode", lambda m: [torch.empty(s) for s in m.shapes(2, 1024, 64)]),
    "nearest_centre": ("assign", lambda m: [torch.empty(4096, 64), torch.empty(256, 64)]),
    "relative_positions": ("attend", lambda m: [torch.empty(s) for s in m.shapes(2, 256, 64)]),
    "dynamic_mask": ("attend", lambda m: [torch.empty(s) for s in m.shapes(2, 512, 64)]),
    "prepacked": ("attend", lambda m: m.inputs_of(2, 512, 64, "cpu", torch.float32)),
    "sparse_retrieval_head": ("head", lambda m: m.inputs_of(2, 128, 64, 512, "cpu", torch.float32)),
    "low_rank_projections": ("attend", lambda m: m.inputs_of(512, 64, 16, "cpu", torch.float32)),
    "absorbed_projections": ("attend", lambda m: m.inputs_of(16, 512, 64, "cpu", torch.float32)),
}


def test_every_file_is_tried():
    assert {path.stem for path in GALLERY.glob("*.py")} == set(CASES)


AGAIN = ("decode",)  # the slow test: all of them


def build(name: str, path: Path) -> str:
    """The hash of the package of one of the gallery's programs, with kernels for all that can be one."""
    spec = importlib.util.spec_from_file_location(f"built_{name}", GALLERY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function, make = CASES[name]
    args = tree_map(lambda x: x.to("meta", torch.float16) if x.is_floating_point() else x.to("meta"), make(module))
    options: Any = {"targets": TARGETS, "fuse": "always", "remainder": "kernels"}
    fusecade.export(getattr(module, function), args, path, **options)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_it_is_built_for_every_target(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.fcade"
    first = build(name, path)
    package = Package.open(path)
    assert list(package.targets) == TARGETS
    for kernel in package.kernels.values():
        assert kernel.binaries
        for binary in kernel.binaries:
            assert package.data(binary.member)[:4] == b"\x7fELF"
    for target in package.targets.values():
        for kernel in json.loads(package.data(target.buckets[0].report))["kernels"]:
            assert kernel["binary_bytes"] > 0 and kernel["registers"] > 0 and kernel["spills"] is not None
            if find_tool("nvdisasm") is not None:  # it has read every instruction, and counted those of each family
                assert kernel["not_compiled"] is None and kernel["tensor_cores"], kernel["name"]
    if name in AGAIN:
        assert built_elsewhere(name, tmp_path, monkeypatch) == first


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_comes_apart_and_is_built_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.fcade"
    first = build(name, path)
    package = Package.open(path)
    for kernel in package.kernels.values():
        for binary in kernel.binaries:
            if binary.arch.startswith("sm_") and find_tool("nvdisasm") is not None:
                assert "EXIT" in disassembled(package, binary)
    assert built_elsewhere(name, tmp_path, monkeypatch) == first


def built_elsewhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The hash that another process finds, in another folder and without this one's cache."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    arguments = [sys.executable, __file__, name, str(folder / "b.fcade")]
    again = subprocess.run(arguments, check=True, cwd=folder, timeout=280, capture_output=True, text=True)
    return again.stdout.strip()


if __name__ == "__main__":
    print(build(sys.argv[1], Path(sys.argv[2])))
