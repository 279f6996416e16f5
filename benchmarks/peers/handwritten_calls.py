"""How each package's own launcher is called for a function of the comparison.

Nothing here knows a tile size: what a launcher picks is what is compared. An adapter takes the arguments that our function
takes, brings them into the layout that the package wants, and calls it. Packages are imported when they are called.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest.mock import patch

from torch import Tensor


@dataclass(frozen=True)
class Peer:
    """One package's kernels for a function.

    package: as it is called on PyPI.  call: the adapter.  wanted: constants of the configuration to take from an
    autotuner's list, where the first of the list is one that its authors put there for other sizes.
    also: what these kernels do beyond, or short of, our function.  sizes: the names of those that it is for; () is all.
    """

    package: str
    call: Callable[..., Any]
    wanted: Mapping[str, int] = field(default_factory=dict)
    also: str = ""
    sizes: tuple[str, ...] = ()


@cache
def flag_gems() -> None:
    """Import flag-gems, and turn off its own caches of tuned kernels, which go round Triton's way to a launch."""
    import importlib

    import triton
    from triton.runtime import autotuner
    from triton.runtime.interpreter import InterpretedFunction

    with ExitStack() as patched:
        if os.environ.get("TRITON_INTERPRET") == "1":  # its decorators insist on functions that are compiled
            for module in (triton.runtime, triton.runtime.jit):
                patched.enter_context(patch.object(module, "JITFunction", InterpretedFunction))
            for name, value in {"params": [], "signature": None, "cache_key": ""}.items():
                patched.enter_context(patch.object(InterpretedFunction, name, value, create=True))
        libentry = importlib.import_module("flag_gems.utils.libentry")
    libentry.LibEntry.run = lambda entry, *args, **kwargs: entry.fn.run(*args, **kwargs)
    libentry.LibTuner.run = lambda tuner, *args, **kwargs: autotuner.Autotuner.run(tuner, *args, **kwargs)


def flash_linear_attention(name: str) -> Any:
    """A module of fla-core. It asks for the shared memory of a tensor's device by its index: here there is but one."""
    import importlib
    import sys

    found = importlib.import_module(name)
    from fla.utils.hardware import check_shared_mem

    for module in [module for path, module in sys.modules.items() if path.startswith("fla.ops.")]:
        if hasattr(module, "check_shared_mem"):
            module.check_shared_mem = lambda arch="none", *_: check_shared_mem(arch)
    return found


def liger_softmax(x: Tensor) -> Any:
    from liger_kernel.ops.softmax import _softmax_forward

    return _softmax_forward(x)


def flag_gems_softmax(x: Tensor) -> Any:
    flag_gems()
    from flag_gems.ops.softmax import softmax

    return softmax(x, -1)


def liger_layer_norm(x: Tensor, w: Tensor, b: Tensor) -> Any:
    from liger_kernel.ops.layer_norm import layer_norm_forward

    return layer_norm_forward(x, w, b, 1e-5)


def fla_layer_norm(x: Tensor, w: Tensor, b: Tensor) -> Any:
    from fla.modules.norm.layernorm import layer_norm_fwd

    return layer_norm_fwd(x, w, b, 1e-5)


def flag_gems_layer_norm(x: Tensor, w: Tensor, b: Tensor) -> Any:
    flag_gems()
    from flag_gems.ops.layernorm import layer_norm

    return layer_norm(x, x.shape[-1:], w, b)


def liger_rms_norm(x: Tensor, w: Tensor) -> Any:
    from liger_kernel.ops.rms_norm import rms_norm_forward

    return rms_norm_forward(x, w, 1e-6, 0.0, "llama", None)


def fla_rms_norm(x: Tensor, w: Tensor) -> Any:
    from fla.modules.norm.layernorm import layer_norm_fwd

    return layer_norm_fwd(x, w, None, 1e-6, is_rms_norm=True)


def conch_rms_norm(x: Tensor, w: Tensor) -> Any:
    from conch.ops.normalization.rms_norm import rms_norm

    return rms_norm(x, w, 1e-6)


def liger_add_rms_norm(x: Tensor, r: Tensor, w: Tensor) -> Any:
    from liger_kernel.ops.fused_add_rms_norm import fused_add_rms_norm_forward

    return fused_add_rms_norm_forward(x, r, w, 1e-6, 0.0, "llama")


def liger_cross_entropy(z: Tensor, t: Tensor) -> Any:
    from liger_kernel.ops.cross_entropy import cross_entropy_forward

    return cross_entropy_forward(z, t, None, -100, 0.0, 0.0, "none", None, False)


def fla_cross_entropy(z: Tensor, t: Tensor) -> Any:
    from fla.modules.fused_cross_entropy.ops import cross_entropy_fwd

    return cross_entropy_fwd(z, t)


def cce_linear_cross_entropy(h: Tensor, w: Tensor, t: Tensor) -> Any:
    from cut_cross_entropy.cce_lse_forward import cce_lse_forward_kernel
    from cut_cross_entropy.indexed_dot import indexed_neg_dot_forward_kernel

    return cce_lse_forward_kernel(h, w), indexed_neg_dot_forward_kernel(h, w, t)


def liger_kl(p: Tensor, q: Tensor) -> Any:
    from liger_kernel.ops.kl_div import kldiv_forward_triton

    return kldiv_forward_triton(p, q, False, "batchmean", 1e-10)


def flag_gems_matmul(a: Tensor, b: Tensor) -> Any:
    flag_gems()
    from flag_gems.ops.mm import general_mm

    (m, k), n = a.shape, b.shape[1]
    return general_mm(a, b, a.new_empty(m, n), m, n, k)


def flash_kmeans_assign(x: Tensor, c: Tensor) -> Any:
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton

    squares = x.float().square().sum(1)
    return euclid_assign_triton(x[None], c[None], squares[None])


def flag_gems_attention(q: Tensor, k: Tensor, v: Tensor) -> Any:
    flag_gems()
    from flag_gems.ops.attention import scaled_dot_product_attention_forward

    return scaled_dot_product_attention_forward(q, k, v)


def flag_gems_causal(q: Tensor, k: Tensor, v: Tensor) -> Any:
    flag_gems()
    from flag_gems.ops.attention import scaled_dot_product_attention_forward

    return scaled_dot_product_attention_forward(q, k, v, is_causal=True)


def fasterkernels_attention(q: Tensor, k: Tensor, v: Tensor) -> Any:
    from fskernels.triton.triton_fa2 import flash_attention_2_fwd

    return flash_attention_2_fwd(q, k, v)


def fla_causal(q: Tensor, k: Tensor, v: Tensor) -> Any:
    module = flash_linear_attention("fla.ops.attn.parallel")
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    return module.parallel_attn_fwd(q, k, v, None, None, q.shape[-1] ** -0.5)


def fasterkernels_decode(q: Tensor, k: Tensor, v: Tensor) -> Any:
    """(batch, heads of K and V, group, D) queries: theirs are flat in heads."""
    import torch
    from fskernels.triton.triton_gqa_decode_hf import flash_decode_gqa_hf_dense_optimized

    lengths = torch.full((q.shape[0],), k.shape[2], dtype=torch.int32)
    return flash_decode_gqa_hf_dense_optimized(q.flatten(1, 2), k, v, lengths)


def fla_linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Any:
    module = flash_linear_attention("fla.ops.simple_gla.chunk")
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    return module.chunk_simple_gla_fwd(q, k, v, scale=1.0)
