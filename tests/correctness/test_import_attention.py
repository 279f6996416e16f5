"""The CPU library's attention call is imported by its definition."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fusecade.frontend.importer import import_graph
from fusecade.ir.interpret import run_program

CALL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _mask(kind: str) -> torch.Tensor | None:
    keep = torch.rand(2, 1, 7, 9) > 0.4
    keep[0, :, 2] = False  # a row that is masked throughout
    if kind == "additive":
        return torch.zeros(2, 1, 7, 9).masked_fill(~keep, -torch.inf)
    return None


@pytest.mark.parametrize(("kind", "causal"), [("none", False), ("none", True), ("additive", False)])
def test_it_is_the_softmax_of_scaled_scores(kind, causal):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 7, 5), torch.randn(2, 3, 9, 5), torch.randn(2, 3, 9, 5)
    mask = _mask(kind)

    def call(q, k, v):
        return CALL(q, k, v, 0.0, causal, attn_mask=mask, scale=0.3)

    graph = make_fx(call, tracing_mode="fake", _allow_non_fake_inputs=True)(q, k, v)
    imported = import_graph(graph)
    assert imported.externs == []
    tensors = [q, k, v, *([mask] if mask is not None else [])]
    out, logsumexp = run_program(imported.program, tensors)
    expected = call(q, k, v)
    torch.testing.assert_close(out, expected[0].double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logsumexp, expected[1].double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["none", "causal", "one mask", "a mask for each head", "a mask for all"])
def test_heads_that_share_keys(kind):
    q, k, v = torch.randn(2, 6, 7, 5), torch.randn(2, 2, 9, 5), torch.randn(2, 2, 9, 4)
    if kind == "causal":
        k, v = k[:, :, :7], v[:, :, :7]
    shape = {"one mask": (2, 1, 7, 9), "a mask for each head": (2, 6, 7, 9), "a mask for all": (7, 9)}.get(kind)
    mask = None if shape is None else torch.randn(shape)

    def call(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=kind == "causal", enable_gqa=True
        )

    graph = make_fx(call, tracing_mode="fake", _allow_non_fake_inputs=True)(q, k, v)
    imported = import_graph(graph)
    assert imported.externs == []
    (out,) = run_program(imported.program, [q, k, v, *([mask] if mask is not None else [])])
    torch.testing.assert_close(out, call(q, k, v).double(), atol=1e-5, rtol=1e-5)


def test_dropout_stays_opaque():
    q = torch.randn(1, 1, 4, 4)
    graph = make_fx(lambda q: CALL(q, q, q, 0.5)[0], tracing_mode="fake")(q)
    ((_, reason),) = import_graph(graph).externs
    assert "random" in reason
