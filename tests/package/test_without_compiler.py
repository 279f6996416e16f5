"""What loads and runs a package is small: no compiler is imported, none need be there, and no time is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import fusecade

# A process in which none of these can be imported, as where only PyTorch is installed.
ALONE = """
import sys, time, warnings

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"xdsl", "sympy", "optuna", "triton", "rich", "sqlalchemy", "shtab"}:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

warnings.filterwarnings("ignore")
"""
USE = """
import torch
sys.meta_path.insert(0, NotInstalled())
before = set(sys.modules)
start = time.perf_counter()
import fusecade
load = fusecade.load
imported = time.perf_counter() - start
start = time.perf_counter()
f = load(sys.argv[1])
loaded = time.perf_counter() - start
torch.manual_seed(0)
x, w = torch.randn(40, 16), torch.randn(16, 24)
found = f(x, w)
right = torch.softmax(x @ w, -1) @ w.t()
assert torch.allclose(found[1], right, atol=1e-5)  # `torch.testing` imports sympy
ours = sorted({m.split(".")[1] for m in sys.modules if m.startswith("fusecade.")})
print(f"{imported * 1e3:.1f} {loaded * 1e3:.1f} {' '.join(ours)}")
"""


def alone(*programs: str, argument: object, kept: Path | None = None) -> str:
    """kept: where compiled modules are kept, as they are where a package is installed."""
    own = {"PYTHONPYCACHEPREFIX": str(kept), "PYTHONDONTWRITEBYTECODE": ""} if kept is not None else {}
    text = "".join(map(dedent, programs))
    done = subprocess.run(
        [sys.executable, "-c", text, str(argument)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **own},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_needs_pytorch_alone(small: Path):
    _, _, *ours = alone(ALONE, USE, argument=small).split()
    assert set(ours) == {"codegen", "errors", "ir", "runtime"}


@pytest.mark.slow
def test_a_gpu_kernel_brings_no_compiler_either(several: Path):
    """As far as this goes without a GPU: everything up to the driver's library is loaded."""
    text = """
    import torch
    sys.meta_path.insert(0, NotInstalled())
    import fusecade
    f = fusecade.load(sys.argv[1])
    from fusecade.runtime.package.gpu import Launcher, driver_of
    for kernel in f.package.kernels.values():
        for binary, artifact in zip(kernel.binaries, kernel.artifact.kernels):
            Launcher(None, binary, f.package.data(binary.member), artifact)
    print("fine", *(m for m in sys.modules if m.partition(".")[0] in ("triton", "xdsl")))
    """
    assert alone(ALONE, dedent(text), argument=several) == "fine"


@pytest.mark.slow
def test_importing_takes_a_tenth_of_a_second(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Beyond PyTorch; the best of four, on a machine that may be busy, the first to compile the modules."""
    found = [alone(ALONE, USE, argument=small, kept=tmp_path).split()[:2] for _ in range(4)]
    imported, loaded = (min(float(x[n]) for x in found) for n in range(2))
    with capsys.disabled():
        print(f" import {imported:.1f} ms, load {loaded:.1f} ms")
    assert imported <= 100


def test_naming_load_imports_no_compiler():
    """`import fusecade` imports nothing, and `fusecade.load` only its own modules."""
    assert fusecade.load.__module__ == "fusecade.runtime.package.load"
