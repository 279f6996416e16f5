"""Launch parameters as a user chooses them: `parameters={"persistent": True}`, and what a tuner finds to choose from."""

from __future__ import annotations

from contextvars import copy_context

import pytest
import torch

import fusecade
from fusecade.driver import Options, check_parameters
from fusecade.errors import InvalidArgument, MissingTool
from fusecade.ir.target import get_target
from fusecade.runtime.descriptors import aligned, provide_scratch

ALL = {"persistent": 3, "warp_specialize": True, "descriptors": True}


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v


def causal(q, k, v):
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    return torch.softmax((q @ k.transpose(-1, -2) / 8).masked_fill(j > i, -torch.inf), dim=-1) @ v


def nearest(x, c):
    return ((c * c).sum(-1)[None, :] - 2 * (x @ c.T)).argmin(-1)


def best(h, e):
    return torch.log1p(torch.relu((h @ e.T).amax(1)))


def rows(x):
    return torch.softmax(x, -1)


def half(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half()


CASES = {
    "attend": (attend, [half(2, 50, 32), half(2, 37, 32, seed=1), half(2, 37, 32, seed=2)]),
    "causal": (causal, [half(2, 50, 32, seed=n) for n in range(3)]),
    "nearest": (nearest, [half(50, 32), half(40, 32, seed=1)]),
    "best": (best, [half(2, 37, 32), half(50, 32, seed=1)]),
    "rows": (rows, [half(50, 72)]),
}


def compiled(name: str, parameters: dict, target: str = "sm_100"):
    function, args = CASES[name]
    return fusecade.compile(
        function, args, target=target, fuse="always", remainder="eager", strict=True, parameters=parameters
    )


SLOW = [pytest.param(n, marks=() if n in ("causal", "rows") else pytest.mark.slow) for n in CASES]  # codegen tests all


@pytest.mark.parametrize("name", SLOW)
def test_kernels_take_them_and_give_the_same(name: str):
    plain, other = compiled(name, {}), compiled(name, ALL)
    _, args = CASES[name]
    assert torch.equal(plain(*args), other(*args))
    (report,) = other.report.kernels
    assert report.params["persistent"] == 3 and report.params["descriptors"] == 1
    assert "make_tensor_descriptor" in report.source and "tl.num_programs(0)" in report.source
    assert ("warp_specialize" in report.params) == ("tl.range(" in report.source.split("num_programs")[1])
    assert not {"persistent", "descriptors", "warp_specialize"} & set(plain.report.kernels[0].params)


def test_tensors_that_are_not_aligned_are_copied():
    _, (x, c) = CASES["nearest"]
    kernel = compiled("nearest", {"descriptors": True}, "sm_90")
    odd = torch.empty(c.numel() + 1, dtype=c.dtype)[1:].view(c.shape).copy_(c)
    assert odd.data_ptr() % 16
    assert torch.equal(kernel(x, odd), nearest(x, c))


def test_a_copy_has_the_same_strides():
    wide = torch.arange(100.0)[1:].as_strided((3, 4, 5), (20, 0, 2))
    near = torch.arange(8.0)
    first, second = aligned([wide, near], [0, 1])
    assert first.data_ptr() % 16 == 0 and first.stride() == wide.stride() and torch.equal(first, wide)
    assert second is near


def test_triton_has_an_allocator_then_and_the_users_own_stays():
    from triton import set_allocator
    from triton.runtime import _allocation

    def own(size, alignment, stream):
        raise NotImplementedError

    def in_a_context(before):
        before()
        provide_scratch()
        return _allocation._allocator.get()

    assert copy_context().run(in_a_context, lambda: set_allocator(own)) is own
    found = copy_context().run(in_a_context, lambda: set_allocator(_allocation.NullAllocator()))
    assert not isinstance(found, _allocation.NullAllocator)


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float16, device="meta")


def explained(target: str, **parameters):
    return fusecade.explain(
        attend, *[meta(64, 4096, 64)] * 3, target=target, compile_binaries=False, parameters=parameters
    ).kernels[0]


def test_a_kernel_lists_its_choices_the_present_one_first():
    found = explained("sm_100")
    assert {n: v[0] for n, v in found.choices.items()} == {
        **found.params, "persistent": 0, "warp_specialize": 0, "descriptors": 0
    }  # fmt: skip
    assert found.choices["descriptors"] == [0, 1] and len(found.choices["num_warps"]) == 2
    assert found.choices["persistent"][1] % get_target("sm_100").sms == 0
    chosen = explained("sm_100", num_warps=4, num_stages=4, persistent=True, descriptors=True)
    assert {n: v[0] for n, v in chosen.choices.items()} == {**chosen.params, "warp_specialize": 0}
    assert (chosen.params["num_warps"], chosen.params["num_stages"]) == (4, 4)
    assert chosen.params["persistent"] in (148, 296, 444, 592)


@pytest.mark.parametrize("asked", [False, True])
def test_cores_share_operations_where_a_user_says_so(asked: bool):
    x = torch.randn(4096, 256)
    kernel = fusecade.compile(rows, (x,), target="cpu", fuse="always", parameters={"share_operations": asked})
    assert [k.params["share_operations"] for k in kernel.report.kernels] == [int(asked)]
    torch.testing.assert_close(kernel(x), rows(x))


@pytest.mark.parametrize(
    ("parameters", "target", "says"),
    [
        ({"persist": True}, "sm_90", "warp_specialize, descriptors, share_operations\nnext: use 'persistent'"),
        ({"num_warps": 3}, "sm_90", "num_warps is 3; it may be a power of two up to 32"),
        ({"num_stages": True}, "sm_90", "num_stages is True; it may be 1 to 8"),
        ({"persistent": -1}, "sm_90", "it may be False, True, or a number of programs"),
        ({"descriptors": "yes"}, "sm_90", "descriptors is 'yes'; it may be False or True"),
        ({"descriptors": True}, "sm_80", "target sm_80 has no launch parameter descriptors: it has num_warps"),
        ({"warp_specialize": True}, "sm_90", "target sm_90 has no launch parameter warp_specialize"),
        ({"num_warps": 32}, "gfx942", "a program of gfx942 has at most 16 warps"),
        ({"num_warps": 4}, "cpu", "target cpu has no launch parameter num_warps: it has share_operations"),
        ({"share_operations": True}, "sm_90", "target sm_90 has no launch parameter share_operations"),
        (["persistent"], "sm_90", "parameters are list, and must be names with values"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_refused(parameters, target: str, says: str):
    with pytest.raises(InvalidArgument) as stop:
        fusecade.explain(rows, meta(64, 64), target=target, compile_binaries=False, parameters=parameters)
    assert says in str(stop.value)


def test_a_triton_without_descriptors_is_said(monkeypatch):
    import triton.language

    monkeypatch.delattr(triton.language, "make_tensor_descriptor")
    check_parameters(Options(parameters={"descriptors": False}), get_target("sm_90"))
    with pytest.raises(MissingTool, match="make_tensor_descriptor"):
        check_parameters(Options(parameters={"descriptors": True}), get_target("sm_90"))
