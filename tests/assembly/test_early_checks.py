"""What is asked of the machine while kernels are planned: beside, once, and never a reason to fail."""

from __future__ import annotations

import threading

import torch
from torch import fx

from fusecade import torch_backend
from fusecade.assembly import plan_cache
from fusecade.assembly.early_checks import LARGE, EarlyChecks


def graph_of(nodes: int) -> fx.GraphModule:
    graph = fx.Graph()
    value = graph.placeholder("x")
    while len(graph.nodes) < nodes - 1:
        value = graph.call_function(torch.neg, (value,))
    graph.output(value)
    return fx.GraphModule(torch.nn.Module(), graph)


def test_they_run_beside_and_are_waited_for():
    asked, go = [], threading.Event()
    checks = EarlyChecks()
    checks.start(graph_of(LARGE), lambda: (go.wait(10), asked.append(threading.current_thread())))
    checks.start(graph_of(LARGE), lambda: asked.append("again"))
    assert not asked
    go.set()
    checks.finish()
    assert len(asked) == 1 and asked[0] is not threading.main_thread()


def test_while_they_run_the_backward_is_planned(monkeypatch, fresh_compiler):
    """Once, before Inductor is asked for anything: the plan is found again when the backward's turn comes."""
    events = []
    planned, built = plan_cache.plan_graph, torch_backend.build
    monkeypatch.setattr(EarlyChecks, "running", True)
    monkeypatch.setattr(plan_cache, "plan_graph", lambda gm, *rest: events.append("plan") or planned(gm, *rest))
    monkeypatch.setattr(torch_backend, "build", lambda *a, **named: events.append("build") or built(*a, **named))
    x, w = (torch.randn(8, 8, requires_grad=True) for _ in range(2))
    torch.compile(lambda x, w: torch.softmax(x @ w, -1) @ w, backend="fusecade")(x, w).sum().backward()
    assert events == ["plan", "plan", "plan", "build", "build"]  # for the partition, the forward, the backward


def test_a_small_graph_does_without():
    asked = []
    checks = EarlyChecks()
    checks.start(graph_of(LARGE - 1), lambda: asked.append(True))
    checks.finish()
    assert not asked


def test_their_failure_is_left_to_inductor():
    checks = EarlyChecks()
    checks.start(graph_of(LARGE), lambda: 1 / 0)
    checks.finish()
