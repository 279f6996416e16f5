"""The error catalogue: every error and warning that Fusecade shows, and what each one tells its reader to do next.

Two families, never mixed. A ``UserError`` says that the program, an argument or the machine has to change; an
``InternalCompilerError`` says that Fusecade is wrong and how to report it. Every message ends with a line
``next: ...``. This module imports nothing from the package, so that every folder may import it.
"""

from __future__ import annotations

import difflib
import linecache
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "CacheWarning",
    "FallbackWarning",
    "FusecadeError",
    "FusecadeWarning",
    "InternalCompilerError",
    "InvalidArgument",
    "InvalidPackage",
    "MissingTool",
    "PackagedKernelFailed",
    "SourceLine",
    "UnsupportedProgram",
    "UserError",
]

_STACK_FRAME = re.compile(r'^\s*File "(?P<file>[^"\n]+)", line (?P<line>\d+)(?:, in .*)?$')
_STACK_ANCHOR = re.compile(r"^\s*[~^]+\s*$")


@dataclass(frozen=True)
class SourceLine:
    """A place in the user's program. ``start`` and ``end`` are columns of ``code``, from 0, ``end`` excluded."""

    file: str
    line: int
    code: str = ""
    start: int | None = None
    end: int | None = None

    @classmethod
    def at(cls, file: str | Path, line: int) -> SourceLine:
        """The line of a file, its text read from the file where there is one."""
        return cls(str(file), line, linecache.getline(str(file), line).rstrip())

    @classmethod
    def from_stack_trace(cls, trace: str | None) -> SourceLine | None:
        """The innermost frame of a textual traceback, such as ``torch.fx`` keeps in ``node.meta["stack_trace"]``."""
        lines = (trace or "").splitlines()
        frames = [(i, match) for i, text in enumerate(lines) if (match := _STACK_FRAME.match(text))]
        if not frames:
            return None
        i, frame = frames[-1]
        file, number = frame["file"], int(frame["line"])
        shown = lines[i + 1] if i + 1 < len(lines) else ""
        anchor = lines[i + 2] if i + 2 < len(lines) and _STACK_ANCHOR.match(lines[i + 2]) else ""
        if not shown.strip():
            return cls.at(file, number)
        indent = len(shown) - len(shown.lstrip())
        code = shown.strip()
        if not anchor:
            return cls(file, number, code)
        start = len(anchor) - len(anchor.lstrip()) - indent
        return cls(file, number, code, max(start, 0), min(len(anchor.rstrip()) - indent, len(code)))

    def __str__(self) -> str:
        code = self.code.strip()
        if not code:
            return f"{self.file}:{self.line}"
        lead = len(self.code) - len(self.code.lstrip())
        start = max((self.start or 0) - lead, 0)
        end = len(code) if self.end is None else self.end - lead
        caret = " " * start + "^" + "~" * max(end - start - 1, 0)
        return f"{self.file}:{self.line}\n    {code}\n    {caret}"


class FusecadeError(Exception):
    """The base of all errors that Fusecade raises on purpose.

    ``message`` says what is wrong, ``next_step`` what to do about it; ``str()`` shows both and what lies between.
    """

    default_next_step = "run `fusecade doctor` to see what is installed and what each target needs"

    def __init__(self, message: str, *, next_step: str | None = None) -> None:
        self.message = message
        self.next_step = next_step or self.default_next_step
        super().__init__(message)

    def details(self) -> Iterable[str]:
        """The lines between the message and the next step."""
        return ()

    def __str__(self) -> str:
        return "\n".join([self.message, *self.details(), f"next: {self.next_step}"])

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions rebuild from `args` alone, which loses the keyword fields; worker processes send these errors home.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[FusecadeError], args: tuple[Any, ...], fields: dict[str, Any]) -> FusecadeError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(fields)
    return error


class UserError(FusecadeError):
    """Something outside Fusecade has to change: the program, an argument, or what is installed."""


class UnsupportedProgram(UserError):
    """The program does something that Fusecade cannot compile, and ``strict`` (or ``explain``) asked to know."""

    default_next_step = (
        "leave `strict` off, and this part runs as eager PyTorch runs it; or rewrite the line with supported "
        "operations; `fusecade.explain(fn, *args)` lists every part that is not compiled, with its reason"
    )

    def __init__(self, message: str, *, source: SourceLine | None = None, next_step: str | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.source = source

    def details(self) -> Iterable[str]:
        return [f"  at {self.source}"] if self.source else []


class InvalidArgument(UserError):
    """A function, option or command was called with a value that it does not take."""

    default_next_step = "correct the argument; `help(fusecade)` and `fusecade --help` list what each call takes"

    @classmethod
    def choice(cls, name: str, got: object, allowed: Iterable[object]) -> InvalidArgument:
        """The usual case: ``name`` must be one of a few values."""
        choices = [str(value) for value in allowed]
        near = difflib.get_close_matches(str(got), choices, n=1)
        return cls(
            f"{name} is {got!r}, which is not one of: {', '.join(choices)}",
            next_step=f"use {near[0]!r} instead" if near else f"use one of the values above for {name}",
        )


class MissingTool(UserError):
    """A package, compiler or device that this request needs is not on this machine."""

    def __init__(self, tool: str, *, needed_for: str, install: str) -> None:
        super().__init__(f"{tool} is needed for {needed_for}, and is not there", next_step=install)
        self.tool = tool


class InvalidPackage(UserError):
    """A package is not one that `fusecade.export` wrote: cut short, changed, of another version, or no package at all."""

    default_next_step = (
        "get the package again from where it comes from, or write it again with `fusecade.export`; "
        "nothing in it was run"
    )


class PackagedKernelFailed(UserError):
    """A kernel of a package failed on this machine; nobody is there to run its part another way."""

    def __init__(self, name: str, target: str, error: Exception) -> None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        super().__init__(
            f"kernel {name} of the package, for {target}, failed: {type(error).__name__}: {lines[0] if lines else ''}",
            next_step="look whether the device has what the package was made for (`fusecade inspect`); if it has, please "
            "report it with the package and the output of `fusecade doctor`",
        )


class InternalCompilerError(FusecadeError):
    """Fusecade is wrong. The message names the pass and the dump, which together reproduce it."""

    def __init__(self, message: str, *, stage: str | None = None, dump: str | Path | None = None) -> None:
        super().__init__(message, next_step=self._how_to_report(stage, dump))
        self.stage = stage
        self.dump = dump

    @staticmethod
    def _how_to_report(stage: str | None, dump: str | Path | None) -> str:
        attach = f"the program in {dump}" if dump else "a small program that shows it"
        again = f"`fusecade opt -p {stage} {dump}` repeats it; " if stage and dump else ""
        return (
            f"this is a mistake in Fusecade, not in your program; {again}please report it with {attach} and the output "
            "of `fusecade doctor`; until it is mended, `strict=False` runs this part as eager PyTorch runs it"
        )

    def details(self) -> Iterable[str]:
        if self.stage:
            yield f"  in pass: {self.stage}"
        if self.dump:
            yield f"  program before the pass: {self.dump}"

    def __str__(self) -> str:
        return f"internal compiler error: {super().__str__()}"


class FusecadeWarning(UserWarning):
    """The base of all warnings that Fusecade gives; the text of each starts with ``fusecade:``."""


class FallbackWarning(FusecadeWarning):
    """A part of the program runs as eager PyTorch runs it."""

    default_next_step = (
        "nothing has to be done, the result is the same; `fusecade.explain(fn, *args)` shows all such parts, and "
        "`strict=True` raises instead"
    )

    def __init__(self, what: str, reason: str, source: SourceLine | None = None, next_step: str | None = None) -> None:
        # Rebuilt from these four: `args` is what pickle and `warnings` keep.
        super().__init__(what, reason, source, next_step)
        self.what, self.reason, self.source = what, reason, source
        self.next_step = next_step or self.default_next_step

    def __str__(self) -> str:
        place = f"\n  at {self.source}" if self.source else ""
        return f"fusecade: {self.what} runs eagerly: {self.reason}{place}\nnext: {self.next_step}"


class CacheWarning(FusecadeWarning):
    """The cache could not be used; what was to be found there is made anew."""

    def __init__(self, what: str, folder: str | Path, next_step: str | None = None) -> None:
        super().__init__(what, folder, next_step)
        self.what, self.folder = what, folder
        self.next_step = next_step or (
            f"nothing has to be done, the result is the same; if it happens again, delete {folder}, or set "
            "FUSECADE_CACHE_DIR to a folder of your own"
        )

    def __str__(self) -> str:
        return f"fusecade: {self.what}\nnext: {self.next_step}"
