"""Regions of scalars: their end, index expressions in them, and what every map region must be."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from xdsl.dialects.builtin import IntegerType, i64
from xdsl.ir import Attribute, Region, SSAValue
from xdsl.irdl import IRDLOperation, irdl_op_definition, prop_def, result_def, traits_def, var_operand_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsTerminator, Pure
from xdsl.utils.exceptions import VerifyException

from .. import scalar, symbols
from ..attributes import AccessMap


@irdl_op_definition
class YieldOp(IRDLOperation):
    """`cascade.yield %x, %y : f32, f32` ends a region of scalars."""

    name = "cascade.yield"
    values = var_operand_def()
    assembly_format = "attr-dict ($values^ `:` type($values))?"
    traits = traits_def(IsTerminator())

    def __init__(self, *values: SSAValue):
        super().__init__(operands=[values])


@irdl_op_definition
class IndexOp(IRDLOperation):
    """The value of an index expression over rank variables and sizes, inside a map region: `cascade.index i - j : i64`.

    Causal masks, windows, ALiBi and positions are ordinary map expressions over it.
    """

    name = "cascade.index"
    expression = prop_def(AccessMap)
    result = result_def(IntegerType)
    traits = traits_def(Pure())

    def __init__(self, expression: sympy.Expr | str):
        super().__init__(properties={"expression": AccessMap.of([expression])}, result_types=[i64])

    @property
    def expr(self) -> sympy.Expr:
        return self.expression.data[0]

    def print(self, printer: Printer) -> None:
        printer.print_string(f" {symbols.to_text(self.expr)} : ")
        printer.print_attribute(self.result.type)

    @classmethod
    def parse(cls, parser: Parser) -> IndexOp:
        expression = symbols.parse(parser)
        parser.parse_punctuation(":")
        if parser.parse_type() != i64:
            parser.raise_error("the value of an index expression is an i64")
        return cls(expression)

    def verify_(self) -> None:
        if len(self.expression.data) != 1:
            raise VerifyException("cascade.index takes one index expression")


def verify_scalar_region(
    region: Region, arguments: Sequence[Attribute], results: Sequence[Attribute], what: str
) -> None:
    """Check that `region` is one block of scalar-table ops, taking and yielding the given types."""
    if len(region.blocks) != 1:
        raise VerifyException(f"{what} must be one block")
    block = region.block
    if [a.type for a in block.args] != list(arguments):
        raise VerifyException(
            f"{what} takes {[str(a.type) for a in block.args]}, expected {[str(a) for a in arguments]} "
            "(compute types of the inputs)"
        )
    last = block.last_op
    if not isinstance(last, YieldOp):
        raise VerifyException(f"{what} must end in cascade.yield")
    for op in block.ops:
        if not isinstance(op, YieldOp | IndexOp) and scalar.name_of(op) is None:
            raise VerifyException(f"{what}: {op.name} is not in the scalar table")
    if [v.type for v in last.values] != list(results):
        raise VerifyException(
            f"{what} yields {[str(v.type) for v in last.values]}, expected {[str(r) for r in results]}"
        )
