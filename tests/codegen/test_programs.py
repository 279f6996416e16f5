"""Whole kernels, written by hand as tile programs: both printers against the reference and against plain torch."""

from __future__ import annotations

import pytest
import torch

from fusecade.passes import census
from fusecade.testing import count_io_of_launch

SMALL = {"BI": 16, "BJ": 16}


def attention(q, k, v, bias: torch.Tensor | float = 0.0):
    scores = q.double() @ k.double().transpose(-1, -2) / 8 + bias
    return torch.softmax(scores, -1) @ v.double()


def attention_inputs(random_tensor, n, m, dtype, nb=2):
    return [random_tensor(nb, x, 64, dtype=dtype) for x in (n, m, m)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["f16", "f32"])
@pytest.mark.parametrize(("n", "m"), [(32, 48), (19, 37), (1, 1), (5, 0), (0, 7)])
def test_attention(runner, random_tensor, n, m, dtype):
    kernel = runner.kernel("attention", SMALL, replaced={"f16": "f32"} if dtype == torch.float32 else {})
    q, k, v = attention_inputs(random_tensor, n, m, dtype)
    [out] = runner.check(kernel, [q, k, v], {"nb": 2, "n": n, "m": m})
    if m:  # of no keys, this program makes 0 / 0
        torch.testing.assert_close(out, attention(q, k, v), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(32, 32), (19, 37), (37, 19)])
def test_causal_attention(runner, random_tensor, n, m):
    q, k, v = attention_inputs(random_tensor, n, m, torch.float16)
    [out] = runner.check(runner.kernel("causal", SMALL), [q, k, v], {"nb": 2, "n": n, "m": m})
    bias = torch.zeros(n, m).masked_fill(torch.ones(n, m).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(out, attention(q, k, v, bias), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(64, 64), (50, 37), (37, 70)])
@pytest.mark.parametrize("split", [False, True], ids=["causal", "split"])
def test_a_loop_with_bounds_moves_what_the_cost_model_says(runner, random_tensor, n, m, split):
    """To the byte, in Triton's interpreter: a loop that ends with the program's rows, one that a program has a part of."""
    q, k, v = attention_inputs(random_tensor, n, m, torch.float16)
    part = {"b = nb unit": "b = nb unit, p = 2 unit", "(b, i)": "(p, b, i)", "from 0 to min(m, i + BI)": (
        f"from p * {-(-m // 64) * 32} to min(m, (p + 1) * {-(-m // 64) * 32})")}  # fmt: skip
    kernel = runner.kernel("causal", SMALL, part if split else None)
    sizes = {"nb": 2, "n": n, "m": m}
    moved = count_io_of_launch(lambda: runner.triton(kernel, [q, k, v], sizes))
    work = census.work(kernel, None, sizes)
    assert (moved.load_bytes, moved.store_bytes) == (work.load_bytes, work.store_bytes)
    assert moved.loads_by_pointer_arg == {f"{t.buffer}_ptr": t.bytes for t in work.loads}


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "broadcast"])
def test_attention_with_a_mask_of_any_strides(runner, random_tensor, layout):
    n, m = 19, 37
    q, k, v = attention_inputs(random_tensor, n, m, torch.float16)
    mask = {
        "contiguous": lambda: random_tensor(2, n, m),
        "transposed": lambda: random_tensor(m, 3, n, 5)[:, :2, :, 2].permute(1, 2, 0),
        "broadcast": lambda: random_tensor(2, 1, m).expand(2, n, m),
    }[layout]()
    if layout != "broadcast":
        mask[0, 3] = -torch.inf  # a row that sees nothing: NaN
        mask[1, 4, :20] = -torch.inf  # a row that sees nothing in its first tile
    sizes = {"nb": 2, "n": n, "m": m, **dict(zip(("s0", "s1", "s2"), mask.stride(), strict=True))}
    [out] = runner.check(runner.kernel("biased", SMALL), [q, k, v, mask], sizes)
    torch.testing.assert_close(out, attention(q, k, v, mask.double()), equal_nan=True, rtol=1e-9, atol=1e-9)
    assert bool(out.isnan().any()) == (layout != "broadcast")


@pytest.mark.parametrize(("n", "m", "bj"), [(32, 64, 32), (19, 37, 16), (7, 300, 256), (3, 0, 16)])
def test_kmeans(runner, random_tensor, n, m, bj):
    x, c = random_tensor(n, 64), random_tensor(m, 64)
    if m > 20:
        c[20] = c[11]  # a tie: the first wins
        x[0] = c[11] + 1e-3
    c2 = (c * c).sum(1)
    kernel = runner.kernel("kmeans", {"BI": 16, "BJ": bj})
    [out] = runner.check(kernel, [x, c, c2], {"n": n, "m": m})
    if m:
        assert torch.equal(out, (c2.double() - 2 * x.double() @ c.double().T).argmin(1))


def test_kmeans_takes_the_first_nan(runner, random_tensor):
    x, c = random_tensor(5, 64), random_tensor(40, 64)
    c2 = (c * c).sum(1)
    c2[[18, 30]] = torch.nan
    [out] = runner.torch(runner.kernel("kmeans", {"BI": 16, "BJ": 16}), [x, c, c2], {"n": 5, "m": 40})
    assert out.tolist() == [18] * 5
    [out] = runner.triton(runner.kernel("kmeans", {"BI": 16, "BJ": 16}), [x, c, c2], {"n": 5, "m": 40})
    assert out.tolist() == [18] * 5


@pytest.mark.parametrize(("nb", "ns", "nv"), [(2, 16, 32), (3, 9, 21)])
def test_lm_head_max(runner, random_tensor, nb, ns, nv):
    h, e = random_tensor(nb, ns, 256), random_tensor(nv, 256)
    kernel = runner.kernel("lm_head_max", {"BS": 16, "BV": 16})
    [out] = runner.check(kernel, [h, e], {"nb": nb, "ns": ns, "nv": nv})
    expected = torch.log1p(torch.relu(h.double() @ e.double().T)).amax(1)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", ["rows", "columns", "gaps", "one row for all"])
@pytest.mark.parametrize(("n", "m"), [(8, 32), (5, 7), (6, 1), (0, 4), (4, 0)])
def test_softmax_of_any_matrix(runner, random_tensor, n, m, layout):
    x = {
        "rows": lambda: random_tensor(n, m, dtype=torch.float16),
        "columns": lambda: random_tensor(m, n, dtype=torch.float16).T,
        "gaps": lambda: random_tensor(n, 3, m, 2, dtype=torch.float16)[:, 1, :, 1],
        "one row for all": lambda: random_tensor(1, m, dtype=torch.float16).expand(n, m),
    }[layout]()
    if layout == "rows" and n and m:
        x[0] = -torch.inf
        x[n - 1, m - 1] = torch.nan
    sizes = {"n": n, "m": m, "x0": x.stride(0), "x1": x.stride(1)}
    [out] = runner.check(runner.kernel("softmax"), [x], sizes)
    torch.testing.assert_close(out, x.double().softmax(1), equal_nan=True, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [8, 7])  # tiles of four rows
@pytest.mark.parametrize(
    ("access", "flipped"), [("n - 1 - i, j", [0]), ("i, m - 1 - j", [1]), ("n - 1 - i, m - 1 - j", [0, 1])]
)
def test_softmax_stored_backwards(runner, random_tensor, n, access, flipped):
    x = random_tensor(n, 37, dtype=torch.float16)
    kernel = runner.kernel("softmax", replaced={"%o<[i, j]>": f"%o<[{access}]>"})
    [out] = runner.check(kernel, [x], {"n": n, "m": 37, "x0": 37, "x1": 1})
    torch.testing.assert_close(out, x.double().softmax(1).flip(flipped), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n", "p", "q"), [(32, 16, 64), (21, 19, 45)])
def test_rms_norm_into_a_gemm(runner, random_tensor, n, p, q):
    x, w = random_tensor(n, q, dtype=torch.float16), random_tensor(p, q, dtype=torch.float16)
    inverse = torch.tensor(1.0 / q)
    kernel = runner.kernel("rms_norm_gemm", {"BI": 16, "BK": 16, "BO": 16})
    [out] = runner.check(kernel, [x, w, inverse], {"n": n, "p": p, "q": q})
    y = x.double() * (x.double().square().mean(1, keepdim=True) + 1e-5).rsqrt()
    torch.testing.assert_close(out, y @ w.double().T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("printer", ["torch", "triton"])
def test_sizes_that_are_bound_give_the_same(runner, random_tensor, printer):
    from fusecade.codegen.bind import bind

    q, k, v = attention_inputs(random_tensor, 32, 48, torch.float16)
    sizes = {"nb": 2, "n": 32, "m": 48}
    kernel = runner.kernel("attention", SMALL)
    bound = bind(kernel, sizes=sizes)
    dynamic = getattr(runner, printer)(kernel, [q, k, v], sizes)
    static = getattr(runner, printer)(bound, [q, k, v], {})
    assert torch.equal(dynamic[0], static[0])


def test_wide_sizes_give_the_same(runner, random_tensor):
    q, k, v = attention_inputs(random_tensor, 19, 37, torch.float16)
    sizes = {"nb": 2, "n": 19, "m": 37}
    kernel = runner.kernel("causal", SMALL)
    assert torch.equal(
        runner.triton(kernel, [q, k, v], sizes)[0], runner.triton(kernel, [q, k, v], sizes, wide=True)[0]
    )


def test_kmeans_over_centroids_held_whole(runner, random_tensor):
    x, c = random_tensor(37, 64), random_tensor(1024, 64)
    c[700] = c[11]  # a tie: the first wins
    x[0] = c[11] + 1e-3
    [out] = runner.check(runner.kernel("kmeans_whole", {"BI": 16}), [x, c, (c * c).sum(1)], {"n": 37})
    assert out[0] == 11
