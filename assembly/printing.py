"""A scheduled kernel printed: an artifact with everything that the report shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..codegen.artifact import KernelArtifact, in_stages
from ..codegen.emit import choices_of, emit
from ..ir.cascade import KernelOp
from ..ir.names import note, notes, rename
from ..ir.target import Target
from ..ir.text import print_module
from ..passes.count_passes import Counted
from ..passes.emit_tiles import SKIPPED, VISITED, WITHIN
from ..passes.in_place import in_place
from ..passes.scheduled import Scheduled
from ..passes.split_reduction import as_program


def print_kernel(
    name: str, kernel: KernelOp, s: Scheduled, counted: Counted, target: Target, said: Mapping[str, Any] | None = None
) -> KernelArtifact:
    """The kernel printed; a call of several where it walks parts of a rank, or bounds of one are found ahead.

    said: further facts.  Raises NotPrintable where the target has no such program.
    """
    before, merge = s.before, s.merge
    rename(s.kernel, name)
    only = emit(s.kernel, target)
    facts = _facts(kernel, s, counted, target) | dict(said or {})
    if merge is None and before is None:
        return replace(only, facts=facts)
    cascade, reads = kernel, tuple(range(len(kernel.body.block.args)))
    if merge is not None:
        cascade, reads = merge.split.partial, merge.split.reads
    if before is not None:
        cascade = before.found.walk
    steps = [step.text for step in (before, merge) if step is not None]
    facts |= {
        "cascade": print_module(as_program(cascade.clone())),
        "derivation": [*notes(kernel, "derivation"), *steps],
    }
    kernels, places = [replace(only, facts=facts)], [reads]
    if before is not None:
        within, find = before.found.within, before.found.find
        rank = {within.rank: 1}
        made = _stage(f"{name}_bounds", kernel, find, before.scheduled, Counted(rank, rank, {}), target)
        kernels, places = [made, *kernels], [tuple(reads[n] for n in before.found.reads), *places]
    if merge is not None:
        part = {merge.split.part: 1}
        made = _stage(f"{name}_merge", kernel, merge.split.merge, merge.scheduled, Counted(part, part, {}), target)
        made.facts["workspace_bytes"] = sum(t.distinct for t in s.work.stores)
        kernels, places = [*kernels, made], [*places, merge.split.merge_reads]
    both = {
        "hbm_bytes": sum(k.facts["hbm_bytes"] for k in kernels),
        "certificates": [c for k in kernels for c in k.facts["certificates"]],
        "workspace_bytes": sum(k.facts["sram_store_bytes"] for k in kernels[:-1]),
        "in_place": [],
        **dict(said or {}),
    }
    return in_stages(name, kernels, places, both, of=0 if before is None else 1)


def _stage(
    name: str, kernel: KernelOp, part: KernelOp, s: Scheduled, counted: Counted, target: Target
) -> KernelArtifact:
    """What runs ahead of or behind `kernel` in its call."""
    rename(s.kernel, name)
    facts = _facts(kernel, s, counted, target)
    own = {
        "cascade": print_module(as_program(part.clone())),
        "certificates": notes(part, "certificates"),
        "derivation": [],
    }
    return replace(emit(s.kernel, target), facts=facts | own)


def _facts(kernel: KernelOp, s: Scheduled, counted: Counted, target: Target) -> dict[str, Any]:
    return {
        "passes": counted.passes,
        "passes_as_written": counted.as_written,
        "pass_reasons": counted.reasons,
        "sram_load_bytes": s.work.load_bytes,
        "sram_store_bytes": s.work.store_bytes,
        "hbm_bytes": s.price.hbm_bytes,
        "hbm_bytes_bound": s.work.hbm_bytes_bound,
        "flops": s.work.flops,
        "footprint_bytes": s.price.sram_bytes,
        "register_bytes": s.price.register_bytes,
        "predicted_us": s.price.us,
        "bound_by": s.price.bound_by,
        "programs": s.work.programs,
        "certificates": notes(kernel, "certificates"),
        "derivation": notes(kernel, "derivation"),
        "in_place": [list(pair) for pair in in_place(s.kernel)],
        "visits": [*_visits(s), *_within(s), *_skips(s)],
        "skippable_load_bytes": s.work.skippable_load_bytes,
        "nodes": note(kernel, "nodes").split(),
        "cascade": print_module(kernel),
        "tile": print_module(s.kernel),
        "choices": choices_of(s.kernel, target, s.choices),
        "space": [[dict(params), us] for params, us in s.space[:64]],
    }


def _visits(s: Scheduled) -> list[str]:
    """Of the ranks that are not walked from end to end: which part of their tiles is, and why no more."""
    found = s.kernel.attributes.get(VISITED)
    why = {} if found is None else {r: t.data for r, t in found.data.items()}  # pyright: ignore
    return [f"visits {100 * part:.0f} % of the tiles of {r}: {why[r]}" for r, part in s.work.visits.items() if r in why]


def _within(s: Scheduled) -> list[str]:
    """Of the ranks whose bounds are loaded: what is looked for, and what is counted all the same."""
    found = s.kernel.attributes.get(WITHIN)
    asked = {} if found is None else {r: t.data for r, t in found.data.items()}  # pyright: ignore
    return [
        f"visits {r} from the first to the last tile in which, for some row, {text}: found ahead, counted as if that were all"
        for r, text in asked.items()
    ]


def _skips(s: Scheduled) -> list[str]:
    """Of the ranks in which data may rule tiles out: what is asked, and what is counted all the same."""
    found = s.kernel.attributes.get(SKIPPED)
    asked = {} if found is None else {r: t.data for r, t in found.data.items()}  # pyright: ignore
    share = 100 * s.work.skippable_load_bytes / max(1, s.work.load_bytes)
    return [
        f"loads a tile of {r} only where, somewhere in it, {text}: {share:.0f} % of the bytes loaded, counted as if all were"
        for r, text in asked.items()
    ]
