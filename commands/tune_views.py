"""How `fusecade tune` shows what came of it: for a person, and as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..autotune.history import History
from ..report import COST_MODEL
from .jobs import Job

if TYPE_CHECKING:
    from ..api import Tuning
    from ..assembly.tuning import Outcome

STOPPED = {
    "trials": "all trials spent",
    "seconds": "out of time",
    "gain": "nothing left to gain",
    "exhausted": "everything tried",
    "interrupted": "interrupted",
}


@dataclass(frozen=True)
class Answer:
    """What came of a job.  target: that it was tuned for.  rows: as `rows_of` has them.  failed: why there are none.
    where: the machine of a cluster.
    """

    job: Job
    target: str
    rows: Sequence[Mapping[str, Any]] = ()
    histories: Sequence[History] = ()
    failed: str = ""
    where: str = ""

    @property
    def finished(self) -> bool:
        return not self.failed and all("not_searched" not in r and r.get("stopped") != "interrupted" for r in self.rows)

    @property
    def interrupted(self) -> bool:
        return any("interrupted" in (row.get("stopped"), row.get("not_searched")) for row in self.rows)

    @staticmethod
    def of(job: Job, tuning: Tuning) -> Answer:
        return Answer(job, tuning.report.target, rows_of(tuning), list(tuning.histories.values()))


def as_data(answers: Sequence[Answer]) -> dict[str, Any]:
    """As JSON: a row for each kernel, with the program and the shapes that it is of; what failed apart."""
    rows, failed = [], []
    for a in answers:
        about: dict[str, Any] = {"program": a.job.program, "shapes": list(a.job.shapes), "dtype": a.job.dtype}
        if a.where:
            about["machine"] = a.where
        rows += [dict(row) | about for row in a.rows]
        failed += [about | {"target": a.target, "reason": a.failed}] if a.failed else []
    return {"kernels": rows} | ({"failed": failed} if failed else {})


def as_text(answers: Sequence[Answer]) -> list[Table | str]:
    """A table and a few lines for each; which it is of is said where there are several."""
    parts: list[Table | str] = []
    for n, a in enumerate(answers):
        if len(answers) > 1:
            parts.append(
                ("\n" if n else "") + str(replace(a.job, target=None)) + (f", on {a.where}" if a.where else "")
            )
        parts += text_of(a.rows, a.target) if not a.failed else [f"failed: {a.failed}"]
    return parts


def histories(answers: Sequence[Answer]) -> list[History]:
    """For a page: with the program in the name where there are several."""
    if len(answers) == 1:
        return list(answers[0].histories)
    found = {
        h.key: replace(h, name=f"{a.job.program.rpartition(':')[2]} {h.name}") for a in answers for h in a.histories
    }
    return list(found.values())


def rows_of(tuning: Tuning) -> list[dict[str, Any]]:
    """As JSON: kernels that were searched, then those that were not, with where their parameters come from."""
    rows = [_row(o, tuning.report.target, tuning.histories.get(o.subject)) for o in tuning.outcomes]
    known = {history.name: history for history in tuning.histories.values()}
    searched = {o.subject for o in tuning.outcomes}
    others = {history.name for subject, history in tuning.histories.items() if subject not in searched}
    kept = [k for k in tuning.report.kernels if k.parameters != COST_MODEL and (not searched or k.name in others)]
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
    return math.isfinite(interval.low) and math.isfinite(interval.high)


def text_of(rows: Sequence[Mapping[str, Any]], target: str) -> list[Table | str]:
    """A table of what was searched, then a line for each kernel with its configuration."""
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
                name, time(row["default_us"]), time(row["tuned_us"]), time(row["predicted_us"]), _gain(row),
                str(row["trials"]), STOPPED.get(row["stopped"], row["stopped"]),
            )  # fmt: skip
            chosen = f"{name}: {_values(row['configuration']['values'])}; {row['configuration']['variant']}"
            lines.append(chosen + _correlation(row))
    return [*([table] if table.rows else [f"target {target}"]), *lines]


def _correlation(row: Mapping[str, Any]) -> str:
    """Spearman's, of prices and times; nothing is said where too few were measured."""
    found = row["rank_correlation"]
    return "" if found is None else f"; rank correlation of predicted and measured times {found:.2f}"


def _values(values: Mapping[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _gain(row: Mapping[str, Any]) -> str:
    if row["kind"] == "predicted":
        return "not measured"
    if row["is_default"]:
        return "none"
    if row["interval"] is None:
        return f"{1 / row['ratio']:.2f}×" if row["ratio"] else row["verdict"]
    low, high = row["interval"]
    return f"{1 / row['ratio']:.2f}× ({1 / high:.2f} to {1 / low:.2f})"


def time(us: float | None) -> str:
    if us is None:
        return "-"
    return f"{us:.1f} µs" if us < 1000 else f"{us / 1000:.2f} ms"
