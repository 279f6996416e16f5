"""The collector of textual IR tests: what it runs, and what it says when a test file or a program is wrong."""

from pathlib import Path

import pytest
from textual_ir import BadTest, CheckFailed, commands, run_command


def run(tmp_path: Path, text: str, run_opt=lambda options, text: "builtin.module {\n  a\n  b\n}\n") -> None:
    path = tmp_path / "test.mlir"
    path.write_text(text)
    for command in commands(text):
        run_command(command, path, run_opt)


def failing(options: list[str], text: str) -> str:
    raise ValueError("operand 0 is not defined before its use")


def test_options_and_program_reach_the_command(tmp_path: Path):
    seen = []
    text = "// RUN: fusecade opt -p derive-online,fuse{target=sm_90} %s\nbuiltin.module {}\n"
    run(tmp_path, text, lambda options, text: seen.append((options, text)) or "")
    assert seen == [(["-p", "derive-online,fuse{target=sm_90}"], text)]


def test_a_run_line_goes_on_after_a_backslash():
    (command,) = commands("// RUN: fusecade opt \\\n// RUN:   -p fuse %s | filecheck %s\n")
    assert (command.options, command.filecheck, command.line) == (["-p", "fuse"], ["%s"], 1)


@pytest.mark.parametrize("checks", ["CHECK: a\n// CHECK-NEXT: {{[b-z]}}", "CHECK-LABEL: module\n// CHECK-NOT: c"])
def test_checks_that_hold(tmp_path: Path, checks: str):
    run(tmp_path, f"// RUN: fusecade opt %s | filecheck %s\n// {checks}\n")


@pytest.mark.parametrize(
    ("checks", "complaint"),
    [
        ("CHECK: c", "Couldn't match"),
        ("CHECK: module\n// CHECK-NEXT: b", "Couldn't match"),
        ("CHECK: module\n// CHECK-NOT: a\n// CHECK: b", "excluded string found"),
        ("NOTHING: to check", "No check strings found"),
    ],
)
def test_checks_that_do_not_hold_show_the_output(tmp_path: Path, checks: str, complaint: str):
    with pytest.raises(CheckFailed) as failure:
        run(tmp_path, f"// RUN: fusecade opt %s | filecheck %s\n// {checks}\n")
    assert complaint in str(failure.value)
    assert "    builtin.module {" in str(failure.value)


def test_prefixes(tmp_path: Path):
    run(tmp_path, "// RUN: fusecade opt %s | filecheck --check-prefix=CPU %s\n// CPU: a\n// CHECK: not here\n")


def test_an_expected_error(tmp_path: Path):
    run(tmp_path, "// RUN: not fusecade opt %s\n// EXPECT-ERROR: operand 0 is not defined\n", failing)


def test_an_expected_error_can_be_matched_by_filecheck(tmp_path: Path):
    run(tmp_path, "// RUN: not fusecade opt %s 2>&1 | filecheck %s\n// CHECK: operand {{[0-9]}} is not\n", failing)


def test_another_error_than_the_expected_one(tmp_path: Path):
    with pytest.raises(CheckFailed, match="the error does not say:\n  wrong rank\nit says:\n    operand 0"):
        run(tmp_path, "// RUN: not fusecade opt %s\n// EXPECT-ERROR: wrong rank\n", failing)


def test_no_error_where_one_is_expected(tmp_path: Path):
    with pytest.raises(CheckFailed, match="should fail, and printed"):
        run(tmp_path, "// RUN: not fusecade opt %s\n// EXPECT-ERROR: wrong rank\n")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("// RUN: xdsl-opt %s", "cannot run: xdsl-opt %s"),
        ("// RUN: fusecade opt -p fuse", "does not name the file"),
        ("// RUN: fusecade opt %s | grep a", "cannot run"),
        ("// RUN: fusecade opt %s \\", "ends in a backslash"),
        ("// RUN: not fusecade opt %s", "which error is meant?"),
        ("// RUN: fusecade opt %s\n// EXPECT-ERROR: x", "does not start with `not`"),
    ],
)
def test_a_wrong_test_file_is_told_so(tmp_path: Path, text: str, complaint: str):
    with pytest.raises(BadTest) as error:
        run(tmp_path, text)
    assert complaint in str(error.value)
