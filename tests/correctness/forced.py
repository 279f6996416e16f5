"""What tests of small tensors ask for: everything fused, into so many parts; and how far a result may be off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

import fusecade
from fusecade import driver
from fusecade.passes import fuse, schedule


def data(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@contextmanager
def in_parts(parts: int) -> Iterator[None]:
    """Whatever is fused is fused, and cut into this many parts."""
    forced = partial(schedule.schedule_kernel, parts=parts)
    with (
        patch.object(fuse, "schedule_kernel", forced),
        patch.object(driver, "schedule_kernel", forced),
    ):
        yield


def compiled(fn: Callable, args: Sequence[Tensor], parts: int, target: str, monkeypatch, tmp_path, **named):
    """One kernel and its merge.  A cache of its own: plans made for other numbers of parts stay out."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    with in_parts(parts):
        kernel = fusecade.compile(
            fn, tuple(args), target=target, fuse="always", remainder="eager", strict=True, **named
        )
    assert [k.name for k in kernel.report.kernels] == ["k0", "k0_merge"]
    return kernel


def close(found: Tensor, fn: Callable, args: Sequence[Tensor]) -> None:
    """At most twice eager's error, plus two units of the last place of the scale; indices are eager's; NaN where exact."""
    exact = fn(*[a.double() if a.is_floating_point() else a for a in args])
    if not exact.is_floating_point():
        assert torch.equal(found, fn(*[a.float() if a.is_floating_point() else a for a in args]))
        return
    eager = fn(*args).double()
    assert torch.equal(found.isnan(), exact.isnan())
    scale = exact.nan_to_num().abs().max() * torch.finfo(found.dtype).eps
    wrong = (found.double() - exact).nan_to_num().abs().max()
    assert wrong <= 2 * (eager - exact).nan_to_num().abs().max() + 2 * scale, (wrong, scale)
