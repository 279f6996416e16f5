"""Attention over the keys that a learned bias keeps: tiles without such a key are not loaded.

    python examples/gallery/dynamic_mask.py

Dynamic mask attention. Which keys stay is data, not a predicate on indices: each step asks it before keys and values are
loaded. On a GPU that is worth it where most tiles are closed, and has to be asked for.
"""

import torch

import fusecade


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, kept: int = 256) -> torch.Tensor:
    """q, k, v [h, n, d]; bias [h, n], one number a key: the `kept` largest stay."""
    threshold = bias.topk(kept, dim=-1).values[:, -1:]
    mask = torch.where(bias < threshold, float("-inf"), bias)
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask[:, None, :], dim=-1) @ v


def shapes(h: int, n: int, d: int) -> list[tuple[int, ...]]:
    return [(h, n, d), (h, n, d), (h, n, d), (h, n)]


if __name__ == "__main__":
    inputs = [torch.randn(s) for s in shapes(4, 1024, 64)]
    kernel = fusecade.compile(attend, inputs, fuse="always", skip="always")
    torch.testing.assert_close(kernel(*inputs), attend(*inputs), rtol=1e-4, atol=1e-5)

    on_gpu = [torch.empty(s, dtype=torch.bfloat16, device="meta") for s in shapes(16, 8192, 64)]
    print(fusecade.explain(attend, *on_gpu, target="sm_90", skip="always"))
