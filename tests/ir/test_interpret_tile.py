# ruff: noqa: E501  (one operation of the IR is one line)
"""The reference interpreter against torch: the `tile` dialect, with ragged edges everywhere."""

from __future__ import annotations

import math

import pytest
import torch

from fusecade.errors import InternalCompilerError, InvalidArgument
from fusecade.ir.interpret import run_kernel
from fusecade.ir.text import parse_module
from fusecade.ir.tile import KernelOp


def kernel(text: str) -> KernelOp:
    """A kernel whose types are written `T<[i], f32>` and `B<[n], [1], f32>`."""
    op = parse_module(
        text.replace(" T<", " !tile.tile<").replace("(T<", "(!tile.tile<").replace(" B<", " !tile.buffer<")
    )
    first = op.body.block.first_op
    assert isinstance(first, KernelOp)
    return first


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-12, atol=1e-12, equal_nan=True)


# Causal attention: the key loop stops where the mask does; the last query and key tiles are cut.
ATTENTION = kernel("""
tile.kernel @causal [h = 2 unit, i = n grid BI, j = n loop BJ, d = 8 whole] grid (h, i) params {BI = 16, BJ = 8}
    (%q : B<[2, n, 8], [n * 8, 8, 1], f16>, %k : B<[2, n, 8], [n * 8, 8, 1], f16>, %v : B<[2, n, 8], [n * 8, 8, 1], f16>)
    -> (%o : B<[2, n, 8], [n * 8, 8, 1], f16>) {
  %qt = tile.load %q<[h, i, d]> guard ["i"] : B<[2, n, 8], [n * 8, 8, 1], f16> -> T<[i, d], f16>
  %ninf = tile.fill 0xFF800000 : f32 -> T<[], f32>
  %m0 = tile.fill 0xFF800000 : f32 -> T<[i], f32>
  %l0 = tile.fill 0.0 : f32 -> T<[i], f32>
  %o0 = tile.fill 0.0 : f32 -> T<[i, d], f32>
  %zero = tile.fill 0 : i64 -> T<[], i64>
  %m, %l, %acc = tile.for j from 0 to min(n, i + BI) (%mi = %m0 : T<[i], f32>, %li = %l0 : T<[i], f32>, %oi = %o0 : T<[i, d], f32>) {
    %kt = tile.load %k<[h, j, d]> guard ["j"] : B<[2, n, 8], [n * 8, 8, 1], f16> -> T<[j, d], f16>
    %vt = tile.load %v<[h, j, d]> guard ["j"] : B<[2, n, 8], [n * 8, 8, 1], f16> -> T<[j, d], f16>
    %s0 = tile.dot %qt, %kt over "d" precision "ieee" : T<[i, d], f16>, T<[j, d], f16> -> T<[i, j], f32>
    %ij = tile.index<[i - j]> : T<[i, j], i64>
    %c = tile.map "ige"(%ij, %zero) : (T<[i, j], i64>, T<[], i64>) -> T<[i, j], i1>
    %s1 = tile.map "select"(%c, %s0, %ninf) : (T<[i, j], i1>, T<[i, j], f32>, T<[], f32>) -> T<[i, j], f32>
    %s = tile.pad %s1 over ["j"] with 0xFF800000 : f32 : T<[i, j], f32> -> T<[i, j], f32>
    %mt = tile.reduce "max" %s over "j" : (T<[i, j], f32>) -> T<[i], f32>
    %mn = tile.map "maximum"(%mi, %mt) : (T<[i], f32>, T<[i], f32>) -> T<[i], f32>
    %dm = tile.map "sub"(%mi, %mn) : (T<[i], f32>, T<[i], f32>) -> T<[i], f32>
    %r = tile.map "exp"(%dm) : (T<[i], f32>) -> T<[i], f32>
    %ds = tile.map "sub"(%s, %mn) : (T<[i, j], f32>, T<[i], f32>) -> T<[i, j], f32>
    %p = tile.map "exp"(%ds) : (T<[i, j], f32>) -> T<[i, j], f32>
    %ps = tile.reduce "sum" %p over "j" : (T<[i, j], f32>) -> T<[i], f32>
    %lr = tile.map "mul"(%li, %r) : (T<[i], f32>, T<[i], f32>) -> T<[i], f32>
    %ln = tile.map "add"(%lr, %ps) : (T<[i], f32>, T<[i], f32>) -> T<[i], f32>
    %or = tile.map "mul"(%oi, %r) : (T<[i, d], f32>, T<[i], f32>) -> T<[i, d], f32>
    %ph = tile.cast %p : T<[i, j], f32> -> T<[i, j], f16>
    %on = tile.dot %ph, %vt acc %or : T<[i, d], f32> over "j" precision "ieee" : T<[i, j], f16>, T<[j, d], f16> -> T<[i, d], f32>
    tile.yield %mn, %ln, %on : T<[i], f32>, T<[i], f32>, T<[i, d], f32>
  }
  %y = tile.map "div"(%acc, %l) : (T<[i, d], f32>, T<[i], f32>) -> T<[i, d], f32>
  tile.store %y, %o<[h, i, d]> guard ["i"] : T<[i, d], f32>, B<[2, n, 8], [n * 8, 8, 1], f16>
  tile.return
}
""")


@pytest.mark.parametrize("n", [0, 1, 8, 16, 37])
@pytest.mark.parametrize("params", [{}, {"BI": 1, "BJ": 1}, {"BI": 5, "BJ": 64}, {"BI": 64, "BJ": 3}])
def test_attention_with_ragged_edges(n: int, params: dict[str, int]):
    q, k, v = (torch.randn(2, n, 8, dtype=torch.float64) for _ in range(3))
    s = (q @ k.mT).masked_fill(~torch.ones(n, n).tril().bool(), -math.inf)
    (o,) = run_kernel(ATTENTION, [q, k, v], params=params)
    close(o, s.softmax(-1) @ v)


NEAREST = kernel("""
tile.kernel @nearest [i = n grid BI, j = m loop BJ, d = 3 whole] grid (i) params {BI = 4, BJ = 4}
    (%x : B<[n, 3], [3, 1], f32>, %c : B<[m, 3], [3, 1], f32>) -> (%best : B<[n], [1], f32>, %index : B<[n], [1], i64>) {
  %xt = tile.load %x<[i, d]> guard ["i"] : B<[n, 3], [3, 1], f32> -> T<[i, d], f32>
  %m0 = tile.fill 0x7F800000 : f32 -> T<[i], f32>
  %k0 = tile.fill 0 : i64 -> T<[i], i64>
  %m, %k = tile.for j from 0 to m (%mi = %m0 : T<[i], f32>, %ki = %k0 : T<[i], i64>) {
    %ct = tile.load %c<[j, d]> guard ["j"] : B<[m, 3], [3, 1], f32> -> T<[j, d], f32>
    %e = tile.map "sub"(%xt, %ct) : (T<[i, d], f32>, T<[j, d], f32>) -> T<[i, j, d], f32>
    %ee = tile.map "mul"(%e, %e) : (T<[i, j, d], f32>, T<[i, j, d], f32>) -> T<[i, j, d], f32>
    %s = tile.reduce "sum" %ee over "d" : (T<[i, j, d], f32>) -> T<[i, j], f32>
    %mt, %kt = tile.reduce "argmin" %s over "j" : (T<[i, j], f32>) -> (T<[i], f32>, T<[i], i64>)
    %b = tile.map "lt"(%mt, %mi) : (T<[i], f32>, T<[i], f32>) -> T<[i], i1>
    %mn = tile.map "select"(%b, %mt, %mi) : (T<[i], i1>, T<[i], f32>, T<[i], f32>) -> T<[i], f32>
    %kn = tile.map "select"(%b, %kt, %ki) : (T<[i], i1>, T<[i], i64>, T<[i], i64>) -> T<[i], i64>
    tile.yield %mn, %kn : T<[i], f32>, T<[i], i64>
  }
  tile.store %m, %best<[i]> guard ["i"] : T<[i], f32>, B<[n], [1], f32>
  tile.store %k, %index<[i]> guard ["i"] : T<[i], i64>, B<[n], [1], i64>
  tile.return
}
""")


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 4), (7, 9), (6, 17)])
def test_argmin_gives_the_first_index_in_the_rank(n: int, m: int):
    x, c = torch.randint(0, 3, (n, 3)).double(), torch.randint(0, 3, (m, 3)).double()
    distance = (x[:, None] - c).square().sum(-1)
    best, index = run_kernel(NEAREST, [x, c])
    close(best, distance.amin(1))
    assert torch.equal(index, distance.argmin(1))


# Split reduction: each part of the rank is summed into its own row of a workspace.
SPLIT = kernel("""
tile.kernel @split [p = 3 unit, j = n loop BJ] grid (p) params {BJ = 4, PART = 8} (%x : B<[n], [1], f32>) -> (%w : B<[3], [1], f32>) {
  %z = tile.fill 0.0 : f32 -> T<[], f32>
  %s = tile.for j from p * PART to min(n, p * PART + PART) (%a = %z : T<[], f32>) {
    %t = tile.load %x<[j]> guard ["j"] : B<[n], [1], f32> -> T<[j], f32>
    %r = tile.reduce "sum" %t over "j" : (T<[j], f32>) -> T<[], f32>
    %y = tile.map "add"(%a, %r) : (T<[], f32>, T<[], f32>) -> T<[], f32>
    tile.yield %y : T<[], f32>
  }
  tile.store %s, %w<[p]> guard [] : T<[], f32>, B<[3], [1], f32>
  tile.return
}
""")


def test_loop_bounds_may_depend_on_a_unit_rank_and_a_parameter():
    x = torch.randn(21).double()
    (w,) = run_kernel(SPLIT, [x])
    close(w, torch.stack([x[:8].sum(), x[8:16].sum(), x[16:].sum()]))
    with pytest.raises(InternalCompilerError, match=r"tile.for j starts at 8, no multiple of its tile 3"):
        run_kernel(SPLIT, [x], params={"BJ": 3})


# Each part adds up what lies between two numbers that are loaded.
BETWEEN = kernel("""
tile.kernel @between [p = 4 unit, j = n loop BJ] grid (p) params {BJ = 4} (%x : B<[n], [1], f32>, %f : B<[4], [1], i64>, %l : B<[4], [1], i64>) -> (%w : B<[4], [1], f32>) {
  %z = tile.fill 0.0 : f32 -> T<[], f32>
  %from = tile.load %f<[p]> guard [] : B<[4], [1], i64> -> T<[], i64>
  %to = tile.load %l<[p]> guard [] : B<[4], [1], i64> -> T<[], i64>
  %s = tile.for j from 4 to n within %from, %to (%a = %z : T<[], f32>) {
    %t = tile.load %x<[j]> guard ["j"] : B<[n], [1], f32> -> T<[j], f32>
    %r = tile.reduce "sum" %t over "j" : (T<[j], f32>) -> T<[], f32>
    %y = tile.map "add"(%a, %r) : (T<[], f32>, T<[], f32>) -> T<[], f32>
    tile.yield %y : T<[], f32>
  }
  tile.store %s, %w<[p]> guard [] : T<[], f32>, B<[4], [1], f32>
  tile.return
}
""")


def test_a_loop_keeps_within_loaded_numbers_by_whole_tiles():
    """Numbers beyond the rank count as its ends, and nothing lies between two in the wrong order."""
    x = torch.randn(21).double()
    first, last = torch.tensor([9, -5, 2**63 - 1, 12]), torch.tensor([14, 2**62, -1, 12])
    (w,) = run_kernel(BETWEEN, [x, first, last])
    close(w, torch.stack([x[8:16].sum(), x[4:].sum(), x[:0].sum(), x[:0].sum()]))


def shift(access: str, checked: str = "", store: str = "[i]") -> KernelOp:
    return kernel(f"""
tile.kernel @shift [i = n grid BI] grid (i) params {{BI = 4}} (%x : B<[n], [1], f32>) -> (%o : B<[n], [1], f32>) {{
  %t = tile.load %x<{access}> guard ["i"] {checked} : B<[n], [1], f32> -> T<[i], f32>
  tile.store %t, %o<{store}> guard ["i"] : T<[i], f32>, B<[n], [1], f32>
  tile.return
}}
""")


def test_a_checked_load_reads_zero_outside():
    x = torch.arange(1.0, 8.0)
    assert run_kernel(shift("[i - 2]", "checked"), [x])[0].tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert run_kernel(shift("[n - i - 1]"), [x])[0].tolist() == [7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("access", ["[i - 1]", "[i + 1]"])
def test_other_accesses_outside_are_errors(access: str):
    with pytest.raises(InternalCompilerError, match="reads outside its buffer; mark it checked"):
        run_kernel(shift(access), [torch.ones(7)])
    with pytest.raises(InternalCompilerError, match="writes outside its buffer"):
        run_kernel(shift("[i]", store=access), [torch.ones(7)])


def test_what_is_never_written_shows_unless_it_is_given():
    half = shift("[i]", store="[i floordiv 2]")
    x = torch.ones(4)
    assert [math.isnan(v) for v in run_kernel(half, [x])[0].tolist()] == [False, False, True, True]
    given = torch.full((4,), 5.0)
    assert run_kernel(half, [x], outputs=[given])[0].tolist() == [1, 1, 5, 5]
    assert given.tolist() == [5, 5, 5, 5]


def test_tensors_that_do_not_fit_are_refused():
    with pytest.raises(InvalidArgument, match="1 tensors are needed, 2 given"):
        run_kernel(shift("[i]"), [torch.ones(3), torch.ones(3)])


def test_a_rank_without_a_loop_around_it_is_an_error():
    op = kernel("""
tile.kernel @k [j = n loop BJ] grid () params {BJ = 4} (%x : B<[n], [1], f32>) -> (%o : B<[n], [1], f32>) {
  %t = tile.load %x<[j]> guard ["j"] : B<[n], [1], f32> -> T<[j], f32>
  tile.store %t, %o<[j]> guard ["j"] : T<[j], f32>, B<[n], [1], f32>
  tile.return
}
""")
    with pytest.raises(InternalCompilerError, match="the symbol j has no value here"):
        run_kernel(op, [torch.ones(3)])


CONDITIONAL = """
tile.kernel @k [i = n grid BI] grid (i) params {{BI = 4}} (%x : B<[n], [1], f32>) -> (%o : B<[n], [1], f32>) {{
  %t = tile.load %x<[i]> guard ["i"] : B<[n], [1], f32> -> T<[i], f32>
  %z = tile.fill 0.0 : f32 -> T<[], f32>
  %c = tile.map "gt"(%t, %z) : (T<[i], f32>, T<[], f32>) -> T<[i], i1>
  %r = tile.if {quantifier} %c : T<[i], i1> (%a = %t : T<[i], f32>) {{
    %y = tile.map "add"(%a, %t) : (T<[i], f32>, T<[i], f32>) -> T<[i], f32>
    tile.yield %y : T<[i], f32>
  }}
  tile.store %r, %o<[i]> guard ["i"] : T<[i], f32>, B<[n], [1], f32>
  tile.return
}}
"""


@pytest.mark.parametrize(("quantifier", "doubled"), [("any", [0, 1]), ("all", [1])])
def test_a_conditional_runs_or_passes_on_what_it_was_given(quantifier: str, doubled: list[int]):
    x = torch.tensor([-1.0, 2, 3, 4, 5, 6, 7, 8, -9, -1]).double()
    (o,) = run_kernel(kernel(CONDITIONAL.format(quantifier=quantifier)), [x])
    tile_of = torch.arange(10) // 4
    close(o, torch.where(torch.isin(tile_of, torch.tensor(doubled)), 2 * x, x))


# Rows see the columns up to their own.  Three steps a share: each tile's in as many pieces as shares end in it.
SHARED = kernel("""
tile.kernel @sums [i = 12 grid BI, j = 12 loop BJ, p = 3 unit] grid (i, p) params {BI = 4, BJ = 2, SHARE = 3}
    share p each SHARE of max(1, (BI + i) ceildiv BJ) (%x : B<[12, 12], [12, 1], f32>) -> (%o : B<[3, 12], [12, 1], f32>) {
  %z = tile.fill 0.0 : f32 -> T<[i], f32>
  %w = tile.for j from max(0, BJ * (SHARE * p - ahead_p)) to min(i + BI, BJ * (SHARE * p + SHARE - ahead_p)) (%a = %z : T<[i], f32>) {
    %t = tile.load %x<[i, j]> guard [] : B<[12, 12], [12, 1], f32> -> T<[i, j], f32>
    %r = tile.reduce "sum" %t over "j" : (T<[i, j], f32>) -> T<[i], f32>
    %b = tile.map "add"(%a, %r) : (T<[i], f32>, T<[i], f32>) -> T<[i], f32>
    tile.yield %b : T<[i], f32>
  }
  tile.store %w, %o<[p, i]> guard [] : T<[i], f32>, B<[3, 12], [12, 1], f32>
  tile.return
}
""")


def test_pieces_of_shares_are_each_step_of_a_tile_once():
    x = torch.randn(12, 12, dtype=torch.float64)
    (out,) = run_kernel(SHARED, [x])
    # The columns at which pieces end: of 2, 4 and 6 steps, with 0, 2 and 0 ahead.
    ends = {0: (4, 4, 4), 1: (2, 8, 8), 2: (6, 12, 12)}
    for tile, (first, second, third) in ends.items():
        rows = x[4 * tile : 4 * tile + 4]
        close(out[0, 4 * tile : 4 * tile + 4], rows[:, :first].sum(1))
        close(out[1, 4 * tile : 4 * tile + 4], rows[:, first:second].sum(1))
        close(out[2, 4 * tile : 4 * tile + 4], rows[:, second:third].sum(1))


def test_a_grid_with_too_few_pieces_is_a_mistake():
    with pytest.raises(InternalCompilerError, match="cut into 6 pieces, the grid has 3"):
        run_kernel(SHARED, [torch.randn(12, 12)], params={"SHARE": 1})
