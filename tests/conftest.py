"""What all tests share: Triton's interpreter, textual IR tests, golden files, markers and hypothesis profiles."""

from __future__ import annotations

import difflib
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Triton reads this when it is imported. `make test-gpu` turns it off, to run kernels on the device.
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread a worker: several workers share the cores

import hypothesis
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # so that tests import their helpers by name, and the plugin below is found

pytest_plugins = ["textual_ir"]

hypothesis.settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, print_blob=True, max_examples=50
)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fusecade")
    group.addoption("--update-goldens", action="store_true", help="write the golden files instead of comparing them")
    group.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow") and "slow" not in (config.getoption("-m") or ""):
        skip_slow = pytest.mark.skip(reason="slow: run it with `make test-slow` or --slow")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(skip_slow)
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and (reason := _why_no_gpu()):
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """What was imported stays: to walk through all of it again and again took a tenth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _why_no_gpu() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return "gpu: no CUDA device on this machine"
    if os.environ["TRITON_INTERPRET"] == "1":
        return "gpu: Triton's interpreter is on; run it with `make test-gpu`"
    return None


@pytest.fixture(scope="session", autouse=True)
def _cache_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the tests generate is not the user's, nor that of the run before."""
    os.environ["FUSECADE_CACHE_DIR"] = str(tmp_path_factory.mktemp("fusecade-cache"))


@pytest.fixture
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing compiled yet, nothing cached, and random numbers from the start; `pytest.mark.usefixtures("fresh_compiler")`."""
    import torch

    from fusecade import torch_backend

    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    torch_backend.compiled.clear()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session", autouse=True)
def _quick_reductions() -> Iterator[None]:
    """Kernels with reductions of their own take a tenth of the time under the interpreter."""
    if os.environ["TRITON_INTERPRET"] == "1":
        from fusecade.runtime.interpreted import quick_reductions

        with quick_reductions():
            yield
    else:
        yield


Golden = Callable[[str, str], None]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """``golden(name, text)`` compares ``text`` with ``tests/goldens/<name>``; ``--update-goldens`` writes it."""
    update = request.config.getoption("--update-goldens")

    def check(name: str, text: str) -> None:
        path = HERE / "goldens" / name
        text = text.rstrip("\n") + "\n"
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"tests/goldens/{name} is missing; `make goldens` writes it", pytrace=False)
        expected = path.read_text(encoding="utf-8")
        if text != expected:
            diff = "\n".join(
                difflib.unified_diff(
                    expected.splitlines(), text.splitlines(), f"goldens/{name}", "generated now", lineterm=""
                )
            )
            pytest.fail(
                f"tests/goldens/{name} differs from what is generated now:\n{diff}\n"
                "If the change is meant, `make goldens` writes it; read the diff before you commit it.",
                pytrace=False,
            )

    return check
