"""One query against a long cache of keys: the keys are split over programs, and the parts are merged.

    python examples/gallery/decode.py

Flash-Decoding (Dao et al., 2023); LeanAttention (arXiv:2405.10480). Nothing below says how many parts there are.
"""

import torch

import fusecade


def decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q [h, 1, d]; k, v [h, n, d]."""
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v


def shapes(h: int, n: int, d: int) -> list[tuple[int, ...]]:
    return [(h, 1, d), (h, n, d), (h, n, d)]


if __name__ == "__main__":
    inputs = [torch.randn(s) for s in shapes(2, 16384, 64)]
    kernel = fusecade.compile(decode, inputs, fuse="always")
    torch.testing.assert_close(kernel(*inputs), decode(*inputs), rtol=1e-4, atol=1e-5)

    on_gpu = [torch.empty(s, dtype=torch.bfloat16, device="meta") for s in shapes(8, 65536, 128)]
    print(fusecade.explain(decode, *on_gpu, target="sm_90"))
