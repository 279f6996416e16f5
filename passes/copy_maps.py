"""copy-maps: a map that is much larger than all it is computed from is computed once for each reduction that reads it.

When: before fusion, on maps that several reductions read, with the maps that they are computed from.

Before:  p = f(u[b, v], w[b, s]);          x = Σ_s p a;  y = Σ_v p c
After:   p = f(u, w);  p' = f(u, w);       x = Σ_s p a;  y = Σ_v p' c

Why legal: maps are pure.  Why cheaper: reading u and w again is less than writing p and reading it; each reduction can then
be a kernel in which p never exists.  What no kernel takes is one map again at the end (`merge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from xdsl.ir import Block, Operation, SSAValue

from ..ir.attributes import element_bits
from ..ir.cascade import EinsumOp
from .canonicalise import erase_dead, share_equal

MUCH_LARGER = 4  # times the elements of each value that it is computed from
LONGEST = 16  # maps that are copied with it


def copy_maps(block: Block, bytes_of: Callable[[SSAValue], int]) -> dict[EinsumOp, EinsumOp]:
    """Copy in place, in front of each reader but the last; of what each copy is one."""

    def elements(value: SSAValue) -> int:
        return 8 * bytes_of(value) // element_bits(value.type.element_type)  # pyright: ignore

    cheap: dict[EinsumOp, list[EinsumOp]] = {}  # with the maps to copy, in order
    copies: dict[EinsumOp, EinsumOp] = {}
    for op in list(block.ops):
        if not (isinstance(op, EinsumOp) and op.is_map and len(op.results) == 1):
            continue
        large = [v for v in op.inputs if MUCH_LARGER * elements(v) > elements(op.results[0])]
        if all(v.owner in cheap for v in large):
            made = [v for v in op.inputs if v in large or not getattr(v.owner, "inputs", True)]
            chain = list(dict.fromkeys([*(o for v in made for o in cheap[v.owner]), op]))  # pyright: ignore
            if len(chain) <= LONGEST:
                cheap[op] = chain
    for op, chain in cheap.items():
        if not op.inputs:
            continue
        readers = dict.fromkeys(u.operation for u in op.results[0].uses)
        reductions = [o for o in readers if isinstance(o, EinsumOp) and not o.is_map]
        for reader in reductions if len(readers) > len(reductions) else reductions[:-1]:
            values: dict[SSAValue, SSAValue] = {}
            for one in chain:
                copy = one.clone(values)
                copy.results[0].name_hint = one.results[0].name_hint
                copies[copy] = one
                block.insert_op_before(copy, reader)
            op.results[0].replace_uses_with_if(values[op.results[0]], lambda use, o=reader: use.operation is o)
    return copies


@contextmanager
def shared(ops: Sequence[EinsumOp], copies: Mapping[EinsumOp, EinsumOp]) -> Iterator[list[EinsumOp]]:
    """`ops` as they are without the copies: what they hold several times is there once, and they read that meanwhile."""
    inside: set[Operation] = set(ops)
    first: dict[EinsumOp, EinsumOp] = {}
    kept: list[EinsumOp] = []
    moved: list[tuple[Operation, int, SSAValue]] = []
    for op in ops:
        home = first.setdefault(copies.get(op, op), op)
        if home is not op:
            for old, new in zip(op.results, home.results, strict=True):
                for use in [u for u in old.uses if u.operation in inside]:
                    moved.append((use.operation, use.index, old))
                    use.operation.operands[use.index] = new
        if home is op or any(r.first_use for r in op.results):
            kept.append(op)
    try:
        yield kept
    finally:
        for reader, index, value in moved:
            reader.operands[index] = value


def merge(block: Block) -> None:
    """Make one of the copies that are left."""
    share_equal(block)
    erase_dead(block)
