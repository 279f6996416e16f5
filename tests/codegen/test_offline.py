"""Generated kernels compile for GPUs that are not in this machine: tensor cores used, nothing spilled."""

from __future__ import annotations

import pytest

from fusecade.codegen.bind import bind
from fusecade.codegen.triton_source import TritonSource, print_triton
from fusecade.ir.target import TARGETS
from fusecade.runtime.resources import read_resources
from fusecade.runtime.triton_compile import compile_offline


def compiled(source: TritonSource, target: str, folder, sizes=None):
    path = folder / f"{source.name}.py"
    path.write_text(source.text)
    return compile_offline(
        path,
        source.name,
        source.signature,
        source.constants(sizes or {}),
        target=TARGETS[target],
        divisible_by_16=source.divisible_by_16,
        num_warps=source.num_warps,
        num_stages=source.num_stages,
    )


def test_attention_on_hopper_uses_wgmma_and_spills_nothing(runner, tmp_path):
    kernel = bind(runner.kernel("attention", {"BI": 128, "BJ": 64}), sizes={"nb": 8, "n": 4096, "m": 4096})
    found = read_resources(compiled(print_triton(kernel), "sm_90", tmp_path))
    assert found.tensor_core_instructions["HGMMA"] > 0
    assert found.spills_bytes == 0
    assert found.registers is not None
    assert found.registers <= 200


@pytest.mark.parametrize("name", ["kmeans", "softmax"])
def test_kernels_with_unknown_sizes_compile_for_hopper(runner, tmp_path, name):
    kernel = runner.kernel(name, replaced={'"ieee"': '"tf32"'})
    found = read_resources(compiled(print_triton(kernel), "sm_90", tmp_path, {"m": 1000}))
    assert found.spills_bytes == 0
