"""The command line: `fusecade explain | compile | inspect | export-c | opt | tune | cache | doctor | completion`.

Exit status 0: done; 1: done in part; 2: the request is wrong; 3: a mistake in Fusecade.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FusecadeError, InternalCompilerError, InvalidArgument

if TYPE_CHECKING:
    from rich.console import Console

USAGE, INTERNAL = 2, 3
WRITABLE = "give files that can be read, and folders that can be written to"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; errors are printed to stderr, without a traceback."""
    from rich.console import Console

    chosen = parser().parse_args(arguments)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        return _command(chosen, Console())
    except InternalCompilerError as error:
        errors.print(str(error), markup=False)
        return INTERNAL
    except FusecadeError as error:
        errors.print(str(error), markup=False)
        return USAGE
    except BrokenPipeError:  # `fusecade explain ... | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        errors.print(str(InvalidArgument(f"{place}{error.strerror or error}", next_step=WRITABLE)), markup=False)
        return USAGE


def run_opt(arguments: Sequence[str], text: str) -> str:
    """`fusecade opt` in this process: the arguments without the file, the text of the file; returns what it prints."""
    chosen = parser(exit_on_error=False).parse_args(["opt", *arguments])
    return _optimise(chosen, text, "<text>")


def _command(chosen: argparse.Namespace, console: Console) -> int:
    match chosen.command:
        case "opt":
            sys.stdout.write(_optimise(chosen, *_read(chosen.file)))
            return 0
        case "explain":
            from .commands import explain as command
        case "compile":
            from .commands import compile as command
        case "inspect":
            from .commands import inspect as command
        case "export-c":
            from .commands import export_c as command
        case "tune":
            from .commands import tune as command
        case "cache":
            from .commands import cache as command
        case "completion":
            from .commands import completion

            return completion.run(chosen, parser())
        case _:
            from .commands import doctor as command
    return command.run(chosen, console)


def _optimise(chosen: argparse.Namespace, text: str, name: str) -> str:
    from .commands.opt import optimise

    return optimise(text, chosen.passes, name=name, print_after_all=chosen.print_after_all)


def _read(file: Path | None) -> tuple[str, str]:
    name = "<stdin>" if file is None or str(file) == "-" else str(file)
    try:
        return (sys.stdin.read() if name == "<stdin>" or file is None else file.read_text(encoding="utf-8")), name
    except OSError as error:
        raise InvalidArgument(
            f"{file} cannot be read: {error.strerror}", next_step="give the path of a program"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{name} is not text: byte {error.start} is no UTF-8", next_step="give the path of a program, which is text"
        ) from error


def parser(exit_on_error: bool = True) -> argparse.ArgumentParser:
    from .commands.cache_arguments import add_arguments as add_cache_arguments
    from .commands.completion import SHELLS
    from .commands.export_c_arguments import add_arguments as add_export_c_arguments
    from .commands.inspect_arguments import add_arguments as add_inspect_arguments
    from .commands.library_arguments import add_arguments as add_library_arguments
    from .commands.tune_arguments import add_arguments as add_tune_arguments

    kind = argparse.ArgumentParser if exit_on_error else _Raising
    made = kind(
        prog="fusecade",
        description="Fused kernels from plain PyTorch: look at them, compile them, take them apart.",
        epilog="exit status: 0 done, 1 done in part, 2 the request is wrong, 3 a mistake in Fusecade",
    )
    made.add_argument("--version", action="version", version=f"fusecade {_version()}")
    verbs = made.add_subparsers(dest="command", required=True, metavar="command", parser_class=kind)
    _add_program(
        verbs.add_parser("explain", help="kernels, bytes, refusals and their reasons, for a function"), out=False
    )
    compiling = verbs.add_parser(
        "compile",
        help="a function's kernels, sources and binaries, into a folder or a package; or a library of packages",
    )
    _add_program(compiling, out=True)
    add_library_arguments(compiling)
    add_inspect_arguments(verbs.add_parser("inspect", help="what is in a package; nothing of it is run"))
    add_export_c_arguments(verbs.add_parser("export-c", help="the GPU kernels of a package as C, with an example"))
    _add_opt(verbs.add_parser("opt", help="passes over a program in its textual form"))
    tune = verbs.add_parser("tune", help="a function's kernels in their fastest configurations, measured and kept")
    _add_function(tune)
    add_tune_arguments(tune)
    add_cache_arguments(verbs.add_parser("cache", help="what was tuned: look at it, share it, clean it up"))
    verbs.add_parser("doctor", help="what is installed, which targets compile and run here, what is missing")
    shells = verbs.add_parser("completion", help="a script that completes these commands in a shell")
    shells.add_argument("shell", choices=SHELLS)
    return made


def _add_function(verb: argparse.ArgumentParser, *, optional: bool = False) -> None:
    from .commands.program import dtype_name

    verb.add_argument(
        "program",
        metavar="MODULE:FUNCTION",
        nargs="?" if optional else None,
        help="or path/to/file.py:function; of tune also a list.toml of them",
    )
    verb.add_argument("--shape", action="append", default=[], metavar="[DTYPE:]SIZES",
                      help="of a tensor, in order: 8,4096,64; a dynamic size has a name: n=4096,64")  # fmt: skip
    verb.add_argument(
        "--dtype", default="f32", type=_checked(dtype_name), help="of the arguments that name none (default f32)"
    )
    verb.add_argument("--target", action="append", type=_checked(_target_name), help="may be repeated (default: "
                      "sm_90; of tune, what is in this machine)")  # fmt: skip
    verb.add_argument(
        "--factory", action="store_true", help="call MODULE:FUNCTION without arguments first, for a model"
    )
    verb.add_argument("--fuse", default="by_cost", choices=("by_cost", "always"),
                      help="always: also what is predicted to be faster apart (default by_cost)")  # fmt: skip
    verb.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE",
                      help="of all launches, may be repeated: persistent=true, num_warps=8")  # fmt: skip


def _add_program(verb: argparse.ArgumentParser, *, out: bool) -> None:
    from .commands.export_c_arguments import add_options as add_c_options

    _add_function(verb, optional=out)
    verb.add_argument("--remainder", choices=("eager", "kernels"),
                      help="kernels: operations that are in no fused kernel become one each, where they can (default: "
                      "eager, PyTorch runs them; of C, kernels)")  # fmt: skip
    verb.add_argument("--no-binaries", action="store_true", help="do not compile binaries: no registers, no spills")
    if out:
        verb.add_argument(
            "-o", "--out", type=Path, metavar="DIR|FILE.fcade",
            help="one folder a target is made in DIR; FILE.fcade is a package, for `fusecade.load`",
        )  # fmt: skip
        verb.add_argument("--format", default="files", choices=("files", "c"),
                          help="of DIR: files of each target, or C source with the kernels for all GPU targets in it, a "
                          "header, an example and a CMakeLists.txt (default files)")  # fmt: skip
        add_c_options(verb)
        verb.add_argument("--bucket", action="append", default=[], metavar="NAME=SIZE,...",
                          help="of a package, or C: kernels for dynamic sizes up to these, from small to large")  # fmt: skip
        verb.add_argument("--keep", action="append", default=[], choices=("ttir", "assembly"),
                          help="of a package: put this in, too; may be repeated")  # fmt: skip
    else:
        verb.add_argument("--json", action="store_true", help="the report as JSON")
        verb.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page, too")


def _add_opt(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("file", nargs="?", type=Path, help="a program in textual form; without one, or with -, stdin")
    verb.add_argument(
        "-p", "--passes", default="", help="names, in order, with options: canonicalise,fuse{target=sm_90}"
    )
    verb.add_argument(
        "--print-after-all", action="store_true", help='print the program after each pass, or "(unchanged)"'
    )


def _target_name(text: str) -> str:
    from .ir.target import get_target

    return get_target(text).name


def _checked(read):
    """A reader of ours for argparse: its message goes where argparse puts messages."""

    def check(text: str) -> str:
        try:
            return read(text)
        except InvalidArgument as error:
            raise argparse.ArgumentTypeError(f"{error.message}; {error.next_step}") from None

    return check


class _Raising(argparse.ArgumentParser):
    """Raises InvalidArgument where argparse would end the process."""

    def error(self, message: str):
        raise InvalidArgument(message, next_step="`fusecade opt --help` lists what it takes")


def _version() -> str:
    from . import __version__

    return __version__
