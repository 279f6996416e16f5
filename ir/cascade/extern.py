"""`cascade.extern`: an opaque call."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import IRDLOperation, irdl_op_definition, opt_prop_def, prop_def, var_operand_def, var_result_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from .syntax import parse_attributes


def _parse_string(parser: Parser) -> str:
    """A string literal; xDSL takes one with escapes and letters outside ASCII for bytes."""
    text = parser.parse_optional_str_literal()
    return text if text is not None else parser.parse_bytes_literal().decode()


@irdl_op_definition
class ExternOp(IRDLOperation):
    """An opaque ATen call: `%y, %p = cascade.extern "aten.sort.default"(%x) because "it sorts" : (T) -> (T, I)`.

    `arguments` (after `with`) holds the call's arguments as JSON: a list, or `{"args": [...], "kwargs": {...}}`;
    without it the call takes the operands.  In it, `{"tensor": n}` stands for operand n, `{"size": "n * 2"}` for an
    index expression over sizes, `{"dtype": "float32"}` for a dtype, `{"float": "inf"}` for what JSON cannot write.
    """

    name = "cascade.extern"
    inputs = var_operand_def()
    target = prop_def(StringAttr)
    reason = prop_def(StringAttr)
    arguments = opt_prop_def(StringAttr)
    outs = var_result_def()

    def __init__(
        self,
        target: str,
        inputs: Sequence[SSAValue],
        result_types: Sequence[Attribute],
        reason: str,
        arguments: str | None = None,
        attributes: dict[str, Attribute] | None = None,
    ):
        properties: dict[str, Attribute] = {"target": StringAttr(target), "reason": StringAttr(reason)}
        if arguments is not None:
            properties["arguments"] = StringAttr(arguments)
        super().__init__(
            operands=[inputs], properties=properties, result_types=[result_types], attributes=attributes or {}
        )

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_string_literal(self.target.data)
        printer.print_string("(")
        printer.print_list(self.inputs, printer.print_ssa_value)
        printer.print_string(") because ")
        printer.print_string_literal(self.reason.data)
        if self.arguments is not None:
            printer.print_string(" with ")
            printer.print_string_literal(self.arguments.data)
        printer.print_string(" : ")
        printer.print_operation_type(self)
        if self.attributes:
            printer.print_string(" attributes ")
            printer.print_attr_dict(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> ExternOp:
        target = _parse_string(parser)
        operands = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_unresolved_operand)
        parser.parse_keyword("because")
        reason = _parse_string(parser)
        arguments = _parse_string(parser) if parser.parse_optional_keyword("with") else None
        parser.parse_punctuation(":")
        kind = parser.parse_function_type()
        inputs = parser.resolve_operands(operands, kind.inputs.data, parser.pos)
        return cls(target, inputs, kind.outputs.data, reason, arguments, parse_attributes(parser))

    def verify_(self) -> None:
        if not self.reason.data:
            raise VerifyException("an extern says why it is opaque")
