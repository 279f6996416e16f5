"""Kernels into the graph: replaced nodes go, everything else stays and keeps its meaning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data.artifacts import torch_kernel
from data.graphs import call_of, graph_of, node_of, placed

from fusecade.assembly.splice import splice
from fusecade.codegen.artifact import Layout
from fusecade.driver import Call
from fusecade.errors import InternalCompilerError
from fusecade.runtime.operator import OPERATOR

FIXED = Layout((6, 3), (3, 1), "f32")


def operators(gm) -> list[str]:
    return [str(getattr(n.target, "__name__", n.target)) for n in gm.graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("through_operator", [True, False])
def test_a_node_becomes_a_call(tmp_path: Path, through_operator: bool):
    x = torch.randn(6, 3)
    gm = graph_of(lambda x: (x * 2).sum(1) + 1, x)
    spliced = splice(gm, [placed(gm, call_of(gm), tmp_path, "one")], through_operator=through_operator)
    call = "call.default" if through_operator else "row_sum"
    assert operators(spliced) == ["mul.Tensor", call, "getitem", "add.Tensor"]
    torch.testing.assert_close(spliced(x)[0], (x * 2).sum(1) + 1)


def test_the_graph_that_came_in_is_left_alone(tmp_path: Path):
    gm = graph_of(lambda x: x.sum(1), torch.randn(6, 3))
    before = str(gm.graph)
    splice(gm, [placed(gm, call_of(gm), tmp_path, "alone")])
    assert str(gm.graph) == before


def test_what_is_known_of_values_is_kept(tmp_path: Path):
    gm = graph_of(lambda x: (x * 2).sum(1), torch.randn(6, 3))
    spliced = splice(gm, [placed(gm, call_of(gm), tmp_path, "meta")])
    [call] = [n for n in spliced.graph.nodes if n.target is OPERATOR]
    [item] = call.users
    assert item.meta["val"].shape == (6,)
    assert "stack_trace" in call.meta
    assert [v.shape for v in call.meta["val"]] == [(6,)]


def test_a_kernel_reads_what_another_wrote(tmp_path: Path):
    def fn(x):
        return (x.sum(1, keepdim=True).expand(6, 6) * x[:, :1]).sum(1)

    x = torch.randn(6, 3)
    gm = graph_of(fn, x)
    calls = [placed(gm, call_of(gm, 1), tmp_path, "second")]
    spliced = splice(gm, calls)
    torch.testing.assert_close(spliced(x)[0], fn(x))


def test_users_that_stand_too_early_move(tmp_path: Path):
    """One kernel for both sums: `b` uses the first one, before the second one's input is there."""

    def fn(x):
        a = x.sum(1)
        b = a + 1
        y = x * 3
        c = y.sum(1)
        return b, c

    x = torch.randn(6, 3)
    gm = graph_of(fn, x)
    first, second, product = node_of(gm, "sum", 0), node_of(gm, "sum", 1), node_of(gm, "mul")
    source = """
        def row_sum_programs(x, y, a, c, start, stop):
            a.copy_(x.sum(1))
            c.copy_(y.sum(1))
    """
    artifact = torch_kernel(
        source, inputs=(FIXED, FIXED), outputs=(Layout((6,), (1,), "f32"),) * 2, sizes=(), launch={"programs": 1}
    )
    call = Call(artifact, [first.all_input_nodes[0], product], [first, second])
    spliced = splice(gm, [placed(gm, call, tmp_path, "both")])
    for got, wanted in zip(spliced(x), fn(x), strict=True):
        torch.testing.assert_close(got, wanted)


def test_random_operators_keep_their_order(tmp_path: Path):
    def fn(x):
        a = torch.rand_like(x)
        s = (x * 2).sum(1)
        b = torch.rand_like(s)
        c = torch.rand_like(x)
        return a.sum(), s * b, c.sum()

    x = torch.randn(6, 3)
    gm = graph_of(fn, x)
    at = next(n for n in range(3) if node_of(gm, "sum", n).meta["val"].dim())
    spliced = splice(gm, [placed(gm, call_of(gm, at), tmp_path, "random")])
    results = []
    for module in (gm, spliced):
        torch.manual_seed(0)
        results.append(module(x))
    torch.testing.assert_close(results[1], results[0])


def test_dynamic_sizes_come_from_the_tensors(tmp_path: Path):
    gm = graph_of(lambda x: (x * 2).sum(1), torch.randn(6, 3), dynamic={0: {0: "n", 1: "m"}})
    call = call_of(gm)
    x = call.inputs[0]
    call.sizes = {"n": (x, 0), "m": (x, 1)}
    spliced = splice(gm, [placed(gm, call, tmp_path, "dynamic")])
    for shape in ((6, 3), (9, 2), (1, 1)):
        y = torch.randn(shape)
        torch.testing.assert_close(spliced(y)[0], (y * 2).sum(1))


def test_kernels_that_wait_for_each_other_are_a_mistake_of_ours(tmp_path: Path):
    def fn(x):
        a = x.sum(1)
        y = x * a[:, None]
        return a, y.sum(1)

    gm = graph_of(fn, torch.randn(6, 3))
    artifact = torch_kernel(
        "def row_sum_programs(*arguments): ...", inputs=(FIXED, FIXED), outputs=(Layout((6,), (1,), "f32"),) * 2,
        sizes=(), launch={"programs": 1},
    )  # fmt: skip
    x, product = node_of(gm, "sum").all_input_nodes[0], node_of(gm, "mul")
    call = Call(artifact, [x, product], [node_of(gm, "sum"), node_of(gm, "sum", 1)])
    with pytest.raises(InternalCompilerError, match="kernels wait for each other"):
        splice(gm, [placed(gm, call, tmp_path, "cycle")])
