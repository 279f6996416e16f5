"""`known-indices` and `finite-masks`: what they find, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from harness import agree, program_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fusecade.ir.cascade import EinsumOp, ProgramOp, ScanOp
from fusecade.ir.interpret import run_program
from fusecade.ir.verify import verify
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.finite_masks import finite_masks
from fusecade.passes.known_indices import known_indices

MINIMUM = torch.finfo(torch.float32).min
Keep = Callable[[Tensor, Tensor], Tensor]


def simplified(fn: Callable, *tensors: Tensor) -> ProgramOp:
    """The program after `known-indices`; the values stay."""
    program = program_of(fn, list(tensors))
    expected = run_program(program, list(tensors))
    known_indices(program)
    verify(program)
    agree(run_program(program, list(tensors)), expected, "known-indices")
    canonicalise_program(program)
    agree(run_program(program, list(tensors)), expected, "canonicalise")
    return program


def closed(fn: Callable, *tensors: Tensor) -> list[tuple[str, str]]:
    """What `finite-masks` rewrites; the values stay."""
    program = simplified(fn, *tensors)
    expected = run_program(program, list(tensors))
    found = finite_masks(program)
    verify(program)
    agree(run_program(program, list(tensors)), expected, "finite-masks")
    return found


@given(st.integers(-2, 3), st.integers(-2, 3), st.integers(2, 9), st.booleans())
def test_positions_are_known(start: int, step_from: int, size: int, forward: bool):
    def run(x: Tensor) -> Tensor:
        p = torch.arange(size) + start
        shown = torch.cat([p[:1] + step_from, p] if forward else [p, p[-1:] + step_from])
        steps = (shown[1:] - shown[:-1]) != 1
        return x + steps.cumsum(0)

    program = simplified(run, torch.randn(size))
    counted = any(isinstance(op, ScanOp) for op in program.body.block.ops)
    assert counted == (step_from != (-1 if forward else 1))


def test_what_data_decides_is_not_known():
    def run(ids: Tensor) -> Tensor:
        return (ids[1:] - ids[:-1] != 1).cumsum(0)

    assert any(isinstance(op, ScanOp) for op in simplified(run, torch.arange(5)).body.block.ops)


def test_narrow_integers_wrap_and_are_left_alone():
    def run(x: Tensor) -> Tensor:
        return x + (torch.arange(4, dtype=torch.int8) + 126)

    operations = [op for op in simplified(run, torch.zeros(4)).body.block.ops if isinstance(op, EinsumOp)]
    assert len(operations) > 1


OPEN: dict[str, Keep] = {
    "causal": lambda i, j: j <= i,
    "window": lambda i, j: (j <= i) & (i - j < 3),
    "later": lambda i, j: j >= i,
    "not the first": lambda i, j: j > 0,
}
CLOSED: dict[str, Keep] = {  # some row has nothing: there, all keys count alike
    "earlier": lambda i, j: j < i,
    "far": lambda i, j: j >= i + 2,
    "nothing": lambda i, j: j < 0,
}


def masked(keep: Keep, number: float = MINIMUM, add: bool = True, after: Callable[[Tensor], Tensor] | None = None):
    def run(s: Tensor) -> Tensor:
        i, j = torch.arange(s.shape[0])[:, None], torch.arange(s.shape[1])
        s = s + torch.where(keep(i, j), 0.0, number) if add else torch.where(keep(i, j), s, number)
        return (after or (lambda x: torch.softmax(x, 1)))(s)

    return run


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("name", OPEN)
def test_rows_with_an_open_element(name: str, add: bool):
    assert len(closed(masked(OPEN[name], add=add), torch.randn(7, 7))) == 1


def test_a_maximum_that_was_saved():
    def run(s: Tensor, peak: Tensor, total: Tensor) -> Tensor:
        i, j = torch.arange(s.shape[0])[:, None], torch.arange(s.shape[1])
        return torch.exp(s + torch.where(j <= i, 0.0, MINIMUM) - peak) / total

    x = torch.randn(7, 7)
    peak = x.masked_fill(~torch.ones(7, 7).tril().bool(), MINIMUM).amax(1, keepdim=True)
    assert len(closed(run, x, peak, torch.rand(7, 1) + 1)) == 1
    assert closed(lambda x, given: run(x, given, x), x, torch.randn(7, 7)) == []  # the maximum of no row


@pytest.mark.parametrize("name", CLOSED)
def test_rows_without_one_keep_their_mask(name: str):
    assert closed(masked(CLOSED[name]), torch.randn(7, 7)) == []


@pytest.mark.parametrize(
    "after",
    [
        lambda x: x,
        lambda x: torch.log_softmax(x, 1),
        lambda x: x - x.amax(1, keepdim=True),
        lambda x: torch.exp(x - x.amax(0, keepdim=True) - x.amax(1, keepdim=True)),
        lambda x: (torch.softmax(x, 1), x.sum(1)),
    ],
    ids=["itself", "its logarithm", "differences", "two maxima", "two readers"],
)
def test_what_is_read_otherwise_keeps_its_mask(after: Callable):
    assert closed(masked(OPEN["causal"], after=after), torch.randn(7, 7)) == []


def test_a_mask_that_is_not_very_negative_is_kept():
    assert closed(masked(OPEN["causal"], -1e9), torch.randn(7, 7)) == []


def test_half_precision_keeps_its_mask():
    """-65504 is a score that there may be."""

    def run(s: Tensor) -> Tensor:
        i, j = torch.arange(s.shape[0])[:, None], torch.arange(s.shape[1])
        return torch.softmax(s + torch.where(j <= i, 0.0, -65504.0).half(), 1)

    assert closed(run, torch.randn(7, 7).half()) == []


def test_scores_of_sixteen_bits_that_are_widened():
    def run(s: Tensor) -> Tensor:
        i, j = torch.arange(s.shape[0])[:, None], torch.arange(s.shape[1])
        mask = torch.where(j <= i, 0.0, torch.finfo(torch.bfloat16).min).bfloat16()
        return torch.softmax(s + mask, 1, dtype=torch.float32)

    assert len(closed(run, torch.randn(7, 7).bfloat16())) == 1
