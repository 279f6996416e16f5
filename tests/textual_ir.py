"""Collects ``.mlir`` files as tests: ``// RUN:`` lines run in this process, FileCheck matches ``// CHECK:`` lines.

    // RUN: fusecade opt -p canonicalise,fuse{target=sm_90} %s | filecheck %s
    // RUN: not fusecade opt %s
    // EXPECT-ERROR: operand 0 is not defined before its use

A ``RUN`` line without ``filecheck`` only has to succeed. ``not`` turns that round: the command has to fail, every
``EXPECT-ERROR`` line has to be in its message, and a ``filecheck`` behind it reads that message. ``%s`` is the file.
A ``\\`` at the end of a line goes on in the next ``RUN`` line. ``filecheck`` takes ``--check-prefix=NAME`` and the
other options of the ``filecheck`` package.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options, parse_argv_options
from filecheck.parser import Parser, pattern_for_opts

RUN_LINE = re.compile(r"^\s*//\s*RUN:\s*(.*?)\s*$")
EXPECTED_ERROR = re.compile(r"^\s*//\s*EXPECT-ERROR:\s*(.*?)\s*$", re.MULTILINE)
HOW_TO_WRITE = "write it as `// RUN: [not] fusecade opt OPTIONS %s [| filecheck OPTIONS %s]`"


class BadTest(Exception):
    """The test file itself is wrong."""


class CheckFailed(Exception):
    """The command did not do what the file says."""


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return TextFile.from_parent(parent, path=file_path) if file_path.suffix == ".mlir" else None


@dataclass(frozen=True)
class Command:
    """One ``RUN`` line, taken apart."""

    options: list[str]
    filecheck: list[str] | None
    must_fail: bool
    line: int

    @classmethod
    def parse(cls, text: str, line: int) -> Command:
        try:
            first, *rest = [shlex.split(part) for part in text.replace("2>&1", " ").split("|")]
        except ValueError as error:
            raise BadTest(f"line {line}: {error} in: {text}") from None
        must_fail = first[:1] == ["not"]
        words = first[must_fail:]
        if words[:2] != ["fusecade", "opt"] or len(rest) > 1 or (rest and rest[0][:1] != ["filecheck"]):
            raise BadTest(f"line {line}: cannot run: {text}\n{HOW_TO_WRITE}")
        if "%s" not in words:
            raise BadTest(f"line {line}: the command does not name the file: {text}\n{HOW_TO_WRITE}")
        return cls([word for word in words[2:] if word != "%s"], rest[0][1:] if rest else None, must_fail, line)


def commands(text: str) -> Iterator[Command]:
    """The commands of a file; a RUN line that ends in a backslash goes on in the next one."""
    pending, first_line = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not (match := RUN_LINE.match(line)):
            continue
        first_line = first_line if pending else number
        pending += match[1]
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        yield Command.parse(pending, first_line)
        pending = ""
    if pending:
        raise BadTest(f"line {first_line}: the last RUN line ends in a backslash")


class TextFile(pytest.File):
    """A ``.mlir`` file: one test for each RUN line."""

    def collect(self) -> Iterator[pytest.Item]:
        try:
            found = list(commands(self.path.read_text(encoding="utf-8")))
        except BadTest as error:
            raise self.CollectError(f"{self.path}: {error}") from None
        if not found:
            raise self.CollectError(f"{self.path}: no `// RUN:` line; {HOW_TO_WRITE}")
        for i, command in enumerate(found, start=1):
            yield TextTest.from_parent(self, name=f"run{i}" if len(found) > 1 else "run", command=command)


class TextTest(pytest.Item):
    """One RUN line."""

    def __init__(self, *, command: Command, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.command = command

    def runtest(self) -> None:
        from fusecade.cli import run_opt

        run_command(self.command, self.path, run_opt)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.command.line - 1, f"{self.path.name}:{self.command.line}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: str | None = None) -> str:
        if isinstance(excinfo.value, CheckFailed | BadTest):
            return f"{self.path}:{self.command.line}\n{excinfo.value}"
        return str(super().repr_failure(excinfo))


def run_command(command: Command, path: Path, run_opt) -> None:
    """Runs one RUN line of a file with ``run_opt(options, text) -> printed text``."""
    text = path.read_text(encoding="utf-8")
    expected = EXPECTED_ERROR.findall(text)
    if expected and not command.must_fail:
        raise BadTest("the file has EXPECT-ERROR lines, and this RUN line does not start with `not`")
    if not command.must_fail:
        output = run_opt(command.options, text)
    else:
        if not expected and command.filecheck is None:
            raise BadTest("`not` needs an `// EXPECT-ERROR:` line or `| filecheck %s`: which error is meant?")
        output = _message_of_failure(command, run_opt, text)
        if missing := [wanted for wanted in expected if wanted not in output]:
            raise CheckFailed("the error does not say:\n  " + "\n  ".join(missing) + f"\nit says:\n{_indent(output)}")
    if command.filecheck is not None and (problem := filecheck(command.filecheck, path, output)):
        raise CheckFailed(f"{problem.rstrip()}\n\nthe whole output:\n{_indent(output)}")


def _message_of_failure(command: Command, run_opt, text: str) -> str:
    try:
        output = run_opt(command.options, text)
    except (Exception, SystemExit) as error:
        return f"{error}\n"
    raise CheckFailed(f"the command should fail, and printed:\n{_indent(output)}")


def filecheck(arguments: list[str], path: Path, output: str) -> str | None:
    """What FileCheck has to say against ``output``, None if nothing."""
    options: Options = parse_argv_options(["filecheck", *(str(path) if word == "%s" else word for word in arguments)])
    checks = Path(options.match_filename).read_text(encoding="utf-8")
    parser = Parser(options, io.StringIO(checks), *pattern_for_opts(options))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        failed = Matcher(options, FInput("output", output), parser).run()
    return printed.getvalue() or "filecheck failed" if failed else None


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
