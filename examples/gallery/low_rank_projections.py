"""Attention whose projections are products of thin factors: the chain is multiplied in the cheap order, by cost.

    python examples/gallery/low_rank_projections.py

FlashSVD. `x @ (u_q @ w_q)` is written with the full matrix; it is never built.
"""

import torch

import fusecade


def attend(x: torch.Tensor, factors: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """x [n, d]; factors of the query, key and value projections, (u [d, r], w [r, d])."""
    q, k, v = (x @ (u @ w) for u, w in factors)
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v


def inputs_of(n: int, d: int, r: int, device: str, dtype: torch.dtype):
    draw = lambda *s: torch.randn(*s, device=device, dtype=dtype) / s[-1] ** 0.5  # noqa: E731
    return draw(n, d), [(draw(d, r), draw(r, d)) for _ in range(3)]


if __name__ == "__main__":
    inputs = inputs_of(1024, 128, 16, "cpu", torch.float32)
    kernel = fusecade.compile(attend, inputs, fuse="always")
    torch.testing.assert_close(kernel(*inputs), attend(*inputs), rtol=1e-4, atol=1e-5)
    print(fusecade.explain(attend, *inputs_of(8192, 128, 16, "meta", torch.bfloat16), target="sm_90"))
