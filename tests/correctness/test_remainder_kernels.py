"""remainder="kernels": what no fused kernel takes becomes a kernel of its own, and is as right as PyTorch's operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import fusecade
from fusecade.errors import InvalidArgument

N, M, K = 37, 41, 29  # no tile's multiple


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


HALF = torch.float16
# What is computed, of what, and how many kernels it is.
CASES: dict[str, tuple[Callable[..., Any], Sequence[torch.Tensor], int]] = {
    "product": (lambda a, b: a @ b, [draw(N, K), draw(K, M)], 1),
    "product_f16": (lambda a, b: a @ b, [draw(N, K, dtype=HALF), draw(K, M, dtype=HALF)], 1),
    "product_turned": (lambda a, b: a.t() @ b.t(), [draw(K, N), draw(M, K)], 1),
    "product_turned_f16": (lambda a, b: a.t() @ b.t(), [draw(K, N, dtype=HALF), draw(M, K, dtype=HALF)], 1),
    "product_of_one": (lambda a, b: a @ b, [draw(1, K), draw(K, 1)], 1),
    "product_over_one": (lambda a, b: a @ b, [draw(7, 1), draw(1, 13)], 1),
    "product_broadcast": (lambda a, b: a @ b, [draw(3, 17, K), draw(K, 13)], 1),
    "product_expanded": (lambda a, b: a.expand(3, 17, K) @ b, [draw(1, 17, K), draw(3, K, 13)], 1),
    "two_products": (lambda a, b, c: (a @ b, b @ c), [draw(N, K), draw(K, M), draw(M, 5)], 2),
    "linear": (torch.nn.functional.linear, [draw(2, 17, K), draw(13, K), draw(13)], 1),
    "map": (lambda a, b: torch.sin(a) + b, [draw(17, K), draw(K)], 1),
    "maps": (lambda a, b: (torch.sin(a), torch.exp(b)), [draw(17, K), draw(K)], 2),
    "map_with_two_readers": (lambda a, b: (torch.sin(a) * 2, torch.sin(a) @ b), [draw(17, K), draw(K, 5)], 2),
    "sum": (lambda a: a.sum(0), [draw(17, K)], 1),
    "sum_of_all": (lambda a: a.abs().sum(), [draw(17, K, dtype=HALF)], 1),
    "moments": (lambda a: torch.var_mean(a, 1), [draw(17, K)], 1),
    "largest": (lambda a: a.max(1), [draw(17, K)], 1),
    "joined": (lambda a, b: torch.cat([a, b], 1), [draw(17, K), draw(17, 5)], 1),
    "integers": (lambda a, b: a * b + 1, [torch.arange(30).view(5, 6), torch.arange(6)], 1),
    "cast": (lambda a: a.half(), [draw(17, K)], 1),
}


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
@pytest.mark.parametrize("name", CASES)
def test_alone(name: str, target: str):
    fn, args, kernels = CASES[name]
    made = fusecade.compile(fn, args, target=target, remainder="kernels", strict=True)
    assert operators_of(made) == [] and len(made.kernels) == kernels
    check(made, fn, args)


def test_a_map_belongs_to_its_reader():
    """Of three sines one has two readers: it is in memory, the others never are."""

    def fn(a, b, c):
        return torch.sin(a) @ torch.sin(b), torch.sin(c).sum(1), torch.sin(c).amax(0)

    args = [draw(N, K), draw(K, M), draw(N, 31)]
    made = fusecade.compile(fn, args, target="cpu", remainder="kernels", strict=True)
    assert operators_of(made) == [] and len(made.kernels) <= 4
    check(made, fn, args)


def test_a_result_is_read_where_it_was_written():
    """The keys are written turned, for that is how they are used; nothing computes them again the other way."""

    def fn(x, w, u, q):
        return torch.softmax(q @ (x @ w @ u).t(), -1) @ x

    args = [draw(256, 64), draw(64, 8), draw(8, 64), draw(128, 64)]
    made = fusecade.compile(fn, args, target="cpu", fuse="always", remainder="kernels", strict=True)
    assert operators_of(made) == []
    check(made, fn, args)


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
@pytest.mark.parametrize("shapes", [((0, 7), (7, 13)), ((7, 0), (0, 13))], ids=["no_rows", "no_terms"])
def test_nothing_to_compute_is_left(shapes: Sequence[tuple[int, ...]], target: str):
    args = [draw(*s) for s in shapes]
    made = fusecade.compile(torch.mm, args, target=target, remainder="kernels")
    assert operators_of(made) == ["aten.mm.default"] and torch.equal(made(*args), args[0] @ args[1])


def test_opaque_operators_stay():
    def fn(a, b):
        return (a @ b).topk(3, dim=-1)

    args = [draw(N, K), draw(K, M)]
    made = fusecade.compile(fn, args, target="cpu", remainder="kernels")
    assert operators_of(made) == ["aten.topk.default"] and len(made.kernels) == 1
    assert [operator for operator, _ in made.report.externs] == ["aten.topk.default"]


def test_without_it_they_are_left_to_pytorch():
    args = [draw(N, K), draw(K, M)]
    made = fusecade.compile(torch.mm, args, target="cpu", remainder="eager")
    assert operators_of(made) == ["aten.mm.default"] and not made.kernels


def test_dynamic_sizes():
    def fn(a, b):
        return torch.sin(a), a @ b

    made = fusecade.compile(
        fn, [draw(N, K), draw(K, M)], target="cpu", dynamic={0: {0: "n"}}, remainder="kernels", strict=True
    )
    assert operators_of(made) == []
    for n in (2, 5, 64, 131):
        check(made, fn, [draw(n, K), draw(K, M)])


def test_in_torch_compile():
    compiled = torch.compile(lambda a, b: torch.sin(a @ b), backend="fusecade", options={"remainder": "kernels"})
    args = [draw(N, K), draw(K, M)]
    torch.testing.assert_close(compiled(*args), torch.sin(args[0] @ args[1]), rtol=1e-4, atol=1e-4)


def test_there_are_three():
    with pytest.raises(InvalidArgument, match="remainder is 'none'"):
        fusecade.compile(torch.mm, [draw(N, K), draw(K, M)], remainder="none")


def operators_of(made: fusecade.CompiledFunction) -> list[str]:
    """Those of PyTorch that compute something, in what runs."""
    graph = made._built.graph.graph
    names = [str(n.target) for n in graph.nodes if n.op == "call_function" and str(n.target).startswith("aten.")]
    views = (
        "aten.t.",
        "aten.permute.",
        "aten.view.",
        "aten._unsafe_view.",
        "aten.expand.",
        "aten.unsqueeze.",
        "aten.sym_size.",
    )
    return [name for name in names if not name.startswith(views)]


def check(made: Callable[..., Any], fn: Callable[..., Any], args: Sequence[torch.Tensor]) -> None:
    """No more wrong than twice PyTorch is, and one unit in the last place of what is largest."""
    wide = [x.double() if x.is_floating_point() else x for x in args]
    for got, eager, exact in zip(*map(listed, (made(*args), fn(*args), fn(*wide))), strict=True):
        assert (got.shape, got.stride(), got.dtype) == (eager.shape, eager.stride(), eager.dtype)
        if not got.is_floating_point():
            assert torch.equal(got, eager)
            continue
        unit = torch.finfo(got.dtype).eps * exact.abs().max()
        assert (got.double() - exact).abs().max() <= 2 * (eager.double() - exact).abs().max() + unit


def listed(x: Any) -> list[torch.Tensor]:
    return [x] if isinstance(x, torch.Tensor) else list(x)
