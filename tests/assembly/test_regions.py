"""The part that a kernel replaces, as a graph of its own."""

from __future__ import annotations

import torch
from data.graphs import graph_of, node_of

from fusecade.assembly.regions import region_of


def test_it_computes_what_lies_between():
    def fn(x, y):
        return ((x * 2) @ y).sum(1)

    x, y = torch.randn(4, 3), torch.randn(3, 5)
    gm = graph_of(fn, x, y)
    product, inputs = node_of(gm, "mul"), [n for n in gm.graph.nodes if n.op == "placeholder"]
    region = region_of(gm, [product, inputs[1]], [node_of(gm, "sum")])
    assert region is not None
    assert region.tensors == (product, inputs[1])
    torch.testing.assert_close(region.module()(x * 2, y)[0], fn(x, y))


def test_sizes_of_the_kernel_are_taken_and_not_used():
    x = torch.randn(4, 3)
    gm = graph_of(lambda x: x.sum(1), x)
    region = region_of(gm, [n for n in gm.graph.nodes if n.op == "placeholder"], [node_of(gm, "sum")], sizes=2)
    assert region is not None
    torch.testing.assert_close(region.module()(x, 4, 3)[0], x.sum(1))


def test_tensors_that_the_kernel_does_not_read_come_along():
    """`ones_like(y)` needs nothing of `y` but its shape; the kernel does not read it, the region does."""
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    gm = graph_of(lambda x, y: (x * torch.ones_like(y)).sum(1), x, y)
    first, *_ = [n for n in gm.graph.nodes if n.op == "placeholder"]
    region = region_of(gm, [first], [node_of(gm, "sum")])
    assert region is not None
    torch.testing.assert_close(region.module()(*[x, y][: len(region.tensors)])[0], x.sum(1))


def test_dynamic_sizes_come_along():
    x = torch.randn(4, 3)
    gm = graph_of(lambda x: x.view(-1).view(x.shape[1], x.shape[0]).sum(1), x, dynamic={0: {0: "n"}})
    placeholder = next(n for n in gm.graph.nodes if n.op == "placeholder")
    region = region_of(gm, [placeholder], [node_of(gm, "sum")])
    assert region is not None
    values = {"n": 6}
    sizes = [int(n.meta["val"].node.expr.subs(dict.fromkeys(n.meta["val"].node.expr.free_symbols, values["n"])))
             for n in region.sizes]  # fmt: skip
    y = torch.randn(6, 3)
    torch.testing.assert_close(region.module()(y, *sizes)[0], y.view(3, 6).sum(1))


def test_the_same_input_twice():
    x = torch.randn(4, 3)
    gm = graph_of(lambda x: (x * x).sum(1), x)
    placeholder = next(n for n in gm.graph.nodes if n.op == "placeholder")
    region = region_of(gm, [placeholder, placeholder], [node_of(gm, "sum")])
    assert region is not None
    torch.testing.assert_close(region.module()(x, x)[0], (x * x).sum(1))
