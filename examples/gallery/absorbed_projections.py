"""Attention of few queries over many hidden states: the key and value projections move to the small side.

    python examples/gallery/absorbed_projections.py

EL-attention (arXiv:2105.04779). (x Wq)(h Wk)ᵀ = (x Wq Wkᵀ) hᵀ, and P (h Wv + b) = (P h) Wv + b since rows of P sum to 1:
keys and values of the hidden states are never built.
"""

import torch

import fusecade


def attend(
    x: torch.Tensor, h: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, bv: torch.Tensor
) -> torch.Tensor:
    """x [m, d] queries, h [n, d] hidden states, m much less than n; w* [d, d]."""
    q, k, v = x @ wq, h @ wk, h @ wv + bv
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v


def inputs_of(m: int, n: int, d: int, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    sizes = [(m, d), (n, d), (d, d), (d, d), (d, d), (d,)]
    return [torch.randn(s, device=device, dtype=dtype) / s[-1] ** 0.5 for s in sizes]


if __name__ == "__main__":
    inputs = inputs_of(16, 4096, 128, "cpu", torch.float32)
    kernel = fusecade.compile(attend, inputs, fuse="always")
    torch.testing.assert_close(kernel(*inputs), attend(*inputs), rtol=1e-4, atol=1e-5)
    print(fusecade.explain(attend, *inputs_of(16, 65536, 128, "meta", torch.bfloat16), target="sm_90"))
