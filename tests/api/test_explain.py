"""`fusecade.explain` and its report; what it predicts is what the kernels do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fusecade
from fusecade.errors import InvalidArgument, UnsupportedProgram
from fusecade.testing import count_io


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v


def kmeans(x, c):
    return ((x * x).sum(1, keepdim=True) + (c * c).sum(1) - 2 * x @ c.T).argmin(1)


def best_match(h, e):
    return torch.log1p(torch.relu(h @ e.T)).amax(1)


def meta(*shapes: tuple[int, ...], dtype=torch.float16) -> list[torch.Tensor]:
    return [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]


QKV = [(8, 1024, 64)] * 3


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> fusecade.Report:
    return fusecade.explain(attend, *meta(*QKV), target="sm_90")


def test_one_kernel_one_pass(report):
    [kernel] = report.kernels
    assert (kernel.name, kernel.kind, kernel.target, kernel.calls) == ("k0", "triton", "sm_90", 1)
    assert set(kernel.passes.values()) == {1}
    assert max(kernel.passes_as_written.values()) == 3
    assert "@triton.jit" in kernel.source
    assert kernel.certificates


def test_the_binary_is_looked_at(report):
    [kernel] = report.kernels
    assert kernel.binary is not None
    assert kernel.binary[:4] == b"\x7fELF"
    assert (kernel.registers or 0) > 0
    assert kernel.spills == 0
    assert (kernel.shared_bytes or 0) > 0
    assert kernel.tensor_cores is not None
    assert kernel.tensor_cores["HGMMA"] > 0
    assert kernel.not_compiled is None


def test_numbers_make_sense(report):
    [kernel] = report.kernels
    tensors = 4 * 8 * 1024 * 64 * 2
    assert kernel.hbm_bytes_bound == tensors
    assert report.hbm_bytes == kernel.hbm_bytes >= tensors
    assert kernel.sram_load_bytes >= 3 * tensors // 4
    assert kernel.sram_store_bytes == tensors // 4
    assert kernel.flops >= 4 * 8 * 1024 * 1024 * 64
    assert kernel.predicted_us > 0
    assert kernel.bound_by


def test_json_has_everything_but_the_binaries(report):
    data = json.loads(report.to_json())
    assert data["schema"] == 1
    [kernel] = data["kernels"]
    assert kernel["binary_bytes"] == len(report.kernels[0].binary)
    assert "binary" not in kernel
    assert kernel["source"] == report.kernels[0].source


def test_it_reads_well_at_100_columns(report):
    text = str(report)
    assert max(map(len, text.splitlines())) <= 100
    for word in ("sm_90", "k0", "passes", "was 3", "HGMMA", "registers"):
        assert word in text


def test_brackets_are_no_markup():
    def fn(x, y):
        return torch.softmax(x @ y, -1)[:, 1:]

    shown = str(fusecade.explain(fn, *meta((64, 64), (64, 64)), compile_binaries=False))
    assert "sm_90" in shown


def test_the_page_needs_nothing_else(report, tmp_path: Path):
    path = report.to_html(tmp_path / "report.html")
    page = path.read_text()
    assert page.startswith("<!doctype html>")
    assert "http" not in page
    assert "k0: source" in page
    assert "&lt;" in page or "<script" not in page


def test_without_binaries(tmp_path: Path):
    [kernel] = fusecade.explain(attend, *meta(*QKV), compile_binaries=False).kernels
    assert kernel.binary is None
    assert kernel.registers is None


def test_for_the_cpu(monkeypatch):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", "")
    report = fusecade.explain(attend, *meta(*QKV, dtype=torch.float32), target="cpu", fuse="always")
    assert [k.kind for k in report.kernels] == ["torch"]


def test_externs_have_reasons():
    report = fusecade.explain(lambda x: x.cumsum(-1).cumsum(-1), *meta((8, 8)))
    assert [operator for operator, _ in report.externs] == ["aten.cumsum.default"] * 2
    text = str(report)
    assert "nothing was fused" in text
    assert "aten.cumsum.default ×2" in text
    assert "it is a scan" in text


def test_a_program_that_cannot_be_traced_is_an_error():
    with pytest.raises(UnsupportedProgram, match="tracing"):
        fusecade.explain(lambda x: x if x.sum() > 0 else -x, *meta((8, 8)))


def test_dynamic_sizes():
    report = fusecade.explain(
        attend, *meta(*QKV), dynamic={0: {1: "n"}, 1: {1: "m"}, 2: {1: "m"}}, compile_binaries=False
    )
    [kernel] = report.kernels
    assert "n" in kernel.grid


def test_progress_is_told():
    seen: list[tuple[int, int]] = []
    fusecade.explain(kmeans, *meta((512, 64), (256, 64)), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]


def test_equal_kernels_are_one_row():
    def fn(x, a, b):
        return (x @ a).amax(-1), (x @ b).amax(-1)

    report = fusecade.explain(fn, *meta((512, 64), (64, 1024), (64, 1024)), compile_binaries=False)
    assert sum(k.calls for k in report.kernels) >= len(report.kernels)
    assert len({k.name for k in report.kernels}) == len(report.kernels)


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (attend, [(2, 48, 16)] * 3),
        (attend, [(1, 33, 16)] * 3),
        (kmeans, [(70, 16), (40, 16)]),
        (best_match, [(2, 20, 16), (40, 16)]),
    ],
    ids=["even", "ragged", "kmeans", "max"],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_bytes_that_move_are_the_bytes_that_were_predicted(fn, shapes, dtype, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    kernel = fusecade.compile(fn, inputs, target="sm_90", fuse="always")
    count = count_io(kernel, *inputs)
    kernels = kernel.report.kernels
    assert kernels
    assert count.load_bytes == sum(k.sram_load_bytes * k.calls for k in kernels)
    assert count.store_bytes == sum(k.sram_store_bytes * k.calls for k in kernels)


def test_what_does_not_pay_is_refused_with_its_price_unless_asked_for(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    inputs = meta(*[(1, 16, 16)] * 3, dtype=torch.float32)
    by_cost = fusecade.explain(attend, *inputs, target="cpu")
    assert not by_cost.kernels
    assert any("fusing would not pay" in reason for _, reason in by_cost.refusals)
    always = fusecade.explain(attend, *inputs, target="cpu", fuse="always")
    assert len(always.kernels) == 1
    assert not always.refusals


def test_how_to_fuse_is_one_of_two():
    with pytest.raises(InvalidArgument, match="fuse is 'never', which is not one of: by_cost, always"):
        fusecade.explain(attend, *meta(*QKV), fuse="never")
