"""A printed kernel as something to call."""

from __future__ import annotations

import stat
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data.artifacts import double_and_sum, row_sum, torch_kernel

from fusecade.codegen.artifact import Layout
from fusecade.errors import InternalCompilerError, InvalidArgument, UserError
from fusecade.runtime.loaded import load


def test_it_computes(tmp_path: Path):
    x = torch.randn(10, 3)
    (out,) = load(row_sum(), tmp_path)(x)
    torch.testing.assert_close(out, x.sum(1))


def test_the_source_is_a_readable_file_named_after_the_kernel(tmp_path: Path):
    kernel = load(row_sum(), tmp_path / "kernels")
    assert kernel.path.name == f"row_sum_{row_sum().fingerprint[:12]}.py"
    assert kernel.path.read_text() == row_sum().source
    assert stat.S_IMODE(kernel.path.parent.stat().st_mode) == 0o700


def test_a_changed_file_is_written_anew_and_never_run(tmp_path: Path):
    kernel = load(row_sum(), tmp_path)
    kernel.path.write_text("raise SystemExit('somebody wrote here')")
    again = load(row_sum(), tmp_path)
    assert again.path.read_text() == row_sum().source
    torch.testing.assert_close(again(torch.ones(4, 2))[0], torch.full((4,), 2.0))


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path):
    tmp_path.chmod(0o777)
    with pytest.raises(UserError, match="that nobody else can open"):
        load(row_sum(), tmp_path)


def test_outputs_have_exactly_the_layout(tmp_path: Path):
    artifact = torch_kernel(
        """
        def row_sum_programs(x, out, n, m, start, stop):
            out.copy_(x.sum(1))
        """,
        outputs=(Layout(("n",), (3,), "f16"),),
        launch={"programs": 1},
    )
    (out,) = load(artifact, tmp_path)(torch.ones(5, 2))
    assert (out.shape, out.stride(), out.dtype) == ((5,), (3,), torch.float16)


def test_tracebacks_show_the_generated_line(tmp_path: Path):
    artifact = torch_kernel("def row_sum_programs(x, out, n, m, start, stop):\n    1 / 0  # here\n")
    with pytest.raises(ZeroDivisionError) as raised:
        load(artifact, tmp_path)(torch.ones(4, 2))
    assert "1 / 0  # here" in "".join(traceback.format_exception(raised.value))


class TestStrides:
    def test_a_view_is_copied_once(self, tmp_path: Path):
        x = torch.randn(3, 10).T
        torch.testing.assert_close(load(row_sum(), tmp_path)(x)[0], x.sum(1))

    def test_a_broadcast_input(self, tmp_path: Path):
        x = torch.randn(10, 1).expand(10, 6)
        torch.testing.assert_close(load(row_sum(), tmp_path)(x)[0], x.sum(1))

    def test_an_offset_is_kept(self, tmp_path: Path):
        x = torch.randn(12, 3)[2:]
        torch.testing.assert_close(load(row_sum(), tmp_path)(x)[0], x.sum(1))

    def test_the_stride_of_a_dimension_of_size_one_means_nothing(self, tmp_path: Path):
        x = torch.randn(1, 6).as_strided((1, 6), (999, 1))
        kernel = load(row_sum(), tmp_path)
        torch.testing.assert_close(kernel(x)[0], x.sum(1))
        fitted = kernel._inputs[0].fit(x, (1, 6), x.device)
        assert fitted.data_ptr() == x.data_ptr()

    def test_inputs_that_come_in_other_dimensions(self, tmp_path: Path):
        """The graph has x[2, 5, 3]; the kernel reads the same elements as x[10, 3]."""
        kernel = load(row_sum(), tmp_path, [Layout((2, 5, 3), (15, 3, 1), "f32")])
        x = torch.randn(2, 5, 3)
        torch.testing.assert_close(kernel(x, sizes={"n": 10, "m": 3})[0], x.view(10, 3).sum(1))

    def test_and_with_strides_that_nobody_expected(self, tmp_path: Path):
        kernel = load(row_sum(), tmp_path, [Layout((2, 5, 3), (15, 3, 1), "f32")])
        x = torch.randn(5, 2, 3).transpose(0, 1)
        torch.testing.assert_close(kernel(x, sizes={"n": 10, "m": 3})[0], x.reshape(10, 3).sum(1))

    def test_another_shape_is_never_read(self, tmp_path: Path):
        with pytest.raises(ValueError, match=r"a tensor of shape \[5, 2\] where \[10, 3\]"):
            load(row_sum(), tmp_path).run([torch.randn(5, 2)], [10, 3])


class TestEmpty:
    def test_nothing_to_write_is_not_launched(self, tmp_path: Path):
        artifact = torch_kernel("def row_sum_programs(*arguments):\n    raise AssertionError\n")
        (out,) = load(artifact, tmp_path)(torch.empty(0, 4))
        assert out.shape == (0,)

    def test_an_empty_reduction_runs(self, tmp_path: Path):
        (out,) = load(row_sum(), tmp_path)(torch.empty(5, 0))
        assert torch.equal(out, torch.zeros(5))


class TestWrongCalls:
    def test_number(self, tmp_path: Path):
        with pytest.raises(InvalidArgument, match="takes 1 tensors, and was given 2"):
            load(row_sum(), tmp_path)(torch.ones(2, 2), torch.ones(2, 2))

    def test_dtype(self, tmp_path: Path):
        with pytest.raises(InvalidArgument, match=r"input 0 of kernel row_sum is torch.float64 \[2, 2\]"):
            load(row_sum(), tmp_path)(torch.ones(2, 2, dtype=torch.float64))

    def test_rank(self, tmp_path: Path):
        with pytest.raises(InvalidArgument, match="was compiled for"):
            load(row_sum(), tmp_path)(torch.ones(2, 2, 2), sizes={"n": 2, "m": 2})

    def test_size_that_contradicts(self, tmp_path: Path):
        with pytest.raises(InvalidArgument, match=r"was compiled for torch.float32 \[3, 2\]"):
            load(row_sum(), tmp_path)(torch.ones(2, 2), sizes={"n": 3})

    def test_unknown_size(self, tmp_path: Path):
        with pytest.raises(InvalidArgument, match="a size of kernel row_sum is 'k'"):
            load(row_sum(), tmp_path)(torch.ones(2, 2), sizes={"k": 3})

    def test_missing_size(self, tmp_path: Path):
        artifact = replace(row_sum(), inputs=(Layout(("n * 2", "m"), ("m", 1), "f32"),))
        with pytest.raises(InvalidArgument, match="needs the size n"):
            load(artifact, tmp_path)(torch.ones(4, 2))


class TestThatDoesNotLoad:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"source": "def row_sum_programs(:\n"}, "SyntaxError"),
            ({"source": "import nothing_of_this_name\n"}, "nothing_of_this_name"),
            ({"source": "x = 1\n"}, "row_sum_programs"),
            ({"kind": "cuda"}, "'cuda' is no kind"),
            ({"launch": {}}, "programs"),
            ({"launch": {"programs": "exit()"}}, "not arithmetic"),
            ({"outputs": (Layout((1,), (1,), "f4"),)}, "'f4' is no dtype"),
        ],
    )
    def test_is_a_mistake_of_ours(self, tmp_path: Path, changes, words):
        with pytest.raises(InternalCompilerError, match=words):
            load(replace(row_sum(), **changes), tmp_path)


class TestTriton:
    """Under Triton's interpreter."""

    @pytest.mark.parametrize("shape", [(9, 5), (4, 8), (1, 1), (3, 0)])
    def test_it_computes(self, tmp_path: Path, shape):
        x = torch.randn(shape)
        doubled, total = load(double_and_sum(), tmp_path)(x)
        torch.testing.assert_close(doubled, 2 * x)
        torch.testing.assert_close(total, x.sum(1))

    def test_no_programs_no_launch(self, tmp_path: Path):
        doubled, total = load(double_and_sum(), tmp_path)(torch.empty(0, 5))
        assert (doubled.shape, total.shape) == ((0, 5), (0,))

    def test_on_the_cpu_without_the_interpreter_the_error_says_what_to_do(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr("fusecade.runtime.triton_launch.is_interpreted", lambda kernel: False)
        with pytest.raises(InvalidArgument, match="is for sm_90, and its tensors are on the CPU") as caught:
            load(double_and_sum(), tmp_path)(torch.randn(4, 4))
        assert "TRITON_INTERPRET=1" in str(caught.value)


@pytest.mark.gpu
def test_triton_on_a_device(tmp_path: Path):
    x = torch.randn(9, 5, device="cuda")
    doubled, total = load(double_and_sum(), tmp_path)(x)
    torch.testing.assert_close(doubled, 2 * x)
    torch.testing.assert_close(total, x.sum(1))
