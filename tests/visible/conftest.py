"""Tests import the helpers beside them by name, and all look at the same code of Inductor's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


QUICK = ["dynamic", "shifted", "long_row"]
REST = ["static", "packed", "turned", "wide", "twice", "dynamic_cpp", "ahead"]


def _write(folder: Path, programs: list[str]) -> Path:
    """Inductor's code for programs, written by a process without Triton's interpreter."""
    if torch.cuda.is_available():
        pytest.skip("a GPU is here: it need not be pretended")
    environment = {
        **os.environ, "TRITON_INTERPRET": "0", "FUSECADE_CACHE_DIR": str(folder / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # nothing is compiled: no processes for that
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(HERE / "visible_programs.py"), str(folder), *programs],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    # What a kernel writes is read from its source: nothing but its outputs.
    assert "every input is mutated" not in done.stderr
    return folder


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the code for those programs that are looked at by default."""
    return _write(tmp_path_factory.mktemp("written"), QUICK)


@pytest.fixture(scope="session")
def written_too(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the other programs, for tests that are slow."""
    return _write(tmp_path_factory.mktemp("written_too"), REST)
