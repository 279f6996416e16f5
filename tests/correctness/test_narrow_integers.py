"""Integers of fewer than 64 bits wrap after every operator, in kernels and in the interpreter, as in eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import fusecade
from fusecade.frontend import capture, import_graph
from fusecade.ir import scalar
from fusecade.ir.cascade import EinsumOp
from fusecade.ir.interpret import run_program

DTYPES = (torch.int8, torch.uint8, torch.int16, torch.int32)


def numbers(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers over the whole range of the dtype, its ends among them."""
    info = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(info.min, info.max + 1, shape, generator=generator, dtype=torch.int64).to(dtype)
    x.view(-1)[0], x.view(-1)[1] = info.min, info.max
    return x


def imported(fn: Callable, *args: torch.Tensor):
    captured = capture(fn, args)
    return import_graph(captured.gm, size_names=captured.size_names), captured.tensors(args)


def functions_of(fn: Callable, *args: torch.Tensor) -> list[str | None]:
    """The scalar functions of all maps of a program."""
    program, _ = imported(fn, *args)
    return [scalar.name_of(o) for op in program.program.walk() if isinstance(op, EinsumOp) for o in op.body.block.ops]


def agree(fn: Callable, *args: torch.Tensor) -> None:
    """The reference interpreter and the kernels for the CPU against eager."""
    expected = fn(*args)
    program, tensors = imported(fn, *args)
    (found,) = run_program(program.program, tensors)
    assert torch.equal(found.to(torch.int64), expected.to(torch.int64))
    compiled = fusecade.compile(fn, args, target="cpu", fuse="always", remainder="eager")
    assert torch.equal(compiled(*args), expected)


PROGRAMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": lambda x, y: (x[:, None] + y).amax(-1),
    "sub": lambda x, y: (x[:, None] - y).amin(-1),
    "mul": lambda x, y: (x[:, None] * y * 3 + 7).amax(-1),
    "alpha": lambda x, y: torch.add(x, y[:1], alpha=5).sum(-1),
    "negate": lambda x, y: (-x // 2).sum(-1),
    "abs": lambda x, y: x.abs().sum(-1),
    "power": lambda x, y: (x**3).sum(-1),
    "shift left": lambda x, y: (x << 3).sum(-1),
    "shift right": lambda x, y: ((x + x) >> 2).sum(-1),
    "invert": lambda x, y: (~x).sum(-1),
    "remainder": lambda x, y: ((x + 1) % 7).sum(-1),
    "divide": lambda x, y: ((x * 5) // 3).sum(-1),
    "clamp": lambda x, y: ((x + x).clamp(3, 90) * 2).sum(-1),
    "where": lambda x, y: (torch.where(x > 3, x + x, x - 1) // 2).sum(-1),
    "to float": lambda x, y: (x + 100).double().amax(-1),
    "compare": lambda x, y: (x[:, None] - y < 5).sum(-1),
    "nearest": lambda x, y: ((x[:, None] - y) ** 2).sum(-1).argmin(-1),
    "narrow sum": lambda x, y: x.sum(-1, dtype=x.dtype) // 2,
    "narrow product": lambda x, y: x.prod(-1, dtype=x.dtype) // 2,
    "narrow running sum": lambda x, y: (x.cumsum(-1, dtype=x.dtype) // 2).sum(-1),
    "matmul": lambda x, y: (x @ y.mT // 2).amax(-1),
    "after a reduction": lambda x, y: ((x - x.amax(-1, keepdim=True)) // 2).sum(-1),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_arithmetic_wraps(name, dtype):
    agree(PROGRAMS[name], numbers(dtype, 12, 8), numbers(dtype, 9, 8, seed=1))


@pytest.mark.parametrize("to", DTYPES, ids=str)
def test_casts_to_fewer_bits_wrap(to):
    agree(lambda x: (x.to(to) // 2).sum(-1), numbers(torch.int32, 12, 8).to(torch.int64) * 12345)
    if to != torch.int32:  # what a float that no int32 holds becomes, PyTorch leaves open
        agree(lambda x: (x.to(to) // 2).sum(-1), torch.linspace(-7e4, 7e4, 96).view(12, 8).trunc())


def test_a_number_is_compared_as_an_element():
    x = numbers(torch.int8, 12, 8)
    agree(lambda x: (x == 300).sum(-1), x.masked_fill(x > 50, 44))


def test_additions_to_a_tensor_wrap():
    at, x = torch.tensor([0, 2, 2, 2, 1]), numbers(torch.int8, 5, 4)

    def fn(x, at):
        return torch.zeros(3, 4, dtype=torch.int8).index_add(0, at, x).to(torch.int32) // 2

    compiled = fusecade.compile(fn, (x, at), target="cpu", fuse="always", remainder="eager")
    assert torch.equal(compiled(x, at), fn(x, at))


@pytest.mark.parametrize("fn", [
    lambda x: (torch.arange(8, dtype=torch.int32) + 1 < 5 - torch.arange(12, dtype=torch.int32)[:, None]) & (x > 0),
    lambda x: 1 - (x > 0).to(torch.int8),
    lambda x: x.to(torch.int32) * 100 + 5,
    lambda x: x.argmax(-1).to(torch.int32),
    lambda x: x.float().clamp(-128, 127).to(torch.int8),
    lambda x: x % 7,
    lambda x: torch.maximum(x, x.amin(-1, keepdim=True)),
])  # fmt: skip
def test_what_fits_is_left_alone(fn):
    assert "xor" not in functions_of(fn, numbers(torch.int8, 12, 8))
