"""What the documents say is there: commands, make targets, links, examples; and no trace of one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Messages name commands too, and a reader follows them.
SOURCES_OF_COMMANDS = [*DOCUMENTS, ROOT / "errors.py", ROOT / "tests" / "conftest.py"]

SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PUBLIC_SCHEMES = ("http://", "https://", "mailto:")

# Folders of one machine, and package hosts that a user may not have. Put together here, so that this file passes.
MACHINE_PATHS = ["/" + folder + "/" for folder in ("work", "root", "farm", "opt/wheels", "opt/pypi", "tmp/bash_jobs")]
REGISTRY_HOSTS = [name + "." + end for name, end in [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org")]]
FORBIDDEN = [*MACHINE_PATHS, *REGISTRY_HOSTS]


def commands(path: Path, program: str) -> set[str]:
    """The first words after ``make`` or ``fusecade`` in shell blocks and inline code."""
    text = path.read_text(encoding="utf-8")
    lines = [line for block in SHELL_BLOCK.findall(text) for line in block.splitlines()]
    lines += INLINE_CODE.findall(SHELL_BLOCK.sub("", text))
    found = (re.match(rf"(?:\$ )?{program} ([a-z][a-z-]*)", line.strip()) for line in lines)
    return {match[1] for match in found if match}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES_OF_COMMANDS, ids=_name)
def test_make_targets_exist(path: Path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    assert commands(path, "make") <= targets


@pytest.mark.parametrize("path", SOURCES_OF_COMMANDS, ids=_name)
def test_verbs_exist(path: Path, capsys: pytest.CaptureFixture[str]):
    for verb in sorted(commands(path, "fusecade")):
        assert _exit_code_of_help(verb) == 0, f"{_name(path)} names `fusecade {verb}`, which is no command"
        assert verb in capsys.readouterr().out


def _exit_code_of_help(verb: str) -> object:
    from fusecade.cli import main

    try:
        return main([verb, "--help"]) or 0
    except SystemExit as stopped:
        return stopped.code or 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_resolve(path: Path):
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if target.startswith(PUBLIC_SCHEMES):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{_name(path)} links to {target}, which is not there"
        if anchor:
            assert anchor in _anchors(linked), f"{_name(path)} links to {target}; no heading has that anchor"


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_readme_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(PYTHON_BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_no_file_names_a_machine_or_a_registry():
    found = [
        f"{_name(path)}:{number}: {line.strip()[:100]}"
        for path in _text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if any(word in line for word in FORBIDDEN)
    ]
    assert not found, "paths of one machine, or hosts of a package registry:\n" + "\n".join(found)


def _text_files() -> list[Path]:
    """The files that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
