"""A training step of attention: what it saves for its backward, and what it takes, by each way of choosing.

    python benchmarks/saved.py            # 8 heads, 1024 and 2048 rows of 64; about two minutes on two cores
    python benchmarks/saved.py --causal   # the same with a causal mask, as language models write it
    python benchmarks/saved.py --quick    # 128 rows: does it run at all?

The program is softmax(q kᵀ / 8 + mask) v in fp32, with the gradients of q, k and v. Contenders take turns in one process; a
ratio is that of two neighbours in time, to the step that Inductor makes. "saved" counts the tensors that autograd keeps
between forward and backward, inputs not among them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from run import Spread, interleave

import fusecade  # noqa: F401  (registers the backend)

HEADS, WIDTH = 8, 64


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(WIDTH), -1) @ v


def attend_causally(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    at = torch.arange(q.shape[-2])
    mask = torch.where(at[:, None] >= at, 0.0, torch.finfo(torch.float32).min)
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(WIDTH) + mask, -1) @ v


Program = Callable[..., torch.Tensor]
CONTENDERS: dict[str, Callable[[Program], Program]] = {
    "eager": lambda fn: fn,
    "inductor": lambda fn: torch.compile(fn),
    "fusecade, save=torch": lambda fn: torch.compile(fn, backend="fusecade", options={"save": "torch"}),
    "fusecade": lambda fn: torch.compile(fn, backend="fusecade"),
}


def step(
    called: Callable[..., torch.Tensor], inputs: list[torch.Tensor], seed: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(called(*inputs), inputs, seed)


def saved_bytes(called: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> int:
    given = {t.untyped_storage().data_ptr() for t in inputs}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in given:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        called(*inputs)
    return sum(kept.values())


def measure(fn: Program, rows: int, rounds: int) -> Table:
    torch.manual_seed(0)
    inputs = [torch.randn(HEADS, rows, WIDTH, requires_grad=True) for _ in range(3)]
    seed = torch.randn(HEADS, rows, WIDTH)
    reference = step(fn, [x.detach().double().requires_grad_() for x in inputs], seed.double())
    calls, saved = {}, {}
    for name, make in CONTENDERS.items():
        torch.compiler.reset()
        called = make(fn)
        gradients = step(called, inputs, seed)
        for ours, right in zip(gradients, reference, strict=True):
            torch.testing.assert_close(ours.double(), right, rtol=1e-3, atol=1e-4)
        saved[name] = saved_bytes(called, inputs)
        calls[name] = lambda called=called: step(called, inputs, seed)
    seconds = interleave(calls, rounds)
    table = Table(
        title=f"{HEADS} × {rows} × {WIDTH}, a training step", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False
    )
    for heading in ("", "saved MiB", "of Inductor's time: median (smallest to largest)"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for name, taken in seconds.items():
        ratio = Spread.of(ours / theirs for ours, theirs in zip(taken, seconds["inductor"], strict=True))
        table.add_row(name, f"{saved[name] / 2**20:.2f}", f"{ratio.median:.2f} ({ratio.min:.2f} to {ratio.max:.2f})")
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a training step of attention saves, and what it takes.")
    parser.add_argument("--quick", action="store_true", help="few rows, few rounds")
    parser.add_argument("--causal", action="store_true", help="with a causal mask")
    parser.add_argument("--rounds", type=int, help="of one step each (default 15, with --quick 2)")
    chosen = parser.parse_args(arguments)
    console = Console(width=100)
    for rows in (128,) if chosen.quick else (1024, 2048):
        console.print(
            measure(attend_causally if chosen.causal else attend, rows, chosen.rounds or (2 if chosen.quick else 15))
        )


if __name__ == "__main__":
    main()
