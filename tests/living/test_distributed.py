"""Two processes over gloo: gradients are those of eager on both parts of the batch."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from two_processes import work

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("remainder", ["eager", "inductor"])
@pytest.mark.parametrize("kind", ["ddp", "ddp around", "fsdp2", "fsdp2 by block", "tensor parallel"])
def test_gradients(kind: str, remainder: str, tmp_path: Path):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, kind, remainder, str(tmp_path / "cache")), nprocs=2)
