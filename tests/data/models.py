"""Architectures that people use, small and with random weights: what `torch.compile(backend="fusecade")` is tried on.

Each entry makes a module and its inputs.  Modules of `transformers` and `timm` come from their configurations, with the
attention that is asked for: "eager" is written out in plain PyTorch, "sdpa" calls `scaled_dot_product_attention`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORDS, WIDTH, HEADS, LENGTH, BATCH = 96, 32, 4, 24, 2
BOTH = ("eager", "sdpa")


@dataclass(frozen=True)
class Model:
    """make: the module, with an attention implementation.  inputs: its arguments; floats follow the dtype of the module.

    result: of what it returns, the tensor that is compared and trained on.
    """

    name: str
    make: Callable[[str], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    attentions: tuple[str, ...] = BOTH
    result: Callable[[Any], Tensor] = lambda out: out
    needs: str = "torch"

    def built(self, attention: str, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        module = self.make(attention).eval()
        with torch.no_grad():  # biases and scales that are not all zero and one
            for p in module.parameters():
                if p.dim() < 2:
                    p.add_(0.1 * torch.randn_like(p))
        return module


def _ids(length: int = LENGTH) -> Tensor:
    return torch.randint(1, WORDS, (BATCH, length), generator=torch.Generator().manual_seed(1))


def _floats(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def _padded() -> Tensor:
    return torch.tensor([[1] * LENGTH, [1] * (LENGTH - 7) + [0] * 7])


# --- transformers -------------------------------------------------------------------------------------------------

_DECODER = {
    "vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64, "use_cache": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _from(kind: str, config: str, **chosen: Any) -> Callable[[str], nn.Module]:
    """`kind(config(**chosen))` of transformers."""

    def make(attention: str) -> nn.Module:
        import transformers

        made = getattr(transformers, config)(**chosen, attn_implementation=attention)
        return getattr(transformers, kind)(made)

    return make


def mixtral(attention: str) -> nn.Module:
    """Its experts as one batched product: how `transformers` writes them where loops over data cannot be traced."""
    import transformers

    config = transformers.MixtralConfig(
        **_DECODER, num_local_experts=4, num_experts_per_tok=2, sliding_window=None, attn_implementation=attention
    )
    config._experts_implementation = "batched_mm"
    return transformers.MixtralForCausalLM(config)


def t5(attention: str) -> nn.Module:
    return _from(
        "T5ForConditionalGeneration", "T5Config", vocab_size=WORDS, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=1,
        num_heads=HEADS, relative_attention_num_buckets=8, relative_attention_max_distance=20, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", use_cache=False, decoder_start_token_id=0,
        num_decoder_layers=1,
    )(attention)  # fmt: skip


def whisper(attention: str) -> nn.Module:
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = transformers.WhisperConfig(
        vocab_size=WORDS, d_model=WIDTH, encoder_layers=1, encoder_attention_heads=HEADS, encoder_ffn_dim=48,
        num_mel_bins=8, max_source_positions=LENGTH, dropout=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, attn_implementation=attention,
    )  # fmt: skip
    return WhisperEncoder(config)


# --- timm ---------------------------------------------------------------------------------------------------------


@cache
def import_timm() -> Any:
    """timm; ImportError where it is not there.

    timm imports torchvision, whose operators do not load beside a CPU build of PyTorch.  None of them is used here: it is
    enough that the two for which torchvision registers shapes at import are declared.
    """
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except RuntimeError:
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(declared)
    import timm  # pyright: ignore[reportMissingImports]

    return timm


_kept: list[Any] = []  # a library takes its operators with it when it goes


def timm_vit(attention: str) -> nn.Module:
    vit = import_timm().models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, num_classes=10, embed_dim=WIDTH, depth=1, num_heads=HEADS, qkv_bias=True
    )
    for block in vit.blocks:
        block.attn.fused_attn = attention == "sdpa"
    return vit


# --- torch.nn -----------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """`nn.TransformerEncoder`, norms first and last, under a causal mask and with padding."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            nn.TransformerEncoderLayer(WIDTH, HEADS, 48, 0.0, "gelu", batch_first=True, norm_first=first)
            for first in (True, False)
        ]
        self.first = nn.TransformerEncoder(layers[0], 1, enable_nested_tensor=False)
        self.second = nn.TransformerEncoder(layers[1], 1, enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.second(self.first(x, mask=mask, is_causal=True), src_key_padding_mask=padding)


class Heads(nn.Module):
    """`nn.MultiheadAttention`: across, with averaged weights, and by itself without them."""

    def __init__(self) -> None:
        super().__init__()
        self.across = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, kdim=24, vdim=24)
        self.own = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        y, weights = self.across(x, memory, memory)
        z, _ = self.own(y, y, y, need_weights=False)
        return z + weights.mean(-1, keepdim=True) + x


class Dotted(nn.Module):
    """`F.scaled_dot_product_attention` in its forms: causal, a mask, grouped heads, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 8).transpose(1, 2)
        k, v = self.kv(x).view(b, n, 2, 2, 8).permute(2, 0, 3, 1, 4)
        causal = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        masked = F.scaled_dot_product_attention(q, k, v, attn_mask=keep, scale=0.2, enable_gqa=True)
        own = F.scaled_dot_product_attention(k, k, v)
        return torch.cat([causal, masked, own], 1)


# --- FlexAttention programs as functions --------------------------------------------------------------------------


class Flexible(nn.Module):
    """`flex_attention(q, k, v, score_mod, mask_mod)` as its definition: indices, a score for each pair, a softmax."""

    def __init__(self, score_mod: Callable | None, mask_mod: Callable | None) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.score_mod, self.mask_mod = score_mod, mask_mod
        self.bias = nn.Parameter(torch.randn(2 * LENGTH))

    def forward(self, x: Tensor, documents: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.project(x).view(b, n, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        batch, head = torch.arange(b)[:, None, None, None], torch.arange(HEADS)[:, None, None]
        row, column = torch.arange(n)[:, None], torch.arange(n)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.score_mod is not None:
            scores = self.score_mod(self, scores, batch, head, row, column)
        if self.mask_mod is not None:
            scores = scores.masked_fill(~self.mask_mod(documents, batch, head, row, column), -math.inf)
        return torch.softmax(scores, -1) @ v


def alibi(module: Flexible, score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return score + torch.exp2(-(h + 1) * 8.0 / HEADS) * (j - i)


def softcap(module: Flexible, score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return 5 * torch.tanh(score / 5)


def relative(module: Flexible, score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return score + module.bias[i - j + LENGTH]


def causal(documents: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return i >= j


def window(documents: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return (i >= j) & (i - j < 6)


def same_document(documents: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return (documents[b, i] == documents[b, j]) & (i >= j)


def prefix(documents: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return (j < 5) | (i >= j)


def _flexible(name: str, score_mod: Callable | None, mask_mod: Callable | None) -> Model:
    documents = torch.arange(LENGTH).div(9, rounding_mode="floor").expand(BATCH, -1).contiguous()
    inputs = lambda: {"x": _floats(BATCH, LENGTH, WIDTH), "documents": documents}  # noqa: E731
    return Model(f"flex-{name}", lambda _: Flexible(score_mod, mask_mod), inputs, ("eager",))


# --- all of them --------------------------------------------------------------------------------------------------

_HF: dict[str, Any] = {"needs": "transformers"}
_LOGITS: dict[str, Any] = {"result": lambda out: out.logits, "needs": "transformers"}
_HIDDEN: dict[str, Any] = {"result": lambda out: out.last_hidden_state, "needs": "transformers"}

MODELS: dict[str, Model] = {
    m.name: m
    for m in (
        Model("bert", _from(
            "BertForMaskedLM", "BertConfig", vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=1,
            num_attention_heads=HEADS, intermediate_size=48, max_position_embeddings=64, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ), lambda: {"input_ids": _ids(), "attention_mask": _padded()}, **_LOGITS),
        Model("gpt2", _from(
            "GPT2LMHeadModel", "GPT2Config", vocab_size=WORDS, n_embd=WIDTH, n_layer=1, n_head=HEADS, n_positions=64,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, bos_token_id=1, eos_token_id=1,
        ), lambda: {"input_ids": _ids()}, **_LOGITS),
        Model("llama", _from("LlamaForCausalLM", "LlamaConfig", **_DECODER), lambda: {"input_ids": _ids()}, **_LOGITS),
        Model("mistral", _from("MistralForCausalLM", "MistralConfig", **_DECODER, sliding_window=8),
              lambda: {"input_ids": _ids()}, **_LOGITS),
        Model("gemma2", _from(
            "Gemma2ForCausalLM", "Gemma2Config", **{**_DECODER, "num_hidden_layers": 2}, head_dim=8, sliding_window=8,
            query_pre_attn_scalar=8, attn_logit_softcapping=5.0, final_logit_softcapping=3.0,
        ), lambda: {"input_ids": _ids()}, ("eager",), **_LOGITS),
        Model("mixtral", mixtral, lambda: {"input_ids": _ids()}, **_LOGITS),
        Model("lfm2", _from(
            "Lfm2ForCausalLM", "Lfm2Config", **{**_DECODER, "num_hidden_layers": 2}, layer_types=["conv", "full_attention"],
            block_auto_adjust_ff_dim=False,
        ), lambda: {"input_ids": _ids()}, **_LOGITS),
        Model("t5", t5, lambda: {"input_ids": _ids(), "attention_mask": _padded(), "decoder_input_ids": _ids(10)}, **_LOGITS),
        Model("vit", _from(
            "ViTForImageClassification", "ViTConfig", hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS,
            intermediate_size=48, image_size=32, patch_size=8, num_labels=10,
        ), lambda: {"pixel_values": _floats(BATCH, 3, 32, 32)}, **_LOGITS),
        Model("whisper-encoder", whisper, lambda: {"input_features": _floats(BATCH, 8, 2 * LENGTH)}, **_HIDDEN),
        Model("timm-vit", timm_vit, lambda: {"x": _floats(BATCH, 3, 32, 32)}, needs="timm"),
        Model("nn-encoder", lambda _: Encoder(),
              lambda: {"x": _floats(BATCH, LENGTH, WIDTH), "padding": _padded() == 0}, ("sdpa",)),
        Model("nn-attention", lambda _: Heads(),
              lambda: {"x": _floats(BATCH, LENGTH, WIDTH), "memory": _floats(BATCH, 17, 24)}, ("sdpa",)),
        Model("sdpa", lambda _: Dotted(),
              lambda: {"x": _floats(BATCH, LENGTH, WIDTH), "keep": _floats(LENGTH, LENGTH) < 1.5}, ("sdpa",)),
        _flexible("alibi", alibi, causal),
        _flexible("softcap", softcap, window),
        _flexible("documents", None, same_document),
        _flexible("relative", relative, prefix),
    )
}  # fmt: skip

CASES = [(m.name, attention) for m in MODELS.values() for attention in m.attentions]
