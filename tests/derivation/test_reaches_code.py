"""Everything reaches code: each row of `functions.py` becomes the kernels it says, and they compute what eager computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from derivation.functions import ROWS, TWO_PASSES, Row, attention_softcap
from in_parts import slow_unless
from torch import Tensor

import fusecade
from fusecade.report import Report

ALL = (*ROWS, *TWO_PASSES)


def table(which: Sequence[Row], what: str, every: int = 1, first: int = 0) -> list[Any]:
    """Parameters for pytest; rows that do not get there yet are expected to fail, for the reason they give.

    Of `every` rows the one at `first` runs in CI, all with the slow tests.
    """
    return [
        pytest.param(row, id=row.name, marks=[*expected_to_fail(row, what), *slow_unless(at, first, of=every)])
        for at, row in enumerate(which)
    ]


def expected_to_fail(row: Row, what: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.xfail(strict=True, reason=row.fails[what])] if what in row.fails else []


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Plans are made here whatever they cost; nobody else should find them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSECADE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        compiled_for_cpu.cache_clear()
        yield


def fuse(row: Row, target: str) -> str:
    """Where fusing never pays on the target, the kernel is asked for all the same."""
    return "always" if target in row.never_pays else "by_cost"


@cache
def compiled_for_cpu(row: Row) -> fusecade.CompiledFunction:
    return fusecade.compile(row.fn, drawn(row), target="cpu", remainder="eager", fuse=fuse(row, "cpu"))


def drawn(row: Row, offset: float = 0.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [arg.make(generator, offset) for arg in row.cpu]


def explained(row: Row, target: str, compile_binaries: bool = False) -> Report:
    inputs = [a.meta(row.dtype) for a in row.gpu] if target != "cpu" else [a.meta(torch.float32) for a in row.cpu]
    return fusecade.explain(row.fn, *inputs, target=target, fuse=fuse(row, target), compile_binaries=compile_binaries)


def check_kernels(row: Row, report: Report) -> None:
    """A kernel that merges the parts of a split one is not counted."""
    assert report.fallbacks == ()
    assert report.externs == ()
    assert (
        all("would not pay" in reason for _, reason in report.refusals) if row.larger_refused else not report.refusals
    )
    kernels = [k for k in report.kernels if not k.workspace_bytes]
    passes = (
        row.passes
        if isinstance(row.passes, tuple)
        else (row.passes,) * ((report.target == "cpu" and row.cpu_kernels) or row.kernels)
    )
    assert tuple(max(k.passes.values()) for k in kernels) == passes


# --- kernels and passes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", table(ALL, "cpu", every=2, first=1))  # the others: with their results
def test_kernels_and_passes_on_a_cpu(row: Row) -> None:
    check_kernels(row, compiled_for_cpu(row).report)


@pytest.mark.slow  # a binary for each row
@pytest.mark.parametrize("row", table(ALL, "sm_90"))
def test_kernels_and_passes_on_sm_90(row: Row) -> None:
    report = explained(row, "sm_90", compile_binaries=True)
    check_kernels(row, report)
    for kernel in report.kernels:
        assert kernel.not_compiled is None
        assert kernel.binary is not None
        assert kernel.binary[:4] == b"\x7fELF"
        assert kernel.spills == 0


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_bounded_logits_need_no_maximum(target: str) -> None:
    row = next(r for r in ROWS if r.fn is attention_softcap)
    report = explained(row, target)
    check_kernels(row, report)
    (kernel,) = report.kernels
    assert 'tile.reduce "sum"' in kernel.tile
    assert 'tile.reduce "max"' not in kernel.tile
    assert "maximum" not in kernel.tile
    assert any("0 in the place of _softmax_max" in line for line in kernel.derivation)


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
@pytest.mark.parametrize("row", table(TWO_PASSES, "reasons"))
def test_a_second_pass_has_a_reason(row: Row, target: str) -> None:
    reasons = [r for k in explained(row, target).kernels for found in k.pass_reasons.values() for r in found]
    assert reasons
    assert all("waits for" in reason and ":" in reason for reason in reasons)


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", table(ALL, "results", every=2))
def test_results_are_those_of_eager(row: Row) -> None:
    if "cpu" not in row.fails:
        check_kernels(row, compiled_for_cpu(row).report)
    check_results(row, 0.0)


@pytest.mark.parametrize(
    "row", table([r for r in ALL if r.offset and any(a.shifted for a in r.cpu)], "results far from zero", every=5)
)
def test_results_are_those_of_eager_far_from_zero(row: Row) -> None:
    check_results(row, row.offset)


def check_results(row: Row, offset: float) -> None:
    inputs = drawn(row, offset)
    exact_inputs = [t.double() if t.is_floating_point() else t for t in inputs]
    got, eager, exact = (in_a_row(f) for f in (compiled_for_cpu(row)(*inputs), row.fn(*inputs), row.fn(*exact_inputs)))
    assert len(got) == len(exact)
    for mine, theirs, reference in zip(got, eager, exact, strict=True):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        if mine.is_floating_point():
            assert error(mine, reference) <= allowed(theirs, reference)
        else:
            assert row.scores is not None
            check_choice(mine, row.scores(*inputs), row.scores(*exact_inputs), row.largest)


def in_a_row(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def error(got: Tensor, exact: Tensor) -> float:
    """The largest error; infinite where NaN and infinities are not where they should be."""
    got, finite = got.double(), exact.isfinite()
    if not torch.equal(got.isfinite(), finite) or not torch.equal(got.isnan(), exact.isnan()):
        return float("inf")
    if not torch.equal(got[got.isinf()], exact[exact.isinf()]):
        return float("inf")
    return (got - exact)[finite].abs().max().item() if finite.any() else 0.0


def allowed(eager: Tensor, exact: Tensor) -> float:
    """Twice eager's error, and one unit in the last place of the largest value."""
    scale = exact[exact.isfinite()].abs().max().item() if exact.isfinite().any() else 0.0
    return 2 * error(eager, exact) + torch.finfo(eager.dtype).eps * scale


def check_choice(chosen: Tensor, eager: Tensor, exact: Tensor, largest: bool) -> None:
    """What was chosen may be another than the best only where the two tie within the tolerance."""
    best = exact.amax(-1) if largest else exact.amin(-1)
    short = (exact.gather(-1, chosen[..., None]).squeeze(-1) - best).abs()
    assert short.max().item() <= allowed(eager, exact)


# --- the table itself -------------------------------------------------------------------------------------------------


def test_names_are_unique() -> None:
    assert len({row.name for row in ALL}) == len(ALL)


def test_both_targets_get_the_same_kinds_of_inputs() -> None:
    for row in ALL:
        assert len(row.cpu) == len(row.gpu)
        assert [a.kind for a in row.cpu] == [a.kind for a in row.gpu]
