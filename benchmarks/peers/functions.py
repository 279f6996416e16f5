"""The functions of the comparison, as plain PyTorch, with their sizes and the hand-written kernels for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peers import handwritten_calls as by_hand
from peers.handwritten_calls import Peer
from torch import Tensor
from torch.nn import functional as F

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Case:
    """One function. ``shapes``: of its inputs, by the name of the size.  indices: the last input holds indices.

    programs: in how many programs of a grid bytes are counted; few where all but the last move the same.
    """

    name: str
    fn: Callable[..., Any]
    shapes: dict[str, Shapes]
    peers: tuple[Peer, ...]
    indices: bool = False
    programs: int = 8

    def inputs(self, size: str, device: str = "cpu") -> tuple[Tensor, ...]:
        """Zeros, float16: bytes depend on shapes alone, and memory that nobody touches costs nothing."""
        made = [torch.zeros(shape, dtype=torch.float16, device=device) for shape in self.shapes[size]]
        if self.indices:
            made[-1] = torch.zeros(self.shapes[size][-1], dtype=torch.int64, device=device)
        return tuple(made)


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def layer_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w, b)


def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], w, 1e-6)


def add_rms_norm(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    s = x + r
    return F.rms_norm(s, s.shape[-1:], w, 1e-6), s


def cross_entropy(z: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(z, t, reduction="none")


def linear_cross_entropy(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(h, w), t, reduction="none")


def kl(p: Tensor, q: Tensor) -> Tensor:
    return F.kl_div(p.float(), q.float(), reduction="none").sum(-1)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def nearest(x: Tensor, c: Tensor) -> Tensor:
    return (x.square().sum(1, keepdim=True) + c.square().sum(1) - 2 * x @ c.T).argmin(1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal and without a normaliser: a row's scores with all rows up to it, times their values."""
    return (q @ k.transpose(-1, -2)).tril() @ v


def heads(length: int, width: int) -> Shapes:
    return ((4, 16, length, width),) * 3


def cache(length: int) -> Shapes:
    """One query a sequence, eight heads to one of K and V."""
    return ((16, 8, 8, 128), (16, 8, length, 128), (16, 8, length, 128))


TUTORIAL = "from the Triton tutorial; also stores the rows' logsumexp"
LSE = "also stores the rows' logsumexp"
# Its list begins with small tiles; these are the largest that it has for a head of this width, and that fit.
TILES_64 = {"BLOCK_M": 128, "BLOCK_N": 32}
TILES_128 = {"BLOCK_M": 128, "BLOCK_N": 128, "num_stages": 2}

CASES = (
    Case(
        "softmax",
        softmax,
        {"short rows": ((8192, 4096),), "long rows": ((4096, 32000),), "ragged": ((8191, 4001),)},
        (Peer("liger-kernel", by_hand.liger_softmax), Peer("flag-gems", by_hand.flag_gems_softmax)),
    ),
    Case(
        "layer norm",
        layer_norm,
        {"even": ((8192, 4096), (4096,), (4096,)), "ragged": ((8191, 4001), (4001,), (4001,))},
        (
            Peer("liger-kernel", by_hand.liger_layer_norm, also="also stores mean and 1/std"),
            Peer("fla-core", by_hand.fla_layer_norm, also="also stores mean and 1/std"),
            Peer("flag-gems", by_hand.flag_gems_layer_norm, also="also stores mean and 1/std"),
        ),
    ),
    Case(
        "rms norm",
        rms_norm,
        {"even": ((8192, 4096), (4096,)), "ragged": ((8191, 4001), (4001,))},
        (
            Peer("liger-kernel", by_hand.liger_rms_norm, also="also stores 1/rms"),
            Peer("fla-core", by_hand.fla_rms_norm, also="also stores 1/rms"),
            Peer("conch-triton-kernels", by_hand.conch_rms_norm),
        ),
    ),
    Case(
        "add, rms norm",
        add_rms_norm,
        {"even": ((8192, 4096), (8192, 4096), (4096,))},
        (Peer("liger-kernel", by_hand.liger_add_rms_norm, also="also stores 1/rms"),),
    ),
    Case(
        "kl",
        kl,
        {"even": ((4096, 32000),) * 2},
        (Peer("liger-kernel", by_hand.liger_kl),),
    ),
    Case(
        "cross-entropy",
        cross_entropy,
        {"even": ((4096, 32000), (4096,)), "ragged": ((4095, 50257), (4095,))},
        (
            Peer("liger-kernel", by_hand.liger_cross_entropy),
            Peer("fla-core", by_hand.fla_cross_entropy, also=LSE),
        ),
        indices=True,
    ),
    Case(
        "linear, cross-entropy",
        linear_cross_entropy,
        {"narrow": ((8192, 256), (8000, 256), (8192,)), "wide": ((8192, 1024), (4096, 1024), (8192,))},
        (Peer("cut-cross-entropy", by_hand.cce_linear_cross_entropy),),
        indices=True,
    ),
    Case(
        "k-means",
        nearest,
        {"even": ((1 << 20, 128), (1024, 128)), "ragged": ((1000003, 100), (1000, 100))},
        (Peer("flash-kmeans", by_hand.flash_kmeans_assign, also="without the squares of x and c, which come before"),),
    ),
    Case(
        "matmul",
        matmul,
        {"even": ((4096, 4096), (4096, 4096)), "ragged": ((4001, 4008), (4008, 3992))},
        (Peer("flag-gems", by_hand.flag_gems_matmul),),
    ),
    Case(
        "attention",
        attention,
        {"d=64": heads(4096, 64), "d=128": heads(4096, 128), "ragged": heads(4001, 128)},
        (
            Peer("flag-gems", by_hand.flag_gems_attention, TILES_64, TUTORIAL, ("d=64",)),
            Peer("flag-gems", by_hand.flag_gems_attention, TILES_128, TUTORIAL, ("d=128", "ragged")),
            Peer("fasterkernels", by_hand.fasterkernels_attention),
        ),
    ),
    Case(
        "causal attention",
        causal,
        {"d=64": heads(4096, 64), "d=128": heads(4096, 128), "ragged": heads(4001, 128)},
        (
            Peer("flag-gems", by_hand.flag_gems_causal, TILES_64, TUTORIAL, ("d=64",)),
            Peer("flag-gems", by_hand.flag_gems_causal, TILES_128, TUTORIAL, ("d=128", "ragged")),
            Peer("fla-core", by_hand.fla_causal, also=LSE),
        ),
        programs=32,
    ),
    Case(
        "decode",
        attention,
        {"even": cache(16384), "ragged": cache(16001)},
        (Peer("fasterkernels", by_hand.fasterkernels_decode),),
    ),
    Case(
        "linear attention",
        linear_attention,
        {"even": heads(4096, 64)},
        (Peer("fla-core", by_hand.fla_linear_attention, also="also stores the states between chunks"),),
    ),
)
