"""Python's collector rests while kernels are looked for, and is as it was before and after."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import fusecade
from fusecade import driver
from fusecade.assembly.collector import collector_paused


@pytest.fixture
def running():
    yield
    gc.enable()


def test_what_was_running_runs_again(running):
    with collector_paused():
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), collector_paused():
        _ = 1 // 0
    assert gc.isenabled()


def test_what_was_off_stays_off(running):
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def test_it_rests_while_kernels_are_looked_for_and_plans_are_let_go(running, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[bool, weakref.ref]] = []
    fuse = driver.fuse_program

    def fused(program, *rest, **more):
        seen.append((gc.isenabled(), weakref.ref(program)))
        return fuse(program, *rest, **more)

    monkeypatch.setattr(driver, "fuse_program", fused)
    x = torch.randn(8, 64)
    fusecade.compile(lambda x: torch.softmax(x, -1) @ x.mT, (x,), target="cpu")(x)
    gc.collect()
    ((enabled, program),) = seen
    assert not enabled and gc.isenabled()
    assert program() is None
