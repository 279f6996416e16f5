"""A report as tables for the terminal; it reads well at 100 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from .report import COST_MODEL, counted_noun

if TYPE_CHECKING:
    from .report import KernelReport, Report


class Table(RichTable):
    """Cells are text as it stands: index expressions have brackets, which rich takes for styles."""

    def add_row(self, *cells: str, **named: Any) -> None:  # type: ignore[override]
        super().add_row(*map(Text, cells), **named)


def tables(report: Report) -> Iterator[Table | str]:
    """The parts of the report, in the order in which one reads them; empty parts are left out."""
    yield summary(report)
    if report.kernels:
        yield _kernels(report)
        yield _work(report)
        if any(k.registers is not None or k.not_compiled for k in report.kernels):
            yield _binaries(report)
    for k in report.kernels:
        if k.derivation and k.certificates:
            yield "\n".join([f"{k.name}: how its passes were derived", *(f"  {line}" for line in k.derivation)])
        yield from (f"{k.name}: {line}" for line in k.visits)
        if k.parameters != COST_MODEL:
            yield f"{k.name}: parameters: {k.parameters}"
    if any(k.certificates for k in report.kernels):
        yield _pairs("rewrites, with the identity that makes each legal", "kernel", "identity",
                     [(k.name, c) for k in report.kernels for c in k.certificates])  # fmt: skip
    if reasons := [
        (f"{k.name}, rank {r}", why) for k in report.kernels for r, w in k.pass_reasons.items() for why in w
    ]:
        yield _pairs("why a rank is passed over more than once", "where", "reason", reasons)
    if report.saved:
        yield _saved(report)
    if report.fallbacks:
        yield _pairs("failed, and runs eagerly", "part", "reason", list(report.fallbacks))
    if report.externs:
        yield _pairs("left to PyTorch: no kernel", "operator", "reason", counted(list(report.externs)))
    if report.refusals:
        yield _pairs("not fused", "operations", "reason", list(report.refusals))


def summary(report: Report) -> str:
    """The whole in a sentence."""
    kernels, calls = len(report.kernels), sum(k.calls for k in report.kernels)
    if not kernels:
        return f"target {report.target}: nothing was fused"
    count = counted_noun(kernels, "kernel") + (f" in {calls} calls" if calls != kernels else "")
    saved = ""
    if report.hbm_bytes_unfused:
        times = report.hbm_bytes_unfused / max(report.hbm_bytes, 1)
        less = f" ({times:.1f} times less)" if times >= 1.05 else ""
        saved = f" instead of {amount(report.hbm_bytes_unfused)}{less}"
    between = amount(report.peak_intermediate_bytes)
    if report.peak_intermediate_bytes > report.intermediate_bytes_bound:
        between += f" (at least {amount(report.intermediate_bytes_bound)})"
    return (
        f"target {report.target}: {count}, {amount(report.hbm_bytes)} of memory traffic{saved}, predicted "
        f"{time(report.predicted_us)}; intermediates between kernels: {between}"
    )


def _kernels(report: Report) -> Table:
    table = _table("kernels", "kernel", "operations", "passes", "parameters", "programs")
    for k in report.kernels:
        name = k.name if k.calls == 1 else f"{k.name} ×{k.calls}"
        params = " ".join(f"{key}={value}" for key, value in k.params.items())
        table.add_row(name, ", ".join(dict.fromkeys(k.nodes)), _passes(k), params, k.grid)
    return table


def _passes(kernel: KernelReport) -> str:
    def one(rank: str, passes: int) -> str:
        before = kernel.passes_as_written.get(rank, passes)
        return f"{rank}: {passes}" + (f" (was {before})" if before != passes else "")

    return "\n".join(one(rank, n) for rank, n in kernel.passes.items())


def _work(report: Report) -> Table:
    table = _table(
        "per call", "kernel", "memory", "lower bound", "on chip", "loads", "stores", "operations", "time", "bound by",
        right=range(1, 8),
    )  # fmt: skip
    for k in report.kernels:
        sizes = (k.hbm_bytes, k.hbm_bytes_bound, k.footprint_bytes, k.sram_load_bytes, k.sram_store_bytes)
        table.add_row(k.name, *map(amount, sizes), f"{k.flops / 1e9:,.2f} G", time(k.predicted_us), k.bound_by)
    if workspaces := [f"{k.name} merges {amount(k.workspace_bytes)}" for k in report.kernels if k.workspace_bytes]:
        table.caption, table.caption_justify = f"workspaces: {', '.join(workspaces)}", "left"
    return table


def _binaries(report: Report) -> Table:
    table = _table("binaries", "kernel", "registers", "spills", "shared", "matrix instructions", "", right=range(1, 4))
    for k in report.kernels:
        cores = ", ".join(f"{name} {n}" for name, n in (k.tensor_cores or {}).items() if n)
        table.add_row(
            k.name, _known(k.registers), _known(k.spills), amount(k.shared_bytes), cores, k.not_compiled or ""
        )
    return table


def _saved(report: Report) -> Table:
    table = _table(
        f"saved for the backward: {amount(report.saved_bytes)}", "value", "shape", "memory", "why", right=range(2, 3)
    )
    for x in sorted(report.saved, key=lambda x: -x.bytes):
        table.add_row(x.name, f"{x.dtype} [{', '.join(x.shape)}]", amount(x.bytes), x.reason)
    return table


def _pairs(title: str, left: str, right: str, rows: list[tuple[str, str]]) -> Table:
    table = _table(title, left, right)
    for row in dict.fromkeys(rows):
        table.add_row(*row)
    return table


def counted(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Equal rows once, with how often they came."""
    times = {row: rows.count(row) for row in dict.fromkeys(rows)}
    return [(name if n == 1 else f"{name} ×{n}", reason) for (name, reason), n in times.items()]


def _table(title: str, *headings: str, right: range = range(0)) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for n, heading in enumerate(headings):
        table.add_column(heading, justify="right" if n in right else "left", overflow="fold")
    return table


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)


def amount(size: float | None) -> str:
    """Bytes as a person reads them: 512 B, 1.5 KiB, 24.0 MiB."""
    if size is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    raise AssertionError


def time(us: float) -> str:
    """Microseconds as a person reads them."""
    return f"{us:,.1f} µs" if us < 1e3 else f"{us / 1e3:,.2f} ms" if us < 1e6 else f"{us / 1e6:,.2f} s"
