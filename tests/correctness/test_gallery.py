"""The gallery: each file becomes the kernels that it stands for, and computes what eager computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import fusecade
from fusecade.testing import count_io_of_launch

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"

# file -> its function, small inputs, and how many kernels of one pass each there are when all are taken
CASES = {
    "flash_attention": ("attend", lambda m: [torch.randn(s) for s in m.shapes(1, 4, 192, 32)], 1),
    "decode": ("decode", lambda m: [torch.randn(s) for s in m.shapes(2, 512, 32)], 1),
    "sparse_retrieval_head": ("head", lambda m: m.inputs_of(2, 48, 32, 200, "cpu", torch.float32), 1),
    "nearest_centre": ("assign", lambda m: [torch.randn(300, 16), torch.randn(70, 16)], 1),
    "relative_positions": ("attend", lambda m: [torch.randn(s) for s in m.shapes(2, 96, 16)], 1),
    "dynamic_mask": ("attend", lambda m: [torch.randn(s) for s in m.shapes(2, 320, 16)], 1),
    "prepacked": ("attend", lambda m: m.inputs_of(2, 320, 16, "cpu", torch.float32), 1),
    "low_rank_projections": ("attend", lambda m: m.inputs_of(192, 32, 4, "cpu", torch.float32), None),
    "absorbed_projections": ("attend", lambda m: m.inputs_of(8, 320, 32, "cpu", torch.float32), None),
}


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gallery_{name}", GALLERY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_every_file_is_tried():
    assert {path.stem for path in GALLERY.glob("*.py")} == set(CASES)


def test_relative_positions_leave_nothing_of_all_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All is one kernel, which reads q, k, v and the embeddings, and writes the result: no library product beside it."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    found = module("relative_positions")
    small = [torch.randn(s) for s in found.shapes(2, 96, 16)]
    report = fusecade.compile(found.attend, small, target="cpu", fuse="always", remainder="eager").report
    assert len(report.kernels) == 1 and not report.externs and report.peak_intermediate_bytes == 0
    assert report.hbm_bytes == 4 * (4 * 2 * 96 * 16 + 96 * 16)
    large = [torch.empty(s, dtype=torch.bfloat16, device="meta") for s in found.shapes(16, 4096, 64)]
    report = fusecade.explain(found.attend, *large, target="sm_90", compile_binaries=False)
    assert len(report.kernels) == 1 and report.peak_intermediate_bytes == 0
    assert report.hbm_bytes == 2 * (4 * 16 * 4096 * 64 + 4096 * 64)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_eager_computes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    found = module(name)
    function, make, kernels = CASES[name]
    fn, inputs = getattr(found, function), make(found)
    compiled = fusecade.compile(fn, inputs, target="cpu", fuse="always", remainder="eager")
    torch.testing.assert_close(compiled(*inputs), fn(*inputs), rtol=1e-4, atol=1e-5)
    report = compiled.report
    assert report.kernels and not report.fallbacks
    assert all(set(k.passes.values()) == {1} for k in report.kernels)
    if kernels is not None:
        assert len([k for k in report.kernels if not k.workspace_bytes]) == kernels


def test_tiles_without_a_kept_key_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Row 12: the kept keys lie in one half of the row; keys and values of the other half are not loaded."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    found, n = module("dynamic_mask"), 512
    inputs = [torch.randn(s, generator=torch.Generator().manual_seed(4)) for s in found.shapes(1, n, 16)]
    inputs[3][:, : n // 2] += 100
    kernel = fusecade.compile(found.attend, inputs, target="sm_90", fuse="always", skip="always")
    [report] = [k for k in kernel.report.kernels if k.skippable_load_bytes]
    assert "not lt(" in " ".join(report.visits)
    results: list[torch.Tensor] = []
    count = count_io_of_launch(lambda: results.append(kernel(*inputs)))
    torch.testing.assert_close(results[0], found.attend(*inputs), rtol=1e-4, atol=1e-5)
    predicted = sum(k.sram_load_bytes for k in kernel.report.kernels)
    assert (n // 2) % report.params["BK"] == 0
    assert count.load_bytes == predicted - report.skippable_load_bytes // 2
