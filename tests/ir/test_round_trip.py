# ruff: noqa: E501  (one operation of the IR is one line)
"""Text → module → the same text, for every operation, attribute and type of both dialects."""

from __future__ import annotations

import re

import pytest
from xdsl.dialects.builtin import f16, f32, i1, i64
from xdsl.parser import Parser

from fusecade.ir.attributes import AccessMap, RankSpace, TensorType
from fusecade.ir.cascade import Cascade
from fusecade.ir.text import context, parse_module, print_module
from fusecade.ir.tile import BufferType, Share, Tile, TileRank, TileRanks, TileType

# One operation a case; `%x` is f32 over [n, 64], `%t` is i64 over [n].
CASCADE = {
    "einsum": """%y = cascade.einsum [i = n, d = 64] ins(%x[i, d] : !cascade.tensor<[n, 64], f32>) outs(sum [i] : !cascade.tensor<[n], f32>) {
    ^bb0(%a: f32):
      %p = arith.mulf %a, %a : f32
      cascade.yield %p : f32
    }""",
    "einsum without inputs": """%y = cascade.einsum [i = n] ins() outs(map [i] : !cascade.tensor<[n], i64>) {
      %p = cascade.index i * 2 + 1 : i64
      cascade.yield %p : i64
    }""",
    "einsum of several results": """%y, %y_1 = cascade.einsum [i = n, d = 64] ins(%x[i, d + 1] : !cascade.tensor<[n, 64], f32>) outs(max [i] : !cascade.tensor<[n], f16>, argmax [i] : !cascade.tensor<[n], i64>) {
    ^bb0(%a: f32):
      cascade.yield %a, %a : f32, f32
    }""",
    "einsum to one number": """%y = cascade.einsum [i = n, d = 64] ins(%x[i, d] : !cascade.tensor<[n, 64], f32>) outs(sum [] : !cascade.tensor<[], f32>) {
    ^bb0(%a: f32):
      cascade.yield %a : f32
    } attributes {tag = "loss"}""",
    "constants": """%y = cascade.einsum [i = n] ins() outs(map [i] : !cascade.tensor<[n], f32>) {
      %a = arith.constant 0.5 : f32
      %b = arith.constant 1.0e-05 : f32
      %c = arith.constant 0xff800000 : f32
      %d = arith.constant 0.1 : f64
      %e = arith.constant true
      %f = arith.constant -3 : i64
      cascade.yield %a : f32
    }""",
    "online": """%y, %y_1 = cascade.online [i = n, j = 64] ins(%x[i, j] : !cascade.tensor<[n, 64], f32>) outs(max [i] : !cascade.tensor<[n], f32>, sum [i] : !cascade.tensor<[n], f32>) over j gauges [0] step {
    ^bb0(%a: f32, %m: f32):
      %d = arith.subf %a, %m : f32
      %e = math.exp %d : f32
      cascade.yield %a, %e : f32, f32
    } transport {
    ^bb0(%old: f32, %new: f32, %l: f32):
      %d_1 = arith.subf %old, %new : f32
      %e_1 = math.exp %d_1 : f32
      %f = arith.mulf %l, %e_1 : f32
      cascade.yield %f : f32
    } attributes {certificate = "rescale"}""",
    "online without gauges": """%y = cascade.online [i = n, j = 64] ins(%x[i, j] : !cascade.tensor<[n, 64], f32>) outs(sum [i] : !cascade.tensor<[n], f32>) over j gauges [] step {
    ^bb0(%a: f32):
      cascade.yield %a : f32
    } transport {
    ^bb0(%l: f32):
      cascade.yield %l : f32
    }""",
    "scan": """%y = cascade.scan [i = n, d = 64] ins(%x[i, d] : !cascade.tensor<[n, 64], f32>) outs(sum [i, d] : !cascade.tensor<[n, 64], f32>) over d {
    ^bb0(%a: f32):
      cascade.yield %a : f32
    }""",
    "scan of several results": """%y, %y_1 = cascade.scan [i = n, d = 64] ins(%x[i, d] : !cascade.tensor<[n, 64], f32>) outs(linear [d, i] : !cascade.tensor<[64, n], f16>, max [i, d] : !cascade.tensor<[n, 64], f32>) over i exclusive reversed {
    ^bb0(%a: f32):
      cascade.yield %a, %a, %a : f32, f32, f32
    } attributes {tag = "decay"}""",
    "scatter": """%y = cascade.scatter [b = n, d = 64] ins(%x[b, d] : !cascade.tensor<[n, 64], f32>) at(%t[b] : !cascade.tensor<[n], i64>) outs(sum [at0, d + 1] : !cascade.tensor<[9, 65], f32>) {
    ^bb0(%a: f32):
      cascade.yield %a : f32
    } attributes {why = 1 : i64}""",
    "scatter into a tensor": """%y = cascade.scatter [b = n] ins() at(%t[b] : !cascade.tensor<[n], i64>, %t[n - b - 1] : !cascade.tensor<[n], i64>) outs(max [at0, at1] : !cascade.tensor<[n, 64], f32>) init %x {
      %a = arith.constant 1.0 : f32
      cascade.yield %a : f32
    }""",
    "gather": """%y = cascade.gather [b = n, d = 32] from %x[at0, d + 4] : !cascade.tensor<[n, 64], f32> at(%t[b] : !cascade.tensor<[n], i64>)""",
    "gather twice": """%y = cascade.gather [b = n] from %x[at0, at1] : !cascade.tensor<[n, 64], f32> at(%t[b] : !cascade.tensor<[n], i64>, %t[n - b - 1] : !cascade.tensor<[n], i64>) attributes {why = 1 : i64}""",
    "extern": """%y, %y_1 = cascade.extern "aten.topk.default"(%x) because "data-dependent \\"order\\": π, C:\\\\" with "[{\\"tensor\\": 0}, 3]" : (!cascade.tensor<[n, 64], f32>) -> (!cascade.tensor<[n, 3], f32>, !cascade.tensor<[n, 3], i64>)""",
    "extern without arguments": """%y = cascade.extern "aten.erfinv.default"(%x) because "not in the table" : (!cascade.tensor<[n, 64], f32>) -> !cascade.tensor<[n, 64], f32> attributes {line = 3 : i64}""",
    "kernel": """%y = cascade.kernel @k0(%a = %x : !cascade.tensor<[n, 64], f32>) -> (!cascade.tensor<[n, 64], f32>) {
      %b = cascade.einsum [i = n, d = 64] ins(%a[i, d] : !cascade.tensor<[n, 64], f32>) outs(map [i, d] : !cascade.tensor<[n, 64], f32>) {
      ^bb0(%c: f32):
        %e = math.exp %c : f32
        cascade.yield %e : f32
      }
      cascade.return %b : !cascade.tensor<[n, 64], f32>
    } attributes {group = 0 : i64}""",
}

# One operation a case; `%q` and `%o` are f16 buffers over [8, n, 64], `%x` a loaded tile over [i, d].
TILE = {
    "load": """%y = tile.load %q<[b, i + 1, h * 32 + d]> guard ["i"] checked : !tile.buffer<[8, n, 64], [n * 64, 64, 1], f16> -> !tile.tile<[i, d], f16>""",
    "load of one element": """%y = tile.load %q<[b, 0, 3]> guard [] : !tile.buffer<[8, n, 64], [n * 64, 64, 1], f16> -> !tile.tile<[], f16>""",
    "index": """%y = tile.index<[i - d]> : !tile.tile<[i, d], i64>""",
    "fill": """%y = tile.fill 0xff800000 : f32 -> !tile.tile<[i], f32>""",
    "fill with a boolean": """%y = tile.fill true -> !tile.tile<[], i1>""",
    "map": """%y = tile.map "maximum"(%x, %x) : (!tile.tile<[i, d], f16>, !tile.tile<[i, d], f16>) -> !tile.tile<[i, d], f16>""",
    "cast": """%y = tile.cast %x : !tile.tile<[i, d], f16> -> !tile.tile<[i, d], f32>""",
    "pad": """%y = tile.pad %x over ["i", "d"] with 0.5 : f16 : !tile.tile<[i, d], f16> -> !tile.tile<[i, d], f16>""",
    "reduce": """%y = tile.reduce "sum" %x over "d" : (!tile.tile<[i, d], f16>) -> !tile.tile<[i], f16>""",
    "reduce to an index": """%y, %y_1 = tile.reduce "argmin" %x over "d" : (!tile.tile<[i, d], f16>) -> (!tile.tile<[i], f16>, !tile.tile<[i], i64>)""",
    "if": """%c = tile.map "gt"(%x, %x) : (!tile.tile<[i, d], f16>, !tile.tile<[i, d], f16>) -> !tile.tile<[i, d], i1>
    %z = tile.fill 0.0 : f32 -> !tile.tile<[i], f32>
    %w, %v = tile.if all %c : !tile.tile<[i, d], i1> (%a = %z : !tile.tile<[i], f32>, %b = %z : !tile.tile<[i], f32>) {
      %n = tile.map "neg"(%a) : (!tile.tile<[i], f32>) -> !tile.tile<[i], f32>
      tile.yield %n, %b : !tile.tile<[i], f32>, !tile.tile<[i], f32>
    } attributes {why = "nothing to add"}""",
    "for": """%z = tile.fill 0.0 : f32 -> !tile.tile<[i], f32>
    %y = tile.for j from 0 to min(n, BI + i) (%acc = %z : !tile.tile<[i], f32>) {
      %k = tile.load %q<[b, j, d]> guard ["j"] : !tile.buffer<[8, n, 64], [n * 64, 64, 1], f16> -> !tile.tile<[j, d], f16>
      %s = tile.dot %x, %k over "d" precision "ieee" : !tile.tile<[i, d], f16>, !tile.tile<[j, d], f16> -> !tile.tile<[i, j], f32>
      %t = tile.dot %x, %k acc %s : !tile.tile<[i, j], f32> over "d" precision "tf32" : !tile.tile<[i, d], f16>, !tile.tile<[j, d], f16> -> !tile.tile<[i, j], f32>
      %r = tile.reduce "sum" %t over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
      %m = tile.map "add"(%acc, %r) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
      tile.yield %m : !tile.tile<[i], f32>
    } attributes {stages = 2 : i64}""",
    "for within numbers": """%f, %l = tile.reduce "argmin" %x over "d" : (!tile.tile<[i, d], f16>) -> (!tile.tile<[i], f16>, !tile.tile<[i], i64>)
    %m = tile.reduce "max" %l over "i" : (!tile.tile<[i], i64>) -> !tile.tile<[], i64>
    %y = tile.for j from BJ to n within %m, %m (%acc = %x : !tile.tile<[i, d], f16>) {
      tile.yield %acc : !tile.tile<[i, d], f16>
    }""",
    "pick": """%y = tile.for j from 0 to n (%acc = %x : !tile.tile<[i, d], f16>) {
      %e = tile.load %q<[b, r, d]> guard ["r"] : !tile.buffer<[8, n, 64], [n * 64, 64, 1], f16> -> !tile.tile<[r, d], f16>
      %s = tile.dot %x, %e over "d" precision "ieee" : !tile.tile<[i, d], f16>, !tile.tile<[r, d], f16> -> !tile.tile<[i, r], f32>
      %t = tile.pick %s at "r" : !tile.tile<[i, r], f32> -> !tile.tile<[i, j], f32>
      tile.yield %acc : !tile.tile<[i, d], f16>
    }""",
}


def in_program(operation: str) -> str:
    return f"""builtin.module {{
  cascade.program @p(%x: !cascade.tensor<[n, 64], f32>, %t: !cascade.tensor<[n], i64>) -> (!cascade.tensor<[n, 64], f32>) {{
    {operation}
    cascade.return %x : !cascade.tensor<[n, 64], f32>
  }}
}}
"""


def in_kernel(operation: str) -> str:
    return f"""builtin.module {{
  tile.kernel @k [b = 8 unit, i = n grid BI, j = n loop BJ, d = 64 whole, r = n band j + n - i - 1] grid (b, i) params {{BI = 32, BJ = 16, num_warps = 4}} (%q: !tile.buffer<[8, n, 64], [n * 64, 64, 1], f16>) -> (%o: !tile.buffer<[8, n, 64], [n * 64, 64, 1], f16>) {{
    %x = tile.load %q<[b, i, d]> guard ["i"] : !tile.buffer<[8, n, 64], [n * 64, 64, 1], f16> -> !tile.tile<[i, d], f16>
    {operation}
    tile.store %x, %o<[b, i, d]> guard ["i"] : !tile.tile<[i, d], f16>, !tile.buffer<[8, n, 64], [n * 64, 64, 1], f16>
    tile.return
  }}
}}
"""


SHARED = """builtin.module {
  tile.kernel @k [i = n grid BI, j = n loop BJ, p = 3 unit] grid (i, p) params {BI = 32, BJ = 16, SHARE = 2} share p each SHARE of max(1, min(n, BI + i) ceildiv BJ) (%x: !tile.buffer<[n], [1], f32>) -> (%o: !tile.buffer<[3, n], [n, 1], f32>) {
    %y = tile.load %x<[i]> guard ["i"] : !tile.buffer<[n], [1], f32> -> !tile.tile<[i], f32>
    tile.store %y, %o<[p, i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[3, n], [n, 1], f32>
    tile.return
  }
}
"""

CASES = {
    "tile shares": SHARED,
    **{f"cascade {name}": in_program(text) for name, text in CASCADE.items()},
    **{f"tile {name}": in_kernel(text) for name, text in TILE.items()},
}


@pytest.mark.parametrize("case", CASES)
def test_text_survives_parsing_and_printing(case: str):
    printed = print_module(parse_module(CASES[case]))
    assert re.sub(r"\s+", " ", printed) == re.sub(r"\s+", " ", CASES[case])
    assert print_module(parse_module(printed)) == printed


def test_every_operation_is_covered():
    text = "\n".join(CASES.values())
    names = [op.name for dialect in (Cascade, Tile) for op in dialect.operations]
    assert [name for name in names if not re.search(rf"{re.escape(name)}\b", text)] == []


@pytest.mark.parametrize(
    "attribute",
    [
        RankSpace.of({"i": 4096, "j": "s0"}),
        RankSpace.of({}),
        AccessMap.of(["b", 3]),
        AccessMap.of([]),
        TensorType.of([8, "s0"], f16),
        TensorType.of([], i1),
        TileType.of(["i", "j"], f32),
        TileType.of([], i64),
        BufferType.of([8, "n"], ["n", 1], f16),
        Share(("p", "SHARE_J", AccessMap.of(["n"]).data[0])),
        TileRanks(
            (
                TileRank("i", AccessMap.of(["n"]).data[0], "grid", "BI"),
                TileRank("d", AccessMap.of([64]).data[0], "whole"),
            )
        ),
    ],
    ids=str,
)
def test_attributes_survive_printing_and_parsing(attribute):
    assert Parser(context(), str(attribute)).parse_attribute() == attribute
