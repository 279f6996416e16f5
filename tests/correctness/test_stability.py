"""Moments do not cancel: what compiles to one pass is as exact in fp32 as the several passes of eager PyTorch.

Every function is fused whatever it costs, so that the derived form is what runs; the data sits far from zero.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fusecade

N = 1000


def _data(*shape: int, seed: int = 0, offset: float = 0.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + offset


def variance(x):
    return x.var(-1)


def variance_by_hand(x):
    return ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1)


def entropy(x):
    logs = torch.log_softmax(x, -1)
    return -(logs.exp() * logs).sum(-1)


def divergence(x, y):
    a, b = torch.log_softmax(x, -1), torch.log_softmax(y, -1)
    return (a.exp() * (a - b)).sum(-1)


def weighted_mean_and_variance(x, v):
    p = torch.softmax(x, -1)
    mean = (p * v).sum(-1, keepdim=True)
    return mean[:, 0], (p * (v - mean) ** 2).sum(-1)


def layer_norm_linear(x, w):
    return F.layer_norm(x, (N,)) @ w


ROWS = 48
CASES: dict[str, tuple[Callable, Callable[[float], list[Tensor]]]] = {
    "variance": (variance, lambda o: [_data(ROWS, N, offset=o)]),
    "variance_by_hand": (variance_by_hand, lambda o: [_data(ROWS, N, offset=o)]),
    "entropy": (entropy, lambda o: [3 * _data(ROWS, N) + o]),
    "divergence": (divergence, lambda o: [2 * _data(ROWS, N) + o, _data(ROWS, N, seed=1) - o]),
    # offset 1: a mean near 0 is all cancellation, in whatever order it is summed
    "weighted_variance": (weighted_mean_and_variance, lambda o: [_data(ROWS, N), _data(ROWS, N, seed=1, offset=1 + o)]),
    "layer_norm_linear": (layer_norm_linear, lambda o: [_data(ROWS, N, offset=o), _data(N, 64, seed=1) / 30]),
}


@pytest.mark.parametrize("offset", [0.0, 50.0, 1e4])
@pytest.mark.parametrize("name", CASES)
def test_one_pass_is_as_exact_as_several(name: str, offset: float):
    fn, make = CASES[name]
    args = make(offset)
    kernel = fusecade.compile(fn, tuple(args), target="cpu", fuse="always")
    assert [set(k.passes.values()) for k in kernel.report.kernels] == [{1}]
    _close(kernel(*args), fn(*args), fn(*[a.double() for a in args]))


@pytest.mark.parametrize("stray", [1e6, -1e6, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("name", ["variance", "entropy", "weighted_variance", "layer_norm_linear"])
def test_a_stray_first_element_is_no_bad_anchor(name: str, stray: float):
    fn, make = CASES[name]
    args = make(0.0)
    args[-1 if name == "weighted_variance" else 0][:, 0] = stray
    _close(
        fusecade.compile(fn, tuple(args), target="cpu", fuse="always")(*args),
        fn(*args),
        fn(*[a.double() for a in args]),
    )


@pytest.mark.parametrize("spread", [0.01, 0.3, 3.0])
def test_nearly_equal_probabilities(spread: float):
    x = spread * _data(ROWS, 300)

    def normalised(x):
        return F.layer_norm(torch.softmax(x, -1), (300,), eps=1e-12)

    kernel = fusecade.compile(normalised, (x,), target="cpu", fuse="always")
    assert len(kernel.report.kernels) == 1
    _close(kernel(x), normalised(x), normalised(x.double()))


def _close(actual, eager, exact) -> None:
    """Error against float64 at most twice eager's, plus one unit in the last place of the output's scale."""
    as_tuple = (lambda x: x) if isinstance(exact, tuple) else (lambda x: (x,))
    for a, e, x in zip(as_tuple(actual), as_tuple(eager), as_tuple(exact), strict=True):
        torch.testing.assert_close(a.isfinite(), e.isfinite(), msg="not finite where eager is, or the other way round")
        kept = x.isfinite() & e.isfinite()
        if not kept.any():
            continue
        error, allowed = (a - x)[kept].abs().max(), 2 * (e - x)[kept].abs().max()
        scale = x[kept].abs().max()
        assert error <= allowed + 2.0**-23 * 2.0 ** torch.ceil(torch.log2(scale)), (float(error), float(allowed))
