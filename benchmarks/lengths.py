"""Attention on a CPU, compiled once for a length that is likely, and called with other ones.

    python benchmarks/lengths.py                               # compiled for 128, called with 128 to 2048; a minute
    python benchmarks/lengths.py --likely 512 --lengths 2048 --fuse by_cost

Contenders take turns in one process; medians of rounds.  "fixed" is compiled for that length alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

HEADS, FEATURES = 8, 64
ENOUGH_S = 0.01  # of calls that are timed together


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / FEATURES**0.5, -1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.transpose(-1, -2) / FEATURES**0.5
    at = torch.arange(q.shape[-2], device=q.device)
    return torch.softmax(s.masked_fill(at[:, None] < at[None, :], float("-inf")), -1) @ v


def inputs(length: int) -> list[Tensor]:
    return [torch.randn(HEADS, length, FEATURES) for _ in range(3)]


def compiled(fn: Callable, length: int, fuse: str, dynamic: bool) -> Callable:
    """Compiled for one length, or with that as the likely one, and called once."""
    run = torch.compile(
        lambda *a: fn(*a), backend="fusecade", dynamic=None if dynamic else False, options={"fuse": fuse}
    )
    given = inputs(length)
    for x in given if dynamic else ():
        torch._dynamo.mark_dynamic(x, 1)
    run(*given)
    return run


def medians(contenders: dict[str, Callable], length: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a call, contenders in turns."""
    given = inputs(length)
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    calls = {name: max(1, int(ENOUGH_S / _seconds(run, given, 3))) for name, run in contenders.items()}
    for _ in range(rounds):
        for name, run in contenders.items():
            taken[name].append(_seconds(run, given, calls[name]))
    return {name: 1e3 * statistics.median(seconds) for name, seconds in taken.items()}


def _seconds(run: Callable, given: list[Tensor], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run(*given)
    return (time.perf_counter() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--likely", type=int, default=128, help="the length that is compiled for")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--fuse", choices=["always", "by_cost"], default="always")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch._dynamo.config.recompile_limit = 4 * len(given.lengths)
    table = Table(title=f"compiled for {given.likely}, fuse={given.fuse!r}; milliseconds")
    for column in ("program", "length", "dynamic", "fixed", "eager", "dynamic / fixed"):
        table.add_column(column, justify="left" if column == "program" else "right")
    with torch.no_grad():
        for fn in (attention, causal):
            dynamic = compiled(fn, given.likely, given.fuse, True)
            for length in given.lengths:
                fixed = compiled(fn, length, given.fuse, False)
                ms = medians({"dynamic": dynamic, "fixed": fixed, "eager": fn}, length, given.rounds)
                row = [f"{ms[name]:.2f}" for name in ("dynamic", "fixed", "eager")]
                table.add_row(fn.__name__, str(length), *row, f"{ms['dynamic'] / ms['fixed']:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
