"""plan-memory: where the intermediates between kernels live, in one arena, against the lower bound.

When: last, on a program with kernels in place.  An analysis: it gives offsets, the runtime allocates.

Each intermediate lives from the operation that writes it to the last one that reads it.  The lower bound is the largest
total alive at any operation.  Two published heuristics are tried and the smaller arena kept (Pisarchyk and Lee, "Efficient
memory management for deep neural net inference", 2020): offsets by size (largest first, lowest gap that fits) and shared
objects by breadth (operations with the most alive first, each tensor put into the smallest free object that fits).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import SSAValue

from ..ir import symbols
from ..ir.attributes import TensorType, element_bits
from ..ir.cascade import ProgramOp

ALIGNMENT = 64  # bytes


@dataclass(frozen=True)
class Interval:
    """One buffer: `size` bytes, alive from operation `first` to operation `last`, both included."""

    name: str
    size: int
    first: int
    last: int

    def overlaps(self, other: Interval) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in bytes of every intermediate in an arena of `total` bytes; `bound` is what no plan can go under."""

    offsets: dict[str, int]
    total: int
    bound: int
    method: str


def plan_memory(program: ProgramOp, sizes: Mapping[str, int] | None = None) -> MemoryPlan:
    """The plan for the values of a program that are neither arguments nor returned."""
    return plan(intervals(program, sizes or {}))


def intervals(program: ProgramOp, sizes: Mapping[str, int]) -> list[Interval]:
    """The lifetimes of a program's intermediates.  A size that is not given counts as 1."""
    ops = list(program.body.block.ops)
    position = {op: n for n, op in enumerate(ops)}
    returned: set[SSAValue] = set(program.returned)
    found: list[Interval] = []
    for n, op in enumerate(ops):
        for k, value in enumerate(op.results):
            if value in returned or not isinstance(value.type, TensorType):
                continue
            last = max((position.get(u.operation, n) for u in value.uses), default=n)
            size = element_bits(value.type.element_type) // 8
            for d in value.type.dims:
                size *= symbols.evaluate(d, {**dict.fromkeys(symbols.names(d), 1), **sizes})
            found.append(Interval(value.name_hint or f"v{n}.{k}", size, n, last))
    names: dict[str, int] = {}
    unique = []
    for i in found:
        count = names[i.name] = names.get(i.name, 0) + 1
        unique.append(i if count == 1 else Interval(f"{i.name}.{count}", i.size, i.first, i.last))
    return unique


def plan(buffers: Sequence[Interval]) -> MemoryPlan:
    """The better of the two heuristics."""
    by_size, by_breadth = offsets_by_size(buffers), objects_by_breadth(buffers)
    best = min((by_size, "offsets by size"), (by_breadth, "objects by breadth"), key=lambda p: _total(buffers, p[0]))
    return MemoryPlan(best[0], _total(buffers, best[0]), lower_bound(buffers), best[1])


def lower_bound(buffers: Sequence[Interval]) -> int:
    """The largest total that is alive at one operation."""
    moments = {b.first for b in buffers}
    return max((sum(_aligned(b.size) for b in buffers if b.first <= m <= b.last) for m in moments), default=0)


def offsets_by_size(buffers: Sequence[Interval]) -> dict[str, int]:
    """Largest first, each at the lowest offset where no buffer alive at the same time stands."""
    placed: list[tuple[Interval, int]] = []
    for b in sorted(buffers, key=lambda b: (-b.size, b.first, b.name)):
        offset = 0
        for other, at in sorted((p for p in placed if p[0].overlaps(b)), key=lambda p: p[1]):
            if offset + _aligned(b.size) <= at:
                break
            offset = max(offset, at + _aligned(other.size))
        placed.append((b, offset))
    return {b.name: offset for b, offset in placed}


def objects_by_breadth(buffers: Sequence[Interval]) -> dict[str, int]:
    """Operations in the order of bytes alive; their tensors go into shared objects, the best fitting free one first."""
    moments = sorted({b.first for b in buffers})
    alive = {m: [b for b in buffers if b.first <= m <= b.last] for m in moments}
    objects: list[tuple[int, list[Interval]]] = []
    assigned: dict[Interval, int] = {}
    for m in sorted(moments, key=lambda m: -sum(b.size for b in alive[m])):
        for b in sorted(alive[m], key=lambda b: (-b.size, b.name)):
            if b in assigned:
                continue
            free = [n for n, (_, held) in enumerate(objects) if not any(b.overlaps(h) for h in held)]
            fitting = [n for n in free if objects[n][0] >= b.size]
            if fitting:
                n = min(fitting, key=lambda n: objects[n][0])
            elif free:
                n = max(free, key=lambda n: objects[n][0])
            else:
                objects.append((0, []))
                n = len(objects) - 1
            size, held = objects[n]
            objects[n] = (max(size, b.size), [*held, b])
            assigned[b] = n
    starts, at = [], 0
    for size, _ in objects:
        starts.append(at)
        at += _aligned(size)
    return {b.name: starts[n] for b, n in assigned.items()}


def _total(buffers: Sequence[Interval], offsets: Mapping[str, int]) -> int:
    return max((offsets[b.name] + _aligned(b.size) for b in buffers), default=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
