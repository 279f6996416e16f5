"""`count_io_of_launch` against what hand-written kernels move by construction. Needs TRITON_INTERPRET=1 (conftest)."""

# Triton annotates constants as tl.constexpr, and takes plain numbers for them.
# pyright: reportArgumentType=false

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # conftest has set it, unless this file is run by itself

import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from fusecade.errors import UserError
from fusecade.testing import OUTSIDE, IOCount, count_io, count_io_of_launch, counting_io

KERNELS = Path(__file__).parents[1] / "data" / "handwritten_kernels.py"


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("handwritten_kernels", KERNELS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@triton.jit
def copy_rows(x_ptr, out_ptr, n, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    value = tl.load(x_ptr + row * stride + columns, mask=columns < n, other=0.0)
    tl.store(out_ptr + row * n + columns, value, mask=columns < n)


@triton.jit
def add_all(a_ptr, b_ptr, c_ptr, sum_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(a_ptr + i) + tl.load(b_ptr + i) + tl.load(c_ptr + i)
    tl.atomic_add(sum_ptr, tl.sum(value, 0))


@triton.jit
def read_strided(a_ptr, b_ptr, out_ptr, stride, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(a_ptr + i * stride) + tl.load(b_ptr + i * stride))


@triton.jit
def copy_by_descriptor(x_ptr, out_ptr, M, N, BLOCK: tl.constexpr):
    x = tl.make_tensor_descriptor(x_ptr, shape=[M, N], strides=[N, 1], block_shape=[BLOCK, BLOCK])
    out = tl.make_tensor_descriptor(out_ptr, shape=[M, N], strides=[N, 1], block_shape=[BLOCK, BLOCK])
    at = tl.program_id(0) * BLOCK
    out.store([at, 0], x.load([at, 0]))


def test_masked_lanes_move_nothing() -> None:
    x, out = torch.randn(5, 24), torch.empty(5, 20)
    count = count_io_of_launch(lambda: copy_rows[(5,)](x, out, 20, 24, BLOCK=32))
    assert torch.equal(out, x[:, :20])
    assert (count.load_bytes, count.store_bytes) == (5 * 20 * 4, 5 * 20 * 4)
    assert count.loads_by_pointer_arg == {"x_ptr": 400}
    assert count.stores_by_pointer_arg == {"out_ptr": 400}
    [launch] = count.launches
    assert (launch.kernel, launch.grid) == ("copy_rows", (5, 1, 1))
    assert launch.loads_by_program == {(row, 0, 0): 80 for row in range(5)}


def test_arguments_by_keyword_and_half_precision() -> None:
    x, out = torch.randn(3, 16).half(), torch.empty(3, 16).half()
    count = count_io_of_launch(lambda: copy_rows[(3,)](x_ptr=x, out_ptr=out, n=16, stride=16, BLOCK=16))
    assert count.loads_by_pointer_arg == {"x_ptr": 3 * 16 * 2}


def test_an_atomic_loads_and_stores() -> None:
    a, b, c = (torch.randn(64) for _ in range(3))
    total = torch.zeros(1)
    count = count_io_of_launch(lambda: add_all[(2,)](a, b, c, total, 64, BLOCK=32))
    torch.testing.assert_close(total[0], (a + b + c).sum())
    assert count.loads_by_pointer_arg == {"a_ptr": 256, "b_ptr": 256, "c_ptr": 256, "sum_ptr": 8}
    assert count.stores_by_pointer_arg == {"sum_ptr": 8}


def test_interleaved_views_of_one_storage_are_told_apart() -> None:
    packed, out = torch.randn(32, 2), torch.empty(32)
    count = count_io_of_launch(lambda: read_strided[(1,)](packed[:, 0], packed[:, 1], out, 2, BLOCK=32))
    assert count.loads_by_pointer_arg == {"a_ptr": 128, "b_ptr": 128}


def test_the_same_tensor_twice_counts_for_both_names() -> None:
    x, out = torch.randn(32), torch.empty(32)
    count = count_io_of_launch(lambda: read_strided[(1,)](x, x, out, 1, BLOCK=32))
    assert count.loads_by_pointer_arg == {"a_ptr|b_ptr": 256}


def test_an_access_out_of_bounds_is_reported() -> None:
    storage, out = torch.zeros(64), torch.empty(32)
    short = storage[:16]
    count = count_io_of_launch(lambda: read_strided[(1,)](short, storage[32:], out, 1, BLOCK=32))
    assert count.loads_by_pointer_arg == {"a_ptr": 64, OUTSIDE: 64, "b_ptr": 128}


def test_descriptor_accesses_count_their_tile_inside_the_tensor() -> None:
    x, out = torch.randn(40, 16), torch.zeros(40, 16)
    count = count_io_of_launch(lambda: copy_by_descriptor[(3,)](x, out, 40, 16, BLOCK=16))
    assert torch.equal(out, x)
    assert count.loads_by_pointer_arg == {"x_ptr": 40 * 16 * 4}
    assert count.stores_by_pointer_arg == {"out_ptr": 40 * 16 * 4}


@pytest.mark.parametrize("kv", [64, 80], ids=["even", "ragged"])
def test_streamed_softmax_reads_what_the_cost_model_says(kernels: ModuleType, kv: int) -> None:
    heads, rows, d, block = 2, 96, 16, 32
    q, k, v = torch.randn(heads, rows, d).half(), torch.randn(heads, kv, d).half(), torch.randn(heads, kv, d).half()
    out = torch.empty_like(q)
    scale = d**-0.5

    def launch() -> None:
        kernels.softmax_weighted_sum[(rows // block, heads)](
            q, k, v, out, scale * 1.4426950408889634,
            Q=rows, KV=kv, D=d, BLOCK_M=block, BLOCK_N=block, EVEN_M=True, EVEN_N=kv % block == 0, STAGES=2,
        )  # fmt: skip

    count = count_io_of_launch(launch)
    expected = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(out.double(), expected, atol=4e-3, rtol=0)
    row_tiles = rows // block
    assert count.loads_by_pointer_arg == {
        "q_ptr": heads * rows * d * 2,
        "k_ptr": heads * row_tiles * kv * d * 2,
        "v_ptr": heads * row_tiles * kv * d * 2,
    }
    assert count.store_bytes == heads * rows * d * 2
    assert (count.passes("q_ptr"), count.passes("k_ptr")) == (1, row_tiles)


def test_nearest_centroid_takes_the_lowest_of_equals(kernels: ModuleType) -> None:
    n, k, d, block = 48, 64, 16, 32
    x = torch.randint(-2, 3, (n, d)).half()
    c = torch.randint(-2, 3, (k // 2, d)).half().repeat(2, 1)  # every centroid twice
    norm = c.float().square().sum(1)
    out = torch.empty(n, dtype=torch.int64)

    def launch() -> None:
        kernels.nearest_centroid[(2,)](
            x, c, norm, out, n, K=k, D=d, BLOCK_M=block, BLOCK_N=block, EVEN_M=False, STAGES=2
        )

    count = count_io_of_launch(launch)
    assert torch.equal(out, (norm - 2 * x.float() @ c.float().T).argmin(1))
    assert count.loads_by_pointer_arg == {"x_ptr": n * d * 2, "c_ptr": 2 * k * d * 2, "c_norm_ptr": 2 * k * 4}
    assert count.stores_by_pointer_arg == {"out_ptr": n * 8}


def test_nearest_centroid_takes_the_first_nan(kernels: ModuleType) -> None:
    x = torch.randn(32, 16).half()
    x[3, 5] = float("nan")
    c = torch.randn(64, 16).half()
    c[37, 2] = c[50, 2] = float("nan")
    norm = c.float().square().sum(1)
    out = torch.empty(32, dtype=torch.int64)
    kernels.nearest_centroid[(1,)](x, c, norm, out, 32, K=64, D=16, BLOCK_M=32, BLOCK_N=32, EVEN_M=True, STAGES=2)
    assert torch.equal(out, (norm - 2 * x.float() @ c.float().T).argmin(1))
    assert out[3] == 0
    assert (out[4:] == 37).all()


@pytest.mark.parametrize(("n", "k"), [(64, 32), (50, 24)], ids=["even", "ragged"])
def test_gemm_row_max_reads_what_the_cost_model_says(kernels: ModuleType, n: int, k: int) -> None:
    m, block, block_k = 40, 32, 16
    a, b, out = torch.randn(m, k).half(), torch.randn(n, k).half(), torch.empty(m)
    a[7, 3] = float("nan")

    def launch() -> None:
        kernels.gemm_row_max[(2,)](
            a, b, out, m, N=n, K=k, BLOCK_M=block, BLOCK_N=block, BLOCK_K=block_k, EVEN_M=False,
            EVEN_N=n % block == 0, EVEN_K=k % block_k == 0, STAGES=2, PRECISION="ieee", FLATTEN=False,
        )  # fmt: skip

    count = count_io_of_launch(launch)
    torch.testing.assert_close(out, (a.float() @ b.float().T).amax(1), atol=1e-4, rtol=1e-4, equal_nan=True)
    assert count.loads_by_pointer_arg == {"a_ptr": m * k * 2 * -(-n // block), "b_ptr": n * k * 2 * -(-m // block)}
    assert count.store_bytes == m * 4


def test_several_launches_are_kept_apart_and_summed() -> None:
    x, middle, out = torch.randn(2, 16), torch.empty(2, 16), torch.empty(2, 16)

    def launch() -> None:
        copy_rows[(2,)](x, middle, 16, 16, BLOCK=16)
        copy_rows[(1,)](middle, out, 16, 16, BLOCK=16)

    count = count_io_of_launch(launch)
    assert [launch.grid for launch in count.launches] == [(2, 1, 1), (1, 1, 1)]
    assert count.load_bytes == (2 + 1) * 64


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails: bool) -> None:
    builder = interpreter.interpreter_builder
    before = set(vars(builder)), interpreter.GridExecutor._init_args_hst
    with pytest.raises(ZeroDivisionError) if fails else counting_io(), counting_io():
        assert set(vars(builder)) != before[0]
        if fails:
            raise ZeroDivisionError
    assert (set(vars(builder)), interpreter.GridExecutor._init_args_hst) == before


def test_a_function_that_launches_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match="launched no Triton kernel"):
        count_io_of_launch(lambda: None)


def test_interpreter_off_is_an_error_that_says_what_to_set() -> None:
    program = (
        "from fusecade.testing import count_io_of_launch\n"
        "from fusecade.errors import UserError\n"
        "try: count_io_of_launch(lambda: None)\n"
        "except UserError as error: print(error)\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert "TRITON_INTERPRET=1" in done.stdout, done.stderr


def test_count_io_asks_the_kernel_for_its_launch() -> None:
    class Kernel:
        def launch_for_testing(self, x: torch.Tensor):
            out = torch.empty_like(x)
            return lambda: copy_rows[(x.shape[0],)](x, out, x.shape[1], x.stride(0), BLOCK=16)

    count = count_io(Kernel(), torch.randn(4, 16))
    assert isinstance(count, IOCount)
    assert count.load_bytes == 4 * 16 * 4


@triton.jit
def copy_triangle(x_ptr, out_ptr, BLOCK: tl.constexpr):
    """Program (head, row) copies row + 1 blocks of its own."""
    head, row = tl.program_id(0), tl.program_id(1)
    at = (head * tl.num_programs(1) + row) * tl.num_programs(1) * BLOCK + tl.arange(0, BLOCK)
    for i in range(row + 1):
        tl.store(out_ptr + at + i * BLOCK, tl.load(x_ptr + at + i * BLOCK))


def test_some_programs_stand_for_all() -> None:
    heads, rows = 8, 8
    x, out = torch.randn(heads * rows * rows * 16), torch.zeros(heads * rows * rows * 16)
    whole = count_io_of_launch(lambda: copy_triangle[(heads, rows)](x, out, BLOCK=16))
    some = count_io_of_launch(lambda: copy_triangle[lambda _: (heads, rows)](x, out, BLOCK=16), programs=2 * rows)
    assert whole.load_bytes == heads * rows * (rows + 1) // 2 * 64
    assert (some.load_bytes, some.store_bytes) == (whole.load_bytes, whole.store_bytes)
    assert [launch.programs_run for launch in (*whole.launches, *some.launches)] == [heads * rows, 2 * rows]
    assert some.launches[0].grid == (heads, rows, 1)
    assert len(some.launches[0].loads_by_program) == 2 * rows


def test_no_program_is_no_count() -> None:
    with pytest.raises(UserError, match="programs must be at least 1"):
        count_io_of_launch(lambda: None, programs=0)
