"""Plans on disk: found again by a process that asks the same, and by none that asks something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data.graphs import call_of, graph_of, plan_of

from fusecade.assembly import plan_cache
from fusecade.assembly.plan_cache import cached_plan, decode, encode, graph_text, key_of, source_version
from fusecade.driver import Options
from fusecade.errors import CacheWarning
from fusecade.ir.target import get_target

CPU, SM90 = get_target("cpu"), get_target("sm_90")
X = torch.randn(6, 3)


def double_and_sum(x):
    return (x * 2).sum(1)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch):
    """Counts how often a plan is really made."""
    made: list[str] = []

    def plan_graph(gm, target, *rest):
        made.append(target.name)
        return plan_of(gm, call_of(gm))

    monkeypatch.setattr(plan_cache, "plan_graph", plan_graph)
    plan_cache.store_at.cache_clear()
    return made


def forget() -> None:
    """What another process would not know."""
    plan_cache.store_at.cache_clear()


def test_the_second_time_nothing_is_planned(tmp_path: Path, planned):
    first = cached_plan(graph_of(double_and_sum, X), CPU, Options(), tmp_path)
    forget()
    gm = graph_of(double_and_sum, X)
    second = cached_plan(gm, CPU, Options(), tmp_path)
    assert planned == ["cpu"]
    assert [c.artifact for c in second.calls] == [c.artifact for c in first.calls]
    assert all(node.graph is gm.graph for call in second.calls for node in [*call.inputs, *call.outputs])


def test_without_a_folder_nothing_is_kept(planned):
    for _ in range(2):
        cached_plan(graph_of(double_and_sum, X), CPU, Options(), None)
    assert planned == ["cpu", "cpu"]


class TestKeys:
    def key(self, fn=double_and_sum, x=X, target=CPU, options=Options(), dynamic=None, names=None):  # noqa: B008
        return key_of(graph_of(fn, x, dynamic=dynamic), target, options, names or {})

    def test_the_same_question_has_the_same_key(self):
        assert self.key() == self.key()

    @pytest.mark.parametrize(
        "change",
        [
            {"x": torch.randn(6, 4)},
            {"x": torch.randn(6, 3).half()},
            {"x": torch.randn(3, 6).T},
            {"fn": lambda x: (x * 3).sum(1)},
            {"fn": lambda x: (x * 2).sum(0)},
            {"fn": lambda x: (x * torch.tensor(2.5)).sum(1)},
            {"target": SM90},
            {"target": replace(CPU, sms=64)},
            {"options": Options(tune="quick")},
            {"options": Options(parameters={"num_warps": 8})},
            {"dynamic": {0: {0: "n"}}},
            {"names": {"s0": "rows"}},
        ],
        ids=[
            "shape",
            "dtype",
            "strides",
            "constant",
            "dimension",
            "tensor",
            "target",
            "numbers",
            "tune",
            "parameters",
            "dynamic",
            "names",
        ],
    )
    def test_another_question_has_another_key(self, change):
        assert self.key(**change) != self.key()

    def test_numbers_that_the_graph_holds_count(self):
        keys = {self.key(fn=lambda x, c=c: (x * torch.tensor(c)).sum(1)) for c in (2.5, 3.5)}
        assert len(keys) == 2

    def test_what_changes_nothing_that_is_generated_does_not_count(self):
        assert self.key(options=Options(remainder="eager", strict=True)) == self.key()

    def test_a_changed_compiler_is_another_version(self, tmp_path: Path):
        for name in plan_cache.SOURCES:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            (path if name.endswith(".py") else path / "a.py").parent.mkdir(exist_ok=True)
            (path if name.endswith(".py") else path / "a.py").write_text("x = 1\n")
        before = source_version(tmp_path)
        (tmp_path / "passes" / "a.py").write_text("x = 2\n")
        assert source_version(tmp_path) != before

    def test_the_text_names_every_node(self):
        gm = graph_of(double_and_sum, X)
        text = graph_text(gm)
        assert len(text.splitlines()) == len(gm.graph.nodes)
        assert "aten.mul.Tensor [%0, 2]" in text


class TestEntries:
    def body(self):
        gm = graph_of(double_and_sum, X)
        return json.loads(json.dumps(encode(plan_of(gm, call_of(gm))))), gm

    def test_they_come_back(self):
        body, gm = self.body()
        plan = decode(body, gm, CPU)
        wanted = call_of(gm)
        [call] = plan.calls
        assert (call.artifact, call.inputs, call.outputs, call.sizes) == (
            wanted.artifact, wanted.inputs, wanted.outputs, wanted.sizes,
        )  # fmt: skip

    def test_sizes_of_every_kind(self):
        gm = graph_of(double_and_sum, X)
        call = call_of(gm)
        call.sizes = {"n": (call.inputs[0], 0), "m": call.inputs[0]}
        body = json.loads(json.dumps(encode(plan_of(gm, call))))
        assert decode(body, gm, CPU).calls[0].sizes == call.sizes

    @pytest.mark.parametrize(
        "change",
        [
            lambda b: b.pop("calls"),
            lambda b: b.update(kernels=[]),
            lambda b: b["calls"][0].update(kernel="another"),
            lambda b: b["calls"][0].update(inputs=[99]),
            lambda b: b["calls"][0].update(inputs=[-1]),
            lambda b: b["calls"][0].update(inputs=[True]),
            lambda b: b["calls"][0].update(inputs=["x"]),
            lambda b: b["calls"][0].update(inputs=[]),
            lambda b: b["calls"][0].update(outputs=[3]),
            lambda b: b["calls"][0].update(sizes={}),
            lambda b: b["calls"][0]["sizes"].update(n={}),
            lambda b: next(iter(b["kernels"].values())).update(source="import os"),
            lambda b: next(iter(b["kernels"].values())).update(target="sm_90"),
            lambda b: b.update(refusals=[["x"]]),
            lambda b: b.update(memory=3),
        ],
    )
    def test_what_does_not_fit_is_refused(self, change):
        body, gm = self.body()
        change(body)
        with pytest.raises(ValueError, match=r"\w"):
            decode(body, gm, CPU)

    def test_a_kernel_for_other_tensors_is_refused(self):
        body, _ = self.body()
        with pytest.raises(ValueError, match="is not a tensor of f32"):
            decode(body, graph_of(double_and_sum, X.double()), CPU)

    def test_an_entry_that_does_not_fit_is_made_anew(self, tmp_path: Path, planned):
        gm = graph_of(double_and_sum, X)
        store = plan_cache.store_at(tmp_path)
        store.write(key_of(gm, CPU, Options(), {}), {"kernels": {}})
        with pytest.warns(CacheWarning, match="does not fit"):
            cached_plan(gm, CPU, Options(), tmp_path)
        forget()
        cached_plan(gm, CPU, Options(), tmp_path)
        assert planned == ["cpu"]
