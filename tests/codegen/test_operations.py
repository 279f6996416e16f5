# ruff: noqa: E501 (programs in text)
"""Each operation of the tile dialect, printed twice and run: the print tables row by row, accesses, dots, loops."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch

from fusecade.codegen.text import NotPrintable
from fusecade.codegen.torch_functions import MAPS as TORCH_MAPS
from fusecade.codegen.torch_source import print_torch
from fusecade.codegen.triton_functions import MAPS as TRITON_MAPS
from fusecade.codegen.triton_source import print_triton
from fusecade.ir import tile
from fusecade.ir.interpret import run_kernel
from fusecade.ir.scalar import SCALARS
from fusecade.ir.text import parse_module


def parse_kernel(text: str) -> tile.KernelOp:
    return cast(tile.KernelOp, parse_module(text).body.block.first_op)


FLOATS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    1e-4,
    -1e-4,
    1e-7,
    0.3,
    -0.69,
    0.71,
    3.0,
    -7.25,
    20.0,
    -20.0,
    80.0,
]
SPECIAL = [math.inf, -math.inf, math.nan]
POSITIVE = [x for x in FLOATS if x > 0] + [math.inf, math.nan, 0.0]
INTS = [0, 1, -1, 2, -2, 7, -7, 8, 100, -100]
DOMAINS = {
    "sqrt": POSITIVE, "rsqrt": [x for x in POSITIVE if x > 0], "log": POSITIVE, "log2": POSITIVE,
    "log1p": [*POSITIVE, 1e-9, -1e-9, -0.5, -1.0],
    "exp": [x for x in FLOATS if abs(x) < 21] + SPECIAL, "exp2": [x for x in FLOATS if abs(x) < 21] + SPECIAL,
    "expm1": [x for x in FLOATS if abs(x) < 21] + SPECIAL,
    "sin": FLOATS, "cos": FLOATS,
}  # fmt: skip


def map_kernel(function: str, elements: list[str], result: str, n: int) -> str:
    """o[i] = function(x0[i], x1[i], ...), each operand loaded."""
    lines = [f"tile.kernel @k [i = {n} grid BI] grid (i) params {{BI = 16}} ("]
    lines.append(", ".join(f"%x{k} : !tile.buffer<[{n}], [1], {e}>" for k, e in enumerate(elements)))
    lines.append(f") -> (%o : !tile.buffer<[{n}], [1], {result}>) {{")
    for k, e in enumerate(elements):
        lines.append(
            f'%a{k} = tile.load %x{k}<[i]> guard ["i"] : !tile.buffer<[{n}], [1], {e}> -> !tile.tile<[i], {e}>'
        )
    operands = ", ".join(f"%a{k}" for k in range(len(elements)))
    kinds = ", ".join(f"!tile.tile<[i], {e}>" for e in elements)
    lines.append(f'%y = tile.map "{function}"({operands}) : ({kinds}) -> !tile.tile<[i], {result}>')
    lines.append(f'tile.store %y, %o<[i]> guard ["i"] : !tile.tile<[i], {result}>, !tile.buffer<[{n}], [1], {result}>')
    lines.append("tile.return }")
    return "\n".join(lines)


def pairs(values, dtype):
    a = torch.tensor([x for x in values for _ in values], dtype=dtype)
    b = torch.tensor([y for _ in values for y in values], dtype=dtype)
    return a, b


def test_both_tables_have_a_row_for_every_scalar_function():
    assert set(TRITON_MAPS) == set(SCALARS) == set(TORCH_MAPS)


@pytest.mark.parametrize("function", sorted(n for n, s in SCALARS.items() if s.arity == 1 and s.result == "same"))
def test_functions_of_one_number(runner, function):
    x = torch.tensor(DOMAINS.get(function, FLOATS + SPECIAL))
    kernel = parse_kernel(map_kernel(function, ["f32"], "f32", len(x)))
    [wanted] = run_kernel(kernel, [x])
    for printer in ("torch", "triton"):
        [given] = getattr(runner, printer)(kernel, [x], {})
        torch.testing.assert_close(
            given, wanted.float(), rtol=1e-6, atol=1e-6 if function in ("sin", "cos") else 1e-35, equal_nan=True
        )


FLOAT_PAIRS = sorted(
    n for n, s in SCALARS.items() if s.arity == 2 and not n.startswith("i") and n not in ("and", "or", "xor")
)


@pytest.mark.parametrize("function", FLOAT_PAIRS)
def test_functions_of_two_numbers(runner, function):
    values = (
        FLOATS[:17] + SPECIAL if function != "pow" else [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 3.0, -3.0, 2.5, 11.0, -0.3]
    )
    x, y = pairs(values, torch.float32)
    result = "i1" if SCALARS[function].result == "bool" else "f32"
    kernel = parse_kernel(map_kernel(function, ["f32", "f32"], result, len(x)))
    [wanted] = run_kernel(kernel, [x, y])
    for printer in ("torch", "triton"):
        [given] = getattr(runner, printer)(kernel, [x, y], {})
        wanted_here = wanted if result == "i1" else wanted.float()
        torch.testing.assert_close(given, wanted_here, rtol=1e-6, atol=0, equal_nan=True)


INT_PAIRS = sorted(n for n, s in SCALARS.items() if s.arity == 2 and n.startswith("i") and n != "inside")


@pytest.mark.parametrize("function", INT_PAIRS)
def test_functions_of_two_integers(runner, function):
    x, y = pairs(INTS, torch.int64)
    if function in ("ifloordiv", "irem"):
        x, y = x[y != 0], y[y != 0]
    result = "i1" if SCALARS[function].result == "bool" else "i64"
    runner.check(map_kernel(function, ["i64", "i64"], result, len(x)), [x, y])


def test_inside_on_a_gpu(runner):
    """On a CPU the size is a number, and an index out of range an error: `test_a_label_out_of_range`."""
    x, y = pairs(INTS, torch.int64)
    x, y = x[y >= 0], y[y >= 0]
    kernel = parse_kernel(map_kernel("inside", ["i64", "i64"], "i1", len(x)))
    [given] = runner.triton(kernel, [x, y], {})
    assert given.tolist() == [0 <= a < b for a, b in zip(x.tolist(), y.tolist(), strict=True)]


@pytest.mark.parametrize("function", ["and", "or", "xor"])
def test_functions_of_truth_values(runner, function):
    x, y = pairs([False, True], torch.bool)
    runner.check(map_kernel(function, ["i1", "i1"], "i1", 4), [x, y])


@pytest.mark.parametrize(
    ("function", "source", "result", "values"),
    [
        ("int_to_float", "i64", "f32", INTS),
        ("bool_to_float", "i1", "f32", [True, False]),
        ("bool_to_int", "i1", "i64", [True, False]),
        ("float_to_int", "f32", "i64", [0.0, 1.9, -1.9, 100.5]),
        ("widen", "f32", "f64", FLOATS),
        ("narrow", "f64", "f32", [0.25, -3.0, 1e10]),
    ],
)
def test_casts(runner, function, source, result, values):
    x = torch.tensor(
        values, dtype=getattr(torch, {"i64": "int64", "i1": "bool", "f32": "float32", "f64": "float64"}[source])
    )
    runner.check(map_kernel(function, [source], result, len(x)), [x])


def test_select(runner, random_tensor):
    c, x, y = torch.tensor([True, False, True]), random_tensor(3), random_tensor(3)
    y[0] = math.nan  # not chosen
    runner.check(map_kernel("select", ["i1", "f32", "f32"], "f32", 3), [c, x, y])


@pytest.mark.parametrize("exponent", [2.0, 3.0, 4.0, 0.5, -0.5, -1.0, -2.0, 1.0, 2.5])
def test_powers_with_a_constant_exponent(runner, exponent):
    x = torch.tensor([0.1, 1.0, 2.0, 7.5])
    runner.check(
        f"""tile.kernel @k [i = 4 grid BI] grid (i) params {{BI = 16}} (%x : !tile.buffer<[4], [1], f32>) -> (%o : !tile.buffer<[4], [1], f32>) {{
  %a = tile.load %x<[i]> guard ["i"] : !tile.buffer<[4], [1], f32> -> !tile.tile<[i], f32>
  %e = tile.fill {exponent} : f32 -> !tile.tile<[], f32>
  %y = tile.map "pow"(%a, %e) : (!tile.tile<[i], f32>, !tile.tile<[], f32>) -> !tile.tile<[i], f32>
  tile.store %y, %o<[i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[4], [1], f32>
  tile.return
}}""",
        [x],
    )


# --- constants on either side, scalars of a program ---------------------------------------------------------------


@pytest.mark.parametrize("function", ["add", "sub", "mul", "div", "maximum", "minimum"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_constant_operand(runner, random_tensor, function, side):
    operands, kinds = ["%a", "%c"], ["!tile.tile<[i], f32>", "!tile.tile<[], f32>"]
    if side == "left":
        operands.reverse()
        kinds.reverse()
    runner.check(
        f"""tile.kernel @k [i = 5 grid BI] grid (i) params {{BI = 16}} (%x : !tile.buffer<[5], [1], f32>) -> (%o : !tile.buffer<[5], [1], f32>) {{
  %a = tile.load %x<[i]> guard ["i"] : !tile.buffer<[5], [1], f32> -> !tile.tile<[i], f32>
  %c = tile.fill -0.75 : f32 -> !tile.tile<[], f32>
  %y = tile.map "{function}"({", ".join(operands)}) : ({", ".join(kinds)}) -> !tile.tile<[i], f32>
  tile.store %y, %o<[i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[5], [1], f32>
  tile.return
}}""",
        [random_tensor(5)],
    )


@pytest.mark.parametrize("combiner", ["sum", "prod", "max", "min"])
def test_a_reduction_of_everything_to_one_number(runner, random_tensor, combiner):
    fill = {"sum": 0.0, "prod": 1.0, "max": "0xFF800000", "min": "0x7F800000"}[combiner]
    runner.check(
        f"""tile.kernel @k [b = nb unit, i = n whole, j = 5 whole] grid (b) params {{}} (
  %x : !tile.buffer<[nb, n, 5], [n * 5, 5, 1], f32>, %w : !tile.buffer<[nb], [2], f32>) -> (%o : !tile.buffer<[nb], [1], f32>) {{
  %a = tile.load %x<[b, i, j]> guard ["i", "j"] : !tile.buffer<[nb, n, 5], [n * 5, 5, 1], f32> -> !tile.tile<[i, j], f32>
  %w_1 = tile.load %w<[b]> guard [] : !tile.buffer<[nb], [2], f32> -> !tile.tile<[], f32>
  %p = tile.pad %a over ["i", "j"] with {fill} : f32 : !tile.tile<[i, j], f32> -> !tile.tile<[i, j], f32>
  %rows = tile.reduce "{combiner}" %p over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
  %all = tile.reduce "{combiner}" %rows over "i" : (!tile.tile<[i], f32>) -> !tile.tile<[], f32>
  %y = tile.map "mul"(%all, %w_1) : (!tile.tile<[], f32>, !tile.tile<[], f32>) -> !tile.tile<[], f32>
  tile.store %y, %o<[b]> guard [] : !tile.tile<[], f32>, !tile.buffer<[nb], [1], f32>
  tile.return
}}""",
        [random_tensor(3, 6, 5), random_tensor(3, 2)[:, 0]],
        {"nb": 3, "n": 6},
    )


@pytest.mark.parametrize("over", ["i", "j"])
@pytest.mark.parametrize("combiner", ["any", "all", "argmax", "argmin"])
def test_reductions_of_truth_values_and_to_indices(runner, random_tensor, combiner, over):
    kept = "j" if over == "i" else "i"
    truth = combiner in ("any", "all")
    element, fill = (
        ("i1", "false" if combiner == "any" else "true")
        if truth
        else ("f32", "0xFF800000 : f32" if combiner == "argmax" else "0x7F800000 : f32")
    )
    n, m = 7, 11
    x = (
        random_tensor(n, m) > 0.8
        if combiner == "any"
        else random_tensor(n, m) > -2
        if truth
        else random_tensor(n, m).round()
    )
    outs = f"!tile.tile<[{kept}], {element}>" if truth else f"(!tile.tile<[{kept}], f32>, !tile.tile<[{kept}], i64>)"
    y = "%y" if truth else "%z, %y"
    result = "i1" if truth else "i64"
    runner.check(
        f"""tile.kernel @k [i = {n} grid BI, j = {m} grid BJ] grid (i, j) params {{BI = 16, BJ = 16}} (
  %x : !tile.buffer<[{n}, {m}], [{m}, 1], {element}>) -> (%o : !tile.buffer<[{n if kept == "i" else m}], [1], {result}>) {{
  %a = tile.load %x<[i, j]> guard ["i", "j"] : !tile.buffer<[{n}, {m}], [{m}, 1], {element}> -> !tile.tile<[i, j], {element}>
  %p = tile.pad %a over ["{over}"] with {fill} : !tile.tile<[i, j], {element}> -> !tile.tile<[i, j], {element}>
  {y} = tile.reduce "{combiner}" %p over "{over}" : (!tile.tile<[i, j], {element}>) -> {outs}
  tile.store %y, %o<[{kept}]> guard ["{kept}"] : !tile.tile<[{kept}], {result}>, !tile.buffer<[{n if kept == "i" else m}], [1], {result}>
  tile.return
}}""",
        [x],
    )


# --- accesses -----------------------------------------------------------------------------------------------------


def access_kernel(
    access: str, buffer: str, tile_ranks: str = "[i, j]", checked: str = "", guard: str = '["i", "j"]'
) -> str:
    return f"""tile.kernel @k [h = 3 unit, i = 19 grid BI, j = 7 grid BJ] grid (h, i, j) params {{BI = 16, BJ = 16}} (
  %x : !tile.buffer<{buffer}, f32>) -> (%o : !tile.buffer<[3, 19, 7], [133, 7, 1], f32>) {{
  %a = tile.load %x<{access}> guard {guard} {checked} : !tile.buffer<{buffer}, f32> -> !tile.tile<{tile_ranks}, f32>
  %y = tile.map "neg"(%a) : (!tile.tile<{tile_ranks}, f32>) -> !tile.tile<{tile_ranks}, f32>
  tile.store %y, %o<[h, i, j]> guard ["i", "j"] : !tile.tile<{tile_ranks}, f32>, !tile.buffer<[3, 19, 7], [133, 7, 1], f32>
  tile.return
}}"""


ACCESSES = {
    "heads in one dimension": ("[i, h * 7 + j]", "[19, 21], [21, 1]", ""),
    "relative positions": ("[h, j - i + 18]", "[3, 25], [25, 1]", ""),
    "backwards": ("[2 - h, 18 - i, 6 - j]", "[3, 19, 7], [133, 7, 1]", ""),
    "every other": ("[h, i * 2 + 1, j]", "[3, 40, 7], [280, 7, 1]", ""),
    "a slice": ("[h + 1, i + 2, j]", "[4, 21, 7], [147, 7, 1]", ""),
    "a window that leaves the buffer": ("[h, i + j - 3]", "[3, 19], [19, 1]", "checked"),
    "a pad": ("[h, i - 2, j - 1]", "[3, 15, 5], [75, 5, 1]", "checked"),
    "floor division": ("[h, (i + 5) floordiv 4, j]", "[3, 6, 7], [42, 7, 1]", ""),
    "modulo": ("[h, i mod 4, j]", "[3, 4, 7], [28, 7, 1]", ""),
    "an empty buffer": ("[h, i - 100, j]", "[3, 0, 7], [0, 7, 1]", "checked"),
}


@pytest.mark.parametrize("name", ACCESSES)
@pytest.mark.parametrize("order", ["[i, j]", "[j, i]"])
def test_accesses(runner, random_tensor, name, order):
    access, buffer, checked = ACCESSES[name]
    shape = [int(x) for x in buffer.partition("]")[0].strip("[").split(",")]
    runner.check(access_kernel(access, buffer, order, checked), [random_tensor(*shape)])


def test_a_store_that_is_not_affine_is_refused_in_torch():
    text = access_kernel("[h, i, j]", "[3, 19, 7], [133, 7, 1]").replace("%o<[h, i, j]>", "%o<[h, i mod 19, j]>")
    with pytest.raises(NotPrintable, match="not affine"):
        print_torch(parse_kernel(text))


def test_offsets_are_64_bit_where_the_buffer_may_be_large():
    small = access_kernel("[h, i, j]", "[3, 19, 7], [133, 7, 1]")
    assert "int64" not in print_triton(parse_kernel(small)).text
    large = access_kernel("[h, i, j]", "[3, 19, 7], [3000000000, 7, 1]")
    assert "tl.cast(h, tl.int64) * 3000000000" in print_triton(parse_kernel(large)).text
    unknown = access_kernel("[h, i, j]", "[3, 19, 7], [s, t, 1]")
    text = print_triton(parse_kernel(unknown)).text
    assert "tl.cast(h, tl.int64) * s" in text
    assert "inner_i[:, None].to(tl.int64) * t" in text


# --- index expressions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        "i - j",
        "i * 3 + j + h",
        "(i - j) floordiv 3",
        "(i - j) mod 4",
        "i ceildiv 2",
        "min(i, j + 2)",
        "max(i - j, h)",
        "h * 100000000000 + i",
        "h",
        "i",
    ],
)
def test_index_expressions(runner, expression):
    runner.check(
        f"""tile.kernel @k [h = 3 unit, i = 19 grid BI, j = 7 grid BJ] grid (h, i, j) params {{BI = 16, BJ = 16}} (
  ) -> (%o : !tile.buffer<[3, 19, 7], [133, 7, 1], i64>) {{
  %y = tile.index<[{expression}]> : !tile.tile<[i, j], i64>
  tile.store %y, %o<[h, i, j]> guard ["i", "j"] : !tile.tile<[i, j], i64>, !tile.buffer<[3, 19, 7], [133, 7, 1], i64>
  tile.return
}}""",
        [],
    )


def test_integer_arithmetic_on_indices_has_64_bits(runner):
    runner.check(
        """tile.kernel @k [i = 19 grid BI] grid (i) params {BI = 16} () -> (%o : !tile.buffer<[19], [1], i64>) {
  %a = tile.index<[i]> : !tile.tile<[i], i64>
  %c = tile.fill 300000000 : i64 -> !tile.tile<[], i64>
  %b = tile.map "imul"(%a, %c) : (!tile.tile<[i], i64>, !tile.tile<[], i64>) -> !tile.tile<[i], i64>
  %y = tile.map "iadd"(%c, %b) : (!tile.tile<[], i64>, !tile.tile<[i], i64>) -> !tile.tile<[i], i64>
  tile.store %y, %o<[i]> guard ["i"] : !tile.tile<[i], i64>, !tile.buffer<[19], [1], i64>
  tile.return
}""",
        [],
    )


# --- dots ---------------------------------------------------------------------------------------------------------


def dot_kernel(lhs: str, rhs: str, out: str, element: str = "f32", acc: bool = False) -> str:
    """Ranks b, c (batch), g, i (rows), j (columns), k (contracted), all ragged."""
    extents = {"b": 3, "c": 2, "g": 2, "i": 19, "j": 21, "k": 18}
    tiles = {"b": 2, "c": 2, "g": 2, "i": 16, "j": 16, "k": 32}
    present = [r for r in extents if r in lhs + rhs]
    table = ", ".join(f"{r} = {extents[r]} " + ("whole" if r == "k" else f"grid B{r}") for r in present)
    params = ", ".join(f"B{r} = {tiles[r]}" for r in present if r != "k")
    ranks = {name: ", ".join(x) for name, x in (("lhs", lhs), ("rhs", rhs), ("out", out))}

    def buffer(names: str, kind: str) -> str:
        shape = [extents[r] for r in names]
        strides = [math.prod(shape[n + 1 :]) for n in range(len(shape))]
        return f"!tile.buffer<{shape}, {strides}, {kind}>"

    def guard(names: str) -> str:
        return "[" + ", ".join(f'"{r}"' for r in names) + "]"

    start = f"%c0 = tile.fill 1.0 : f32 -> !tile.tile<[{ranks['out']}], f32>" if acc else ""
    accumulate = f"acc %c0 : !tile.tile<[{ranks['out']}], f32>" if acc else ""
    return f"""tile.kernel @k [{table}] grid ({", ".join(r for r in present if r != "k")}) params {{{params}}} (
  %x : {buffer(lhs, element)}, %w : {buffer(rhs, element)}) -> (%o : {buffer(out, "f32")}) {{
  %a = tile.load %x<[{ranks["lhs"]}]> guard {guard(lhs)} : {buffer(lhs, element)} -> !tile.tile<[{ranks["lhs"]}], {element}>
  %b_1 = tile.load %w<[{ranks["rhs"]}]> guard {guard(rhs)} : {buffer(rhs, element)} -> !tile.tile<[{ranks["rhs"]}], {element}>
  {start}
  %y = tile.dot %a, %b_1 {accumulate} over "k" precision "ieee" : !tile.tile<[{ranks["lhs"]}], {element}>, !tile.tile<[{ranks["rhs"]}], {element}> -> !tile.tile<[{ranks["out"]}], f32>
  tile.store %y, %o<[{ranks["out"]}]> guard {guard(out)} : !tile.tile<[{ranks["out"]}], f32>, {buffer(out, "f32")}
  tile.return
}}"""


DOTS = [
    ("ik", "kj", "ij"),
    ("ik", "jk", "ij"),
    ("ki", "jk", "ij"),
    ("ik", "jk", "ji"),
    ("bik", "bjk", "bij"),
    ("bik", "bkj", "bji"),
    ("bik", "jk", "bij"),
    ("gik", "jk", "gij"),
    ("bgik", "bjk", "bgij"),
    ("bcik", "bcjk", "bcij"),
    ("ibk", "bjk", "bij"),
    ("bik", "bjk", "ibj"),
]


@pytest.mark.parametrize("acc", [False, True], ids=["", "acc"])
@pytest.mark.parametrize("element", ["f32", "f16"])
@pytest.mark.parametrize("dot", DOTS, ids=lambda d: "{},{}->{}".format(*d))
def test_dots(runner, random_tensor, dot, element, acc):
    extents = {"b": 3, "c": 2, "g": 2, "i": 19, "j": 21, "k": 18}
    dtype = torch.float32 if element == "f32" else torch.float16
    inputs = [random_tensor(*(extents[r] for r in names), dtype=dtype) for names in dot[:2]]
    runner.check(dot_kernel(*dot, element=element, acc=acc), inputs)


def test_a_dot_of_a_vector_is_for_the_cpu():
    """A matrix unit has no use for a single row."""
    text = dot_kernel("ik", "jk", "ij").replace("!tile.tile<[j, k], f32>", "!tile.tile<[k], f32>")
    text = text.replace("!tile.tile<[i, j], f32>", "!tile.tile<[i], f32>").replace("%w<[j, k]>", "%w<[0, k]>")
    text = (
        text.replace("%o<[i, j]>", "%o<[i, 0]>")
        .replace('guard ["j", "k"]', 'guard ["k"]')
        .replace('["i", "j"]', '["i"]')
    )
    assert "mv(" in print_torch(parse_kernel(text)).text or "mm(" in print_torch(parse_kernel(text)).text
    with pytest.raises(NotPrintable, match="a rank of its own"):
        print_triton(parse_kernel(text))


# --- loops --------------------------------------------------------------------------------------------------------


def test_a_loop_that_rotates_its_state(runner, random_tensor):
    """The yield permutes the carried values, repeats one, and gives one from outside the loop."""
    runner.check(
        """tile.kernel @k [i = 5 grid BI, j = 37 loop BJ] grid (i) params {BI = 8, BJ = 4} (
  %x : !tile.buffer<[5, 37], [37, 1], f32>) -> (%o : !tile.buffer<[5, 4], [4, 1], f32>) {
  %one = tile.fill 1.0 : f32 -> !tile.tile<[i], f32>
  %two = tile.fill 2.0 : f32 -> !tile.tile<[i], f32>
  %zero = tile.fill 0.0 : f32 -> !tile.tile<[], f32>
  %a, %b, %c, %d = tile.for j from 0 to 37 (%a_i = %one : !tile.tile<[i], f32>, %b_i = %one : !tile.tile<[i], f32>, %c_i = %two : !tile.tile<[i], f32>, %d_i = %two : !tile.tile<[i], f32>) {
    %x_1 = tile.load %x<[i, j]> guard ["i", "j"] : !tile.buffer<[5, 37], [37, 1], f32> -> !tile.tile<[i, j], f32>
    %p = tile.pad %x_1 over ["j"] with 0.0 : f32 : !tile.tile<[i, j], f32> -> !tile.tile<[i, j], f32>
    %s = tile.reduce "sum" %p over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
    %t = tile.map "add"(%a_i, %s) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    tile.yield %b_i, %t, %t, %one : !tile.tile<[i], f32>, !tile.tile<[i], f32>, !tile.tile<[i], f32>, !tile.tile<[i], f32>
  }
  %r = tile.map "add"(%c, %two) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
  tile.store %a, %o<[i, 0]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[5, 4], [4, 1], f32>
  tile.store %b, %o<[i, 1]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[5, 4], [4, 1], f32>
  tile.store %r, %o<[i, 2]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[5, 4], [4, 1], f32>
  tile.store %d, %o<[i, 3]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[5, 4], [4, 1], f32>
  tile.return
}""",
        [random_tensor(5, 37)],
    )


def test_loops_after_and_inside_one_another(runner, random_tensor):
    """A GEMM whose output rank is streamed too, then a second loop over the same rank that goes on with the state."""
    runner.check(
        """tile.kernel @k [i = n grid BI, j = m loop BJ, k = q loop BK] grid (i) params {BI = 16, BJ = 16, BK = 16} (
  %x : !tile.buffer<[n, q], [q, 1], f32>, %w : !tile.buffer<[m, q], [q, 1], f32>
) -> (%o : !tile.buffer<[n], [1], f32>, %y : !tile.buffer<[n, m], [m, 1], f32>) {
  %top0 = tile.fill 0xFF800000 : f32 -> !tile.tile<[i], f32>
  %top = tile.for j from 0 to m (%top_i = %top0 : !tile.tile<[i], f32>) {
    %s0 = tile.fill 0.0 : f32 -> !tile.tile<[i, j], f32>
    %s = tile.for k from 0 to q (%s_i = %s0 : !tile.tile<[i, j], f32>) {
      %x_1 = tile.load %x<[i, k]> guard ["i", "k"] : !tile.buffer<[n, q], [q, 1], f32> -> !tile.tile<[i, k], f32>
      %w_1 = tile.load %w<[j, k]> guard ["j", "k"] : !tile.buffer<[m, q], [q, 1], f32> -> !tile.tile<[j, k], f32>
      %s_1 = tile.dot %x_1, %w_1 acc %s_i : !tile.tile<[i, j], f32> over "k" precision "ieee" : !tile.tile<[i, k], f32>, !tile.tile<[j, k], f32> -> !tile.tile<[i, j], f32>
      tile.yield %s_1 : !tile.tile<[i, j], f32>
    }
    tile.store %s, %y<[i, j]> guard ["i", "j"] : !tile.tile<[i, j], f32>, !tile.buffer<[n, m], [m, 1], f32>
    %p = tile.pad %s over ["j"] with 0xFF800000 : f32 : !tile.tile<[i, j], f32> -> !tile.tile<[i, j], f32>
    %best = tile.reduce "max" %p over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
    %top_1 = tile.map "maximum"(%top_i, %best) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    tile.yield %top_1 : !tile.tile<[i], f32>
  }
  %sum = tile.for k from 0 to q (%sum_i = %top : !tile.tile<[i], f32>) {
    %x_2 = tile.load %x<[i, k]> guard ["i", "k"] : !tile.buffer<[n, q], [q, 1], f32> -> !tile.tile<[i, k], f32>
    %part = tile.reduce "sum" %x_2 over "k" : (!tile.tile<[i, k], f32>) -> !tile.tile<[i], f32>
    %sum_1 = tile.map "add"(%sum_i, %part) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    tile.yield %sum_1 : !tile.tile<[i], f32>
  }
  tile.store %sum, %o<[i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[n], [1], f32>
  tile.return
}""",
        [random_tensor(19, 40), random_tensor(37, 40)],
        {"n": 19, "m": 37, "q": 40},
    )


@pytest.mark.parametrize("function", ["ilt", "ile", "igt", "ige", "ieq", "ine"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_loops_index_against_integers_of_64_bits(runner, function, side):
    """How often each holds, for numbers inside and outside of the rank, and those that no difference may be taken of."""
    operands, kinds = ["%j_1", "%t_1"], ["!tile.tile<[j], i64>", "!tile.tile<[i], i64>"]
    if side == "right":
        operands.reverse()
        kinds.reverse()
    text = f"""tile.kernel @k [i = 13 whole, j = 21 loop BJ] grid () params {{BJ = 8}} (%t : !tile.buffer<[13], [1], i64>) -> (%o : !tile.buffer<[13], [1], i64>) {{
  %t_1 = tile.load %t<[i]> guard ["i"] : !tile.buffer<[13], [1], i64> -> !tile.tile<[i], i64>
  %none = tile.fill 0 : i64 -> !tile.tile<[i], i64>
  %all = tile.for j from 0 to 21 (%n = %none : !tile.tile<[i], i64>) {{
    %j_1 = tile.index<[j]> : !tile.tile<[j], i64>
    %hit = tile.map "{function}"({", ".join(operands)}) : ({", ".join(kinds)}) -> !tile.tile<[i, j], i1>
    %one = tile.map "bool_to_int"(%hit) : (!tile.tile<[i, j], i1>) -> !tile.tile<[i, j], i64>
    %some = tile.pad %one over ["j"] with 0 : i64 : !tile.tile<[i, j], i64> -> !tile.tile<[i, j], i64>
    %sum = tile.reduce "sum" %some over "j" : (!tile.tile<[i, j], i64>) -> !tile.tile<[i], i64>
    %more = tile.map "iadd"(%n, %sum) : (!tile.tile<[i], i64>, !tile.tile<[i], i64>) -> !tile.tile<[i], i64>
    tile.yield %more : !tile.tile<[i], i64>
  }}
  tile.store %all, %o<[i]> guard ["i"] : !tile.tile<[i], i64>, !tile.buffer<[13], [1], i64>
  tile.return
}}"""
    numbers = torch.tensor([-(2**63), -(2**31) - 1, -9, -1, 0, 7, 8, 13, 20, 21, 24, 2**32 + 3, 2**63 - 1])
    runner.check(text, [numbers])
    (kernel,) = parse_module(text).body.block.ops
    assert "near_j = tl.minimum(" in print_triton(cast(tile.KernelOp, kernel)).text


def test_a_grids_index_against_integers_of_64_bits(runner):
    """One number in each row hits; the tile is not the rank's first."""
    text = """tile.kernel @k [i = 13 whole, j = 21 grid BJ] grid (j) params {BJ = 8} (%t : !tile.buffer<[13], [1], i64>) -> (%o : !tile.buffer<[13, 21], [21, 1], i1>) {
  %t_1 = tile.load %t<[i]> guard ["i"] : !tile.buffer<[13], [1], i64> -> !tile.tile<[i], i64>
  %j_1 = tile.index<[j]> : !tile.tile<[j], i64>
  %hit = tile.map "ieq"(%j_1, %t_1) : (!tile.tile<[j], i64>, !tile.tile<[i], i64>) -> !tile.tile<[i, j], i1>
  tile.store %hit, %o<[i, j]> guard ["i", "j"] : !tile.tile<[i, j], i1>, !tile.buffer<[13, 21], [21, 1], i1>
  tile.return
}"""
    numbers = torch.tensor([-(2**63), -(2**31) - 1, -9, -1, 0, 7, 8, 13, 20, 21, 24, 2**32 + 3, 2**63 - 1])
    runner.check(text, [numbers])
    (kernel,) = parse_module(text).body.block.ops
    assert "near_j = tl.minimum(" in print_triton(cast(tile.KernelOp, kernel)).text


def test_a_loop_over_single_elements(runner):
    """A unit rank that is not in the grid: no tile has it, and an inner sum goes on from what the loop carries."""
    text = """tile.kernel @k [b = 3 unit, i = 19 grid BI, f = 32 whole, j = 37 loop BJ] grid (i) params {BI = 16, BJ = 16} (%a : !tile.buffer<[3, 19, 37], [703, 37, 1], f32>, %v : !tile.buffer<[3, 37, 32], [1184, 32, 1], f32>) -> (%o : !tile.buffer<[19, 32], [32, 1], f32>, %m : !tile.buffer<[3, 19], [19, 1], f32>) {
  %zero = tile.fill 0.0 : f32 -> !tile.tile<[i, f], f32>
  %none = tile.fill 0xff800000 : f32 -> !tile.tile<[i], f32>
  %all = tile.for b from 0 to 3 (%sum = %zero : !tile.tile<[i, f], f32>) {
    %some, %top = tile.for j from 0 to 37 (%part = %sum : !tile.tile<[i, f], f32>, %most = %none : !tile.tile<[i], f32>) {
      %a_1 = tile.load %a<[b, i, j]> guard ["i", "j"] : !tile.buffer<[3, 19, 37], [703, 37, 1], f32> -> !tile.tile<[i, j], f32>
      %v_1 = tile.load %v<[b, j, f]> guard ["j"] : !tile.buffer<[3, 37, 32], [1184, 32, 1], f32> -> !tile.tile<[f, j], f32>
      %more = tile.dot %a_1, %v_1 acc %part : !tile.tile<[i, f], f32> over "j" precision "ieee" : !tile.tile<[i, j], f32>, !tile.tile<[f, j], f32> -> !tile.tile<[i, f], f32>
      %pad = tile.pad %a_1 over ["j"] with 0xff800000 : f32 : !tile.tile<[i, j], f32> -> !tile.tile<[i, j], f32>
      %row = tile.reduce "max" %pad over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
      %now = tile.map "maximum"(%most, %row) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
      tile.yield %more, %now : !tile.tile<[i, f], f32>, !tile.tile<[i], f32>
    }
    tile.store %top, %m<[b, i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[3, 19], [19, 1], f32>
    tile.yield %some : !tile.tile<[i, f], f32>
  }
  tile.store %all, %o<[i, f]> guard ["i"] : !tile.tile<[i, f], f32>, !tile.buffer<[19, 32], [32, 1], f32>
  tile.return
}"""
    runner.check(text, [torch.randn(3, 19, 37), torch.randn(3, 37, 32)])


def test_a_batch_of_one_is_a_plain_product(runner):
    text = """tile.kernel @k [b = 3 loop BB, i = 19 grid BI, f = 32 whole, j = 32 whole] grid (i) params {BB = 1, BI = 16} (%a : !tile.buffer<[3, 32, 19], [608, 19, 1], f32>, %v : !tile.buffer<[3, 32, 32], [1024, 32, 1], f32>) -> (%o : !tile.buffer<[3, 19, 32], [608, 32, 1], f32>) {
  tile.for b from 0 to 3 () {
    %a_1 = tile.load %a<[b, j, i]> guard ["b", "i"] : !tile.buffer<[3, 32, 19], [608, 19, 1], f32> -> !tile.tile<[b, i, j], f32>
    %v_1 = tile.load %v<[b, j, f]> guard ["b"] : !tile.buffer<[3, 32, 32], [1024, 32, 1], f32> -> !tile.tile<[b, f, j], f32>
    %more = tile.dot %a_1, %v_1 over "j" precision "ieee" : !tile.tile<[b, i, j], f32>, !tile.tile<[b, f, j], f32> -> !tile.tile<[b, i, f], f32>
    tile.store %more, %o<[b, i, f]> guard ["b", "i"] : !tile.tile<[b, i, f], f32>, !tile.buffer<[3, 19, 32], [608, 32, 1], f32>
    tile.yield
  }
  tile.return
}"""
    runner.check(text, [torch.randn(3, 32, 19), torch.randn(3, 32, 32)])


CONDITIONAL = """tile.kernel @k [i = 20 grid BI, j = 37 loop BJ] grid (i) params {{BI = 8, BJ = 8}} (
  %x : !tile.buffer<[20, 37], [37, 1], f32>, %m : !tile.buffer<[20, 37], [37, 1], i1>
) -> (%o : !tile.buffer<[20], [1], f32>, %n : !tile.buffer<[20], [1], f32>) {{
  %zero = tile.fill 0.0 : f32 -> !tile.tile<[i], f32>
  %one = tile.fill 1.0 : f32 -> !tile.tile<[i], f32>
  %s, %t = tile.for j from 0 to 37 (%s_i = %zero : !tile.tile<[i], f32>, %t_i = %one : !tile.tile<[i], f32>) {{
    %m_1 = tile.load %m<[i, j]> guard ["i", "j"] : !tile.buffer<[20, 37], [37, 1], i1> -> !tile.tile<[i, j], i1>
    %c = tile.pad %m_1 over ["i", "j"] with {lanes} : !tile.tile<[i, j], i1> -> !tile.tile<[i, j], i1>
    %s_1, %t_1 = tile.if {quantifier} %c : !tile.tile<[i, j], i1> (%s_b = %s_i : !tile.tile<[i], f32>, %t_b = %t_i : !tile.tile<[i], f32>) {{
      %x_1 = tile.load %x<[i, j]> guard ["i", "j"] : !tile.buffer<[20, 37], [37, 1], f32> -> !tile.tile<[i, j], f32>
      %p = tile.reduce "sum" %x_1 over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
      %a = tile.map "add"(%s_b, %p) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
      tile.yield {yields} : !tile.tile<[i], f32>, !tile.tile<[i], f32>
    }}
    tile.yield %s_1, %t_1 : !tile.tile<[i], f32>, !tile.tile<[i], f32>
  }}
  tile.store %s, %o<[i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[20], [1], f32>
  tile.store %t, %n<[i]> guard ["i"] : !tile.tile<[i], f32>, !tile.buffer<[20], [1], f32>
  tile.return
}}"""


@pytest.mark.parametrize("yields", ["%a, %t_b", "%t_b, %a", "%a, %a", "%t_b, %s_b", "%a, %one"])
@pytest.mark.parametrize(("quantifier", "lanes"), [("any", "false"), ("all", "true")])
def test_a_step_or_none(runner, quantifier, lanes, yields):
    """The state is what the body makes of it, in whatever order, or what it was; lanes beyond an extent do not count."""
    mask = torch.zeros(20, 37, dtype=torch.bool)
    mask[3, 9] = mask[17, 36] = True
    mask[8:16, 16:32] = mask[:8, 32:] = True
    text = CONDITIONAL.format(quantifier=quantifier, lanes=lanes, yields=yields)
    runner.check(text, [torch.randn(20, 37, generator=torch.Generator().manual_seed(3)), mask])


def test_a_condition_is_one_number_when_it_is_printed():
    text = CONDITIONAL.format(quantifier="any", lanes="false", yields="%a, %t_b")
    assert "if tl.max(c.to(tl.int32), None) > 0:" in print_triton(parse_kernel(text)).text
    assert "if any_of(m_1):" in print_torch(parse_kernel(text)).text
