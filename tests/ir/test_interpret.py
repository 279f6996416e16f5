# ruff: noqa: E501, E741  (one operation of the IR is one line; l is the sum of a softmax)
"""The reference interpreter against torch: the `cascade` dialect."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusecade.errors import InternalCompilerError, InvalidArgument
from fusecade.ir import interpret
from fusecade.ir.cascade import ProgramOp
from fusecade.ir.interpret import run_program
from fusecade.ir.text import parse_module

INF, NAN = math.inf, math.nan


def program(arguments: str, operations: str, results: str) -> ProgramOp:
    """A program whose types are written `T<[n, 64], f32>`; `results` is `%y : T<[n], f32>, ...`."""
    types = ", ".join(part.split(" : ")[1] for part in results.split("; "))
    names = ", ".join(part.split(" : ")[0] for part in results.split("; "))
    text = f"""cascade.program @p({arguments}) -> ({types}) {{
      {operations}
      cascade.return {names} : {types}
    }}"""
    op = parse_module(text.replace("T<", "!cascade.tensor<")).body.block.first_op
    assert isinstance(op, ProgramOp)
    return op


def reduction(combiner: str, element: str, result: str | None = None) -> ProgramOp:
    result = result or element
    return program(
        f"%x : T<[n, m, k], {element}>",
        f"""%y = cascade.einsum [i = n, j = m, l = k] ins(%x[i, j, l] : T<[n, m, k], {element}>) outs({combiner} [j] : T<[m], {result}>) {{
          ^bb0(%a : {element}):
            cascade.yield %a : {element}
        }}""",
        f"%y : T<[m], {result}>",
    )


GEMM = program(
    "%x : T<[n, k], f16>, %w : T<[m, k], f16>",
    """%y = cascade.einsum [i = n, j = m, l = k] ins(%x[i, l] : T<[n, k], f16>, %w[j, l] : T<[m, k], f16>) outs(sum [i, j] : T<[n, m], f16>) {
      ^bb0(%a : f32, %b : f32):
        %c = arith.constant 0.5 : f32
        %p = arith.mulf %a, %b : f32
        %s = arith.mulf %p, %c : f32
        cascade.yield %s : f32
    }""",
    "%y : T<[n, m], f16>",
)

SOFTMAX_STATE = """%m, %l, %o = cascade.online [i = n, j = m, d = k] ins(%s[i, j] : T<[n, m], f32>, %v[j, d] : T<[m, k], f32>) outs(max [i] : T<[n], f32>, sum [i] : T<[n], f32>, sum [i, d] : T<[n, k], f32>) over j gauges [0] step {
      ^bb0(%x : f32, %w : f32, %g : f32):
        %q = arith.subf %x, %g : f32
        %e = math.exp %q : f32
        %p = arith.mulf %e, %w : f32
        cascade.yield %x, %e, %p : f32, f32, f32
    } transport {
      ^bb0(%old : f32, %new : f32, %a : f32, %b : f32):
        %q = arith.subf %old, %new : f32
        %e = math.exp %q : f32
        %c = arith.mulf %a, %e : f32
        %d = arith.mulf %b, %e : f32
        cascade.yield %c, %d : f32, f32
    }"""
SOFTMAX = program(
    "%s : T<[n, m], f32>, %v : T<[m, k], f32>",
    SOFTMAX_STATE,
    "%m : T<[n], f32>; %l : T<[n], f32>; %o : T<[n, k], f32>",
)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-12, atol=1e-12, equal_nan=True)


# --- einsum -------------------------------------------------------------------------------------------------------

TORCH = {
    "sum": lambda x: x.sum((0, 2)),
    "prod": lambda x: x.prod(2).prod(0),
    "max": lambda x: x.amax((0, 2)),
    "min": lambda x: x.amin((0, 2)),
    "any": lambda x: x.any(2).any(0),
    "all": lambda x: x.all(2).all(0),
}


@pytest.mark.parametrize("combiner", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("special", [None, NAN, INF, -INF])
def test_reductions_of_floats(combiner: str, special: float | None):
    x = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    if special is not None:
        x[1, 2, 0] = special
    close(run_program(reduction(combiner, "f32"), [x])[0], TORCH[combiner](x))


@pytest.mark.parametrize("combiner", ["sum", "prod", "max", "min"])
def test_reductions_of_integers(combiner: str):
    x = torch.randint(-5, 5, (4, 5, 3), dtype=torch.int32, generator=torch.manual_seed(0))
    (y,) = run_program(reduction(combiner, "i64"), [x])
    assert y.dtype == torch.int64
    assert torch.equal(y, TORCH[combiner](x).long())


@pytest.mark.parametrize("combiner", ["any", "all"])
def test_reductions_of_booleans(combiner: str):
    x = torch.rand(4, 5, 3, generator=torch.manual_seed(0)) > (0.9 if combiner == "any" else 0.1)
    (y,) = run_program(reduction(combiner, "i1"), [x])
    assert torch.equal(y, TORCH[combiner](x))


@pytest.mark.parametrize(("combiner", "identity"), [("sum", 0.0), ("prod", 1.0), ("max", -INF), ("min", INF)])
@pytest.mark.parametrize("shape", [(0, 5, 3), (4, 5, 0), (4, 0, 3)])
def test_no_elements_give_the_identity(combiner: str, identity: float, shape: tuple[int, ...]):
    (y,) = run_program(reduction(combiner, "f32"), [torch.zeros(shape)])
    assert y.tolist() == [identity] * shape[1]


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_the_first_extreme_wins_and_a_nan_is_extreme(name: str):
    op = program(
        "%x : T<[n, m], f32>",
        f"""%v, %y = cascade.einsum [i = n, j = m] ins(%x[i, j] : T<[n, m], f32>) outs({name[3:]} [i] : T<[n], f32>, {name} [i] : T<[n], i64>) {{
          ^bb0(%a : f32):
            cascade.yield %a, %a : f32, f32
        }}""",
        "%v : T<[n], f32>; %y : T<[n], i64>",
    )
    x = torch.tensor([[1, 3, 3, 1], [1, NAN, 9, NAN], [-INF, INF, INF, -INF], [2, 2, 2, 2]])
    value, index = run_program(op, [x])
    assert torch.equal(index, getattr(torch, name)(x, dim=1))
    close(value, getattr(torch, "a" + name[3:])(x, dim=1))
    assert run_program(op, [torch.zeros(2, 0)])[1].tolist() == [0, 0]


@pytest.mark.parametrize("special", [None, NAN, INF])
def test_a_contraction(special: float | None):
    x, w = torch.randn(7, 5).double(), torch.randn(6, 5).double()
    if special is not None:
        x[2, 3] = special
        w[1, 3] = 0.0
    close(run_program(GEMM, [x, w])[0], x @ w.T * 0.5)


def test_a_big_contraction_does_not_hold_its_rank_space():
    x, w = torch.randn(1024, 512), torch.randn(2048, 512)
    start = time.perf_counter()
    close(run_program(GEMM, [x, w])[0], x.double() @ w.double().T * 0.5)
    assert time.perf_counter() - start < 5


def test_reductions_in_halves_are_the_same(monkeypatch: pytest.MonkeyPatch):
    op = program(
        "%x : T<[n, k], f32>, %w : T<[m, k], f32>",
        """%y, %z = cascade.einsum [i = n, j = m, l = k] ins(%x[i, l - 1] : T<[n, k], f32>, %w[j, l] : T<[m, k], f32>) outs(sum [j, i] : T<[m, n], f32>, max [i, j] : T<[n, m], f32>) {
          ^bb0(%a : f32, %b : f32):
            %d = arith.subf %a, %b : f32
            %s = arith.mulf %d, %d : f32
            %t = math.absf %d : f32
            cascade.yield %s, %t : f32, f32
        }""",
        "%y : T<[m, n], f32>; %z : T<[n, m], f32>",
    )
    x, w = torch.randn(7, 5), torch.randn(6, 5)
    whole = run_program(op, [x, w])
    monkeypatch.setattr(interpret.regions, "BIG", 8)
    for a, b in zip(run_program(op, [x, w]), whole, strict=True):
        close(a, b)
    shifted = torch.nn.functional.pad(x, (1, 0))[:, :5].double()
    close(whole[0], (shifted[None] - w.double()[:, None]).square().sum(-1))


def test_a_rank_that_nothing_depends_on_still_counts():
    op = program(
        "%x : T<[n], f32>",
        """%y = cascade.einsum [i = n, j = 3, d = 2] ins(%x[i] : T<[n], f32>) outs(sum [i, d] : T<[n, 2], f32>) {
          ^bb0(%a : f32):
            %p = arith.mulf %a, %a : f32
            cascade.yield %p : f32
        }""",
        "%y : T<[n, 2], f32>",
    )
    close(run_program(op, [torch.tensor([1.0, 2.0])])[0], torch.tensor([[3.0, 3.0], [12.0, 12.0]]))


def read(shape: str, ranks: str, access: str, result: str) -> ProgramOp:
    names = ", ".join(part.split(" = ")[0] for part in ranks.split(", "))
    return program(
        f"%x : T<{shape}, f32>",
        f"""%y = cascade.einsum [{ranks}] ins(%x[{access}] : T<{shape}, f32>) outs(map [{names}] : T<{result}, f32>) {{
          ^bb0(%a : f32):
            cascade.yield %a : f32
        }}""",
        f"%y : T<{result}, f32>",
    )


@pytest.mark.parametrize(
    ("ranks", "access", "result", "expected"),
    [
        ("i = 3, j = 4", "i, j", "[3, 4]", lambda x: x),
        ("j = 4, i = 3", "i, j", "[4, 3]", lambda x: x.T),
        ("i = 2, j = 2", "i, j", "[2, 2]", lambda x: x[:2, :2]),
        ("i = 3", "i, i", "[3]", lambda x: x[:, :3].diag()),
        ("i = 3", "i, 2", "[3]", lambda x: x[:, 2]),
        ("i = 3", "2 - i, 1", "[3]", lambda x: x.flip(0)[:, 1]),
        ("a = 2, b = 2", "0, a * 2 + b", "[2, 2]", lambda x: x[0].view(2, 2)),
        ("a = 12", "a floordiv 4, a mod 4", "[12]", lambda x: x.flatten()),
        ("i = 3, j = 6", "i, j - 1", "[3, 6]", lambda x: torch.nn.functional.pad(x, (1, 1))),
        ("i = 5, j = 4", "i, j", "[5, 4]", lambda x: torch.nn.functional.pad(x, (0, 0, 0, 2))),
        ("i = 2, j = 4", "i + 7, j", "[2, 4]", lambda x: torch.zeros(2, 4)),
        (
            "i = 3, w = 3",
            "min(i + w, 2), max(0, i - 1)",
            "[3, 3]",
            lambda x: x[[0, 1, 2, 1, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1]].view(3, 3),
        ),
        ("i = 0, j = 4", "i, j", "[0, 4]", lambda x: x[:0]),
        ("i = 3, c = 2", "i, i ceildiv 2", "[3, 2]", lambda x: x[[0, 1, 2], [0, 1, 1]][:, None].expand(3, 2)),
    ],
)
def test_accesses(ranks: str, access: str, result: str, expected):
    x = torch.arange(12.0).view(3, 4) + 1
    (y,) = run_program(read("[3, 4]", ranks, access, result), [x])
    close(y, expected(x))


def test_reads_of_an_empty_tensor_are_zero():
    (y,) = run_program(read("[n, 2]", "i = 3, j = 2", "i, j", "[3, 2]"), [torch.zeros(0, 2)])
    assert y.tolist() == [[0.0, 0.0]] * 3


def test_index_values_make_masks():
    op = program(
        "%x : T<[n, n], f32>",
        """%y = cascade.einsum [i = n, j = n] ins(%x[i, j] : T<[n, n], f32>) outs(map [i, j] : T<[n, n], f32>) {
          ^bb0(%a : f32):
            %d = cascade.index i - j : i64
            %n = cascade.index n : i64
            %z = arith.constant 0 : i64
            %ninf = arith.constant 0xFF800000 : f32
            %c = arith.cmpi sge, %d, %z : i64
            %s = arith.select %c, %a, %ninf : f32
            %f = arith.sitofp %n : i64 to f32
            %r = arith.addf %s, %f : f32
            cascade.yield %r : f32
        }""",
        "%y : T<[n, n], f32>",
    )
    x = torch.randn(4, 4).double()
    close(run_program(op, [x])[0], x.masked_fill(~torch.ones(4, 4).tril().bool(), -INF) + 4)


# --- online -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 1, 3, 11, 100, [2, 5]])
@pytest.mark.parametrize("merge", ["fold", "sequential", "tree"])
def test_online_softmax(chunk, merge):
    s, v = torch.randn(5, 11).double() * 4, torch.randn(11, 3).double()
    s[1, :6] = -INF  # a masked prefix
    s[2, 6:] = -INF
    s[3] = -INF  # a masked row
    m, l, o = run_program(SOFTMAX, [s, v], chunk=chunk, merge=merge)
    close(m, s.amax(1))
    rows = [0, 1, 2, 4]
    close(o[rows] / l[rows, None], s[rows].softmax(1) @ v)
    assert m[3] == -INF
    assert l[3] == 0
    assert o[3].tolist() == [0.0] * 3


def test_online_softmax_with_infinities_and_nan_is_what_torch_gives():
    s, v = torch.randn(3, 6).double(), torch.ones(6, 1).double()
    s[1, 2] = NAN
    s[2, 3] = INF
    _, l, o = run_program(SOFTMAX, [s, v], chunk=2)
    close(o / l[:, None], s.softmax(1) @ v)


@pytest.mark.parametrize("merge", ["fold", "sequential", "tree"])
def test_online_over_nothing_is_the_identity(merge):
    m, l, o = run_program(SOFTMAX, [torch.zeros(2, 0), torch.zeros(0, 3)], merge=merge)
    assert m.tolist() == [-INF, -INF]
    assert l.tolist() == [0.0, 0.0]
    assert o.tolist() == [[0.0] * 3] * 2


ELEMENT = st.one_of(st.floats(-50, 50), st.just(-INF))


@given(
    st.integers(1, 9).flatmap(lambda m: st.lists(st.lists(ELEMENT, min_size=m, max_size=m), min_size=1, max_size=3)),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from(["fold", "sequential", "tree"]),
)
def test_any_chunks_and_any_merge_give_the_one_chunk_result(rows: list[list[float]], chunk: list[int], merge):
    s = torch.tensor(rows, dtype=torch.float64)
    v = torch.arange(2.0 * s.shape[1]).view(-1, 2)
    whole = run_program(SOFTMAX, [s, v], chunk=s.shape[1])
    for a, b in zip(run_program(SOFTMAX, [s, v], chunk=chunk, merge=merge), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_online_in_halves_is_the_same(monkeypatch: pytest.MonkeyPatch):
    s, v = torch.randn(5, 11), torch.randn(11, 3)
    v[2, 0] = INF  # no contraction by torch.einsum
    whole = run_program(SOFTMAX, [s, v], chunk=4)
    monkeypatch.setattr(interpret.regions, "BIG", 4)
    for a, b in zip(run_program(SOFTMAX, [s, v], chunk=4), whole, strict=True):
        close(a, b)


@pytest.mark.parametrize("merge", ["fold", "sequential", "tree"])
def test_a_sum_may_be_a_gauge(merge):
    """Σ (x - c)² with c the running sum: the transport is the binomial triangle."""
    op = program(
        "%x : T<[n], f32>",
        """%c, %k, %a, %b = cascade.online [j = n] ins(%x[j] : T<[n], f32>) outs(sum [] : T<[], f32>, sum [] : T<[], f32>, sum [] : T<[], f32>, sum [] : T<[], f32>) over j gauges [0] step {
          ^bb0(%x0 : f32, %g : f32):
            %one = arith.constant 1.0 : f32
            %d = arith.subf %x0, %g : f32
            %s = arith.mulf %d, %d : f32
            cascade.yield %x0, %one, %d, %s : f32, f32, f32, f32
        } transport {
          ^bb0(%old : f32, %new : f32, %k0 : f32, %a0 : f32, %b0 : f32):
            %two = arith.constant 2.0 : f32
            %h = arith.subf %old, %new : f32
            %kh = arith.mulf %k0, %h : f32
            %a1 = arith.addf %a0, %kh : f32
            %ah = arith.mulf %a0, %h : f32
            %ah2 = arith.mulf %ah, %two : f32
            %khh = arith.mulf %kh, %h : f32
            %b1 = arith.addf %b0, %ah2 : f32
            %b2 = arith.addf %b1, %khh : f32
            cascade.yield %k0, %a1, %b2 : f32, f32, f32
        }""",
        "%c : T<[], f32>; %k : T<[], f32>; %a : T<[], f32>; %b : T<[], f32>",
    )
    x = torch.randn(9).double()
    c, k, a, b = run_program(op, [x], chunk=2, merge=merge)
    close(c, x.sum())
    assert k == 9
    close(a, (x - x.sum()).sum())
    close(b, (x - x.sum()).square().sum())


def test_a_gauge_that_needs_a_gauge_is_an_error():
    op = program(
        "%x : T<[n], f32>",
        """%m, %l = cascade.online [j = n] ins(%x[j] : T<[n], f32>) outs(max [] : T<[], f32>, sum [] : T<[], f32>) over j gauges [0] step {
          ^bb0(%a : f32, %g : f32):
            %d = arith.subf %a, %g : f32
            cascade.yield %d, %d : f32, f32
        } transport {
          ^bb0(%old : f32, %new : f32, %l0 : f32):
            cascade.yield %l0 : f32
        }""",
        "%m : T<[], f32>",
    )
    with pytest.raises(InternalCompilerError, match="a gauge that needs gauges"):
        run_program(op, [torch.randn(3)])


def test_a_contribution_over_a_foreign_rank_is_an_error():
    op = program(
        "%x : T<[n, k], f32>",
        """%m = cascade.online [j = n, d = k] ins(%x[j, d] : T<[n, k], f32>) outs(sum [] : T<[], f32>) over j gauges [] step {
          ^bb0(%a : f32):
            cascade.yield %a : f32
        } transport {
          ^bb0(%s : f32):
            cascade.yield %s : f32
        }""",
        "%m : T<[], f32>",
    )
    with pytest.raises(InternalCompilerError, match=r"over \['j', 'd'\] is needed over \['j'\]"):
        run_program(op, [torch.randn(3, 2)])


# --- gather, extern, kernel ---------------------------------------------------------------------------------------


def scan(combiner: str, flags: str = "", element: str = "f64") -> ProgramOp:
    return program(
        f"%x : T<[n, m], {element}>",
        f"""%y = cascade.scan [i = n, j = m] ins(%x[i, j] : T<[n, m], {element}>) outs({combiner} [j, i] : T<[m, n], {element}>) over j {flags} {{
          ^bb0(%a : {element}):
            cascade.yield %a : {element}
        }}""",
        f"%y : T<[m, n], {element}>",
    )


SCANNED = {
    "sum": (lambda x: x.cumsum(1), 0.0),
    "prod": (lambda x: x.cumprod(1), 1.0),
    "max": (lambda x: x.cummax(1)[0], -INF),
    "min": (lambda x: x.cummin(1)[0], INF),
}


@pytest.mark.parametrize("combiner", SCANNED)
@pytest.mark.parametrize("shape", [(3, 5), (2, 1), (0, 4), (3, 0)])
def test_scan(combiner: str, shape: tuple[int, int]):
    call, start = SCANNED[combiner]
    x = torch.randn(shape).double()
    close(run_program(scan(combiner), [x])[0], call(x).T)
    close(run_program(scan(combiner, "reversed"), [x])[0], call(x.flip(1)).flip(1).T)
    before = torch.cat([torch.full((shape[0], 1), start).double(), call(x)], 1)[:, : shape[1]]
    close(run_program(scan(combiner, "exclusive"), [x])[0], before.T)
    after = torch.cat([torch.full((shape[0], 1), start).double(), call(x.flip(1))], 1)[:, : shape[1]].flip(1)
    close(run_program(scan(combiner, "exclusive reversed"), [x])[0], after.T)


def test_scan_of_truths():
    x = torch.tensor([[False, True, False], [True, False, True]])
    assert run_program(scan("any", element="i1"), [x])[0].T.tolist() == [[False, True, True], [True] * 3]
    assert run_program(scan("all", element="i1"), [x])[0].T.tolist() == [[False] * 3, [True, False, False]]
    assert run_program(scan("all", "exclusive", "i1"), [x])[0].T.tolist() == [[True, False, False], [True, True, False]]


@pytest.mark.parametrize("flags", ["", "exclusive", "reversed"])
def test_affine_recurrence(flags: str):
    """h = a h' + b with a decay of each row, from 0; the decayed past and the running sum of the inputs in one scan."""
    op = program(
        "%a : T<[n], f64>, %b : T<[n, m], f64>",
        f"""%h, %s = cascade.scan [i = n, t = m] ins(%a[i] : T<[n], f64>, %b[i, t] : T<[n, m], f64>) outs(linear [i, t] : T<[n, m], f64>, sum [i, t] : T<[n, m], f64>) over t {flags} {{
          ^bb0(%x : f64, %y : f64):
            cascade.yield %x, %y, %y : f64, f64, f64
        }}""",
        "%h : T<[n, m], f64>; %s : T<[n, m], f64>",
    )
    a, b = torch.randn(3).double(), torch.randn(3, 6).double()
    given = b.flip(1) if flags == "reversed" else b
    states = [torch.zeros(3).double()]
    for t in range(6):
        states.append(a * states[-1] + given[:, t])
    wanted = torch.stack(states[:-1] if flags == "exclusive" else states[1:], 1)
    close(run_program(op, [a, b])[0], wanted.flip(1) if flags == "reversed" else wanted)
    if not flags:
        close(run_program(op, [a, b])[1], b.cumsum(1))


def scatter(combiner: str, init: str = "", element: str = "f64") -> ProgramOp:
    return program(
        f"%x : T<[n, m], {element}>, %t : T<[n], i64>, %z : T<[v, m], {element}>",
        f"""%y = cascade.scatter [b = n, d = m] ins(%x[b, d] : T<[n, m], {element}>) at(%t[b] : T<[n], i64>) outs({combiner} [at0, d] : T<[v, m], {element}>) {init} {{
          ^bb0(%a : {element}):
            cascade.yield %a : {element}
        }}""",
        f"%y : T<[v, m], {element}>",
    )


@pytest.mark.parametrize("combiner", ["sum", "prod", "max", "min"])
def test_scatter(combiner: str):
    x, t, z = torch.randn(5, 3).double(), torch.tensor([0, 3, -1, 3, 0]), torch.randn(4, 3).double()
    name = {"max": "amax", "min": "amin"}.get(combiner, combiner)
    at = (t % 4)[:, None].expand(5, 3)
    close(run_program(scatter(combiner, "init %z"), [x, t, z])[0], z.scatter_reduce(0, at, x, name))
    start = torch.full((4, 3), {"sum": 0.0, "prod": 1.0, "max": -INF, "min": INF}[combiner]).double()
    close(run_program(scatter(combiner), [x, t, z])[0], start.scatter_reduce(0, at, x, name))
    assert run_program(scatter(combiner), [x[:0], t[:0], z])[0].tolist() == start.tolist()


def test_scatter_of_truths():
    x, t = torch.tensor([[True], [False], [False]]), torch.tensor([0, 0, 1])
    z = torch.zeros(3, 1, dtype=torch.bool)
    assert run_program(scatter("any", element="i1"), [x, t, z])[0].flatten().tolist() == [True, False, False]
    assert run_program(scatter("all", element="i1"), [x, t, z])[0].flatten().tolist() == [False, False, True]


def test_every_point_of_a_scatter_counts():
    op = program(
        "%t : T<[n], i64>, %s : T<[n], i64>, %z : T<[v, u], i64>",
        """%y = cascade.scatter [b = n, c = 3] ins() at(%t[b] : T<[n], i64>, %s[b] : T<[n], i64>) outs(sum [at0, at1 + 1] : T<[v, u], i64>) init %z {
            %one = arith.constant 1 : i64
            cascade.yield %one : i64
        }""",
        "%y : T<[v, u], i64>",
    )
    t, s, z = torch.tensor([1, 1]), torch.tensor([0, 0]), torch.zeros(2, 2, dtype=torch.int64)
    assert run_program(op, [t, s, z])[0].tolist() == [[0, 0], [0, 6]]


@pytest.mark.parametrize("index", [4, -5])
def test_a_scatter_stays_inside(index: int):
    x, t, z = torch.ones(1, 2).double(), torch.tensor([index]), torch.zeros(4, 2).double()
    with pytest.raises(InvalidArgument, match=r"cascade.scatter writes at .* in dimension 0, which has 4"):
        run_program(scatter("sum"), [x, t, z])


def test_gather():
    op = program(
        "%w : T<[v, 4], f32>, %t : T<[n], i64>",
        "%y = cascade.gather [b = n, d = 3] from %w[at0, d + 1] : T<[v, 4], f32> at(%t[b] : T<[n], i64>)",
        "%y : T<[n, 3], f32>",
    )
    w, t = torch.randn(5, 4).double(), torch.tensor([0, 4, -1, 2, -5], dtype=torch.int32)
    close(run_program(op, [w, t])[0], w[t.long(), 1:])
    assert run_program(op, [w, torch.tensor([7, -9])])[0].tolist() == [[0.0] * 3] * 2
    assert run_program(op, [w, torch.zeros(0, dtype=torch.int64)])[0].shape == (0, 3)


def test_gather_through_two_tensors():
    op = program(
        "%w : T<[v, u], f32>, %s : T<[n], i64>, %t : T<[m], i64>",
        "%y = cascade.gather [b = m, c = n] from %w[at0, at1] : T<[v, u], f32> at(%s[c] : T<[n], i64>, %t[b] : T<[m], i64>)",
        "%y : T<[m, n], f32>",
    )
    w, s, t = torch.randn(5, 4).double(), torch.tensor([0, 4, 1]), torch.tensor([3, 0])
    close(run_program(op, [w, s, t])[0], w[s[None, :], t[:, None]])


@pytest.mark.parametrize(
    ("target", "arguments", "results", "call"),
    [
        ("aten.erfinv.default", None, ["[n, 6]"], lambda x: [x.erfinv()]),
        ("aten.cumsum", [{"tensor": 0}, 1], ["[n, 6]"], lambda x: [x.cumsum(1)]),
        ("aten.topk.default", [{"tensor": 0}, 2, -1], ["[n, 2]", "[n, 2]"], lambda x: list(x.topk(2))),
        ("torch.ops.aten.cat.default", [[{"tensor": 0}, {"tensor": 0}], 1], ["[n, 12]"], lambda x: [x.repeat(1, 2)]),
        ("aten.full.default", [[{"size": "n + 1"}], {"float": "-inf"}], ["[k]"], lambda x: [torch.full((5,), -INF)]),
        (
            "aten.cumsum.default",
            {"args": [{"tensor": 0}, 0], "kwargs": {"dtype": {"dtype": "float32"}}},
            ["[n, 6]"],
            lambda x: [x.cumsum(0)],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_extern(target: str, arguments, results: list[str], call):
    given = "" if arguments is None else " with " + json.dumps(json.dumps(arguments))
    kinds = [f"T<{shape}, {'i64' if n else 'f32'}>" for n, shape in enumerate(results)]
    names = [f"%y{n}" for n in range(len(results))]
    op = program(
        "%x : T<[n, 6], f32>",
        f'{", ".join(names)} = cascade.extern "{target}"(%x) because "a test"{given} : (T<[n, 6], f32>) -> ({", ".join(kinds)})',
        "; ".join(f"{n} : {k}" for n, k in zip(names, kinds, strict=True)),
    )
    x = torch.rand(4, 6).double()
    for actual, expected in zip(run_program(op, [x]), call(x), strict=True):
        close(actual, expected)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("aten.no_such_operator.default", "[]", "torch has no such operator"),
        ("aten", "[]", "is not an operator"),
        ("aten.exp.default", '[{\\"tensors\\": 0}]', "cannot read the argument"),
        ("aten.topk.default", '[{\\"tensor\\": 0}, 1]', "gives 2 tensors, not 1"),
    ],
)
def test_extern_errors(target: str, arguments: str, message: str):
    op = program(
        "%x : T<[n], f32>",
        f'%y = cascade.extern "{target}"(%x) because "a test" with "{arguments}" : (T<[n], f32>) -> T<[n], f32>',
        "%y : T<[n], f32>",
    )
    with pytest.raises(InternalCompilerError, match=message):
        run_program(op, [torch.rand(4)])


def test_kernels_run_inside_programs():
    inner = SOFTMAX_STATE.replace("%s[", "%ks[").replace("%v[", "%kv[")
    op = program(
        "%s : T<[n, m], f32>, %v : T<[m, k], f32>",
        f"""%l0, %o0 = cascade.kernel @k(%ks = %s : T<[n, m], f32>, %kv = %v : T<[m, k], f32>) -> (T<[n], f32>, T<[n, k], f32>) {{
            {inner}
            cascade.return %l, %o : T<[n], f32>, T<[n, k], f32>
        }}""",
        "%l0 : T<[n], f32>; %o0 : T<[n, k], f32>",
    )
    s, v = torch.randn(3, 7).double(), torch.randn(7, 2).double()
    total, weighted = run_program(op, [s, v], chunk=2)
    close(weighted / total[:, None], s.softmax(1) @ v)


# --- arguments ----------------------------------------------------------------------------------------------------


def test_results_are_float64_int64_and_bool():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert run_program(reduction("sum", "f32"), [torch.ones(1, 2, 1, dtype=dtype)])[0].dtype == torch.float64
    assert run_program(reduction("any", "i1"), [torch.ones(1, 2, 1, dtype=torch.bool)])[0].dtype == torch.bool


def test_sizes_are_found_in_expressions_and_given():
    op = read("[n * 2 + 1, 4]", "i = n, t = m", "i * 2, t", "[n, m]")
    assert run_program(op, [torch.zeros(7, 4)], {"m": 2})[0].shape == (3, 2)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([torch.zeros(2, 3)], "2 tensors are needed, 1 given"),
        ([torch.zeros(2, 3), torch.zeros(3)], "tensor 1 has 1 dimensions, 2 are declared"),
        ([torch.zeros(2, 3), torch.zeros(4, 5)], "a dimension is 5, but k is 3 here"),
        ([torch.zeros(2, 3, dtype=torch.complex64), torch.zeros(4, 3)], "does not know complex numbers"),
    ],
)
def test_tensors_that_do_not_fit(tensors: list[torch.Tensor], message: str):
    with pytest.raises(InvalidArgument, match=message):
        run_program(GEMM, tensors)


def test_a_size_without_a_value_is_named():
    with pytest.raises(InternalCompilerError, match=r"m needs m, which has no value"):
        run_program(read("[n]", "i = m", "i", "[m]"), [torch.zeros(3)])


def test_an_operation_it_does_not_know_is_named():
    op = program("%x : T<[n], f32>", "%c = arith.constant 1.0 : f32", "%x : T<[n], f32>")
    with pytest.raises(InternalCompilerError, match=r"does not know arith.constant"):
        run_program(op, [torch.zeros(3)])
