"""Persistent programs, specialised warps, loads by descriptor: other launches of the same kernel, off unless asked for."""

from __future__ import annotations

import pytest
import torch

from fusecade.codegen.bind import bind
from fusecade.codegen.triton_descriptors import describable
from fusecade.codegen.triton_source import print_triton
from fusecade.ir.target import get_target
from fusecade.runtime.resources import read_resources
from fusecade.runtime.triton_compile import Compiled, CompileRequest, compile_many

CASES = {  # grids and tiles are ragged: 8 or 4 results for 3 programs
    "attention": ({"BI": 16, "BJ": 16}, {"nb": 2, "n": 50, "m": 37}),
    "causal": ({"BI": 16, "BJ": 16}, {"nb": 1, "n": 50, "m": 50}),
    "kmeans": ({"BI": 16, "BJ": 16}, {"n": 50, "m": 40}),
    "lm_head_max": ({"BV": 16, "BS": 16}, {"nb": 1, "nv": 50, "ns": 37}),
    "softmax": ({"BI": 4}, {"n": 50, "m": 60, "x0": 64, "x1": 1}),
    "rms_norm_gemm": ({"BI": 16, "BK": 16, "BO": 16}, {"n": 50, "p": 40, "q": 40}),
}
OPTIONS = {
    "persistent": {"persistent": 3},
    "specialised": {"warp_specialize": 1},
    "descriptors": {"descriptors": 1},
    "all": {"persistent": 3, "warp_specialize": 1, "descriptors": 1},
}
TF32 = {'"ieee"': '"tf32"'}  # products of full precision take no descriptors


def tensors(name: str, random_tensor) -> list[torch.Tensor]:
    if name == "attention":
        return [random_tensor(2, n, 64, dtype=torch.float16) for n in (50, 37, 37)]
    if name == "kmeans":
        c = random_tensor(40, 64)
        return [random_tensor(50, 64), c, (c * c).sum(1)]
    if name == "causal":
        return [random_tensor(1, 50, 64, dtype=torch.float16) for _ in range(3)]
    if name == "lm_head_max":
        return [random_tensor(1, 37, 256), random_tensor(50, 256)]
    if name == "softmax":
        return [random_tensor(50, 64, dtype=torch.float16)[:, :60]]
    x, w = random_tensor(50, 40, dtype=torch.float16), random_tensor(40, 40, dtype=torch.float16)
    return [x, w, torch.tensor(1 / 40)]


def test_they_are_off_unless_asked_for(runner):
    source = print_triton(runner.kernel("attention"))
    assert not any(word in source.text for word in ("num_programs", "warp_specialize", "descriptor"))
    assert not {"persistent", "warp_specialize", "descriptors"} & set(source.constexprs)


@pytest.mark.parametrize("name", CASES)
def test_they_give_the_same(runner, random_tensor, name: str):
    tiles, sizes = CASES[name]
    given = tensors(name, random_tensor)
    fixed = {n: v for n, v in sizes.items() if n in ("m", "q", "x0", "x1")}
    plain = bind(runner.kernel(name, tiles, TF32), sizes=fixed)
    (wanted,) = runner.triton(plain, given, sizes)
    for words, options in OPTIONS.items():
        other = bind(plain, options)
        assert bool(print_triton(other).described) == ("descriptors" in options)
        (found,) = runner.triton(other, given, sizes)
        assert torch.equal(found, wanted), words


def test_few_programs_compute_all(runner):
    tiles, sizes = CASES["attention"]
    source = print_triton(runner.kernel("attention", {**tiles, "persistent": 3}))
    assert source.programs(sizes) == 3
    assert source.programs({**sizes, "n": 10, "nb": 1}) == 1
    assert "    for pid in tl.range(tl.program_id(0), " in source.text
    assert "persistent" not in source.constexprs


@pytest.mark.parametrize("options", ["persistent", "all"])
def test_they_compile_for_hopper(runner, tmp_path, options: str):
    sizes = {"attention": {"nb": 64, "n": 4096, "m": 4096}, "rms_norm_gemm": {"n": 4096, "p": 4096, "q": 4096}}
    sizes["kmeans"] = {"n": 65536, "m": 1024}
    requests = []
    for name, tiles in {
        "attention": {"BI": 128, "BJ": 64},
        "rms_norm_gemm": {"BI": 64, "BK": 32, "BO": 64},
        "kmeans": {},
    }.items():
        chosen = {**OPTIONS[options], "persistent": 132}
        kernel = bind(runner.kernel(name, {**tiles, **chosen}, {'"ieee"': '"tf32"'}), sizes=sizes[name])
        source = print_triton(kernel)
        assert source.programs({}) <= 132
        path = tmp_path / f"{name}.py"
        path.write_text(source.text)
        constants = source.constants({})
        requests.append(
            CompileRequest(
                path, source.name, source.signature, constants, get_target("sm_90"), source.divisible_by_16, 8, 2
            )
        )
    for compiled in compile_many(requests):
        assert isinstance(compiled, Compiled), compiled
        used = read_resources(compiled)
        assert used.spills_bytes == 0
        assert used.tensor_cores
        assert ("cp.async.bulk.tensor" in compiled.ptx) == (options == "all")


def load(
    access: str, buffer: str, kind: str, guard: str, ranks: str = "[b = 2 unit, i = n grid BI, k = 32 whole]"
) -> str:
    """A kernel that copies one tile, as text."""
    dims = access.count(",") + 1
    out = "!tile.buffer<[2, n, 32], [n * 32, 32, 1], " + kind + ">"
    assert buffer.count(",") == 2 * dims - 1
    return f"""
tile.kernel @copy {ranks} grid (b, i) params {{BI = 16, num_warps = 4}} (%x : !tile.buffer<{buffer}, {kind}>) -> (%o : {out}) {{
  %t = tile.load %x<[{access}]> guard {guard} : !tile.buffer<{buffer}, {kind}> -> !tile.tile<[i, k], {kind}>
  tile.store %t, %o<[b, i, k]> guard ["i", "k"] : !tile.tile<[i, k], {kind}>, {out}
  tile.return
}}"""


RECTANGLES = {
    "a batch": (load("b, i, k", "[2, n, 32], [n * 32, 32, 1]", "f16", '["i", "k"]'), "[2, n, 32], ", "[b, start_i, 0]"),
    "heads side by side": (load("i, b * 32 + k", "[n, 64], [64, 1]", "f16", '["i"]'), "[n, 64], [64, 1]", "b * 32]"),
    "the other way round": (load("k, i", "[32, n], [1, 32]", "f32", '["i"]'), "[n, 32], [32, 1]", "[start_i, 0]"),
    "later columns": (
        load("b, i, k + 8", "[2, n, 40], [n * 40, 40, 1]", "f16", '["i", "k"]'),
        "[2, n, 40]",
        "start_i, 8]",
    ),
}
OTHERS = {
    "a stride of 6 bytes": load("b, i, k", "[2, n, 3], [n * 3, 3, 1]", "f16", '["i", "k"]'),
    "an unknown stride": load("b, i, k", "[2, n, 32], [n * s, s, 1]", "f16", '["i", "k"]'),
    "no unit stride": load("b, i, k", "[2, n, 32], [n * 64, 64, 2]", "f16", '["i", "k"]'),
    "begins at 6 bytes": load("b, i, k + 3", "[2, n, 40], [n * 40, 40, 1]", "f16", '["i", "k"]'),
    "ends with the program": load("b, i + b * n, k", "[2, n, 32], [n * 32, 32, 1]", "f16", '["i", "k"]'),
    "a diagonal": load("i + k, k", "[n, 32], [32, 1]", "f16", '["i", "k"]'),
    "every other row": load("b, 2 * i, k", "[2, n, 32], [n * 32, 32, 1]", "f16", '["i", "k"]'),
    "booleans": load("b, i, k", "[2, n, 32], [n * 32, 32, 1]", "i1", '["i", "k"]'),
}


@pytest.mark.parametrize("name", RECTANGLES)
def test_rectangles_have_descriptors(runner, random_tensor, name: str):
    text, shape, offsets = RECTANGLES[name]
    plain = bind(runner.parse(text))
    kernel = bind(plain, {"descriptors": 1})
    printed = print_triton(kernel).text
    assert "tl.load" not in printed and shape in printed and offsets in printed
    (given,) = runner.inputs(plain, {"n": 21})
    given.copy_(random_tensor(*given.shape))
    for a, b in zip(runner.triton(kernel, [given], {"n": 21}), runner.triton(plain, [given], {"n": 21}), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_aligned_rectangle_is_loaded_as_before(runner, name: str):
    plain = bind(runner.parse(OTHERS[name]))
    assert not describable(plain)
    assert print_triton(bind(plain, {"descriptors": 1})).text == print_triton(plain).text


def test_products_of_full_precision_take_no_descriptors(runner):
    assert not describable(runner.kernel("kmeans")) and describable(runner.kernel("kmeans", replaced=TF32))


def test_printed_descriptors(runner, golden):
    kernel = bind(
        runner.kernel("attention", {"descriptors": 1, "persistent": 132}), sizes={"nb": 8, "n": 4096, "m": 4000}
    )
    golden("codegen/attention_descriptors_triton.py", print_triton(kernel).text)


def test_descriptors_become_bulk_copies_on_blackwell(runner, tmp_path):
    sizes = {"nb": 64, "n": 4096, "m": 4096}
    source = print_triton(bind(runner.kernel("attention", {"BI": 128, "BJ": 64, "descriptors": 1}), sizes=sizes))
    path = tmp_path / "attention.py"
    path.write_text(source.text)
    (found,) = compile_many(
        [
            CompileRequest(
                path,
                source.name,
                source.signature,
                source.constants({}),
                get_target("sm_100"),
                source.divisible_by_16,
                8,
                2,
            )
        ]
    )
    assert isinstance(found, Compiled), found
    used = read_resources(found)
    assert found.ptx.count("cp.async.bulk.tensor") >= 3
    assert "ld.global" not in found.ptx
    assert used.spills_bytes == 0 and used.tensor_cores
