"""A PyTorch program in disguise takes the passes of the plain one, over the rank that its reductions share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "passes"))

from harness import program_of

from fusecade.ir.cascade import EinsumOp
from fusecade.passes.algebra.forms import Refused
from fusecade.passes.algebra.levels import count
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.outline import outline
from fusecade.passes.row_algebra import RowAlgebra

M, K, D = 6, 41, 5
X = torch.randn(M, K, generator=torch.Generator().manual_seed(0))
V = torch.randn(K, D, generator=torch.Generator().manual_seed(1))
HALF = X.half()
Program = Callable[..., Tensor]


def passes_of(fn: Program, x: Tensor = X) -> int:
    """Traversals over the rank of extent K when the whole program is one kernel."""
    program = program_of(fn, [x, V])
    canonicalise_program(program)
    ops = [op for op in program.body.block.ops if isinstance(op, EinsumOp)]
    kernel = outline(ops, [v for v in dict.fromkeys(program.returned) if v.owner in ops], "k")
    assert not isinstance(kernel, Refused), kernel.reason
    found = []
    reduced = {r: op.extents[r] for op in kernel.body.block.ops if isinstance(op, EinsumOp) for r in op.reduced}
    for rank in [r for r, extent in reduced.items() if str(extent) == str(K)]:
        algebra = RowAlgebra(kernel, rank)
        cascade, _ = algebra.cascade()
        assert not algebra.blocked, algebra.blocked
        found.append(count(cascade, anchored=True).passes)
    return max(found)


def weights(e: Tensor) -> Tensor:
    return e / e.sum(-1, keepdim=True)


def top(x: Tensor) -> Tensor:
    return x.amax(-1, keepdim=True)


def with_ones(x: Tensor) -> Tensor:
    return (x @ torch.ones(K, 1)) / K


def variance_by_hand(x: Tensor, mean: Tensor) -> Tensor:
    return ((x - mean) ** 2).mean(-1)


# name -> (program, passes)
PROGRAMS: dict[str, tuple[Program, int]] = {
    "softmax": (lambda x, v: torch.softmax(x, -1) @ v, 1),
    "softmax by hand": (lambda x, v: weights(torch.exp(x - top(x))) @ v, 1),
    "softmax by exp2": (lambda x, v: weights(torch.exp2((x - top(x)) * 1.4426950408889634)) @ v, 1),
    "softmax by a power of two": (lambda x, v: weights(2 ** (x - top(x))) @ v, 1),
    "softmax by expm1": (lambda x, v: weights(torch.expm1(x - top(x)) + 1) @ v, 1),
    "softmax, exponentials divided": (lambda x, v: weights(torch.exp(x) / torch.exp(top(x))) @ v, 1),
    "exp of log_softmax": (lambda x, v: torch.log_softmax(x, -1).exp() @ v, 1),
    "exp of x minus logsumexp": (lambda x, v: torch.exp(x - torch.logsumexp(x, -1, keepdim=True)) @ v, 1),
    "softmax of the shifted": (lambda x, v: torch.softmax(x - top(x), -1) @ v, 1),
    "softmax plus a constant": (lambda x, v: torch.softmax(x + 3.0, -1) @ v, 1),
    "softmax of a scaled copy": (lambda x, v: torch.softmax(0.125 * x, -1) @ v, 1),
    "softmax, divided after": (
        lambda x, v: (torch.exp(x - top(x)) @ v) / torch.exp(x - top(x)).sum(-1, keepdim=True),
        1,
    ),
    "softmax, sum by a product with ones": (
        lambda x, v: (torch.exp(x - top(x)) @ v) / (torch.exp(x - top(x)) @ torch.ones(K, 1)),
        1,
    ),
    "softmax, transposed": (lambda x, v: (v.t() @ torch.softmax(x.t(), 0)).t(), 1),
    "softmin": (lambda x, v: torch.nn.functional.softmin(-x, -1) @ v, 1),
    "softmax in float64": (lambda x, v: torch.softmax(x.double(), -1) @ v.double(), 1),
    "var": (lambda x, v: x.var(-1), 1),
    "var without correction": (lambda x, v: x.var(-1, correction=0), 1),
    "variance by hand": (lambda x, v: variance_by_hand(x, x.mean(-1, keepdim=True)), 1),
    "variance by squares": (lambda x, v: (x**2).mean(-1) - x.mean(-1) ** 2, 1),
    "variance, mean by ones": (lambda x, v: variance_by_hand(x, with_ones(x)), 1),
    "layer norm": (lambda x, v: torch.nn.functional.layer_norm(x, (K,)) @ v, 1),
    "layer norm by hand": (
        lambda x, v: ((x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-5)) @ v,
        1,
    ),
    "unit length": (lambda x, v: torch.nn.functional.normalize(x, dim=-1) @ v, 1),
    "unit length by hand": (lambda x, v: (x / x.norm(dim=-1, keepdim=True)) @ v, 1),
    "unit length by rsqrt": (lambda x, v: (x * torch.rsqrt((x * x).sum(-1, keepdim=True))) @ v, 1),
    "root mean square": (lambda x, v: torch.nn.functional.rms_norm(x, (K,)) @ v, 1),
    "root mean square by hand": (lambda x, v: (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)) @ v, 1),
    "sigmoid": (lambda x, v: (x.sum(-1, keepdim=True) * torch.sigmoid(x)) @ v, 1),
    "sigmoid by hand": (lambda x, v: (x.sum(-1, keepdim=True) / (1 + torch.exp(-x))) @ v, 1),
    "absmax": (lambda x, v: (x / x.abs().amax(-1, keepdim=True)) @ v, 1),
    "absmax, two extrema": (lambda x, v: (x / torch.maximum(x.amax(-1), -x.amin(-1))[:, None]) @ v, 1),
    "absmax, rounded": (lambda x, v: torch.round(127 * x / x.abs().amax(-1, keepdim=True)) @ v, 2),
    "sum of deviations": (lambda x, v: (x - x.mean(-1, keepdim=True)).abs().sum(-1), 2),
    "sum of deviations by a root": (lambda x, v: ((x - x.mean(-1, keepdim=True)) ** 2).sqrt().sum(-1), 2),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_passes_of_programs(name: str):
    fn, passes = PROGRAMS[name]
    assert passes_of(fn) == passes


def test_widening_is_transparent_and_conversion_to_integers_is_not():
    wide = lambda x, v: torch.softmax(x.float(), -1) @ v  # noqa: E731
    integers = lambda x, v: (torch.softmax(x.float(), -1) * 127).to(torch.int64).float() @ v  # noqa: E731
    assert passes_of(wide, HALF) == passes_of(PROGRAMS["softmax"][0]) == 1
    assert passes_of(integers, HALF) == 2
