"""Canonicalisation: each row of the rule table, and what happens to whole operations."""

from __future__ import annotations

import math

import pytest
import torch
from harness import agree, check, program_of
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import f32, i1, i64
from xdsl.ir import Block, BlockArgument

from fusecade.ir import scalar
from fusecade.ir.cascade import EinsumOp, YieldOp
from fusecade.ir.interpret import Named, evaluate_region, run_program
from fusecade.ir.text import print_module
from fusecade.ir.verify import verify
from fusecade.passes.canonicalise import RULES, canonicalise_program, simplify_region


class Region:
    """A block under construction, in which functions are called by name."""

    def __init__(self, *kinds):
        self.block = Block(arg_types=list(kinds))

    def __getattr__(self, name: str):
        def call(*operands, to=None):
            op = scalar.build(name.rstrip("_"), operands, to)
            self.block.add_op(op)
            return op.results[0]

        return call

    def number(self, value, kind=f32):
        op = scalar.constant(value, kind)
        self.block.add_op(op)
        return op.results[0]

    def simplified(self, value):
        self.block.add_op(YieldOp(value))
        simplify_region(self.block)
        return self.block.last_op.values[0]  # type: ignore


def times_one(r, x):
    return r.mul(x, r.number(1.0))


def one_times(r, x):
    return r.mul(r.number(1.0), x)


def over_one(r, x):
    return r.div(x, r.number(1.0))


def minus_zero(r, x):
    return r.sub(x, r.number(0.0))


def twice_negated(r, x):
    return r.neg(r.neg(x))


def same_branches(r, x):
    return r.select(r.lt(x, r.number(0.5)), x, x)


def chosen(r, x):
    return r.select(r.number(True, i1), x, r.number(2.0))


def rejected(r, x):
    return r.select(r.number(False, i1), r.number(2.0), x)


def chosen_by_both(r, x):
    known, some = r.number(True, i1), r.lt(x, r.number(0.5))
    return r.select(r.or_(some, r.and_(known, r.and_(known, known))), x, r.number(2.0))


def rejected_by_one(r, x):
    known, some = r.number(False, i1), r.lt(x, r.number(0.5))
    return r.select(r.and_(r.or_(known, some), known), r.number(2.0), x)


def chained(r, x):
    return r.sub(r.mul(r.neg(r.neg(x)), r.number(1.0)), r.number(0.0))


IDENTITIES = [
    times_one, one_times, over_one, minus_zero, twice_negated, same_branches, chosen, rejected, chosen_by_both,
    rejected_by_one, chained,
]  # fmt: skip


@pytest.mark.parametrize("build", IDENTITIES)
def test_what_equals_its_operand_goes(build):
    r = Region(f32)
    (x,) = r.block.args
    assert r.simplified(build(r, x)) is x
    assert [op.name for op in r.block.ops] == ["cascade.yield"]


def test_every_row_of_the_table_is_tried_here():
    used = set()
    for build in IDENTITIES:
        r = Region(f32)
        build(r, r.block.args[0])
        used |= {scalar.name_of(op) for op in r.block.ops}
    assert set(RULES) - used <= {"imul", "isub", "narrow"}  # below


def test_integers():
    r = Region(i64)
    (n,) = r.block.args
    assert r.simplified(r.isub(r.imul(n, r.number(1, i64)), r.number(0, i64))) is n


def test_widened_and_narrowed_again():
    from xdsl.dialects.builtin import f64

    r = Region(f32)
    (x,) = r.block.args
    assert r.simplified(r.narrow(r.widen(x, to=f64), to=f32)) is x


@pytest.mark.parametrize(
    ("what", "build"),
    [
        ("x + 0 is not x for -0", lambda r, x: r.add(x, r.number(0.0))),
        ("x * 0 is not 0 for NaN", lambda r, x: r.mul(x, r.number(0.0))),
        ("x - x is not 0 for infinities", lambda r, x: r.sub(x, x)),
        ("0 - x is not -x for 0", lambda r, x: r.sub(r.number(0.0), x)),
        ("x / x is not 1 for 0", lambda r, x: r.div(x, x)),
        ("exp(log(x)) is not x for -1", lambda r, x: r.exp(r.log(x))),
    ],
)
def test_what_is_no_identity_stays(what: str, build):
    r = Region(f32)
    value = r.simplified(build(r, r.block.args[0]))
    assert not isinstance(value, BlockArgument) and scalar.name_of(value.owner) != scalar.CONSTANT, what


def test_minus_negative_zero_keeps_the_sign_of_zero():
    """x - (-0.0) is x + 0.0, which turns -0.0 into 0.0."""
    r = Region(f32)
    x = r.block.args[0]
    value = r.sub(x, r.number(-0.0))
    zero = Named(torch.tensor(-0.0, dtype=torch.float64), ())
    before = evaluate_region(r.block, {x: zero}, [value], {})[value].tensor
    after = r.simplified(value)
    now = evaluate_region(r.block, {x: zero}, [after], {})[after].tensor
    assert torch.signbit(before) == torch.signbit(now)


def test_equal_scalars_are_computed_once():
    r = Region(f32, f32)
    x, y = r.block.args
    r.simplified(r.mul(r.exp(r.sub(x, y)), r.exp(r.sub(x, y))))
    assert [scalar.name_of(op) for op in r.block.ops] == ["sub", "exp", "mul", None]


NUMBERS = [0.0, -0.0, 1.0, -1.5, math.inf, -math.inf, math.nan, 1e-30]


@given(st.data())
def test_random_regions_keep_their_value(data):
    """NaN, infinities and the sign of zero included."""
    r = Region(f32, f32)
    values = list(r.block.args)
    for _ in range(data.draw(st.integers(1, 8))):
        name = data.draw(st.sampled_from(["mul", "div", "sub", "add", "neg", "select", "number", "maximum"]))
        pick = lambda: data.draw(st.sampled_from(values))  # noqa: E731
        if name == "number":
            values.append(r.number(data.draw(st.sampled_from([0.0, -0.0, 1.0, 2.0]))))
        elif name == "neg":
            values.append(r.neg(pick()))
        elif name == "select":
            condition = data.draw(st.sampled_from(["lt", "known"]))
            c = r.lt(pick(), pick()) if condition == "lt" else r.number(data.draw(st.booleans()), i1)
            values.append(r.select(c, pick(), pick()))
        else:
            values.append(getattr(r, name)(pick(), pick()))
    numbers = [data.draw(st.sampled_from(NUMBERS)) for _ in range(2)]
    known = {a: Named(torch.tensor(v, dtype=torch.float64), ()) for a, v in zip(r.block.args, numbers, strict=True)}
    last = values[-1]
    before = evaluate_region(r.block, known, [last], {})[last].tensor
    after = r.simplified(last)
    now = evaluate_region(r.block, known, [after], {})[after].tensor
    assert torch.equal(before, now) or bool(before.isnan() & now.isnan())
    assert before.isnan() or torch.signbit(before) == torch.signbit(now)


# --- operations ---------------------------------------------------------------------------------------------------


def canonical(fn, *tensors):
    program = program_of(fn, list(tensors))
    expected = run_program(program, list(tensors))
    canonicalise_program(program)
    verify(program)
    agree(run_program(program, list(tensors)), expected, "canonicalised")
    return [op for op in program.body.block.ops if isinstance(op, EinsumOp)]


X = torch.randn(4, 6)


def test_equal_operations_are_done_once():
    assert len(canonical(lambda x: torch.exp(x) + torch.exp(x) * 2, X)) < len(
        canonical(lambda x: torch.exp(x) + torch.sin(x) * 2, X)
    )


def test_different_constants_and_accesses_are_not_equal():
    ops = canonical(lambda x: (x * 2).sum() + (x * 3).sum() + x[0].sum() + x[1].sum(), X)
    sums = [op for op in ops if not op.is_map]
    assert len(sums) == 4


def test_dead_operations_go():
    def f(x):
        torch.softmax(x, -1)
        return x + 1

    assert len(canonical(f, X)) == 1


def test_twice_is_once():
    program = program_of(lambda x: torch.softmax(x * 1.0, -1) + torch.softmax(x, -1), [X])
    canonicalise_program(program)
    once = print_module(program)
    canonicalise_program(program)
    assert print_module(program) == once


def test_returned_copies_stay_what_they_are():
    """An argument that is returned, and a value that is returned twice."""
    check(lambda x: (x, torch.exp(x), torch.exp(x), x.T), [X])
