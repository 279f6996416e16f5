"""Keys of clusters: two clusters with equal keys become the same kernel, whatever their values are called.

A model repeats its layers; what is decided for one cluster of a layer is decided for all of them.  A key holds what
outlining, pricing and lowering look at: ranks, accesses, regions, types, who reads whom, which results leave, and which
operations are part of one library call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xdsl.ir import Attribute, Operation, SSAValue

from ..ir.cascade import EinsumOp


class Fingerprints:
    """Keys of the clusters of one program; equal operations have equal numbers."""

    def __init__(self, numbers: dict[tuple, int] | None = None) -> None:
        """numbers: those of operations of other programs, so that keys compare with theirs; it grows."""
        self._number: dict[tuple, int] = {} if numbers is None else numbers
        self._of: dict[Operation, int] = {}

    def of(self, ops: Sequence[EinsumOp], outputs: Sequence[SSAValue]) -> tuple:
        """The key of a cluster, `ops` in program order."""
        values: dict[SSAValue, int] = {}
        calls: dict[object, int] = {}
        rows = []
        for op in ops:
            node = op.attributes.get("node")
            call = calls.setdefault(op if node is None else node, len(calls))
            read = tuple(values.setdefault(v, len(values)) for v in op.inputs)
            rows.append((self._local(op), read, tuple(values.setdefault(r, len(values)) for r in op.results), call))
        return tuple(rows), tuple(values[v] for v in outputs)

    def _local(self, op: EinsumOp) -> int:
        """A number for what an operation is by itself."""
        if op not in self._of:
            numbers: dict[SSAValue, int] = {a: n for n, a in enumerate(op.body.block.args)}
            region = []
            for inner in op.body.block.ops:
                read = tuple(numbers[o] for o in inner.operands)
                region.append((inner.name, _sorted(inner.properties), read))
                for r in inner.results:
                    numbers[r] = len(numbers)
            key = (
                _sorted(op.properties),
                tuple(v.type for v in (*op.inputs, *op.results)),
                tuple(r.type for inner in op.body.block.ops for r in inner.results),
                tuple(region),
                _sorted({k: v for k, v in op.attributes.items() if k != "node"}),
            )
            self._of[op] = self._number.setdefault(key, len(self._number))
        return self._of[op]


@dataclass
class Known:
    """What was decided for clusters of several programs: a model's forward and backward graph have many in common.

    A refusal holds for every cluster with its key; a kernel is taken over by one whose values are called the same as well,
    so that what is printed does not depend on what was compiled before.
    """

    numbers: dict[tuple, int] = field(default_factory=dict)
    refused: dict[tuple, Any] = field(default_factory=dict)
    taken: dict[tuple, Any] = field(default_factory=dict)

    def clear(self) -> None:
        for table in (self.numbers, self.refused, self.taken):
            table.clear()


def names_of(ops: Sequence[EinsumOp]) -> tuple:
    """What the values and the calls of a cluster are called."""
    return tuple((o.attributes.get("node"), *(v.name_hint for v in (*o.inputs, *o.results))) for o in ops)


def _sorted(attributes: Mapping[str, Attribute]) -> tuple[tuple[str, Attribute], ...]:
    return tuple(sorted(attributes.items(), key=lambda pair: pair[0]))
