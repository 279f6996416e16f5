"""Persistent programs and specialised warps: other launches of the same kernel, off unless asked for."""

from __future__ import annotations

import pytest
import torch

from fusecade.codegen.bind import bind
from fusecade.codegen.triton_source import print_triton
from fusecade.ir.target import get_target
from fusecade.runtime.resources import read_resources
from fusecade.runtime.triton_compile import Compiled, CompileRequest, compile_many

CASES = {
    "attention": ({"BI": 16, "BJ": 16}, {"nb": 2, "n": 50, "m": 37}),
    "kmeans": ({"BI": 16, "BJ": 16}, {"n": 50, "m": 40}),
    "rms_norm_gemm": ({"BI": 16, "BK": 16, "BO": 16}, {"n": 50, "p": 40, "q": 37}),
}
OPTIONS = {
    "persistent": {"persistent": 3},
    "specialised": {"warp_specialize": 1},
    "both": {"persistent": 3, "warp_specialize": 1},
}


def tensors(name: str, random_tensor) -> list[torch.Tensor]:
    if name == "attention":
        return [random_tensor(2, n, 64, dtype=torch.float16) for n in (50, 37, 37)]
    if name == "kmeans":
        c = random_tensor(40, 64)
        return [random_tensor(50, 64), c, (c * c).sum(1)]
    x = random_tensor(50, 40)
    return [x, random_tensor(37, 40), torch.rsqrt((x * x).mean(1))]


def test_they_are_off_unless_asked_for(runner):
    source = print_triton(runner.kernel("attention"))
    assert "num_programs" not in source.text and "warp_specialize" not in source.text
    assert not {"persistent", "warp_specialize"} & set(source.constexprs)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", OPTIONS)
def test_they_give_the_same(runner, random_tensor, name: str, options: str):
    tiles, sizes = CASES[name]
    given = tensors(name, random_tensor)
    plain = runner.kernel(name, tiles)
    other = runner.kernel(name, {**tiles, **OPTIONS[options]})
    for a, b in zip(runner.triton(plain, given, sizes), runner.triton(other, given, sizes), strict=True):
        assert torch.equal(a, b)


def test_few_programs_compute_all(runner):
    tiles, sizes = CASES["attention"]
    source = print_triton(runner.kernel("attention", {**tiles, "persistent": 3}))
    assert source.programs(sizes) == 3
    assert source.programs({**sizes, "n": 10, "nb": 1}) == 1
    assert "    for pid in tl.range(tl.program_id(0), " in source.text
    assert "persistent" not in source.constexprs


@pytest.mark.parametrize("options", ["persistent", "both"])
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
