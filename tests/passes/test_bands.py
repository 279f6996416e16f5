"""Products that are read at a difference or a sum of ranks: computed where they are read, a band of them at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases import CASES, shifted
from harness import agree, check, program_of
from in_parts import taking_turns
from torch.nn import functional as F

from fusecade.ir import tile
from fusecade.ir.cascade import EinsumOp
from fusecade.ir.interpret import run_program
from fusecade.ir.verify import verify
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.needed_reads import needed_reads
from fusecade.passes.scheduled import Scheduled

BANDS = {name: 2 if name == "relative_both" else 1 for name in CASES if name.startswith("relative_")}


@pytest.mark.parametrize(("name", "target"), taking_turns(BANDS, ["cpu", "sm_90"]))
def test_no_product_is_left(name: str, target: str):
    """All of it is one kernel, which holds a band of each product that is read along one, and no more."""
    case = CASES[name]
    seen = check(case.fn, case.tensors, target, walks=2, seed=3)
    (scheduled,) = seen.scheduled
    assert not seen.unfused and isinstance(scheduled, Scheduled)
    kernel = scheduled.kernel
    bands = [r.name for r in kernel.ranks.data if r.role == "band"]
    assert len(bands) == BANDS[name]
    picks = [op for op in kernel.body.walk() if isinstance(op, tile.PickOp)]
    assert {op.band.data for op in picks} == set(bands)
    assert {a.type.shape.data for a in kernel.arguments} == {t.shape for t in [*case.tensors, case.fn(*case.tensors)]}  # type: ignore


def test_sizes_known_only_when_it_runs():
    """As a text: torch gives a reshape that cuts rows anew one size."""
    text = (Path(__file__).parent / "needed_reads.mlir").read_text()
    seen = check(text, CASES["relative_causal"].tensors, eager=False, walks=3)
    assert len(seen.kernels) == 1 and not seen.unfused


def needed(fn, *tensors: torch.Tensor) -> list[str]:
    """The accesses that became affine; the values stay as they are."""
    program = program_of(fn, list(tensors), None)
    canonicalise_program(program)
    expected = run_program(program, list(tensors))
    done = needed_reads(program)
    verify(program)
    agree(run_program(program, list(tensors)), expected, "needed reads")
    return [identity for _, identity in done]


def skewed(s: torch.Tensor) -> torch.Tensor:
    b, n, m = s.shape
    return F.pad(s, (1, 0)).reshape(b, m + 1, n)[:, 1:]


X = torch.randn(2, 6, 6)


def lower(diagonal: int = 0) -> torch.Tensor:
    return torch.ones(6, 6, dtype=torch.bool).tril(diagonal)


def test_a_mask_makes_a_reshape_affine():
    (identity,) = needed(lambda x: torch.where(lower(), torch.tanh(skewed(x)), 0.0), X)
    assert identity.endswith("[d0, d1, d2 - d1 + 6] where d2 <= d1")


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: torch.tanh(skewed(x)),
        lambda x: torch.where(lower(1), skewed(x), 0.0),
        lambda x: torch.where(~lower(-1), skewed(x), 0.0),
        lambda x: (torch.where(lower(), y := torch.tanh(skewed(x)), 0.0), y.sum(-1)),
    ],
    ids=["no mask", "one diagonal more", "the other triangle", "read elsewhere"],
)
def test_what_matters_beyond_is_kept(fn):
    assert needed(fn, X) == []


def test_a_product_that_is_not_zero_beyond_its_ends_is_not_a_band():
    """exp of a row of zeros is one."""
    q, e, k = torch.randn(2, 5, 4), torch.randn(9, 4), torch.randn(2, 5, 4)
    seen = check(lambda q, k, e: torch.relu(q @ k.mT + shifted(q @ e.exp().T)).sum(-1), [q, k, e], walks=2)
    bands = [r for s in seen.scheduled if isinstance(s, Scheduled) for r in s.kernel.ranks.data if r.role == "band"]
    reads = [v for k in seen.kernels for v in k.inputs]
    assert not bands or any(isinstance(v.owner, EinsumOp) for v in reads)  # the exponentials are computed before
