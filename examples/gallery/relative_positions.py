"""Attention with relative positions, made as Music Transformer makes them: pad, reshape, slice.

    python examples/gallery/relative_positions.py

Huang et al., 2018 (arXiv:1809.04281). The skew is an access at j - i + L - 1 wherever the mask leaves anything, and
q @ e.T is computed where it is read: for a tile of rows and keys, with a band of the embeddings. No [L, L] tensor of
relative logits is written, nor anything else of that size.
"""

import torch
from torch.nn import functional as F

import fusecade


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """q, k, v [h, L, d]; e [L, d], one embedding for each distance, the farthest first."""
    relative = F.pad(q @ e.T, (1, 0))  # [h, L, L + 1]
    h, n, m = relative.shape
    relative = relative.reshape(h, m, n)[:, 1:]
    scores = (q @ k.transpose(-1, -2) + relative) / q.shape[-1] ** 0.5
    future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    return torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1) @ v


def shapes(h: int, n: int, d: int) -> list[tuple[int, ...]]:
    return [(h, n, d), (h, n, d), (h, n, d), (n, d)]


if __name__ == "__main__":
    inputs = [torch.randn(s) for s in shapes(4, 512, 64)]
    kernel = fusecade.compile(attend, inputs, fuse="always")
    torch.testing.assert_close(kernel(*inputs), attend(*inputs), rtol=1e-4, atol=1e-5)

    on_gpu = [torch.empty(s, dtype=torch.bfloat16, device="meta") for s in shapes(16, 4096, 64)]
    print(fusecade.explain(attend, *on_gpu, target="sm_90"))
