"""Times eager PyTorch, Inductor and Fusecade on a GPU, and holds the model's predictions against the clock.

    python benchmarks/gpu.py                     # all cases; JSON goes to benchmarks/results/
    python benchmarks/gpu.py --case causal --rounds 50
    python benchmarks/gpu.py --dry-run           # tiny sizes on the CPU: does the script itself run?

Each round runs every contender once, in turning order, with the L2 cache emptied before each; times are of CUDA events
around one call, so launches count. Bytes are the model's; achieved bandwidth is those over the median time, beside the
bandwidth of a plain copy measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from run import RESULTS, Spread, versions
from torch import Tensor
from torch.nn import functional as F

import fusecade

FLUSH_BYTES = 512 << 20
COPY_BYTES = 2 << 30


@dataclass(frozen=True)
class Case:
    """One program: the function, and the shapes of its inputs, real and tiny; an int entry makes indices below it."""

    name: str
    fn: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    tiny: tuple[tuple[int, ...], ...]
    below: int = 0  # of the last input, where it is a vector of indices
    tiny_below: int = 0
    dtype: torch.dtype = torch.bfloat16


def softmax_times_v(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / 8, -1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def decode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / 8, -1) @ v


def nearest(x: Tensor, c: Tensor) -> Tensor:
    return (x.square().sum(1, keepdim=True) + c.square().sum(1) - 2 * x @ c.T).argmin(1)


def head(h: Tensor, e: Tensor) -> Tensor:
    return torch.log1p(torch.relu(h @ e.T)).amax(1)


def cross_entropy(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(h, w), t, reduction="none")


def entropy(h: Tensor, w: Tensor) -> Tensor:
    z = F.linear(h, w)
    return -(torch.softmax(z, -1) * torch.log_softmax(z, -1)).sum(-1)


def logsumexp(x: Tensor) -> Tensor:
    return torch.logsumexp(x, -1)


def rms_norm_linear(x: Tensor, g: Tensor, w: Tensor) -> Tensor:
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * g) @ w.T


CASES = [
    Case("softmax-v", softmax_times_v, ((32, 4096, 64),) * 3, ((2, 64, 16),) * 3),
    Case("causal", causal, ((4, 16, 4096, 128),) * 3, ((1, 2, 64, 16),) * 3),
    Case("decode", decode, ((32, 1, 128), (32, 65536, 128), (32, 65536, 128)), ((2, 1, 16), (2, 256, 16), (2, 256, 16))),
    Case("kmeans", nearest, ((1 << 20, 128), (1024, 128)), ((256, 16), (64, 16)), dtype=torch.float16),
    Case("lm-head", head, ((32, 512, 768), (30522, 768)), ((2, 32, 16), (64, 16))),
    Case("cross-entropy", cross_entropy, ((32768, 256), (32000, 256), (32768,)), ((64, 16), (128, 16), (64,)), 32000, 128),
    Case("entropy", entropy, ((32768, 256), (32000, 256)), ((64, 16), (128, 16))),
    Case("logsumexp", logsumexp, ((16384, 32000),), ((64, 128),)),
    Case("rms-norm-linear", rms_norm_linear, ((32768, 4096), (4096,), (128, 4096)), ((64, 32), (32,), (16, 32))),
]  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One case. ``us``: of each contender. ``speedup[c]``: how many times faster Fusecade is than ``c``, per round.

    ``predicted_us``, ``hbm_bytes`` and ``bytes_bound`` are the model's for Fusecade's kernels; ``error`` is the largest
    distance from float32 eager, over eager's own in the same dtype.
    """

    case: str
    us: dict[str, Spread]
    speedup: dict[str, Spread]
    kernels: list[dict[str, Any]]
    predicted_us: float
    hbm_bytes: int
    bytes_per_s: float
    error: float | None
    failed: str | None = None


def inputs_of(case: Case, device: str, tiny: bool) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else case.dtype
    shapes, below = (case.tiny, case.tiny_below) if tiny else (case.shapes, case.below)
    made = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
    if below:
        made[-1] = torch.randint(below, shapes[-1], device=device)
    return tuple(made)


def measure(case: Case, device: str, rounds: int, tiny: bool) -> Result:
    """Time one case; what a contender raises is kept, and the others go on."""
    torch.compiler.reset()
    args = inputs_of(case, device, tiny)
    fuse = "always" if tiny else "by_cost"
    calls: dict[str, Callable[[], Any]] = {"eager": lambda: case.fn(*args)}
    inductor = torch.compile(case.fn)
    calls["inductor"] = lambda: inductor(*args)
    kernel = fusecade.compile(case.fn, args, fuse=fuse, remainder="eager" if tiny else "inductor")
    calls["fusecade"] = lambda: kernel(*args)
    outputs = {}
    for name, call in list(calls.items()):
        try:
            outputs[name] = call()
        except torch.OutOfMemoryError:
            del calls[name]  # eager may need what no GPU has: the point of fusing
    times = interleave(calls, rounds, device)
    report = kernel.report
    told = ("name", "params", "passes", "predicted_us", "bound_by", "hbm_bytes", "hbm_bytes_bound")
    made = [{what: getattr(k, what) for what in told} for k in report.kernels]
    moved = sum(k.hbm_bytes * k.calls for k in report.kernels)
    ours = Spread.of(times["fusecade"])
    return Result(
        case.name,
        {name: Spread.of(t) for name, t in times.items()},
        {
            n: Spread.of(a / b for a, b in zip(t, times["fusecade"], strict=True))
            for n, t in times.items()
            if n != "fusecade"
        },
        made,
        sum(k.predicted_us * k.calls for k in report.kernels),
        moved,
        moved / ours.median * 1e6,
        error_over_eager(case, args, outputs),
    )


def interleave(calls: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, list[float]]:
    """Microseconds of each call in each round, from a cold cache; the order turns."""
    names = list(calls)
    flush = torch.empty(FLUSH_BYTES if device != "cpu" else 1, dtype=torch.int8, device=device)
    for name in names * 2:
        calls[name]()
    found: dict[str, list[float]] = {name: [] for name in names}
    for n in range(rounds):
        turn = n % len(names)
        for name in names[turn:] + names[:turn]:
            flush.zero_()
            found[name].append(clock(calls[name], device))
    return found


def clock(call: Callable[[], Any], device: str) -> float:
    """Microseconds of one call."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e6
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) * 1e3


def error_over_eager(case: Case, args: tuple[Tensor, ...], outputs: dict[str, Any]) -> float | None:
    """Largest error of Fusecade over that of eager, both against float32; None where that is too large, or indices."""
    mine, eager = outputs["fusecade"], outputs.get("eager")
    if not isinstance(eager, Tensor) or not eager.is_floating_point() or eager.dtype == torch.float32:
        return None
    try:
        exact = case.fn(*[a.float() if a.is_floating_point() else a for a in args])
    except torch.OutOfMemoryError:
        return None
    scale = torch.finfo(eager.dtype).eps * exact.abs().max()
    return float((mine.float() - exact).abs().max() / ((eager.float() - exact).abs().max() + scale))


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of a plain copy; the best of ten."""
    size = COPY_BYTES if device != "cpu" else 1 << 24
    a, b = (torch.empty(size, dtype=torch.int8, device=device) for _ in range(2))
    b.copy_(a)
    return 2 * size / min(clock(lambda: b.copy_(a), device) for _ in range(10)) * 1e6


def table(results: list[Result], bandwidth: float) -> Table:
    made = Table(title=f"microseconds, cold cache; a copy runs at {bandwidth / 1e12:.2f} TB/s", box=box.SIMPLE_HEAD)
    for heading in (
        "case",
        "eager",
        "inductor",
        "fusecade",
        "vs eager",
        "vs inductor",
        "predicted",
        "of copy",
        "error",
    ):
        made.add_column(heading, justify="left" if heading == "case" else "right")
    for r in results:
        if r.failed:
            made.add_row(r.case, r.failed)
            continue
        us = [f"{r.us[n].median:,.0f}" if n in r.us else "" for n in ("eager", "inductor", "fusecade")]
        times = [f"{s.median:.2f} ({s.min:.2f}–{s.max:.2f})" for s in map(r.speedup.get, ("eager", "inductor")) if s]
        made.add_row(r.case, *us, *times, f"{r.predicted_us:,.0f}", f"{r.bytes_per_s / bandwidth:.2f}",
                     "" if r.error is None else f"{r.error:.2f}")  # fmt: skip
    return made


def main(arguments: list[str] | None = None) -> int:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description="Time eager PyTorch, Inductor and Fusecade on a GPU.")
    parser.add_argument("--case", action="append", choices=names, help="only this case; may be repeated")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU where there is no GPU")
    parser.add_argument("--json", type=Path, help="where the JSON file goes (default: benchmarks/results/)")
    chosen = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not chosen.dry_run:
        parser.error("there is no CUDA device here; --dry-run tries the script on the CPU")
    console = Console(width=160)
    results = []
    bandwidth = copy_bandwidth(device)
    with torch.no_grad():
        for case in [case for case in CASES if case.name in (chosen.case or names)]:
            console.print(case.name, highlight=False)
            try:
                results.append(measure(case, device, chosen.rounds, chosen.dry_run))
            except Exception as error:  # one case must not cost the others their turn on a borrowed machine
                if chosen.dry_run:
                    raise
                results.append(Result(case.name, {}, {}, [], 0.0, 0, 0.0, None, f"{type(error).__name__}: {error}"))
    name = torch.cuda.get_device_name().replace(" ", "-").lower() if device == "cuda" else "dry-run"
    path = chosen.json or RESULTS / f"{date.today().isoformat()}-{name}.json"
    body = {"versions": versions(), "device": name, "rounds": chosen.rounds, "copy_bytes_per_s": bandwidth,
            "results": [asdict(r) for r in results]}  # fmt: skip
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    console.print(table(results, bandwidth))
    console.print(f"written to {path}", highlight=False)
    return 1 if any(r.failed for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
