"""Corners of fusion that no cascade reaches by itself."""

from __future__ import annotations

import pytest
import torch
from harness import program_of

from fusecade.ir.cascade import EinsumOp
from fusecade.ir.target import get_target
from fusecade.passes.algebra.forms import Refused
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.fuse import _Fuser, fuse_program


def mask_of_a_model(x):
    """How models write a mask: a condition that is a number, and numbers to choose from."""
    allowed = x.new_ones((), dtype=torch.bool)
    zero, low = torch.tensor(0.0), torch.tensor(float("-inf"))
    return torch.softmax(x + torch.where(allowed, zero, low), -1)


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_numbers_alone_are_no_kernel(target: str):
    """A cluster may be left with constants only: there is nothing to walk, and that is a reason, not a mistake."""
    program = program_of(mask_of_a_model, [torch.randn(8, 16)])
    fuser = _Fuser(program, get_target(target), {}, lambda value: True, always=False, options=None)
    numbers = [op for op in program.body.block.ops if isinstance(op, EinsumOp) and not op.ranks.names]
    assert len(numbers) >= 2
    verdict = fuser._judge(numbers, [r for op in numbers for r in op.results])
    assert isinstance(verdict, Refused) and verdict.reason


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_a_mask_made_of_numbers(target: str):
    program = program_of(mask_of_a_model, [torch.randn(512, 4096)])
    canonicalise_program(program)
    fused = fuse_program(program, get_target(target), always=True)
    assert len(fused.kernels) == 1
