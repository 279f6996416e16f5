"""Several prompts laid end to end in one row: each token sees its own prompt's past, without a dense mask.

    python examples/gallery/prepacked.py

Prepacking (arXiv:2404.09529). The mask is a comparison of segment numbers; positions restart with each segment.
"""

import torch

import fusecade


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segment: torch.Tensor) -> torch.Tensor:
    """q, k, v [h, n, d]; segment [n], not decreasing."""
    at = torch.arange(q.shape[-2], device=q.device)
    mine = (segment[:, None] == segment) & (at[:, None] >= at)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return torch.softmax(scores.masked_fill(~mine, float("-inf")), dim=-1) @ v


def inputs_of(h: int, n: int, d: int, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    segment = torch.arange(n, device=device) // 100
    return [*(torch.randn(h, n, d, device=device, dtype=dtype) for _ in range(3)), segment]


if __name__ == "__main__":
    inputs = inputs_of(4, 1024, 64, "cpu", torch.float32)
    kernel = fusecade.compile(attend, inputs, fuse="always")
    torch.testing.assert_close(kernel(*inputs), attend(*inputs), rtol=1e-4, atol=1e-5)
    print(fusecade.explain(attend, *inputs_of(16, 8192, 64, "meta", torch.bfloat16), target="sm_90"))
