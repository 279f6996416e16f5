"""How scalar functions, reductions and index arithmetic are written in Triton: tables, one row a function.

Rows must work for CUDA, for AMD and in Triton's interpreter, so nothing comes from a vendor's library.
"""

from __future__ import annotations

from .text import Spelling

# Scalar function -> text; {0}, {1}, ... are operands, each an atom.  `name(` of a helper below brings the helper in.
MAPS: dict[str, str] = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "abs": "tl.abs({0})",
    "exp": "tl.exp({0})",
    "exp2": "tl.exp2({0})",
    "expm1": "expm1({0})",
    "log": "tl.log({0})",
    "log2": "tl.log2({0})",
    "log1p": "log1p({0})",
    "sqrt": "tl.sqrt_rn({0})",
    "rsqrt": "tl.rsqrt({0})",
    "tanh": "tanh({0})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "erf": "tl.erf({0})",
    "pow": "power({0}, {1})",
    "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})",
    "trunc": "trunc({0})",
    "round": "round_half_even({0})",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "iadd": "{0} + {1}",
    "isub": "{0} - {1}",
    "imul": "{0} * {1}",
    "ifloordiv": "floordiv({0}, {1})",
    "irem": "{0} % {1}",
    "imaximum": "tl.maximum({0}, {1})",
    "iminimum": "tl.minimum({0}, {1})",
    "ilt": "{0} < {1}",
    "ile": "{0} <= {1}",
    "igt": "{0} > {1}",
    "ige": "{0} >= {1}",
    "ieq": "{0} == {1}",
    "ine": "{0} != {1}",
    "inside": "({0} >= 0) & ({0} < {1})",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "select": "tl.where({0}, {1}, {2})",
    "int_to_float": "{0}.to({type})",
    "bool_to_float": "{0}.to({type})",
    "float_to_int": "{0}.to({type})",
    "bool_to_int": "{0}.to({type})",
    "widen": "{0}.to({type})",
    "narrow": "{0}.to({type})",
    "to_bf16": "{0}.to({type})",
    "to_f16": "{0}.to({type})",
}

# Powers with a constant exponent that need no logarithm.
POWERS: dict[float, str] = {
    1.0: "{0}",
    2.0: "{0} * {0}",
    3.0: "{0} * {0} * {0}",
    4.0: "({0} * {0}) * ({0} * {0})",
    -1.0: "1.0 / {0}",
    -2.0: "1.0 / ({0} * {0})",
    0.5: "tl.sqrt_rn({0})",
    -0.5: "tl.rsqrt({0})",
}

# i64 values that come from index expressions are often held in 32 bits; these may need all 64.
GROWS = {"iadd", "isub", "imul", "ifloordiv"}
KEEPS = {"imaximum", "iminimum", "irem", "select"}

REDUCTIONS: dict[str, str] = {
    "sum": "tl.sum({0}, {axis})",
    "prod": "tl.reduce({0}, {axis}, product)",
    "max": "tl.reduce({0}, {axis}, nan_max)",
    "min": "tl.reduce({0}, {axis}, nan_min)",
    "any": "tl.max({0}.to(tl.int32), {axis}) > 0",
    "all": "tl.min({0}.to(tl.int32), {axis}) > 0",
    "argmax": "argmax({0}, {index}, {axis})",
    "argmin": "argmin({0}, {index}, {axis})",
}
INTEGER_REDUCTIONS = {"max": "tl.max({0}, {axis})", "min": "tl.min({0}, {axis})"}
QUANTIFIERS: dict[str, str] = {  # of all elements of a tile of booleans
    "any": "tl.max({0}.to(tl.int32), None) > 0",
    "all": "tl.min({0}.to(tl.int32), None) > 0",
}

# Functions that Triton lacks, or has only for one vendor and not in its interpreter.
HELPERS: dict[str, str] = {
    "nan_max": """
def nan_max(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
""",
    "nan_min": """
def nan_min(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
""",
    "product": """
def product(a, b):
    return a * b
""",
    "argmax": '''
def argmax(x, index, axis: tl.constexpr):
    """The greatest element along an axis and its first index; NaN counts as greatest."""
    top = tl.reduce(x, axis, nan_max)
    hit = (x == tl.expand_dims(top, axis)) | (x != x)
    return top, tl.min(tl.where(hit, index, 2147483647), axis)
''',
    "argmin": '''
def argmin(x, index, axis: tl.constexpr):
    """The least element along an axis and its first index; NaN counts as least."""
    low = tl.reduce(x, axis, nan_min)
    hit = (x == tl.expand_dims(low, axis)) | (x != x)
    return low, tl.min(tl.where(hit, index, 2147483647), axis)
''',
    "expm1": '''
def expm1(x):
    """exp(x) - 1: a Taylor polynomial near 0, where the difference would cancel."""
    p = x / 39916800.0 + 1.0 / 3628800.0
    p = p * x + 1.0 / 362880.0
    p = p * x + 1.0 / 40320.0
    p = p * x + 1.0 / 5040.0
    p = p * x + 1.0 / 720.0
    p = p * x + 1.0 / 120.0
    p = p * x + 1.0 / 24.0
    p = p * x + 1.0 / 6.0
    p = p * x + 0.5
    return tl.where(tl.abs(x) < 0.7, p * x * x + x, tl.exp(x) - 1.0)
''',
    "log1p": '''
def log1p(x):
    """log(1 + x): the rounding of 1 + x is divided out again."""
    u = 1.0 + x
    return tl.where((u == 1.0) | (u == float("inf")), x, tl.log(u) * (x / (u - 1.0)))
''',
    "tanh": '''
def tanh(x):
    """By exp(-2|x|), which never overflows; by a polynomial near 0, where that would cancel."""
    z = x * x
    p = (-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2
    p = (p * z + 1.33314422036e-1) * z - 3.33332819422e-1
    t = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - t) / (1.0 + t)
    return tl.where(tl.abs(x) < 0.625, p * z * x + x, tl.where(x < 0.0, -far, far))
''',
    "trunc": """
def trunc(x):
    return tl.where(x < 0.0, tl.ceil(x), tl.floor(x))
""",
    "round_half_even": """
def round_half_even(x):
    low = tl.floor(x)
    half = x - low
    odd = low - 2.0 * tl.floor(low * 0.5) != 0.0
    return tl.where((half > 0.5) | ((half == 0.5) & odd), low + 1.0, low)
""",
    "power": '''
def power(x, y):
    """x to the y; the logarithm in 64 bits, since exp2 multiplies its error by the result's exponent."""
    y = y + tl.zeros_like(x)
    size = tl.exp2(y.to(tl.float64) * tl.log2(tl.abs(x).to(tl.float64))).to(x.dtype)
    whole = tl.floor(y) == y
    odd = whole & (y * 0.5 != tl.floor(y * 0.5))
    signed = tl.where(x < 0.0, tl.where(whole, tl.where(odd, -size, size), float("nan")), size)
    return tl.where((y == 0.0) | (x == 1.0), 1.0, signed)
''',
    "floordiv": '''
def floordiv(a, b):
    """a // b rounding down; Triton's own rounds toward zero."""
    q = a // b
    return tl.where((a - q * b != 0) & ((a < 0) != (b < 0)), q - 1, q)
''',
}
NEEDS: dict[str, tuple[str, ...]] = {"argmax": ("nan_max",), "argmin": ("nan_min",)}
SINGLE_PRECISION = {"expm1", "tanh"}  # their polynomials are no better

SPELLING = Spelling(
    floordiv=lambda a, b, natural: f"{a} // {b}" if natural else f"floordiv({a}, {b})",
    ceildiv=lambda a, b, natural: f"({a} + {b} - 1) // {b}" if natural else f"-floordiv(-{a}, {b})",
    mod=lambda a, b, natural: f"{a} % {b}" if natural else f"({a} - floordiv({a}, {b}) * {b})",
    minimum=lambda a, b: f"tl.minimum({a}, {b})",
    maximum=lambda a, b: f"tl.maximum({a}, {b})",
)
