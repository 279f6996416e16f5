"""`fusecade::call` as PyTorch sees it: fake, symbolic, pure; and what happens when a kernel fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data.artifacts import row_sum, torch_kernel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fusecade.errors import FallbackWarning, InternalCompilerError, SourceLine
from fusecade.runtime.loaded import load
from fusecade.runtime.operator import OPERATOR, Entry, register

CPU = torch.device("cpu")
FAILS = "def row_sum_programs(*arguments):\n    raise ValueError('no such tile')\n"


def entry(folder: Path, key: str, artifact=None, **named) -> Entry:
    named = {"fallback": None, "device": CPU} | named
    return register(Entry(key, load(artifact or row_sum(), folder), **named))


def test_it_runs_the_kernel(tmp_path: Path):
    one = entry(tmp_path, "runs")
    x = torch.randn(6, 3)
    for (out,) in (OPERATOR(one.key, [x], [6, 3]), one([x], [6, 3])):
        torch.testing.assert_close(out, x.sum(1))


def test_it_passes_the_checks_of_custom_operators(tmp_path: Path):
    one = entry(tmp_path, "checked")
    torch.library.opcheck(
        OPERATOR, (one.key, [torch.randn(6, 3)], [6, 3]),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )  # fmt: skip


def test_to_fake_tensors_it_is_the_layout(tmp_path: Path):
    one = entry(tmp_path, "fake")
    env = ShapeEnv()
    with FakeTensorMode(shape_env=env) as mode:
        x = mode.from_tensor(torch.randn(6, 3))
        n = env.create_unbacked_symint()
        (out,) = OPERATOR(one.key, [x], [n, 3])
        assert str(out.shape[0]) == str(n)
        assert (out.dtype, out.device) == (torch.float32, CPU)


def test_a_key_that_is_not_there_is_a_mistake_of_ours():
    with pytest.raises(InternalCompilerError, match="which this process has not loaded"):
        OPERATOR("nothing", [torch.ones(1)], [])


def test_over_nothing_the_region_runs(tmp_path: Path):
    one = entry(tmp_path, "empty", fallback=lambda x, n, m: (torch.full((n,), 7.0),))
    assert one([torch.empty(4, 0)], [4, 0])[0].tolist() == [7.0] * 4
    assert one([torch.ones(4, 2)], [4, 2])[0].tolist() == [2.0] * 4


class TestFailure:
    def test_the_region_runs_instead_with_one_warning(self, tmp_path: Path):
        notes: list[str] = []
        one = entry(
            tmp_path, "falls back", torch_kernel(FAILS), fallback=lambda x, n, m: (x.sum(1),),
            source=SourceLine("model.py", 3, "y = x.sum(1)"), on_failure=lambda reason, *_: notes.append(reason),
        )  # fmt: skip
        x = torch.randn(6, 3)
        with pytest.warns(FallbackWarning, match="no such tile") as caught:
            results = [one([x], [6, 3])[0] for _ in range(3)]
        torch.testing.assert_close(results, [x.sum(1)] * 3)
        assert len(caught) == 1
        assert "model.py:3" in str(caught[0].message)
        assert notes == ["its kernel failed: ValueError: no such tile"]

    def test_results_of_the_region_have_the_layout_and_their_own_memory(self, tmp_path: Path):
        one = entry(tmp_path, "aliases", torch_kernel(FAILS), fallback=lambda x, n, m: (x[:, 0],))
        x = torch.randn(6, 3)
        with pytest.warns(FallbackWarning):
            (out,) = one([x], [6, 3])
        assert out.stride() == (1,)
        assert out.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
        assert torch.equal(out, x[:, 0])

    def test_strict_raises(self, tmp_path: Path):
        one = entry(tmp_path, "strict", torch_kernel(FAILS), fallback=lambda x, n, m: (x.sum(1),), strict=True)
        with pytest.raises(InternalCompilerError, match=r"kernel row_sum for cpu failed: ValueError: no such tile"):
            one([torch.ones(6, 3)], [6, 3])

    def test_without_a_region_it_raises(self, tmp_path: Path):
        one = entry(tmp_path, "no region", torch_kernel(FAILS))
        with pytest.raises(InternalCompilerError, match="no such tile"):
            one([torch.ones(6, 3)], [6, 3])

    @pytest.mark.parametrize("wrong", [torch.ones(6, 3, device="meta"), torch.ones(6, 3).double()])
    def test_a_wrong_argument_costs_one_call(self, tmp_path: Path, wrong: torch.Tensor):
        source = "def row_sum_programs(x, *arguments):\n    raise ValueError('a bad tensor')\n"
        one = entry(tmp_path, f"bad {wrong.dtype}", torch_kernel(source), fallback=lambda x, n, m: (x.sum(1).float(),))
        with pytest.warns(FallbackWarning, match="was compiled for"):
            assert one([wrong], [6, 3])[0].device == wrong.device
        assert one.failed is None

    def test_out_of_memory_is_not_a_reason_to_need_more(self, tmp_path: Path):
        source = "def row_sum_programs(*arguments):\n    raise MemoryError\n"
        one = entry(tmp_path, "memory", torch_kernel(source), fallback=lambda x, n, m: (x.sum(1),))
        with pytest.raises(MemoryError):
            one([torch.ones(6, 3)], [6, 3])
        assert one.failed is None
