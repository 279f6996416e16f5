"""The passes `one-hot` and `copy-maps`: gradients of extremes without the tensor that they were taken of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from harness import agree, check, program_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fusecade
from fusecade.ir.cascade import EinsumOp
from fusecade.ir.interpret import run_program
from fusecade.ir.verify import verify
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.copy_maps import copy_maps, merge
from fusecade.passes.one_hot import one_hot

X, W, GIVEN = torch.randn(5, 7), torch.randn(7, 6), torch.randn(6)


def rewritten(fn: Callable, *tensors: Tensor) -> tuple[list[str], list[EinsumOp]]:
    """The maps that are rewritten, and all operations after it; the values stay."""
    program = program_of(fn, list(tensors))
    canonicalise_program(program)
    expected = run_program(program, list(tensors))
    found = [r.name for r in one_hot(program)]
    verify(program)
    agree(run_program(program, list(tensors)), expected, "one-hot")
    return found, [op for op in program.body.block.ops if isinstance(op, EinsumOp)]


ORDERED: dict[str, Callable[[Tensor], Tensor]] = {  # what the extreme is taken of, of the scores
    "scores": lambda s: s,
    "exponentials": torch.exp,
    "logarithms": lambda s: torch.log1p(torch.relu(s)),
    "squashed": torch.tanh,
    "scaled": lambda s: 3 * torch.sigmoid(s),
}
EXTREMES: dict[str, Callable[[Tensor], Tensor]] = {"max": lambda z: z.max(0).values, "min": lambda z: z.min(0).values}


def gradients(ordered: str, extreme: str) -> Callable[..., tuple[Tensor, ...]]:
    def run(x: Tensor, w: Tensor, given_: Tensor) -> tuple[Tensor, ...]:
        _, pull = torch.func.vjp(lambda x, w: EXTREMES[extreme](ORDERED[ordered](x @ w)), x, w)
        return pull(given_)

    return run


@given(st.sampled_from(sorted(ORDERED)), st.sampled_from(sorted(EXTREMES)), st.integers(0, 9))
def test_gradients_of_extremes_keep_their_values(ordered: str, extreme: str, seed: int):
    generator = torch.Generator().manual_seed(seed)
    rewritten(gradients(ordered, extreme), *(torch.randn(t.shape, generator=generator) for t in (X, W, GIVEN)))


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("ordered", ["logarithms", "exponentials", "squashed"])
def test_gradient_forgets_the_scores(ordered: str, extreme: str):
    """Nothing behind the extremes reads a value as large as the scores but the one-hot map itself."""
    found, ops = rewritten(gradients(ordered, extreme), X, W, GIVEN)
    assert len(found) == 1
    scores = {
        op.results[0] for op in ops if op.is_map and len(op.out_ranks()) == 2 and X.shape[0] in map(int, op.out_shape())
    }
    place = next(op for op in ops if any("arg" in c for c in op.combiner_names)).results[-1]
    hot = next(op for op in ops if op.is_map and place in op.inputs)
    assert not scores & set(hot.inputs)


STAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "another value's place": lambda s, t: torch.where(places(s) == t.argmax(0), torch.exp(s), 0.0),
    "not zero elsewhere": lambda s, t: torch.where(places(s) == s.argmax(0), torch.exp(s), 1.0) * s,
    "a flat map lies between": lambda s, t: torch.where(places(s) == torch.relu(s).argmax(0), torch.exp(s), 0.0),
    "a decreasing map lies between": lambda s, t: torch.where(places(s) == (-s).argmax(0), torch.exp(s), 0.0),
    "only the extreme is read": lambda s, t: torch.where(places(s) == s.argmax(0), s.amax(0), 0.0),
    "the other rank": lambda s, t: torch.where(places(s.T).T == s.argmax(0).sum(), torch.exp(s), 0.0),
}


def places(s: Tensor) -> Tensor:
    return torch.arange(s.shape[0])[:, None]


@pytest.mark.parametrize("why", STAYS)
def test_what_is_something_else_stays(why: str):
    found, _ = rewritten(lambda s, t: STAYS[why](s, t).sum(1), torch.randn(5, 6), torch.randn(5, 6))
    assert found == []


def test_infinite_scores():
    x = X.clone()
    x[1, 0], x[2, 0] = float("inf"), float("-inf")
    rewritten(gradients("scores", "max"), x, W.abs(), GIVEN)


def test_the_gradient_of_a_maximum_is_computed_without_its_scores():
    """All that is as large as the scores is in kernels, and no kernel reads or writes it."""
    shapes = (256, 64), (64, 4096), (4096,)
    inputs = [torch.empty(s, device="meta") for s in shapes]
    report = fusecade.explain(gradients("logarithms", "max"), *inputs, target="sm_90", fuse="always")
    assert report.externs == () and report.refusals == ()
    assert all(kernel.hbm_bytes < 256 * 4096 * 4 for kernel in report.kernels)
    assert any(rule == "one-hot" for rule, _, _ in report.rewrites)


# --- copies -------------------------------------------------------------------------------------------------------


def outer(u: Tensor, w: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    p = torch.relu(u[:, None] - w)
    return p @ a, p.T @ c


OUTER = [torch.randn(6), torch.randn(9), torch.randn(9, 2), torch.randn(6, 3)]


def test_each_reduction_has_its_own_copy():
    program = program_of(outer, OUTER)
    canonicalise_program(program)
    expected = run_program(program, OUTER)
    count = len(list(program.body.block.ops))
    assert copy_maps(program.body.block, lambda v: 4 * int(torch.tensor([int(d) for d in v.type.dims]).prod()))  # type: ignore
    verify(program)
    agree(run_program(program, OUTER), expected, "copied")
    assert len(list(program.body.block.ops)) == count + 2  # a difference and a maximum
    merge(program.body.block)
    assert len(list(program.body.block.ops)) == count


def test_what_is_as_large_as_its_operand_is_not_copied():
    x = torch.randn(6, 9)
    program = program_of(lambda x, a, c: (lambda p: (p @ a, p.T @ c))(torch.relu(x)), [x, *OUTER[2:]])
    assert not copy_maps(program.body.block, lambda v: 4 * int(torch.tensor([int(d) for d in v.type.dims]).prod()))  # type: ignore


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_copies_are_fused(target: str):
    seen = check(outer, OUTER, target, walks=2)
    assert len(seen.kernels) == 2
    assert seen.unfused == []


def test_an_extreme_of_what_a_map_hands_on():
    """Negative padding is a map that computes nothing."""

    def run(x: Tensor) -> Tensor:
        y = torch.nn.functional.pad(x * 2, (-1, 0))
        return ((y.argmax(0, keepdim=True) == 0) + y).roll(-1, 1).square().sum(0)

    rewritten(run, X)
    check(run, [X])
