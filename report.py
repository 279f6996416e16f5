"""What a compilation did, as data: kernels, bytes, passes, what was left alone and why.

report = fusecade.explain(fn, *args, target="sm_90")
print(report);  report.kernels[0].passes;  report.to_json();  report.to_html("report.html")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assembly.saved import Saved
    from .codegen.artifact import KernelArtifact
    from .driver import Plan
    from .runtime.triton_compile import Compiled, CompileFailure

COST_MODEL = "cost model"  # where parameters come from when nothing was tuned
SCHEMA = 1  # raise it when a field of the JSON changes meaning
WIDTH = 100  # columns of `str()`


@dataclass(frozen=True)
class KernelReport:
    """One kernel.

    calls: how often the graph calls it; bytes, operations and time are those of one call.
    derivation: the state, step, merge, readout and guards of each pass, a line each; certificates: the identities behind
    it.  visits: what part of a rank's tiles is walked, where index predicates (a causal mask) leave some out; and what a
    kernel asks of data (a mask) before it loads a tile.
    passes: traversals of the data along each reduced rank, after the rewriting; passes_as_written: before it.
    params: tile sizes and launch parameters; choices: of each, the values that it may take, the present one first.
    parameters: where they come from: the cost model, or what was tuned.
    hbm_bytes: predicted traffic with main memory; hbm_bytes_bound: what no kernel with these inputs and outputs avoids.
    skippable_load_bytes: the part of sram_load_bytes that data may leave out when the kernel runs: all bytes and times are
    predicted as if nothing were, so they are upper bounds where this is not 0.
    sram_load_bytes, sram_store_bytes: what the programs move between them and the next level: `testing.count_io` counts
    the same.  footprint_bytes: of one program, on chip.
    workspace_bytes: of the states of parts that it merges, computed by the kernel before it in the same call.
    registers, spills, shared_bytes, tensor_cores: of the compiled binary; None where there is none, `not_compiled` says
    why.  spills: bytes of stack a thread.  tensor_cores: matrix instructions by name.
    """

    name: str
    kind: str
    target: str
    source: str
    nodes: tuple[str, ...]
    calls: int
    grid: str
    params: Mapping[str, int]
    passes: Mapping[str, int]
    passes_as_written: Mapping[str, int]
    pass_reasons: Mapping[str, Sequence[str]]
    hbm_bytes: int
    hbm_bytes_bound: int
    sram_load_bytes: int
    sram_store_bytes: int
    flops: float
    footprint_bytes: int
    predicted_us: float
    bound_by: str
    parameters: str = COST_MODEL
    certificates: tuple[str, ...] = ()
    derivation: tuple[str, ...] = ()
    workspace_bytes: int = 0
    skippable_load_bytes: int = 0
    visits: tuple[str, ...] = ()
    choices: Mapping[str, Sequence[int]] = field(default_factory=dict)
    cascade: str = field(default="", repr=False)
    tile: str = field(default="", repr=False)
    registers: int | None = None
    spills: int | None = None
    shared_bytes: int | None = None
    tensor_cores: Mapping[str, int] | None = None
    not_compiled: str | None = None
    binary: bytes | None = field(default=None, repr=False)
    assembly: str | None = field(default=None, repr=False)

    @property
    def binary_suffix(self) -> str:
        return "hsaco" if self.target.startswith("gfx") else "cubin"

    @property
    def assembly_suffix(self) -> str:
        return "amdgcn" if self.target.startswith("gfx") else "ptx"


@dataclass(frozen=True)
class Report:
    """All of one compilation.

    externs: (operator, reason) of what no kernel computes.  refusals: (operations, reason) of what was not fused.
    rewrites: (rule, kernel, certificate).  fallbacks: (part, reason) of what failed and runs eagerly.
    hbm_bytes: of all kernel calls; hbm_bytes_unfused: of the same work, an operation at a time.
    peak_intermediate_bytes: the arena that values between kernels need; intermediate_bytes_bound: no arena is smaller;
    saved: of a forward, what it keeps for its backward.
    arena_bytes: what each heuristic of the planner came to.  calls: of each kernel call, in order, the kernel's name and the
    graph's nodes that it computes.
    """

    target: str
    kernels: tuple[KernelReport, ...] = ()
    externs: tuple[tuple[str, str], ...] = ()
    rewrites: tuple[tuple[str, str, str], ...] = ()
    refusals: tuple[tuple[str, str], ...] = ()
    fallbacks: tuple[tuple[str, str], ...] = ()
    hbm_bytes: int = 0
    hbm_bytes_unfused: int = 0
    peak_intermediate_bytes: int = 0
    intermediate_bytes_bound: int = 0
    arena_bytes: Mapping[str, int] = field(default_factory=dict)
    program: str = field(default="", repr=False)
    calls: tuple[tuple[str, tuple[str, ...]], ...] = ()
    saved: tuple[Saved, ...] = ()

    @property
    def saved_bytes(self) -> int:
        """What waits for the backward, besides inputs and results, which are there anyway."""
        return sum(value.bytes for value in self.saved)

    @property
    def predicted_us(self) -> float:
        """Of all kernel calls, one after the other."""
        return sum(k.predicted_us * k.calls for k in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the binaries, of which the size stays."""
        data = asdict(self)
        for kernel in data["kernels"]:
            binary = kernel.pop("binary")
            kernel["binary_bytes"] = None if binary is None else len(binary)
            kernel.pop("assembly")
        return {"schema": SCHEMA, **data}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, default=str)

    def to_html(self, path: str | Path) -> Path:
        """Write a page that needs nothing else, and return its path."""
        from .report_page import page

        path = Path(path)
        path.write_text(page(self), encoding="utf-8")
        return path

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console

        from .report_tables import tables

        text = StringIO()
        console = Console(file=text, width=WIDTH, color_system=None, highlight=False)
        for shown in tables(self):
            console.print(shown, markup=False) if isinstance(shown, str) else console.print(shown)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def report_of(
    plan: Plan,
    fallbacks: Sequence[tuple[str, str]] = (),
    compiled: Mapping[str, Compiled | CompileFailure] | None = None,
    saved: Sequence[Saved] = (),
) -> Report:
    """The report of a plan.  compiled: binaries by the fingerprint of their kernel.  saved: of a forward."""
    calls: dict[str, int] = {}
    artifacts: dict[str, KernelArtifact] = {}
    for artifact in (kernel for call in plan.calls for kernel in call.artifact.kernels):
        print_ = artifact.fingerprint
        calls[print_] = calls.get(print_, 0) + 1
        artifacts[print_] = artifact
    kernels = tuple(
        _kernel_report(artifact, calls[print_], (compiled or {}).get(print_)) for print_, artifact in artifacts.items()
    )
    return Report(
        target=plan.target.name,
        kernels=kernels,
        externs=tuple(plan.externs),
        rewrites=tuple(plan.rewrites),
        refusals=tuple(dict.fromkeys((", ".join(dict.fromkeys(r.what)), r.reason) for r in plan.refusals)),
        fallbacks=tuple(fallbacks),
        hbm_bytes=plan.hbm_bytes,
        hbm_bytes_unfused=plan.hbm_bytes_unfused,
        peak_intermediate_bytes=plan.memory.total if plan.memory is not None else 0,
        intermediate_bytes_bound=plan.memory.bound if plan.memory is not None else 0,
        arena_bytes=plan.memory.tried if plan.memory is not None else {},
        program=plan.program_text,
        calls=tuple((c.artifact.kernels[0].name, tuple(dict.fromkeys(c.nodes))) for c in plan.calls),
        saved=tuple(saved),
    )


def _kernel_report(artifact: KernelArtifact, calls: int, compiled: Compiled | CompileFailure | None) -> KernelReport:
    facts = artifact.facts
    known = {f.name for f in fields(KernelReport)} & set(facts)
    return KernelReport(
        name=artifact.name,
        kind=artifact.kind,
        target=artifact.target,
        source=artifact.source,
        calls=calls,
        grid=str(artifact.launch["programs" if artifact.kind == "torch" else "grid"]),
        params=dict(artifact.params),
        **{name: tuple(v) if isinstance(v := facts[name], list) else v for name in sorted(known)},
        **_resources(compiled),
    )


def _resources(compiled: Compiled | CompileFailure | None) -> dict[str, Any]:
    if compiled is None:
        return {}
    if not compiled.ok:
        return {"not_compiled": compiled.reason}  # type: ignore[union-attr]
    found = compiled.resources  # type: ignore[union-attr]
    return {
        "registers": found.registers,
        "spills": found.spills_bytes,
        "shared_bytes": found.shared_bytes,
        "tensor_cores": dict(found.tensor_core_instructions),
        "not_compiled": found.reason,
        "binary": compiled.binary,  # type: ignore[union-attr]
        "assembly": compiled.assembly,  # type: ignore[union-attr]
    }


def counted_noun(number: int, noun: str) -> str:
    """1 kernel, 2 kernels."""
    return f"{number} {noun}{'s' * (number != 1)}"
