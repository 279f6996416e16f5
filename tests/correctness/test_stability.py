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


def gap_to_maximum(x, y):
    return (x.amax(-1, keepdim=True) - x).mean(-1)  # y has no part in it


def smoothed_cross_entropy(x, y):
    return F.cross_entropy(x, y.argmax(-1), reduction="none", label_smoothing=0.1)


def soft_cross_entropy(x, y):
    return F.cross_entropy(x, torch.softmax(y, -1), reduction="none")


def variance_of_scaled(x, y):
    return (x / x.std(-1, keepdim=True)).var(-1)


def variance_of_shares(x, y):
    return (x / x.sum(-1, keepdim=True)).var(-1)


def tempered(x, y):
    return (torch.softmax(x / x.std(-1, keepdim=True), -1) * y).sum(-1)


def distance_of_logarithms(x, y):
    return F.mse_loss(torch.log_softmax(x, -1), torch.log_softmax(y, -1), reduction="none").mean(-1)


def residual(x, y):
    dx, dy = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    slope = (dx * dy).mean(-1, keepdim=True) / (dx * dx).mean(-1, keepdim=True)
    return ((dy - slope * dx) ** 2).mean(-1)


def distance_of_directions(x, y):
    return ((F.normalize(x, dim=-1) - F.normalize(y, dim=-1)) ** 2).sum(-1)


@pytest.mark.parametrize("near", [1.0, 1e-2], ids=["apart", "alike"])
@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4])
@pytest.mark.parametrize(
    ("fn", "passes"),
    [
        (gap_to_maximum, 1),
        (smoothed_cross_entropy, 1),
        (soft_cross_entropy, 1),
        (variance_of_scaled, 1),
        (variance_of_shares, 1),
        (distance_of_logarithms, 1),
        (tempered, 2),  # an exponent that is scaled by what is still summed
        (residual, 2),  # two leaves whose difference is smaller than both: no anchor brings them together
        (distance_of_directions, 2),
    ],
    ids=lambda p: getattr(p, "__name__", None),
)
def test_differences_behind_factors(fn: Callable, passes: int, offset: float, near: float):
    x = _data(ROWS, 300, offset=offset)
    y = x + near * _data(ROWS, 300, seed=1)
    kernel = fusecade.compile(fn, (x, y), target="cpu", fuse="always")
    assert [max(k.passes.values()) for k in kernel.report.kernels] == [passes]
    _close(kernel(x, y), fn(x, y), fn(x.double(), y.double()))


def test_a_difference_is_taken_before_its_anchor():
    x = _data(ROWS, 300, offset=1e4)
    y = x - 63.3 + 0.01 * _data(ROWS, 300, seed=1)
    kernel = fusecade.compile(distance_of_logarithms, (x, y), target="cpu", fuse="always")
    assert [set(k.passes.values()) for k in kernel.report.kernels] == [{1}]
    _close(kernel(x, y), distance_of_logarithms(x, y), distance_of_logarithms(x.double(), y.double()))


def test_a_gap_to_the_maximum_of_any_length():
    x, y = _data(ROWS, 300, offset=1e4), _data(ROWS, 511, offset=1e4)
    sizes = {argument: {1: "columns"} for argument in (0, 1)}
    kernel = fusecade.compile(gap_to_maximum, (x, x), target="cpu", fuse="always", dynamic=sizes)
    assert len(kernel.report.kernels) == 1
    _close(kernel(y, y), gap_to_maximum(y, y), gap_to_maximum(y.double(), y.double()))


def test_scores_too_large_for_fp16():
    """A product that is not written is not rounded to its dtype: eager has inf in its place, and NaN after the softmax."""
    q, k, v = ((s * _data(4, 64, 64, seed=n)).half() for n, s in enumerate((100, 100, 1)))

    def attend(q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2), -1) @ v

    assert attend(q, k, v).isnan().all()
    kernel = fusecade.compile(attend, (q, k, v), target="cpu", fuse="always")
    torch.testing.assert_close(
        kernel(q, k, v).double(), attend(q.double(), k.double(), v.double()), rtol=1e-3, atol=1e-3
    )


def test_the_mean_of_a_row_with_an_infinity():
    """As `mean` has it; PyTorch's kernels of `var_mean` and `layer_norm` give NaN there, those of batch norm the infinity."""
    x = _data(3, 40)
    x[0, 0], x[1, 20] = torch.inf, -torch.inf

    def statistics(x):
        variance, mean = torch.var_mean(x, -1)
        return mean, variance, F.layer_norm(x, (40,)), x.mean(-1)

    mean, variance, normalised, same = fusecade.compile(statistics, (x,), target="cpu", fuse="always")(x)
    _close(mean, x.mean(-1), x.double().mean(-1))
    _close(same, x.mean(-1), x.double().mean(-1))
    for ours, eager in ((variance, x.var(-1)), (normalised, F.layer_norm(x, (40,)))):
        torch.testing.assert_close(ours, eager, equal_nan=True)


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
