"""What Inductor writes for graphs with launches: our source is in it, launched with the right arguments, and it is right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreted_wrapper import Launch, load
from visible_programs import PROGRAMS

QUICK = ["dynamic", "shifted", "long_row"]
REST = ["static", "packed", "turned", "wide", "twice"]


def about(written: Path, name: str) -> dict[str, Any]:
    return json.loads((written / f"{name}.json").read_text())


def body(source: str) -> str:
    """A kernel's own function, as text."""
    return source[source.rindex("@triton.jit") :].strip()


def check(folder: Path, name: str, tmp_path: Path) -> None:
    """The code computes what the program computes, by the launches that were planned, and has each kernel's source once."""
    program, planned = PROGRAMS[name], about(folder, name)
    code = (folder / f"{name}.py").read_text()
    assert (planned["hidden"], planned["fallbacks"]) == ([], [])
    assert "fusecade" not in re.sub(r"# .*", "", code)
    for source in {kernel["source"] for kernel in planned["kernels"]}:
        assert code.count(body(source)) == 1
    call, launches = load(code, tmp_path)
    torch.manual_seed(0)
    for shapes in (program.shapes, *program.others):
        tensors = [torch.randn(shape) for shape in shapes]
        wanted = program.fn(*(x.double() for x in tensors))
        eager = (program.fn(*tensors).double() - wanted).abs().max().item()
        launches.clear()
        (found,) = call(list(tensors))
        assert (found.double() - wanted).abs().max().item() <= 4 * eager + 1e-6
        ours = [launch for launch in launches if launch.user]
        assert [launch.kernel for launch in ours] == [kernel["name"] for kernel in planned["kernels"]]
        assert len(launches) > len(ours)


@pytest.mark.parametrize("name", QUICK)
def test_it_computes_what_the_program_computes(name: str, written: Path, tmp_path: Path):
    check(written, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_so_does_that_of_other_programs(name: str, written_too: Path, tmp_path: Path):
    check(written_too, name, tmp_path)


def launches_of(written: Path, name: str, tmp_path: Path, *tensors: torch.Tensor) -> list[Launch]:
    call, launches = load((written / f"{name}.py").read_text(), tmp_path)
    call([x.clone() for x in tensors])
    return [launch for launch in launches if launch.user]


def test_the_grid_and_the_sizes_are_those_of_the_call(written: Path, tmp_path: Path):
    [kernel] = about(written, "dynamic")["kernels"]
    for n, m in ((48, 40), (5, 100)):
        q, k, v = (torch.randn(2, length, 16) for length in (n, m, m))
        [launch] = launches_of(written, "dynamic", tmp_path, q, k, v)
        sizes = dict(zip(kernel["sizes"], launch.arguments[4:], strict=True))
        assert sorted(sizes.values()) == sorted((n, m))
        assert launch.grid == (eval(kernel["launch"]["grid"], sizes), 1, 1)
        out = launch.arguments[3]
        assert (out.shape, out.stride()) == ((2, n, 16), (16 * n, 16, 1))


def test_strides_and_alignment_are_those_that_the_kernel_was_printed_for(written: Path, tmp_path: Path):
    [kernel] = about(written, "shifted")["kernels"]
    [launch] = launches_of(written, "shifted", tmp_path, *(torch.randn(shape) for shape in PROGRAMS["shifted"].shapes))
    q = launch.arguments[0]
    assert q.storage_offset() == 3
    for tensor, layout in zip(launch.arguments, kernel["inputs"] + kernel["outputs"], strict=True):
        assert list(tensor.stride()) == layout["strides"]
    # The interpreter's launcher has checked those that are said to be aligned.
    assert launch.divisible == {1, 2, 3}


def test_memory_between_the_stages_is_inductors(written: Path, tmp_path: Path):
    first, second = launches_of(written, "long_row", tmp_path, torch.randn(2, 1 << 16))
    between = {x.data_ptr() for x in first.arguments[1:]}
    assert between == {x.data_ptr() for x in second.arguments[:-1]}


@pytest.mark.slow
def test_in_a_wrapper_of_cpp(written_too: Path):
    code = (written_too / "dynamic_cpp.cpp").read_text()
    [kernel] = about(written_too, "dynamic_cpp")["kernels"]
    assert all(line.strip() in code for line in body(kernel["source"]).splitlines())
    assert re.search(r"call_k0_0\(arg0_1, arg1_1, arg2_1, buf0, s\d+, s\d+, .*div_floor_integer.*, 1L, 1L, ", code)
    assert "fusecade" not in re.sub(r"# .*", "", code)


@pytest.mark.slow
def test_ahead_of_time(written_too: Path):
    code, given = (written_too / "ahead.cpp").read_text(), about(written_too, "ahead")
    assert re.search(r"call_k0_0\(arg0_1, arg1_1, arg2_1, buf0, s\d+, s\d+, .*div_floor_integer.*, 1L, 1L, ", code)
    assert "triton_kernel_wrapper_functional" in given["graph"]
    assert json.loads(given["metadata"]["fusecade"])["kernels"] == {}
    assert "fusecade::call" not in code
