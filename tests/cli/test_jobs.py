"""What a command line of `fusecade tune` asks for: programs, sets of shapes, targets, from words or from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusecade.cli import parser
from fusecade.commands.jobs import Job, jobs_of
from fusecade.errors import InvalidArgument

FILE = """
[[program]]
function = "models/net.py:attend"
cases = ["8,64 8,64", "n=16,64 i64:8"]
dtype = "float16"
parameters = { num_warps = 8, persistent = true }
targets = ["sm_90", "sm_80"]

[[program]]
function = "package.module:build"
factory = true
"""


def asked(*words: str) -> list[Job]:
    return jobs_of(parser().parse_args(["tune", *words]))


def test_shapes_are_one_case_and_cases_are_more():
    (one,) = asked("m.py:f", "--shape", "8,64", "--shape", "8", "--dtype", "f16", "--parameter", "num_warps=4")
    assert one.shapes == ("8,64", "8") and one.dtype == "f16" and dict(one.parameters) == {"num_warps": 4}
    assert [job.shapes for job in asked("m.py:f", "--shape", "8", "--case", "9", "--case", " 1,2  3 ")] == [
        ("8",), ("9",), ("1,2", "3"),
    ]  # fmt: skip
    assert [job.shapes for job in asked("m.py:f")] == [()]
    two = asked("m.py:f", "--case", "8", "--case", "9", "--target", "sm_90", "--target", "cpu")
    assert [(job.target, *job.shapes) for job in two] == [("sm_90", "8"), ("sm_90", "9"), ("cpu", "8"), ("cpu", "9")]


def test_how_to_search_goes_with_each():
    (job,) = asked("m.py:f", "--budget", "9", "--trials", "5", "--sampler", "random", "--seed", "3", "--resume")
    assert dict(job.search) == {
        "mode": "quick", "sampler": "random", "trials": 5, "seconds": 9.0, "seed": 3, "offline": False, "resume": True,
    }  # fmt: skip
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_a_file_of_programs(tmp_path: Path):
    path = tmp_path / "programs.toml"
    path.write_text(FILE)
    found = asked(str(path), "--trials", "7", "--target", "cpu")
    assert [(j.target, j.shapes) for j in found] == [
        ("sm_90", ("8,64", "8,64")), ("sm_90", ("n=16,64", "i64:8")), ("sm_80", ("8,64", "8,64")),
        ("sm_80", ("n=16,64", "i64:8")), ("cpu", ()),
    ]  # fmt: skip
    assert found[0].program == f"{tmp_path / 'models' / 'net.py'}:attend" and found[0].dtype == "f16"
    assert dict(found[0].parameters) == {"num_warps": 8, "persistent": True}
    assert found[-1].program == "package.module:build" and found[-1].factory and dict(found[-1].search)["trials"] == 7


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has nothing where"),
        ("program = 3", "has program where"),
        ("[[program]]\ncases = []", "program 1: it names no function"),
        ('[[program]]\nfunction = "m:f"\ncase = ["8"]', "'case', which is not one of"),
        ('[[program]]\nfunction = "m:f"\ncases = "8"', "cases = '8' is of another kind than list"),
        ('[[program]]\nfunction = "m:f"\ncases = [8]', "lists of texts"),
        ('[[program]]\nfunction = "m:f"\ncases = ["8,a"]', "program 1: 'a' in the shape '8,a' is not a size"),
        ('[[program]]\nfunction = "m:f"\ndtype = "f12"', "program 1: dtype is 'f12'"),
        ('[[program]]\nfunction = "m:f"\ntargets = ["sm_1"]', "program 1: target is 'sm_1'"),
        ('[[program]]\nfunction = "m:f"\nfuse = "no"', "fuse is 'no'"),
        ('[[program]]\nfunction = "m:f"\nparameters = {a = "b"}', "not all numbers"),
        ("[[program", "is no TOML"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, reason: str):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InvalidArgument) as raised:
        asked(str(tmp_path / "a.toml"))
    assert reason in str(raised.value)


def test_wrong_words(tmp_path: Path):
    with pytest.raises(InvalidArgument, match="'n' in the shape"):
        asked("m.py:f", "--case", "8,n")
    with pytest.raises(InvalidArgument, match="leave out --shape and --case"):
        asked("a.toml", "--case", "8")
    with pytest.raises(InvalidArgument, match=r"a\.toml cannot be read"):
        asked(str(tmp_path / "a.toml"))
