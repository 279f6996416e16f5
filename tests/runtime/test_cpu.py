"""The grid over threads: every program once, exceptions out, no trace left in torch's settings."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from fusecade.codegen.artifact import KernelArtifact
from fusecade.runtime import team
from fusecade.runtime.cpu import Launcher, run_grid


@pytest.fixture(params=["team", "workers"], autouse=True)
def threads_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test on torch's own threads, and on those that take their place where these cannot be had."""
    if request.param == "workers":
        monkeypatch.setattr(team, "available", lambda: False)
    elif not team.available():
        pytest.skip("torch has no OpenMP team here")
    return request.param


def recorder():
    seen: list[int] = []
    lock = threading.Lock()

    def program(start: int, stop: int) -> None:
        with lock:
            seen.extend(range(start, stop))

    return seen, program


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("programs", [0, 1, 2, 3, 7, 16, 100, 1001])
def test_every_program_runs_once(programs: int, threads: int):
    seen, program = recorder()
    run_grid(program, programs, threads)
    assert sorted(seen) == list(range(programs))


def test_a_small_grid_runs_on_the_calling_thread():
    where: list[int] = []
    run_grid(lambda start, stop: where.append(threading.get_ident()), 3, 2)
    assert where == [threading.get_ident()]


def test_threads_run_torch_with_one_thread_each_and_need_no_gradients(threads_of: str):
    found: list[tuple[bool, bool, bool]] = []

    def program(start: int, stop: int) -> None:
        alone = team.is_member() if threads_of == "team" else torch.get_num_threads() == 1
        found.append((alone, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))

    with torch.autocast("cpu"):
        run_grid(program, 64, 2)
    assert set(found) == {(True, False, False)}
    assert not team.is_member()


def test_several_threads_take_part(threads_of: str):
    where: set[int] = set()

    def program(start: int, stop: int) -> None:
        where.add(threading.get_ident())
        time.sleep(0.005)

    run_grid(program, 64, 2)
    assert len(where) == 2
    assert (threading.get_ident() in where) == (threads_of == "team")


@pytest.mark.parametrize(("priced_for", "alone"), [(0, False), (1, False), (2, True), (8, True)])
def test_cores_share_operations_where_that_was_priced_for_as_many(priced_for: int, alone: bool, monkeypatch):
    """More cores than the price knows of take programs of their own."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    where: list[int] = []

    def program(x: torch.Tensor, start: int, stop: int) -> None:
        where.append(threading.get_ident())
        time.sleep(0.002)

    launch = {"programs": "64", "shared_by": priced_for} if priced_for else {"programs": "64"}
    artifact = KernelArtifact("k", "torch", "cpu", "", "k_programs", (), (), (), {}, launch)
    for run in (lambda x: Launcher(program, artifact)([x], []), lambda x: Launcher(program, artifact).bound([])([x])):
        where.clear()
        run(torch.ones(1))
        assert (where == [threading.get_ident()]) == alone


def test_products_within_are_right():
    a, b = torch.randn(64, 40, 50), torch.randn(50, 30)
    out = torch.empty(64, 40, 30)
    run_grid(lambda start, stop: torch.matmul(a[start:stop], b, out=out[start:stop]), 64, 2)
    torch.testing.assert_close(out, a @ b)
    assert torch.get_num_threads() >= 1 and bool(torch.ones(1 << 20).sum() == 1 << 20)


def test_settings_of_other_threads_stay():
    before = torch.get_num_threads()
    run_grid(lambda start, stop: None, 64, 5)
    assert torch.get_num_threads() == before
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [before]


@pytest.mark.parametrize("programs", [1, 64])
def test_an_exception_comes_out(programs: int):
    def program(start: int, stop: int) -> None:
        raise ZeroDivisionError(f"at {start}")

    with pytest.raises(ZeroDivisionError, match="at "):
        run_grid(program, programs, 2)
    seen, works = recorder()
    run_grid(works, 64, 2)
    assert len(seen) == 64


def test_after_an_exception_the_rest_is_left():
    seen: list[int] = []

    def program(start: int, stop: int) -> None:
        seen.append(start)
        time.sleep(0.01)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_grid(program, 10_000, 2)
    assert len(seen) <= 2


def test_a_program_may_run_a_grid_itself():
    seen, inner = recorder()
    run_grid(lambda start, stop: [run_grid(inner, 10, 2) for _ in range(start, stop)], 8, 2)
    assert sorted(seen) == sorted(list(range(10)) * 8)


def test_several_callers_at_a_time():
    results: dict[int, bool] = {}

    def caller(number: int) -> None:
        out = torch.zeros(200)

        def program(start: int, stop: int) -> None:
            out[start:stop] = number

        for _ in range(20):
            out.zero_()
            run_grid(program, 200, 3)
            results[number] = results.get(number, True) and bool((out == number).all())

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(1, 7), True)


def test_inference_tensors_and_others_are_written_alike():
    with torch.inference_mode():
        inference = torch.zeros(64)
    plain = torch.zeros(64)
    for out in (inference, plain):
        run_grid(lambda start, stop, out=out: out[start:stop].add_(1), 64, 2)
        assert bool((out == 1).all())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_workers():
    run_grid(lambda start, stop: None, 64, 2)
    child = os.fork()
    if child == 0:
        seen, program = recorder()
        run_grid(program, 64, 2)
        os._exit(0 if len(seen) == 64 else 1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child waits for workers that are not there")
