"""Tensors of more than 2**31 elements: offsets in 64 bits where they may need it, indices too where a rank is so long."""

from __future__ import annotations

import re

import pytest
import torch

import fusecade
from fusecade.codegen.artifact import KernelArtifact
from fusecade.errors import InvalidArgument
from fusecade.report import KernelReport
from fusecade.runtime.triton_launch import Launcher


def kernel_of(fn, *shapes, compile_binaries: bool = False) -> KernelReport:
    tensors = [torch.empty(s, dtype=torch.float16, device="meta") for s in shapes]
    found = fusecade.explain(fn, *tensors, target="sm_90", compile_binaries=compile_binaries, fuse="always")
    return found.kernels[0]  # a long rank may be cut into parts, which a second kernel merges


def logsumexp(x):
    return torch.logsumexp(x, -1)


def test_many_rows_are_addressed_in_64_bits():
    large = kernel_of(logsumexp, (70000, 65536)).source
    assert "arg0_ptr + tl.cast(start_d0, tl.int64) * 65536" in large
    assert "pid = tl.program_id(0)\n" in large  # no rank is long: indices stay as they are
    small = kernel_of(logsumexp, (7000, 65536)).source
    assert "int64" not in small


def test_batches_are_addressed_in_64_bits():
    source = kernel_of(lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v, *[(1024, 32768, 128)] * 3).source
    assert len(re.findall(r"tl\.cast\(b, tl\.int64\) \* 4194304", source)) == 4  # three loads, one store


@pytest.mark.parametrize("length", [2**31 - 100, 3_000_000_000, 5_000_000_000])
def test_a_rank_longer_than_32_bits_is_counted_in_64(length: int):
    source = kernel_of(lambda x: torch.softmax(x, -1), (2, length)).source
    assert "pid = tl.program_id(0).to(tl.int64)" in source
    assert f"tl.range(0, tl.cast({length}, tl.int64), BD1" in source


def test_a_long_grid_starts_its_tiles_in_64_bits():
    kernel = kernel_of(lambda x, y: torch.logsumexp(x + y, -1), (3_000_000_000, 4), (3_000_000_000, 4))
    assert "pid = tl.program_id(0).to(tl.int64)" in kernel.source


def test_they_compile_for_hopper():
    kernel = kernel_of(logsumexp, (2, 5_000_000_000), compile_binaries=True)
    assert kernel.not_compiled is None
    assert kernel.spills == 0


def test_a_size_that_a_kernel_cannot_count_to_is_refused():
    launch = {"grid": "n", "signature": {"x_ptr": "*fp32", "n": "i32"}}
    artifact = KernelArtifact("k0", "triton", "sm_90", "", "k0", (), (), ("n",), launch=launch)
    with pytest.raises(InvalidArgument, match="counts in 32 bits"):
        Launcher(None, artifact)([torch.empty(1)], [2**31])
