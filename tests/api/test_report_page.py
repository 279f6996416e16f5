"""The report's page: what it draws, and that a browser shows it without asking anybody for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import fusecade
from fusecade.ir.target import get_target
from fusecade.report import Report
from fusecade.report_graph import boxes, draw_graph, draw_roofline

BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome", "chrome") if (p := shutil.which(n))), None)


def attend_and_norm(q, k, v, w, g):
    y = torch.softmax(q @ k.transpose(-1, -2) * 0.125, -1) @ v
    z = torch.sort(y @ w, -1).values
    return z * torch.rsqrt((z * z).mean(-1, keepdim=True) + 1e-5) * g


@pytest.fixture(scope="module")
def report() -> Report:
    shapes = [(8, 4096, 64), (8, 4096, 64), (8, 4096, 64), (64, 512), (512,)]
    tensors = [torch.empty(s, dtype=torch.bfloat16, device="meta") for s in shapes]
    return fusecade.explain(attend_and_norm, *tensors, target="sm_90", compile_binaries=False)


def test_boxes_know_their_kernel_and_stand_below_what_they_read(report: Report):
    drawn = boxes(report.program, [nodes for _, nodes in report.calls])
    assert drawn is not None
    found, left_out = drawn
    assert left_out == 0
    groups = {b.group for b in found}
    assert {None, *range(len(report.calls))} == groups  # the sort is in no kernel
    assert all(found[r].row < b.row for b in found for r in b.reads)
    by_name = {b.name: b for b in found}
    assert by_name["_softmax_max"].group == by_name["bmm"].group is not None
    assert by_name["_softmax_max"].detail == "max over d2 → 8×4096"


def test_drawings_are_well_formed(report: Report):
    names = [name for name, _ in report.calls]
    found, _ = boxes(report.program, [nodes for _, nodes in report.calls]) or ([], 0)
    graph = ElementTree.fromstring(draw_graph(found, names))
    assert len(graph.findall("g")) == len(found)
    assert len(graph.findall("path")) == sum(len(b.reads) for b in found)
    roofline = ElementTree.fromstring(draw_roofline(report.kernels, get_target("sm_90"), {}))
    assert len(roofline.findall("g")) == len(report.kernels)
    for circle in roofline.iter("circle"):  # within the axes
        assert 64 <= float(circle.get("cx", "0")) <= 708
        assert 12 <= float(circle.get("cy", "0")) <= 300


def test_a_text_that_is_no_program_is_not_drawn():
    assert boxes("this is not a program", []) is None


def test_the_page_has_no_addresses_and_no_scripts(report: Report, tmp_path: Path):
    page = report.to_html(tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|<script|@import|url\(", page)
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["data:,"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium in this machine (Debian: apt-get install chromium)")
def test_a_browser_shows_the_page_without_complaint(report: Report, tmp_path: Path):
    path = report.to_html(tmp_path / "report.html")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", "--dump-dom",
        path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    shown = done.stdout
    for k in report.kernels:
        assert f"{k.name}: source" in shown
    for words in (
        "Under the roofline",
        "memory traffic",
        "no kernel moves less than",
        "passes over",
        "num_warps",
        "as written",
    ):
        assert words in shown
    assert shown.count("<svg") == 2
    assert shown.count("<details") == shown.count("</details>") > 2 * len(report.kernels)
