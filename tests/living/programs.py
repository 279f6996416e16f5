"""Programs that fuse, as functions and modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v


def qkv(*shape: int, **named) -> list[torch.Tensor]:
    return [torch.randn(*shape, **named) for _ in range(3)]


class Block(nn.Module):
    """A head of attention behind a norm, and a projection."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm, self.into, self.up = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.into(self.norm(x)).chunk(3, -1)
        return x + self.up(attend(q, k, v))


def compiled(fn: Any, remainder: str = "eager", options: dict[str, Any] | None = None, **named: Any) -> Any:
    """Everything fuses that can: the sizes here are too small to pay."""
    options = {"fuse": "always", "remainder": remainder, **(options or {})}
    return torch.compile(fn, backend="fusecade", options=options, **named)


def same_gradients(model: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4, rtol=1e-3)


RAISES = "def {function}(*arguments):\n    raise ValueError('no such tile')\n"
