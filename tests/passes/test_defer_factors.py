"""Factors without the contracted rank move behind a contraction: where they do, and that the results stay the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from harness import agree, check, program_of
from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Block

from fusecade.ir.cascade import EinsumOp, KernelOp
from fusecade.ir.interpret import run_program
from fusecade.ir.target import get_target
from fusecade.passes.candidates import Candidates
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.fuse import Fused, fuse_program
from fusecade.passes.repair import repair_kernel

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def rms_norm_linear(x, g, w):
    return (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * g) @ w


def rms_norm_linear_relu(x, g, w, b):
    return torch.relu((x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * g) @ w + b)


def divided(x, h, w):
    return (x / h) @ w


def scaled_on_both_sides(x, h, w, s):
    return (x * h) @ (w * s).T


def scaled_in_a_batch(x, h, g, w):
    return torch.relu((x * h * g) @ w)


def multiplied(kernel: KernelOp) -> set[str]:
    """The arguments that the operands of a kernel's contraction are computed from."""
    (product,) = [o for o in kernel.body.block.ops if isinstance(o, EinsumOp) and o.reduced]
    found, pending = set(), list(product.inputs)
    while pending:
        value = pending.pop()
        if isinstance(value.owner, EinsumOp):
            pending += value.owner.inputs
        else:
            found.add(str(value.name_hint))
    return found


CASES: dict[str, tuple[Callable, list[tuple[int, ...]], set[str]]] = {  # and the arguments that are the factors
    "divided": (divided, [(12, 40), (12, 1), (40, 24)], {"arg1"}),
    "both sides": (scaled_on_both_sides, [(12, 40), (12, 1), (24, 40), (24, 1)], {"arg1", "arg3"}),
    "batch": (scaled_in_a_batch, [(3, 12, 40), (3, 12, 1), (40,), (3, 40, 24)], {"arg1"}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_what_scales_rows_is_applied_once(name: str, dtype: torch.dtype):
    fn, shapes, factors = CASES[name]
    torch.manual_seed(0)
    seen = check(fn, [(torch.randn(s).abs() + 0.5).to(dtype) for s in shapes], "sm_90")
    (kernel,) = seen.kernels
    moved = dtype != torch.float16 or name != "batch"
    assert multiplied(kernel) & factors == (set() if moved else factors)
    assert ("certificates" in kernel.attributes) == moved


def test_an_operand_in_half_precision_keeps_the_factor_that_holds_it_in_range():
    """x g alone is over 65504, x h g is not; x alone is stored in that type anyway."""
    numbers = [((16, 32), 6e4), ((16, 1), 1e-4), ((32,), 8.0), ((32, 16), 0.1)]
    x, h, g, w = (torch.full(s, v, dtype=torch.float16) for s, v in numbers)
    kept = check(lambda x, h, g, w: (x * h * g) @ w, [x, h, g, w], "sm_90")
    moved = check(lambda x, h, w: (x * h) @ w, [x, h, w], "sm_90")
    assert "certificates" not in kept.kernels[0].attributes
    assert "certificates" in moved.kernels[0].attributes


def apart(fn: Callable, tensors, rate: float = 0.001) -> tuple[Fused, Callable]:
    """Fusion for a GPU whose library multiplies slowly, and what runs the program."""
    program = program_of(fn, tensors)
    canonicalise_program(program)
    target = replace(get_target("sm_90"), library_rate=rate, launch_us=0.001)
    fused = fuse_program(program, target)
    for kernel in fused.kernels:
        stream = kernel.attributes["stream"]
        assert isinstance(stream, StringAttr)
        repair_kernel(kernel, stream.data, target)
    assert not [o for o in program.body.block.ops if isinstance(o, EinsumOp)]
    return fused, lambda: run_program(program, tensors)


WIDE = [(1024, 512), (512,), (512, 4096)]


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("fn", [rms_norm_linear, rms_norm_linear_relu])
def test_a_statistic_and_its_product_are_two_kernels_with_the_same_result(fn: Callable, dtype: torch.dtype):
    torch.manual_seed(0)
    shapes = [*WIDE, (4096,)] if fn is rms_norm_linear_relu else WIDE
    tensors = [torch.randn(s).to(dtype) for s in shapes]
    fused, run = apart(fn, tensors)
    assert len(fused.kernels) == 2
    sums = [[o for o in k.body.block.ops if isinstance(o, EinsumOp) and o.reduced] for k in fused.kernels]
    assert [len(s) for s in sums] == [1, 1]
    agree(run(), [fn(*(t.double() for t in tensors))], "two kernels")


def test_a_scale_whose_kernel_would_write_more_than_rows_stays_with_its_product():
    """l of exp(s - m) / l is one number a row, but exp(s - m) would be written, too."""
    tensors = [torch.randn(64, 512), torch.randn(512, 256)]
    program = program_of(lambda s, v: torch.softmax(s, -1) @ v, tensors)
    canonicalise_program(program)
    assert not _scaled_apart(program.body.block)
    normed = program_of(rms_norm_linear, [torch.randn(s) for s in WIDE])
    canonicalise_program(normed)
    assert [len(scale) for scale in _scaled_apart(normed.body.block)] == [5]  # square, sum, mean, + eps, rsqrt


def _scaled_apart(block: Block) -> list[frozenset[EinsumOp]]:
    """What computes the scales that are left out of a candidate."""
    candidates = Candidates(block, lambda value: 4 * math.prod(int(d) for d in value.type.dims))  # pyright: ignore
    clusters = set(candidates.all())
    scales = [s for s in candidates.scaled_by.values() if any(s.isdisjoint(c) for c in clusters)]
    assert len(scales) == len(candidates.scaled_by)
    return scales
