"""Packages as C: what is written compiles without a warning, launches what Python launches, and computes what is right.

The driver is a library in its place (`c_driver.c`), and Triton's interpreter runs the kernels (`c_program.py`).
"""

from __future__ import annotations

import ast
import ctypes
import ctypes.util
import itertools
import random
import shutil
import subprocess
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import packaged
import pytest
import test_gallery_of_gpus
import torch
from c_program import DEFINES, HERE, INCLUDE, STREAM, STRICT, Built, compile_strictly, compiler, headers
from data.command_line import run as command

import fusecade
from fusecade.assembly.c_output import names, source, views
from fusecade.assembly.c_output.arithmetic import Arithmetic
from fusecade.codegen.artifact import Layout
from fusecade.errors import InternalCompilerError, InvalidArgument, InvalidPackage, UnsupportedProgram
from fusecade.runtime.loaded import Stages
from fusecade.runtime.package import archive
from fusecade.runtime.package.gpu import Driver, Launcher
from fusecade.runtime.package.manifest import Package, Step
from fusecade.runtime.package.signature import TensorLeaf
from fusecade.runtime.package.steps import Program
from fusecade.runtime.package.values import expression

C99, CPP = ["-std=c99"], ["-x", "c++", "-std=c++11"]


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package, and beside it the folder `c`."""
    folder = tmp_path_factory.mktemp("c")
    options: Any = {"targets": ["sm_90", "gfx942"], "dynamic": packaged.REMEMBERING_SIZES, "fuse": "always"}
    buckets = [{"n": 64, "m": 64}, {"n": 512, "m": 512}]
    path = folder / "p.fcade"
    fusecade.export(packaged.remembering, packaged.REMEMBERING, path, buckets=buckets, **options)
    fusecade.export_c(path, folder / "c")
    return path


@pytest.fixture(scope="module")
def built(remembering: Path) -> Built:
    return Built(remembering.parent / "c", Package.open(remembering), "sm_90")


@pytest.fixture
def program(built: Built) -> Built:
    """With nothing loaded and no context."""
    built.enter()
    built.function("unload")()
    built.begin("sm_90")
    assert built.held == 0
    return built


def arguments(n: int, m: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n + m)
    return [torch.rand(*shape, generator=generator) for shape in ((n, 32), (m, 32), (n, 32))]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def addresses(tensors: list[torch.Tensor]) -> list[int]:
    return [x.data_ptr() for x in tensors]


class TestRunning:
    @pytest.mark.parametrize(("n", "m"), [(100, 70), (64, 64), (2, 7), (513, 33)])
    def test_it_computes_what_the_function_does(self, program: Built, n: int, m: int):
        given = arguments(n, m)
        wanted = [x.clone() for x in given]
        right: Any = packaged.remembering(wanted[0], wanted[1], wanted[2])
        out = torch.full((n, 32), 7.0)
        assert program.call(addresses([*given, out]), [m, n]) == 0
        torch.testing.assert_close(out.t(), right["turned"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(given[2], wanted[2], rtol=1e-4, atol=1e-5)  # it is changed
        assert all(torch.equal(a, b) for a, b in zip(given[:2], wanted[:2], strict=True))

    @pytest.mark.parametrize(("n", "m"), [(100, 70), (30, 64)])
    def test_it_launches_what_python_launches(self, program: Built, monkeypatch, n: int, m: int):
        given = arguments(n, m)
        copies = [x.clone() for x in given]
        apart = Built(program.folder, program.package, "sm_90")  # Python never unloads
        by_python, results = launched_by_python(apart, copies, [m, n], monkeypatch)
        out = torch.full((n, 32), 7.0)
        assert program.call(addresses([*given, out]), [m, n]) == 0
        same = dict(zip(addresses(copies), addresses(given), strict=True))
        same[results[0].data_ptr()] = out.data_ptr()
        assert len(program.launches) == len(by_python) > 1
        for ours, theirs in zip(program.launches, by_python, strict=True):
            assert replace(ours, values=()) == replace(theirs, values=())  # grid, block, shared memory, stream
            for kind, a, b in zip(ours.kinds, ours.values, theirs.values, strict=True):
                if kind in ("i32", "i64") or (kind == "scratch" and b == 0):
                    assert a == b
                elif b in same:
                    assert a == same[b]
                else:
                    assert a % 256 == 0  # the workspace, or the constants
        assert torch.equal(out.t(), results[0]) and torch.equal(given[2], results[3])

    @pytest.mark.parametrize("target", ["sm_90", "gfx942"])
    def test_much_shared_memory_and_scratch(self, remembering: Path, tmp_path: Path, monkeypatch, target: str):
        """Numbers that a binary may have: on NVIDIA shared memory is asked for, and every program has its part of scratch."""

        def edit(manifest: dict[str, Any]) -> None:
            for kernel in manifest["kernels"].values():
                for binary in kernel["binaries"]:
                    binary |= {"shared_bytes": 100_000, "scratch_bytes": 128}

        path = tmp_path / "p.fcade"
        path.write_bytes(packaged.repacked(archive.read(remembering.read_bytes()), edit))
        fusecade.export_c(path, tmp_path / "c")
        found = Built(tmp_path / "c", Package.open(path), target)
        found.enter()
        given, out = arguments(8, 9), torch.empty(8, 32)
        by_python, results = launched_by_python(found, [x.clone() for x in given], [9, 8], monkeypatch)
        found.begin(target)
        assert found.call(addresses([*given, out]), [9, 8]) == 0 and torch.equal(out.t(), results[0])
        assert found.said.count("set 8 100000") == (len(found.launches) if target == "sm_90" else 0)
        scratch = []
        for ours, theirs in zip(found.launches, by_python, strict=True):
            assert replace(ours, values=()) == replace(theirs, values=())
            first = ours.kinds.index("scratch")
            assert [x == 0 for x in ours.values[first:]] == [x == 0 for x in theirs.values[first:]] == [False, True]
            scratch.append(ours.values[first])
        assert all(x % 256 == 0 for x in scratch)
        assert found.workspace_bytes(9, 8)[1] >= 8 * 32 * 4 + 128 * max(x.dims[0] for x in found.launches)

    @pytest.mark.parametrize("target", ["sm_90", "gfx942"])
    def test_the_example_finds_what_it_expects(self, remembering: Path, program: Built, target: str):
        folder = remembering.parent / "c"
        found = program if target == "sm_90" else Built(folder, program.package, target)
        assert found.example() == 0
        assert found.held == 0 and not [x for x in found.said if x.isupper()]
        assert [x for x in found.said if x == "copy on the device"]

    def test_the_example_sees_what_is_wrong(self, program: Built, capfd):
        with_error = Built(program.folder, program.package, "sm_90", execute=False)
        assert with_error.example() == 1
        ctypes.CDLL(None).fflush(None)
        assert "WRONG" in capfd.readouterr().out

    def test_a_module_is_loaded_once_in_each_context(self, program: Built):
        def call() -> list[str]:
            before = len(program.said)
            given = [*arguments(8, 8), torch.empty(8, 32)]
            assert program.call(addresses(given), [8, 8]) == 0
            return [x.split()[0] for x in program.said[before:] if x.split()[0] in ("load", "unload", "allocate")]

        first = call()
        assert first.count("load") > 1 and first.count("allocate") == 1 and call() == []
        program.enter(0x31)
        assert call() == first and call() == []
        held = program.held
        assert program.function("unload")() == 0 and program.held == held // 2
        program.enter()
        assert call() == []  # that context has its own
        assert program.function("unload")() == 0 and program.held == 0
        assert program.function("unload")() == 0

    def test_all_is_loaded_ahead_of_a_call(self, program: Built):
        assert program.function("load")() == 0
        before = len(program.said)
        for n in (8, 100):
            given = [*arguments(n, n), torch.empty(n, 32)]
            assert program.call(addresses(given), [n, n]) == 0
        assert not [x for x in program.said[before:] if x == "load"]

    def test_threads_load_once(self, program: Built):
        def work() -> None:
            program.enter()
            given = [*arguments(8, 8), torch.empty(8, 32)]
            start.wait()
            found.append(program.call(addresses(given), [8, 8]))

        start, found = threading.Barrier(4), list[int]()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        kernels = {x.symbol for x in program.launches}
        assert found == [0] * 4 and program.said.count("load") == len({x.member for x in program.launches})
        assert kernels and program.said.count("allocate") == 1


class TestErrors:
    """Every one is said before anything is launched."""

    @pytest.fixture
    def valid(self) -> tuple[list[torch.Tensor], list[int]]:
        tensors = [*arguments(8, 9), torch.empty(8, 32)]
        return tensors, addresses(tensors)

    @pytest.mark.parametrize(
        ("sizes", "words"),
        [
            ([9, 0], "a size is below 2"), ([9, -8], "a size is below 2"), ([1, 8], "a size is below 2"),
            ([-(2**63), 8], "a size is below 2"), ([9, 2**31 - 1], "does not fit"), ([2**31, 8], "does not fit"),
            ([9, 2**62], "does not fit"), ([2**63 - 1, 2**63 - 1], "does not fit"), ([4, 8], "was not compiled for"),
        ],
    )  # fmt: skip
    def test_sizes(self, program: Built, valid, sizes, words):
        status, size = program.workspace_bytes(*sizes)
        assert words in program.text(status) and size == 12345
        assert program.run(valid[1], sizes, 256, 1 << 40) == status
        assert not program.launches and program.held == 0

    def test_pointers(self, program: Built, valid):
        for n in range(len(valid[1])):
            changed = list(valid[1])
            changed[n] = 0
            assert program.text(program.run(changed, [9, 8], 256, 1 << 40)) == "a pointer is null"
            changed[n] = valid[1][n] + 4
            assert "multiple of 16" in program.text(program.run(changed, [9, 8], 256, 1 << 40))
        assert not program.launches

    def test_the_workspace(self, program: Built, valid):
        _, size = program.workspace_bytes(9, 8)
        assert size >= 8 * 32 * 4
        for workspace, bytes_, words in [(0, size, "null"), (128, size, "256"), (256, size - 1, "fewer bytes")]:
            assert words in program.text(program.run(valid[1], [9, 8], workspace, bytes_))
        assert (
            program.text(program.function("workspace_bytes")(ctypes.c_int64(9), ctypes.c_int64(8), None))
            == "a pointer is null"
        )
        assert not program.launches

    @pytest.mark.parametrize("device", ["sm_80", "sm_100"])
    def test_another_device(self, program: Built, valid, device):
        program.begin(device)
        program.enter(0x99)
        assert "no kernels for the architecture" in program.text(program.run(valid[1], [9, 8], 256, 1 << 40))

    def test_no_context(self, program: Built, valid):
        program.enter(0)
        assert "no context is current" in program.text(program.run(valid[1], [9, 8], 256, 1 << 40))

    @pytest.mark.parametrize("what", ["load", "find", "launch", "allocate", "copy"])
    def test_what_the_driver_refuses(self, program: Built, valid, what):
        program.library.stub_fail(what.encode(), 2)
        memory = torch.empty(1 << 20, dtype=torch.uint8)
        status = program.run(valid[1], [9, 8], memory.data_ptr() + -memory.data_ptr() % 256, 1 << 19)
        assert status == 1002 and program.text(status) == "out of memory"
        program.begin("sm_90")
        assert program.call(valid[1], [9, 8]) == 0  # nothing is left half done
        assert program.function("unload")() == 0 and program.held == 0

    def test_codes_have_texts(self, program: Built):
        texts = [program.text(n) for n in range(13)]
        assert len(set(texts)) == 13 and program.text(13) == program.text(-1) == "no code of this library"
        header = program.header.read_text()
        assert [f"= {n}," in header for n in range(13)] == [True] * 13


class TestWriting:
    @pytest.mark.parametrize("kind", ["cuda", "hip"])
    @pytest.mark.parametrize("standard", [C99, CPP], ids=["c99", "c++11"])
    def test_it_compiles_without_a_warning(self, remembering: Path, kind: str, standard: list[str]):
        compile_strictly(remembering.parent / "c", kind, [compiler(), *standard])

    def test_the_same_bytes_again(self, remembering: Path, tmp_path: Path):
        fusecade.export_c(remembering, tmp_path / "again")
        assert contents(tmp_path / "again") == contents(remembering.parent / "c")

    @pytest.mark.slow
    def test_the_same_bytes_without_a_package(self, remembering: Path, tmp_path: Path):
        options: Any = {"targets": ["sm_90", "gfx942"], "dynamic": packaged.REMEMBERING_SIZES, "fuse": "always"}
        options |= {"buckets": [{"n": 64, "m": 64}, {"n": 512, "m": 512}], "format": "c"}
        made = fusecade.export(packaged.remembering, packaged.REMEMBERING, tmp_path / "new" / "d", **options)
        assert made.digest == Package.open(remembering).digest and made.reports.keys() == {"sm_90", "gfx942"}
        assert contents(made.path) == contents(remembering.parent / "c")

    def test_what_the_header_says(self, program: Built):
        text = program.header.read_text()
        for words in (
            "in_keys: f32 [m, 32], strides [32, 1]", "in_state: f32 [n, 32], strides [32, 1], is changed",
            "Targets: sm_90, gfx942.", "out_0: n * 128 bytes, for result 0, 1", "size_n: the size n, 2 or more",
            "result 0: f32 [32, n], strides [1, 32], in out_0", "result 2: f32 [32, m], strides [1, 32], in in_keys",
            "result 1: f32 [n, 16], strides [32, 1], in out_0, 16 elements behind its beginning",
        ):  # fmt: skip
            assert words in text

    def test_many_constants_are_a_file(self, remembering: Path, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(source, "MOST_EMBEDDED", 100)
        folder = tmp_path / "c"
        fusecade.export_c(remembering, folder)
        found = Built(folder, Package.open(remembering), "sm_90")
        found.enter()
        tensors = [*arguments(8, 9), torch.empty(8, 32)]
        given = addresses(tensors)
        assert "constants have not been loaded" in found.text(found.run(given, [9, 8], 256, 1 << 40))
        file, load = folder / f"{found.prefix}.constants", found.function("load_constants")
        assert load(str(file).encode()) == 0 and found.call(given, [9, 8]) == 0
        other = tmp_path / "other"
        for data in (b"", file.read_bytes()[:-1], file.read_bytes() + b"x", b"x" + file.read_bytes()[1:]):
            other.write_bytes(data)
            assert "is not the one" in found.text(load(str(other).encode()))
        assert "cannot be read" in found.text(load(str(tmp_path / "none").encode())) and load(None) == 12
        assert found.function("unload")() == 0
        assert found.example(str(file)) == 0 and found.held == 0

    @pytest.mark.slow
    def test_a_target_of_an_older_device(self, several: Path, tmp_path: Path):
        """As Python chooses: sm_80 also runs on sm_86; sm_90 has a target of its own; nothing runs on sm_100."""
        fusecade.export_c(several, tmp_path / "c")
        assert "The package also has cpu" in (tmp_path / "c" / "fusecade_attend.h").read_text()
        found = Built(tmp_path / "c", Package.open(several), "sm_80", execute=False)
        tensors = [*packaged.qkv(4, 96, 64), torch.empty(4, 96, 64)]
        chosen = {}
        for n, device in enumerate(["sm_80", "sm_86", "sm_90", "sm_100"]):
            found.begin(device)
            found.enter(0x50 + n)
            status = found.run(addresses(tensors), [])
            chosen[device] = found.launches[0].member.partition("/")[0] if status == 0 else found.text(status)[:20]
        assert chosen == {"sm_80": "sm_80", "sm_86": "sm_80", "sm_90": "sm_90", "sm_100": "there are no kernels"}


class TestRefused:
    @staticmethod
    def refusal(function: Any, tmp_path: Path, *args: torch.Tensor) -> UnsupportedProgram:
        with pytest.raises(UnsupportedProgram) as error:
            fusecade.export(function, args, tmp_path / "c", targets=["sm_90"], fuse="always", format="c")
        assert not (tmp_path / "c").exists()
        return error.value

    def test_an_operator_with_its_line(self, tmp_path: Path):
        def best(x, w):
            found = torch.softmax(x @ w, dim=-1) @ w.t()
            return found.sort(dim=-1).values  # this line

        found = self.refusal(best, tmp_path, torch.empty(100, 32), torch.empty(32, 48))
        assert "aten.sort.default, step 1 of best, has no form in C: it computes" in found.message
        assert "order statistics are not reductions" in found.message
        assert found.source is not None and "this line" in found.source.code
        assert "keep this line outside" in found.next_step

    @pytest.mark.slow
    def test_a_copy_to_other_strides(self, tmp_path: Path):
        def heads(x):
            q = x.view(-1, 4, 16).transpose(0, 1)
            apart = torch.softmax(q @ q.transpose(-1, -2), -1) @ q
            return apart.transpose(0, 1).reshape(x.shape), apart

        found = self.refusal(heads, tmp_path, torch.empty(100, 64))
        assert "it copies a tensor to other strides" in found.message

    def test_the_cpu(self, small: Path, tmp_path: Path):
        with pytest.raises(UnsupportedProgram, match="programs of torch"):
            fusecade.export(packaged.attend, packaged.qkv(4, 96, 64), tmp_path / "c", targets=["cpu"], format="c")
        with pytest.raises(UnsupportedProgram, match="for cpu alone, and these are programs of torch"):
            fusecade.export_c(small, tmp_path / "c")

    @pytest.mark.parametrize("prefix", ["int", "stdio", "main", "fc", "9x", "a b", "", "é", "x" * 61])
    def test_prefixes(self, remembering: Path, tmp_path: Path, prefix: str):
        with pytest.raises(InvalidArgument, match="is no identifier that C"):
            fusecade.export_c(remembering, tmp_path / "c", prefix=prefix)

    def test_options(self, remembering: Path, tmp_path: Path):
        args: Any = (packaged.attend, packaged.qkv(4, 96, 64), tmp_path / "x")
        for options, words in [
            ({"format": "rust"}, "format is 'rust'"),
            ({"prefix": "a"}, "prefix and example are for C"),
        ]:
            with pytest.raises(InvalidArgument, match=words):
                fusecade.export(*args, **options)
        for example, words in [({"n": 3}, "the function"), ({"n": 8, "m": 3}, "was not compiled for the sizes")]:
            with pytest.raises(InvalidArgument, match=words):
                fusecade.export_c(remembering, tmp_path / "c", example=example)
        (tmp_path / "file").write_text("")
        with pytest.raises(InvalidArgument, match="cannot be written to"):
            fusecade.export_c(remembering, tmp_path / "file")


class TestCommands:
    def test_a_package_becomes_c(self, capsys, remembering: Path, tmp_path: Path):
        status, said, _ = command(
            capsys, "export-c", remembering, "-o", tmp_path / "c", "--prefix", "mine", "--example", "n=9,m=8"
        )
        assert status == 0 and "C source, and an example" in said
        assert {"mine.h", "mine.c", "main.c", "CMakeLists.txt"} <= {p.name for p in (tmp_path / "c").iterdir()}
        assert "size_n = 9;" in (tmp_path / "c" / "main.c").read_text()

    def test_a_function_becomes_c(self, capsys, tmp_path: Path):
        path = tmp_path / "program_for_c.py"
        path.write_text("import torch\ndef double(x, y):\n    return torch.softmax(x @ y, -1) @ y.t()\n")
        shapes = ["--shape", "f16:n=96,64", "--shape", "f16:64,32"]
        options = ["--target", "sm_80", "--target", "cpu", "--fuse", "always", "--format", "c", "--bucket", "n=128"]
        status, said, _ = command(capsys, "compile", f"{path}:double", *shapes, *options, "-o", tmp_path / "c")
        assert status == 0 and "cpu: 1 kernel, which have no form in C" in said
        assert (tmp_path / "c" / "fusecade_double.h").is_file()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--format", "c", "-o", "x.fcade"], "--format c writes a folder"),
            (["--format", "c", "--keep", "ttir", "-o", "x"], "--keep is for packages"),
            (["--format", "c", "--no-binaries", "-o", "x"], "C has binaries"),
            (["--prefix", "a", "-o", "x"], "--prefix and --example are for C"),
            (["--format", "c", "--example", "n", "-o", "x"], "'n' in 'n' is no size"),
        ],
    )
    def test_options_that_do_not_go_together(self, capsys, tmp_path: Path, monkeypatch, options, words):
        monkeypatch.chdir(tmp_path)
        program = Path(packaged.__file__)
        status, _, said = command(capsys, "compile", f"{program}:attend", *["--shape", "4,96,64"] * 3, *options)
        assert status == 2 and words in said


class TestNames:
    HOSTILE = ("int", "n-1", "", "*/", "größe", "a_", "_a", "a", "A", "main", "x" * 300, "a b", "1", "??/", '"', "n\n")

    def test_identifiers_are_different_and_plain(self):
        found = names.identifiers("size", self.HOSTILE)
        assert len(set(found)) == len(self.HOSTILE)
        assert all(x.isascii() and x.isidentifier() and "__" not in x and len(x) < 63 for x in found)

    def test_texts_do_not_leave_comments_and_literals(self, tmp_path: Path):
        every = [*self.HOSTILE, "/*", "//*/ */*", "\\", "???/\n", "%s", "\0", "a" * 200]
        lines = [
            f"/* {names.comment(x)} */ static const char *const t{n} = {names.literal(x)};" for n, x in enumerate(every)
        ]
        sizes = ", ".join(f"sizeof({names.literal(x)})" for x in every)
        (tmp_path / "t.c").write_text(
            "\n".join(["#include <stdio.h>", *lines, "int main(void) {", f"const unsigned long s[] = {{{sizes}}};"])
            + "\nsize_t n;\n" + "".join(f"(void)t{n};\n" for n in range(len(every)))
            + 'for (n = 0; n < sizeof s / sizeof *s; n++) printf("%lu ", s[n]);\nreturn 0; }\n'
        )  # fmt: skip
        said = compiled_and_run(tmp_path / "t.c")
        assert [int(n) for n in said.split()] == [len(x.encode()) + 1 for x in every]

    @pytest.mark.slow
    def test_a_function_of_hostile_names(self, tmp_path: Path):
        """Keywords of C, macros, and names that are one but for their case or what is no letter."""
        space: dict[str, Any] = {"torch": torch}
        exec("def register(int, NULL, int_): return torch.softmax(int @ NULL, -1) @ int_", space)
        sizes = {0: {0: "double"}, 1: {1: "model"}, 2: {0: "model"}}
        args = (torch.empty(40, 16), torch.empty(16, 24), torch.empty(24, 16))
        fusecade.export(space["register"], args, tmp_path / "p.fcade", targets=["sm_80"], dynamic=sizes, fuse="always")
        package = Package.open(tmp_path / "p.fcade")
        fusecade.export_c(tmp_path / "p.fcade", tmp_path / "c", example={"double": 5, "model": 7})
        for standard in (C99, CPP):
            compile_strictly(tmp_path / "c", "cuda", [compiler(), *standard])
        found = Built(tmp_path / "c", package, "sm_80")
        assert found.example() == 0 and found.prefix == "fusecade_register"


# --- the gallery, and functions of one difficulty each ------------------------------------------------------------------


def two(x, w, u):
    y = torch.softmax(x @ w, -1) @ w.t()
    return torch.softmax(y @ u, -1) @ u.t()


def four(x, w, u):
    """What lies between them goes through slots of the workspace that are used again."""
    for _ in range(4):
        x = torch.softmax(x @ w, -1) @ w.t()
    return x @ u, x.argmax(-1)


def changing(x, w, state):
    """The new values of an argument wait in the workspace while other kernels use it."""
    state.add_(torch.softmax(x @ w * 2, -1) @ w.t())
    for _ in range(3):
        x = torch.softmax(x @ w, -1) @ w.t()
    return x


def two_results(x, w, u):
    y = torch.softmax(x @ w, -1) @ w.t()
    return y, torch.softmax(y @ u, -1) @ u.t()


def holding(x):
    return torch.softmax(x @ WEIGHT, -1) @ WEIGHT.t()


def heads(x):
    q = x.view(-1, 4, 16).transpose(0, 1)
    y = torch.softmax(q @ q.transpose(-1, -2), -1) @ q
    return y.transpose(0, 1).reshape(x.shape), x.t(), x[2]


def normed(x, w):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), w)


def masked(q, k, v, mask):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


WEIGHT = torch.linspace(-1, 1, 64 * 64).view(64, 64)
ONE = {
    "two": (two, [(100, 32), (32, 64), (32, 48)], {0: {0: "n"}}),
    "four": (four, [(100, 32), (32, 64), (32, 48)], {0: {0: "n"}}),
    "changing": (changing, [(100, 32), (32, 64), (100, 32)], {0: {0: "n"}, 2: {0: "n"}}),
    "two_results": (two_results, [(100, 32), (32, 64), (32, 48)], {0: {0: "n"}}),
    "split": (packaged.attend, [(2, 1, 64), (2, 4096, 64), (2, 4096, 64)], {1: {1: "m"}, 2: {1: "m"}}),
    "holding": (holding, [(100, 64)], {0: {0: "n"}}),
    "heads": (heads, [(100, 64)], {0: {0: "n"}}),
    "normed": (normed, [(100, 64), (64,)], {0: {0: "n"}}),
    "normed_bf16": (normed, [(100, 64), (64,)], {0: {0: "n", 1: "d"}, 1: {0: "d"}}),
    "masked": (masked, [(2, 100, 64)] * 3 + [(100, 100)], None),
}
TARGETS = ["sm_80", "sm_90", "sm_100", "gfx942"]


def check_everywhere(path: Path, targets: list[str]) -> None:
    """The package's C compiles by every compiler that is here, and the example is right on every target."""
    package, folder = Package.open(path), path.parent / "c"
    fusecade.export_c(path, folder)
    compilers = [found for name in ("gcc", "clang") if (found := shutil.which(name))] or [compiler()]
    for kind in sorted({t.kind for t in package.targets.values()} - {"cpu"}):
        for name, standard in itertools.product(compilers, (C99, CPP)):
            compile_strictly(folder, kind, [name, *standard])
    for target in targets:
        built = Built(folder, package, target)
        assert built.example() == 0, f"{target}: {built.said}"
        assert built.held == 0 and not [x for x in built.said if x.isupper()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE)
def test_functions_everywhere(name: str, tmp_path: Path):
    function, shapes, dynamic = ONE[name]
    dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
    args = [torch.empty(s, dtype=dtype) for s in shapes]
    if name == "masked":
        args[-1] = torch.ones(shapes[-1], dtype=torch.bool)
    fusecade.export(function, args, tmp_path / "p.fcade", targets=TARGETS, dynamic=dynamic, fuse="always")
    check_everywhere(tmp_path / "p.fcade", TARGETS)


@pytest.mark.slow
def test_descriptors_are_made_in_the_workspace(tmp_path: Path):
    """Kernels that fetch tiles by descriptor write these to scratch memory of their own."""
    args, options = [x.half() for x in packaged.qkv(4, 512, 64)], {"descriptors": 1}
    fusecade.export(packaged.attend, args, tmp_path / "p.fcade", targets=["sm_90"], fuse="always", parameters=options)
    package = Package.open(tmp_path / "p.fcade")
    [binary] = [b for k in package.kernels.values() for b in k.binaries]
    assert binary.scratch_bytes > 0
    check_everywhere(tmp_path / "p.fcade", ["sm_90"])
    built = Built(tmp_path / "c", package, "sm_90")
    built.enter()
    assert built.workspace_bytes() == (0, binary.scratch_bytes * 128)


BESIDE = {"dynamic_mask": r"aten\.topk\.default"}  # what no kernel does


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(test_gallery_of_gpus.CASES) - set(BESIDE)))
def test_the_gallery_everywhere(name: str, tmp_path: Path):
    test_gallery_of_gpus.build(name, tmp_path / "p.fcade")
    check_everywhere(tmp_path / "p.fcade", TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize("name", BESIDE)
def test_an_operator_of_the_gallery_is_refused(name: str, tmp_path: Path):
    """From a package the line is not known any more."""
    test_gallery_of_gpus.build(name, tmp_path / "p.fcade")
    with pytest.raises(UnsupportedProgram, match=rf"{BESIDE[name]}, step \d of attend.*order statistics") as error:
        fusecade.export_c(tmp_path / "p.fcade", tmp_path / "c")
    assert error.value.source is None and "outside of the function" in error.value.next_step


def mixed(x, w, u, nothing):
    """A product alone, a map of it, a sum, a product over no elements: nothing that fuses well."""
    y = x @ w
    return torch.sin(y), y.t() @ u, u.sum(0), x[:, :0] @ nothing


MIXED = [(37, 32), (32, 16), (37, 16), (0, 16)]


def test_what_does_not_fuse_becomes_kernels(tmp_path: Path):
    """`format="c"` asks for that by itself; a package has to be asked for it, and says so."""
    args = [torch.empty(s) for s in MIXED]
    options: Any = {"targets": ["sm_90"]}
    fusecade.export(mixed, args, tmp_path / "p.fcade", remainder="kernels", **options)
    check_everywhere(tmp_path / "p.fcade", ["sm_90"])
    made = fusecade.export(mixed, args, tmp_path / "direct", format="c", **options)
    assert contents(made.path) == contents(tmp_path / "c")
    fusecade.export(mixed, args, tmp_path / "q.fcade", **options)
    with pytest.raises(UnsupportedProgram, match=r"aten\.mm\.default, step 0") as error:
        fusecade.export_c(tmp_path / "q.fcade", tmp_path / "d")
    assert "export the package with remainder='kernels'" in error.value.next_step


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake here: apt install cmake")
@pytest.mark.parametrize("kind", ["cuda", "hip"])
def test_the_build_file(remembering: Path, tmp_path: Path, kind: str):
    """With a driver in place of the toolkit's; the example stops where its results are not what they have to be."""
    driver, folder = tmp_path / "libdriver.so", remembering.parent / "c"
    options = ["-shared", "-fPIC", *DEFINES[kind], *headers(kind)]
    subprocess.run([compiler(), *options, str(HERE / "c_driver.c"), "-o", str(driver), "-lpthread"], check=True)
    include = INCLUDE[kind]
    configure = ["cmake", "-S", folder, "-B", tmp_path, f"-DFUSECADE_DRIVER_LIBRARY={driver}"]
    configure += [f"-DFUSECADE_DRIVER_INCLUDE={include}", f"-DFUSECADE_HIP={'ON' if kind == 'hip' else 'OFF'}"]
    subprocess.run([*configure, f"-DCMAKE_C_FLAGS={' '.join(STRICT)}"], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    done = subprocess.run([tmp_path / "fusecade_remembering_example"], capture_output=True, text=True)
    assert done.returncode == 1 and "out_0: 3072 elements" in done.stdout and "WRONG" in done.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["split", "four", "holding", "masked"])
def test_on_a_gpu(name: str, tmp_path: Path):
    """Where there is one: the example, built against the driver's own library, finds what it expects."""
    function, shapes, dynamic = ONE[name]
    args = [torch.empty(s) for s in shapes]
    if name == "masked":
        args[-1] = torch.ones(shapes[-1], dtype=torch.bool)
    target = "sm_{}{}".format(*torch.cuda.get_device_capability())
    options: Any = {"targets": [target], "dynamic": dynamic, "fuse": "always", "format": "c"}
    folder = fusecade.export(function, args, tmp_path / "c", **options).path
    library = ctypes.util.find_library("cuda")
    link = ["-lcuda"] if library is None else [f"-l:{library}"]
    sources = [str(p) for p in sorted(folder.glob("*.c"))]
    line = [compiler(), "-std=c99", *STRICT, *headers("cuda"), *sources, "-o", str(tmp_path / "example")]
    subprocess.run([*line, *link, "-lpthread", "-lm"], check=True)
    done = subprocess.run([tmp_path / "example"], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


# --- views --------------------------------------------------------------------------------------------------------------

END = 2**63 - 1  # how PyTorch writes a slice without an end
X, SAMPLES = Layout(("n", 6, 8), (48, 8, 1), "f32"), [(10,), (7,), (2,)]


def viewed(operator: str, *args: Any, gives: Sequence[tuple[Any, Any]]) -> tuple[int | str, ...]:
    layouts = tuple(Layout(tuple(shape), tuple(strides), "f32") for shape, strides in gives)
    step = Step(layouts, operator=operator, args=({"value": 0}, *args), listed=len(layouts) > 1)
    assert views.is_view(step)
    return views.view_of(step, [X], ("n",), SAMPLES).offsets


@pytest.mark.parametrize(
    ("operator", "args", "gives", "offsets"),
    [
        ("aten.view.default", [[{"size": "n * 6"}, 8]], [(["n * 6", 8], [8, 1])], (0,)),
        ("aten.permute.default", [[2, 0, 1]], [([8, "n", 6], [1, 48, 8])], (0,)),
        ("aten.unsqueeze.default", [1], [(["n", 1, 6, 8], [48, 48, 8, 1])], (0,)),
        ("aten.expand.default", [[2, {"size": "n"}, 6, 8]], [([2, "n", 6, 8], [0, 48, 8, 1])], (0,)),
        ("aten.select.int", [1, 4], [(["n", 8], [48, 1])], (32,)),
        ("aten.select.int", [-1, -2], [(["n", 6], [48, 8])], (6,)),
        ("aten.select.int", [0, -1], [([6, 8], [8, 1])], {10: 432, 2: 48}),
        ("aten.slice.Tensor", [1, 2, END], [(["n", 4, 8], [48, 8, 1])], (16,)),
        ("aten.slice.Tensor", [1, -2, END], [(["n", 2, 8], [48, 8, 1])], (32,)),
        ("aten.slice.Tensor", [2, 1, 8, 3], [(["n", 6, 3], [48, 8, 3])], (1,)),
        ("aten.slice.Tensor", [0, {"size": "n // 2"}, END], [(["n - n // 2", 6, 8], [48, 8, 1])], {10: 240, 7: 144}),
        ("aten.narrow.default", [1, 3, 2], [(["n", 2, 8], [48, 8, 1])], (24,)),
        ("aten.split.Tensor", [4, 1], [(["n", 4, 8], [48, 8, 1]), (["n", 2, 8], [48, 8, 1])], (0, 32)),
        ("aten.unbind.int", [2], [(["n", 6], [48, 8])] * 8, tuple(range(8))),
    ],
)  # fmt: skip
def test_where_a_view_begins(operator, args, gives, offsets):
    """PyTorch is asked each time; these are the numbers."""
    found = viewed(operator, *args, gives=gives)
    if isinstance(offsets, dict):
        of = expression(found[0], ("n",), "")
        assert {n: of((n,)) for n in offsets} == offsets
    else:
        assert found == offsets


@pytest.mark.parametrize(
    ("operator", "args", "gives", "words"),
    [
        ("aten.reshape.default", [[8, 48]], [([8, 48], [48, 1])], "it copies"),
        ("aten.clone.default", [], [(["n", 6, 8], [1, "n", "n * 6"])], "to other strides"),
        ("aten.select.int", [0, {"value": 3}], [([6, 8], [8, 1])], "a number that is computed"),
        ("aten.select.int", [7, 0], [([6, 8], [8, 1])], "dimension is not known"),
    ],
)
def test_what_is_no_view(operator, args, gives, words, monkeypatch):
    if operator == "aten.reshape.default":  # of what is turned
        monkeypatch.setitem(globals(), "X", Layout((6, 8, 8), (1, 48, 6), "f32"))
    with pytest.raises(views.NoView, match=words):
        viewed(operator, *args, gives=gives)


def test_a_wrong_layout_is_not_believed():
    with pytest.raises(InternalCompilerError, match="begins at 16 with strides"):
        viewed("aten.slice.Tensor", 1, 2, 6, gives=[(["n", 4, 8], [32, 8, 1])])


# --- arithmetic ---------------------------------------------------------------------------------------------------------


def test_arithmetic_is_python_s_or_says_that_it_does_not_fit(tmp_path: Path):
    """Random expressions over sizes of all magnitudes: the same number, or the flag; never a wrong one."""
    rng = random.Random(0)
    printer = Arithmetic({"n": "n", "m": "m"})
    cases = []
    while len(cases) < 400:
        text, sizes = random_expression(rng, 4), {v: random_size(rng) for v in "nm"}
        try:
            cases.append((text, printer.of(text), sizes, checked(text)))
        except InvalidPackage:  # a part without sizes that has no value, or a very large one
            continue
    lines = ['#include "fusecade-launch.h"', "int main(void) {"]
    for _, printed, sizes, _ in cases:
        values = "; ".join(f"volatile int64_t {v} = INT64_C({n})" for v, n in sizes.items())
        lines.append(f"{{ int bad = 0; {values}; int64_t got = {printed}; (void)n; (void)m;")
        lines.append('printf("%d %lld\\n", bad, (long long)got); }')
    (tmp_path / "t.c").write_text("\n".join([*lines, "return 0; }"]))
    runtime = Path(source.__file__).parent
    said = compiled_and_run(
        tmp_path / "t.c", "-fsanitize=undefined", "-fno-sanitize-recover", f"-I{runtime}", *headers("cuda")
    )
    fitted = 0
    for line, (text, _, sizes, evaluate) in zip(said.splitlines(), cases, strict=True):
        bad, got = map(int, line.split())
        right = evaluate(sizes)
        assert (bad == 1) if right is None else (bad == 0 and got == right), (text, sizes, line, right)
        fitted += right is not None
    assert 100 < fitted < 390


def random_expression(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(["n", "m", "n", "m", "1", "16", "64", str(rng.randrange(1, 1 << 33))])
    a, b = (random_expression(rng, depth - 1) for _ in range(2))
    form = rng.choice(
        [
            "({} + {})",
            "({} - {})",
            "({} * {})",
            "({} // {})",
            "({} % {})",
            "min({}, {})",
            "max({}, {})",
            "cdiv({}, {})",
            "-({})",
        ]
    )
    return form.format(a, b)


def random_size(rng: random.Random) -> int:
    return rng.choice([rng.randrange(2, 100), rng.randrange(2, 1 << 34), rng.randrange(1 << 60, 1 << 63)])


def checked(text: str):
    """Python's value with 64 bits for every part that has a size in it, and for the rest in the end; None beyond."""

    def value(node: ast.expr, sizes: dict[str, int]) -> int:
        constant = not any(isinstance(x, ast.Name) and x.id in sizes for x in ast.walk(node))
        parts = [
            value(x, sizes)
            for x in ast.iter_child_nodes(node)
            if isinstance(x, ast.expr) and x is not getattr(node, "func", 0)
        ]
        match node:
            case ast.Constant(value=int(n)):
                found = n
            case ast.Name(id=name):
                found = sizes[name]
            case ast.UnaryOp():
                found = -parts[0]
            case ast.BinOp(op=op):
                found = {"Add": int.__add__, "Sub": int.__sub__, "Mult": int.__mul__, "FloorDiv": int.__floordiv__,
                         "Mod": int.__mod__}[type(op).__name__](*parts)  # fmt: skip
            case ast.Call(func=ast.Name(id=name)):
                found = {"min": min, "max": max, "cdiv": lambda a, b: -(-a // b)}[name](*parts)
            case _:
                raise AssertionError(ast.dump(node))
        if not constant and not -(1 << 63) <= found < 1 << 63:
            raise OverflowError
        return found

    def evaluate(sizes: dict[str, int]) -> int | None:
        try:
            return value(ast.parse(text, mode="eval").body, sizes)
        except (OverflowError, ZeroDivisionError):
            return None

    return evaluate


def compiled_and_run(path: Path, *options: str) -> str:
    out = path.with_suffix(".out")
    done = subprocess.run(
        [compiler(), "-std=c99", *STRICT, *options, str(path), "-o", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[:3000]
    ran = subprocess.run([str(out)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr[:3000]
    return ran.stdout


# --- what Python does ---------------------------------------------------------------------------------------------------


def launched_by_python(
    built: Built, tensors: list[torch.Tensor], sizes: list[int], monkeypatch
) -> tuple[list[Any], list[Any]]:
    """The launches of `runtime/package` for the same call on the same driver, and its results."""
    monkeypatch.setattr(torch.accelerator, "device_index", lambda index: nullcontext())
    package, signature = built.package, built.package.signature
    target = package.targets[built.target]
    named = dict(zip(signature.sizes, sizes, strict=True))
    bucket = next((b for b in target.buckets if all(named[k] <= n for k, n in b.upto.items())), target.buckets[-1])
    driver = Driver(built.library, "hip" if built.kind == "hip" else "cu", built.kind)
    launches = {}
    for name in {s.kernel for s in bucket.steps if s.kernel is not None}:
        kernel = package.kernels[name]
        each = [
            Launcher(driver, b, package.data(b.member), k, stream_of=lambda device: STREAM)
            for b, k in zip(kernel.binaries, kernel.artifact.kernels, strict=True)
        ]
        launches[name] = (kernel.artifact, Stages(kernel.artifact, each) if kernel.artifact.stages else each[0])
    inputs = [c.layout for c in package.constants] + [x.layout for x in signature.leaves if isinstance(x, TensorLeaf)]
    constants = []
    for c in package.constants:
        data = bytearray(package.data(c.member))
        shape, strides = expression((c.layout.shape, c.layout.strides), (), "")(())
        flat = torch.frombuffer(data, dtype=torch.float32)
        constants.append(torch.empty_strided(shape, strides).copy_(flat.view(shape)))
    cpu = torch.device("cpu")
    results = Program(bucket, inputs, signature.sizes, launches, cpu)([*constants, *tensors], sizes)
    if built.error is not None:
        raise built.error
    return list(built.launches), results
