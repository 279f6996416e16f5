"""`fusecade tune` as scripts use it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from data.command_line import run
from data.tuned_program import SHAPES

from fusecade.commands import exits
from fusecade.commands import tune_views as views
from fusecade.commands.jobs import Job
from fusecade.commands.tune_cluster import _placed
from fusecade.errors import InvalidArgument

PROGRAM = f"{Path(__file__).parent.parent / 'data' / 'tuned_program.py'}:attend"
SHAPE = [word for shape in SHAPES for word in ("--shape", ",".join(map(str, shape)))]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FUSECADE_CACHE_URL", raising=False)
    return tmp_path / "cache"


def test_measure_then_explain_then_go_on(capsys, tmp_path: Path):
    given = ["tune", PROGRAM, *SHAPE, "--target", "cpu", "--sampler", "random", "--budget", "20"]
    status, out, _ = run(capsys, *given, "--trials", "2", "--json")
    assert status == exits.FINE
    (row,) = json.loads(out)["kernels"]
    assert row["kind"] == "measured" and row["trials"] == 2 and row["stopped"] == "trials"
    assert row["rank_correlation"] is None  # of two
    assert row["tuned_us"] > 0 and row["default_us"] >= row["tuned_us"] and row["predicted_us"] > 0
    status, out, _ = run(capsys, "explain", PROGRAM, *SHAPE, "--target", "cpu")
    assert status == exits.FINE and "parameters: tuned here" in out
    status, out, _ = run(capsys, *given, "--trials", "2", "--plot", str(tmp_path))
    assert status == exits.FINE and "k0: " in out and "(--resume searches further)" in out
    page = (tmp_path / "tuning.html").read_text()  # of a run in which nothing was searched
    assert page.count('aria-label="trials and the best so far"') == 1 and "<td>measured</td>" in page
    status, out, _ = run(capsys, "cache", "plot", str(tmp_path / "all.html"), "--json")
    assert (
        status == exits.FINE
        and json.loads(out)["kernels"] == 1
        and "predicted against" in (tmp_path / "all.html").read_text()
    )
    status, out, _ = run(capsys, "cache", "ls", "--json")
    assert status == exits.FINE and '"measured"' in out


def test_offline_needs_no_device(capsys):
    given = ["tune", PROGRAM, *SHAPE, "--target", "cpu", "--offline", "--trials", "3"]
    status, out, _ = run(capsys, *given)
    assert status == exits.FINE and "not measured" in out and "all trials spent" in out
    status, out, _ = run(capsys, *given[:-1], "5", "--resume", "--json")
    (row,) = json.loads(out)["kernels"]
    assert status == exits.FINE and row["trials"] == 5 and row["samples"] == {"predicted": 2}
    assert row["tuned_us"] is None and row["interval"] is None


def test_a_target_that_is_not_here(capsys):
    status, out, err = run(capsys, "tune", PROGRAM, *SHAPE, "--target", "gfx942")
    assert status == exits.USAGE and out == ""
    assert "gfx942 is not in this machine" in err and "--offline --target gfx942" in err


@pytest.mark.parametrize("wrong", [["--trials", "0"], ["--budget", "-1"], ["--sampler", "best"], ["--mode", "slow"]])
def test_wrong_arguments(capsys, wrong: list[str]):
    status, _, err = run(capsys, "tune", PROGRAM, *SHAPE, *wrong)
    assert status == exits.USAGE and wrong[0] in err


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_searched(capsys, tmp_path: Path):
    status, out, err = run(
        capsys, "tune", PROGRAM, *SHAPE, "--target", "cpu", "--plot", str(tmp_path / "no" / "a.html")
    )
    assert status == exits.USAGE and out == "" and "there is no folder" in err
    status, out, _ = run(capsys, "cache", "plot", str(tmp_path / "a.html"))
    assert status == exits.INCOMPLETE and "nothing is known" in out and not (tmp_path / "a.html").exists()


def test_a_program_without_kernels(capsys, tmp_path: Path):
    (tmp_path / "none.py").write_text("def same(x):\n    return x\n")
    status, out, _ = run(capsys, "tune", f"{tmp_path / 'none.py'}:same", "--shape", "4", "--target", "cpu")
    assert status == exits.FINE and "there is no kernel to tune" in out


def test_several_sets_of_shapes_of_which_one_is_wrong(capsys, tmp_path: Path):
    cases = ["2,512,64 2,512,64 2,512,64", "2,512,64 2,64,512 2,512,64"]
    given = [word for case in cases for word in ("--case", case)]
    status, out, _ = run(capsys, "tune", PROGRAM, *given, "--target", "cpu", "--offline", "--trials", "2", "--json")
    data = json.loads(out)
    assert status == exits.INCOMPLETE
    assert [row["shapes"] for row in data["kernels"]] == [["2,512,64"] * 3]
    (failed,) = data["failed"]
    assert failed["shapes"][1] == "2,64,512" and failed["program"] == PROGRAM and failed["reason"]
    file = tmp_path / "programs.toml"
    file.write_text(f'[[program]]\nfunction = "{PROGRAM}"\ncases = ["{cases[0]}", "3,512,64 3,512,64 3,512,64"]\n')
    page = tmp_path / "a.html"
    status, out, _ = run(
        capsys, "tune", str(file), "--target", "cpu", "--offline", "--trials", "2", "--plot", str(page)
    )
    assert status == exits.FINE and f"{PROGRAM} 3,512,64 3,512,64 3,512,64 f32" in out and "predicted offline" in out
    assert page.read_text().count("<h2 id=") == 2


class TestCluster:
    given = ("tune", PROGRAM, *SHAPE, "--target", "cpu", "--cluster", "local")

    def test_without_ray(self, capsys, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        status, out, err = run(capsys, *self.given)
        assert (status, out) == (exits.USAGE, "")
        assert "Ray is needed for --cluster" in err and "pip install 'fusecade[cluster]'" in err

    def test_offline_needs_none(self, capsys):
        status, _, err = run(capsys, *self.given, "--offline")
        assert status == exits.USAGE and "leave out --cluster" in err

    def test_programs_as_the_machines_find_them(self, tmp_path: Path):
        file = tmp_path / "models" / "net.py"
        assert _placed(Job(f"{file}:f"), tmp_path).program == "models/net.py:f"
        assert _placed(Job(f"{file}:f"), None).program == f"{file}:f"
        assert _placed(Job("package.module:f"), tmp_path).program == "package.module:f"
        with pytest.raises(InvalidArgument, match="is not in"):
            _placed(Job(f"{file}:f"), tmp_path / "other")


def test_a_run_that_is_interrupted_keeps_what_it_has(capsys, monkeypatch: pytest.MonkeyPatch):
    from fusecade.assembly import tuning

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning._Candidates, "inspect", interrupted)
    status, out, _ = run(capsys, "tune", PROGRAM, *SHAPE, "--target", "cpu", "--offline")
    assert status == exits.INCOMPLETE and "interrupted" in out


def test_gains_and_times():
    row = {"kind": "measured", "is_default": False, "interval": [0.5, 0.8], "ratio": 0.625, "verdict": ""}
    assert views._gain(row) == "1.60× (1.25 to 2.00)"
    assert views._gain(row | {"is_default": True}) == "none"
    assert (views.time(12.34), views.time(1500.0), views.time(None)) == ("12.3 µs", "1.50 ms", "-")
