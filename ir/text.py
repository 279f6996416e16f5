"""Textual form of programs: a context with every dialect, `parse_module`, `print_module`."""

from __future__ import annotations

import math
from io import StringIO

from xdsl.context import Context
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import AnyFloat, Builtin, ModuleOp
from xdsl.dialects.math import Math
from xdsl.ir import Operation
from xdsl.parser import Parser
from xdsl.printer import Printer

from .cascade import Cascade
from .tile import Tile
from .verify import verify


def context() -> Context:
    """A context that knows every dialect a program may use."""
    ctx = Context()
    for dialect in (Builtin, Arith, Math, Cascade, Tile):
        ctx.load_dialect(dialect)
    return ctx


def parse_module(text: str, name: str = "<text>") -> ModuleOp:
    """Parse and verify a module.  Raises xDSL's ParseError or VerifyException."""
    module = Parser(context(), text, name).parse_module()
    verify(module)
    return module


class _Printer(Printer):
    """Floats and strings as one writes them: `0.5` and not `5.000000e-01`, `"≤"` and not `"\\E2\\89\\A4"`."""

    def print_string_literal(self, string: str) -> None:
        for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
            string = string.replace(character, escaped)
        self.print_string(f'"{string}"')

    def print_float(self, value: float, type: AnyFloat) -> None:
        if not math.isfinite(value):
            super().print_float(value, type)
            return
        rounded = value
        for digits in range(1, 18):
            rounded = float(f"{value:.{digits}g}")
            try:
                if type.unpack(type.pack([rounded]), 1)[0] == value:
                    break
            except OverflowError:  # the largest number of a type, rounded up to fewer digits
                continue
        mantissa, e, exponent = repr(rounded).partition("e")  # MLIR wants a point: 1.0e-05
        self.print_string(f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent}")


def print_module(op: Operation) -> str:
    """The textual form of an operation, with a final newline; equal programs give equal text."""
    stream = StringIO()
    _Printer(stream).print_op(op)
    return stream.getvalue() + "\n"
