# ruff: noqa: E501  (one operation of the IR is one line)
"""Every message of the verifiers: a valid program, one change, and what is said about it."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import FunctionType, ModuleOp, f32
from xdsl.dialects.test import TestOp as Source
from xdsl.ir import Block, Region
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from fusecade.ir import cascade, tile
from fusecade.ir.attributes import AccessMap, RankSpace, TensorType
from fusecade.ir.text import context, parse_module
from fusecade.ir.verify import verify

EINSUM = """
cascade.program @p(%x : !cascade.tensor<[n, 64], f16>) -> () {
  %y = cascade.einsum [i = n, d = 64] ins(%x[i, d] : !cascade.tensor<[n, 64], f16>) outs(sum [i] : !cascade.tensor<[n], f32>) {
  ^bb0(%a : f32):
    %p = arith.mulf %a, %a : f32
    cascade.yield %p : f32
  }
  cascade.return
}
"""

ONLINE = """
cascade.program @p(%x : !cascade.tensor<[n, m], f32>) -> () {
  %m, %l = cascade.online [i = n, j = m] ins(%x[i, j] : !cascade.tensor<[n, m], f32>) outs(max [i] : !cascade.tensor<[n], f32>, sum [i] : !cascade.tensor<[n], f32>) over j gauges [0] step {
  ^bb0(%a : f32, %g : f32):
    %d = arith.subf %a, %g : f32
    cascade.yield %a, %d : f32, f32
  } transport {
  ^bb0(%old : f32, %new : f32, %s : f32):
    cascade.yield %s : f32
  }
  cascade.return
}
"""

GATHER = """
cascade.program @p(%x : !cascade.tensor<[v, 64], f32>, %t : !cascade.tensor<[n], i64>) -> () {
  %y = cascade.gather [b = n, d = 64] from %x[at0, d] : !cascade.tensor<[v, 64], f32> at(%t[b] : !cascade.tensor<[n], i64>)
  %z = cascade.extern "aten.erfinv.default"(%x) because "opaque" : (!cascade.tensor<[v, 64], f32>) -> !cascade.tensor<[v, 64], f32>
  cascade.return
}
"""

SCAN = """
cascade.program @p(%x : !cascade.tensor<[n, m], f16>) -> () {
  %y = cascade.scan [i = n, j = m] ins(%x[i, j] : !cascade.tensor<[n, m], f16>) outs(sum [i, j] : !cascade.tensor<[n, m], f32>) over j {
  ^bb0(%a : f32):
    cascade.yield %a : f32
  }
  cascade.return
}
"""

SCATTER = """
cascade.program @p(%x : !cascade.tensor<[n, 64], f32>, %t : !cascade.tensor<[n], i64>, %z : !cascade.tensor<[v, 64], f32>) -> () {
  %y = cascade.scatter [b = n, d = 64] ins(%x[b, d] : !cascade.tensor<[n, 64], f32>) at(%t[b] : !cascade.tensor<[n], i64>) outs(sum [at0, d] : !cascade.tensor<[v, 64], f32>) init %z {
  ^bb0(%a : f32):
    cascade.yield %a : f32
  }
  cascade.return
}
"""

KERNEL = """
cascade.program @p(%x : !cascade.tensor<[n], f32>) -> (!cascade.tensor<[n], f32>) {
  %y = cascade.kernel @k(%a = %x : !cascade.tensor<[n], f32>) -> (!cascade.tensor<[n], f32>) {
    cascade.return %a : !cascade.tensor<[n], f32>
  }
  cascade.return %y : !cascade.tensor<[n], f32>
}
"""

SHARED = """
tile.kernel @k [i = n grid BI, j = n loop BJ, p = 3 unit] grid (i, p) params {BI = 32, BJ = 16, SHARE = 2} share p each SHARE of max(1, n ceildiv BJ) (%x : !tile.buffer<[n], [1], f32>) -> (%o : !tile.buffer<[3, n], [n, 1], f32>) {
  %z = tile.load %x<[i]> guard ["i"] : !tile.buffer<[n], [1], f32> -> !tile.tile<[i], f32>
  tile.store %z, %o<[p, i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[3, n], [n, 1], f32>
  tile.return
}
"""

BRANCH = """
tile.kernel @k [i = n grid BI] grid (i) params {BI = 32} (%x : !tile.buffer<[n], [1], f32>) -> (%o : !tile.buffer<[n], [1], f32>) {
  %z = tile.load %x<[i]> guard ["i"] : !tile.buffer<[n], [1], f32> -> !tile.tile<[i], f32>
  %c = tile.map "gt"(%z, %z) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], i1>
  %w = tile.if any %c : !tile.tile<[i], i1> (%a = %z : !tile.tile<[i], f32>) {
    %y = tile.map "neg"(%a) : (!tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    tile.yield %y : !tile.tile<[i], f32>
  }
  tile.store %w, %o<[i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[n], [1], f32>
  tile.return
}
"""

TILE = """
tile.kernel @k [b = 8 unit, i = n grid BI, j = n loop BJ, d = 64 whole] grid (b, i) params {BI = 32, BJ = 16} (%q : !tile.buffer<[8, n, 64], [n * 64, 64, 1], f32>) -> (%o : !tile.buffer<[8, n], [n, 1], f32>) {
  %x = tile.load %q<[b, i, d]> guard ["i"] : !tile.buffer<[8, n, 64], [n * 64, 64, 1], f32> -> !tile.tile<[i, d], f32>
  %z = tile.fill 0.0 : f32 -> !tile.tile<[i], f32>
  %w = tile.for j from 0 to n (%acc = %z : !tile.tile<[i], f32>) {
    %k = tile.load %q<[b, j, d]> guard ["j"] : !tile.buffer<[8, n, 64], [n * 64, 64, 1], f32> -> !tile.tile<[j, d], f32>
    %s = tile.dot %x, %k over "d" precision "ieee" : !tile.tile<[i, d], f32>, !tile.tile<[j, d], f32> -> !tile.tile<[i, j], f32>
    %r = tile.reduce "sum" %s over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
    %m = tile.map "add"(%acc, %r) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    tile.yield %m : !tile.tile<[i], f32>
  }
  tile.store %w, %o<[b, i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[8, n], [n, 1], f32>
  tile.return
}
"""

# (program, what is replaced, by what, what the message says)
WRONG = [
    (EINSUM, "[i = n, d = 64]", "[i = n, i = n, d = 64]", "a rank is declared twice in [i = n, i = n, d = 64]"),
    (EINSUM, "%x[i, d]", "%x[i]", "access [i] has 1 indices for !cascade.tensor<[n, 64], f16>"),
    (EINSUM, "sum [i]", "median [i]", "'median' is not a combiner; known: map, sum"),
    (EINSUM, "sum [i]", "sum [k]", "output map [k] must list distinct ranks of [i = n, d = 64]"),
    (EINSUM, "sum [i]", "sum [i + 1]", "output map [i + 1] must list distinct ranks"),
    (EINSUM, "sum [i]", "sum [d]", "does not have the extents of [d]"),
    (EINSUM, "outs(sum [i]", "outs(map [i]", "'map' reduces nothing, but ['d'] are in no output map"),
    (
        EINSUM,
        "outs(sum [i] : !cascade.tensor<[n], f32>)",
        "outs(sum [i, d] : !cascade.tensor<[n, 64], f32>)",
        "'sum' needs a rank that is in no output map",
    ),
    (EINSUM, "outs(sum [i]", "outs(argmax [i]", "'argmax' gives an index, so its elements are integers"),
    (
        EINSUM,
        "outs(sum [i] : !cascade.tensor<[n], f32>)",
        "outs(argmax [] : !cascade.tensor<[], i64>)",
        "'argmax' reduces exactly one rank, not ['i', 'd']",
    ),
    (
        EINSUM.replace("%y =", "%y, %z ="),
        "outs(sum [i]",
        "outs(sum [] : !cascade.tensor<[], f32>, sum [i]",
        "all results of an einsum have the same ranks; use two einsums",
    ),
    (EINSUM, "%a : f32", "%a : f32, %b : i1", "takes ['f32', 'i1'], expected ['f32'] (compute types of the inputs)"),
    (EINSUM, "cascade.yield %p : f32", "cascade.yield %p, %p : f32, f32", "the map region yields ['f32', 'f32']"),
    (EINSUM, "cascade.yield", "cascade.return", "the map region must end in cascade.yield"),
    (EINSUM, "arith.mulf %a, %a", "math.fma %a, %a, %a", "the map region: math.fma is not in the scalar table"),
    (EINSUM, "cascade.return", "cascade.yield", "cascade.program must end in cascade.return"),
    (KERNEL, "-> (!cascade.tensor<[n], f32>)", "-> ()", "cascade.return does not match the declared results"),
    (ONLINE, "over j", "over k", "the streamed rank 'k' is not in [i = n, j = m]"),
    (ONLINE, "outs(max [i]", "outs(map [i]", "a result of cascade.online is an accumulator; 'map' is none"),
    (ONLINE, "outs(max [i]", "outs(argmax [i]", "'argmax' gives an index, so its elements are integers"),
    (ONLINE, "over j", "over i", "result 0 carries the streamed rank 'i'"),
    (ONLINE, "gauges [0]", "gauges [2]", "gauges [2] are not distinct results"),
    (ONLINE, "gauges [0]", "gauges [0, 0]", "gauges [0, 0] are not distinct results"),
    (ONLINE, "yield %a, %d : f32, f32", "yield %a : f32", "the step region yields ['f32'], expected ['f32', 'f32']"),
    (ONLINE, "gauges [0]", "gauges []", "the step region takes ['f32', 'f32'], expected ['f32']"),
    (ONLINE, "%new : f32, %s : f32", "%s : f32", "the transport region takes ['f32', 'f32'], expected"),
    (GATHER, "%x[at0, d]", "%x[at0]", "the source access needs one index per dimension of the source"),
    (GATHER, "%t[b]", "%t[b, d]", "access [b, d] has 2 indices for !cascade.tensor<[n], i64>"),
    (GATHER, 'because "opaque"', 'because ""', "an extern says why it is opaque"),
    (SCAN, "sum [i, j]", "argmax [i, j]", "'argmax' is not a combiner; known: sum, prod, max, min, any, all, linear"),
    (SCAN, "over j", "over k", "the scanned rank 'k' is not in [i = n, j = m]"),
    (
        SCAN,
        "sum [i, j] : !cascade.tensor<[n, m], f32>",
        "sum [j] : !cascade.tensor<[m], f32>",
        "a scan reduces nothing, but result 0 does not carry ['i']",
    ),
    (SCAN, "outs(sum", "outs(linear", "the map region yields ['f32'], expected ['f32', 'f32']"),
    (SCAN, "%x[i, j]", "%x[i]", "access [i] has 1 indices for !cascade.tensor<[n, m], f16>"),
    (SCATTER, "[b = n, d = 64]", "[b = n, b = 64]", "a rank is declared twice in [b = n, b = 64]"),
    (SCATTER, "outs(sum", "outs(argmax", "'argmax' does not scatter; known: sum, prod, max, min, any, all"),
    (SCATTER, "[at0, d]", "[at0]", "output access [at0] does not fit !cascade.tensor<[v, 64], f32>"),
    (SCATTER, "[at0, d]", "[at1, d]", "output access [at1, d] uses at1, which is no rank, size or index tensor"),
    (SCATTER, "%t[b]", "%t[b, d]", "access [b, d] has 2 indices for !cascade.tensor<[n], i64>"),
    (SCATTER, "at(%t[b] : !cascade.tensor<[n], i64>)", "at(%x[b, d] : !cascade.tensor<[n, 64], f32>)", "hold integers"),
    (SCATTER, "cascade.yield %a : f32", "cascade.yield", "the map region yields [], expected ['f32']"),
    (TILE, "[b = 8 unit, i = n", "[b = 8 unit, b = 8 unit, i = n", "a rank is declared twice"),
    (TILE, "grid (b, i)", "grid (i)", "the grid must list the unit and grid ranks ['b', 'i'] once each"),
    (TILE, "BJ = 16", "BK = 16", "parameters ['BJ'] are not bound"),
    (TILE, "tile.return", "tile.yield", "a kernel ends in tile.return"),
    (
        TILE,
        "d = 64 whole]",
        "d = 64 whole, r = 64 band j * 2 - i]",
        "the band r must be a sum or a difference of ranks",
    ),
    (TILE, "d = 64 whole]", "d = 64 whole, r = 64 band j - i, s = 64 band r + i]", "the band s follows from a band"),
    (
        TILE,
        'tile.reduce "sum" %s over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>',
        'tile.pick %s at "j" : !tile.tile<[i, j], f32> -> !tile.tile<[i], f32>',
        "tile.pick picks along 'j', which is no band of",
    ),
    (
        TILE,
        'tile.reduce "sum" %s over "j" : (!tile.tile<[i, j], f32>)',
        'tile.pick %s at "d" : !tile.tile<[i, j], f32>',
        "'d' must be a rank of the tile and none of the result",
    ),
    (TILE, "tile.for j", "tile.for d", "tile.for walks 'd', which is no loop rank of"),
    (
        TILE,
        "%w = tile.for j from 0 to n (",
        "%e = tile.fill 3 : i64 -> !tile.tile<[], i64>\n  %w = tile.for j from 0 to n within %e (",
        "a loop is within two numbers: i64 tiles without ranks",
    ),
    (TILE, "-> !tile.tile<[i], f32>\n  %w", "-> !tile.tile<[h], f32>\n  %w", None),
    (TILE, "%q<[b, i, d]>", "%q<[b, i]>", "access [b, i] has 2 indices for a buffer of 3"),
    (TILE, "%q<[b, i, d]>", "%q<[b, 0, d]>", "tile ranks ['i'] are not in the access [b, 0, d]"),
    (TILE, 'map "add"', 'map "plus"', "'plus' is not in the scalar table"),
    (TILE, 'map "add"', 'map "exp"', "'exp' takes 1 operands, 2 given"),
    (
        TILE,
        "(%acc, %r) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>)",
        "(%s, %r) : (!tile.tile<[i, j], f32>, !tile.tile<[i], f32>)",
        "the result's ranks must be the union of the operands' ranks, ['i', 'j']",
    ),
    (TILE, 'over "d"', 'over "j"', "'j' must be in both operands and not in the result"),
    (
        TILE,
        "!tile.tile<[j, d], f32> -> !tile.tile<[i, j], f32>",
        "!tile.tile<[j, d], f32> -> !tile.tile<[i], f32>",
        None,
    ),
    (TILE, "%x, %k over", "%x, %k acc %z : !tile.tile<[i], f32> over", "the accumulator must have the result's type"),
    (TILE, 'precision "ieee"', 'precision "bf16"', "precision 'bf16' is not ieee or tf32"),
    (TILE, 'reduce "sum"', 'reduce "mean"', "'mean' is not a reduction"),
    (TILE, 'reduce "sum"', 'reduce "argmax"', "the results must be !tile.tile<[i], f32>, !tile.tile<[i], i64>"),
    (TILE, 'over "j"', 'over "d"', "'d' is not a rank of the tile"),
    (
        TILE,
        "tile.yield %m : !tile.tile<[i], f32>",
        "tile.yield %s : !tile.tile<[i, j], f32>",
        "the carried state changes its type in the loop",
    ),
    (TILE, "tile.yield %m : !tile.tile<[i], f32>", "tile.return", "a loop body ends in tile.yield"),
    (SHARED, "p = 3 unit", "p = 3 grid BI", "the pieces 'p' of a share are no unit rank of"),
    (SHARED, "share p each", "share q each", "the pieces 'q' of a share are no unit rank of"),
    (SHARED, "grid (i, p)", "grid (p, i)", "the pieces 'p' of a share are not the last rank of the grid"),
    (SHARED, "SHARE = 2", "SHARE = 0", "the steps of a share, 'SHARE', are no parameter of at least 1"),
    (
        SHARED,
        "of max(1, n ceildiv",
        "of max(1, j ceildiv",
        "the steps of a tile depend on ['j'], no other ranks of the grid",
    ),
    (SHARED, "%o<[p, i]>", "%o<[0, i]>", "pieces of several tiles along ['p'] are stored in one place"),
    (BRANCH, "if any", "if most", "'most' is not any or all"),
    (BRANCH, "%c : !tile.tile<[i], i1> (", "%z : !tile.tile<[i], f32> (", "a condition is a tile of i1, not of f32"),
    (
        BRANCH,
        "tile.yield %y : !tile.tile<[i], f32>",
        "tile.yield",
        "the carried state changes its type where the condition",
    ),
    (BRANCH, "tile.yield %y : !tile.tile<[i], f32>", "tile.return", "a conditional body ends in tile.yield"),
]


@pytest.mark.parametrize("text", [EINSUM, ONLINE, GATHER, SCAN, SCATTER, KERNEL, TILE, SHARED, BRANCH])
def test_the_programs_are_valid_as_they_stand(text: str):
    parse_module(text)


@pytest.mark.parametrize(
    ("text", "old", "new", "message"), [case for case in WRONG if case[3]], ids=[c[3] for c in WRONG if c[3]]
)
def test_message(text: str, old: str, new: str, message: str):
    assert old in text
    with pytest.raises(VerifyException) as failure:
        parse_module(text.replace(old, new, 1))
    assert message in str(failure.value)


@pytest.mark.parametrize(
    ("text", "old", "new"), [case[:3] for case in WRONG if case[3] is None], ids=[c[2] for c in WRONG if c[3] is None]
)
def test_other_wrong_types_do_not_pass_either(text: str, old: str, new: str):
    assert old in text
    with pytest.raises((VerifyException, ParseError)):
        parse_module(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (TILE, "grid BI", "lane BI", "'lane' is not a role; use one of unit, grid, loop, whole"),
        (KERNEL, "-> (!cascade.tensor<[n], f32>) {\n    c", "-> () {\n    c", "with values of the declared types"),
        (EINSUM, "%p = arith.mulf %a, %a : f32", "%p = cascade.index i : i32", "an index expression is an i64"),
    ],
)
def test_parse_message(text: str, old: str, new: str, message: str):
    assert old in text
    with pytest.raises(ParseError) as failure:
        parse_module(text.replace(old, new, 1))
    assert message in str(failure.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!tile.tile<[i + 1], f32>", "a tile's dimensions are rank names, not [i + 1]"),
        ("!tile.buffer<[8, n], [1], f32>", "a buffer has one stride per dimension"),
        ("!tile.buffer<[8], [1], index>", "index is not an element type"),
        ("!cascade.tensor<[8], index>", "index is not an element type; use f16, bf16, f32, f64 or an integer"),
    ],
)
def test_types_are_verified_when_made(text: str, message: str):
    with pytest.raises((VerifyException, ParseError)) as failure:
        Parser(context(), text).parse_attribute()
    assert message in str(failure.value)


# Definition before use: xDSL checks it only while it parses.


def a_map(value) -> cascade.EinsumOp:
    body = Block(arg_types=[f32])
    body.add_op(cascade.YieldOp(body.args[0]))
    ranks = RankSpace.of({"i": "n"})
    return cascade.EinsumOp(ranks, [(value, AccessMap.of(["i"]))], [("map", AccessMap.of(["i"]), f32)], Region(body))


def test_a_value_is_defined_before_it_is_used():
    program = cascade.ProgramOp.empty("p", [TensorType.of(["n"], f32)])
    first = a_map(program.body.block.args[0])
    second = a_map(first.outs[0])
    first.outs[0].name_hint = "early"
    program.body.block.add_ops([first, second])
    program.finish(second.outs[0])
    verify(ModuleOp([program]))
    second.detach()
    program.body.block.insert_op_before(second, first)
    with pytest.raises(VerifyException, match=r"cascade.einsum uses %early before it is defined, or from outside"):
        verify(program)


def test_a_kernel_sees_nothing_from_outside():
    program = cascade.ProgramOp.empty("p", [TensorType.of(["n"], f32)])
    outer = program.body.block.args[0]
    body = Block(arg_types=[outer.type])
    inner = a_map(outer)
    body.add_ops([inner, cascade.ReturnOp(inner.outs[0])])
    kernel = cascade.KernelOp("k", [outer], Region(body))
    program.body.block.add_op(kernel)
    program.finish(kernel.outs[0])
    with pytest.raises(VerifyException):
        verify(program)


def test_a_region_without_results_is_refused():
    value = Source(result_types=[TensorType.of(["n"], f32)]).results[0]
    body = Block(arg_types=[f32])
    body.add_op(cascade.YieldOp())
    op = cascade.EinsumOp(RankSpace.of({"i": "n"}), [(value, AccessMap.of(["i"]))], [], Region(body))
    with pytest.raises(VerifyException, match="an operation without results computes nothing"):
        op.verify()


def test_counts_are_checked_before_they_are_used():
    value = Source(result_types=[TensorType.of(["n"], f32)]).results[0]
    op = a_map(value)
    op.accesses = type(op.accesses)([])
    with pytest.raises(VerifyException, match="1 inputs but 0 access maps"):
        op.verify()
    op = a_map(value)
    op.combiners = type(op.combiners)([])
    with pytest.raises(VerifyException, match="combiners, output maps and results must be equally many"):
        op.verify()


def test_a_gather_has_the_type_of_its_ranks_and_source():
    value = Source(result_types=[TensorType.of(["n"], f32)]).results[0]
    op = cascade.GatherOp(RankSpace.of({"i": "m"}), value, AccessMap.of(["i"]), [])
    op.verify()
    op.ranks = RankSpace.of({"i": "k"})
    with pytest.raises(VerifyException, match=r"the result is .*, expected"):
        op.verify()


def test_a_program_takes_what_its_type_says():
    program = cascade.ProgramOp.empty("p", [TensorType.of(["n"], f32)])
    program.finish(program.body.block.args[0])
    program.function_type = FunctionType.from_lists([], list(program.function_type.outputs.data))
    with pytest.raises(VerifyException, match="block arguments do not match the operands' types"):
        program.verify()


def test_an_unknown_rank_of_a_tile_is_named():
    text = TILE.replace(
        "%z = tile.fill 0.0 : f32 -> !tile.tile<[i], f32>",
        "%z = tile.fill 0.0 : f32 -> !tile.tile<[i], f32>\n  %u = tile.fill 0.0 : f32 -> !tile.tile<[b], f32>",
    )
    with pytest.raises(VerifyException, match=r"tile.fill gives a tile over \['b'\], no dimensions of"):
        parse_module(text)


def test_ranks_are_found_by_name():
    ranks = next(op for op in parse_module(TILE).walk() if isinstance(op, tile.KernelOp)).ranks
    assert ranks["j"].role == "loop"
    assert ranks.ordered(["d", "b", "i", "d"]) == ("i", "d")
    with pytest.raises(KeyError):
        ranks["h"]
