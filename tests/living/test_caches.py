"""The cache folder belongs to nobody alone: others may delete it, fill the disk, or write the same at the same time."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from programs import compiled

from fusecade import torch_backend
from fusecade.assembly import plan_cache
from fusecade.errors import CacheWarning
from fusecade.runtime import files, loaded

HERE = Path(__file__).parent


def run_once(scale: float = 1.0) -> None:
    torch._dynamo.reset()
    x, y = torch.randn(64, 32), torch.randn(32, 48)
    torch.testing.assert_close(compiled(lambda x, y: (x @ y * scale).amax(-1))(x, y), (x @ y * scale).amax(-1))
    assert torch_backend.compiled[-1].plan.calls


def test_deleted_between_calls(folder: Path):
    for scale in (1.0, 2.0, 1.0):
        run_once(scale)
        assert list((folder / "plans").iterdir())
        assert list((folder / "kernels").iterdir())
        shutil.rmtree(folder)


def test_deleted_while_a_plan_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch):
    real = plan_cache.plan_graph

    def plan(*arguments):
        made = real(*arguments)
        shutil.rmtree(folder)
        return made

    monkeypatch.setattr(plan_cache, "plan_graph", plan)
    run_once()
    run_once(2.0)
    assert list((folder / "kernels").iterdir())


def test_deleted_before_each_file_is_put_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch):
    real, left = os.replace, [3]

    def replace(*arguments):
        if left[0]:
            left[0] -= 1
            shutil.rmtree(folder)
        return real(*arguments)

    monkeypatch.setattr(files.os, "replace", replace)
    run_once()
    assert not left[0]
    assert len(list((folder / "kernels").iterdir())) == 1


def test_a_full_disk_costs_warnings(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_whole", full)
    loaded._warn_unwritten.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for scale in (1.0, 2.0):
            run_once(scale)
    said = [str(w.message) for w in caught if w.category is CacheWarning]
    assert len(said) == 2  # one of plans, one of sources
    assert all("No space left on device" in text for text in said)


PROGRAM = """
    import resource, sys, warnings
    sys.path.insert(0, sys.argv[1])
    import torch
    from programs import Block, compiled
    if sys.argv[2] == "full":
        compiled(torch.sin)(torch.randn(8))  # what PyTorch itself writes once
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    else:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
    for n in range(4):
        torch._dynamo.reset()
        block, x = Block(16 * (n + 1)), torch.randn(2, 32, 16 * (n + 1))
        torch.testing.assert_close(compiled(block)(x), block(x), atol=1e-4, rtol=1e-3)
    print("all right")
"""


def start(folder: Path, kind: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", dedent(PROGRAM), str(HERE), kind], env={**os.environ, "FUSECADE_CACHE_DIR": str(folder)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_processes_share_a_folder_that_is_deleted_all_the_time(folder: Path):
    running = [start(folder) for _ in range(2)]
    deleted = 0
    while any(p.poll() is None for p in running):
        deleted += folder.exists()
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)
    for process in running:
        out, err = process.communicate()
        assert out.strip() == "all right", err
    assert deleted > 10


@pytest.mark.slow
def test_a_disk_without_a_byte_left(folder: Path):
    process = start(folder, "full")
    out, err = process.communicate()
    assert out.strip() == "all right", err
    assert "CacheWarning" in err
