"""`fusecade compile -o FILE.fcade` and `fusecade inspect`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from data.command_line import run

import fusecade
from fusecade import cli
from fusecade.commands import exits
from fusecade.runtime.resources import find_tool

PROGRAM = dedent("""
    import torch

    def attend(q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v
""")


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program_to_package.py"
    path.write_text(PROGRAM)
    return f"{path}:attend"


def test_compile_writes_a_package(capsys, program, tmp_path: Path):
    out = tmp_path / "new" / "attend.fcade"
    shapes = ["--shape", "4,n=96,64", "--shape", "4,m=96,64", "--shape", "4,m=96,64"]
    options = ["--target", "cpu", "--fuse", "always", "--bucket", "n=128,m=128", "--bucket", "n=4096,m=4096"]
    status, said, _ = run(capsys, "compile", program, *shapes, *options, "-o", out)
    assert status == exits.FINE
    assert "cpu: 2 kernels for 2 buckets" in said
    loaded = fusecade.load(out)
    assert f"digest {loaded.package.digest}" in said
    q, k = torch.randn(4, 33, 64), torch.randn(4, 70, 64)
    right = torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ k
    torch.testing.assert_close(loaded(q, k, k), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bucket", "128", "-o", "a.fcade"], "'128' in '128' is no size"),
        (["--bucket", "n=128", "-o", "a.fcade"], "a size of a bucket is 'n'"),
        (["--bucket", "n=128", "-o", "folder"], "--bucket and --keep are for packages"),
        (["--no-binaries", "-o", "a.fcade"], "a package has binaries"),
    ],
)
def test_options_that_do_not_go_together(capsys, program, tmp_path: Path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    status, _, said = run(capsys, "compile", program, *["--shape", "4,96,64"] * 3, "--target", "cpu", *options)
    assert status == cli.USAGE and words in said


def test_inspect_shows_what_is_inside(capsys, several: Path, small: Path):
    status, said, _ = run(capsys, "inspect", several)
    assert status == exits.FINE
    for words in ("attend", "sm_80", "sm_90a", "gfx942", "takes 0: f32[4, 96, 64]", "num_warps"):
        assert words in said
    status, said, _ = run(capsys, "inspect", small)
    assert "takes 0: f32[n, 16], strides [16, 1]" in said
    assert "the memory of argument 0" in said and "aten.sort.default" in said and "n=64" in said


def test_inspect_as_data(capsys, several: Path):
    status, said, _ = run(capsys, "inspect", several, "--json")
    found = json.loads(said)
    assert status == exits.FINE and found["digest"] == fusecade.load(several).package.digest
    assert [t["name"] for t in found["targets"]] == ["cpu", "sm_80", "sm_90", "gfx942"]
    [name] = [n for n in found["kernels"] if n.startswith("sm_90/")]
    kernel = found["kernels"][name]
    assert kernel["resources"][0]["registers"] > 0 and kernel["used"] == ["sm_90[0]"]
    assert {Path(m).suffix for m in kernel["others"]} == {".mlir", ".ptx", ".ttir"}
    assert sum(found["members"].values()) < several.stat().st_size


def test_inspect_prints_sources(capsys, several: Path):
    status, said, _ = run(capsys, "inspect", several, "--kernel", "sm_80/", "--source")
    assert status == exits.FINE and said.count("@triton.jit") >= 1 and "as_strided" not in said
    status, _, said = run(capsys, "inspect", several, "--kernel", "none")
    assert status == cli.USAGE and "a kernel of the package is 'none'" in said


@pytest.mark.skipif(find_tool("nvdisasm") is None, reason="no nvdisasm")
def test_inspect_takes_binaries_apart(capsys, several: Path):
    status, said, _ = run(capsys, "inspect", several, "--kernel", "sm_90/", "--sass")
    assert status == exits.FINE and "EXIT" in said and ("MMA" in said or "FFMA" in said)


def test_inspect_refuses_what_is_no_package(capsys, several: Path, tmp_path: Path):
    path = tmp_path / "cut.fcade"
    shutil.copy(several, path)
    path.write_bytes(path.read_bytes()[:-3])
    status, _, said = run(capsys, "inspect", path)
    assert status == cli.USAGE and "is no valid package: it is cut short" in said and "nothing in it was run" in said
