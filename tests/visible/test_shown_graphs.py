"""Graphs in which kernels are launches: what they compute, forward and backward, and what happens when Inductor fails.

Inductor is not asked here: its graph runs as it is, and launches run under Triton's interpreter.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_functional as LAUNCH
from torch._inductor import compile_fx
from visible_programs import Module, attend, attend_and_scan, twice

import fusecade
from fusecade import torch_backend
from fusecade.assembly import visible_kernels
from fusecade.runtime.operator import OPERATOR

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """The graphs that Inductor is given; it does nothing else here, and interpreted kernels are shown to it."""
    graphs: list[fx.GraphModule] = []

    def inner(gm: fx.GraphModule, example_inputs: Any, **_: Any) -> Callable[[list[Any]], Any]:
        graphs.append(gm)

        def run(arguments: list[Any]) -> Any:
            return gm.forward(*arguments)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    monkeypatch.setattr(compile_fx, "compile_fx_inner", inner)
    monkeypatch.setattr(visible_kernels, "is_interpreted", lambda kernel: False)
    return graphs


def compiled(fn: Callable[..., Any], **named: Any) -> Callable[..., Any]:
    return torch.compile(fn, backend="fusecade", options={"target": "sm_90", "fuse": "always"}, **named)


def heads(n: int = 24, m: int = 20) -> list[torch.Tensor]:
    return [torch.randn(2, length, 16) for length in (n, m, m)]


def calls(gm: fx.GraphModule, target: Any) -> list[fx.Node]:
    return gm.graph.find_nodes(op="call_function", target=target)


def close(found: torch.Tensor, fn: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> None:
    wanted = fn(*(x.double() for x in tensors))
    error, eagers = ((y.double() - wanted).abs().max().item() for y in (found, fn(*tensors)))
    assert error <= 4 * eagers + 1e-6


def test_kernels_are_launches(seen: list[fx.GraphModule]):
    tensors = heads()
    close(compiled(twice)(*tensors), twice, *tensors)
    [gm] = seen
    assert len(calls(gm, LAUNCH)) == 2 and not calls(gm, OPERATOR)
    first, second = calls(gm, LAUNCH)
    # One kernel, launched twice.
    assert first.kwargs["kernel_idx"] == second.kwargs["kernel_idx"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_what_a_launch_is_given(seen: list[fx.GraphModule], dynamic: bool):
    run = compiled(attend_and_scan, dynamic=dynamic)
    for n, m in ((24, 20), (40, 36)):
        tensors = heads(n, m)
        close(run(*tensors), attend_and_scan, *tensors)
    assert len(seen) == (1 if dynamic else 2)
    [launch] = calls(seen[0], LAUNCH)
    given = launch.kwargs["kwargs"]
    [output] = launch.kwargs["tensors_to_clone"]
    empty = given[output]
    assert empty.target is torch.ops.aten.empty_strided.default
    assert empty.meta["val"].stride() == launch.meta["val"][output].stride()
    [(programs, *ones)] = launch.kwargs["grid"]
    assert ones == [1, 1]
    assert isinstance(programs, fx.Node) == dynamic
    assert dynamic == any(isinstance(x, fx.Node) and isinstance(x.meta["val"], torch.SymInt) for x in given.values())
    assert "num_warps" not in given and "num_stages" not in given
    for name, value in launch.meta["eager_input_vals"][1]["kwargs"].items():
        if isinstance(value, torch.Tensor):
            assert value.stride() == given[name].meta["val"].stride()


def test_forward_and_backward(seen: list[fx.GraphModule]):
    tensors = [x.requires_grad_() for x in heads()]
    found, wanted = (
        torch.autograd.grad(fn(*tensors).square().sum(), tensors) for fn in (compiled(attend_and_scan), attend_and_scan)
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
    assert len(seen) == 2
    assert all(calls(gm, LAUNCH) and not calls(gm, OPERATOR) for gm in seen)
    assert not any(built.hidden or built.fallbacks for built in torch_backend.compiled)


def test_kernels_and_views_alone_run_as_they_are(seen: list[fx.GraphModule]):
    tensors = heads()
    close(compiled(attend)(*tensors), attend, *tensors)
    assert not seen


def test_where_inductor_fails_with_launches_it_is_given_calls(
    seen: list[fx.GraphModule], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    inner = compile_fx.compile_fx_inner

    def picky(gm: fx.GraphModule, *arguments: Any, **named: Any) -> Any:
        if calls(gm, LAUNCH):
            raise RuntimeError("no launches today")
        return inner(gm, *arguments, **named)

    monkeypatch.setattr(compile_fx, "compile_fx_inner", picky)
    tensors = heads()
    with caplog.at_level(logging.INFO, "fusecade"):
        close(compiled(attend_and_scan)(*tensors), attend_and_scan, *tensors)
    [gm] = seen
    assert calls(gm, OPERATOR)
    [built] = torch_backend.compiled
    assert built.remainder == "inductor" and not built.fallbacks
    assert built.hidden == (("k0", "Inductor failed: RuntimeError: no launches today"),)
    assert "not part of Inductor's program: k0: Inductor failed: RuntimeError: no launches today" in caplog.text
    assert any(r.levelno == logging.WARNING for r in caplog.records)


def test_where_inductor_fails_altogether_the_rest_runs_eagerly(
    seen: list[fx.GraphModule], monkeypatch: pytest.MonkeyPatch
):
    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("nothing today at all")

    monkeypatch.setattr(compile_fx, "compile_fx_inner", failing)
    tensors = heads()
    with pytest.warns(match="the rest of the graph runs eagerly: Inductor failed: RuntimeError: nothing today at all"):
        close(compiled(attend_and_scan)(*tensors), attend_and_scan, *tensors)
    [built] = torch_backend.compiled
    assert built.remainder == "eager"
    assert [reason for _, reason in built.fallbacks] == ["Inductor failed: RuntimeError: nothing today at all"]


def test_under_the_interpreter_kernels_stay_calls(seen: list[fx.GraphModule], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(visible_kernels, "is_interpreted", lambda kernel: True)
    tensors = heads()
    close(compiled(attend_and_scan)(*tensors), attend_and_scan, *tensors)
    assert calls(seen[0], OPERATOR)
    assert torch_backend.compiled[-1].hidden == (("k0", "Triton's interpreter runs it"),)


def test_kernels_for_the_cpu_stay_calls(seen: list[fx.GraphModule]):
    run = torch.compile(attend_and_scan, backend="fusecade", options={"fuse": "always"})
    tensors = heads()
    close(run(*tensors), attend_and_scan, *tensors)
    assert calls(seen[0], OPERATOR)
    assert torch_backend.compiled[-1].hidden == (("k0", "it is no Triton kernel"),)


def test_where_showing_fails_the_operator_is_called(seen: list[fx.GraphModule], monkeypatch: pytest.MonkeyPatch):
    def failing(*_: Any) -> Any:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(visible_kernels, "_obstacles", failing)
    tensors = heads()
    close(compiled(attend_and_scan)(*tensors), attend_and_scan, *tensors)
    assert calls(seen[0], OPERATOR)
    [(name, reason)] = torch_backend.compiled[-1].hidden
    assert (name, reason) == ("k0", "making the graph failed: ZeroDivisionError: a mistake of ours")


@pytest.mark.parametrize("works", [True, False])
def test_ahead_of_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, works: bool):
    given: list[tuple[fx.GraphModule, list[str]]] = []

    def package(program: Any, *, package_path: str, inductor_configs: dict[str, Any]) -> str:
        kernels = json.loads(inductor_configs["aot_inductor.metadata"]["fusecade"])["kernels"]
        given.append((program.graph_module, list(kernels)))
        if not works and calls(program.graph_module, LAUNCH):
            raise RuntimeError("no launches in packages")
        return package_path

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", package)
    monkeypatch.setattr(visible_kernels, "is_interpreted", lambda kernel: False)
    with caplog.at_level(logging.INFO, "fusecade"):
        fusecade.aot_inductor(Module(), tuple(heads()), "model.pt2", target="sm_90", fuse="always")
    gm, kernels = given[-1]
    assert len(given) == (1 if works else 2)
    assert bool(calls(gm, LAUNCH)) == works
    assert [call.args[0] for call in calls(gm, OPERATOR)] == kernels
    assert bool(kernels) != works
    assert ("AOTInductor failed: RuntimeError: no launches in packages" in caplog.text) != works
