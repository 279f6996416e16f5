"""Classes of functions and of operand types that run at rates of their own."""

from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float64Type
from xdsl.ir import Attribute

TRANSCENDENTAL = {
    "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "tanh", "sin", "cos", "erf", "pow", "div",
}  # fmt: skip

STEPWISE = {"erf", "pow", "sin", "cos", "expm1", "log1p"}  # computed by many instructions, with registers of their own

# What a GPU does at the full rate of its vector units; the rest (comparisons, choices, extremes, integers) at half of it.
FULL_RATE = {"add", "sub", "mul", "neg", "abs", "cast", "widen", "narrow"}


def dot_dtype(element: Attribute) -> str:
    """The rate table's name for an operand type."""
    if isinstance(element, Float16Type):
        return "f16"
    if isinstance(element, BFloat16Type):
        return "bf16"
    return "f64" if isinstance(element, Float64Type) else "f32"
