"""Re-association: every rewrite gives the same values, the order is the cheapest, and what may not be rewritten stays."""

from __future__ import annotations

import itertools
import json
import math
from unittest.mock import patch

import pytest
import torch
from harness import agree, program_of
from hypothesis import given, settings
from hypothesis import strategies as st

import fusecade
from fusecade.assembly.reassociated import reassociated
from fusecade.frontend.capture import capture
from fusecade.frontend.edit import Edit, replay
from fusecade.ir.cascade import EinsumOp
from fusecade.ir.interpret import run_program
from fusecade.ir.target import get_target
from fusecade.ir.verify import verify
from fusecade.passes import reassociate
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.reassociate import reassociate_program
from fusecade.passes.reassociation.facts import ignores_translation, sums_to_one
from fusecade.passes.reassociation.order import Prices, Tree, best_order

CPU = get_target("cpu")


def tensors(*shapes, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


def rewritten(fn, args, sizes=None):
    """The program of `fn` after the pass, and the rewrites; its values are those from before."""
    program = program_of(fn, args)
    canonicalise_program(program)
    expected = run_program(program, args, sizes)
    rewrites = reassociate_program(program, CPU, sizes)
    verify(program)
    agree(run_program(program, args, sizes), expected, "reassociated")
    return program, rewrites


def shapes_of(program):
    return [tuple(map(str, r.type.dims)) for op in program.body.block.ops for r in op.results]


# --- programs ---------------------------------------------------------------------------------------------------------


def low_rank(x, u, v):
    return x @ (u @ v)


def kronecker(a, b, x):
    return torch.kron(a, b) @ x


def kronecker_of_three(a, b, c, x):
    return torch.kron(torch.kron(a, b), c) @ x


def decode(x, h, wq, wk, wv, bk, bv):
    q, k, v = x @ wq, h @ wk + bk, h @ wv + bv
    return torch.softmax(q @ k.mT / 8, -1) @ v


def heads(x, h, wq, wk, wv, wo):
    def split(y):
        return y.view(y.shape[0], y.shape[1], 4, -1).transpose(1, 2)

    q, k, v = split(x @ wq), split(h @ wk), split(h @ wv)
    o = torch.softmax(q @ k.mT / 4, -1) @ v
    return o.transpose(1, 2).reshape(x.shape) @ wo


def quadratic(q, k, v):
    return (q @ k.mT) @ v


def scaled_rows(x, r, w):
    return (x * r) @ w


def lower(q, k, v):
    return (q @ k.mT).tril() @ v


def masked(q, k, v):
    n = q.shape[-2]
    hidden = ~torch.ones(n, n, dtype=torch.bool).tril()
    return (q @ k.mT).masked_fill(hidden, 0.0) @ v


def strictly_lower_by_ones(q, k, v):
    n = q.shape[-2]
    return (0.5 * (q @ k.mT) * torch.ones(n, n, dtype=q.dtype).tril(-1)) @ v


def normalised(q, k, v):
    s = (q.relu() @ k.relu().mT).tril()
    return (s @ v) / (s.sum(-1, keepdim=True) + 1)


ROWS = {
    "low rank": (low_rank, tensors((256, 64), (64, 4), (4, 256))),
    "Kronecker": (kronecker, tensors((12, 10), (9, 11), (110, 7))),
    "Kronecker of three": (kronecker_of_three, tensors((6, 5), (4, 7), (3, 8), (280, 5))),
    "decode": (decode, tensors((1, 64), (512, 128), (64, 64), (128, 64), (128, 64), 64, 64)),
    "heads": (heads, tensors((2, 1, 64), (2, 200, 64), *[(64, 64)] * 4)),
    "quadratic": (quadratic, tensors((2, 300, 8), (2, 300, 8), (2, 300, 8))),
    "lower": (lower, tensors(*[(2, 1024, 16)] * 3)),
    "masked": (masked, tensors(*[(2, 1024, 16)] * 3)),
    "strictly lower": (strictly_lower_by_ones, tensors(*[(2, 1024, 16)] * 3)),
    "normalised": (normalised, tensors(*[(2, 1024, 16)] * 3)),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_fall_out(name: str):
    fn, args = ROWS[name]
    _, rewrites = rewritten(fn, args)
    assert rewrites and all(r.certificate for r in rewrites)


def test_operator_is_never_built():
    program, _ = rewritten(kronecker_of_three, tensors((16, 16), (16, 16), (16, 16), (4096, 8)))
    assert max(math.prod(map(int, s)) for s in shapes_of(program)) == 4096 * 8


def test_keys_and_values_are_never_built():
    program, rewrites = rewritten(decode, ROWS["decode"][1])
    assert ("512", "64") not in shapes_of(program)
    words = " ".join(r.certificate for r in rewrites)
    assert "every reader ignores a translation of rows" in words and "is 1" in words


def test_no_pair_of_positions_is_left():
    program, _ = rewritten(lower, ROWS["lower"][1])
    assert ("2", "1024", "1024") not in shapes_of(program)


def test_many_queries_keep_their_projections():
    program, _ = rewritten(decode, tensors((512, 64), (512, 128), (64, 64), (128, 64), (128, 64), 64, 64))
    assert [r.name_hint for op in program.body.block.ops for r in op.results].count("add") == 2  # keys and values


def test_short_triangles_stay():
    assert not rewritten(lower, tensors(*[(2, 64, 64)] * 3))[1]


def test_upper_triangles_stay():
    def upper(q, k, v):
        return (q @ k.mT).triu() @ v

    assert not rewritten(upper, ROWS["lower"][1])[1]


def test_centred_rows_stay():
    def centred(x, w):
        return (x - x.mean(-1, keepdim=True)) @ w

    with patch.object(reassociate, "GAIN", math.inf):
        _, rewrites = rewritten(centred, tensors((4, 64), (64, 3)))
    assert not rewrites


def test_hidden_nan_stays_hidden():
    """A key that is not a number is seen by its own row and later ones, as before."""
    q, k, v = tensors(*[(2, 1024, 16)] * 3)
    k[0, 600] = math.nan
    program = program_of(lower, [q, k, v])
    canonicalise_program(program)
    assert reassociate_program(program, CPU)
    (got,) = run_program(program, [q, k, v])
    assert not got[0, :576].isnan().any() and got[0, 600:].isnan().all()


def test_long_sums_are_not_stored_in_half_precision():
    args = [x.half() for x in tensors(*[(2, 4096, 8)] * 3)]
    for fn in (quadratic, lower):
        program = program_of(fn, args)
        canonicalise_program(program)
        assert not reassociate_program(program, CPU)


# --- random networks --------------------------------------------------------------------------------------------------

EXTENTS = dict(zip("abcdef", (2, 3, 4, 5, 2, 3), strict=True))


@st.composite
def networks(draw):
    """A straight line of contractions, biases, scales and quotients, as (fn, shapes)."""
    letters = sorted(EXTENTS)
    ranks = [draw(st.lists(st.sampled_from(letters), min_size=1, max_size=3, unique=True)) for _ in range(2)]
    shapes = ["".join(r) for r in ranks]
    steps = []
    current = shapes[0]
    for _ in range(draw(st.integers(2, 5))):
        kind = draw(st.sampled_from(["times", "times", "times", "plus", "scale", "over", "sum"]))
        if kind == "scale":
            steps.append((kind, draw(st.sampled_from([0.5, 3.0, -2.0])), None, current))
            continue
        if kind == "sum":
            if len(current) > 1:
                kept = draw(
                    st.sampled_from(
                        ["".join(c) for n in range(1, len(current)) for c in itertools.combinations(current, n)]
                    )
                )
                steps.append((kind, None, current, kept))
                current = kept
            continue
        if kind == "times":
            other = "".join(draw(st.lists(st.sampled_from(letters), min_size=1, max_size=3, unique=True)))
            both = sorted(set(current) | set(other))
            kept = "".join(draw(st.lists(st.sampled_from(both), min_size=1, max_size=4, unique=True)))
        else:
            other = "".join(draw(st.lists(st.sampled_from(list(current)), min_size=1, max_size=3, unique=True)))
            kept = current
        steps.append((kind, len(shapes), other, kept))
        shapes.append(other)
        current = kept

    def fn(*xs):
        y, at = xs[0], shapes[0]
        for kind, which, other, kept in steps:
            if kind == "scale":
                y = y * which
            elif kind == "sum":
                y = torch.einsum(f"{at}->{kept}", y)
            elif kind == "times":
                y = torch.einsum(f"{at},{other}->{kept}", y, xs[which])
            else:
                one = torch.einsum(f"{other}->{''.join(c for c in at if c in other)}", xs[which])
                one = one.reshape([EXTENTS[c] if c in other else 1 for c in at])
                y = y + one if kind == "plus" else y / (one * one + 1)
            at = kept
        return y

    return fn, [tuple(EXTENTS[c] for c in s) for s in shapes]


@settings(max_examples=settings.default.max_examples // 2)  # type: ignore
@given(networks())
def test_any_network_keeps_its_value(network):
    fn, shapes = network
    args = tensors(*shapes)
    with patch.object(reassociate, "GAIN", math.inf), patch.object(reassociate, "MORE_FLOPS", math.inf):
        rewritten(fn, args)


@settings(max_examples=settings.default.max_examples // 4)  # type: ignore
@given(networks())
def test_any_network_is_realised_in_the_graph(network):
    fn, shapes = network
    args = tensors(*shapes)
    captured = capture(fn, args)
    with patch.object(reassociate, "GAIN", math.inf), patch.object(reassociate, "MORE_FLOPS", math.inf):
        found = reassociated(captured.gm, CPU)
    (got,), expected = found.gm(*args), fn(*args)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()) + 1e-300)
    assert got.stride() == expected.stride()


# --- orders -----------------------------------------------------------------------------------------------------------


def every_tree(factors):
    """All binary orders of a product, as nested pairs of positions."""
    if len(factors) == 1:
        yield factors[0]
        return
    first, *rest = factors
    for count in range(len(rest)):
        for chosen in itertools.combinations(rest, count):
            for a in every_tree([first, *chosen]):
                for b in every_tree([f for f in rest if f not in chosen]):
                    yield (a, b)


def cost_of(tree, factors, out, prices):
    """Ranks and microseconds of an order, each step priced by itself."""
    every = range(len(factors))

    def leaves(t):
        return {t} if isinstance(t, int) else leaves(t[0]) | leaves(t[1])

    def needed(t):
        inside = leaves(t)
        own = frozenset().union(*(factors[n] for n in inside))
        return own & (out | frozenset().union(*(factors[n] for n in every if n not in inside)))

    if isinstance(tree, int):
        ranks = needed(tree)
        return ranks, 0.0 if ranks == factors[tree] else prices.step([factors[tree]], ranks).us
    (a, x), (b, y) = (cost_of(t, factors, out, prices) for t in tree)
    ranks = needed(tree)
    return ranks, x + y + prices.step([a, b], ranks).us


@given(
    st.lists(st.frozensets(st.sampled_from("abcde"), min_size=1, max_size=3), min_size=2, max_size=5),
    st.frozensets(st.sampled_from("abcde"), max_size=3),
    st.lists(st.integers(1, 300), min_size=5, max_size=5),
)
def test_the_order_is_the_cheapest(factors, out, extents):
    prices = Prices(CPU, dict(zip("abcde", extents, strict=True)), 4, "f32")
    out = out & frozenset().union(*factors)
    found = best_order(factors, [False] * len(factors), out, prices)
    assert found is not None
    least = min(cost_of(t, factors, out, prices)[1] for t in every_tree(list(range(len(factors)))))
    assert found[1].us == pytest.approx(least)
    assert found[0].ranks == out


def test_divisors_wait_until_nothing_is_summed():
    prices = Prices(CPU, {"i": 8, "j": 512, "f": 64}, 4, "f32")
    factors = [frozenset("ij"), frozenset("i"), frozenset("jf")]
    found = best_order(factors, [False, True, False], frozenset("if"), prices)
    assert found is not None and found[0].sides is not None
    assert any(t == Tree(frozenset("i"), leaf=1) for t in found[0].sides)
    assert best_order([frozenset("j"), frozenset("jf")], [True, False], frozenset("f"), prices) is None


# --- facts ------------------------------------------------------------------------------------------------------------


def value_named(fn, args, name):
    program = program_of(fn, args)
    canonicalise_program(program)
    return next(
        r for op in program.body.block.ops if isinstance(op, EinsumOp) for r in op.results if r.name_hint == name
    )


@pytest.mark.parametrize(
    ("fn", "one"),
    [
        (lambda x: torch.softmax(x, -1), True),
        (lambda x: torch.softmax(x, 0), False),  # of columns
        (lambda x: x.exp() / x.exp().sum(-1, keepdim=True), True),
        (lambda x: x.abs() / x.abs().sum(-1, keepdim=True), True),
        (lambda x: x.abs() / x.sum(-1, keepdim=True), False),
        (lambda x: x.abs() / (1 + x.abs().sum(-1, keepdim=True)), False),
        (lambda x: x.exp() / x.sum(), False),
    ],
)
def test_rows_that_sum_to_one(fn, one: bool):
    program = program_of(fn, tensors((5, 7)))
    canonicalise_program(program)
    assert sums_to_one(program.returned[0], 1) is one


@pytest.mark.parametrize(
    ("fn", "ignored"),
    [
        (lambda s: torch.softmax(s, -1), True),
        (lambda s: torch.softmax(s * 3 + 1, -1), True),
        (lambda s: torch.softmax(s.masked_fill(torch.ones(5, 7).triu(1) > 0, -math.inf), -1), True),
        (lambda s: torch.softmax(s.masked_fill(torch.ones(5, 7).triu(1) > 0, -1e4), -1), False),
        (lambda s: s.argmin(-1), True),
        (lambda s: s.argmin(0), False),
        (lambda s: s - s.amax(-1, keepdim=True), True),
        (lambda s: s - s.sum(-1, keepdim=True), False),
        (lambda s: torch.softmax(s.tanh(), -1), False),
        (lambda s: (torch.softmax(s, -1), s + 1), False),
        (lambda s: torch.logsumexp(s, -1), False),
    ],
)
def test_translations_of_rows(fn, ignored: bool):
    x, w = tensors((5, 3), (3, 7))
    s = value_named(lambda x, w: fn(x @ w), [x, w], "mm")
    assert ignores_translation(s, (0,)) is ignored


# --- in the graph -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_graph_is_rewritten_and_rewritten_again(name: str):
    fn, args = ROWS[name]
    captured = capture(fn, args)
    found = reassociated(captured.gm, CPU)
    assert found.rewrites and found.edit is not None
    (got,), expected = found.gm(*captured.tensors(args)), fn(*args)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert got.stride() == expected.stride()
    again = replay(captured.gm, Edit.from_json(json.loads(json.dumps(found.edit.to_json()))))
    assert str(again.graph) == str(found.gm.graph)


def test_dynamic_sizes():
    args = tensors((300, 64), (64, 4), (4, 256))
    captured = capture(low_rank, args, dynamic={0: {0: "n"}})
    found = reassociated(captured.gm, CPU, {}, captured.size_names)
    assert found.rewrites
    for n in (300, 7):
        x, u, v = tensors((n, 64), (64, 4), (4, 256))
        torch.testing.assert_close(found.gm(x, u, v)[0], low_rank(x, u, v))


def test_an_edit_of_another_graph_is_refused():
    edit = Edit([{"target": "aten.mm.default", "args": [{"node": 99}], "kwargs": {"named": {}}, "before": 0}], [])
    with pytest.raises(ValueError, match="does not fit"):
        replay(capture(low_rank, ROWS["low rank"][1]).gm, edit)


@pytest.mark.parametrize("name", ["decode", "low rank", "Kronecker", "lower"])
def test_compiled(name: str, tmp_path, monkeypatch):
    """The seed rows end to end, made and read from the cache: error at most twice that of PyTorch."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path))
    fn, exact = (lower, tensors(*[(2, 2048, 32)] * 3)) if name == "lower" else ROWS[name]
    args = [x.float() for x in exact]
    expected = fn(*exact)
    ulp = float(expected.abs().max()) * torch.finfo(torch.float32).eps
    allowed = 2 * float((fn(*args) - expected).abs().max()) + ulp
    for _ in range(2):
        kernel = fusecade.compile(fn, args, target="cpu", strict=True)
        assert any(rule == "reassociate" for rule, _, _ in kernel.report.rewrites)
        assert float((kernel(*args) - expected).abs().max()) <= allowed
