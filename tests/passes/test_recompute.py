"""The pass `recompute`: a large product that several kernels read is computed again in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from harness import check, program_of
from torch import Tensor
from xdsl.ir import BlockArgument

import fusecade
from fusecade.passes.candidates import Candidates
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.nest_reductions import nest_reductions
from fusecade.passes.recompute import Cone, cones


def ties(h: Tensor, e: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Where a column of h eᵀ has its maximum, shared among ties: its products from both sides."""
    x = h @ e.T
    winner = (x == x.amax(0)).to(x.dtype)
    p = winner / winner.sum(0)
    return p @ a, p.T @ c


def drawn(s: int, v: int, k: int, seed: int = 0) -> list[Tensor]:
    """Small integers: columns have ties, and every order of summation gives the same."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (s, k), (v, k), (v, 2), (s, 3)
    return [torch.randint(-2, 3, shape, generator=generator).float() for shape in shapes]


def found(fn: Callable, tensors: Sequence[Tensor]) -> list[tuple[Cone, ...]]:
    program = program_of(fn, tensors)
    canonicalise_program(program)
    block = program.body.block
    elements: Callable = lambda v: math.prod(map(int, v.type.dims))  # noqa: E731
    nested = nest_reductions(block)
    return cones(Candidates(block, lambda v: 4 * elements(v), nested), elements)


# --- what can be computed again ---------------------------------------------------------------------------------------


def test_each_way_to_reduce_a_product_has_its_cone():
    ((one, other),) = found(ties, drawn(24, 40, 4))
    shared = one.ops & other.ops
    assert len(one.ops - shared) == len(other.ops - shared) == 1  # the last products
    assert sorted(tuple(map(int, v.type.dims)) for c in (one, other) for v in c.outputs) == [(24, 2), (40, 3)]  # type: ignore
    combiners = [name for op in shared for name in op.combiner_names]
    assert (
        combiners.count("max") == 1 and combiners.count("sum") == 2
    )  # what is compared, and the ties that are counted


def test_statistics_that_are_read_elsewhere_leave_one_cone():
    def with_maximum(h: Tensor, e: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        return (*ties(h, e, a, c), (h @ e.T).amax(0))

    ((one, other),) = found(with_maximum, drawn(24, 40, 4))
    assert sorted((len(one.outputs), len(other.outputs))) == [1, 2]
    kept = max((one, other), key=lambda c: len(c.outputs))
    assert {v.type.dims[0] for v in kept.outputs} == {40}  # the cone that keeps the rank of the maxima # type: ignore


def row_weights(q: Tensor, k: Tensor, v: Tensor, g: Tensor, m: Tensor, t: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """The gradients of exp(q kᵀ - m) / t times v, where m, t and the sums d of the rows are known."""
    p = torch.exp(q @ k.T - m) / t
    s = p * (g @ v.T - d)
    return s @ k, s.T @ q, p.T @ g


def rows_and_columns() -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(n, 4, generator=draw) for n in (40, 48, 48, 40))
    m = (q @ k.T).amax(1, keepdim=True)
    t = torch.exp(q @ k.T - m).sum(1, keepdim=True)
    return [q, k, v, g, m, t, torch.randn(40, 1, generator=draw)]


def test_two_products_that_meet_are_computed_again_together():
    for one, other in found(row_weights, rows_and_columns()):
        assert sorted((len(one.outputs), len(other.outputs))) == [1, 2]
        assert sum(o.combiner_names == ("sum",) for o in one.ops & other.ops) == 2  # the products


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_gradients_of_row_weights_keep_their_values(target: str):
    check(row_weights, rows_and_columns(), target)


def masked_weights(q: Tensor, k: Tensor, v: Tensor, g: Tensor, m: Tensor, t: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """The same where a row sees half of the columns, as a map of a map of indices has it."""
    unseen = torch.ones(q.shape[0], k.shape[0]).tril() == 0
    p = torch.exp((q @ k.T).masked_fill(unseen, -math.inf) - m) / t
    s = p * (g @ v.T - d)
    return s @ k, s.T @ q, p.T @ g


def test_a_mask_of_indices_is_computed_again():
    ((one, other),) = found(masked_weights, rows_and_columns())
    for cone in (one, other):
        read = {v for o in cone.ops for v in o.inputs if v.owner not in cone.ops}
        assert all(isinstance(v, BlockArgument) for v in read)


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_masked_gradients_keep_their_values(target: str):
    check(masked_weights, rows_and_columns(), target)


KEPT: dict[str, tuple[Callable, list[Tensor]]] = {
    "one way to reduce it": (lambda h, e, a, c: torch.softmax(h @ e.T, 1) @ a, drawn(24, 40, 4)),
    "it is a result": (lambda h, e, a, c: (h @ e.T, *ties(h, e, a, c)), drawn(24, 40, 4)),
    "a map of it is a result": (lambda h, e, a, c: (torch.relu(h @ e.T), *ties(h, e, a, c)), drawn(24, 40, 4)),
    "as large as an operand": (ties, drawn(24, 40, 24)),
    "a mask as large is read elsewhere": (
        lambda q, k, *rest: (
            *masked_weights(q, k, *rest),
            (torch.ones(q.shape[0], k.shape[0]).tril() == 0).sum(0),
        ),
        rows_and_columns(),
    ),
    "as large a value is read": (
        lambda h, e, w, a, c: (lambda p: (p @ a, p.T @ c))((h @ e.T) * w),
        [*drawn(24, 40, 4)[:2], torch.ones(24, 40), *drawn(24, 40, 4)[2:]],
    ),
}


@pytest.mark.parametrize("why", KEPT)
def test_other_products_are_left_alone(why: str):
    assert found(*KEPT[why]) == []


# --- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "s", "v"), [("cpu", 17, 33), ("sm_90", 24, 40)])
def test_ties_are_found_where_scores_are_computed(target: str, s: int, v: int):
    seen = check(ties, drawn(s, v, 4), target, walks=1)
    assert seen.unfused == []
    assert len(seen.kernels) == 2
    for kernel in seen.kernels:
        assert all(math.prod(map(int, x.type.dims)) < s * v for x in (*kernel.inputs, *kernel.results))  # type: ignore


@pytest.mark.parametrize(("s", "v", "pays"), [(128, 1 << 18, True), (64, 1 << 15, False)])
def test_the_price_decides(s: int, v: int, pays: bool):
    shapes = (s, 16), (v, 16), (v, 16), (s, 16)
    inputs = [torch.empty(shape, device="meta", dtype=torch.bfloat16) for shape in shapes]
    report = fusecade.explain(ties, *inputs, target="sm_90")
    priced = [reason for _, reason in report.refusals if "with its product computed again" in reason]
    assert bool(priced) != pays
    assert all(k.hbm_bytes < 2 * s * v for k in report.kernels) == pays
