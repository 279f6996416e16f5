"""`fusecade compile --spec`: what a specification says, what is built of it and what is not built again."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from data.command_line import run

import fusecade
from fusecade import cli
from fusecade.commands import exits, library_worker
from fusecade.commands.library_spec import Entry, line_of, read_spec
from fusecade.errors import InvalidArgument, InvalidPackage, UnsupportedProgram

MODEL = dedent("""
    import os, signal, time
    import torch
    from helper import scaled

    def attend(q, k):
        return torch.softmax(scaled(q @ k.transpose(-1, -2)), dim=-1) @ k

    def norm(x):
        return x / x.square().mean(-1, keepdim=True).sqrt()

    def wrong(x):
        return x.no_such_thing()

    def dies(x):
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(x):
        time.sleep(1000)

    def hungry(x):
        held = []
        while True:
            held.append(bytearray(1 << 28))

    class Model(torch.nn.Linear):
        def __init__(self):
            super().__init__(6, 6)
""")
HELPER = "def scaled(x):\n    return x / 8\n"
SPEC = """
[defaults]
dtypes = ["f32"]
fuse = "always"

[[kernel]]
name = "attend"
function = "model.py:attend"
shapes = [
    "2,n=40,16 2,m=40,16",
    "2,1,16 2,m=40,16",
]
buckets = [{ n = 64, m = 64 }, { n = 512, m = 512 }]

[[kernel]]
name = "norm"
function = "model:norm"
shapes = ["5,6"]
dtypes = ["f32", "bf16"]
"""
FAULTS = """
[[kernel]]
name = "wrong"
function = "model.py:wrong"
shapes = ["5,6"]

[[kernel]]
name = "dies"
function = "model.py:dies"
shapes = ["5,6"]
"""
ATTEND, DECODE = "attend-f32-2xnx16_2xmx16.fcade", "attend-f32-2x1x16_2xmx16.fcade"
NORMS = ["norm-f32-5x6.fcade", "norm-bf16-5x6.fcade"]
ALL = [ATTEND, DECODE, *NORMS]


def write(folder: Path, spec: str = SPEC, model: str = MODEL, helper: str = HELPER) -> Path:
    for name, text in (("kernels.toml", spec), ("model.py", model), ("helper.py", helper)):
        (folder / name).write_text(text)
    return folder / "kernels.toml"


def attend(q, k):
    return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ k


class TestWhatASpecificationSays:
    def test_one_package_a_call_and_dtype(self, tmp_path: Path):
        first, second, *norms = read_spec(write(tmp_path))
        buckets = [{"m": 64, "n": 64}, {"m": 512, "n": 512}]
        shapes = ("2,n=40,16", "2,m=40,16")
        options = {"fuse": "always", "buckets": buckets}
        assert first == Entry("attend", ATTEND, "model.py:attend", shapes, "f32", ("cpu",), False, options)
        assert second.file == DECODE and second.options["buckets"] == [{"m": 64}, {"m": 512}]
        assert [(e.file, e.dtypes) for e in norms] == [(NORMS[0], ["f32"]), (NORMS[1], ["bf16"])]
        assert Entry.from_json(json.loads(json.dumps(first.to_json()))) == first

    def test_names_without_dynamic_sizes(self, tmp_path: Path):
        text = '[[kernel]]\nname = "a"\nfunction = "m:f"\nshapes = [["n=8,m=9", "i64:n=8", ""]]\ndynamic = ["m"]\n'
        (entry,) = read_spec(write(tmp_path, text))
        assert entry.shapes == ("8,m=9", "i64:8", "") and entry.file == "a-f32-8xm_i64.8_number.fcade"
        assert entry.dtypes == ["f32", "i64", "f32"]

    def test_a_long_name_is_cut(self, tmp_path: Path):
        calls = [" ".join(["100,200,300"] * 9 + [last]) for last in ("1", "2")]
        text = f'[[kernel]]\nname = "a"\nfunction = "m:f"\nshapes = {json.dumps(calls)}\n'
        one, other = (e.file for e in read_spec(write(tmp_path, text)))
        assert one != other and len(one) < 120 and one[:80] == other[:80]

    @pytest.mark.parametrize(
        ("before", "after", "words"),
        [
            ("[defaults]", "[default]", "line 2: a table is 'default', which is not one of: [defaults], [[kernel]]"),
            ('fuse = "always"', 'fuse = "no"', "line 4: [defaults]: fuse: it is 'no', which is not one of: by_cost, always"),
            ('["f32", "bf16"]', '["f32",\n "bf61"]', "line 19: [[kernel]] 2 (norm): dtypes: dtype is 'bf61'"),
            ("buckets =", "bucket =", "line 13: [[kernel]] 1 (attend): a key is 'bucket', which is not one of: name, function"),
            ("n = 64", "z = 64", "line 13: [[kernel]] 1 (attend): buckets: a named size is 'z', which is not one of: m, n"),
            ("n = 512", "n = 12", "line 13: [[kernel]] 1 (attend): buckets: the bucket {'m': 512, 'n': 12} does not cover"),
            ("m = 512", "m = 1", "line 13: [[kernel]] 1 (attend): buckets has to be a list of tables of sizes of 2"),
            ('"2,1,16 2', '"2,a,16 2', "line 9: [[kernel]] 1 (attend): shapes: 'a' in the shape '2,a,16' is not a size"),
            ('"model:norm"', '"norm"', "line 17: [[kernel]] 2 (norm): function has to name a file or a module"),
            ('name = "norm"', "", "line 15: [[kernel]] 2 has no name"),
            ('name = "norm"', 'name = "a/b"', "line 16: [[kernel]] 2 (a/b): name has to be a text of letters, digits"),
            ('shapes = ["5,6"]', 'shapes = "5,6"', "line 18: [[kernel]] 2 (norm): shapes has to be a list with one text"),
            ('["5,6"]', '["5,6", "5,6"]', "line 18: [[kernel]] 2 (norm): shapes makes norm-f32-5x6.fcade, and so does 'norm'"),
            ("dtypes = [", "dynamic = ['n']\ndtypes = [", "a named size is 'n'"),
            ("[defaults]", "[defaults]\ntargets = ['sm_91']", "line 3: [defaults]: targets: target is 'sm_91'"),
            ("[defaults]", "[defaults]\nkeep = ['sass']", "line 3: [defaults]: keep: keep is 'sass', which is not one of"),
            ("[defaults]", "[defaults]\nfactory = 1", "line 3: [defaults]: factory has to be true or false, and is 1"),
            ("[defaults]", "[defaults]\nparameters = {num_warp = 1}", "line 3: [defaults]: parameters: a launch parameter"),
            ("[defaults]", "[defaults", "is no TOML: "),
        ],
    )  # fmt: skip
    def test_a_mistake_is_said_with_its_place(self, tmp_path: Path, before: str, after: str, words: str):
        assert before in SPEC
        with pytest.raises(InvalidArgument) as raised:
            read_spec(write(tmp_path, SPEC.replace(before, after)))
        assert words in str(raised.value)

    def test_the_line_of_a_statement(self):
        text = 'a = """\nb = 1\n"""\n\n# more\nb = [\n  2,\n]\n'
        assert line_of(text, lambda data: "a" in data) == 1
        assert line_of(text, lambda data: "b" in data) == 6
        assert line_of(text, lambda data: "c" in data) is None


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, dict[str, Any]]:
    """A library of four packages, and two entries that fail: the folder, the exit status, what was said as JSON."""
    folder = tmp_path_factory.mktemp("library")
    spec, out = write(folder, SPEC + FAULTS), folder / "out"
    command = [sys.executable, "-m", "fusecade", "compile", "--spec", spec, "-o", out, "--json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr
    assert f"{ATTEND}: built (new)" in done.stderr and "wrong-f32-5x6.fcade: failed: " in done.stderr
    return out, done.returncode, json.loads(done.stdout)


class TestBuilding:
    def test_what_fails_takes_nothing_along(self, built):
        out, status, said = built
        states = {p["package"]: p["state"] for p in said["packages"]}
        failed = ["wrong-f32-5x6.fcade", "dies-f32-5x6.fcade"]
        assert status == exits.INCOMPLETE and states == dict.fromkeys(ALL, "built") | dict.fromkeys(failed, "failed")
        assert sorted(p.name for p in out.iterdir()) == sorted([*ALL, "build.json", "library.json"])
        wrong, dies = (p for p in said["packages"] if p["state"] == "failed")
        assert "has no attribute 'no_such_thing'" in wrong["failed"] and "model.py" in wrong["failed"] and wrong["next"]
        assert "signal 9" in dies["failed"] and "try it alone" in dies["next"]

    def test_a_package_is_what_export_writes(self, built, tmp_path: Path, monkeypatch):
        out = built[0]
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "helper", raising=False)
        x = torch.empty(5, 6, device="meta")
        norm = runpy.run_path(str(write(tmp_path).with_name("model.py")))["norm"]
        fusecade.export(norm, (x,), tmp_path / "norm.fcade", fuse="always")
        del sys.modules["helper"]
        assert (tmp_path / "norm.fcade").read_bytes() == (out / NORMS[0]).read_bytes()

    def test_inspect_shows_it(self, built, capsys, monkeypatch):
        out = built[0]
        monkeypatch.setenv("COLUMNS", "200")
        status, said, _ = run(capsys, "inspect", out)
        digest = fusecade.load(out / ATTEND).digest
        assert status == exits.FINE and "2 functions in 4 packages" in said
        for words in ("f32[2,n=40,16] f32[2,m=40,16]", "m=64, n=64; m=512, n=512", digest[:12], *ALL):
            assert words in said
        status, said, _ = run(capsys, "inspect", out / "library.json", "--json")
        assert status == exits.FINE and json.loads(said)["packages"][0]["digest"] == digest
        status, _, said = run(capsys, "inspect", out, "--source")
        assert status == cli.USAGE and "are for one package" in said

    @pytest.fixture
    def asked(self, built, tmp_path: Path):
        """Asks what there is to do for the first package of the library, after some changes."""
        out = built[0]
        known = json.loads((out / "build.json").read_text())["packages"][ATTEND]

        def ask(*, before: dict[str, Any] | None = None, package: Path = out / ATTEND, **files: str) -> dict[str, Any]:
            spec = write(tmp_path, **files)
            request = {
                "entry": read_spec(spec)[0].to_json(), "folder": str(tmp_path), "package": str(package),
                "before": known if before is None else before, "out": None,
            }  # fmt: skip
            path, modules = [*sys.path], {*sys.modules}
            try:
                return library_worker.answer(request)
            finally:
                sys.path[:] = path
                for name in {*sys.modules} - modules:
                    if name in ("model", "helper"):
                        del sys.modules[name]

        return ask

    def test_what_has_not_changed_is_kept(self, asked):
        assert asked()["state"] == "kept"
        assert asked(model=f"# moved\n\n\n{MODEL}\ndef unused(): pass\n")["state"] == "kept"

    @pytest.mark.parametrize(
        ("change", "reasons"),
        [
            ({"helper": HELPER.replace("8", "9")}, ["function"]),  # what it calls, in another file
            ({"model": MODEL.replace("attend(q, k)", "attend(q, k, more=None)")}, ["function"]),
            ({"spec": SPEC.replace("64 }", "128 }")}, ["options"]),
            ({"spec": SPEC.replace("2,n=40,16", "2,n=80,16")}, ["function"]),  # likely sizes steer what is chosen
            ({"spec": SPEC.replace('"always"', '"by_cost"')}, ["options"]),
        ],
    )
    def test_what_has_changed_is_built(self, asked, change, reasons):
        found = asked(**change)
        assert found["state"] == "due" and found["reasons"] == reasons

    def test_so_are_a_file_that_was_changed_and_other_configurations(self, asked, built, tmp_path: Path):
        known = json.loads((built[0] / "build.json").read_text())["packages"][ATTEND]
        assert asked(package=tmp_path / "none.fcade")["reasons"] == ["new"]
        (tmp_path / "damaged.fcade").write_bytes((built[0] / ATTEND).read_bytes()[:-9])
        assert asked(package=tmp_path / "damaged.fcade")["reasons"] == ["the file"]
        assert asked(package=built[0] / DECODE)["reasons"] == ["the file"]
        tuned = {"cpu": [{**known["tuned"]["cpu"][0], "found": "what was measured then"}]}
        assert asked(before=known | {"tuned": tuned})["reasons"] == ["tuning"]
        versions = known["inputs"] | {"versions": ""}
        assert asked(before=known | {"inputs": versions})["reasons"] == ["versions"]


class TestLoading:
    def test_arguments_choose_the_package(self, built):
        library = fusecade.load_library(built[0])
        assert [*library] == ["attend", "norm"] and len(library) == 2 and "norm" in library
        torch.manual_seed(0)
        for n in (1, 7, 40, 600):
            q, k = torch.randn(2, n, 16), torch.randn(2, 33, 16)
            torch.testing.assert_close(library["attend"](q, k), attend(q, k), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(library["attend"](q, k=k), attend(q, k), rtol=1e-4, atol=1e-5)
            chosen = library["attend"].package_for(q, k)
            assert Path(chosen.path).name == (DECODE if n == 1 else ATTEND)
            assert library["attend"].package_for(q, k) is chosen
        x = torch.randn(5, 6, dtype=torch.bfloat16)
        assert Path(library["norm"].package_for(x).path).name == NORMS[1] and library["norm"](x).dtype == x.dtype

    def test_what_no_package_takes_is_refused(self, built):
        library = fusecade.load_library(built[0] / "library.json")
        with pytest.raises(UnsupportedProgram, match=r"no package for these arguments; it has f32\[5,6\]; bf16\[5,6\]"):
            library["norm"](torch.randn(5, 7))
        with pytest.raises(UnsupportedProgram, match="no package for these arguments"):
            library["norm"](3.0)
        with pytest.raises(InvalidArgument, match=r"a function of the library .* is 'norms'"):
            library["norms"]

    def test_a_package_that_was_exchanged(self, built, capsys, tmp_path: Path):
        for file in built[0].iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / NORMS[0]).write_bytes((tmp_path / NORMS[1]).read_bytes())
        with pytest.raises(InvalidPackage, match="was asked for"):
            fusecade.load_library(tmp_path)["norm"](torch.randn(5, 6))
        status, said, _ = run(capsys, "inspect", tmp_path)
        assert status == exits.INCOMPLETE and f"{NORMS[0]} is not what the index says" in said

    def test_the_digest_of_the_index(self, built):
        digest = fusecade.load_library(built[0]).digest
        assert fusecade.load_library(built[0], digest=digest)
        with pytest.raises(InvalidPackage, match="was asked for"):
            fusecade.load_library(built[0], digest="0" * 64)

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (lambda d: d["packages"][0].update(package="../x.fcade"), "is no name of a file in the same folder"),
            (lambda d: d["packages"][0].update(package="/x.fcade"), "is no name of a file in the same folder"),
            (lambda d: d["packages"][0].update(dtypes=[]), "another number of arguments"),
            (lambda d: d["packages"][0].update(more=1), "a field 'more'"),
            (lambda d: d["packages"].append(d["packages"][0]), "names a package twice"),
            (lambda d: d.update(schema=2), "no index of a library that this version knows"),
            (lambda d: d["packages"][0].update(buckets=[{"n": "x"}]), "no table of sizes"),
        ],
    )
    def test_an_index_is_checked(self, built, tmp_path: Path, edit, words):
        data = json.loads((built[0] / "library.json").read_text())
        edit(data)
        (tmp_path / "library.json").write_text(json.dumps(data))
        with pytest.raises(InvalidPackage, match=words):
            fusecade.load_library(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--spec", "k.toml", "--target", "cpu"], "k.toml says what --target says"),
        (["--spec", "k.toml", "--format", "c"], "k.toml says what --format says"),
        (["m.py:f", "--spec", "k.toml"], "says what MODULE:FUNCTION says"),
        (["--spec", "none.toml"], "none.toml cannot be read"),
        (["--spec", "none.toml", "--jobs", "0"], "have to be more than 0"),
        (["m.py:f", "-o", "x", "--prune"], "--prune is for libraries"),
        (["m.py:f"], "there is no -o"),
        (["-o", "x"], "there is no MODULE:FUNCTION"),
    ],
)
def test_options_that_do_not_go_together(capsys, arguments, words):
    status, _, said = run(capsys, "compile", *arguments)
    assert status == cli.USAGE and words in said


@pytest.mark.slow
class TestTheWholeCommand:
    @pytest.fixture
    def compiled(self, capsys, tmp_path: Path):
        def compiled(*options: object, spec: str = SPEC) -> tuple[int, dict[str, str], dict[str, Any]]:
            path = write(tmp_path, spec)
            status, said, _ = run(capsys, "compile", "--spec", path, "--json", *options)
            data = json.loads(said)
            return status, {p["package"]: p["state"] for p in data["packages"]}, data

        return compiled

    def test_from_nothing_to_pruned(self, compiled, tmp_path: Path):
        folder = tmp_path / "kernels"
        assert compiled("--check")[:2] == (exits.INCOMPLETE, dict.fromkeys(ALL, "due")) and not folder.exists()
        assert compiled("--dry-run")[0] == exits.FINE and not folder.exists()
        assert compiled("--jobs", 2)[:2] == (exits.FINE, dict.fromkeys(ALL, "built"))
        contents = {p.name: p.read_bytes() for p in folder.iterdir()}
        assert compiled("--jobs", 1)[:2] == (exits.FINE, dict.fromkeys(ALL, "kept"))
        assert compiled("--check")[0] == exits.FINE
        (folder / "library.json").write_text("{}")
        assert compiled("--check")[0] == exits.INCOMPLETE
        (folder / "build.json").unlink()
        assert compiled("--jobs", 1)[:2] == (exits.FINE, dict.fromkeys(ALL, "built"))
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == contents
        _status, states, said = compiled(spec=SPEC.replace('["f32", "bf16"]', '["bf16"]'))
        assert states[NORMS[1]] == "kept" and said["unnamed"] == [NORMS[0]] and (folder / NORMS[0]).exists()
        assert [p.package for p in fusecade.load_library(folder).packages] == [ATTEND, DECODE, NORMS[1]]
        (folder / "mine.fcade").write_bytes(b"")
        compiled("--prune", spec=SPEC.replace('["f32", "bf16"]', '["bf16"]'))
        assert not (folder / NORMS[0]).exists() and (folder / "mine.fcade").exists()

    def test_the_order_does_not_matter(self, compiled, tmp_path: Path):
        head, *kernels = SPEC.split("[[kernel]]")
        compiled("-o", tmp_path / "a", "--jobs", 1)
        compiled("-o", tmp_path / "b", "--jobs", 2, spec="[[kernel]]".join([head, *reversed(kernels)]))
        for name in ALL:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_weights_of_a_model_are_drawn_alike(self, compiled, tmp_path: Path):
        kernel = '[[kernel]]\nname = "{}"\nfunction = "model.py:Model"\nfactory = true\nshapes = ["4,6"]\n'
        compiled("-o", tmp_path / "a", spec=kernel.format("one") + kernel.format("two"))
        one, two = (fusecade.load(tmp_path / "a" / f"{name}-f32-4x6.fcade") for name in ("one", "two"))
        assert one.digest == two.digest
        _status, states, _ = compiled("-o", tmp_path / "a", spec=kernel.format("one") + kernel.format("two"))
        assert {*states.values()} == {"kept"}

    def test_what_hangs_and_what_fills_the_memory(self, compiled, monkeypatch):
        real = os.sysconf
        monkeypatch.setattr(os, "sysconf", lambda name: real(name) if name != "SC_PHYS_PAGES" else (4 << 30) // 4096)
        faults = FAULTS.replace("wrong", "hangs").replace("dies", "hungry")
        status, states, said = compiled("--timeout", 25, "--jobs", 1, spec=faults + SPEC)
        assert status == exits.INCOMPLETE
        assert states == dict.fromkeys(ALL, "built") | {
            "hangs-f32-5x6.fcade": "failed",
            "hungry-f32-5x6.fcade": "failed",
        }
        hangs, hungry = said["packages"][:2]
        assert "no answer within 25 s" in hangs["failed"] and "--timeout" in hangs["next"]
        assert "memory" in hungry["failed"].lower() and "--jobs" in hungry["next"]

    def test_what_failed_is_no_longer_in_the_index(self, compiled, tmp_path: Path):
        compiled()
        status, states, _ = compiled(spec=SPEC.replace("model:norm", "model:wrong"))
        assert status == exits.INCOMPLETE and states[NORMS[0]] == "failed" and states[ATTEND] == "kept"
        assert [*fusecade.load_library(tmp_path / "kernels")] == ["attend"]
        assert {*compiled()[1].values()} == {"kept"}

    def test_an_interrupt_ends_it_cleanly(self, tmp_path: Path):
        faults = FAULTS.replace("wrong", "hangs").replace("dies", "hangs2").replace("py:hangs2", "py:hangs")
        spec, out = write(tmp_path, SPEC + faults), tmp_path / "out"
        out.mkdir()
        listed = {"package": "hangs-f32-5x6.fcade"}  # before, and not known to be wrong by now
        (out / "library.json").write_text(json.dumps({"packages": [listed]}))
        command = [sys.executable, "-m", "fusecade", "compile", "--spec", spec, "-o", out, "--json"]
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 120
        while not all((out / name).exists() for name in ALL) and time.monotonic() < end:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
        assert process.returncode == exits.INCOMPLETE and "interrupted" in errors and "Traceback" not in errors
        states = {p["package"]: p["state"] for p in json.loads(said)["packages"]}
        assert states == dict.fromkeys(ALL, "built") | {
            "hangs-f32-5x6.fcade": "interrupted", "hangs2-f32-5x6.fcade": "interrupted",
        }  # fmt: skip
        assert json.loads((out / "library.json").read_text())["packages"][-1] == listed
        assert not [*out.glob(".building-*")]

    def test_two_at_a_time_in_one_folder(self, compiled, tmp_path: Path):
        import fcntl

        (tmp_path / "kernels").mkdir()
        handle = os.open(tmp_path / "kernels", os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            assert cli.main(["compile", "--spec", str(write(tmp_path))]) == cli.USAGE
        finally:
            os.close(handle)


@pytest.mark.slow
def test_the_example(capsys, tmp_path: Path):
    spec = Path(__file__).parents[2] / "examples" / "kernels.toml"
    status, said, _ = run(capsys, "compile", "--spec", spec, "-o", tmp_path / "lib", "--json")
    assert status == exits.FINE, said
    library = fusecade.load_library(tmp_path / "lib")
    x, c = torch.randn(300, 64), torch.randn(256, 64)
    assert (library["nearest-centre"](x, c) == torch.cdist(x, c).argmin(1)).float().mean() > 0.99
