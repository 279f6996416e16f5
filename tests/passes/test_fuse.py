"""Corners of fusion that no cascade reaches by itself."""

from __future__ import annotations

import pytest
import torch
from harness import check, program_of

from fusecade.ir.cascade import EinsumOp
from fusecade.ir.target import get_target
from fusecade.passes.algebra.forms import Refused
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.fingerprint import Known
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
    fuser = _Fuser(program, get_target(target), {}, lambda value: True, always=False, options=None, known=Known())
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


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_a_product_alone_is_a_kernel_only_where_kernels_are_asked_for(target: str):
    """By cost it is the library's; with `always`, its own kernel, unless there is something to fuse."""
    inputs = [torch.randn(96, 40), torch.randn(40, 72)]
    for always, kernels in ((True, 1), (False, 0)):
        program = program_of(lambda a, b: a @ b, inputs)
        canonicalise_program(program)
        assert len(fuse_program(program, get_target(target), always=always).kernels) == kernels
    seen = check(lambda a, b: a @ b, inputs, target, walks=2)
    assert len(seen.kernels) == 1


def kernels_by_cost(fn, inputs, target: str = "cpu") -> int:
    program = program_of(fn, inputs)
    canonicalise_program(program)
    return len(fuse_program(program, get_target(target)).kernels)


def test_a_map_that_its_readers_can_compute_along_costs_nothing_apart():
    """Scaled scores: the library's product, and the scale in the kernel of the softmax.  Written out, they are a kernel."""
    q, k = torch.randn(12, 512, 64), torch.randn(12, 512, 64)

    def scores(q, k):
        return q @ k.mT * 0.125

    def ranked(q, k):
        return torch.sort(scores(q, k))[0]

    assert kernels_by_cost(scores, [q, k]) == 1
    assert kernels_by_cost(lambda q, k: torch.softmax(scores(q, k), -1), [q, k]) == 0
    assert kernels_by_cost(ranked, [q, k]) == 1  # nobody to compute it along


def test_maps_in_front_of_a_norm_are_no_kernel():
    x = [torch.randn(512, 768) for _ in range(3)]
    assert kernels_by_cost(lambda a, b, c: torch.layer_norm(a + b + c, (768,)), x) == 0


def test_maps_alone_are_left_to_the_rest_of_the_graph():
    rows, row = torch.randn(1, 512, 768), torch.randn(1, 1, 768)
    assert kernels_by_cost(lambda a, b, c: a + b.expand(1, 512, 768) + c, [rows, row, torch.randn(1, 512, 768)]) == 0
    assert kernels_by_cost(lambda x: torch.relu(x) * 2, [torch.randn(4096, 4096)]) == 0


def test_a_product_beside_what_fuses_is_left_to_the_library():
    inputs = [torch.randn(64, 16), torch.randn(16, 32)]
    program = program_of(lambda x, w: (torch.softmax(x @ w, -1) @ w.mT).tanh() @ w, inputs)
    canonicalise_program(program)
    fused = fuse_program(program, get_target("sm_90"), always=True)
    assert fused.members and all(len(members) > 1 for members in fused.members.values())
