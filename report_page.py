"""A report as one page of HTML that needs nothing else: drawings, then a part for each kernel, then the tables."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .ir.target import TARGETS
from .report import counted_noun
from .report_graph import boxes, colour, draw_graph, draw_roofline, legend
from .report_tables import amount, counted, summary, time

if TYPE_CHECKING:
    from .report import KernelReport, Report

STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #666; --paper: #fff; --sheet: #f6f6f4; --line: #ccc; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --soft: #999; --paper: #1b1b1b; --sheet: #262626; --line: #444; }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
pre { background: var(--sheet); padding: .8rem; overflow-x: auto; font-size: 13px; line-height: 1.35; }
summary { cursor: pointer; font-weight: 600; margin: .4rem 0; }
table { border-collapse: collapse; } td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; }
th { font-weight: 600; color: var(--soft); } td { overflow-wrap: anywhere; }
.scroll { overflow: auto; max-height: 46rem; border: 1px solid var(--line); border-radius: 6px; }
.graph { display: block; margin: 0 auto; font-size: 11px; } .roofline { max-width: 100%; height: auto; font-size: 11px; }
.edge { stroke: var(--line); stroke-width: 1.5; } .grid { stroke: var(--line); stroke-width: .5; }
.roof { stroke: var(--soft); fill: none; stroke-width: 1.5; } .box { fill: var(--sheet); stroke: var(--line); }
.boxtext { fill: var(--ink); } .on { fill: #fff; } .strong { font-weight: 600; }
.key { margin-right: 1.2rem; white-space: nowrap; } .key i { display: inline-block; width: .8rem; height: .8rem;
  border-radius: 3px; margin-right: .35rem; } .key .none { background: var(--sheet); border: 1px solid var(--line); }
.kernel { border: 1px solid var(--line); border-left-width: 6px; border-radius: 6px; padding: .7rem 1rem; margin: .8rem 0; }
.bar { background: var(--line); height: .7rem; border-radius: 3px; width: 22rem; max-width: 100%; }
.bar i { display: block; height: 100%; border-radius: 3px; }
"""


def page(report: Report) -> str:
    """The whole document."""
    count = counted_noun(len(report.kernels), "kernel")
    names = [name for name, _ in report.calls]
    first = {name: names.index(name) for name in names}
    parts = [f"<h1>Fusecade: {count} for {_safe(report.target)}</h1>", f"<p>{_safe(summary(report))}</p>"]
    parts += _graph(report, names)
    target = TARGETS.get(report.target)
    if target is not None and (drawn := draw_roofline(report.kernels, target, first)):
        parts += ["<h2>Under the roofline</h2>", drawn]
    if report.kernels:
        parts.append("<h2>Kernels</h2>")
    for k in report.kernels:
        parts += _kernel(k, colour(first.get(k.name.removesuffix("_merge"), 0)))
    parts += _pairs("Not fused, and why", "operations", report.refusals)
    parts += _pairs("Left to PyTorch: no kernel", "operator", counted(list(report.externs)))
    parts += _pairs("Failed, and runs eagerly", "part", report.fallbacks)
    rewrites = [(f"{rule}: {what}", certificate) for rule, what, certificate in report.rewrites]
    parts += _pairs("Rewrites, with the identity that makes each legal", "rewrite", rewrites)
    parts += ["<h2>Texts</h2>", _fold("the report as text", str(report)), _fold("the program", report.program)]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Fusecade report</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _graph(report: Report, names: Sequence[str]) -> Iterator[str]:
    drawn = boxes(report.program, [nodes for _, nodes in report.calls])
    if drawn is None or not drawn[0]:
        return
    found, left_out = drawn
    yield "<h2>The program, and what became one kernel</h2>"
    yield f"<p>{''.join(legend(names))}</p>"
    yield f'<div class="scroll">{draw_graph(found, names)}</div>'
    if left_out:
        yield f"<p>{counted_noun(left_out, 'operation')} more: see the program below.</p>"


def _kernel(k: KernelReport, shade: str) -> Iterator[str]:
    times = "" if k.calls == 1 else f" × {k.calls}"
    yield f'<section class="kernel" style="border-left-color:{shade}"><h3>{_safe(k.name)}{times}</h3><table>'
    yield _row("computes", ", ".join(dict.fromkeys(k.nodes)))
    for rank, passes in k.passes.items():
        before = k.passes_as_written.get(rank, passes)
        yield _row(f"passes over {rank}", f"{passes}" + (f" (as written: {before})" if before != passes else ""))
    part = min(1.0, k.hbm_bytes_bound / k.hbm_bytes) if k.hbm_bytes else 1.0
    bar = f'<div class="bar"><i style="width:{100 * part:.1f}%;background:{shade}"></i></div>'
    words = f"{amount(k.hbm_bytes)}; no kernel moves less than {amount(k.hbm_bytes_bound)}"
    yield f"<tr><th>memory traffic</th><td>{_safe(words)}{bar}</td></tr>"
    bound = f"{time(k.predicted_us)}, bound by {k.bound_by}; {k.flops / 1e9:,.2f} G operations"
    yield _row("predicted", bound)
    yield _row("parameters", "  ".join(f"{name} = {value}" for name, value in k.params.items()))
    yield _row("chosen by", k.parameters)
    yield _row("programs", k.grid)
    yield _row("on chip", f"{amount(k.footprint_bytes)} a program")
    if k.registers is not None:
        cores = ", ".join(f"{n} {name}" for name, n in (k.tensor_cores or {}).items() if n)
        used = f"{k.registers} registers, {k.spills} bytes spilled, {amount(k.shared_bytes)} shared"
        yield _row("compiled", used + (f"; {cores}" if cores else ""))
    elif k.not_compiled:
        yield _row("not compiled", k.not_compiled)
    for rank, reasons in k.pass_reasons.items():
        for reason in reasons:
            yield _row(f"why {rank} again", reason)
    yield "</table>"
    for what, text in texts(k):
        if text:
            yield _fold(f"{k.name}: {what}", text)
    yield "</section>"


def texts(kernel: KernelReport) -> list[tuple[str, str | None]]:
    """What one may want to read of a kernel."""
    derivation = "\n".join([*kernel.derivation, *kernel.visits])
    return [
        ("derivation", derivation),
        ("source", kernel.source),
        ("tile program", kernel.tile),
        ("cascade", kernel.cascade),
    ]


def _row(name: str, text: str) -> str:
    return f"<tr><th>{_safe(name)}</th><td>{_safe(text)}</td></tr>"


def _pairs(title: str, left: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    if rows:
        right = "identity" if left == "rewrite" else "reason"
        yield f"<h2>{_safe(title)}</h2><table><tr><th>{left}</th><th>{right}</th></tr>"
        yield from (f"<tr><td>{_safe(a)}</td><td>{_safe(b)}</td></tr>" for a, b in dict.fromkeys(rows))
        yield "</table>"


def _fold(title: str, text: str) -> str:
    return f"<details><summary>{_safe(title)}</summary><pre>{_safe(text)}</pre></details>"


def _safe(text: str) -> str:
    return html.escape(text)
