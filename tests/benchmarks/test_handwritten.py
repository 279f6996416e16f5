"""The comparison with hand-written kernels: the device on paper, the two measurements, and how they are put together.

The measurements run in processes of their own, as in the benchmark: Triton compiles in one, and interprets in the other.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# A launcher as packages have them: it asks the device, and has an autotuner.
PACKAGE = """
import torch, triton
import triton.language as tl

@triton.autotune([triton.Config({"BLOCK": b}, num_warps=w) for b, w in ((16, 1), (64, 2))], key=["n"])
@triton.jit
def scale_rows(x_ptr, out_ptr, n, factor, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    most = float("-inf")
    for start in range(0, n, BLOCK):
        most = max(most, tl.max(tl.load(x_ptr + row * n + start + at, mask=start + at < n, other=float("-inf"))))
    for start in range(0, n, BLOCK):
        x = tl.load(x_ptr + row * n + start + at, mask=start + at < n)
        tl.store(out_ptr + row * n + start + at, x * factor.to(x.dtype) - most, mask=start + at < n)

def launch(x):
    assert x.is_cuda and torch.cuda.get_device_capability() == (8, 0)
    rows = triton.runtime.driver.active.utils.get_device_properties(0)["multiprocessor_count"]
    out = torch.empty_like(x)
    scale_rows[(rows,)](x, out, x.shape[1], 2.5)
    return out
"""

MEASURE = """
import json, sys
import torch
from package import launch
from peers import functions, worker
from peers.handwritten_calls import Peer

peer = Peer("numpy", launch, {"BLOCK": 64})
case = functions.Case("scaled", torch.relu, {"tiny": ((108, 200),)}, (peer, Peer("no-such-package", launch)))
answers = [worker.their_binaries, worker.their_bytes][sys.argv[1] == "bytes"](case, "tiny", 80, peer, 12)
print(json.dumps([answers, *(a for a in worker.measure(sys.argv[1], case, "tiny", 80, 12) if a["whose"] != "numpy")]))
"""


@pytest.fixture
def handwritten(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import handwritten  # pyright: ignore[reportMissingImports]

    yield handwritten
    for name in ("handwritten", "run", *(name for name in sys.modules if name.split(".")[0] == "peers")):
        sys.modules.pop(name, None)


def measure(what: str, folder: Path) -> list[dict]:
    (folder / "package.py").write_text(PACKAGE)
    (folder / "measure.py").write_text(MEASURE)
    paths = [str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": str(int(what == "bytes")), "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"TRITON_CACHE_DIR": str(folder / "cache"), "FUSECADE_CACHE_DIR": str(folder / "fusecade")}
    done = subprocess.run(
        [sys.executable, str(folder / "measure.py"), what], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_launcher_that_asks_the_device_is_compiled_for_it(tmp_path: Path) -> None:
    theirs, ours, missing = measure("binaries", tmp_path)
    [launch] = theirs["launches"]
    assert (launch["kernel"], launch["programs"]) == ("scale_rows", 108)
    assert launch["constants"] == {"BLOCK": 64, "num_warps": 2, "num_stages": 3}
    assert launch["registers"] > 0
    assert (launch["spills"], launch["tensor_cores"]) == (0, {})
    assert theirs["chosen"][0].endswith("(1 of 2)")
    assert ours["reason"].startswith("no kernel")
    assert missing == missing | {"whose": "no-such-package", "reason": "not installed", "missing": True}


def test_its_bytes_are_counted_in_some_programs(tmp_path: Path) -> None:
    theirs = measure("bytes", tmp_path)[0]
    assert (theirs["loads"], theirs["stores"], theirs["outside"]) == (2 * 108 * 200 * 2, 108 * 200 * 2, 0)
    [launch] = theirs["by_launch"]
    assert launch == launch | {"kernel": "scale_rows", "grid": [108, 1, 1], "programs_run": 12}


def test_rows_and_shortfalls(handwritten: ModuleType) -> None:
    def answers(whose: str, loads: int, spills: int, cores: dict[str, int]) -> list[dict]:
        head = {"case": "softmax", "size": "even", "arch": 90, "whose": whose}
        launch = {"kernel": "k", "programs": 1, "constants": {"BLOCK": 64, "num_warps": 4, "num_stages": 2},
                  "registers": 100, "spills": spills, "shared": 2048, "tensor_cores": cores}  # fmt: skip
        return [head | {"loads": loads, "stores": 500}, head | {"launches": [launch] * 2}]

    rows = handwritten.rows_of(
        [
            *answers("fusecade", 1200, 8, {"HMMA": 4}),
            *answers("a", 1150, 0, {"HMMA": 4}),
            *answers("b", 1000, 8, {"HGMMA": 2}),
        ]
    )
    ours, a, b = rows
    assert (ours.whose, ours.bytes, ours.spills, ours.tensor_cores) == ("fusecade", 1700, 8, {"HMMA": 8})
    assert list(handwritten.shortfalls(ours, a)) == ["spills 8 bytes"]
    assert list(handwritten.shortfalls(ours, b)) == ["1.13 times the bytes", "spills 8 bytes (theirs too)", "no HGMMA"]
    assert handwritten._tiles(ours) == "64 w4 s2, 64 w4 s2"
    assert handwritten.table(rows).row_count == 3


def test_the_page_agrees_with_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import handwritten_table  # pyright: ignore[reportMissingImports]

    path = max((BENCHMARKS / "results").glob("handwritten-*.json"))
    page = (BENCHMARKS.parent / "docs" / "comparison.md").read_text()
    assert page == handwritten_table.document(json.loads(path.read_text()), path.name)


@pytest.mark.slow
def test_a_package_against_ours(handwritten: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("liger_kernel", reason="pip install fusecade[bench-handwritten]")
    written = tmp_path / "out.json"
    assert handwritten.main(["--case", "softmax", "--arch", "90", "--programs", "2", "--json", str(written)]) == 0
    rows = json.loads(written.read_text())["rows"]
    short = {row["whose"]: row for row in rows if row["size"] == "short rows"}
    assert short["fusecade"]["bytes"] == short["liger-kernel"]["bytes"] == 2 * 8192 * 4096 * 2
    assert short["fusecade"]["registers"]
    assert short["liger-kernel"]["registers"]
