"""softmax(q kᵀ / √d + mask) v in one pass over the keys: nothing of size N × N is written, no tile of the future is read.

    python examples/gallery/flash_attention.py

Dao et al., 2022 (arXiv:2205.14135). The function below is its definition in plain PyTorch, with grouped query heads.
"""

import torch

import fusecade


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q [b, h, n, d]; k, v [b, h / 4, n, d]: four query heads share a key head."""
    k, v = (x.repeat_interleave(4, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    n = q.shape[-2]
    future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    return torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1) @ v


def shapes(b: int, h: int, n: int, d: int) -> list[tuple[int, ...]]:
    return [(b, h, n, d), (b, h // 4, n, d), (b, h // 4, n, d)]


if __name__ == "__main__":
    inputs = [torch.randn(s) for s in shapes(1, 8, 1024, 64)]
    kernel = fusecade.compile(attend, inputs, fuse="always")
    torch.testing.assert_close(kernel(*inputs), attend(*inputs), rtol=1e-4, atol=1e-5)

    on_gpu = [torch.empty(s, dtype=torch.bfloat16, device="meta") for s in shapes(4, 32, 8192, 128)]
    report = fusecade.explain(attend, *on_gpu, target="sm_90")
    print(report)
