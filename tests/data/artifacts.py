"""Kernels as code generation hands them over, written by hand: small, and of every kind that the runtime meets."""

from __future__ import annotations

from dataclasses import replace
from textwrap import dedent
from typing import Any

from fusecade.codegen.artifact import KernelArtifact, Layout

FACTS: dict[str, Any] = {
    "passes": {"j": 1}, "passes_as_written": {"j": 2}, "pass_reasons": {}, "sram_load_bytes": 32, "sram_store_bytes": 4,
    "hbm_bytes": 36, "hbm_bytes_bound": 36, "flops": 8.0, "footprint_bytes": 64, "predicted_us": 1.5, "bound_by": "HBM",
    "certificates": ["sum x = sum x"], "nodes": ["sum_1"], "cascade": "cascade text", "tile": "tile text",
}  # fmt: skip

ROW_SUM = dedent("""
    import torch

    def row_sum_programs(x, out, n, m, start, stop):
        for program in range(start, stop):
            i = program * 4
            torch.sum(x[i : i + 4], dim=1, out=out[i : i + 4])
""")


def row_sum() -> KernelArtifact:
    """x[n, m] -> sum over m, four rows a program, for the CPU."""
    return KernelArtifact(
        name="row_sum", kind="torch", target="cpu", source=ROW_SUM, function="row_sum_programs",
        inputs=(Layout(("n", "m"), ("m", 1), "f32"),), outputs=(Layout(("n",), (1,), "f32"),),
        sizes=("n", "m"), params={"BI": 4}, launch={"programs": "-(-n // 4)"}, facts=FACTS,
    )  # fmt: skip


def torch_kernel(source: str, **changes: Any) -> KernelArtifact:
    """`row_sum` with another program: one that fails, say."""
    return replace(row_sum(), source=dedent(source), **changes)


DOUBLE_AND_SUM = dedent("""
    import triton
    import triton.language as tl

    @triton.jit
    def double_and_sum(x_ptr, doubled_ptr, sum_ptr, n, m, BI: tl.constexpr, LANES_J: tl.constexpr):
        start_i = tl.program_id(0) * BI
        i = start_i + tl.arange(0, BI)
        j = tl.arange(0, LANES_J)
        at = i[:, None] * m + j[None, :]
        inside = (i[:, None] < n) & (j[None, :] < m)
        x = tl.load(x_ptr + at, mask=inside, other=0.0)
        tl.store(doubled_ptr + at, 2 * x, mask=inside)
        tl.store(sum_ptr + i, tl.sum(x, axis=1), mask=i < n)
""")


def double_and_sum() -> KernelArtifact:
    """x[n, m] -> 2 x, and the sums of its rows, as Triton with two outputs and a block that holds a whole rank."""
    return KernelArtifact(
        name="double_and_sum", kind="triton", target="sm_90", source=DOUBLE_AND_SUM, function="double_and_sum",
        inputs=(Layout(("n", "m"), ("m", 1), "f32"),),
        outputs=(Layout(("n", "m"), ("m", 1), "f32"), Layout(("n",), (1,), "f32")),
        sizes=("n", "m"), params={"BI": 4},
        launch={
            "arguments": ["x_ptr", "doubled_ptr", "sum_ptr", "n", "m"],
            "signature": {"x_ptr": "*fp32", "doubled_ptr": "*fp32", "sum_ptr": "*fp32", "n": "i32", "m": "i32"},
            "constexprs": {"BI": 4}, "whole": {"LANES_J": ["m", 1]}, "divisible": [],
            "grid": "-(-n // 4)", "num_warps": 1, "num_stages": 1,
        },
        facts=FACTS,
    )  # fmt: skip
