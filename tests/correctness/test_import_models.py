"""BERT, GPT-2 and Llama from transformers as whole programs, interpreted in float64 against eager."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from fusecade.frontend import capture, import_graph
from fusecade.frontend.decompositions import decompositions
from fusecade.ir.cascade import EinsumOp
from fusecade.ir.interpret import run_program
from fusecade.ir.text import parse_module, print_module
from fusecade.ir.verify import verify

transformers = pytest.importorskip("transformers")

COMMON = {"vocab_size": 99}


def model(name: str, attention: str, layers: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    if name == "bert":
        config = transformers.BertConfig(
            **COMMON, hidden_size=48, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=40, attn_implementation=attention,
        )  # fmt: skip
        made = transformers.BertModel(config)
    elif name == "gpt2":
        config = transformers.GPT2Config(
            **COMMON, n_embd=48, n_layer=layers, n_head=4, n_positions=40, use_cache=False, bos_token_id=1,
            eos_token_id=1, attn_implementation=attention,
        )  # fmt: skip
        made = transformers.GPT2Model(config)
    else:
        config = transformers.LlamaConfig(
            **COMMON, hidden_size=48, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=64, use_cache=False, attn_implementation=attention,
        )  # fmt: skip
        made = transformers.LlamaModel(config)
    return made.double().eval().requires_grad_(False)


MASK = torch.tensor([[1] * 10, [1] * 6 + [0] * 4])
PACKED = [("aten.cumsum.default", "it is a scan: each element needs the one before")]


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "padded"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_model(name: str, attention: str, masked: bool) -> None:
    net = model(name, attention)
    kwargs: dict[str, Any] = {"input_ids": torch.randint(0, 99, (2, 10), generator=torch.Generator().manual_seed(1))}
    if masked:
        kwargs["attention_mask"] = MASK
    captured = capture(net, (), kwargs)
    program = import_graph(captured.gm)
    verify(program.module)
    text = print_module(program.module)
    assert print_module(parse_module(text)) == text
    # Without a mask, decoders of transformers look for packed sequences with a cumulative sum of [batch, sequence].
    assert program.externs == (PACKED if name != "bert" and not masked else [])
    wanted = pytree.tree_leaves(net(**kwargs))
    found = run_program(program.program, captured.tensors((), kwargs))
    tolerance = 1e-5 if name == "llama" else 1e-10  # its rotary angles and norms are computed in float32
    for got, want in zip(found, wanted, strict=True):
        assert_close(got, want, rtol=tolerance, atol=tolerance)
    einsums = [op for op in program.program.body.block.ops if isinstance(op, EinsumOp) and "copy" not in op.attributes]
    for op in einsums:
        assert not any("floordiv" in a.text() or " mod " in a.text() for a in op.accesses.data), op


@pytest.mark.parametrize("name", [pytest.param("bert", marks=pytest.mark.slow), "llama"])
def test_aot_autograd_gives_the_same_kind_of_graph(name: str) -> None:
    """Through torch.compile, with symbolic sizes; the program runs at other sizes as well."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func
    from torch.nn.attention import SDPBackend, sdpa_kernel

    seen: list[Any] = []

    def compiler(gm: torch.fx.GraphModule, _: Any) -> Any:
        program = import_graph(gm)
        verify(program.module)
        seen.append(program)

        def run(*args: Any) -> Any:
            env = dict(zip([n for n in gm.graph.nodes if n.op == "placeholder"], args, strict=True))
            sizes = {
                n: int(args[s.placeholder]) if s.dim is None else args[s.placeholder].shape[s.dim]
                for n, s in program.sizes.items()
            }
            outs = iter(run_program(program.program, [env[n] for n in program.arguments], sizes))
            return [next(outs) if o.value is not None else env.get(o.node, o.node) for o in program.outputs]

        return make_boxed_func(run)

    def backend(gm: torch.fx.GraphModule, example: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return aot_autograd(fw_compiler=compiler, decompositions=decompositions())(gm, example)

    torch._dynamo.reset()
    net = model(name, "sdpa", layers=1)
    compiled = torch.compile(net, backend=backend, dynamic=True)
    with torch.no_grad():
        for shape in ((2, 10), (3, 7)):
            ids = torch.randint(0, 99, shape)
            args = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            assert_close(compiled(**args)[0], net(**args)[0], rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()
    assert len(seen) == 1
    assert seen[0].externs == []
    assert len(seen[0].sizes) == 2


def test_six_layers_import_fast() -> None:
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    with torch.device("meta"):
        net = transformers.BertModel(config).eval()
    ids = torch.empty(8, 64, dtype=torch.int64, device="meta")
    captured = capture(net, (), {"input_ids": ids, "attention_mask": ids})
    start = time.process_time()
    program = import_graph(captured.gm)
    assert time.process_time() - start < 2.0  # 0.25 s on an idle machine
    assert program.externs == []
    again = import_graph(captured.gm)
    assert print_module(again.module) == print_module(program.module)
