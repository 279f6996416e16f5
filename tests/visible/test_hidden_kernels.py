"""Kernels that stay calls of the operator, each for its reason, and those that only seem to have to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from data.artifacts import double_and_sum, row_sum
from data.graphs import call_of, graph_of, node_of, placed
from torch import fx
from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_functional as LAUNCH
from torch._subclasses.fake_tensor import FakeTensorMode

from fusecade.assembly import visible_kernels
from fusecade.assembly.splice import Placed, splice
from fusecade.assembly.visible_kernels import shown
from fusecade.codegen.artifact import KernelArtifact, Layout
from fusecade.driver import Call

SOURCE = dedent("""
    import triton
    import triton.language as tl

    @triton.jit
    def sum_rows(x_ptr, out_ptr, n, m, BI: tl.constexpr):
        i = tl.program_id(0) * BI + tl.arange(0, BI)
        total = tl.zeros([BI], tl.float32)
        for j in tl.range(0, m):
            total += tl.load(x_ptr + i * m + j, mask=i < n, other=0.0)
        tl.store(out_ptr + i, total, mask=i < n)
""")
SIGNATURE = {"x_ptr": "*fp32", "out_ptr": "*fp32", "n": "i32", "m": "i32"}
LAUNCHED = {
    "signature": SIGNATURE, "constexprs": {"BI": 4}, "whole": {}, "grid": "min(cdiv(n, 4), 1000)",
    "num_warps": 1, "num_stages": 1,
}  # fmt: skip


def sum_rows(**launch: Any) -> KernelArtifact:
    return replace(
        row_sum(), kind="triton", target="sm_90", source=SOURCE, function="sum_rows", launch={**LAUNCHED, **launch}
    )


@pytest.fixture(autouse=True)
def _as_if_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visible_kernels, "is_interpreted", lambda kernel: False)


def graph(shape: tuple[int, int] = (6, 3), dynamic: bool = True, fn: Any = lambda x: (x * 2).sum(1)) -> fx.GraphModule:
    with FakeTensorMode():
        x = torch.empty(shape)
    return graph_of(fn, x, dynamic={0: {0: "n", 1: "m"}} if dynamic else None)


def one(gm: fx.GraphModule, folder: Path, artifact: KernelArtifact | None = None, key: str = "") -> Placed:
    call = call_of(gm, artifact=artifact or sum_rows())
    [x] = call.inputs
    call.sizes = {"n": (x, 0), "m": (x, 1)}
    return placed(gm, call, folder, folder.name + key)


def reasons(placed: Placed, *, ahead: bool = False) -> list[str]:
    found, hidden = shown([placed], ahead=ahead)
    assert [x.visible for x in found] == [not hidden]
    return [reason for _, reason in hidden]


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("ahead", [True, False])
def test_nothing_stands_in_the_way(tmp_path: Path, dynamic: bool, ahead: bool):
    assert reasons(one(graph(dynamic=dynamic), tmp_path), ahead=ahead) == []


def test_the_graph_with_its_launch(tmp_path: Path):
    gm = graph()
    found, _ = shown([one(gm, tmp_path)])
    spliced = splice(gm, found)
    [launch] = spliced.graph.find_nodes(op="call_function", target=LAUNCH)
    [(programs, _, _)] = launch.kwargs["grid"]
    assert programs.target is torch.sym_min
    given = launch.kwargs["kwargs"]
    assert list(given) == ["x_ptr", "out_ptr", "n", "m", "BI"]
    assert [given[name].target for name in ("n", "m")] == [torch.ops.aten.sym_size.int] * 2
    torch.testing.assert_close(spliced(torch.ones(10, 5))[0], torch.full((10,), 10.0))


@pytest.mark.parametrize(
    ("artifact", "reason"),
    [
        (row_sum(), "it is no Triton kernel"),
        (sum_rows(described=[0]), "it has tensor descriptors: their memory is provided when it is launched"),
        (sum_rows(whole={"LANES": ["m", 1]}), "a block holds a dynamic size whole: each size takes another kernel"),
        (
            replace(sum_rows(), outputs=(Layout(("n",), (2,), "f32"),)),
            "it writes other strides than the graph has",
        ),
    ],
)  # fmt: skip
def test_a_kernel_that_stays(artifact: KernelArtifact, reason: str, tmp_path: Path):
    gm = graph()
    stays = one(gm, tmp_path, artifact)
    assert reasons(stays) == [reason]
    spliced = splice(gm, shown([stays])[0])
    assert not spliced.graph.find_nodes(op="call_function", target=LAUNCH)


def test_a_whole_rank_of_a_size_that_is_known(tmp_path: Path):
    """Its block is as large as the size asks."""
    gm = graph((6, 5), dynamic=False)
    [x] = node_of(gm, "mul").all_input_nodes
    call = Call(double_and_sum(), [x], [node_of(gm, "mul"), node_of(gm, "sum")])
    call.sizes = {"n": (x, 0), "m": (x, 1)}
    found, hidden = shown([placed(gm, call, tmp_path, "whole")])
    assert not hidden
    [launch] = splice(gm, found).graph.find_nodes(op="call_function", target=LAUNCH)
    assert launch.kwargs["kwargs"]["LANES_J"] == 8
    assert launch.kwargs["tensors_to_clone"] == ["doubled_ptr", "sum_ptr"]
    assert launch.kwargs["grid"] == [(2, 1, 1)]


def test_a_kernel_that_failed(tmp_path: Path):
    failed = one(graph(), tmp_path)
    failed.entry.failed = "its kernel failed: no memory"
    assert reasons(failed) == ["its kernel failed: no memory"]


def test_an_input_elsewhere(tmp_path: Path):
    gm = graph()
    elsewhere = one(gm, tmp_path)
    value = elsewhere.call.inputs[0].meta["val"]
    with value.fake_mode:
        elsewhere.call.inputs[0].meta["val"] = torch.empty_like(value, device="cuda")
    assert reasons(elsewhere) == ["an input is on another device"]


EMPTY = "a tensor of it is empty, or may be"


def test_an_empty_input(tmp_path: Path):
    assert reasons(one(graph((0, 3), dynamic=False), tmp_path)) == [EMPTY]


def test_an_input_that_may_be_empty(tmp_path: Path):
    """Compiled on the spot it is guarded not to be; ahead of time nothing would look."""
    maybe = one(graph(), tmp_path)
    [x] = maybe.call.inputs
    value = x.meta["val"]
    with value.fake_mode:
        x.meta["val"] = torch.empty(value.shape[0] - 4, value.shape[1])
        maybe.call.outputs[0].meta["val"] = torch.empty(value.shape[0] - 4)
    assert reasons(maybe, ahead=True) == [EMPTY]
    guards = value.fake_mode.shape_env.guards
    before = len(guards)
    assert reasons(maybe) == []
    assert len(guards) > before


def test_a_size_that_depends_on_values(tmp_path: Path):
    gm = graph()
    unknown = one(gm, tmp_path)
    mode = unknown.call.inputs[0].meta["val"].fake_mode
    with mode:
        unknown.call.inputs[0].meta["val"] = torch.empty(mode.shape_env.create_unbacked_symint(), 3)
    [reason] = reasons(unknown)
    assert reason == "it counts in 32 bits, and a size may need more"


@pytest.mark.parametrize("extent", [2**31 - 2**16, 2**31 + 5])
def test_sizes_that_32_bits_do_not_hold(tmp_path: Path, extent: int):
    large = one(graph((extent, 1 + 2)), tmp_path)
    assert reasons(large) == ["it counts in 32 bits, and a size may need more"]
    wide = {**SIGNATURE, "n": "i64", "m": "i64"}
    assert reasons(one(graph((extent, 3)), tmp_path, sum_rows(signature=wide), "wide")) == []


def test_launches_have_no_effects_that_keep_them_in_order(tmp_path: Path):
    """The first kernel stands first in the old graph, for its first output did, and waits for the second all the same."""

    def fn(x):
        a = x.sum(1)
        b = (x * 2).sum(1)
        return a, (x * b[:, None]).sum(1)

    gm = graph((6, 3), dynamic=False, fn=fn)
    first, second, third = (node_of(gm, "sum", n) for n in range(3))
    x, doubled, product = (node.all_input_nodes[0] for node in (first, second, third))
    fixed = Layout((6, 3), (3, 1), "f32")
    source = dedent("""
        import triton
        import triton.language as tl

        @triton.jit
        def two_sums(x_ptr, y_ptr, a_ptr, c_ptr, BI: tl.constexpr):
            i = tl.arange(0, BI)
            a = tl.zeros([BI], tl.float32)
            c = tl.zeros([BI], tl.float32)
            for j in tl.range(0, 3):
                a += tl.load(x_ptr + i * 3 + j, mask=i < 6, other=0.0)
                c += tl.load(y_ptr + i * 3 + j, mask=i < 6, other=0.0)
            tl.store(a_ptr + i, a, mask=i < 6)
            tl.store(c_ptr + i, c, mask=i < 6)
    """)
    both = replace(
        sum_rows(grid=1, signature={}, constexprs={"BI": 8}), source=source, function="two_sums", name="two_sums",
        inputs=(fixed, fixed), outputs=(Layout((6,), (1,), "f32"),) * 2, sizes=(),
    )  # fmt: skip
    calls = [
        Call(both, [x, product], [first, third]),
        Call(sum_rows(), [doubled], [second], {"n": (doubled, 0), "m": (doubled, 1)}),
    ]
    found, hidden = shown([placed(gm, call, tmp_path, f"order{n}") for n, call in enumerate(calls)])
    assert not hidden
    values = torch.randn(6, 3)
    for got, wanted in zip(splice(gm, found)(values), fn(values), strict=True):
        torch.testing.assert_close(got, wanted)
