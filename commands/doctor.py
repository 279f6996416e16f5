"""`fusecade doctor`: what is installed, what can be compiled for and run here, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..driver import pick_target
from ..environment import Environment
from ..errors import FusecadeError
from ..ir.target import TARGETS, Target
from ..runtime.files import private_folder
from ..runtime.resources import find_tool
from . import exits

# Package -> what it is for, how to get it; the first ones are needed by everything.
PACKAGES = {
    "torch": ("everything", "pip install 'torch>=2.11,<2.14'"),
    "xdsl": ("the compiler's programs", "pip install 'xdsl==0.74.*'"),
    "sympy": ("the compiler's algebra", "pip install sympy"),
    "numpy": ("the compiler's algebra", "pip install numpy"),
    "rich": ("tables", "pip install rich"),
    "triton": ("GPU kernels", "pip install 'triton>=3.6'"),
    "optuna": ("tuning", "pip install 'optuna>=5'"),
}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked for, what was found (None: missing), what it is for, how to get it."""

    what: str
    found: str | None
    needed_for: str
    install: str = ""


@dataclass(frozen=True)
class TargetFinding:
    """What can be done for one target: None where it can, else why not."""

    target: Target
    compile: str | None
    run: str | None


def run(chosen: Namespace, console: Console) -> int:
    tools, targets = findings(), [look_at(t) for t in TARGETS.values()]
    console.print(_tools_table(tools))
    console.print(_targets_table(targets))
    console.print(f"cache: {Environment.read().cache_dir}", markup=False, highlight=False)
    missing = [f for f in tools if f.found is None]
    for finding in missing:
        console.print(
            f"missing: {finding.what} (for {finding.needed_for})\nnext: {finding.install}",
            markup=False,
            highlight=False,
        )
    if not missing and all(t.compile is None for t in targets):
        console.print("everything that can be checked without a GPU is here")
        return exits.FINE
    return exits.INCOMPLETE


def findings() -> list[Finding]:
    """Packages and tools, in the order in which they are needed."""
    python = platform.python_version() if sys.version_info >= (3, 11) else None
    found = [Finding("Python", python, "everything", "install Python 3.11 or newer")]
    found += [Finding(name, _version(name), *about) for name, about in PACKAGES.items()]
    compiler = next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), None)
    found.append(
        Finding(
            "C++ compiler", compiler, "Inductor on the rest of a graph", "apt-get install g++, or remainder='eager'"
        )
    )
    for tool in ("cuobjdump", "nvdisasm", "ptxas"):
        found.append(
            Finding(tool, find_tool(tool), "NVIDIA binaries and their registers", "it comes with the triton package")
        )
    found.append(
        Finding(
            "cache folder", _cache(), "keeping what was generated", "set FUSECADE_CACHE_DIR to a folder of your own"
        )
    )
    return found


def _version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"


def _cache() -> str | None:
    try:
        return str(private_folder(Environment.read().cache_dir / "plans").parent)
    except FusecadeError:
        return None


def look_at(target: Target) -> TargetFinding:
    """Whether kernels for a target can be compiled here, and run here."""
    if target.kind == "cpu":
        return TargetFinding(target, None, None)
    return TargetFinding(target, _compile_problem(target.kind), _run_problem(target))


@cache
def _compile_problem(kind: str) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    backend = {"cuda": "nvidia", "hip": "amd"}[kind]
    if importlib.util.find_spec(f"triton.backends.{backend}") is None:
        return f"this build of Triton has no {backend} backend"
    if kind == "cuda" and find_tool("ptxas") is None:
        return "ptxas is missing"
    return None


def _run_problem(target: Target) -> str | None:
    here = pick_target("auto")
    if here.kind != target.kind:
        return f"no {'CUDA' if target.kind == 'cuda' else 'ROCm'} device"
    return None if here.name == target.name else f"the device here wants {here.name}"


def _tools_table(found: list[Finding]) -> Table:
    table = Table(title="installed", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "found", "needed for"):
        table.add_column(heading, overflow="fold")
    for f in found:
        table.add_row(Text(f.what), Text(f.found or "missing", style="" if f.found else "red"), Text(f.needed_for))
    return table


def _targets_table(found: list[TargetFinding]) -> Table:
    table = Table(title="targets", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("target", "compile", "run here"):
        table.add_column(heading, overflow="fold")
    shown: Callable[[str | None], Text] = lambda why: Text("yes", style="green") if why is None else Text(f"no: {why}")  # noqa: E731
    for f in found:
        table.add_row(Text(f.target.name), shown(f.compile), shown(f.run))
    return table
