"""The pass `split-segments`: what is taken apart, what stays whole, and that neither changes a value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from harness import agree, program_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fusecade.ir.cascade import EinsumOp
from fusecade.ir.interpret import run_program
from fusecade.ir.verify import verify
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.split_segments import FEW, split_segments

ROWS, LONG = 3, 7
X, COLUMN, V = torch.randn(ROWS, LONG), torch.randn(ROWS, 1), torch.randn(LONG, 2)


def split(fn: Callable, *tensors: Tensor, dynamic=None) -> tuple[int, set[int]]:
    """How many concatenations were taken apart, and the lengths of the rows that are reduced then; the values stay."""
    program = program_of(fn, list(tensors), dynamic)
    canonicalise_program(program)
    expected = run_program(program, list(tensors))
    done = split_segments(program)
    verify(program)
    agree(run_program(program, list(tensors)), expected, "split")
    ops = [op for op in program.body.block.ops if isinstance(op, EinsumOp)]
    return len(done), {int(op.extents[r]) for op in ops for r in op.reduced if op.extents[r].is_Integer}


WHOLE_ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda c: c.sum(-1),
    "product": lambda c: torch.sigmoid(c).prod(-1),
    "largest and smallest": lambda c: c.amax(-1) - c.amin(-1),
    "logsumexp": lambda c: torch.logsumexp(c, -1),
    "variance": lambda c: c.var(-1),
    "any": lambda c: (c > 1).any(-1),
    "all": lambda c: (c > -1).all(-1),
    "how many": lambda c: (c > 0).sum(-1),
    "sum of all": lambda c: torch.exp(c).sum(),
    "softmax of the first": lambda c: torch.softmax(c, -1)[:, :1],
    "softmax of the last": lambda c: torch.softmax(c, -1)[:, -1],
    "softmax between": lambda c: torch.softmax(c, -1)[:, FEW:-FEW] @ torch.ones(c.shape[-1] - 2 * FEW, 2),
    "with positions": lambda c: (c * torch.arange(c.shape[-1])).sum(-1),
    "the triangle": lambda c: (c * (torch.arange(c.shape[-1]) <= torch.arange(ROWS)[:, None])).sum(-1),
}
LAID: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "behind": lambda x, s: torch.cat([x, s], -1),
    "in front": lambda x, s: torch.cat([s, x], -1),
    "around": lambda x, s: torch.cat([s, s, x, 2 * s], -1),
    "padded": lambda x, s: F.pad(x * s, (1, 2), value=0.5),
    "padded twice": lambda x, s: F.pad(F.pad(x, (0, 1)) + s, (1, 0)),
    "two columns": lambda x, s: torch.cat([x, torch.cat([s, s.exp()], -1)], -1),
}


@pytest.mark.parametrize("row", WHOLE_ROWS)
@pytest.mark.parametrize("laid", LAID)
def test_rows_are_taken_apart(laid: str, row: str):
    x = torch.randn(ROWS, 3 * FEW)
    done, lengths = split(lambda x, s: WHOLE_ROWS[row](LAID[laid](x, s)), x, COLUMN)
    assert done >= 1
    assert max(lengths, default=0) <= x.shape[-1]


@pytest.mark.parametrize("laid", ["behind", "in front"])
def test_a_length_known_only_when_it_runs(laid: str):
    def f(x, s):
        return torch.softmax(LAID[laid](x, s), -1).amax(-1)

    assert split(f, X, COLUMN, dynamic={0: {1: "n"}})[0] == 1


STAYS: dict[str, Callable[[Tensor, Tensor, Tensor], object]] = {
    "it is returned": lambda x, s, v: torch.cat([x, s], -1),
    "a map of it is returned": lambda x, s, v: torch.softmax(torch.cat([x, s], -1), -1),
    "it is carried through a product": lambda x, s, v: (torch.cat([v, v[:1]]) @ x[:, :2].T).amax(0),
    "an index is asked for": lambda x, s, v: torch.cat([x, s], -1).argmax(-1),
    "both are long": lambda x, s, v: torch.cat([x, x], -1).sum(-1),
    "a read of it crosses": lambda x, s, v: torch.softmax(torch.cat([x, s], -1), -1)[:, 1:].sum(-1),
    "it meets itself turned": lambda x, s, v: (lambda c: (c * c.flip(-1)).sum(-1))(torch.cat([x, s], -1)),
    "it is sorted": lambda x, s, v: torch.sort(torch.cat([x, s], -1), -1).values.sum(-1),
    "nothing is laid end to end": lambda x, s, v: torch.where(torch.arange(LONG) < 6, x, s).sum(-1),
}


@pytest.mark.parametrize("why", STAYS)
def test_what_is_needed_whole_stays(why: str):
    assert split(STAYS[why], X, COLUMN, V)[0] == 0


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "centred": lambda c: c - 0.7 * c.mean(-1, keepdim=True),
    "softmax": lambda c: torch.softmax(c, -1),
    "normed": lambda c: F.normalize(c, dim=-1),
    "positions": lambda c: c - 0.1 * torch.arange(c.shape[-1]),
    "masked": lambda c: c.masked_fill(torch.arange(c.shape[-1]) == 2, float("-inf")),
}
ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda c: c.sum(-1),
    "max": lambda c: c.amax(-1),
    "inner": lambda c: c[:, 1:-1].sum(-1),
    "front": lambda c: c[:, :LONG].amax(-1),
    "product": lambda c: c @ torch.arange(c.shape[-1] * 2.0).view(-1, 2),
    "written": lambda c: c,
}


@given(
    st.sampled_from(sorted(LAID)),
    st.lists(st.sampled_from(sorted(MAPS)), max_size=3),
    st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=3),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_any_row_keeps_its_values(laid: str, maps: list[str], ends: list[str], dtype: torch.dtype):
    def f(x: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        c = LAID[laid](x, s)
        for name in maps:
            c = MAPS[name](c)
        return tuple(ENDS[name](c) for name in ends)

    split(f, X.to(dtype), COLUMN.to(dtype))
