"""plan-memory: where the intermediates between kernels live, in one arena, against the lower bound.

When: last, on a program with kernels in place.  An analysis: it gives offsets, the runtime allocates.

Each intermediate lives from the operation that writes it to the last one that reads it; the workspaces of a kernel live
while it runs.  A result may stand where an input of its kernel stood that nobody reads later, if each program reads there
only what it then writes (`in_place`).  The heuristics of `arena.py` are tried and the smallest arena is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from xdsl.ir import Operation, SSAValue

from ..ir import symbols
from ..ir.attributes import TensorType, element_bits
from ..ir.cascade import ProgramOp
from .arena import METHODS, Interval, extent, lower_bound


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in bytes of every intermediate in an arena of `total` bytes; `bound` is what no plan can go under.

    in_place: buffers that stand in the place of another, by name.  tried: the total of each heuristic.
    """

    offsets: dict[str, int]
    total: int
    bound: int
    method: str
    in_place: Mapping[str, str]
    tried: Mapping[str, int]


@dataclass(frozen=True)
class Uses:
    """What a kernel does with memory, beside reading its inputs and writing its results.

    workspace_bytes: needed while it runs.  in_place: (result, operand) pairs that may be one buffer.
    """

    workspace_bytes: int = 0
    in_place: tuple[tuple[int, int], ...] = ()


def plan_memory(
    program: ProgramOp, sizes: Mapping[str, int] | None = None, uses: Mapping[Operation, Uses] | None = None
) -> MemoryPlan:
    """The plan for the values of a program that are neither arguments nor returned.

    sizes: values of symbolic sizes; one that is not given counts as 1.  uses: what is known of kernels.
    """
    lifetimes = _lifetimes(program, sizes or {}, uses or {})
    return plan(lifetimes.buffers, lifetimes.in_place)


def plan(buffers: Sequence[Interval], in_place: Mapping[str, str] | None = None) -> MemoryPlan:
    """The best of the heuristics.  in_place: buffer -> the one in whose place it stands, whose life ends where it begins."""
    merged, home = _merge(buffers, in_place or {})
    found = {name: method(merged) for name, method in METHODS.items()}
    tried = {name: extent(merged, offsets) for name, offsets in found.items()}
    best = min(tried, key=lambda name: tried[name])
    offsets = {b.name: found[best][home[b.name]] for b in buffers}
    return MemoryPlan(offsets, tried[best], lower_bound(merged), best, dict(in_place or {}), tried)


def intervals(program: ProgramOp, sizes: Mapping[str, int] | None = None) -> list[Interval]:
    """The lifetimes of a program's intermediates."""
    return _lifetimes(program, sizes or {}, {}).buffers


@dataclass(frozen=True)
class _Lifetimes:
    buffers: list[Interval]
    in_place: dict[str, str]


def _lifetimes(program: ProgramOp, sizes: Mapping[str, int], uses: Mapping[Operation, Uses]) -> _Lifetimes:
    ops = list(program.body.block.ops)
    position = {op: n for n, op in enumerate(ops)}
    returned: set[SSAValue] = set(program.returned)
    found: dict[SSAValue, Interval] = {}
    workspaces: list[Interval] = []
    in_place: dict[str, str] = {}
    taken: dict[str, int] = {}

    def unique(name: str) -> str:
        taken[name] = taken.get(name, 0) + 1
        return name if taken[name] == 1 else f"{name}.{taken[name]}"

    for n, op in enumerate(ops):
        for k, value in enumerate(op.results):
            if value in returned or not isinstance(value.type, TensorType):
                continue
            last = max((position.get(u.operation, n) for u in value.uses), default=n)
            found[value] = Interval(unique(value.name_hint or f"v{n}.{k}"), _bytes(value.type, sizes), n, last)
        used = uses.get(op)
        if used is None:
            continue
        if used.workspace_bytes:
            workspaces.append(Interval(unique(f"workspace{n}"), used.workspace_bytes, n, n))
        given: set[SSAValue] = set()
        for result, operand in used.in_place:
            new, old = found.get(op.results[result]), found.get(op.operands[operand])
            free = old is not None and old.last == n and op.operands[operand] not in given
            if new is not None and old is not None and free and new.size == old.size and new.name not in in_place:
                in_place[new.name] = old.name
                given.add(op.operands[operand])
    return _Lifetimes([*found.values(), *workspaces], in_place)


def _merge(buffers: Sequence[Interval], in_place: Mapping[str, str]) -> tuple[list[Interval], dict[str, str]]:
    """Buffers that stand in each other's place as one, and where each went."""
    home = {b.name: b.name for b in buffers}
    merged = {b.name: b for b in buffers}
    for b in sorted(buffers, key=lambda b: b.first):
        if b.name in in_place:
            root = home[b.name] = home[in_place[b.name]]
            del merged[b.name]
            merged[root] = replace(merged[root], last=max(merged[root].last, b.last))
    return list(merged.values()), home


def _bytes(kind: TensorType, sizes: Mapping[str, int]) -> int:
    size = element_bits(kind.element_type) // 8
    for d in kind.dims:
        size *= symbols.evaluate(d, {**dict.fromkeys(symbols.names(d), 1), **sizes})
    return size
