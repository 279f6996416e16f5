"""`FUSECADE_REPRO_DIR`: what fails leaves a script that shows it by itself."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from data.broken import break_kernels
from programs import RAISES, attend, compiled, qkv
from torch._dynamo.exc import BackendCompilerFailed

from fusecade.assembly import build
from fusecade.errors import FallbackWarning, InternalCompilerError


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSECADE_REPRO_DIR", str(tmp_path / "scripts"))
    return tmp_path / "scripts"


def run_script(path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")


def fail_on_tanh(monkeypatch: pytest.MonkeyPatch) -> None:
    real = build.cached_plan

    def plan(gm, *arguments):
        if any(node.target is torch.ops.aten.tanh.default for node in gm.graph.nodes):
            raise ZeroDivisionError("a tanh too many")
        return real(gm, *arguments)

    monkeypatch.setattr(build, "cached_plan", plan)


@pytest.mark.parametrize(
    ("source", "words"),
    [(RAISES, "no such tile"), ("import nothing_of_this_name\n", "nothing_of_this_name")],
    ids=["when it runs", "when it loads"],
)
def test_a_kernel_that_fails(source: str, words: str, scripts: Path, monkeypatch, capsys):
    with monkeypatch.context() as broken:
        break_kernels(broken, source)
        with pytest.warns(FallbackWarning, match=words) as caught:
            compiled(lambda *x: attend(*x) * 3)(*qkv(4, 64, 64))
        [path] = scripts.iterdir()
        [warned] = [str(w.message) for w in caught if w.category is FallbackWarning]
        assert f"`python {path}` shows it again" in warned
        text = path.read_text()
        assert words in text
        assert "((4, 64, 64), (4096, 64, 1), torch.float32, 'cpu')" in text
        assert "torch.ops.aten.bmm.default" in text
        with pytest.raises((FallbackWarning, BackendCompilerFailed), match=words):
            run_script(path, broken)
    run_script(path, monkeypatch)  # with the kernels as they are
    assert "nothing went wrong" in capsys.readouterr().out


def test_a_graph_that_cannot_be_planned_and_a_smaller_one(scripts: Path, monkeypatch, capsys):
    def fn(q, k, v):
        return torch.tanh(attend(q, k, v)).sum(-1) * 2

    fail_on_tanh(monkeypatch)
    with pytest.warns(FallbackWarning, match="a tanh too many"):
        compiled(fn)(*qkv(4, 64, 64))
    [path] = scripts.glob("graph_*.py")
    with pytest.raises(BackendCompilerFailed, match="a tanh too many"):
        run_script(path, monkeypatch)
    run_script(path, monkeypatch, "--smaller")
    [smaller] = scripts.glob("smaller_*.py")
    text = smaller.read_text()
    assert "aten.tanh" in text
    assert "bmm" not in text
    assert re.search(r"3 of \d+ nodes are left", capsys.readouterr().out)
    with pytest.raises(BackendCompilerFailed, match="a tanh too many"):
        run_script(smaller, monkeypatch)


def test_strict_leaves_one_too(scripts: Path, monkeypatch):
    break_kernels(monkeypatch, RAISES)
    with pytest.raises(InternalCompilerError, match="no such tile"):
        compiled(attend, options={"strict": True})(*qkv(4, 64, 64))
    assert [path.name.split("_")[0] for path in scripts.iterdir()] == ["kernel"]


def test_sizes_constants_and_integers_come_along(scripts: Path, monkeypatch, capsys):
    weights = torch.tensor([1.0, 2.0, 3.0])

    def fn(x, table, index):
        return (torch.softmax(table[index] @ x, -1) * weights.sum()).sum(-1)

    with monkeypatch.context() as broken:
        break_kernels(broken, RAISES)
        with pytest.warns(FallbackWarning, match="no such tile"):
            compiled(fn, dynamic=True)(torch.randn(8, 40), torch.randn(30, 8), torch.randint(5, 30, (24,)))
    paths = sorted(scripts.iterdir())
    assert paths
    for path in paths:
        run_script(path, monkeypatch)
    assert capsys.readouterr().out.count("nothing went wrong") == len(paths)


def test_nothing_is_written_where_nobody_asked(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("FUSECADE_REPRO_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    break_kernels(monkeypatch, RAISES)
    with pytest.warns(FallbackWarning, match="no such tile"):
        compiled(attend)(*qkv(4, 64, 64))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_script_runs_in_a_process_of_its_own(scripts: Path, monkeypatch):
    with monkeypatch.context() as broken:
        break_kernels(broken, RAISES)
        with pytest.warns(FallbackWarning, match="no such tile"):
            compiled(attend)(*qkv(4, 64, 64))
    [path] = scripts.iterdir()
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing went wrong" in done.stdout
