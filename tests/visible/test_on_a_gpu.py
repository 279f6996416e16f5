"""Kernels in Inductor's program on a device: launched, recorded, and packed into what AOTInductor makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_functional as LAUNCH
from visible_programs import PROGRAMS, Module, attend_and_scan

import fusecade
from fusecade import torch_backend

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("fresh_compiler")]


def heads(n: int = 256, m: int = 192, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(2, length, 16, device="cuda", dtype=dtype) for length in (n, m, m)]


def close(found: torch.Tensor, fn: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> None:
    """Products of float32 may be rounded to TF32 on their way."""
    wanted = fn(*(x.double() for x in tensors))
    torch.testing.assert_close(found.double(), wanted, atol=2e-2, rtol=2e-2)


def all_are_shown() -> bool:
    built = torch_backend.compiled
    return all(
        b.remainder == "inductor" and not b.hidden and not b.fallbacks
        and b.graph.graph.find_nodes(op="call_function", target=LAUNCH)
        for b in built
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name, program in PROGRAMS.items() if not program.cpp])
def test_programs(name: str):
    program = PROGRAMS[name]
    options = {"fuse": "always", "strict": True}
    run = torch.compile(program.fn, backend="fusecade", options=options, dynamic=program.dynamic is not None)
    for shapes in (program.shapes, *program.others):
        tensors = [torch.randn(shape, device="cuda") for shape in shapes]
        close(run(*tensors), program.fn, *tensors)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_forward_and_backward(mode: str):
    options = {"fuse": "always", "mode": mode}
    run = torch.compile(attend_and_scan, backend="fusecade", options=options)
    for _ in range(4):  # recorded in the second call, replayed after that
        torch.compiler.cudagraph_mark_step_begin()
        tensors = [x.requires_grad_() for x in heads()]
        found, wanted = (
            torch.autograd.grad(fn(*tensors).square().mean(), tensors) for fn in (run, attend_and_scan)
        )  # fmt: skip
        torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2)
    assert all_are_shown()


def test_an_input_in_the_middle_of_16_bytes():
    run = torch.compile(attend_and_scan, backend="fusecade", options={"fuse": "always"})
    for offset in (0, 1, 4):
        tensors = heads()
        memory = torch.randn(tensors[0].numel() + 8, device="cuda")
        tensors[0] = memory[offset : offset + tensors[0].numel()].view(tensors[0].shape)
        close(run(*tensors), attend_and_scan, *tensors)
    assert all_are_shown()


WITHOUT_FUSECADE = """
    import sys, torch
    sys.modules["fusecade"] = None
    run = torch._inductor.aoti_load_package(sys.argv[1])
    inputs, wanted = torch.load(sys.argv[2])
    torch.testing.assert_close(run(*inputs).double(), wanted, atol=2e-2, rtol=2e-2)
"""


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_package_that_needs_no_fusecade(tmp_path: Path, dynamic: bool):
    tensors = heads()
    named: dict[str, Any] = {}
    if dynamic:
        n, m = torch.export.Dim("n", min=8, max=4096), torch.export.Dim("m", min=8, max=4096)
        named["dynamic_shapes"] = ({1: n}, {1: m}, {1: m})
    path = fusecade.aot_inductor(Module(), tensors, tmp_path / "model.pt2", fuse="always", **named)
    about = torch._inductor.aoti_load_package(str(path)).get_metadata()
    assert json.loads(about["fusecade"])["kernels"] == {}
    for again in (tensors, heads(100, 333) if dynamic else heads()):
        wanted = attend_and_scan(*(x.double() for x in again))
        torch.save((again, wanted), tmp_path / "tensors")
        done = subprocess.run(
            [sys.executable, "-c", dedent(WITHOUT_FUSECADE), str(path), str(tmp_path / "tensors")],
            env=dict(os.environ), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        close(fusecade.load_aot_inductor(path)(*again), attend_and_scan, *again)
