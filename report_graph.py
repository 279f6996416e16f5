"""A report's drawings, as SVG text: the program as a graph with its fused groups, and the kernels under the roofline."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xdsl.ir import Operation, SSAValue
from xdsl.utils.exceptions import ParseError, VerifyException

from .ir.attributes import TensorType
from .ir.cascade import EinsumOp, ProgramOp
from .ir.target import Target
from .ir.text import parse_module

if TYPE_CHECKING:
    from .report import KernelReport

COLOURS = ("#2f7ed8", "#d9822b", "#2e9e5b", "#b04fc4", "#c8423f", "#1f9aa8", "#8a7a1f", "#6b6fd0")
MOST_BOXES = 400  # a larger program is drawn up to here
BOX, ROW, GAP = (192, 40), 64, 16  # width and height of a box, distance of rows, between boxes of a row


@dataclass(frozen=True)
class Box:
    """An operation in the drawing.  group: number of the kernel call that computes it, or None.  reads: other boxes."""

    name: str
    detail: str
    node: str
    group: int | None
    reads: tuple[int, ...]
    row: int


def colour(group: int) -> str:
    return COLOURS[group % len(COLOURS)]


def boxes(program: str, groups: Sequence[Sequence[str]]) -> tuple[list[Box], int] | None:
    """The operations of a printed program, and how many were left out; None where the text is not a program.

    groups: the names of the graph's nodes that each kernel call computes.
    """
    try:
        module = parse_module(program)
    except (ParseError, VerifyException):
        return None
    root = next((o for o in module.walk() if isinstance(o, ProgramOp)), None)
    if root is None:
        return None
    of = {node: n for n, nodes in enumerate(groups) for node in nodes}
    found: list[Box] = []
    at: dict[Operation, int] = {}
    ops = [o for o in root.body.block.ops if o.results]
    for op in ops[:MOST_BOXES]:
        owners = [v.owner for v in op.operands]
        reads = tuple(dict.fromkeys(at[o] for o in owners if isinstance(o, Operation) and o in at))
        node = getattr(op.attributes.get("node"), "data", "")
        name = op.results[0].name_hint or node or op.name
        row = max((found[r].row + 1 for r in reads), default=0)
        at[op] = len(found)
        found.append(Box(name, _detail(op), node, of.get(node), reads, row))
    return found, len(ops) - len(found)


def _detail(op: Operation) -> str:
    """What it does to which ranks: "sum over k", "map", and the shape of the result."""
    if isinstance(op, EinsumOp):
        combiners = dict.fromkeys(c.data for c in op.combiners.data)
        what = f"{'/'.join(combiners)} over {', '.join(op.reduced)}" if op.reduced else "map"
    else:
        what = op.name.removeprefix("cascade.")
    return f"{what} → {_shape(op.results[0])}"


def _shape(value: SSAValue) -> str:
    kind = value.type
    return "×".join(map(str, kind.dims)) or "1" if isinstance(kind, TensorType) else "?"


def draw_graph(found: Sequence[Box], names: Sequence[str]) -> str:
    """The boxes in rows, each below all that it reads; the boxes of one kernel call have its colour.

    names: of each kernel call.
    """
    rows: dict[int, list[int]] = {}
    for n, b in enumerate(found):
        rows.setdefault(b.row, []).append(n)
    wide, high = BOX
    columns = max(map(len, rows.values()))
    width = columns * (wide + GAP) + GAP
    place: dict[int, tuple[float, float]] = {}
    for row, members in sorted(rows.items()):
        members.sort(key=lambda n: (_mean([place[r][0] for r in found[n].reads]), n))  # near what they read
        left = (width - len(members) * (wide + GAP) + GAP) / 2
        for column, n in enumerate(members):
            place[n] = left + column * (wide + GAP), GAP + row * ROW
    height = GAP + (max(rows) + 1) * ROW
    lines = [
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img" '
        'aria-label="the program as a graph">'
    ]
    for n, b in enumerate(found):
        for r in b.reads:
            (x0, y0), (x1, y1) = place[r], place[n]
            inside = b.group is not None and b.group == found[r].group
            style = (
                f'stroke="{colour(b.group)}" stroke-width="2.5"' if inside and b.group is not None else 'class="edge"'
            )
            x0, y0, x1 = x0 + wide / 2, y0 + high, x1 + wide / 2
            bend = (y1 - y0) / 2
            lines.append(
                f'<path d="M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}" '
                f'fill="none" {style}/>'
            )
    for n, b in enumerate(found):
        x, y = place[n]
        kernel = "not in a kernel" if b.group is None else names[b.group]
        box = 'class="box"' if b.group is None else f'fill="{colour(b.group)}"'
        text = "boxtext" if b.group is None else "on"
        lines.append(
            f"<g><title>{_safe(f'{b.name} ({b.detail}): {kernel}')}</title>"
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{wide}" height="{high}" rx="6" {box}/>'
            f'<text x="{x + 8:.0f}" y="{y + 16:.0f}" class="{text} strong">{_safe(_cut(b.name, 24))}</text>'
            f'<text x="{x + 8:.0f}" y="{y + 32:.0f}" class="{text}">{_safe(_cut(b.detail, 31))}</text></g>'
        )
    return "\n".join([*lines, "</svg>"])


def draw_roofline(kernels: Sequence[KernelReport], target: Target, groups: Mapping[str, int]) -> str:
    """Operations a second over operations per byte of main memory, both on scales of powers of ten.

    The lines are the memory's bandwidth and the rates of the target's units; a kernel stands at its predicted time.
    groups: the number of each kernel's colour.
    """
    points = [
        (k, k.flops / max(1, k.hbm_bytes), k.flops / max(1e-3, k.predicted_us) * 1e6) for k in kernels if k.flops > 0
    ]
    roofs = {"vector units": target.vector_flops}
    roofs |= {f"matrix units, {d}": r for d, r in target.flops.items() if d in ("bf16", "f32")}
    if not points:
        return ""
    wide, high, left, bottom = 720, 340, 64, 40
    x_low, x_high = _decades([p[1] for p in points] + [target.vector_flops / target.hbm_bytes_per_s, 1000.0])
    y_low, y_high = _decades([p[2] for p in points] + list(roofs.values()))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return left + across * (wide - left - 12), (high - bottom) - up * (high - bottom - 12)

    lines = [
        f'<svg class="roofline" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" role="img" '
        'aria-label="kernels under the roofline">'
    ]
    for e in range(x_low, x_high + 1):
        x, y = at(10.0**e, 10.0**y_low)
        lines.append(f'<path d="M{x:.0f} {y:.0f}V12" class="grid"/>')
        lines.append(f'<text x="{x:.0f}" y="{y + 16:.0f}" text-anchor="middle" class="boxtext">{_power(e)}</text>')
    for e in range(y_low, y_high + 1):
        x, y = at(10.0**x_low, 10.0**e)
        lines.append(f'<path d="M{x:.0f} {y:.0f}H{wide - 12}" class="grid"/>')
        lines.append(f'<text x="{x - 6:.0f}" y="{y + 4:.0f}" text-anchor="end" class="boxtext">{_power(e)}</text>')
    for name, rate in roofs.items():
        ridge = rate / target.hbm_bytes_per_s
        start = max(10.0**x_low, 10.0**y_low / target.hbm_bytes_per_s)
        (x0, y0), (x1, y1), (x2, _) = at(start, start * target.hbm_bytes_per_s), at(ridge, rate), at(10.0**x_high, rate)
        lines.append(f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}H{x2:.1f}" class="roof"/>')
        lines.append(f'<text x="{x2 - 4:.0f}" y="{y1 - 5:.0f}" text-anchor="end" class="boxtext">{_safe(name)}</text>')
    for k, intensity, rate in points:
        x, y = at(intensity, rate)
        fill = colour(groups.get(k.name, 0))
        lines.append(
            f"<g><title>{_safe(f'{k.name}: {intensity:,.1f} operations a byte, {rate / 1e12:,.2f} T/s')}</title>"
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{fill}"/>'
            f'<text x="{x + 10:.1f}" y="{y + 4:.1f}" class="boxtext strong">{_safe(k.name)}</text></g>'
        )
    middle = (left + wide) / 2
    lines.append(
        f'<text x="{middle:.0f}" y="{high - 6}" text-anchor="middle" class="boxtext">operations per byte of memory traffic '
        "(upwards: operations a second, predicted)</text>"
    )
    return "\n".join([*lines, "</svg>"])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    logs = [math.log10(v) for v in values if v > 0]
    return math.floor(min(logs)), math.ceil(max(logs) + 0.05)


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else f"1e{exponent}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _safe(text: str) -> str:
    return html.escape(text)


def legend(names: Sequence[str]) -> Iterator[str]:
    """Coloured names, each kernel once."""
    for n, name in enumerate(names):
        if name not in names[:n]:
            yield f'<span class="key"><i style="background:{colour(n)}"></i>{_safe(name)}</span>'
    yield '<span class="key"><i class="none"></i>left to PyTorch</span>'
