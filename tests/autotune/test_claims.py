"""One process at a time on a device: the lock, what ends it, and who waits for what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from fusecade.autotune import claims
from fusecade.autotune.claims import claim

HOLDER = """
import sys, time
from pathlib import Path
from fusecade.autotune.claims import claim
with claim(Path(sys.argv[1]), sys.argv[2:]) as device:
    print(device, flush=True)
    time.sleep(60)
"""


def holder(folder: Path, *devices: str) -> tuple[subprocess.Popen[str], str]:
    """A process that holds one of the devices, and which."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), *devices], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_each_gets_a_device_of_its_own(tmp_path: Path):
    with ExitStack() as stack:
        taken = [stack.enter_context(claim(tmp_path, ["gpu-0", "gpu-1", "gpu-2"])) for _ in range(3)]
    assert taken == ["gpu-0", "gpu-1", "gpu-2"]
    with claim(tmp_path, ["gpu-1", "gpu-0"]) as again:
        assert again == "gpu-1"


def test_what_another_process_holds_is_waited_for_and_a_dead_one_holds_nothing(tmp_path: Path):
    process, taken = holder(tmp_path, "gpu-0", "gpu-1")
    assert taken == "gpu-0"
    with claim(tmp_path, ["gpu-0", "gpu-1"]) as mine:
        assert mine == "gpu-1"
    said: list[str] = []

    def killed(why: str) -> None:
        said.append(why)
        os.kill(process.pid, signal.SIGKILL)

    with claim(tmp_path, ["gpu-0"], on_wait=killed) as mine:
        assert mine == "gpu-0"
    assert said == [f"gpu-0 is in use by process {process.pid}"]
    process.wait()


def test_no_two_hold_one_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "LOOK_S", 0.001)
    devices, holds, most = ["a", "b"], {"a": 0, "b": 0}, []

    def work() -> None:
        for _ in range(20):
            with claim(tmp_path, devices) as mine:
                holds[mine] += 1
                most.append(holds[mine])
                time.sleep(0.0005)
                holds[mine] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 120 and max(most) == 1


def test_the_device_is_free_after_an_error(tmp_path: Path):
    with pytest.raises(OSError, match="lost"), claim(tmp_path, ["cpu"]):
        raise OSError("lost")
    with claim(tmp_path, ["cpu"], on_wait=lambda why: pytest.fail(why)):
        pass


def test_other_machines_that_share_the_folder_have_devices_of_their_own(tmp_path: Path):
    with claim(tmp_path, ["cpu"], machine="a"), claim(tmp_path, ["cpu"], machine="b/c", on_wait=pytest.fail) as mine:
        assert mine == "cpu"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-cpu.lock", "b_c-cpu.lock"]


def test_without_locks_nobody_is_held_up(tmp_path: Path):
    with claim(tmp_path / "gone", ["cpu"]) as one, claim(tmp_path / "gone", ["cpu"]) as two:
        assert one == two == "cpu"
