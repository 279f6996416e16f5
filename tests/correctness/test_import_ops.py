"""Every family of imported operators against eager, through the reference interpreter in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fusecade.frontend import Imported, capture, import_graph
from fusecade.ir import symbols
from fusecade.ir.interpret import run_program, to_reference
from fusecade.ir.text import parse_module, print_module
from fusecade.ir.verify import verify


def real(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def positive(*shape: int) -> torch.Tensor:
    return real(*shape).abs() + 0.1


def integer(*shape: int, low: int = -9, high: int = 9, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def truth(*shape: int, seed: int = 0) -> torch.Tensor:
    return real(*shape, seed=seed) > 0


def imported(fn: Callable[..., Any], *args: Any) -> tuple[Imported, list[torch.Tensor]]:
    captured = capture(fn, args)
    program = import_graph(captured.gm, size_names=captured.size_names)
    verify(program.module)
    text = print_module(program.module)
    assert print_module(parse_module(text)) == text
    for node, view in program.views.items():
        assert len(view.access.data) == len(view.value.type.dims), node  # type: ignore[attr-defined]
    return program, captured.tensors(args)


def check(fn: Callable[..., Any], *args: Any, externs: int = 0, rtol: float = 1e-9, atol: float = 1e-9) -> Imported:
    program, tensors = imported(fn, *args)
    found = run_program(program.program, tensors)
    wanted = fn(*args)
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else list(wanted)
    assert len(program.externs) == externs, program.externs
    for output, got, want in zip(program.outputs, found, wanted, strict=True):
        assert got.shape == want.shape
        assert output.node.meta["val"].dtype == want.dtype
        assert_close(got, to_reference(want), rtol=rtol, atol=atol, equal_nan=True)
    return program


def ops(program: Imported) -> list[Any]:
    return list(program.program.body.block.ops)[:-1]


A, B = real(3, 5), real(3, 5, seed=1)
I64 = integer(3, 5)
M = truth(3, 5)

UNARY = {
    "exp": (torch.exp, A),
    "exp2": (torch.exp2, A),
    "expm1": (torch.expm1, A),
    "log": (torch.log, positive(3, 5)),
    "log2": (torch.log2, positive(3, 5)),
    "log10": (torch.log10, positive(3, 5)),
    "log1p": (torch.log1p, positive(3, 5)),
    "sqrt": (torch.sqrt, positive(3, 5)),
    "rsqrt": (torch.rsqrt, positive(3, 5)),
    "tanh": (torch.tanh, A),
    "erf": (torch.erf, A),
    "sin": (torch.sin, A),
    "cos": (torch.cos, A),
    "sigmoid": (torch.sigmoid, A * 40),
    "silu": (F.silu, A),
    "gelu": (F.gelu, A),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), A),
    "relu": (torch.relu, A),
    "relu6": (F.relu6, A * 9),
    "leaky": (lambda x: F.leaky_relu(x, 0.2), A),
    "elu": (F.elu, A),
    "selu": (F.selu, A),
    "celu": (F.celu, A),
    "softplus": (F.softplus, A * 30),
    "logsigmoid": (F.logsigmoid, A * 30),
    "mish": (F.mish, A),
    "hardtanh": (F.hardtanh, A),
    "hardsigmoid": (F.hardsigmoid, A * 5),
    "hardswish": (F.hardswish, A * 5),
    "softsign": (F.softsign, A),
    "tanhshrink": (F.tanhshrink, A),
    "threshold": (lambda x: F.threshold(x, 0.1, 7.0), A),
    "floor": (torch.floor, A * 3),
    "ceil": (torch.ceil, A * 3),
    "trunc": (torch.trunc, A * 3),
    "round": (torch.round, A * 3),
    "frac": (torch.frac, A * 3),
    "neg": (torch.neg, A),
    "abs": (torch.abs, A),
    "sign": (torch.sign, A),
    "square": (torch.square, A),
    "reciprocal": (torch.reciprocal, A),
    "int_neg": (torch.neg, I64),
    "int_abs": (torch.abs, I64),
    "int_sign": (torch.sign, I64),
    "int_exp": (torch.exp, integer(4, dtype=torch.int32)),
    "pow2": (lambda x: x**2, A),
    "pow3": (lambda x: x**3, A),
    "pow_half": (lambda x: x**0.5, positive(4)),
    "pow_minus": (lambda x: x**-2, A),
    "pow_general": (lambda x: x**1.7, positive(4)),
    "pow0": (lambda x: x**0, A),
    "rpow": (lambda x: 2.0**x, A),
    "int_pow": (lambda x: x**3, I64),
    "rsub": (lambda x: 1 - x, A),
    "rdiv": (lambda x: 3 / x, A),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), A),
    "clamp_min": (lambda x: x.clamp(min=0.1), A),
    "clip": (lambda x: x.clip(max=0.1), A),
    "not": (torch.logical_not, I64),
    "bitnot": (torch.bitwise_not, I64),
    "boolnot": (lambda x: ~x, M),
    "shift": (lambda x: (x << 2) + (x >> 1), I64),
    "isnan": (lambda x: torch.isnan(x / x), torch.tensor([0.0, 1.0])),
    "isinf": (lambda x: torch.isinf(1 / x), torch.tensor([0.0, 1.0])),
    "isfinite": (lambda x: torch.isfinite(1 / x), torch.tensor([0.0, 1.0])),
    "isfinite_int": (torch.isfinite, I64),
    "half": (lambda x: x.half().float(), torch.arange(5.0)),
    "to_int": (lambda x: (x * 3).long(), A),
    "to_bool": (lambda x: x.bool(), I64),
    "to_float": (lambda x: x.float(), I64),
    "bool_to_float": (lambda x: x.double(), M),
    "bool_to_int": (lambda x: x.long() * 3, M),
    "nan_to_num": (lambda x: torch.nan_to_num(x, 0.0), torch.tensor([math.nan, 1.0])),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    fn, x = UNARY[name]
    check(fn, x, rtol=1e-6, atol=1e-6)


BINARY = {
    "add": (torch.add, A, B),
    "alpha": (lambda x, y: torch.add(x, y, alpha=2), A, B),
    "sub": (torch.sub, A, B),
    "mul": (torch.mul, A, B),
    "div": (torch.div, A, B),
    "floor": (lambda x, y: torch.div(x, y, rounding_mode="floor"), A, B),
    "trunc": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), A, B),
    "int_div": (lambda x, y: x / y, I64, I64.abs() + 1),
    "int_floor": (lambda x, y: x // y, I64, integer(3, 5, low=1)),
    "int_trunc": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), I64, integer(3, 5, low=-4) * 2 + 1),
    "remainder": (lambda x, y: x % y, A, B),
    "int_remainder": (lambda x, y: x % y, I64, integer(3, 5, low=-4) * 2 + 1),
    "fmod": (torch.fmod, A, B),
    "int_fmod": (torch.fmod, I64, integer(3, 5, low=-4) * 2 + 1),
    "pow": (torch.pow, positive(3, 5), B),
    "maximum": (torch.maximum, A, B),
    "minimum": (torch.minimum, A, B),
    "max_other": (torch.max, A, B),
    "fmax": (torch.fmax, A, B),
    "lt": (torch.lt, A, B),
    "le": (torch.le, I64, A),
    "gt": (torch.gt, A, 0.1),
    "ge": (torch.ge, I64, 1.5),
    "eq": (torch.eq, I64, 2),
    "ne": (torch.ne, M, truth(3, 5, seed=2)),
    "bool_lt": (torch.lt, M, truth(3, 5, seed=2)),
    "and": (torch.logical_and, A, M),
    "or": (torch.bitwise_or, M, truth(5)),
    "xor": (torch.bitwise_xor, I64, 6),
    "int_and": (lambda x, y: x & y, I64, integer(3, 5, low=0)),
    "bool_add": (torch.add, M, truth(5)),
    "bool_mul": (torch.mul, M, truth(5)),
    "bool_and_int": (torch.mul, M, I64),
    "mixed": (torch.add, I64, A),
    "half_plus_float": (torch.add, A.half(), B.float()),
    "row": (torch.add, A, real(5)),
    "column": (torch.mul, A, real(3, 1)),
    "outer": (torch.mul, real(4, 1), real(6)),
    "scalar_tensor": (torch.mul, A, torch.tensor(2.5, dtype=torch.float64)),
    "lerp": (lambda x, y: torch.lerp(x, y, 0.3), A, B),
    "addcmul": (lambda x, y: torch.addcmul(x, x, y, value=0.5), A, B),
    "addcdiv": (lambda x, y: torch.addcdiv(x, x, y, value=0.5), A, B),
    "where": (lambda x, y: torch.where(x > y, x, y * 2), A, B),
    "where_scalar": (lambda x, y: torch.where(x > 0, x, -math.inf).maximum(y), A, B),
    "masked_fill": (lambda x, y: x.masked_fill(y > 0, -1.5), A, real(5)),
    "empty": (torch.add, real(0, 5), real(5)),
    "xlogy": (torch.xlogy, A, positive(3, 5)),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    fn, x, y = BINARY[name]
    check(fn, x, y, rtol=1e-6, atol=1e-6)


X = real(3, 4, 5)
REDUCTIONS = {
    "sum": lambda x: x.sum(),
    "sum_dim": lambda x: x.sum(1),
    "sum_keep": lambda x: x.sum((0, -1), keepdim=True),
    "sum_int": lambda x: (x > 0).sum(-1),
    "mean": lambda x: x.mean(),
    "mean_dim": lambda x: x.mean(-1, keepdim=True),
    "amax": lambda x: x.amax((0, 2)),
    "amin": lambda x: x.amin(),
    "max": lambda x: x.max(),
    "max_dim": lambda x: tuple(x.max(1)),
    "min_dim": lambda x: tuple(x.min(-1, keepdim=True)),
    "argmax": lambda x: x.argmax(),
    "argmax_dim": lambda x: x.argmax(1),
    "topk_of_one": lambda x: tuple(x.topk(1, 1)),
    "argmin_keep": lambda x: x.argmin(-1, keepdim=True),
    "any": lambda x: (x > 2).any(),
    "any_dim": lambda x: (x > 1).any(-1),
    "all": lambda x: (x > -9).all(),
    "all_keep": lambda x: (x > -1).all(0, keepdim=True),
    "prod": lambda x: x.prod(),
    "prod_dim": lambda x: x.prod(1),
    "var": lambda x: x.var(-1),
    "var_all": lambda x: x.var(),
    "var0": lambda x: x.var((0, 1), correction=0, keepdim=True),
    "std": lambda x: x.std(1),
    "var_mean": lambda x: torch.var_mean(x, -1),
    "std_mean": lambda x: torch.std_mean(x, (0, 1), keepdim=True),
    "norm": lambda x: x.norm(),
    "norm1": lambda x: torch.linalg.vector_norm(x, 1, -1),
    "norm3": lambda x: torch.linalg.vector_norm(x, 3, (0, 1)),
    "norm_inf": lambda x: torch.linalg.vector_norm(x, math.inf, 0, keepdim=True),
    "norm0": lambda x: torch.linalg.vector_norm(x, 0),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "logsumexp_inf": lambda x: torch.where(x < 9, -math.inf, x).logsumexp((0, 1), keepdim=True),
    "softmax": lambda x: x.softmax(-1),
    "softmax_0": lambda x: F.softmax(x, 0),
    "log_softmax": lambda x: x.log_softmax(1),
    "aminmax": lambda x: tuple(torch.aminmax(x, dim=1)),
    "amax_bool": lambda x: (x > 0).amax(1),
    "count": lambda x: torch.count_nonzero(x > 0, -1),
    "nansum": lambda x: torch.nansum(x, -1),
    "cosine": lambda x: F.cosine_similarity(x, x.flip(0), dim=-1),
    "cross_entropy": lambda x: F.cross_entropy(x[:, :, 0], TARGET),
    "mse": lambda x: F.mse_loss(x, x * 2),
    "kl": lambda x: F.kl_div(x.log_softmax(-1), x.softmax(-1), reduction="sum"),
    "cdist": lambda x: (x[:, :, None] - x[:, None]).square().sum(-1),
    "unit_dim": lambda x: x[:, :1].sum(1),
    "unit_argmax": lambda x: x[:, :1].argmax(1),
    "unit_max": lambda x: tuple(x[:, :1].max(1)),
    "split_sum": lambda x: x.reshape(12, 5).sum(1),
    "split_reduced": lambda x: x.reshape(3, 20).sum(1),
    "split_argmax": lambda x: x.permute(0, 2, 1).reshape(3, 20).argmax(1),
    "permuted": lambda x: x.permute(2, 0, 1).mean(0),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name: str) -> None:
    check(REDUCTIONS[name], X, rtol=1e-7)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.sum(1),
        lambda x: x.sum(0),
        lambda x: x.prod(1),
        lambda x: x.any(1),
        lambda x: x.mean(1),
        lambda x: x.sum(),
        lambda x: x.softmax(1),
        lambda x: x.logsumexp(1),
    ],
)
def test_reduction_of_nothing(fn: Callable[..., Any]) -> None:
    check(fn, real(3, 0))


def test_reduction_of_a_number() -> None:
    x = torch.tensor(2.0, dtype=torch.float64)
    check(lambda x: (x.sum(), x.mean(), x.max(), x.argmax(), x.softmax(0), x.amax(0)), x)


SCALE, SHIFT, SCALE4, SHIFT4, BIAS = real(5), real(5, seed=1), real(4), real(4, seed=1), real(3, 4, 2)
TARGET = torch.tensor([1, 3, 0])
NORMS = {
    "layer_norm": lambda x: F.layer_norm(x, (5,), SCALE, SHIFT),
    "layer_norm_2": lambda x: F.layer_norm(x, (4, 5)),
    "layer_norm_weight": lambda x: F.layer_norm(x, (5,), SCALE, None, 1e-3),
    "rms_norm": lambda x: F.rms_norm(x, (5,), SCALE, 1e-6),
    "rms_norm_plain": lambda x: F.rms_norm(x, (5,)),
    "group_norm": lambda x: F.group_norm(x, 2, SCALE4, SHIFT4),
    "instance_norm": lambda x: F.instance_norm(x),
    "batch_norm": lambda x: F.batch_norm(x, SCALE4, SCALE4.abs() + 0.1, SCALE4, SCALE4),
    "safe_softmax": lambda x: torch.ops.aten._safe_softmax(torch.where(x[:, :1] > 0, -math.inf, x), -1),
    "softmax_nan": lambda x: torch.where(x[:, :1] > 0, -math.inf, x).softmax(-1),
}


@pytest.mark.parametrize("name", NORMS)
def test_norm(name: str) -> None:
    check(NORMS[name], X, rtol=1e-7)


CONTRACTIONS = {
    "mm": (torch.mm, real(3, 4), real(4, 5)),
    "matmul4": (torch.matmul, real(2, 3, 4, 5), real(2, 3, 5, 6)),
    "broadcast": (torch.matmul, real(2, 3, 4, 5), real(3, 5, 6)),
    "broadcast1": (torch.matmul, real(2, 1, 4, 5), real(1, 3, 5, 6)),
    "bmm": (torch.bmm, real(3, 4, 5), real(3, 5, 2)),
    "mv": (torch.mv, real(3, 4), real(4)),
    "dot": (torch.dot, real(4), SHIFT4),
    "vec_mat": (torch.matmul, real(4), real(2, 4, 3)),
    "linear": (F.linear, real(2, 3, 4), real(5, 4)),
    "linear_bias": (lambda x, w: F.linear(x, w, SCALE), real(2, 3, 4), real(5, 4)),
    "addmm": (lambda x, y: torch.addmm(SCALE, x, y, beta=0.5, alpha=2), real(3, 4), real(4, 5)),
    "baddbmm": (lambda x, y: torch.baddbmm(BIAS, x, y), real(3, 4, 5), real(3, 5, 2)),
    "einsum": (lambda x, y: torch.einsum("bhid,bhjd->bhij", x, y), real(2, 3, 4, 5), real(2, 3, 6, 5)),
    "einsum_sum": (lambda x, y: torch.einsum("ijk,kl->jl", x, y), real(2, 3, 4), real(4, 5)),
    "tensordot": (lambda x, y: torch.tensordot(x, y, 2), real(2, 3, 4), real(3, 4, 5)),
    "outer": (torch.outer, real(3), real(4)),
    "k1": (torch.mm, real(3, 1), real(1, 4)),
    "k0": (torch.mm, real(3, 0), real(0, 4)),
    "m1": (torch.mm, real(1, 4), real(4, 1)),
    "int": (torch.mm, integer(3, 4), integer(4, 2)),
    "kron": (torch.kron, real(2, 3), real(3, 2)),
    "transposed": (lambda x, y: x @ y.transpose(-1, -2), real(2, 3, 4), real(2, 5, 4)),
    "half": (lambda x, y: x.half() @ y.half(), real(3, 4), real(4, 5)),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contraction(name: str) -> None:
    fn, x, y = CONTRACTIONS[name]
    tolerance = 1e-2 if name == "half" else 1e-9
    check(fn, x, y, rtol=tolerance, atol=tolerance)


V = real(2, 3, 4, 6)
VIEWS = {
    "view": lambda x: x.view(6, 24),
    "reshape": lambda x: x.transpose(1, 2).reshape(2, 4, 18),
    "merge_split": lambda x: x.permute(0, 2, 1, 3).reshape(8, 18).view(2, 4, 3, 6).permute(0, 2, 1, 3),
    "permute": lambda x: x.permute(3, 1, 0, 2),
    "t": lambda x: x[0, 0].t(),
    "expand": lambda x: x[:, :1].expand(2, 5, 4, 6),
    "slice": lambda x: x[:, 1:, ::2, -3:],
    "negative": lambda x: x[-1, :, -2],
    "step": lambda x: x[..., 1::3],
    "split": lambda x: torch.stack([p * n for n, p in enumerate(x.split(2, -1))]),
    "chunk": lambda x: x.chunk(2, 2)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "squeeze": lambda x: x[:, :1].squeeze(1).unsqueeze(-1),
    "flip": lambda x: x.flip(0, 3),
    "diagonal": lambda x: x.diagonal(1, -2, -1),
    "diagonal2": lambda x: x.diagonal(-1, 1, 3),
    "unfold": lambda x: x.unfold(3, 3, 2),
    "roll": lambda x: x.roll((1, -2), (2, 3)),
    "repeat": lambda x: x.repeat(2, 1, 1, 3),
    "interleave": lambda x: x[:, :, None].expand(2, 3, 2, 4, 6).reshape(2, 6, 4, 6),
    "cat": lambda x: torch.cat([x, x[:, :1] * 2, x], 1),
    "cat_last": lambda x: torch.cat([-x[..., 3:], x[..., :3]], -1),
    "stack": lambda x: torch.stack([x, x + 1], 2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=7.0),
    "pad0": lambda x: F.pad(x, (2, 0)),
    "crop": lambda x: F.pad(x, (-1, 2), value=1.0),
    "skew": lambda x: F.pad(x, (1, 0)).reshape(2, 3, 7, 4)[:, :, 1:],
    "pad_wrap": lambda x: F.pad(x[0, 0, 0].expand(3, 6).reshape(18), (1, 1), value=0.0),
    "movedim": lambda x: x.movedim(1, -1),
    "tile_merge": lambda x: x.reshape(2, 12, 6).reshape(2, 6, 2, 6),
    "pixel": lambda x: F.pixel_shuffle(x.reshape(1, 4, 6, 6), 2),
    "odd": lambda x: x.reshape(9, 16),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(3, (2, 3)),
    "select_scatter": lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 2),
    "slice_scatter": lambda x: torch.slice_scatter(x, x[..., :2] * 2, -1, 1, 3),
    "swap": lambda x: x.mT,
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("use", ["bare", "map", "reduce"])
def test_view(name: str, use: str) -> None:
    fn = VIEWS[name]
    uses = {"bare": fn, "map": lambda x: fn(x).exp(), "reduce": lambda x: fn(x).sum(-1) + fn(x * 2).amax(0).sum()}
    check(uses[use], V)


@pytest.mark.parametrize("name", VIEWS)
def test_inverse_of_a_view(name: str) -> None:
    """Where there is an inverse, going to the value and back is the identity."""
    program, _ = imported(VIEWS[name], V)
    for node, view in program.views.items():
        if view.inverse is None:
            continue
        shape = [int(n) for n in view.value.type.dims]  # type: ignore[attr-defined]
        generator = torch.Generator().manual_seed(0)
        for _ in range(10):
            point = [int(torch.randint(0, n, (), generator=generator)) for n in shape]
            at = {f"v{k}": x for k, x in enumerate(point)}
            inside = {f"d{k}": symbols.evaluate(e, at) for k, e in enumerate(view.inverse)}
            assert [symbols.evaluate(e, inside) for e in view.access.data] == point, node


CREATION = {
    "arange": lambda x: torch.arange(5) * 2,
    "arange_step": lambda x: torch.arange(7, 1, -2),
    "arange_float": lambda x: torch.arange(0.5, 3, 0.5, dtype=torch.float64),
    "full": lambda x: torch.full((2, 3), 1.5, dtype=torch.float64) + 0,
    "zeros": lambda x: torch.zeros(2, 3),
    "ones_like": lambda x: torch.ones_like(x) * x,
    "eye": lambda x: torch.eye(3, 4),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(1),
    "tril_neg": lambda x: x.tril(-1),
    "mask": lambda x: torch.ones(5, 5, dtype=torch.bool).tril(),
    "linspace": lambda x: torch.linspace(0, 1, 5, dtype=torch.float64),
    "positions": lambda x: (torch.arange(4)[:, None] >= torch.arange(5)).double() * x,
    "new_full": lambda x: x.new_full((2,), -1),
    "tensor": lambda x: x + torch.tensor(2.0),
    "list": lambda x: x * torch.tensor([1.0, 2, 3, 4, 5]),
}


@pytest.mark.parametrize("name", CREATION)
def test_creation(name: str) -> None:
    check(CREATION[name], real(4, 5))


W, IDS = real(9, 5), integer(2, 3, low=0)
INDEXING = {
    "embedding": (lambda w, i: F.embedding(i, w), W, IDS),
    "embedding_flat": (lambda w, i: F.embedding(i.reshape(-1), w).view(2, 3, 5), W, IDS),
    "index_select": (lambda w, i: w.index_select(0, i[0]), W, IDS),
    "index_select_1": (lambda w, i: w.T.index_select(1, i[0]), W, IDS),
    "gather": (lambda w, i: w.gather(0, i), W, IDS),
    "gather_1": (lambda w, i: w.gather(1, i % 5), W, integer(9, 2, low=0)),
    "index": (lambda w, i: w[i], W, IDS),
    "index_negative": (lambda w, i: w[-i - 1], W, IDS),
    "index_two": (lambda w, i: w[i, i[:, :1] % 5], W, IDS),
    "index_front": (lambda w, i: w.view(3, 3, 5)[i % 3, :, i % 5], W, IDS),
    "index_middle": (lambda w, i: w.view(3, 3, 5)[:, i % 3], W, IDS),
    "take_along": (lambda w, i: torch.take_along_dim(w, w.argmax(1, keepdim=True), 1), W, IDS),
    "sliced_source": (lambda w, i: w[1:, 2:][i % 8], W, IDS),
    "flipped_source": (lambda w, i: w.flip(0)[-i - 1], W, IDS),
    "batched": (lambda w, i: i[torch.arange(2)[:, None], torch.arange(3)], W, IDS),
    "int32": (lambda w, i: F.embedding(i.int(), w), W, IDS),
}


@pytest.mark.parametrize("name", INDEXING)
def test_indexing(name: str) -> None:
    fn, w, i = INDEXING[name]
    check(fn, w, i)


def test_positions_index_without_a_gather() -> None:
    program = check(lambda w: F.embedding(torch.arange(4) + 2, w) * 2, W)
    assert [op.name for op in ops(program) if op.name == "cascade.gather"] == []


SCANS = {
    "last": lambda x: x.cumsum(-1),
    "first": lambda x: x.cumsum(0) * 2,
    "transposed": lambda x: x.transpose(0, 2).cumsum(1),
    "of_a_map": lambda x: (x * 2 + 1).cumsum(1),
    "merged": lambda x: x.reshape(12, 5).cumsum(0),
    "permuted_and_merged": lambda x: x.permute(2, 0, 1).reshape(5, 12).cumsum(1),
    "expanded": lambda x: x[:, :1].expand(3, 6, 5).cumsum(1),
    "vector": lambda x: x[0, 0].cumsum(0),
    "of_booleans": lambda x: (x > 0).cumsum(-1),
    "empty": lambda x: x[:, :0].cumsum(1),
    "positions": lambda x: (torch.arange(4) + 1).cumsum(0),
    "reversed": lambda x: x.flip(-1).cumsum(-1).flip(-1),
    "product": lambda x: x.cumprod(1),
    "maximum": lambda x: x.cummax(1)[0],
    "minimum": lambda x: x.cummin(0).values.exp(),
    "any": lambda x: (x > 0).cummax(1)[0],
    "all": lambda x: (x > 0).cummin(1)[0],
    "not_finite": lambda x: torch.where(x > 1, math.inf, torch.where(x < -1, math.nan, x)).cummax(1)[0],
}


@pytest.mark.parametrize("name", SCANS)
def test_scan(name: str) -> None:
    program = check(SCANS[name], real(3, 4, 5), externs=1)
    assert [op.name for op in ops(program)].count("cascade.scan") == 1
    assert [op.name for op in ops(program) if op.name == "cascade.extern"] == []


def test_a_scan_of_one_element_is_a_map() -> None:
    program = check(lambda x: x[:, :1].cumsum(1) + x[0, 0, 0].cumsum(0), real(3, 4, 5))
    assert {op.name for op in ops(program)} == {"cascade.einsum"}


ROWS, AT = integer(4, low=0, high=6), integer(4, 5, low=0, high=6)
SCATTERS = {
    "index_add": lambda x, y: x.index_add(0, ROWS, y),
    "index_add_middle": lambda x, y: x[None].index_add(1, ROWS, y[None], alpha=2),
    "index_add_zeros": lambda x, y: torch.zeros_like(x).index_add(0, ROWS, y),
    "index_add_view": lambda x, y: x.T.index_add(1, ROWS, y.T),
    "scatter_add": lambda x, y: x.scatter_add(0, AT, y),
    "scatter_add_part": lambda x, y: x.scatter_add(0, AT[:3, 1:], y),
    "scatter_add_last": lambda x, y: x.scatter_add(1, AT % 5, y),
    "sum": lambda x, y: x.scatter_reduce(0, AT, y, "sum"),
    "prod": lambda x, y: x.scatter_reduce(0, AT, y, "prod"),
    "amax": lambda x, y: x.scatter_reduce(0, AT, y, "amax"),
    "amin": lambda x, y: x.scatter_reduce(0, AT, y, "amin"),
    "one_hot_counts": lambda x, y: torch.zeros(6, dtype=torch.int64).index_add(0, ROWS, torch.ones_like(ROWS)),
    "embedding_backward": lambda x, y: torch.ops.aten.embedding_dense_backward(y, ROWS, 6, -1, False),
    "embedding_backward_padding": lambda x, y: torch.ops.aten.embedding_dense_backward(y, ROWS, 6, 3, False),
    "embedding_backward_batched": lambda x, y: torch.ops.aten.embedding_dense_backward(
        y.reshape(2, 2, 5), ROWS.reshape(2, 2), 6, -1, False
    ),
}


@pytest.mark.parametrize("name", SCATTERS)
def test_scatter(name: str) -> None:
    program = check(SCATTERS[name], real(6, 5), real(4, 5, seed=1), externs=1)
    assert [op.name for op in ops(program)].count("cascade.scatter") == 1
    assert [op.name for op in ops(program) if op.name == "cascade.extern"] == []


@pytest.mark.parametrize("reduce", ["mean", "amax"])
def test_a_scatter_that_is_no_reduction_is_opaque(reduce: str) -> None:
    program = check(
        lambda x, y: x.scatter_reduce(0, AT, y, reduce, include_self=reduce == "mean"),
        real(6, 5),
        real(4, 5),
        externs=1,
    )
    assert program.externs == [("aten.scatter_reduce.two", "it writes to coordinates that are data")]
    assert [op.name for op in ops(program)].count("cascade.extern") == 1


EXTERNS = {
    "aten.sort.default": (lambda x: x.sort()[0], "order statistics"),
    "aten.topk.default": (lambda x: x.topk(2)[0] * 2, "order statistics"),
    "aten.cummax.default": (lambda x: x.cummax(-1)[1], "a scan"),
    "aten.logcumsumexp.default": (lambda x: x.logcumsumexp(-1), "a scan"),
    "aten.convolution.default": (lambda x: F.conv1d(x[None], x[:, None, :2], groups=3), "convolution"),
    "aten.atan.default": (torch.atan, "scalar table"),
    "aten.scatter.src": (lambda x: x.scatter(1, torch.zeros(3, 5, dtype=torch.int64), x), "coordinates that are data"),
}


@pytest.mark.parametrize("target", EXTERNS)
def test_extern(target: str) -> None:
    fn, reason = EXTERNS[target]
    program = check(lambda x: fn(x.T.contiguous().T * 1), A, externs=1, rtol=1e-6)
    ((name, why),) = program.externs
    assert name == target
    assert reason in why


def test_random_is_opaque() -> None:
    program, _ = imported(lambda x: x + torch.rand_like(x), A)
    assert program.externs == [("aten.rand_like.default", "it is random")]


def test_data_dependent_size_is_opaque() -> None:
    program, _ = imported(lambda x: torch.nonzero(x > 0), A)
    assert program.externs == [("aten.nonzero.default", "the size of its result depends on data")]


def test_complex_passes_from_extern_to_extern() -> None:
    program, _ = imported(lambda x: torch.view_as_complex(x.view(3, 2, 2)).abs() * 2, real(3, 4))
    assert [name for name, _ in program.externs] == ["aten.view_as_complex.default", "aten.abs.default"]


SDPA = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "mask": {"attn_mask": truth(2, 1, 6, 7)},
    "bias": {"attn_mask": real(6, 7)},
    "masked_row": {"attn_mask": (torch.arange(6) != 2)[:, None].expand(6, 7)},
    "gqa": {"enable_gqa": True},
}


@pytest.mark.parametrize("name", SDPA)
def test_attention_by_its_definition(name: str) -> None:
    heads = 2 if name == "gqa" else 4
    q, k, v = real(2, 4, 6, 8), real(2, heads, 7, 8, seed=1), real(2, heads, 7, 5, seed=2)
    program = check(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **SDPA[name]), q, k, v)
    # The rank of grouped heads is split in the value, and joined again by a copy to the output.
    assert len([op for op in ops(program) if "copy" in op.attributes]) == (name == "gqa")


def test_heads_split_the_rank_that_they_share() -> None:
    """Projected tensors are read where they are: `h * 8 + k` into [B, S, H*D], and no operand is quasi-affine."""

    def fn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        q, k = (F.linear(x, w).view(2, 5, 4, 8).transpose(1, 2) for _ in range(2))
        p = (q.reshape(8, 5, 8) @ k.reshape(8, 5, 8).transpose(1, 2)).view(2, 4, 5, 5).softmax(-1)
        return (p @ k).transpose(1, 2).reshape(2, 5, 32)

    program = check(fn, real(2, 5, 6), real(32, 6))
    text = print_module(program.module)
    assert "[b, i, h * 8 + k]" in text
    accesses = [line for line in text.splitlines() if "ins(" in line and "copy" not in line.split(" = ")[0]]
    assert not [line for line in accesses if "floordiv" in line or " mod " in line]


def test_repeated_heads_share_a_rank() -> None:
    def fn(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        k = k[:, :, None].expand(2, 2, 3, 5, 8).reshape(2, 6, 5, 8)
        return (q @ k.transpose(2, 3)).softmax(-1)

    program = check(fn, real(2, 6, 5, 8), real(2, 2, 5, 8))
    (gemm,) = [op for op in ops(program) if getattr(op, "combiner_names", ()) == ("sum",) and len(op.inputs) == 2]
    assert gemm.ranks.text() == "[b = 2, h = 2, g = 3, i = 5, j = 5, k = 8]"
    assert [a.text() for a in gemm.accesses.data] == ["[b, h * 3 + g, i, k]", "[b, h, j, k]"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_floats_round_where_a_tensor_is_stored(dtype: torch.dtype) -> None:
    x = real(4, 6, dtype=dtype)
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 4e-2, torch.float32: 1e-6}[dtype]
    program = check(
        lambda x: (F.layer_norm(x, (6,)), x.softmax(-1), x @ x.T, F.gelu(x)), x, rtol=tolerance, atol=tolerance
    )
    assert {n.meta["val"].dtype for n in program.views} == {dtype}


@pytest.mark.parametrize("sizes", [(3, 4), (2, 7), (5, 5)])
def test_sizes_are_symbols(sizes: tuple[int, int]) -> None:
    def fn(x: torch.Tensor, w: torch.Tensor) -> Any:
        y = F.linear(x, w).view(*x.shape[:2], 2, 3).transpose(1, 2)
        p = (y @ y.transpose(-1, -2) / x.shape[1] ** 0.5).softmax(-1)
        return (p @ y).transpose(1, 2).reshape(x.shape[0], x.shape[1], 6), x.mean(1), x.flatten(0, 1).sum(0), x.var()

    example = (real(4, 6, 6), real(6, 6))
    captured = capture(fn, example, dynamic={0: {0: "batch", 1: "seq"}})
    program = import_graph(captured.gm, size_names=captured.size_names)
    verify(program.module)
    text = print_module(program.module)
    assert print_module(parse_module(text)) == text
    assert {n: (s.placeholder, s.dim) for n, s in program.sizes.items()} == {"batch": (0, 0), "seq": (0, 1)}
    assert program.externs == []
    args = (real(*sizes, 6), example[1])
    for got, want in zip(run_program(program.program, captured.tensors(args)), fn(*args), strict=True):
        assert_close(got, want)


def test_provenance() -> None:
    program = check(lambda x: (x @ x.T).softmax(-1), A)
    for op in ops(program):
        (node,) = program.nodes_of[op]
        assert op.attributes["node"].data == node.name
    assert [n.name for n in program.arguments] == ["arg0_1"]
