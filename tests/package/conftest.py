"""Packages that several tests look at, written once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import fusecade

sys.path.insert(0, str(Path(__file__).parent))  # so that tests import the helper beside them by name

import packaged


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A function with kernels, operators, constants and a dynamic size, for the CPU, in two buckets."""
    path = tmp_path_factory.mktemp("packages") / "mixed.fcade"
    x, w = torch.randn(40, 16), torch.randn(16, 24)
    dynamic = {0: {0: "n"}}
    fusecade.export(packaged.mixed, (x, w), path, dynamic=dynamic, buckets=[{"n": 64}, {"n": 512}], fuse="always")
    return path


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One kernel for the CPU and three GPUs, with what the compiler made on the way."""
    path = tmp_path_factory.mktemp("packages") / "attend.fcade"
    targets = ["cpu", "sm_80", "sm_90", "gfx942"]
    fusecade.export(
        packaged.attend, packaged.qkv(4, 96, 64), path, targets=targets, fuse="always", keep=["ttir", "assembly"]
    )
    return path
