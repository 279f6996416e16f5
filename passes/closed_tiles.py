"""Which tiles of a streamed rank data rules out, so that a step need not be taken: what there is to ask before it.

When: every contribution that a loop folds is, by algebra, its combiner's neutral element wherever a boolean tile is false
(or an additive mask is -inf), and the step loads something along the rank that the boolean is not computed from.

Before:  tile.for k { q = load; k = load; s = where(mask, q k, -inf); fold s }
After:   tile.for k { mask = load; tile.if any mask { k = load; s = where(mask, q k, -inf); fold s } }

Why legal: folding neutral elements leaves a state what it was, and a transport to the same gauge leaves it alone.  A row
that is closed in all tiles keeps the first state, which is what folding nothing but neutral elements gives.  Loaded values
count as finite, as everywhere (0 times what is skipped is not waited for): what is masked does not reach a row.

The state is asked for nothing: a test is a function of loaded values, of indices and of what other loops have finished.
Parts of it may be left out, as long as it holds wherever a contribution may count.  `neutral.py` finds where that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from xdsl.dialects.builtin import i1
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from ..ir import scalar
from ..ir.cascade import EinsumOp, IndexOp, OnlineOp
from .index_predicates import Equals, Every, Predicate, Some, every, some
from .neutral import Neutral

NEVER, MASKS, ALL = "never", "masks", "all"  # what is asked: nothing, booleans, or also whether numbers are -inf


def opening_test(neutral: Neutral, members: Sequence[EinsumOp | OnlineOp], rank: str, asked: str) -> Predicate | None:
    """What holds of some element of a tile wherever a step along `rank` may change what the members fold; None: no test.

    neutral: with `data`.  members: what the loop folds.  The predicate has no parts about indices.
    """
    if asked == NEVER:
        return None
    reads = _Reads(neutral, members, rank)
    found = _tests(some(*(neutral.visited(op) for op in members)), reads, asked)
    if found is None or not any(rank in reads.ranks(e.value) for e in leaves(found)):
        return None
    asked_for = {t for e in leaves(found) for t in reads.tensors(e.value)}
    return found if reads.along() - asked_for else None


def leaves(p: Predicate) -> list[Equals]:
    """The parts of a test, without repetition."""
    if isinstance(p, Equals):
        return [p]
    return list(dict.fromkeys(e for q in p.parts for e in leaves(q))) if isinstance(p, Every | Some) else []


def write(p: Predicate, tile_of: Callable[[Equals], SSAValue], join: Callable[[str, SSAValue, SSAValue], SSAValue]):
    """The boolean tile of a test.  tile_of: of one part; join: "and" or "or" of two tiles."""
    if isinstance(p, Equals):
        return tile_of(p)
    assert isinstance(p, Every | Some)
    first, *rest = dict.fromkeys(write(q, tile_of, join) for q in p.parts)
    for other in rest:
        first = join("and" if isinstance(p, Every) else "or", first, other)
    return first


def to_text(p: Predicate, neutral: Neutral) -> str:
    """`mask`, `not lt(bias, threshold)`, `mask and bias != -inf`."""
    match p:
        case Equals(value, number, so):
            text = _scalar_text(value, neutral)
            if value.type == i1:
                return text if so == number else f"not {text}"
            return f"{text} {'==' if so else '!='} {number}"
        case Every(parts) | Some(parts):
            word = " and " if isinstance(p, Every) else " or "
            return word.join(f"({to_text(q, neutral)})" if isinstance(q, Some) else to_text(q, neutral) for q in parts)
    return "true"


def _scalar_text(value: SSAValue, neutral: Neutral) -> str:
    if isinstance(value, BlockArgument):
        tensor = neutral.arguments[value][0] if value in neutral.arguments else value
        return tensor.name_hint or "an input"
    op = value.owner
    assert isinstance(op, Operation)
    if isinstance(op, IndexOp):
        return op.expression.text()
    if scalar.name_of(op) == scalar.CONSTANT:
        return str(scalar.constant_value(op))
    return f"{scalar.name_of(op)}({', '.join(_scalar_text(o, neutral) for o in op.operands)})"


def region_of(value: SSAValue) -> EinsumOp | OnlineOp:
    """The operation whose map region a scalar is in."""
    block = value.owner if isinstance(value, BlockArgument) else value.owner.parent  # pyright: ignore
    assert isinstance(block, Block)
    op = block.parent_op()
    assert isinstance(op, EinsumOp | OnlineOp)
    return op


def _tests(p: Predicate, reads: _Reads, asked: str) -> Predicate | None:
    """A weaker predicate of nothing but data that can be asked; None where only `true` is weaker."""
    match p:
        case Equals(value, number, so):
            masks = asked == ALL and number == -math.inf and not so
            return p if reads.ready(value) and (masks or value.type == i1) else None
        case Every(parts):
            kept = [t for q in parts if (t := _tests(q, reads, asked)) is not None]
            kept = [t for t in kept if any(reads.rank in reads.ranks(e.value) for e in leaves(t))] or kept
            booleans = [t for t in kept if all(e.value.type == i1 for e in leaves(t))]
            return every(*(booleans or kept)) if kept else None
        case Some(parts):
            tests = [_tests(q, reads, asked) for q in parts]
            return None if None in tests or not tests else some(*tests)  # pyright: ignore
    return None


class _Reads:
    """What scalars are computed from."""

    def __init__(self, neutral: Neutral, members: Sequence[EinsumOp | OnlineOp], rank: str):
        self.neutral, self.members, self.rank = neutral, members, rank

    def _arguments(self, value: SSAValue) -> list[SSAValue]:
        """The arguments and indices of its region that a scalar is computed from."""
        found: dict[SSAValue, None] = {}
        pending = [value]
        while pending:
            v = pending.pop()
            if isinstance(v, BlockArgument) or isinstance(v.owner, IndexOp):
                found[v] = None
            else:
                assert isinstance(v.owner, Operation)
                pending.extend(v.owner.operands)
        return list(found)

    def ranks(self, value: SSAValue) -> set[str]:
        """The ranks that a scalar carries."""
        found: set[str] = set()
        for a in self._arguments(value):
            if isinstance(a.owner, IndexOp):
                found |= set(a.owner.expression.ranks)
            elif a in self.neutral.arguments:
                found |= set(self.neutral.arguments[a][1].ranks)
        return found & set(self.neutral.extents)

    def ready(self, value: SSAValue) -> bool:
        """Whether a scalar is known before the members' loop takes a step: it is made of none of their results."""
        for a in self._arguments(value):
            if isinstance(a.owner, IndexOp):
                continue
            if a not in self.neutral.arguments:
                return False
            op = self.neutral.arguments[a][0].owner
            if op in self.members:
                return False
            if isinstance(op, OnlineOp | EinsumOp) and not all(self._known(v) for v in op.inputs):
                return False
        return True

    def _known(self, tensor: SSAValue) -> bool:
        op = tensor.owner
        if op in self.members:
            return False
        return not isinstance(op, OnlineOp | EinsumOp) or all(self._known(v) for v in op.inputs)

    def tensors(self, value: SSAValue) -> set[SSAValue]:
        """The kernel's arguments that a scalar is computed from."""
        found: set[SSAValue] = set()
        for a in self._arguments(value):
            if a in self.neutral.arguments:
                found |= self._behind(self.neutral.arguments[a][0])
        return found

    def _behind(self, tensor: SSAValue) -> set[SSAValue]:
        op = tensor.owner
        if not isinstance(op, OnlineOp | EinsumOp):
            return {tensor}
        return {t for v in op.inputs for t in self._behind(v)}

    def along(self) -> set[SSAValue]:
        """The kernel's arguments that a step reads elements of along the rank."""
        found: set[SSAValue] = set()
        pending: list[Operation] = list(self.members)
        seen: set[Operation] = set()
        while pending:
            op = pending.pop()
            if op in seen or not isinstance(op, OnlineOp | EinsumOp):
                continue
            seen.add(op)
            for tensor, access in op.operand_accesses:
                if self.rank in access.ranks:
                    if isinstance(tensor, BlockArgument):
                        found.add(tensor)
                    else:
                        pending.append(tensor.owner)  # pyright: ignore
        return found
