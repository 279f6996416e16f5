"""Outlining: ranks that may be made one, and those that may not."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, K, Q, V, attention
from harness import program_of
from in_parts import in_parts

from fusecade.ir.cascade import EinsumOp
from fusecade.ir.verify import verify
from fusecade.passes.algebra.forms import Refused
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.outline import outline


def whole(fn, tensors):
    """Everything in a program outlined as one kernel, or why not."""
    program = program_of(fn, tensors)
    canonicalise_program(program)
    ops = [op for op in program.body.block.ops if isinstance(op, EinsumOp)]
    outputs = [v for v in dict.fromkeys(program.returned) if v.owner in ops]
    return ops, outline(ops, outputs, "k")


@pytest.mark.parametrize("name", in_parts(CASES))
def test_ranks_of_one_operation_stay_apart(name: str):
    """Each copy has as many ranks as the operation it was made of, reduces as many, and keeps their extents."""
    ops, kernel = whole(CASES[name].fn, CASES[name].tensors)
    if isinstance(kernel, Refused):
        assert kernel.reason
        return
    verify_detached(kernel)
    originals: dict[str, list[EinsumOp]] = {}
    for op in ops:
        originals.setdefault(str(op.attributes.get("node")), []).append(op)
    for copy in kernel.body.block.ops:
        if not isinstance(copy, EinsumOp) or copy.is_map:
            continue
        same_node = originals[str(copy.attributes.get("node"))]
        assert any(
            len(copy.ranks.names) == len(op.ranks.names)
            and sorted(map(str, copy.extents.values())) == sorted(map(str, op.extents.values()))
            and len(copy.reduced) == len(op.reduced)
            for op in same_node
        ), copy


def verify_detached(kernel):
    from xdsl.dialects.builtin import ModuleOp

    from fusecade.ir.cascade import ProgramOp

    program = ProgramOp.empty("p", [v.type for v in kernel.inputs])
    copy = kernel.clone(dict(zip(kernel.inputs, program.body.block.args, strict=True)))
    program.body.block.add_op(copy)
    program.finish(*copy.results)
    verify(ModuleOp([program]))


def test_queries_and_keys_of_self_attention_are_two_ranks():
    _, kernel = whole(lambda x: torch.softmax(x @ x.transpose(-1, -2), -1).sum(-1), [torch.randn(2, 6, 4)])
    assert not isinstance(kernel, Refused)
    scores = next(op for op in kernel.body.block.ops if isinstance(op, EinsumOp) and not op.is_map)
    assert len(scores.ranks.names) == 4


def test_an_attention_has_five_ranks():
    _, kernel = whole(attention, [Q, K, V])
    assert not isinstance(kernel, Refused)
    assert len({r for op in kernel.body.block.ops if isinstance(op, EinsumOp) for r in op.ranks.names}) == 5


def test_reductions_of_one_row_share_its_ranks():
    _, kernel = whole(lambda x: (x.amax(-1), x.sum(-1), x.argmin(-1)), [torch.randn(5, 7)])
    assert not isinstance(kernel, Refused)
    assert len({r for op in kernel.body.block.ops if isinstance(op, EinsumOp) for r in op.ranks.names}) == 2


def test_reductions_of_rows_and_of_columns_do_not():
    _, kernel = whole(lambda x: (x.amax(-1), x.sum(0)), [torch.randn(5, 5)])
    assert not isinstance(kernel, Refused)
    assert all(len(op.ranks.names) == 2 for op in kernel.body.block.ops if isinstance(op, EinsumOp))


def test_a_reduction_read_at_two_places_is_refused():
    def f(x):
        s = x.sum(-1)
        return s[:, None] * s[None, :]

    _, kernel = whole(f, [torch.randn(5, 7)])
    assert isinstance(kernel, Refused) and "twice" in kernel.reason


def test_a_map_read_at_two_places_becomes_two():
    def f(x):
        e = torch.exp(x)
        return e @ e.T

    ops, kernel = whole(f, [torch.randn(5, 7)])
    assert not isinstance(kernel, Refused)
    assert len(list(kernel.body.block.ops)) == len(ops) + 2


def test_a_reduction_read_at_every_second_index_is_refused():
    """At a sum or a difference of ranks it keeps a rank of its own; every second element is no such band."""
    _, kernel = whole(lambda x: x.sum(-1)[::2] * 2, [torch.randn(5, 7)])
    assert isinstance(kernel, Refused) and "index" in kernel.reason
