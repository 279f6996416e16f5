"""Order and logic reductions behind a product: one kernel, one pass, with eager's results for ties and NaN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fusecade

CASES: dict[str, Callable[[Tensor], Tensor | tuple[Tensor, ...]]] = {
    "max": lambda s: tuple(s.max(-1)),
    "argmax": lambda s: s.argmax(-1),
    "argmin_of_increasing": lambda s: torch.exp(s / 8).argmin(-1),
    "argmin_of_decreasing": lambda s: (1 - 2 * s).argmin(-1),
    "argmax_of_clamped": lambda s: torch.relu(s - 30).argmax(-1),  # all are 0: the first
    "argmax_of_rounded": lambda s: torch.round(s).argmax(-1),
    "max_of_decreasing": lambda s: torch.sigmoid(-s / 8).amax(-1),
    "top_of_one": lambda s: tuple(torch.topk(s, 1)),
    "any": lambda s: (s > 12).any(-1),
    "all": lambda s: (s > -12).all(-1),
    "prod": lambda s: torch.sigmoid(s + 6).prod(-1),
}


@pytest.mark.parametrize("nan", [False, True], ids=["numbers", "nan"])
@pytest.mark.parametrize("name", CASES)
def test_one_kernel_gives_what_eager_gives(name: str, nan: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k = (
        torch.randint(-2, 3, (n, 16), generator=generator).float() for n in (64, 300)
    )  # sums of integers: exact ties
    if nan:
        q[5, 3] = k[41, 2] = k[200, 0] = float("nan")

    def fn(q: Tensor, k: Tensor) -> Tensor | tuple[Tensor, ...]:
        return CASES[name](q @ k.T)

    compiled = fusecade.compile(fn, (q, k), target="cpu", fuse="always", remainder="eager")
    assert [set(kernel.passes.values()) for kernel in compiled.report.kernels] == [{1}]
    torch.testing.assert_close(compiled(q, k), fn(q, k), equal_nan=True)


def test_top_of_one_is_no_other_order_statistic() -> None:
    x = torch.randn(8, 64)
    for fn in (lambda x: torch.topk(x.exp(), 2)[0] * 2, lambda x: torch.topk(x.exp(), 1, largest=False)[0] * 2):
        report = fusecade.explain(fn, x, target="cpu")
        assert [name for name, _ in report.externs] == ["aten.topk.default"]
