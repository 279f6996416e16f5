"""Nothing compiled yet; what is cached is shared by all tests of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from fusecade import torch_backend

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fusecade.runtime.operator._TABLE", {})
    torch._dynamo.reset()
    torch_backend.compiled.clear()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
