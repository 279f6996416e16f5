"""Programs and kernels: named, isolated, one block that ends in `cascade.return`."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import FunctionType, StringAttr
from xdsl.ir import Attribute, Block, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, IsTerminator, Pure, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

from .syntax import parse_attributes


@irdl_op_definition
class ReturnOp(IRDLOperation):
    """`cascade.return %o : !cascade.tensor<[n], f32>` ends a program or a kernel."""

    name = "cascade.return"
    values = var_operand_def()
    assembly_format = "attr-dict ($values^ `:` type($values))?"
    traits = traits_def(IsTerminator())

    def __init__(self, *values: SSAValue):
        super().__init__(operands=[values])


class _Function(IRDLOperation):
    """What program and kernel share: named, isolated, one block that ends in cascade.return."""

    def _verify_body(self, body: Region, arguments: Sequence[Attribute], results: Sequence[Attribute]) -> None:
        block = body.block
        if [a.type for a in block.args] != list(arguments):
            raise VerifyException("block arguments do not match the operands' types")
        last = block.last_op
        if not isinstance(last, ReturnOp):
            raise VerifyException(f"{self.name} must end in cascade.return")
        if [v.type for v in last.values] != list(results):
            raise VerifyException("cascade.return does not match the declared results")


@irdl_op_definition
class ProgramOp(_Function):
    """A whole program: `cascade.program @name(%x : T) -> (T) { ... }`.  Sizes are the free symbols of its types."""

    name = "cascade.program"
    sym_name = prop_def(StringAttr)
    function_type = prop_def(FunctionType)
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove(), SymbolOpInterface())

    def __init__(self, name: str, function_type: FunctionType, body: Region):
        super().__init__(properties={"sym_name": StringAttr(name), "function_type": function_type}, regions=[body])

    @staticmethod
    def empty(name: str, arguments: Sequence[Attribute]) -> ProgramOp:
        """A program without operations; `finish` adds the return and the result types."""
        return ProgramOp(name, FunctionType.from_lists(list(arguments), []), Region(Block(arg_types=arguments)))

    def finish(self, *results: SSAValue) -> None:
        """Append `cascade.return` and set the result types."""
        self.body.block.add_op(ReturnOp(*results))
        self.function_type = FunctionType.from_lists(list(self.function_type.inputs.data), [r.type for r in results])

    @property
    def returned(self) -> tuple[SSAValue, ...]:
        last = self.body.block.last_op
        assert isinstance(last, ReturnOp)
        return tuple(last.values)

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_symbol_name(self.sym_name.data)
        printer.print_string("(")
        printer.print_list(self.body.block.args, printer.print_block_argument)
        printer.print_string(") -> (")
        printer.print_list(self.function_type.outputs.data, printer.print_attribute)
        printer.print_string(") ")
        printer.print_region(self.body, print_entry_block_args=False)
        if self.attributes:
            printer.print_string(" attributes ")
            printer.print_attr_dict(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> ProgramOp:
        name = parser.parse_symbol_name().data
        args = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_argument)
        parser.parse_punctuation("->")
        outputs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_type)
        body = parser.parse_region(args)
        op = cls(name, FunctionType.from_lists([a.type for a in args], outputs), body)
        op.attributes.update(parse_attributes(parser))
        return op

    def verify_(self) -> None:
        self._verify_body(self.body, self.function_type.inputs.data, self.function_type.outputs.data)


@irdl_op_definition
class KernelOp(_Function):
    """A group of operations that becomes one kernel, made by fusion:

        %o = cascade.kernel @k0(%a = %q : T, %b = %k : T) -> (T) { ... cascade.return %x : T }

    Inside, rank names are global to the kernel: equal name means same rank, and every intermediate is read at the
    ranks it was written at, so only the kernel's arguments have access maps that are not plain rank names.
    """

    name = "cascade.kernel"
    inputs = var_operand_def()
    sym_name = prop_def(StringAttr)
    body = region_def("single_block")
    outs = var_result_def()
    traits = traits_def(IsolatedFromAbove(), Pure())

    def __init__(
        self,
        name: str,
        inputs: Sequence[SSAValue],
        body: Region,
        attributes: dict[str, Attribute] | None = None,
    ):
        """`body` is one block with an argument per input, ending in cascade.return."""
        last = body.block.last_op
        assert isinstance(last, ReturnOp)
        super().__init__(
            operands=[inputs],
            properties={"sym_name": StringAttr(name)},
            regions=[body],
            result_types=[[v.type for v in last.values]],
            attributes=attributes or {},
        )

    @property
    def returned(self) -> tuple[SSAValue, ...]:
        last = self.body.block.last_op
        assert isinstance(last, ReturnOp)
        return tuple(last.values)

    @property
    def streamed(self) -> str:
        """The rank that the kernel streams, or ""."""
        stream = self.attributes.get("stream")
        return stream.data if isinstance(stream, StringAttr) else ""

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_symbol_name(self.sym_name.data)
        printer.print_string("(")
        for n, (arg, value) in enumerate(zip(self.body.block.args, self.inputs, strict=True)):
            if n:
                printer.print_string(", ")
            printer.print_ssa_value(arg)
            printer.print_string(" = ")
            printer.print_ssa_value(value)
            printer.print_string(" : ")
            printer.print_attribute(value.type)
        printer.print_string(") -> (")
        printer.print_list([r.type for r in self.results], printer.print_attribute)
        printer.print_string(") ")
        printer.print_region(self.body, print_entry_block_args=False)
        if self.attributes:
            printer.print_string(" attributes ")
            printer.print_attr_dict(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> KernelOp:
        name = parser.parse_symbol_name().data

        def one() -> tuple[Parser.Argument, SSAValue]:
            inner = parser.parse_argument(expect_type=False)
            parser.parse_punctuation("=")
            unresolved = parser.parse_unresolved_operand()
            parser.parse_punctuation(":")
            kind = parser.parse_type()
            return inner.resolve(kind), parser.resolve_operand(unresolved, kind)

        pairs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, one)
        parser.parse_punctuation("->")
        outputs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_type)
        body = parser.parse_region([a for a, _ in pairs])
        last = body.block.last_op
        if not isinstance(last, ReturnOp) or [v.type for v in last.values] != outputs:
            parser.raise_error("a kernel ends in cascade.return, with values of the declared types")
        return cls(name, [v for _, v in pairs], body, parse_attributes(parser))

    def verify_(self) -> None:
        self._verify_body(self.body, [v.type for v in self.inputs], [r.type for r in self.results])
