"""`fusecade cache` and `fusecade completion`, as scripts use them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from data.tuning import configuration, decision, key, known, sample, some_contents

from fusecade import cli
from fusecade.autotune.cache import open_cache, read_file, to_text
from fusecade.autotune.cache.inspect import read_all, take_in
from fusecade.commands import exits

VERBS = ["path", "ls", "show", "stats", "export", "import", "merge", "diff", "prune", "verify", "rm"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "a cache?"))
    monkeypatch.delenv("FUSECADE_CACHE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "a cache?" / "tuning"


@pytest.fixture
def filled(folder: Path) -> Path:
    with open_cache(folder) as cache:
        take_in(cache, some_contents())
    return folder / "tuning.sqlite"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            status = cli.main(["cache", *map(str, arguments)])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_with_nothing_yet(run, folder: Path):
    assert run("path") == (exits.FINE, f"{folder / 'tuning.sqlite'}\n", "")
    for verb in ("ls", "stats", "export", "verify"):
        assert run(verb)[0] == exits.FINE
    assert run("show")[0] == exits.INCOMPLETE
    assert not folder.exists(), "looking makes nothing"


def test_ls_show_and_stats(run, filled):
    _, out, _ = run("ls")
    assert "aaaaaaaaaaaa" in out and "walk" in out and "2.40x" in out
    status, out, _ = run("show", "--kernel", "aa")
    assert status == exits.FINE
    assert "a" * 64 in out and "walk 0, BI = 16, BJ = 16 (measured), 5 us, 2.40x" in out and "driver 570.1" in out
    _, out, _ = run("stats")
    assert "30 measured" in out and "sm_90" in out


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ([], 6), (["--target", "sm_90"], 6), (["--target", "sm_80"], 0), (["--kernel", "aa"], 1), (["--kernel", "xyz"], 0),
        (["--older", "1d"], 6), (["--newer", "1d"], 0), (["--older", "1d", "--kernel", "bb"], 1),
    ],
)  # fmt: skip
def test_filters(run, filled, arguments, count):
    for verb in ("ls", "show"):
        _, out, _ = run(verb, *arguments, "--json")
        assert len(json.loads(out)) == count
    assert json.loads(run("stats", *arguments, "--json")[1])["keys"] == count
    assert run("show", *arguments)[0] == (exits.FINE if count else exits.INCOMPLETE)


@pytest.mark.parametrize("age", ["soon", "3", "-1d", "3y", "d"])
def test_ages(run, age):
    status, _, err = run("ls", f"--older={age}")
    assert status == exits.USAGE
    assert "is no age" in err


def test_out_and_in(run, filled, tmp_path: Path):
    status, out, _ = run("export")
    assert (status, out) == (exits.FINE, to_text(some_contents()))
    assert run("export", "-o", tmp_path / "x.jsonl")[0] == exits.FINE
    assert (tmp_path / "x.jsonl").read_text() == out
    assert run("export", "--winners", "--kernel", "aa", "-o", tmp_path / "w.jsonl")[0] == exits.FINE
    assert read_file(tmp_path / "w.jsonl").count == (1, 1, 0)
    shutil.rmtree(filled.parent)
    status, said, _ = run("import", tmp_path / "x.jsonl", "--dry-run")
    assert status == exits.FINE and "nothing is written" in said and not filled.exists()
    status, said, _ = run("import", tmp_path / "x.jsonl", tmp_path / "w.jsonl", "--json")
    assert [(d["keys"], d["decisions"], d["samples"]) for d in json.loads(said)] == [(6, 6, 30), (0, 0, 0)]
    assert run("export")[1] == out


def test_conflicts_are_told(run, filled, tmp_path: Path):
    other = some_contents(1, 1)
    other.add_decision(decision(key(64, program="aa"), 9, us=3.0))
    (tmp_path / "o.jsonl").write_text(to_text(other))
    status, out, _ = run("import", tmp_path / "o.jsonl")
    assert status == exits.FINE
    assert "1 conflicts, 1 of them changed the decision" in out
    assert "taken from there: 4.00 times faster than the default in its paired run, before 2.40" in " ".join(
        out.split()
    )


@pytest.mark.parametrize(
    "change", [lambda t: t.replace("walk", "walc", 1), lambda t: t[:-40], lambda t: "", lambda t: "é"]
)
def test_an_export_that_was_edited_is_refused(run, filled, tmp_path: Path, change):
    (tmp_path / "x.jsonl").write_text(change(to_text(some_contents())), encoding="utf-8")
    for verb in (["import"], ["merge"], ["diff"], ["merge", "-o", tmp_path / "y.jsonl"]):
        status, _, err = run(*verb, tmp_path / "x.jsonl")
        assert status == exits.USAGE
        assert "x.jsonl" in err and err.splitlines()[-1].startswith("next: ")
    assert not (tmp_path / "y.jsonl").exists()


def test_merging(run, filled, tmp_path: Path):
    """An export, a cache of somebody else, and this one."""
    (tmp_path / "x.jsonl").write_text(to_text(some_contents(2, 2)))
    with open_cache(tmp_path / "theirs") as theirs:
        theirs.record(key(8), sample(3))
    (tmp_path / "theirs").chmod(0o755)  # to be read it need not be private
    status, out, _ = run(
        "merge", tmp_path / "x.jsonl", tmp_path / "theirs" / "tuning.sqlite", "-o", tmp_path / "m.jsonl"
    )
    assert status == exits.FINE and "3 keys, 2 decisions, 5 samples written" in out
    assert run("merge", tmp_path / "theirs" / "tuning.sqlite")[0] == exits.FINE
    assert json.loads(run("stats", "--json")[1])["keys"] == 7
    assert run("diff", tmp_path / "theirs" / "tuning.sqlite", tmp_path / "m.jsonl")[0] == exits.INCOMPLETE
    with open_cache(filled.parent) as cache:
        assert cache.samples(key(8)) == [sample(3)]


def test_differences(run, filled, tmp_path: Path):
    (tmp_path / "x.jsonl").write_text(to_text(some_contents()))
    assert run("diff", tmp_path / "x.jsonl")[:2] == (exits.FINE, "no difference\n")
    with open_cache(filled.parent) as cache:
        cache.decide(key(64, program="aa"), decision(key(64, program="aa"), 7))
        cache.record(key(4), sample(1))
    status, out, _ = run("diff", tmp_path / "x.jsonl")
    assert status == exits.INCOMPLETE
    assert out.startswith("+ abababababab sm_90 i=4 j=64") and "! aaaaaaaaaaaa sm_90 i=64 j=64" in out
    assert json.loads(run("diff", tmp_path / "x.jsonl", "--json")[1])["samples_only_b"] == 1


def test_rm(run, filled):
    status, _, err = run("rm")
    assert status == exits.USAGE and "without a filter everything would be deleted" in err
    assert json.loads(run("rm", "--kernel", "aa", "--dry-run", "--json")[1])["keys"] == 1
    assert run("rm", "--kernel", "aa")[0] == exits.FINE
    assert run("rm", "--kernel", "aa")[0] == exits.INCOMPLETE, "there is none any more"
    assert json.loads(run("stats", "--json")[1])["keys"] == 5


def test_verify_and_prune(run, filled):
    assert run("verify")[0] == exits.FINE
    with open_cache(filled.parent) as cache:
        cache.change(lambda run: run("UPDATE tuned_samples SET body = '{}' WHERE configuration = (SELECT min(configuration) FROM tuned_samples)"))  # fmt: skip  # noqa: E501
    status, out, _ = run("verify")
    assert status == exits.INCOMPLETE
    assert "damaged: tuned_samples" in out and "cache prune --invalid" in out
    assert len(json.loads(run("verify", "--json")[1])["damaged"]) == 6
    assert "6 damaged rows" in run("prune", "--invalid", "--dry-run")[1]
    assert run("verify")[0] == exits.INCOMPLETE
    assert json.loads(run("prune", "--invalid", "--json")[1])["damaged"] == 6
    assert run("verify")[0] == exits.FINE
    assert "deleted" in run("prune", "--older", "1d")[1]


def test_a_damaged_file_is_said(run, filled):
    blob = bytearray(filled.read_bytes())
    blob[4096 * 4 : 4096 * 6] = random.Random(3).randbytes(8192)
    filled.write_bytes(blob)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status, out, err = run("verify")
    assert status == exits.INCOMPLETE, err
    assert "lies aside as" in out
    assert run("verify")[0] == exits.FINE


def test_another_cache(run, filled, tmp_path: Path):
    with open_cache(tmp_path / "other % one?") as cache:
        cache.decide(key(), decision(key()))
    place = tmp_path / "other % one?" / "tuning.sqlite"
    assert len(json.loads(run("ls", "--cache", place, "--json")[1])) == 1
    assert run("path", "--cache", place)[1].strip() == str(place)
    status, _, err = run("ls", "--cache", tmp_path / "none" / "x.sqlite")
    assert status == exits.USAGE and "there is no" in err


def test_the_cache_of_a_url(run, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("FUSECADE_CACHE_URL", f"sqlite:///{tmp_path}/team/tuning.sqlite")
    with open_cache(tmp_path / "team") as cache:
        cache.decide(key(), decision(key()))
    assert len(json.loads(run("ls", "--json")[1])) == 1
    monkeypatch.setenv("FUSECADE_CACHE_URL", "postgresql://me:secret@127.0.0.1:1/tuning")
    assert "secret" not in "".join(map(str, run("path"))) + "".join(map(str, run("ls")))
    monkeypatch.setenv("FUSECADE_CACHE_URL", "mongodb://me:secret@there/tuning")
    status, out, err = run("ls")
    assert status == exits.USAGE and "secret" not in out + err


def test_a_folder_of_somebody_else(run, filled):
    filled.parent.chmod(0o777)
    for verb in (["ls"], ["import", filled], ["rm", "--kernel", "aa"]):
        status, _, err = run(*verb)
        assert status == exits.USAGE
        assert "nobody else can open" in err or "no export" in err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(run, verb):
    status, out, _ = run(verb, "--help")
    assert status == 0
    assert "--json" in out


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_scripts(self, capsys, shell):
        assert cli.main(["completion", shell]) == exits.FINE
        script = capsys.readouterr().out
        assert all(word in script for word in ["fusecade", "explain", "cache", "verify", "dry-run"])

    def test_bash_takes_it(self, capsys, tmp_path: Path):
        if not shutil.which("bash"):
            pytest.skip("no bash here")
        cli.main(["completion", "bash"])
        (tmp_path / "complete.sh").write_text(capsys.readouterr().out)
        asks = (
            "source ./complete.sh; COMP_WORDS=(fusecade cache ver); COMP_CWORD=2; _shtab_fusecade; echo ${COMPREPLY[@]}"
        )
        done = subprocess.run(["bash", "-c", asks], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.stdout.split() == ["verify"], done.stderr

    def test_another_shell(self, capsys):
        with pytest.raises(SystemExit):
            cli.main(["completion", "tcl"])
        assert "invalid choice" in capsys.readouterr().err


def test_nothing_of_the_compiler_is_imported(filled):
    code = """
import sys
from fusecade.cli import main
main(["cache", "ls"])
print(sorted({"torch", "xdsl", "sympy", "triton", "optuna", "sqlalchemy"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_the_tests_use_is_what_there_is(filled):
    with open_cache(filled.parent) as cache:
        assert read_all(cache).contents.count == (6, 6, 30)
        assert known(cache, key(64, program="aa")).configuration == configuration(0)
