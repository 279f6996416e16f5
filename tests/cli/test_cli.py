"""The commands as scripts use them: what they print, what they write, what they return."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from data.command_line import run

from fusecade import cli
from fusecade.commands import doctor, exits
from fusecade.commands.program import Shape, arguments, dtype_name, find_function
from fusecade.errors import InternalCompilerError, InvalidArgument, UnsupportedProgram

PROGRAM = dedent("""
    import torch
    from torch import nn

    def attend(q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v

    def scan(x):
        return x.cumsum(-1)

    def asks(x):
        return x if x.sum() > 0 else -x

    def build():
        return nn.Linear(64, 64)

    class Scale(nn.Module):
        def forward(self, x):
            return 2 * x

    class Inner:
        attend = staticmethod(attend)

    number = 3
""")
QKV = ["--shape", "8,256,64", "--shape", "8,256,64", "--shape", "8,256,64", "--dtype", "f16"]


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program_of_the_test.py"
    path.write_text(PROGRAM)
    return str(path)


class TestExplain:
    def test_it_prints_the_report(self, capsys, program):
        status, out, _ = run(capsys, "explain", f"{program}:attend", *QKV, "--target", "sm_90", "--no-binaries")
        assert status == exits.FINE
        assert "target sm_90: 1 kernel" in out
        assert max(map(len, out.splitlines())) <= 100

    def test_several_targets(self, capsys, program):
        status, out, _ = run(
            capsys, "explain", f"{program}:attend", *QKV, "--target", "sm_80", "--target", "gfx942", "--no-binaries"
        )
        assert status == exits.FINE
        assert "target sm_80:" in out
        assert "target gfx942:" in out

    def test_launch_parameters(self, capsys, program):
        given = ["--parameter", "persistent=3", "--parameter", "descriptors=True"]
        status, out, _ = run(capsys, "explain", f"{program}:attend", *QKV, "--json", "--no-binaries", *given)
        (kernel,) = json.loads(out)["kernels"]
        assert status == exits.FINE
        assert (kernel["params"]["persistent"], kernel["params"]["descriptors"]) == (3, 1)
        assert kernel["choices"]["descriptors"] == [1, 0]
        status, _, said = run(capsys, "explain", f"{program}:attend", *QKV, "--parameter", "persistent")
        assert status == exits.USAGE and "write it as persistent=true" in said

    def test_json(self, capsys, program):
        _, out, _ = run(capsys, "explain", f"{program}:attend", *QKV, "--json", "--no-binaries")
        assert json.loads(out)["target"] == "sm_90"

    def test_a_page(self, capsys, program, tmp_path: Path):
        status, _, _ = run(capsys, "explain", f"{program}:attend", *QKV, "--html", tmp_path / "a.html", "--no-binaries")
        assert status == exits.FINE
        assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")

    def test_dynamic_sizes(self, capsys, program):
        shapes = ["--shape", "8,n=256,64", "--shape", "8,m=256,64", "--shape", "8,m=256,64", "--dtype", "f16"]
        status, out, _ = run(capsys, "explain", f"{program}:attend", *shapes, "--no-binaries")
        assert status == exits.FINE
        assert "n" in out

    def test_a_factory(self, capsys, program):
        status, _, _ = run(capsys, "explain", f"{program}:build", "--factory", "--shape", "8,64", "--no-binaries")
        assert status == exits.FINE

    def test_a_page_in_no_folder(self, capsys, program, tmp_path: Path):
        status, out, err = run(capsys, "explain", f"{program}:attend", *QKV, "--html", tmp_path / "none" / "a.html")
        assert (status, out) == (exits.USAGE, "")
        assert "cannot be written: there is no folder" in err

    @pytest.mark.parametrize(
        ("name", "shapes", "words"),
        [
            ("attend", ["8,64"], "give one --shape per argument (q, k, v)"),
            ("attend", [], "cannot be called with no --shape"),
            ("Scale", ["8,64"], "Scale is a class\nnext: add --factory"),
        ],
    )
    def test_shapes_that_are_too_few(self, capsys, program, name, shapes, words):
        status, _, err = run(capsys, "explain", f"{program}:{name}", *(f"--shape={s}" for s in shapes))
        assert status == exits.USAGE
        assert words in err

    @pytest.mark.parametrize(("text", "words"), [("x = (", "SyntaxError"), ("1 / 0", "ZeroDivisionError")])
    def test_a_file_that_does_not_load(self, capsys, tmp_path: Path, text: str, words: str):
        (tmp_path / "broken_program.py").write_text(f"import math\n{text}\n")
        status, _, err = run(capsys, "explain", f"{tmp_path}/broken_program.py:f", "--shape", "8")
        assert status == exits.USAGE
        assert f"does not load: {words}" in err
        assert "broken_program.py:2" in err

    def test_a_program_that_cannot_be_compiled(self, capsys, program):
        status, out, err = run(capsys, "explain", f"{program}:asks", "--shape", "8")
        assert (status, out) == (exits.USAGE, "")
        assert "x.sum() > 0" in err
        assert err.rstrip().splitlines()[-1].startswith("next: ")


class TestCompile:
    def test_it_writes_everything(self, capsys, program, tmp_path: Path):
        status, out, _ = run(
            capsys,
            "compile",
            f"{program}:attend",
            *QKV,
            "--target",
            "sm_80",
            "--target",
            "gfx942",
            "-o",
            tmp_path / "out",
        )
        assert status == exits.FINE
        files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
        common = {"k0.py", "k0.mlir", "explain.txt", "explain.json"}
        assert files == {f"sm_80/{n}" for n in common | {"k0.cubin", "k0.ptx"}} | {
            f"gfx942/{n}" for n in common | {"k0.hsaco", "k0.amdgcn"}
        }
        for binary in ("sm_80/k0.cubin", "gfx942/k0.hsaco"):
            assert (tmp_path / "out" / binary).read_bytes()[:4] == b"\x7fELF"
        assert "tile.kernel @k0" in (tmp_path / "out/sm_80/k0.mlir").read_text()
        assert "sm_80: 1 kernel, 1 binary, 0 externs" in out

    def test_the_tile_program_goes_through_opt(self, capsys, program, tmp_path: Path):
        run(capsys, "compile", f"{program}:attend", *QKV, "--target", "sm_80", "--no-binaries", "-o", tmp_path / "out")
        status, out, err = run(capsys, "opt", tmp_path / "out/sm_80/k0.mlir")
        assert status == exits.FINE, err
        assert "tile.kernel @k0" in out

    def test_a_file_in_place_of_the_folder(self, capsys, program, tmp_path: Path):
        (tmp_path / "out").write_text("")
        status, out, err = run(capsys, "compile", f"{program}:attend", *QKV, "-o", tmp_path / "out")
        assert (status, out) == (exits.USAGE, "")
        assert "cannot be made: File exists" in err

    def test_a_kernel_without_a_binary_is_said(self, capsys, program, tmp_path: Path, monkeypatch):
        from fusecade.assembly.binaries import Binaries
        from fusecade.runtime.triton_compile import CompileFailure

        def fails(self, plan, *_, **__):
            return {c.artifact.fingerprint: CompileFailure(c.artifact.name, "out of registers", "") for c in plan.calls}

        monkeypatch.setattr(Binaries, "of", fails)
        status, out, _ = run(capsys, "compile", f"{program}:attend", *QKV, "--target", "sm_80", "-o", tmp_path / "out")
        assert status == exits.INCOMPLETE
        assert "no binary of k0 for sm_80: out of registers" in out


OPT = """
cascade.program @rows(%x: !cascade.tensor<[n, 64], f32>) -> (!cascade.tensor<[n], f32>) {
  %y = cascade.einsum [i = n, j = 64]
    ins(%x[i, j] : !cascade.tensor<[n, 64], f32>) outs(sum [i] : !cascade.tensor<[n], f32>) {
  ^bb0(%a: f32):
    cascade.yield %a : f32
  }
  cascade.return %y : !cascade.tensor<[n], f32>
}
"""


class TestOpt:
    def test_without_passes_it_prints_the_program(self):
        assert "cascade.program @rows" in cli.run_opt([], OPT)

    def test_what_it_prints_it_reads(self):
        once = cli.run_opt([], OPT)
        assert cli.run_opt([], once) == once

    def test_it_says_what_did_not_change(self):
        out = cli.run_opt(["-p", "canonicalise,plan-memory", "--print-after-all"], OPT)
        assert out.startswith("// after canonicalise\n(unchanged)\n// after plan-memory\nbuiltin.module")
        assert "arena_bytes = 0" in out

    def test_every_pass_of_the_registry_runs(self):
        from fusecade.commands.opt import PASSES

        assert set(PASSES) >= {"canonicalise", "count-passes", "fuse", "derive-online", "schedule", "plan-memory"}
        for name in PASSES:
            cli.run_opt(["-p", name], OPT)

    def test_options_of_passes(self):
        out = cli.run_opt(["-p", "fuse{target=sm_90},schedule{target=sm_90}"], OPT)
        assert "cascade.program" in out

    @pytest.mark.parametrize(
        ("passes", "words"),
        [
            ("canonicalize", "a pass is 'canonicalize', which is not one of: known-indices, canonicalise,"),
            ("fuse{target=sm_91}", "target is 'sm_91'"),
            ("fuse{tarrget=sm_90}", "pass fuse: "),
            ("fuse{", "cannot be read"),
        ],
    )
    def test_wrong_passes(self, passes, words):
        with pytest.raises(InvalidArgument, match=words):
            cli.run_opt(["-p", passes], OPT)

    def test_wrong_arguments(self):
        with pytest.raises(InvalidArgument, match="--nothing"):
            cli.run_opt(["--nothing"], OPT)

    def test_a_program_that_is_none(self, capsys, tmp_path: Path):
        (tmp_path / "a.mlir").write_text("cascade.nothing")
        status, out, err = run(capsys, "opt", tmp_path / "a.mlir")
        assert (status, out) == (exits.USAGE, "")
        assert "is not a valid program" in err

    def test_a_file_that_is_no_text(self, capsys, tmp_path: Path):
        (tmp_path / "a.mlir").write_bytes(b"ok\xff\xfe")
        status, _, err = run(capsys, "opt", tmp_path / "a.mlir")
        assert status == exits.USAGE
        assert "is not text: byte 2 is no UTF-8" in err

    def test_a_file_that_is_not_there(self, capsys, tmp_path: Path):
        status, _, err = run(capsys, "opt", tmp_path / "none.mlir")
        assert status == exits.USAGE
        assert "cannot be read: No such file" in err

    def test_a_pass_that_breaks_the_program_is_a_mistake_of_ours(self, monkeypatch, capsys, tmp_path: Path):
        from xdsl.dialects.builtin import ModuleOp
        from xdsl.passes import ModulePass

        from fusecade.commands import opt
        from fusecade.ir.cascade import EinsumOp

        class Breaks(ModulePass):
            name = "breaks"

            def apply(self, ctx, op: ModuleOp) -> None:
                for einsum in [o for o in op.walk() if isinstance(o, EinsumOp)]:
                    einsum.detach()

        monkeypatch.setitem(opt.PASSES, "breaks", Breaks)
        with pytest.raises(InternalCompilerError, match="the program is not valid any more") as caught:
            opt.optimise(OPT, "canonicalise,breaks")
        assert caught.value.stage == "breaks"
        (tmp_path / "a.mlir").write_text(OPT)
        assert run(capsys, "opt", "-p", "breaks", tmp_path / "a.mlir")[0] == exits.INTERNAL

    def test_a_pass_that_crashes_is_a_mistake_of_ours(self, monkeypatch):
        from xdsl.passes import ModulePass

        from fusecade.commands import opt

        class Crashes(ModulePass):
            name = "crashes"

            def apply(self, ctx, op) -> None:
                raise ZeroDivisionError("by zero")

        monkeypatch.setitem(opt.PASSES, "crashes", Crashes)
        with pytest.raises(InternalCompilerError, match="ZeroDivisionError in crashes: by zero"):
            opt.optimise(OPT, "crashes")

    def test_as_a_program_with_a_pipe(self):
        done = subprocess.run(
            [sys.executable, "-m", "fusecade", "opt", "-p", "canonicalise"], input=OPT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert "cascade.program @rows" in done.stdout


class TestDoctor:
    def test_it_lists_what_is_here(self, capsys):
        status, out, _ = run(capsys, "doctor")
        assert status in (exits.FINE, exits.INCOMPLETE)
        for word in ("torch", "triton", "sm_90", "gfx942", "cache"):
            assert word in out

    def test_it_says_how_to_get_what_is_missing(self, capsys, monkeypatch):
        monkeypatch.setitem(doctor.PACKAGES, "nothing_of_this_name", ("tests", "pip install nothing"))
        status, out, _ = run(capsys, "doctor")
        assert status == exits.INCOMPLETE
        assert "missing: nothing_of_this_name (for tests)\nnext: pip install nothing" in out

    def test_targets_that_cannot_be_compiled_for(self, capsys, monkeypatch):
        monkeypatch.setattr(doctor, "find_tool", lambda tool: None)
        doctor._compile_problem.cache_clear()
        try:
            status, out, _ = run(capsys, "doctor")
        finally:
            doctor._compile_problem.cache_clear()
        assert status == exits.INCOMPLETE
        assert "no: ptxas is missing" in out


class TestProgramOnTheCommandLine:
    @pytest.mark.parametrize(
        ("text", "shape"),
        [
            ("8,4096,64", Shape((8, 4096, 64), {}, "f32")),
            ("8x4096x64", Shape((8, 4096, 64), {}, "f32")),
            ("i64:32,128", Shape((32, 128), {}, "i64")),
            ("float16:3", Shape((3,), {}, "f16")),
            ("8,n=256", Shape((8, 256), {1: "n"}, "f32")),
            ("f32:", Shape((), {}, "f32")),
        ],
    )
    def test_shapes(self, text, shape):
        assert Shape.read(text, "f32") == shape

    @pytest.mark.parametrize("text", ["8,a", "8,-1", "8,1n=2", "8,n=", "8,n=m"])
    def test_wrong_shapes(self, text):
        with pytest.raises(InvalidArgument, match="is not a size"):
            Shape.read(text, "f32")

    def test_wrong_dtypes(self):
        with pytest.raises(InvalidArgument, match="dtype is 'f17', which is not one of: f16, bf16, f32"):
            dtype_name("f17")

    def test_nothing_is_allocated(self):
        [tensor], dynamic = arguments([Shape((1 << 40, 8), {0: "n"}, "bf16")])
        assert tensor.is_meta
        assert dynamic == {0: {0: "n"}}

    def test_functions_in_files_and_modules(self, program):
        assert find_function(f"{program}:attend").__name__ == "attend"
        assert find_function(f"{program}:Inner.attend").__name__ == "attend"
        assert find_function("math:sqrt")(4) == 2

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("nofunction", "names no function"),
            ("no_module_of_this_name:f", "there is no module no_module_of_this_name"),
            ("no/file.py:f", "there is no file no/file.py"),
            ("math:sqrtt", "a function of math is 'sqrtt'"),
            ("math:pi", "cannot be called"),
        ],
    )
    def test_functions_that_are_not_there(self, text, words):
        with pytest.raises(InvalidArgument, match=words):
            find_function(text)


class TestMain:
    def test_without_a_command_it_says_what_there_is(self, capsys):
        status, _, err = run(capsys)
        assert status == exits.USAGE
        assert "usage: fusecade" in err

    @pytest.mark.parametrize("verb", ["explain", "compile", "opt", "cache", "doctor", "completion"])
    def test_every_command_has_help(self, capsys, verb):
        status, out, _ = run(capsys, verb, "--help")
        assert status == 0
        assert f"usage: fusecade {verb}" in out

    def test_the_version(self, capsys):
        status, out, _ = run(capsys, "--version")
        assert status == 0
        assert out.startswith("fusecade 0.")

    @pytest.mark.parametrize(
        ("error", "status"),
        [(UnsupportedProgram("no"), exits.USAGE), (InternalCompilerError("no"), exits.INTERNAL)],
    )
    def test_errors_have_a_status_and_no_traceback(self, capsys, monkeypatch, error, status):
        def fails(*_):
            raise error

        monkeypatch.setattr(doctor, "run", fails)
        got, _, err = run(capsys, "doctor")
        assert got == status
        assert "Traceback" not in err

    def test_it_starts_quickly(self):
        program = (
            "import sys, fusecade.cli; fusecade.cli.parser(); sys.exit('torch' in sys.modules or 'xdsl' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", program], check=True)
