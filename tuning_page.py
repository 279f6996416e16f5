"""How kernels were tuned, as one page of HTML that needs nothing else: a table of all, then drawings of each."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from .autotune.history import History
from .autotune.importance import LEAST
from .autotune.statistics import FEW_PAIRS
from .errors import InvalidArgument
from .report import counted_noun
from .report_graph import colour
from .report_page import STYLE
from .report_tables import time
from .tuning_plots import draw_history, draw_importance, draw_predictions, walks_of

MORE_STYLE = """
.plots { display: flex; flex-wrap: wrap; gap: .5rem; } .plots figure { margin: 0; } figcaption { font-weight: 600; }
.plot { max-width: 100%; height: auto; font-size: 11px; } .ring { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.best { fill: none; stroke: var(--ink); stroke-width: 1.5; opacity: .6; } .note { color: var(--soft); max-width: 22rem; }
.number { text-align: right; white-space: nowrap; }
"""
IMPORTANCE = (
    "How far the values of the fastest tenth (at least five) differ from those of all that was measured: PED-ANOVA."
)


def page(histories: Sequence[History]) -> str:
    """The whole document."""
    parts = [f"<h1>Fusecade: tuning of {counted_noun(len(histories), 'kernel')}</h1>"]
    if len(histories) > 1:
        parts += _summary(histories)
    for n, history in enumerate(histories):
        parts += _kernel(history, n)
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Fusecade tuning</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<style>{STYLE}{MORE_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def write_page(path: Path, histories: Sequence[History]) -> Path:
    """The page as a file; in a folder it is called `tuning.html`.  Raises InvalidArgument where it cannot be written."""
    file = file_of(path)
    file.write_text(page(histories), encoding="utf-8")
    return file


def file_of(path: Path) -> Path:
    """Where the page goes.  Raises InvalidArgument where there is no folder for it: before anything is searched."""
    file = path / "tuning.html" if path.is_dir() else path
    if not file.parent.is_dir():
        raise InvalidArgument(
            f"{file} cannot be written: there is no folder {file.parent}",
            next_step="make the folder first, or name another file",
        )
    return file


def _summary(histories: Sequence[History]) -> Iterator[str]:
    names = ("kernel", "device", "sizes", "trials", "default", "fastest", "gain", "rank correlation")
    yield f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    for n, history in enumerate(histories):
        default, fastest, gain = _times(history)
        link = f'<a href="#kernel{n}">{_safe(history.name)}</a>'
        found = history.correlation
        cells = (
            _safe(history.key.place.target), _safe(sizes(history)), str(len(history.trials)), default, fastest, gain,
            "" if found is None else f"{found:.2f}",
        )  # fmt: skip
        yield f"<tr><td>{link}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</table>"


def _kernel(history: History, n: int) -> Iterator[str]:
    place = history.key.place
    title = f"{history.name}: {history.operations}" if history.operations else history.name
    yield f'<h2 id="kernel{n}">{_safe(title)}</h2><table>'
    device = f"{place.target}, {place.sms} SMs" + (f", {place.memory_bytes >> 30} GiB" if place.memory_bytes else "")
    yield _row("device", device if place.target != "cpu" else device.replace("SMs", "threads"))
    yield _row("sizes", sizes(history))
    yield _row("dtypes", history.key.dtypes)
    yield _row("trials", ", ".join(f"{count} {state}" for state, count in history.states.items()))
    default, fastest, gain = _times(history)
    yield _row("default", default)
    yield _row("fastest", f"{fastest}, {gain} as fast as the default" if gain else fastest)
    if history.decision is not None:
        yield _row("chosen", f"{history.decision.configuration} ({history.decision.kind})")
    yield "</table>"
    walks = walks_of(history)
    if len(walks) > 1:
        keys = (
            f'<span class="key"><i style="background:{colour(n)}"></i>{_safe(w)}</span>' for n, w in enumerate(walks)
        )
        yield f"<p>{''.join(keys)}</p>"
    drawn = draw_history(history)
    if not drawn:
        yield "<p>Nothing was measured yet: there is nothing to draw.</p>"
    else:
        yield '<div class="plots">'
        yield _figure(
            "History", drawn, "Dots: measured. Crosses: without a time. Line: the best so far. Dashed: the default."
        )
        yield _figure("Parameter importance", draw_importance(history.importance), IMPORTANCE)
        yield _figure("Predicted against measured", draw_predictions(history), _correlation(history))
        yield "</div>"
    yield from _trials(history)


def _figure(title: str, drawing: str, note: str) -> str:
    few = f"Fewer than {LEAST} configurations that differ were measured: too few to say."
    return f'<figure><figcaption>{title}</figcaption>{drawing}<p class="note">{note if drawing else few}</p></figure>'


def _correlation(history: History) -> str:
    found = history.correlation
    if found is None:
        return f"Fewer than {FEW_PAIRS} configurations that differ: no rank correlation."
    over = f"Spearman's rank correlation over {len(history.predictions)} configurations: {found:.2f}."
    return f"{over} Where a line is dashed, times are as predicted."


def _trials(history: History) -> Iterator[str]:
    yield f"<details><summary>{counted_noun(len(history.trials), 'trial')}</summary><table>"
    yield "<tr><th></th><th>state</th><th>µs</th><th>of default</th><th>predicted</th><th>configuration</th><th>note</th></tr>"
    for step in history.steps:
        s = step.sample
        numbers = (s.us, step.relative, s.predicted_us)
        cells = "".join(f'<td class="number">{"" if v is None else f"{v:.4g}"}</td>' for v in numbers)
        yield (
            f"<tr><td>{step.number}</td><td>{s.state}</td>{cells}<td>{_safe(str(s.configuration))}</td>"
            f"<td>{_safe(s.note[:200])}</td></tr>"
        )
    yield "</table></details>"


def _times(history: History) -> tuple[str, str, str]:
    """The default, the fastest, and the gain of the latter, in turns with the default."""
    default, best = history.measured.get(history.default) if history.default else None, history.fastest
    usual, gain = default.us if default is not None else None, ""
    if best is not None and best.configuration != history.default and (part := history.relative(best)):
        usual, gain = best.default_us or usual, f"{1 / part:.2f}×"
    return _time(usual), _time(best.us if best is not None else None), gain


def sizes(history: History) -> str:
    """The buckets of sizes, as they are kept."""
    return " ".join(f"{name}={size}" for name, size in history.key.sizes)


def _time(us: float | None) -> str:
    return "-" if us is None else time(us)


def _row(name: str, text: str) -> str:
    return f"<tr><th>{_safe(name)}</th><td>{_safe(text)}</td></tr>"


def _safe(text: str) -> str:
    return html.escape(text)
