"""Every message of the error catalogue, word for word where a reader relies on the words."""

import pickle
import warnings
from pathlib import Path

import pytest

from fusecade import errors
from fusecade.errors import (
    FallbackWarning,
    FusecadeError,
    InternalCompilerError,
    InvalidArgument,
    InvalidPackage,
    MissingTool,
    PackagedKernelFailed,
    SourceLine,
    UnsupportedProgram,
    UserError,
)

LINE = SourceLine("model.py", 12, "y = torch.fft.fft(x)", 4, 20)
EXAMPLES: list[FusecadeError] = [
    FusecadeError("something went wrong"),
    UserError("the cache folder is not private", next_step="chmod 700 it"),
    UnsupportedProgram("aten.fft_fft is not supported", source=LINE),
    InvalidArgument.choice("target", "sm_91", ["cpu", "sm_80", "sm_90"]),
    InvalidPackage("a.fcade is no valid package: its member cpu/k.py is not what was written: its hash differs"),
    PackagedKernelFailed("k0", "sm_90", RuntimeError("the driver could not launch: error 700")),
    MissingTool("Triton", needed_for="compiling for sm_90", install="pip install triton"),
    InternalCompilerError("%3 is used before it is defined", stage="fuse", dump=Path("dumps/fuse.mlir")),
]


def catalogue() -> set[type]:
    return {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, FusecadeError)}


def test_every_class_of_the_catalogue_has_an_example_here():
    assert {type(error) for error in EXAMPLES} == catalogue()


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_message_ends_with_what_to_do_next(error: FusecadeError):
    last = str(error).splitlines()[-1]
    assert last.startswith("next: ")
    assert len(last) > len("next: ")


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_come_back_whole_from_a_worker_process(error: FusecadeError):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_user_errors_and_internal_errors_are_different_families():
    assert not issubclass(InternalCompilerError, UserError)
    assert all(issubclass(cls, UserError) for cls in (UnsupportedProgram, InvalidArgument, MissingTool))


def test_unsupported_program_points_at_the_source():
    assert str(UnsupportedProgram("aten.fft_fft is not supported", source=LINE)).splitlines() == [
        "aten.fft_fft is not supported",
        "  at model.py:12",
        "    y = torch.fft.fft(x)",
        "        ^~~~~~~~~~~~~~~~",
        "next: leave `strict` off, and this part runs as eager PyTorch runs it; or rewrite the line with supported "
        "operations; `fusecade.explain(fn, *args)` lists every part that is not compiled, with its reason",
    ]


def test_unsupported_program_without_a_source_line():
    assert str(UnsupportedProgram("complex numbers are not supported", next_step="use real ones")) == (
        "complex numbers are not supported\nnext: use real ones"
    )


def test_invalid_argument_suggests_the_nearest_value():
    assert str(InvalidArgument.choice("target", "sm90", ["cpu", "sm_80", "sm_90"])) == (
        "target is 'sm90', which is not one of: cpu, sm_80, sm_90\nnext: use 'sm_90' instead"
    )
    assert str(InvalidArgument.choice("tune", 7, ["off", "quick", "full"])) == (
        "tune is 7, which is not one of: off, quick, full\nnext: use one of the values above for tune"
    )


def test_invalid_argument_with_a_message_of_its_own():
    assert str(InvalidArgument("dynamic names no argument 'k'")) == (
        "dynamic names no argument 'k'\n"
        "next: correct the argument; `help(fusecade)` and `fusecade --help` list what each call takes"
    )


def test_missing_tool_says_what_needs_it_and_how_to_get_it():
    assert str(MissingTool("Triton", needed_for="compiling for sm_90", install="pip install triton")) == (
        "Triton is needed for compiling for sm_90, and is not there\nnext: pip install triton"
    )


def test_internal_error_names_the_pass_and_how_to_report_it():
    text = str(InternalCompilerError("%3 is used before it is defined", stage="fuse", dump="dumps/fuse.mlir"))
    assert text.splitlines() == [
        "internal compiler error: %3 is used before it is defined",
        "  in pass: fuse",
        "  program before the pass: dumps/fuse.mlir",
        "next: this is a mistake in Fusecade, not in your program; `fusecade opt -p fuse dumps/fuse.mlir` repeats it; "
        "please report it with the program in dumps/fuse.mlir and the output of `fusecade doctor`; until it is mended, "
        "`strict=False` runs this part as eager PyTorch runs it",
    ]


def test_internal_error_without_a_dump_asks_for_a_small_program():
    text = str(InternalCompilerError("no such rank"))
    assert "a small program that shows it" in text
    assert "fusecade opt" not in text


def test_fallback_warning_says_that_the_result_is_the_same():
    with pytest.warns(FallbackWarning) as caught:
        warnings.warn(FallbackWarning("aten.fft_fft", "no rule imports it", LINE), stacklevel=1)
    assert str(caught[0].message).splitlines() == [
        "fusecade: aten.fft_fft runs eagerly: no rule imports it",
        "  at model.py:12",
        "    y = torch.fft.fft(x)",
        "        ^~~~~~~~~~~~~~~~",
        "next: nothing has to be done, the result is the same; `fusecade.explain(fn, *args)` shows all such parts, "
        "and `strict=True` raises instead",
    ]


class TestSourceLine:
    def test_innermost_frame_of_a_stack_trace(self):
        trace = (
            '  File "app.py", line 3, in main\n    model(x)\n'
            '  File "model.py", line 12, in forward\n    y = torch.fft.fft(x)\n'
        )
        place = SourceLine.from_stack_trace(trace)
        assert place == SourceLine("model.py", 12, "y = torch.fft.fft(x)")
        assert str(place) == "model.py:12\n    y = torch.fft.fft(x)\n    ^" + "~" * 19

    def test_anchors_of_the_stack_trace_become_columns(self):
        trace = '  File "model.py", line 12, in forward\n    y = torch.fft.fft(x)\n        ~~~~~~~~~~~~~^^^\n'
        place = SourceLine.from_stack_trace(trace)
        assert place is not None
        assert (place.start, place.end) == (4, 20)

    @pytest.mark.parametrize("trace", [None, "", "no frame here"])
    def test_no_frame_is_no_place(self, trace: str | None):
        assert SourceLine.from_stack_trace(trace) is None

    def test_text_is_read_from_the_file_when_the_trace_has_none(self, tmp_path: Path):
        source = tmp_path / "model.py"
        source.write_text("a = 1\n    b = x @ y\n")
        place = SourceLine.from_stack_trace(f'  File "{source}", line 2, in f\n')
        assert str(place) == f"{source}:2\n    b = x @ y\n    ^" + "~" * 8

    def test_a_file_that_is_not_there_still_gives_the_place(self):
        assert str(SourceLine.at("<eval>", 1)) == "<eval>:1"

    def test_columns_follow_the_text_when_its_indentation_is_cut(self):
        assert str(SourceLine("m.py", 1, "    y = f(x)", 8, 12)) == "m.py:1\n    y = f(x)\n        ^~~~"
