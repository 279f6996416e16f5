"""Graphs of every shape that PyTorch makes are planned: what returns a value twice, what is empty, what calls programs."""

from __future__ import annotations

import pytest
import torch

import fusecade
from fusecade import torch_backend

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def compiled(fn):
    options = {"fuse": "always", "remainder": "eager"}
    return torch.compile(fn, backend="fusecade", fullgraph=True, dynamic=False, options=options)


def planned() -> bool:
    return all(not built.fallbacks for built in torch_backend.compiled)


def test_a_result_that_the_backward_reads_as_well():
    """Its copy (a dimension of one is added) is returned twice: to the user, and as what the backward reads."""
    x = torch.randn(5, 6, requires_grad=True)
    fn = lambda x: torch.std(x, 1, keepdim=True)  # noqa: E731
    mine, theirs = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled(fn), fn))
    torch.testing.assert_close(mine, theirs)
    assert planned()


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: torch.nn.functional.group_norm(x, 1, torch.ones(4), torch.zeros(4)),
        lambda x: torch.var(x),
        lambda x: torch.softmax(x, 0) @ torch.ones(4, 3),
    ],
    ids=["norm", "variance", "product"],
)
def test_empty_tensors(fn):
    x = torch.empty(0, 4)
    torch.testing.assert_close(compiled(fn)(x), fn(x), equal_nan=True)
    assert planned()
    assert not any(built.plan.calls for built in torch_backend.compiled)


def test_an_operator_on_programs_stays_and_the_rest_is_fused():
    def fn(x, y):
        z = torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (x,))
        return torch.softmax(z @ y, -1) @ y.T

    x, y = torch.randn(8, 16), torch.randn(16, 12)
    torch.testing.assert_close(compiled(fn)(x, y), fn(x, y))
    assert planned()
    (built,) = torch_backend.compiled
    assert [op for op, _ in built.plan.externs] == ["cond"]
    assert built.plan.calls


def test_rows_that_are_appended_where_the_others_are_returned_too():
    """Keys with one more row: inside the kernel they are read with it, and what leaves has its own length."""

    def fn(q, x, w, bias):
        k = x @ w
        longer = torch.cat([k, bias])
        return k, torch.softmax(q @ longer.T, -1) @ longer

    q, x, w, bias = torch.randn(6, 8), torch.randn(5, 4), torch.randn(4, 8), torch.randn(1, 8)
    for mine, theirs in zip(compiled(fn)(q, x, w, bias), fn(q, x, w, bias), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert planned()


def test_positions_that_are_expanded_over_a_batch():
    """Packed sequences as transformers finds them: a scan of expanded positions is one row, which the kernel reads."""

    def fn(q, k, v, positions):
        documents = (torch.diff(positions.expand(2, -1), prepend=positions[:, :1].expand(2, -1)) != 1).cumsum(-1)
        same = documents[:, None, :, None] == documents[:, None, None, :]
        mask = torch.where(same, 0.0, torch.finfo(torch.float32).min)
        return torch.softmax(q @ k.transpose(-1, -2) + mask, -1) @ v

    q, k, v = (torch.randn(2, 3, 32, 8) for _ in range(3))
    positions = torch.cat([torch.arange(20), torch.arange(12)])[None]
    torch.testing.assert_close(compiled(fn)(q, k, v, positions), fn(q, k, v, positions))
    (report,) = fusecade.reports()
    assert planned() and len(report.kernels) == 1
    assert [op for op, _ in report.externs] == ["aten.cumsum.default"]


def test_a_kernel_that_would_wait_for_its_own_results_is_found():
    """k makes a and reads c, which the graph computes from a."""
    from data.artifacts import row_sum
    from data.graphs import graph_of

    from fusecade.assembly.waiting import one_that_waits
    from fusecade.driver import Call

    gm = graph_of(lambda x: ((x.sin() * 2).cos() + 1).exp(), torch.randn(3, 4))
    a, _, c, d, e = [n for n in gm.graph.nodes if n.op == "call_function"]
    small, large = Call(row_sum(), [c], [a], {}, ("sin",)), Call(row_sum(), [a], [d], {}, ("cos", "add"))
    assert one_that_waits(gm, [small, large]) is small
    assert one_that_waits(gm, [large]) is None
    assert one_that_waits(gm, [Call(row_sum(), [a], [c], {}), Call(row_sum(), [c], [e], {})]) is None
