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


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with Inductor's code for all programs, written by a process without Triton's interpreter."""
    if torch.cuda.is_available():
        pytest.skip("a GPU is here: it need not be pretended")
    folder = tmp_path_factory.mktemp("written")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "FUSECADE_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, str(HERE / "visible_programs.py"), str(folder)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
