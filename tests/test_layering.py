"""Who may import whom: the table of docs/architecture.md, held against every import in the package.

Inside the package every import is relative. Tests, benchmarks and examples import ``fusecade.…`` as users do. Only the
driver asks the machine for devices or environment variables; everything below it is handed what it needs.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OUTSIDE = ("tests", "benchmarks", "examples")
NOT_SOURCE = {"build", "dist", "docs"}


@dataclass(frozen=True)
class May:
    """What the files of a folder may import: places in the package, and packages that are not ours."""

    package: frozenset[str]
    other: frozenset[str]

    @classmethod
    def use(cls, package: str = "", other: str = "") -> May:
        return cls(frozenset(package.split()), frozenset(other.split()))


# The most specific row counts. A place is a folder (all of it) or one module; a folder's own files and errors.py are
# always allowed, and so is the standard library.
TABLE: dict[str, May] = {
    "errors": May.use(),
    "ir": May.use(other="xdsl sympy"),
    "ir/interpret": May.use(other="xdsl sympy torch"),
    "frontend": May.use("ir", "xdsl sympy torch"),
    "passes": May.use("ir", "xdsl sympy numpy"),
    "passes/algebra": May.use(other="sympy numpy"),
    "codegen": May.use("ir", "xdsl sympy"),
    "autotune": May.use("ir/target", "optuna sqlalchemy alembic"),
    "runtime": May.use("ir/target codegen", "torch triton numpy"),
    "assembly": May.use("ir frontend passes codegen autotune runtime driver", "torch sympy"),
    "commands": May.use(
        "ir frontend passes codegen autotune runtime assembly api driver environment report aot tuning_page",
        "torch triton xdsl rich optuna shtab",
    ),
    # The root modules, the faces of the package.
    "": May.use(
        "ir frontend passes codegen autotune runtime assembly commands aot aot_inductor api cli driver environment report "
        "report_graph report_page report_tables testing torch_backend tuning_page tuning_plots",
        "torch triton xdsl sympy numpy rich optuna",
    ),
}
# passes/algebra is closed: it is a part of passes that knows no program, only formulas.
CLOSED = {"passes/algebra"}

# Inside these, `torch.fx` is nobody's business: the frontend turned the graph into a program.
BELOW_THE_FRONTEND = ("ir", "passes", "codegen", "autotune", "runtime")

# What the compiler must derive it must not know by name.
KNOWS_NO_KERNEL = {"ir", "ir/interpret", "passes", "passes/algebra", "codegen"}
KERNEL_NAMES = ("attention", "sdpa", "softmax", "layer_norm", "rms_norm", "kmeans", "cross_entropy")

ASKS_THE_MACHINE = {"torch.cuda", "os.environ", "os.getenv", "os.putenv"}
MAY_ASK_THE_MACHINE = {
    "driver": "the one place that looks at devices",
    "environment": "the one place that reads environment variables",
    "runtime/triton_compile": "hands its worker process an environment without the interpreter's variables",
    "runtime/package/devices": "a loaded package has no driver above it, and picks its target by the tensors' device",
    "runtime/triton_compile_worker": "a process of its own, started by triton_compile",
}


@dataclass(frozen=True)
class Import:
    """One imported thing: ``target`` is a place in the package (``ir/target``) or the dotted name of another module."""

    importer: str
    line: int
    target: str
    ours: bool
    text: str

    def __str__(self) -> str:
        return f"{self.importer}.py:{self.line}: {self.text}"


def place_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("__init__").rstrip("/")


@cache
def package_files() -> dict[str, Path]:
    """Place -> file, of all modules of the package; ``""`` is the package's own ``__init__.py``."""
    skip = NOT_SOURCE | set(OUTSIDE)
    files = (path for path in ROOT.rglob("*.py") if not _hidden(path) and path.relative_to(ROOT).parts[0] not in skip)
    return {place_of(path): path for path in sorted(files)}


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(ROOT).parts)


@cache
def exists(place: str) -> bool:
    return place in package_files() or (ROOT / place).is_dir()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> Iterator[Import]:
    place = place_of(path)
    here = place if path.name == "__init__.py" else place.rpartition("/")[0]
    for node in ast.walk(tree_of(path)):
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, node.lineno, alias.name, False, f"import {alias.name}")
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                text = f"from {node.module} import {alias.name}"
                yield Import(name, node.lineno, f"{node.module}.{alias.name}", False, text)
        elif isinstance(node, ast.ImportFrom):
            parts = here.split("/") if here else []
            base = "/".join(parts[: len(parts) - node.level + 1] + (node.module or "").split(".")).strip("/")
            for alias in node.names:
                inner = f"{base}/{alias.name}".strip("/")
                text = f"from {'.' * node.level}{node.module or ''} import {alias.name}"
                yield Import(name, node.lineno, inner if exists(inner) else base, True, text)


def row_of(place: str) -> str:
    """The key of the most specific row of the table that covers a module."""
    parts = place.split("/")
    for length in range(len(parts), 0, -1):
        if (key := "/".join(parts[:length])) in TABLE:
            return key
    return ""


def covered(place: str, allowed: frozenset[str]) -> bool:
    return any(place == entry or place.startswith(f"{entry}/") for entry in allowed)


def home_of(place: str) -> str:
    """The folder whose files may always import each other."""
    closed = [key for key in CLOSED if covered(place, frozenset({key}))]
    return closed[0] if closed else place.partition("/")[0] if "/" in place or (ROOT / place).is_dir() else ""


def complaint(found: Import) -> str | None:
    place = found.importer.removesuffix("__init__").rstrip("/")
    row = row_of(place)
    may = TABLE[row]
    called = row or "a root module"
    if found.ours:
        target = found.target
        if row == "errors":
            return f"{found}\n    errors.py imports nothing from the package, so that every folder may import it"
        home = home_of(place)
        own = bool(home) and covered(target, frozenset({home}))
        if target == "errors" or own or covered(target, may.package) or (row == "" and target == ""):
            return None
        return (
            f"{found}\n    {called} may import {_listed(may.package)}, its own folder and errors.py from the package, "
            f"and not {target or 'the package itself'}; hand the value in as an argument, or move the code to a "
            "folder that may import both"
        )
    top = found.target.split(".")[0]
    if top == "fusecade":
        return f"{found}\n    inside the package imports are relative, so that editors follow them from the files alone"
    if top in sys.stdlib_module_names:
        return None
    if top not in may.other:
        return f"{found}\n    {called} may import {_listed(may.other)} besides the standard library, and not {top}"
    if covered(place, frozenset(BELOW_THE_FRONTEND)) and _dotted_under(found.target, "torch.fx"):
        return f"{found}\n    only frontend/ and the root modules know torch.fx; below them a program is a cascade"
    return None


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _dotted_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def questions_to_the_machine(path: Path) -> Iterator[str]:
    """Uses of ``torch.cuda``, ``os.environ`` and the like, as ``file:line: what``."""
    where = path.relative_to(ROOT)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute):
            asked = [name] if (name := ast.unparse(node)) in ASKS_THE_MACHINE else []
        elif isinstance(node, ast.Import):
            asked = [alias.name for alias in node.names if _asks(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            asked = [name for alias in node.names if _asks(name := f"{node.module}.{alias.name}")]
        else:
            continue
        for name in asked:
            yield f"{where}:{node.lineno}: {name}"


def _asks(imported: str) -> bool:
    return any(_dotted_under(imported, name) for name in ASKS_THE_MACHINE)


def outside_files() -> list[Path]:
    return sorted(path for folder in OUTSIDE for path in (ROOT / folder).rglob("*.py") if not _hidden(path))


def no(findings: list[str], what: str) -> None:
    """Fails with the findings, one a line."""
    if findings:
        pytest.fail(f"{what}:\n" + "\n".join(dict.fromkeys(findings)), pytrace=False)


def names_in_code(path: Path) -> Iterator[tuple[int, str]]:
    """The identifiers and string constants of a file; docstrings and comments may give examples."""
    tree = tree_of(path)
    prose = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", package_files().values(), ids=_name)
def test_imports_follow_the_table(path: Path):
    complaints = [text for found in imports_of(path) if (text := complaint(found))]
    no(complaints, "imports that the table does not allow")


@pytest.mark.parametrize("path", package_files().values(), ids=_name)
def test_only_the_driver_asks_the_machine(path: Path):
    if place_of(path) in MAY_ASK_THE_MACHINE:
        return
    asked = list(questions_to_the_machine(path))
    no(asked, "only driver.py asks the machine; pass a Target or an option in instead")


@pytest.mark.parametrize("path", outside_files(), ids=_name)
def test_tests_and_examples_import_the_installed_package(path: Path):
    ours = {place.partition("/")[0] for place in package_files() if place}
    wrong = [
        f"{found}\n    write it as an import of fusecade.…"
        for found in imports_of(path)
        if found.ours or found.target.split(".")[0] in ours - set(sys.stdlib_module_names)
    ]
    no(wrong, "imports that only work from inside the repository")


@pytest.mark.parametrize(
    "path", [path for place, path in package_files().items() if row_of(place) in KNOWS_NO_KERNEL], ids=_name
)
def test_fused_kernels_are_derived_and_not_known_by_name(path: Path):
    named = [
        f"{_name(path)}:{line}: {text[:80]}"
        for line, text in names_in_code(path)
        if any(name in text.lower() for name in KERNEL_NAMES)
    ]
    no(named, "the algebra knows ranks and maps, and no kernel by its name")


def test_every_folder_with_modules_is_a_package_that_pyproject_lists():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT).as_posix() for path in package_files().values()} - {"."}
    found = {"fusecade", *(f"fusecade.{folder.replace('/', '.')}" for folder in folders)}
    no(sorted(found - listed), "packages that pyproject.toml does not list")
    no(sorted(listed - found), "packages that pyproject.toml lists and that have no modules")
    without = [folder for folder in folders if not (ROOT / folder / "__init__.py").exists()]
    no(without, "folders without an __init__.py")


def test_every_folder_has_a_row():
    folders = {place.partition("/")[0] for place in package_files() if "/" in place}
    no(sorted(folders - set(TABLE)), "folders that the table says nothing about")


@pytest.mark.parametrize(
    ("importer", "target", "ours", "allowed"),
    [
        ("passes/fuse", "ir/cascade", True, True),
        ("passes/fuse", "passes/algebra/normal_form", True, True),
        ("passes/fuse", "codegen/triton", True, False),
        ("passes/fuse", "torch", False, False),
        ("passes/algebra/derive", "passes/fuse", True, False),
        ("passes/algebra/derive", "passes/algebra/probe", True, True),
        ("passes/algebra/derive", "ir/cascade", True, False),
        ("ir/interpret", "torch", False, True),
        ("ir/cascade", "torch", False, False),
        ("ir/cascade", "fusecade.ir.scalar", False, False),
        ("autotune/search", "ir/target", True, True),
        ("autotune/search", "ir/cascade", True, False),
        ("autotune/search", "ir", True, False),
        ("runtime/launch", "ir/target", True, True),
        ("runtime/launch", "ir/tile", True, False),
        ("runtime/launch", "torch.fx.Node", False, False),
        ("frontend/aten", "torch.fx.Node", False, True),
        ("codegen/triton", "errors", True, True),
        ("errors", "ir/cascade", True, False),
        ("driver", "passes/fuse", True, True),
        ("ir/cascade", "driver", True, False),
        ("ir/cascade", "", True, False),
        ("__init__", "driver", True, True),
    ],
)
def test_the_table_is_read_as_it_is_meant(importer: str, target: str, ours: bool, allowed: bool):
    found = Import(importer, 1, target, ours, f"import {target}")
    assert (complaint(found) is None) == allowed
