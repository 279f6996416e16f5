"""The log `fusecade`: what was fused, what was not and why, and where the sources are; from the cache too."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from programs import attend, compiled, qkv

INPUTS = (4, 64, 64)


def scanned(q, k, v):
    return torch.cumsum(attend(q, k, v), -1)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.strip() for r in caplog.records if r.name == "fusecade" for line in r.getMessage().splitlines()]


def test_info_says_what_was_made_and_where_it_is(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "fusecade"):
        compiled(scanned)(*qkv(*INPUTS))
    said = lines(caplog)
    assert "a graph (inference) for cpu: kernels 1, calls 1, PyTorch runs the rest" in said
    assert any(line.startswith("k0_bmm_div_softmax_bmm: ") for line in said)
    assert any("programs.py" in line and "torch.softmax" in line for line in said)
    [source] = [line.removeprefix("source: ") for line in said if line.startswith("source: ")]
    assert os.path.exists(source)
    assert any(line.startswith("no kernel: aten.cumsum.default: it is a scan") for line in said)
    assert not any("rewritten by" in line for line in said)


def test_a_plan_from_the_cache_says_the_same(folder: Path, caplog: pytest.LogCaptureFixture):
    said = []
    for _ in range(2):
        torch._dynamo.reset()
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "fusecade"):
            compiled(scanned)(*qkv(*INPUTS))
        said.append(lines(caplog))
    fresh, again = said
    assert any(line.startswith("planned in ") for line in fresh)
    assert any(line.startswith("a plan from the cache: ") for line in again)
    start = "a graph (inference)"
    assert (
        fresh[next(n for n, x in enumerate(fresh) if x.startswith(start)) :]
        == again[next(n for n, x in enumerate(again) if x.startswith(start)) :]
    )
    assert any("rewritten by derive-online" in line for line in again)


def test_refusals_are_said(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "fusecade"):
        compiled(scanned, options={"fuse": "by_cost"})(*qkv(*INPUTS))
    assert any(line.startswith("not fused: ") for line in lines(caplog))


@pytest.mark.slow
def test_torch_logs_knows_the_name():
    program = (
        "import torch, sys; sys.path.insert(0, sys.argv[1])\nfrom programs import *\ncompiled(attend)(*qkv(4, 64, 64))"
    )
    here = os.path.dirname(__file__)
    for setting, words in (("fusecade", "a graph (inference)"), ("+fusecade", "rewritten by derive-online")):
        done = subprocess.run(
            [sys.executable, "-c", program, here], env={**os.environ, "TORCH_LOGS": setting},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert words in done.stderr
    assert "rewritten by" in done.stderr
