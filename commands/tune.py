"""`fusecade tune`: the kernels of a function, each in its fastest configuration, kept for whoever compiles it next.

fusecade tune model.py:attend --shape 8,4096,64 --shape 8,4096,64 --shape 8,4096,64      # on this machine
fusecade tune model.py:attend --shape ... --offline --target sm_90                       # for a GPU that is not here
"""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from .. import api
from ..report import COST_MODEL
from ..tuning_page import file_of, write_page
from . import exits
from .program import Shape, arguments, check_arguments, find_function, parameters

if TYPE_CHECKING:
    from ..api import Tuning
    from ..assembly.tuning import Outcome
    from ..autotune.history import History

STOPPED = {
    "trials": "all trials spent",
    "seconds": "out of time",
    "gain": "nothing left to gain",
    "exhausted": "everything tried",
    "interrupted": "interrupted",
}


def run(chosen: Namespace, console: Console) -> int:
    function = find_function(chosen.program, chosen.factory)
    tensors, dynamic = arguments([Shape.read(text, chosen.dtype) for text in chosen.shape])
    check_arguments(function, chosen.program, tensors)
    page = file_of(chosen.plot) if chosen.plot else None
    results = [_tune(chosen, function, tensors, dynamic, target) for target in chosen.target or [None]]
    if page is not None:
        write_page(page, [history for tuning in results for history in tuning.histories.values()])
    if chosen.json:
        rows = [row for tuning in results for row in rows_of(tuning)]
        console.print(json.dumps({"kernels": rows}, indent=1), markup=False, highlight=False, soft_wrap=True)
    else:
        for tuning in results:
            for shown in text_of(tuning):
                console.print(shown, markup=False, highlight=False, soft_wrap=isinstance(shown, str))
        if page is not None:
            console.print(f"written to {page}", markup=False, highlight=False, soft_wrap=True)
    unfinished = [
        o for tuning in results for o in tuning.outcomes if o.result is None or o.result.stopped == "interrupted"
    ]
    return exits.INCOMPLETE if unfinished else exits.FINE


def _tune(chosen: Namespace, function: Any, tensors: Any, dynamic: Any, target: str | None) -> Tuning:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[best]}"),
        TextColumn("{task.fields[left]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("planning", total=None, best="", left="")

        def begin(name: str, operations: str) -> None:
            progress.reset(task, description=f"{name}: {operations}"[:60], total=None, best="", left="")

        def tick(found: Any) -> None:
            best = f"best {_time(found.best.us)}" if found.best is not None else ""
            left = f"{found.seconds_left:.0f} s left" if found.seconds_left is not None else ""
            progress.update(task, total=found.trials, completed=found.trial, best=best, left=left)

        return api.tune(
            function, *tensors, target=target, dynamic=dynamic or None, fuse=chosen.fuse,
            parameters=parameters(chosen.parameter), mode=chosen.mode, sampler=chosen.sampler, trials=chosen.trials,
            seconds=chosen.budget, seed=chosen.seed, offline=chosen.offline, resume=chosen.resume,
            on_kernel=begin, on_progress=tick,
        )  # fmt: skip


def rows_of(tuning: Tuning) -> list[dict[str, Any]]:
    """As JSON: kernels that were searched, then those that were not, with where their parameters come from."""
    rows = [_row(o, tuning.report.target, tuning.histories.get(o.subject)) for o in tuning.outcomes]
    searched = len(rows)
    kept = [k for k in tuning.report.kernels if k.parameters != COST_MODEL] if not searched else []
    known = {history.name: history for history in tuning.histories.values()}
    return rows + [
        {
            "kernel": k.name, "target": k.target, "parameters": k.parameters, "configuration": dict(k.params),
            "rank_correlation": known[k.name].correlation if k.name in known else None,
        }
        for k in kept
    ]  # fmt: skip


def _row(o: Outcome, target: str, history: History | None) -> dict[str, Any]:
    row: dict[str, Any] = {"kernel": o.kernel, "target": target, "operations": o.operations}
    if o.result is None:
        return row | {"not_searched": o.reason}
    r = o.result
    measured = r.comparison is not None
    states: dict[str, int] = {}
    for sample in r.samples:
        states[sample.state] = states.get(sample.state, 0) + 1
    interval = r.comparison.interval if r.comparison is not None else None
    usual = r.default.us if r.default is not None else None
    is_default = r.default is not None and r.winner == r.default.configuration
    if not is_default and r.sample is not None and r.sample.default_us is not None:
        usual = r.sample.default_us  # timed in turns with the winner
    return row | {
        "configuration": r.winner.to_json(),
        "is_default": is_default,
        "kind": r.kind,
        "default_us": usual,
        "tuned_us": r.sample.us if r.sample is not None else None,
        "predicted_default_us": o.predicted_us,
        "predicted_us": o.winner_us,
        "ratio": r.comparison.ratio if r.comparison is not None else None,
        "interval": [interval.low, interval.high] if interval is not None and _finite(interval) else None,
        "confirmed": r.confirmed,
        "verdict": r.verdict.why,
        "stopped": r.stopped,
        "trials": r.trials,
        "samples": states,
        "seconds": round(r.seconds, 2),
        "noise": r.noise if measured else None,
        "rank_correlation": history.correlation if history is not None else None,
    }


def _finite(interval: Any) -> bool:
    return float("-inf") < interval.low and interval.high < float("inf")


def text_of(tuning: Tuning) -> list[Table | str]:
    """A table of what was searched, then a line for each kernel with its configuration."""
    rows, target = rows_of(tuning), tuning.report.target
    if not rows:
        return [f"target {target}: there is no kernel to tune"]
    table = Table(title=f"target {target}", title_justify="left", box=None, pad_edge=False)
    for name in ("kernel", "default", "tuned", "predicted", "gain", "trials", "ended"):
        right = name in ("default", "tuned", "predicted", "trials")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    lines: list[str] = []
    for row in rows:
        name = row["kernel"]
        if "not_searched" in row:
            lines.append(f"{name}: not searched: {row['not_searched']}")
        elif "parameters" in row:
            kept = f"{name}: {_values(row['configuration'])}: {row['parameters']} (--resume searches further)"
            lines.append(kept + _correlation(row))
        else:
            table.add_row(
                name, _time(row["default_us"]), _time(row["tuned_us"]), _time(row["predicted_us"]), _gain(row),
                str(row["trials"]), STOPPED.get(row["stopped"], row["stopped"]),
            )  # fmt: skip
            chosen = f"{name}: {_values(row['configuration']['values'])}; {row['configuration']['variant']}"
            lines.append(chosen + _correlation(row))
    return [*([table] if table.rows else [f"target {target}"]), *lines]


def _correlation(row: dict[str, Any]) -> str:
    """Spearman's, of prices and times; nothing is said where too few were measured."""
    found = row["rank_correlation"]
    return "" if found is None else f"; rank correlation of predicted and measured times {found:.2f}"


def _values(values: dict[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _gain(row: dict[str, Any]) -> str:
    if row["kind"] == "predicted":
        return "not measured"
    if row["is_default"]:
        return "none"
    if row["interval"] is None:
        return f"{1 / row['ratio']:.2f}×" if row["ratio"] else row["verdict"]
    low, high = row["interval"]
    return f"{1 / row['ratio']:.2f}× ({1 / high:.2f} to {1 / low:.2f})"


def _time(us: float | None) -> str:
    if us is None:
        return "-"
    return f"{us:.1f} µs" if us < 1000 else f"{us / 1000:.2f} ms"
