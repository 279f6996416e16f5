"""What is multiplied in 16 bits whatever it is held in."""

from __future__ import annotations

import pytest
import torch
from harness import program_of
from torch import Tensor

from fusecade.ir.cascade import EinsumOp
from fusecade.passes.small_values import is_small

X, T = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)


def hit(x: Tensor, t: Tensor) -> Tensor:
    return torch.arange(4) == t[:, None]


@pytest.mark.parametrize(
    ("made", "small"),
    [
        (lambda x, t: hit(x, t).float(), True),
        (lambda x, t: hit(x, t).long().float(), True),
        (lambda x, t: -hit(x, t).float() * torch.where(x > 0, 1.0, -1.0), True),
        (lambda x, t: torch.where(x > 0, 0.0, 2.0), False),
        (lambda x, t: hit(x, t).float() + 1.0, False),
        (lambda x, t: hit(x, t).float() * x, False),
    ],
)
def test_what_is_one_zero_or_minus_one(made, small: bool):
    program = program_of(made, [X, T])
    last = [op for op in program.body.block.ops if isinstance(op, EinsumOp)][-1]
    assert is_small(last.results[0]) is small
