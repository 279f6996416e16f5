"""Hand-written kernels compiled for GPUs that are not there, while Triton's interpreter is on in this process."""

import json
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fusecade.errors import InternalCompilerError, InvalidArgument, UserError
from fusecade.runtime import resources, triton_compile
from fusecade.runtime.resources import Resources, read_resources
from fusecade.runtime.triton_compile import (
    Compiled,
    CompileFailure,
    CompileRequest,
    CompilerPool,
    compile_many,
    compile_offline,
)

KERNELS = Path(__file__).parents[1] / "data" / "handwritten_kernels.py"


@dataclass(frozen=True)
class Target:
    kind: str
    arch: int | str
    warp_size: int


TARGETS = {f"sm_{arch}": Target("cuda", arch, 32) for arch in (80, 90, 100)} | {"gfx942": Target("hip", "gfx942", 64)}


def softmax_request(target: Target, warps: int = 4, **constants: int) -> CompileRequest:
    pointers = ("q_ptr", "k_ptr", "v_ptr", "out_ptr")
    return CompileRequest(
        source_path=KERNELS,
        kernel_name="softmax_weighted_sum",
        signature={**dict.fromkeys(pointers, "*fp16"), "scale_log2": "fp32"},
        constexprs={
            "Q": 4096, "KV": 4096, "D": 64, "BLOCK_M": 64, "BLOCK_N": 64,
            "EVEN_M": True, "EVEN_N": True, "STAGES": 2, **constants,
        },
        target=target,
        divisible_by_16=pointers,
        num_warps=warps,
        num_stages=2,
    )  # fmt: skip


def nearest_request(target: Target) -> CompileRequest:
    return CompileRequest(
        source_path=KERNELS,
        kernel_name="nearest_centroid",
        signature={"x_ptr": "*fp16", "c_ptr": "*fp16", "c_norm_ptr": "*fp32", "out_ptr": "*i64", "N": "i32"},
        constexprs={"K": 1024, "D": 64, "BLOCK_M": 128, "BLOCK_N": 64, "EVEN_M": False, "STAGES": 2},
        target=target,
        divisible_by_16=("x_ptr", "c_ptr", "c_norm_ptr", "out_ptr"),
        num_warps=8,
        num_stages=2,
    )


def row_max_request(target: Target, dtype: str = "fp16", precision: str = "tf32") -> CompileRequest:
    return CompileRequest(
        source_path=KERNELS,
        kernel_name="gemm_row_max",
        signature={"a_ptr": f"*{dtype}", "b_ptr": f"*{dtype}", "out_ptr": "*fp32", "M": "i32"},
        constexprs={
            "N": 4096, "K": 768, "BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "EVEN_M": False, "EVEN_N": True,
            "EVEN_K": True, "STAGES": 3, "PRECISION": precision, "FLATTEN": False,
        },
        target=target,
        divisible_by_16=("a_ptr", "b_ptr", "out_ptr"),
        num_warps=8,
        num_stages=3,
    )  # fmt: skip


TINY = """
import triton
import triton.language as tl

@triton.jit
def double(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, 2 * tl.load(x_ptr + i, mask=i < n), mask=i < n)
"""


@pytest.fixture
def tiny(tmp_path: Path) -> CompileRequest:
    """A kernel that compiles quickly, for the tests that are not about kernels."""
    source = tmp_path / "tiny.py"
    source.write_text(TINY)
    signature = {"x_ptr": "*fp32", "out_ptr": "*fp32", "n": "i32"}
    return CompileRequest(source, "double", signature, {"BLOCK": 128}, TARGETS["sm_80"], ("x_ptr", "out_ptr"))


CASES: dict[str, Callable[[Target], CompileRequest]] = {
    "softmax_weighted_sum": softmax_request,
    "nearest_centroid": nearest_request,
    "gemm_row_max": row_max_request,
}
MATRIX_INSTRUCTION = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "v_mfma"}


@pytest.fixture(scope="module")
def all_compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Compiled]:
    assert os.environ.get("TRITON_INTERPRET") == "1", "conftest sets it; offline compilation has to work all the same"
    names = [(case, target) for case in CASES for target in TARGETS]
    requests = [CASES[case](TARGETS[target]) for case, target in names]
    names.append(("too many rows for its warps", "sm_90"))
    requests.append(softmax_request(TARGETS["sm_90"], warps=4, D=128, BLOCK_M=128))
    results = compile_many(requests, cache_dir=tmp_path_factory.mktemp("cache"), jobs=2)
    failures = [result for result in results if isinstance(result, CompileFailure)]
    assert not failures
    return dict(zip(names, results, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_every_kernel_compiles_for_every_target(
    all_compiled: dict[tuple[str, str], Compiled], case: str, target: str
) -> None:
    compiled = all_compiled[case, target]
    assert compiled.binary.startswith(b"\x7fELF")
    assert f"@{case}" in compiled.ttir
    assert case in (compiled.amdgcn if target == "gfx942" else compiled.ptx)
    assert compiled.shared_bytes > 0
    assert compiled.num_warps in (4, 8)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_tensor_cores_are_used_and_nothing_spills(
    all_compiled: dict[tuple[str, str], Compiled], case: str, target: str
) -> None:
    used = read_resources(all_compiled[case, target])
    assert used.reason is None
    assert used.tensor_core_instructions[MATRIX_INSTRUCTION[target]] > 0
    assert used.tensor_core_instructions[MATRIX_INSTRUCTION[target]] == used.tensor_cores
    assert used.spills_bytes == used.spill_store_bytes == used.spill_load_bytes == 0
    assert used.registers is not None
    assert 32 < used.registers < 512
    assert used.sass_lines is not None
    assert used.sass_lines > 100
    assert (used.tensor_memory_columns > 0) == (target == "sm_100")


def test_resources_without_disassembly_are_the_same_numbers(
    all_compiled: dict[tuple[str, str], Compiled],
) -> None:
    compiled = all_compiled["nearest_centroid", "sm_90"]
    quick, full = read_resources(compiled, disassemble=False), read_resources(compiled)
    assert (quick.registers, quick.spills_bytes) == (full.registers, full.spills_bytes)
    assert quick.sass_lines is None
    assert quick.reason is None


def test_spills_are_seen(all_compiled: dict[tuple[str, str], Compiled]) -> None:
    compiled = all_compiled["too many rows for its warps", "sm_90"]
    used = read_resources(compiled)
    assert used.registers == 255
    assert used.spills_bytes
    assert used.spill_store_bytes
    assert used.spill_load_bytes


def test_stack_that_the_program_declares_is_no_spill() -> None:
    assert resources._own_stack("\t.local .align 1 .b8 \t__local_depot0[1];\n\t.reg .b64 \t%SP;\n") == 8
    assert resources._own_stack("\t.reg .b64 \t%SP;\n") == 0


def test_a_missing_tool_is_a_reason_not_a_crash(
    all_compiled: dict[tuple[str, str], Compiled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "find_tool", lambda tool: None)
    compiled = all_compiled["softmax_weighted_sum", "sm_90"]
    used = read_resources(compiled)
    assert isinstance(used, Resources)
    assert used.registers is None
    assert used.shared_bytes == compiled.shared_bytes
    assert used.reason is not None
    assert "cuobjdump" in used.reason
    assert "nvdisasm" in used.reason


def test_the_cache_answers_without_a_compiler(
    tiny: CompileRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = compile_many([tiny], cache_dir=tmp_path)
    monkeypatch.setattr(triton_compile, "WORKER", tmp_path / "there_is_no_worker.py")
    [second] = compile_many([tiny], cache_dir=tmp_path)
    assert isinstance(first, Compiled)
    assert isinstance(second, Compiled)
    assert second.from_cache
    assert not first.from_cache
    assert replace(second, from_cache=False) == first
    assert stat.S_IMODE((tmp_path / "triton").stat().st_mode) == 0o700
    assert not list((tmp_path / "triton").glob(".writing-*"))


@pytest.mark.parametrize("suffix", ["cubin", "ttir", "json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_cache_entry_is_compiled_again(
    all_compiled: dict[tuple[str, str], Compiled], tmp_path: Path, suffix: str, damage: str
) -> None:
    compiled = all_compiled["softmax_weighted_sum", "sm_80"]
    cache = triton_compile.DiskCache(tmp_path)
    cache.write(compiled)
    assert cache.read(compiled.cache_key) == replace(compiled, from_cache=True)
    [file] = cache.folder.glob(f"*.{suffix}")
    blob = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(blob[: len(blob) // 2] if damage == "cut" else blob.replace(b"1", b"2"))
    assert cache.read(compiled.cache_key) is None
    cache.write(compiled)
    assert cache.read(compiled.cache_key) == replace(compiled, from_cache=True)


def test_a_manifest_cannot_point_outside_the_cache(
    all_compiled: dict[tuple[str, str], Compiled], tmp_path: Path
) -> None:
    compiled = all_compiled["softmax_weighted_sum", "sm_80"]
    cache = triton_compile.DiskCache(tmp_path / "cache")
    cache.write(compiled)
    [manifest] = cache.folder.glob("*.json")
    entry = json.loads(manifest.read_text())
    entry["body"]["files"]["binary"][0] = "../../elsewhere"
    entry["sha256"] = triton_compile._digest(triton_compile._canonical(entry["body"]))
    manifest.write_text(json.dumps(entry))
    (tmp_path / "elsewhere").write_bytes(compiled.binary)
    assert cache.read(compiled.cache_key) is None


def test_a_cache_folder_that_others_can_open_is_refused(tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton").chmod(0o755)
    with pytest.raises(UserError, match="not a folder of your own"):
        triton_compile.DiskCache(tmp_path)


def test_the_key_covers_all_that_determines_the_result(tiny: CompileRequest, tmp_path: Path) -> None:
    base = tiny
    moved = tmp_path / "moved.py"
    moved.write_text(TINY)
    changed = tmp_path / "changed.py"
    changed.write_text(TINY + "# one byte more\n")

    def key(request: CompileRequest) -> str:
        return triton_compile.cache_key(triton_compile._message(request))

    others = [
        replace(base, source_path=changed),
        replace(base, kernel_name="twice"),
        replace(base, signature={**base.signature, "n": "i64"}),
        replace(base, constexprs={**base.constexprs, "BLOCK": 256}),
        replace(base, constexprs={"BLOCK": 128.0}),
        replace(base, divisible_by_16=("x_ptr",)),
        replace(base, target=TARGETS["sm_90"]),
        replace(base, num_warps=8),
        replace(base, num_stages=4),
        replace(base, options={"maxnreg": 128}),
        replace(base, line_info=True),
    ]
    assert len({key(request) for request in [base, *others]}) == 1 + len(others)
    assert key(replace(base, source_path=moved)) == key(base)
    assert key(replace(base, source_path=moved, line_info=True)) != key(replace(base, line_info=True))


def test_a_refusal_of_the_compiler_is_a_value_and_the_pool_goes_on(tiny: CompileRequest, tmp_path: Path) -> None:
    good = tiny
    bad_tile = replace(good, constexprs={"BLOCK": 100})
    no_kernel = replace(good, kernel_name="no_such_kernel")
    no_type = replace(good, signature={"x_ptr": "*fp16"})
    stranger = replace(good, divisible_by_16=("w_ptr",))
    results = compile_many([bad_tile, no_kernel, no_type, stranger, good, good], cache_dir=tmp_path, jobs=1)
    assert [result.ok for result in results] == [False] * 4 + [True] * 2
    assert results[4] is results[5]
    reasons = [result.reason for result in results if isinstance(result, CompileFailure)]
    for reason, word in zip(reasons, ["power of 2", "no_such_kernel", "out_ptr", "w_ptr"], strict=True):
        assert word in reason


def test_compile_offline_raises_where_the_compiler_refuses() -> None:
    with pytest.raises(InternalCompilerError, match="defines no kernel 'no_such_kernel'"):
        compile_offline(KERNELS, "no_such_kernel", {}, {}, target=TARGETS["sm_90"])


def test_a_crash_of_the_compiler_is_a_value(tiny: CompileRequest, tmp_path: Path) -> None:
    crash = tmp_path / "crash.py"
    crash.write_text("import os, sys\nprint('last words', file=sys.stderr, flush=True)\nos.abort()\n")
    slow = tmp_path / "slow.py"
    slow.write_text("import time\ntime.sleep(60)\n")
    with CompilerPool(jobs=1) as pool:
        crashed, compiled = pool.compile([replace(tiny, source_path=crash), tiny])
    assert isinstance(crashed, CompileFailure)
    assert crashed.crashed
    assert "last words" in crashed.detail
    assert compiled.ok
    start = time.perf_counter()
    [late] = compile_many([replace(tiny, source_path=slow)], timeout_s=1.0)
    assert isinstance(late, CompileFailure)
    assert late.crashed
    assert "longer than 1 s" in late.reason
    assert time.perf_counter() - start < 20


def test_what_a_source_prints_does_not_disturb_the_answers(tiny: CompileRequest, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.py"
    noisy.write_text("import os\nprint('{}')\nos.write(1, b'hello\\n')\n" + TINY)
    [result] = compile_many([replace(tiny, source_path=noisy)])
    assert result.ok


@pytest.mark.parametrize("arch", [90, "90", "sm_90", "sm_90a"])
def test_ways_to_write_an_architecture(arch: int | str) -> None:
    assert triton_compile.triton_arch(Target("cuda", arch, 32)) == 90


def test_a_target_that_triton_does_not_have_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="'cpu'"):
        compile_many([nearest_request(Target("cpu", "x86", 1))])
