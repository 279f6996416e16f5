"""What is printed for the hand-written programs, as files to be read and reviewed: tests/goldens/codegen/."""

from __future__ import annotations

import pytest

from fusecade.codegen.bind import bind
from fusecade.codegen.torch_source import print_torch
from fusecade.codegen.triton_source import print_triton

NAMES = ["attention", "biased", "causal", "kmeans", "kmeans_whole", "lm_head_max", "rms_norm_gemm", "softmax"]


@pytest.mark.parametrize("name", NAMES)
def test_printed_source(runner, golden, name):
    kernel = runner.kernel(name)
    golden(f"codegen/{name}_triton.py", print_triton(kernel).text)
    golden(f"codegen/{name}_torch.py", print_torch(kernel).text)


def test_printed_source_with_all_sizes_known(runner, golden):
    kernel = bind(runner.kernel("attention"), sizes={"nb": 8, "n": 4096, "m": 4096})
    golden("codegen/attention_static_triton.py", print_triton(kernel).text)
    golden("codegen/attention_static_torch.py", print_torch(kernel).text)


@pytest.mark.parametrize("name", NAMES)
def test_printing_is_deterministic_and_formatted(runner, name):
    first, again = (runner.kernel(name) for _ in range(2))
    for printer in (print_triton, print_torch):
        text = printer(first).text
        assert text == printer(again).text
        assert not any(line != line.rstrip() or "\t" in line for line in text.splitlines())
        compile(text, name, "exec")
