"""The tuner held against exhaustive search, on the kernels of the gallery and on this machine's CPU.

    python benchmarks/tuning.py                     # about an hour; `--program decode` takes one of them
    python benchmarks/tuning.py --list              # the kernels and the sizes of their spaces; measures nothing
    python benchmarks/tuning.py --table FILE        # the table of docs/tuning.md from what was written

Every admissible configuration of a kernel is measured once, and kept in the JSON file.  A search of at most 60 trials starts
from nothing.  Then the fastest few of all, what the search found, and the default are timed in turns with each other, with
more rounds: what is said of them is the median of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from run import RESULTS, versions

from fusecade.assembly.plan_cache import cached_plan
from fusecade.assembly.tunable import Configured, Tunable
from fusecade.assembly.tuning import Tuner
from fusecade.autotune.options import EXHAUSTIVE, TPE
from fusecade.autotune.options import Options as Search
from fusecade.autotune.records import MEASURED, Configuration, Failure, Sample
from fusecade.autotune.space import Space
from fusecade.autotune.statistics import median, rank_correlation
from fusecade.autotune.timing import Comparison
from fusecade.driver import Environment, Options, pick_target, tuner_for
from fusecade.frontend.capture import capture
from fusecade.passes.algebra.forms import Refused

GALLERY = Path(__file__).parents[1] / "examples" / "gallery"
TRIALS = 60
FINALISTS = 4
ALL = Search(sampler=EXHAUSTIVE, trials=1 << 30, candidate_seconds=4.0, stop_early=False, prune_by_price=False)
SOME = Search(sampler=TPE, trials=TRIALS)


@dataclass(frozen=True)
class Row:
    """One kernel.  ratios: of times, from runs in turns; `tuned` and `best` against the default, `behind` of what the search
    found against the best of all.  correlation: Spearman's, of predicted and measured times.
    """

    program: str
    kernel: str
    space: int
    measured: int
    failed: dict[str, int]
    default_us: float
    best: dict[str, Any]
    best_ratio: float
    tuned: dict[str, Any]
    tuned_ratio: float
    tuned_interval: tuple[float, float]
    behind: float
    trials: int
    stopped: str
    seconds: tuple[float, float]
    correlation: float
    samples: list[list[Any]] = field(repr=False)


def example(name: str) -> Any:
    """A file of the gallery as a module."""
    spec = importlib.util.spec_from_file_location(name, GALLERY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(shapes: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    return [torch.randn(*shape) for shape in shapes]


def programs() -> Mapping[str, Callable[[], tuple[Callable[..., Any], list[Any]]]]:
    """Functions of the gallery with inputs for which a call takes some milliseconds."""

    def of(name: str, function: str, inputs: Callable[[Any], list[Any]]):
        def make():
            module = example(name)
            return getattr(module, function), inputs(module)

        return make

    fp32 = ("cpu", torch.float32)
    return {
        "causal": of("flash_attention", "attend", lambda m: drawn(m.shapes(1, 8, 1024, 64))),
        "causal, long": of("flash_attention", "attend", lambda m: drawn(m.shapes(1, 4, 2048, 32))),
        "decode": of("decode", "decode", lambda m: drawn(m.shapes(8, 16384, 64))),
        "dynamic mask": of("dynamic_mask", "attend", lambda m: drawn(m.shapes(4, 1024, 64))),
        "k-means": of("nearest_centre", "assign", lambda m: drawn([(16384, 64), (1024, 64)])),
        "k-means, wide": of("nearest_centre", "assign", lambda m: drawn([(4096, 256), (512, 256)])),
        "prepacked": of("prepacked", "attend", lambda m: m.inputs_of(4, 2048, 64, *fp32)),
        "relative positions": of("relative_positions", "attend", lambda m: drawn(m.shapes(4, 1024, 64))),
        "retrieval head": of("sparse_retrieval_head", "head", lambda m: m.inputs_of(4, 256, 64, 8192, *fp32)),
        "low rank": of("low_rank_projections", "attend", lambda m: [*m.inputs_of(2048, 128, 16, *fp32)]),
        "absorbed": of("absorbed_projections", "attend", lambda m: m.inputs_of(64, 8192, 128, *fp32)),
    }


class Held:
    """In the place of a tuner: each kernel of a plan is searched in both ways, and the results are compared."""

    def __init__(self, program: str, every: Tuner, some: Tuner, tick: Callable[[str], None]) -> None:
        self.program, self.every, self.some, self.tick = program, every, some, tick
        self.rows: list[Row] = []

    def current(self, about: Mapping[str, Any]) -> bool:
        return False

    def close(self) -> None:
        self.every.close()
        self.some.close()

    def configure(self, tunable: Tunable) -> Configured:
        self.tick(f"{self.program}: {tunable.name}, everything")
        all_of_it = self.every.tune(tunable).result
        self.every.close()  # its worker: one at a time
        self.tick(f"{self.program}: {tunable.name}, {TRIALS} trials")
        found = self.some.tune(tunable).result
        if all_of_it is not None and found is not None and all_of_it.default is not None:
            self.tick(f"{self.program}: {tunable.name}, the fastest in turns")
            self.rows.append(self._row(tunable, all_of_it, found))
        self.some.close()
        return self.some.tuned.configure(tunable)

    def _row(self, tunable: Tunable, all_of_it: Any, found: Any) -> Row:
        once: dict[Configuration, Sample] = {}
        for sample in all_of_it.samples:
            once.setdefault(sample.configuration, sample)
        measured = [s for s in once.values() if s.state == MEASURED]
        default = all_of_it.default.configuration
        ratios = {default: 1.0}
        for sample in sorted(measured, key=relative)[:FINALISTS]:
            if sample.configuration != default:
                ratios[sample.configuration] = self._compare(tunable, sample.configuration, default).ratio
        tuned = self._compare(tunable, found.winner, default)
        ratios.setdefault(found.winner, tuned.ratio)
        best = min(ratios, key=lambda c: ratios[c])
        behind = 1.0 if best == found.winner else self._compare(tunable, found.winner, best).ratio
        failed: dict[str, int] = {}
        for sample in once.values():
            if sample.state != MEASURED:
                failed[sample.state] = failed.get(sample.state, 0) + 1
        space = tunable.space
        assert not isinstance(space, Refused)
        return Row(
            self.program, tunable.operations, Space.of(space.variants).size, len(measured), failed,
            all_of_it.default.us, best.to_json(), ratios[best], found.winner.to_json(),
            1.0 if found.winner == default else tuned.ratio,
            (1.0, 1.0) if found.winner == default else (tuned.interval.low, tuned.interval.high),
            behind, found.trials, found.stopped, (all_of_it.seconds, found.seconds),
            rank_correlation([s.predicted_us for s in measured], [relative(s) for s in measured]),
            [[s.configuration.variant, dict(s.configuration.values), s.predicted_us, s.us, s.default_us] for s in measured],
        )  # fmt: skip

    def _compare(self, tunable: Tunable, candidate: Configuration, reference: Configuration) -> Comparison:
        found = self.some.compare(tunable, candidate, reference)
        if isinstance(found, Failure):
            raise SystemExit(f"{self.program}, {tunable.name}: {candidate} is {found.state}: {found.note}")
        return found


def relative(sample: Sample) -> float:
    """A time as a part of the default's, with which it was timed in turns."""
    assert sample.us is not None
    return sample.us / (sample.default_us or sample.us)


def run_program(name: str, tick: Callable[[str], None]) -> list[Row]:
    torch.manual_seed(0)
    function, args = programs()[name]()
    target = pick_target("cpu")
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        environment = Environment.read()
        every, some = (
            tuner_for(replace(environment, cache_dir=Path(folder), cache_url=None), target, search)
            for folder, search in ((first, ALL), (second, SOME))
        )
        held = Held(name, every, some, tick)
        captured = capture(function, args)
        try:
            cached_plan(captured.gm, target, Options(target="cpu", remainder="eager", fuse="always"), Path(first),
                        tuning=held)  # fmt: skip
        finally:
            held.close()
    return held.rows


def listed(name: str) -> list[tuple[str, str, int, int]]:
    """(program, kernel, points of its space, walks)."""
    found: list[tuple[str, str, int, int]] = []

    class Listing:
        def configure(self, tunable: Tunable) -> Configured:
            space = tunable.space
            if not isinstance(space, Refused):
                found.append((name, tunable.operations, Space.of(space.variants).size, len(space.variants)))
            return Configured(None)

        def current(self, about: Mapping[str, Any]) -> bool:
            return False

        def close(self) -> None: ...

    function, args = programs()[name]()
    options = Options(target="cpu", remainder="eager", fuse="always")
    cached_plan(capture(function, args).gm, pick_target("cpu"), options, None, tuning=Listing())
    return found


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| program | kernel | configurations | default | all: × default | 60 trials: × default | behind the best | trials | "
        "Spearman |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        low, high = r["tuned_interval"]
        tuned = "the default" if low == high == 1.0 else f"{r['tuned_ratio']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(
            f"| {r['program']} | {_ends(r['kernel'])} | {r['measured']} | {r['default_us'] / 1000:.2f} ms "
            f"| {r['best_ratio']:.2f} | "
            f"{tuned} | {100 * (r['behind'] - 1):+.1f} % | {r['trials']} | {r['correlation']:.2f} |"
        )
    within = sum(r["behind"] <= 1.05 for r in rows)
    lines += [
        "",
        f"{within} of {len(rows)} within 5 % of the best; the default takes {median([1 / r['best_ratio'] for r in rows]):.2f} "
        f"times the best in the median; median correlation {median([r['correlation'] for r in rows]):.2f}.",
    ]
    return "\n".join(lines)


def _ends(operations: str) -> str:
    """The first and the last of them."""
    first, *rest = operations.split(", ")
    return f"`{first}` … `{rest[-1]}`" if rest else f"`{first}`"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Hold the tuner against exhaustive search on this machine's CPU.")
    parser.add_argument("--program", action="append", choices=list(programs()), help="only this one; may be repeated")
    parser.add_argument("--list", action="store_true", help="kernels and the sizes of their spaces; measures nothing")
    parser.add_argument("--json", type=Path, help="where the JSON file goes (default: benchmarks/results/)")
    parser.add_argument("--table", type=Path, help="print the table of a JSON file, and stop")
    chosen = parser.parse_args(arguments)
    console = Console()
    if chosen.table is not None:
        print(table_of(json.loads(chosen.table.read_text(encoding="utf-8"))["rows"]))
        return 0
    names = chosen.program or list(programs())
    if chosen.list:
        table = Table("program", "kernel", "points", "walks", box=box.SIMPLE)
        for row in (row for name in names for row in listed(name)):
            table.add_row(*map(str, row))
        console.print(table)
        return 0
    path = chosen.json or RESULTS / f"tuning-cpu-{date.today().isoformat()}.json"
    rows: list[Row] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        for name in names:
            rows += run_program(name, lambda text: progress.update(task, description=text))
            body = {"versions": versions(), "trials": TRIALS, "rows": [asdict(row) for row in rows]}
            path.write_text(json.dumps(body, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(table_of([asdict(row) for row in rows]), markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
