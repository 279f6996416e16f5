"""The drawings of a kernel's tuning, as SVG text: its history, which parameters mattered, predicted against measured."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .autotune.history import History
from .autotune.records import Configuration
from .report_graph import colour

WIDE, HIGH = 385, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 14, 42  # of the area inside the axes
BAR = 26  # height of a row of bars
MOST_TICKS = 8
# Round values: the digits of a decade, and every how many decades; the first that is not too dense is used.
_STEPS = [([n / parts for n in range(parts, 10 * parts)], 1) for parts in (20, 10, 5, 2)]
LATTICES = [*_STEPS, ([1, 2, 3, 5, 7], 1), ([1, 2, 5], 1), ([1], 1), ([1], 2), ([1], 4)]
LEAST_RANGE = 1.25  # of an axis: what differs by less than that is not drawn as if it were much


@dataclass(frozen=True)
class Axis:
    """A scale of logarithms, or of numbers, from one end of the drawing to the other."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = True

    def __call__(self, value: float) -> float:
        turn: Callable[[float], float] = math.log if self.logarithmic else float
        part = (turn(value) - turn(self.low)) / (turn(self.high) - turn(self.low))
        return self.start + part * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values on it; of logarithms fewer of them where there are many."""
        if not self.logarithmic:
            step = 10 ** math.floor(math.log10(max(self.high - self.low, 1)))
            step = next(s for s in (step / 5, step / 2, step, 2 * step) if (self.high - self.low) / s <= MOST_TICKS)
            step = max(1, round(step))
            return [float(n) for n in range(math.ceil(self.low / step) * step, math.floor(self.high) + 1, step) if n]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        found: list[float] = []
        for digits, every in LATTICES:
            found = [d * 10.0**e for e in range(first, last + 1, every) for d in digits]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= MOST_TICKS:
                break
        return found


def logarithmic(values: Sequence[float], start: float, end: float) -> Axis:
    """That holds all of the values, which are positive, and a little more."""
    low, high = min(values), max(values)
    widen = max(1.06, math.sqrt(max(LEAST_RANGE * low / high, 1.0)))
    return Axis(low / widen, high * widen, start, end)


def walks_of(history: History) -> list[str]:
    """The walks that were tried, in the order of their trials: each has a colour."""
    return list(dict.fromkeys(s.configuration.variant for s in history.trials))


def draw_history(history: History) -> str:
    """The time of each trial as a part of the default's, and the best so far; what has no time is a cross above."""
    steps = history.steps
    times = [s.relative for s in steps if s.relative]
    if not times:
        return ""
    across = Axis(0, len(steps) + 1, LEFT, WIDE - RIGHT, logarithmic=False)
    up = logarithmic([*times, 1.0], HIGH - BOTTOM, TOP + 20)
    lines = _frame("trials and the best so far", across, up, "trial", "time, as a part of the default's")
    lines.append(f'<path d="M{LEFT} {up(1.0):.1f}H{WIDE - RIGHT}" class="edge" stroke-dasharray="4 3"/>')
    colours = {walk: colour(n) for n, walk in enumerate(walks_of(history))}
    path = ""
    for step in steps:
        x, walk = across(step.number), step.sample.configuration.variant
        if step.relative:
            title = f"{step.number}: {step.sample.us:.1f} µs, {step.relative:.3f} of the default: {step.sample.configuration}"
            lines.append(_dot(x, up(step.relative), colours[walk], title))
        else:
            title = f"{step.number}: {step.sample.state}: {step.sample.configuration} {step.sample.note[:200]}"
            lines.append(_cross(x, TOP + 6, colours[walk], title))
        if math.isfinite(step.best):
            path += f"{'H' if path else 'M'}{x:.1f} " + (f"V{up(step.best):.1f}" if path else f"{up(step.best):.1f}")
    lines.append(f'<path d="{path}H{WIDE - RIGHT}" class="best"/>')
    return "\n".join([*lines, "</svg>"])


def draw_predictions(history: History) -> str:
    """Measured over predicted microseconds, both as logarithms, with the line on which they are equal."""
    points = history.predictions
    if not points:
        return ""
    across = logarithmic([p for p, _, _ in points], LEFT, WIDE - RIGHT)
    up = logarithmic([us for _, us, _ in points], HIGH - BOTTOM, TOP)
    lines = _frame("predicted against measured", across, up, "predicted µs", "measured µs")
    low, high = max(across.low, up.low), min(across.high, up.high)
    if low < high:
        ends = f"M{across(low):.1f} {up(low):.1f}L{across(high):.1f} {up(high):.1f}"
        lines.append(f'<path d="{ends}" class="edge" stroke-dasharray="4 3"><title>as predicted</title></path>')
    colours = {walk: colour(n) for n, walk in enumerate(walks_of(history))}
    marks = _marks(history)
    for predicted, us, sample in points:
        title = f"predicted {predicted:.1f} µs, measured {us:.1f} µs: {sample.configuration}"
        lines.append(_dot(across(predicted), up(us), colours[sample.configuration.variant], title))
    for predicted, us, sample in points:
        if name := marks.get(sample.configuration, ""):
            x, y = across(predicted), up(us)
            anchor, beside = ("end", -11) if x > WIDE * 0.6 else ("start", 11)
            lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" class="ring"/>')
            lines.append(
                f'<text x="{x + beside:.1f}" y="{y - 7:.1f}" text-anchor="{anchor}" class="boxtext strong">{name}</text>'
            )
    return "\n".join([*lines, "</svg>"])


def draw_importance(parts: Mapping[str, float]) -> str:
    """A bar for each parameter."""
    if not parts:
        return ""
    high = BAR * len(parts) + 8
    name_wide = 120
    lines = [_svg("importance of the parameters", high)]
    for n, (name, part) in enumerate(parts.items()):
        y, length = 4 + n * BAR, part * (WIDE - name_wide - 50)
        lines.append(
            f'<text x="{name_wide - 8}" y="{y + 16}" text-anchor="end" class="boxtext">{html.escape(name)}</text>'
            f'<rect x="{name_wide}" y="{y + 4}" width="{max(length, 1):.1f}" height="{BAR - 8}" rx="3" fill="{colour(0)}"/>'
            f'<text x="{name_wide + length + 6:.1f}" y="{y + 16}" class="boxtext">{100 * part:.0f} %</text>'
        )
    return "\n".join([*lines, "</svg>"])


def _marks(history: History) -> dict[Configuration, str]:
    """The names of points that one looks for."""
    default, fastest = history.default, history.fastest
    found: dict[Configuration, str] = {}
    if fastest is not None:
        found[fastest.configuration] = "chosen" if history.decision is not None else "fastest"
    if default is not None:
        found[default] = "default, chosen" if found.get(default) == "chosen" else "default"
    return found


def _svg(label: str, high: int) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDE} {high}" width="{WIDE}" height="{high}" role="img" aria-label="{label}">'
    )


def _frame(label: str, across: Axis, up: Axis, below: str, beside: str) -> list[str]:
    lines = [_svg(label, HIGH)]
    for value in across.ticks:
        x = across(value)
        lines.append(f'<path d="M{x:.1f} {HIGH - BOTTOM}V{TOP}" class="grid"/>')
        lines.append(
            f'<text x="{x:.1f}" y="{HIGH - BOTTOM + 15}" text-anchor="middle" class="boxtext">{value:g}</text>'
        )
    for value in up.ticks:
        y = up(value)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDE - RIGHT}" class="grid"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" class="boxtext">{value:g}</text>')
    lines.append(f'<path d="M{LEFT} {TOP}V{HIGH - BOTTOM}H{WIDE - RIGHT}" class="roof"/>')
    middle = (LEFT + WIDE - RIGHT) / 2
    lines.append(f'<text x="{middle:.0f}" y="{HIGH - 8}" text-anchor="middle" class="boxtext">{below}</text>')
    height = (TOP + HIGH - BOTTOM) / 2
    lines.append(
        f'<text transform="translate(14 {height:.0f}) rotate(-90)" text-anchor="middle" class="boxtext">{beside}</text>'
    )
    return lines


def _dot(x: float, y: float, shade: str, title: str) -> str:
    inside = f"<title>{html.escape(title)}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{shade}" fill-opacity=".8">{inside}</circle>'


def _cross(x: float, y: float, shade: str, title: str) -> str:
    arms = f"M{x - 4:.1f} {y - 4}L{x + 4:.1f} {y + 4}M{x - 4:.1f} {y + 4}L{x + 4:.1f} {y - 4}"
    return (
        f'<path d="{arms}" stroke="{shade}" stroke-width="2" class="cross"><title>{html.escape(title)}</title></path>'
    )
