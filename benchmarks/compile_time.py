"""Compile times: the first call of a model in a fresh process, by Inductor and by Fusecade, with empty and with kept caches.

    python benchmarks/compile_time.py                        # all models, forward and step; about two hours on two cores
    python benchmarks/compile_time.py --model gpt2 --what step --repeats 1
    python benchmarks/compile_time.py --quick                # few layers, short sequences, once each: does it run at all?

Each measurement is a process of its own, and contenders take turns. "cold" begins with empty cache folders (Fusecade's,
Inductor's with the headers it compiles for a machine, and Triton's), "warm" is a second process with the folders that the
cold one left. What counts is the first call less the second one: imports of PyTorch and of transformers, and the making of
the model, are not in it; what a compiler imports when it is first asked is. Models are those of `models.py`, whole, or with
one or two layers (`--quick`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

LENGTHS = {"bert": 512, "gpt2": 1024, "llama": 2048}
SHORT = 64
ATTENTION = ("eager", "sdpa")  # as in `models.py`
WHAT = ("forward", "step")
CONTENDERS = ("inductor", "fusecade")
STATES = ("cold", "warm")
FOLDERS = {
    "FUSECADE_CACHE_DIR": "fusecade",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "TMPDIR": "temporary",  # here Inductor keeps the headers that it compiles once for a machine, whatever its cache is
}
COLD_WANTED, WARM_WANTED = 1.3, 0.5  # at most: of Inductor's cold time; of our own cold time
LONGEST = 1800  # seconds of one process


@dataclass(frozen=True)
class Taken:
    """Seconds of one process. compile: of the first call less the second."""

    compile: float
    second_call: float


def measure(name: str, attention: str, kind: str, contender: str, quick: bool) -> Taken:
    """In this process: the first and the second call of a model."""
    import models
    import torch

    torch.manual_seed(0)
    made, _ = models.MODELS[name](quick, attention)
    made = made.eval()
    ids = torch.randint(0, made.config.vocab_size, (1, SHORT if quick else LENGTHS[name]))
    called = models.COMPILERS[contender](made)
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        models.KINDS[kind](made, called, ids)
        taken.append(time.perf_counter() - start)
    return Taken(max(0.0, taken[0] - taken[1]), taken[1])


def in_a_process(name: str, attention: str, kind: str, contender: str, quick: bool, caches: Path) -> Taken:
    """The same in a fresh process with these cache folders.  Raises RuntimeError with what it said where it fails."""
    for folder in FOLDERS.values():
        (caches / folder).mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, __file__, "--child", name, attention, kind, contender, *(["--quick"] if quick else [])]
    environment = os.environ | {variable: str(caches / folder) for variable, folder in FOLDERS.items()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} {kind}, {attention}, by {contender} failed:\n{done.stderr[-2000:]}")
    return Taken(**json.loads(done.stdout.splitlines()[-1]))


def run_case(name: str, attention: str, kind: str, *, quick: bool, repeats: int, tick: Callable[[str], None]) -> dict:
    """All measurements of one model, and the ratios within each round."""
    taken: dict[str, dict[str, list[Taken]]] = {c: {s: [] for s in STATES} for c in CONTENDERS}
    for n in range(repeats):
        for contender in CONTENDERS if n % 2 == 0 else CONTENDERS[::-1]:
            with tempfile.TemporaryDirectory(prefix="compile-time-") as folder:
                for state in STATES:
                    tick(f"{name} {kind}, {attention}: {contender}, {state}, {n + 1} of {repeats}")
                    taken[contender][state].append(in_a_process(name, attention, kind, contender, quick, Path(folder)))
    seconds = {c: {s: [t.compile for t in taken[c][s]] for s in STATES} for c in CONTENDERS}
    ours, theirs = seconds["fusecade"], seconds["inductor"]
    return {
        "case": f"{name} {kind}, {attention}",
        "quick": quick,
        "seconds": {c: {s: spread(seconds[c][s]) for s in STATES} for c in CONTENDERS},
        "second_call": {c: spread([t.second_call for s in STATES for t in taken[c][s]]) for c in CONTENDERS},
        "cold_to_inductor": spread([a / b for a, b in zip(ours["cold"], theirs["cold"], strict=True)]),
        "warm_to_cold": spread([a / b for a, b in zip(ours["warm"], ours["cold"], strict=True)]),
    }


def spread(values: list[float]) -> dict:
    from run import Spread

    return asdict(Spread.of(values))


def table(results: list[dict]) -> Table:
    made = Table(title="seconds to compile: median (smallest to largest)", title_justify="left", box=box.SIMPLE_HEAD)
    made.add_column("case", no_wrap=True)
    for heading in (
        *(f"{c}, {s}" for c in CONTENDERS for s in STATES),
        f"cold, ≤ {COLD_WANTED}",
        f"warm, ≤ {WARM_WANTED}",
    ):
        made.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        cells = [
            f"{x['median']:.1f} ({x['min']:.1f}–{x['max']:.1f})"
            for x in (result["seconds"][c][s] for c in CONTENDERS for s in STATES)
        ]
        for key, wanted in (("cold_to_inductor", COLD_WANTED), ("warm_to_cold", WARM_WANTED)):
            value = result[key]["median"]
            cells.append(f"[{'green' if value <= wanted else 'red'}]{value:.2f}[/]")
        made.add_row(result["case"], *cells)
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time what compiling takes, with empty and with kept caches.")
    parser.add_argument("--model", action="append", choices=list(LENGTHS), help="only this one; may be repeated")
    parser.add_argument("--what", action="append", choices=WHAT, help="only this; may be repeated")
    parser.add_argument("--attention", action="append", choices=ATTENTION, help="only this; may be repeated")
    parser.add_argument("--quick", action="store_true", help="few layers, short sequences, one repeat")
    parser.add_argument("--repeats", type=int, help="processes of each kind (default 3, with --quick 1)")
    parser.add_argument("--json", type=Path, help="where the JSON file goes (default: benchmarks/results/)")
    parser.add_argument("--child", nargs=4, metavar=("MODEL", "ATTENTION", "WHAT", "CONTENDER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        print(json.dumps(asdict(measure(*chosen.child, chosen.quick))))
        return 0
    from run import RESULTS, versions

    repeats = chosen.repeats or (1 if chosen.quick else 3)
    path = (
        chosen.json or RESULTS / f"compile-time-cpu-{date.today().isoformat()}{'-quick' if chosen.quick else ''}.json"
    )
    console, results = Console(), []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        every = itertools.product(chosen.model or LENGTHS, chosen.attention or ATTENTION, chosen.what or WHAT)
        for name, attention, kind in every:
            tick = lambda text: progress.update(task, description=text)  # noqa: E731
            results.append(run_case(name, attention, kind, quick=chosen.quick, repeats=repeats, tick=tick))
            body = {"versions": versions(), "repeats": repeats, "results": results}
            path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(table(results))
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
