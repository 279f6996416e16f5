"""The rest of the graph by Inductor: its modes and settings, one graph, one warning where it has no compiler."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from programs import Block, attend, compiled, qkv, same_gradients
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor import compile_fx

import fusecade
from fusecade import torch_backend
from fusecade.assembly.remainder import Session, settings_of
from fusecade.errors import InvalidArgument, InvalidPackage
from fusecade.runtime import operator

HERE = Path(__file__).parent
MODES = ["reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


def scanned(q, k, v):
    return torch.cumsum(attend(q, k, v), -1) + 1


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What Inductor is called with, and its settings at that time; it does nothing else here."""
    from torch._inductor import config

    calls: list[dict] = []

    def inner(gm, example_inputs, **named):
        calls.append({"gm": gm, "cudagraphs_on": config.triton.cudagraphs, "autotune": config.max_autotune, **named})

        def run(arguments):
            return gm.forward(*arguments)

        run._boxed_call = True
        return run

    monkeypatch.setattr(compile_fx, "compile_fx_inner", inner)
    return calls


class TestModes:
    @pytest.mark.parametrize("mode", MODES)
    def test_each_sets_what_inductor_says(self, mode: str, seen: list[dict]):
        inputs = qkv(4, 64, 64)
        torch.testing.assert_close(torch.compile(scanned, backend="fusecade", mode=mode)(*inputs), scanned(*inputs))
        wanted = torch._inductor.list_mode_options()[mode]
        assert seen[0]["cudagraphs_on"] is wanted.get("triton.cudagraphs", False)
        assert seen[0]["autotune"] is wanted.get("max_autotune", False)

    def test_beside_other_options(self, seen: list[dict]):
        options = {"mode": "reduce-overhead", "inductor": {"max_autotune": True}, "fuse": "always"}
        inputs = qkv(4, 64, 64)
        run = torch.compile(attend, backend="fusecade", options=options)
        torch.testing.assert_close(run(*inputs), attend(*inputs))
        # A graph of kernels alone goes to Inductor too: it is recorded.
        assert (seen[0]["cudagraphs_on"], seen[0]["autotune"]) == (True, True)
        assert any(node.target is operator.OPERATOR for node in seen[0]["gm"].graph.nodes)

    def test_the_backward_shares_the_graphs_of_its_forward(self, seen: list[dict]):
        inputs = qkv(2, 32, 64)
        inputs[0].requires_grad_()
        run = compiled(attend, "inductor", {"mode": "reduce-overhead"})
        found, wanted = (torch.autograd.grad(fn(*inputs).square().sum(), inputs[0]) for fn in (run, attend))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
        forward, backward = seen
        assert (forward["is_backward"], backward["is_backward"]) == (False, True)
        assert forward["graph_id"] == backward["graph_id"]
        assert forward["boxed_forward_device_index"] is backward["boxed_forward_device_index"]
        # Nothing was recorded on a CPU: Inductor would look for a device.
        assert forward["cudagraphs"].value and not backward["cudagraphs"].value
        tangents = [n for n in backward["gm"].graph.find_nodes(op="placeholder") if "tangents" in n.name]
        inputs = len(backward["gm"].graph.find_nodes(op="placeholder"))
        assert list(backward["static_input_idxs"]) == list(range(inputs - len(tangents)))

    def test_recorded_on_a_device_both_are(self):
        session = Session(settings_of("reduce-overhead", {}))
        session.arguments(backward=False)["boxed_forward_device_index"].set(0)
        assert session.arguments(backward=True)["cudagraphs"].value
        assert Session().arguments(backward=True) == {}

    def test_settings_that_there_are_not(self):
        with pytest.raises(BackendCompilerFailed) as caught:
            compiled(attend, "inductor", {"inductor": {"max_autotunee": True}})(*qkv(2, 8, 64))
        error = caught.value.inner_exception
        assert isinstance(error, InvalidArgument)
        assert str(error) == "'max_autotunee' is not a setting of Inductor\nnext: use 'max_autotune' instead"

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", MODES)
    def test_in_earnest(self, mode: str):
        model, x = Block(), torch.randn(2, 32, 32)
        other = copy.deepcopy(model)
        compiled(model, "inductor", {"mode": mode})(x).cumsum(-1).sum().backward()
        other(x).cumsum(-1).sum().backward()
        same_gradients(model, other)
        assert not any(report.fallbacks for report in fusecade.reports())


WITHOUT = """
    import sys, warnings
    sys.path.insert(0, sys.argv[1])
    import torch
    from programs import attend, compiled, qkv
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in range(3):
            inputs = [x.requires_grad_() for x in qkv(4, 32 + 16 * n, 64)]
            fn = lambda *x: attend(*x).cumsum(-1)
            found = compiled(fn, "inductor", dynamic=False)(*inputs)
            torch.testing.assert_close(found, fn(*inputs))
            found.sum().backward()
    print(*(str(w.message).splitlines()[0] for w in caught if type(w.message).__module__ == "fusecade.errors"), sep="|")
"""


@pytest.mark.slow
def test_without_a_compiler_there_is_one_warning(tmp_path: Path):
    (tmp_path / "bin").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", dedent(WITHOUT), str(HERE)],
        env={**os.environ, "CXX": "/nonexistent", "PATH": str(tmp_path / "bin"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [warning] = done.stdout.strip().split("|")
    assert warning.startswith("fusecade: the rest of the graph runs eagerly: Inductor has no C++ compiler")


LOADING = """
    import sys, torch, fusecade
    run = fusecade.load_aot_inductor(sys.argv[1])
    inputs, wanted = torch.load(sys.argv[2])
    torch.testing.assert_close(run(*inputs), wanted, atol=1e-4, rtol=1e-4)
    with torch.profiler.profile() as profile:
        run(*inputs)
    print(*(e.key for e in profile.key_averages() if e.key.startswith("fusecade::k")))
"""


class TestAheadOfTime:
    """The package of AOTInductor has our kernels inside."""

    def test_what_goes_to_inductor(self, monkeypatch: pytest.MonkeyPatch):
        given = {}

        def package(program, *, package_path, inductor_configs):
            given.update(program=program, configs=inductor_configs)
            return package_path

        monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", package)
        x, reports = torch.randn(8, 32), []
        block = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.Softmax(-1)).eval()
        options = {"fuse": "always", "inductor": {"max_autotune": True}, "on_report": reports.append}
        path = fusecade.aot_inductor(block, (x,), "model.pt2", **options)
        assert path == Path("model.pt2")
        assert reports[0].kernels
        assert given["configs"]["max_autotune"] is True
        program = given["program"]
        calls = [n for n in program.graph.nodes if n.target is operator.OPERATOR]
        assert calls
        assert all(str(call.args[0]) in given["configs"]["aot_inductor.metadata"]["fusecade"] for call in calls)
        torch.testing.assert_close(program.module()(x), block(x), atol=1e-5, rtol=1e-4)

    def test_kernels_of_another_version_are_refused(self, monkeypatch: pytest.MonkeyPatch):
        class Package:
            def get_metadata(self):
                return {"fusecade": '{"format": 99}'}

        monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: Package())
        with pytest.raises(InvalidPackage, match="its format is 99"):
            fusecade.load_aot_inductor("model.pt2")

    @pytest.mark.slow
    def test_a_process_that_only_loads(self, tmp_path: Path):
        class Model(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.block = Block(64)

            def forward(self, x):
                return torch.cumsum(self.block(x), -1)

        model, n = Model().eval(), torch.export.Dim("n", min=8, max=512)
        path = fusecade.aot_inductor(
            model, (torch.randn(4, 64, 64),), tmp_path / "model.pt2", dynamic_shapes=({1: n},), fuse="always"
        )
        run = fusecade.load_aot_inductor(path)
        for length in (16, 100):
            x = torch.randn(4, length, 64)
            torch.testing.assert_close(run(x), model(x), atol=1e-4, rtol=1e-4)
        torch.save(([x], model(x).detach()), tmp_path / "tensors")
        environment = {**os.environ, "FUSECADE_CACHE_DIR": str(tmp_path / "other")}
        done = subprocess.run(
            [sys.executable, "-c", dedent(LOADING), str(path), str(tmp_path / "tensors")],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "fusecade::k0_" in done.stdout


def test_one_graph_holds_kernels_and_the_rest(seen: list[dict]):
    inputs = qkv(4, 64, 64)
    torch.testing.assert_close(compiled(scanned, "inductor")(*inputs), scanned(*inputs))
    [call] = seen
    targets = [str(n.target) for n in call["gm"].graph.nodes if n.op == "call_function"]
    assert "fusecade.call.default" in targets
    assert any("cumsum" in target for target in targets)
    assert torch_backend.compiled[-1].remainder == "inductor"
