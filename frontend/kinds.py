"""What sort of work an ATen operator is: what it would take to do it a second time."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from . import contractions, creation, indexing, norms, pointwise, reductions, scatters, views

VIEW, SOURCE, MAP, REDUCTION, CONTRACTION, OPAQUE = "view", "source", "map", "reduction", "contraction", "opaque"

aten = torch.ops.aten
_MOVES = {aten.cat, aten.flip, aten.constant_pad_nd, aten.repeat, aten.roll, aten.clone, aten.contiguous, aten.unfold}
_TRIANGLES = {aten.tril, aten.triu}  # in the table of what needs no data, and they read some

KINDS: dict[Any, str] = {
    **dict.fromkeys(creation.TABLE, SOURCE),
    **dict.fromkeys(indexing.TABLE, MAP),
    **dict.fromkeys(pointwise.TABLE, MAP),
    **dict.fromkeys(views.TABLE, VIEW),
    **dict.fromkeys(_MOVES | _TRIANGLES, MAP),
    **dict.fromkeys(reductions.TABLE, REDUCTION),
    **dict.fromkeys(norms.TABLE, REDUCTION),
    **dict.fromkeys(scatters.TABLE, OPAQUE),
    **dict.fromkeys(contractions.TABLE, CONTRACTION),
    aten.scatter: MAP,
}

_EXTREMES = {aten.amax, aten.amin, aten.max, aten.min}
_EQUALITIES = {aten.eq.Tensor, aten.ne.Tensor}


def kind_of(node: fx.Node) -> str:
    """VIEW moves nothing, SOURCE reads nothing, OPAQUE is not to be done twice: random, with effects, or not known.

    A REDUCTION reads whole rows for each element of its result, also where that is as large as its operand (a softmax).
    """
    if node.op in ("placeholder", "get_attr") or node.target is operator.getitem:
        return VIEW
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return OPAQUE
    if torch.Tag.nondeterministic_seeded in target.tags or target._schema.is_mutable:
        return OPAQUE
    kind = KINDS.get(target.overloadpacket, OPAQUE)
    return OPAQUE if kind == REDUCTION and _chooses(node) else kind


def _chooses(node: fx.Node) -> bool:
    """Whether it says where in a row something is: of values that are rounded in another way, that may be elsewhere."""
    value = node.meta.get("val")
    results = value if isinstance(value, tuple | list) else [value]
    return any(isinstance(v, torch.Tensor) and v.dtype == torch.int64 for v in results) and any(
        isinstance(x := n.meta.get("val"), torch.Tensor) and x.is_floating_point() for n in node.all_input_nodes
    )


def matches(node: fx.Node) -> bool:
    """Whether it compares numbers for equality, which does not survive another rounding of one of them."""
    values = [n.meta.get("val") for n in node.all_input_nodes]
    return node.target in _EQUALITIES and any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in values)


def is_matched(node: fx.Node) -> bool:
    """Whether it is an extreme, and something is compared for equality with it: with what it was taken of, as a rule.

    Both have to come from one computation.
    """
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.overloadpacket not in _EXTREMES:
        return False
    pending, seen = [node], set[fx.Node]()
    while pending:
        for user in pending.pop().users:
            if user.target in _EQUALITIES:
                return True
            if kind_of(user) == VIEW and user.op == "call_function" and user not in seen:
                seen.add(user)
                pending.append(user)
    return False


def contracted(node: fx.Node) -> int | None:
    """Over how many products each element of a contraction sums; None where that is not seen."""
    if kind_of(node) != CONTRACTION:
        return None
    tensors = [a for a in node.args if isinstance(a, fx.Node) and isinstance(a.meta.get("val"), torch.Tensor)]
    shapes = [a.meta["val"].shape for a in tensors]
    name = node.target.overloadpacket  # type: ignore[union-attr]
    if name in (aten.mm, aten.bmm, aten.mv, aten.dot, aten.matmul, aten.linear) and shapes:
        return shapes[0][-1]
    if name in (aten.addmm, aten.baddbmm, aten.addmv) and len(shapes) > 1:
        return shapes[1][-1]
    return None
