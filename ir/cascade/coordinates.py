"""Coordinates that are data: `cascade.gather` reads through index tensors, `cascade.scatter` reduces through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import sympy
from xdsl.dialects.builtin import ArrayAttr, IntegerType, StringAttr
from xdsl.ir import Attribute, Region, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from .. import symbols
from ..attributes import AccessMap, RankSpace, TensorType
from .region import YieldOp, verify_scalar_region
from .structured import check_accessed, element_compute_type
from .syntax import parse_accessed, parse_attributes, parse_one, print_accessed, print_one, print_tail

SCATTERS = ("sum", "prod", "max", "min", "any", "all")  # combiners that take their elements in any order


def slot(n: int) -> sympy.Symbol:
    """The symbol that stands for the value of index tensor `n`."""
    return symbols.symbol(f"at{n}")


@irdl_op_definition
class GatherOp(IRDLOperation):
    """An access through index tensors: result[ranks] = source[access], where `at0` is the value of index tensor 0.

        %e = cascade.gather [b = 8, d = 64] from %w[at0, d] : T at(%ids[b] : I)

    The result's dimensions are the ranks, in order; its elements are those of the source.  An entry of the source
    access that is just `at0` counts a negative index from the end.  A read outside the source yields zero.
    """

    name = "cascade.gather"
    source = operand_def()
    indices = var_operand_def()
    ranks = prop_def(RankSpace)
    source_access = prop_def(AccessMap)
    index_accesses = prop_def(ArrayAttr[AccessMap])
    result = result_def(TensorType)
    traits = traits_def(Pure())

    def __init__(
        self,
        ranks: RankSpace,
        source: SSAValue,
        source_access: AccessMap,
        indices: Sequence[tuple[SSAValue, AccessMap]],
        attributes: dict[str, Attribute] | None = None,
    ):
        """`source_access` refers to index tensor n as the symbol `GatherOp.slot(n)`."""
        kind = TensorType.of([e for _, e in ranks.data], cast(TensorType, source.type).element_type)
        super().__init__(
            operands=[source, [v for v, _ in indices]],
            properties={
                "ranks": ranks,
                "source_access": source_access,
                "index_accesses": ArrayAttr([a for _, a in indices]),
            },
            result_types=[kind],
            attributes=attributes or {},
        )

    @staticmethod
    def slot(n: int) -> sympy.Symbol:
        """The symbol that stands for the value of index tensor `n` in the source access."""
        return slot(n)

    def print(self, printer: Printer) -> None:
        printer.print_string(f" {self.ranks.text()} from ")
        print_one(printer, self.source, self.source_access)
        print_accessed(printer, "at", zip(self.indices, self.index_accesses.data, strict=True))
        print_tail(self, printer, [])

    @classmethod
    def parse(cls, parser: Parser) -> GatherOp:
        ranks = RankSpace.parse_bare(parser)
        parser.parse_characters("from")
        source, access = parse_one(parser)
        indices = parse_accessed(parser, "at")
        return cls(ranks, source, access, indices, parse_attributes(parser))

    def verify_(self) -> None:
        if not isinstance(self.source.type, TensorType) or len(self.source_access.data) != len(self.source.type.dims):
            raise VerifyException("the source access needs one index per dimension of the source")
        check_accessed(self.indices, self.index_accesses.data, "index tensors")
        expected = TensorType.of([e for _, e in self.ranks.data], self.source.type.element_type)
        if self.result.type != expected:
            raise VerifyException(f"the result is {self.result.type}, expected {expected}")


@irdl_op_definition
class ScatterOp(IRDLOperation):
    """A reduction into coordinates that are data: `at0` in the output access is the value of index tensor 0.

        %w = cascade.scatter [b = 8, d = 64] ins(%g[b, d] : T) at(%ids[b] : I) outs(sum [at0, d] : U) init %w0 {
        ^bb0(%a : f32):
          cascade.yield %a : f32
        }

    For every point of the ranks the region maps the accessed elements to one scalar, which is combined into the element
    of the result at the output access; many points may meet in one element, in any order.  The result starts as `init`
    (a tensor of its type), or as the combiner's identity.  An entry that is just `at0` counts a negative index from the
    end; a coordinate outside the result is an error.
    """

    name = "cascade.scatter"
    inputs = var_operand_def(TensorType)
    indices = var_operand_def(TensorType)
    init = opt_operand_def(TensorType)
    ranks = prop_def(RankSpace)
    accesses = prop_def(ArrayAttr[AccessMap])
    index_accesses = prop_def(ArrayAttr[AccessMap])
    combiner = prop_def(StringAttr)
    out_access = prop_def(AccessMap)
    body = region_def("single_block")
    result = result_def(TensorType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())

    def __init__(
        self,
        ranks: RankSpace,
        inputs: Sequence[tuple[SSAValue, AccessMap]],
        indices: Sequence[tuple[SSAValue, AccessMap]],
        out: tuple[str, AccessMap, TensorType],
        body: Region,
        init: SSAValue | None = None,
        attributes: dict[str, Attribute] | None = None,
    ):
        """`out`: combiner, output access (index tensor n is the symbol `slot(n)`), result type."""
        combiner, access, kind = out
        super().__init__(
            operands=[[v for v, _ in inputs], [v for v, _ in indices], init],
            properties={
                "ranks": ranks,
                "accesses": ArrayAttr([a for _, a in inputs]),
                "index_accesses": ArrayAttr([a for _, a in indices]),
                "combiner": StringAttr(combiner),
                "out_access": access,
            },
            regions=[body],
            result_types=[kind],
            attributes=attributes or {},
        )

    def print(self, printer: Printer) -> None:
        printer.print_string(f" {self.ranks.text()}")
        print_accessed(printer, "ins", zip(self.inputs, self.accesses.data, strict=True))
        print_accessed(printer, "at", zip(self.indices, self.index_accesses.data, strict=True))
        printer.print_string(f" outs({self.combiner.data} {self.out_access.text()} : ")
        printer.print_attribute(self.result.type)
        printer.print_string(")")
        if self.init is not None:
            printer.print_string(" init ")
            printer.print_ssa_value(self.init)
        print_tail(self, printer, [("", self.body)])

    @classmethod
    def parse(cls, parser: Parser) -> ScatterOp:
        ranks = RankSpace.parse_bare(parser)
        inputs = parse_accessed(parser, "ins")
        indices = parse_accessed(parser, "at")
        parser.parse_characters("outs")
        with parser.in_parens():
            combiner = parser.parse_identifier(" for a combiner")
            access = AccessMap.parse_bare(parser)
            parser.parse_punctuation(":")
            kind = parser.parse_type()
        if not isinstance(kind, TensorType):
            parser.raise_error("the result of cascade.scatter is a !cascade.tensor")
        init = None
        if parser.parse_optional_keyword("init") is not None:
            init = parser.resolve_operand(parser.parse_unresolved_operand(), kind)
        body = parser.parse_region()
        return cls(ranks, inputs, indices, (combiner, access, kind), body, init, parse_attributes(parser))

    def verify_(self) -> None:
        if len(set(self.ranks.names)) != len(self.ranks.names):
            raise VerifyException(f"a rank is declared twice in {self.ranks.text()}")
        check_accessed(self.inputs, self.accesses.data)
        check_accessed(self.indices, self.index_accesses.data, "index tensors")
        for value in self.indices:
            if not isinstance(cast(TensorType, value.type).element_type, IntegerType):
                raise VerifyException(f"index tensor of type {value.type} does not hold integers")
        if self.combiner.data not in SCATTERS:
            raise VerifyException(f"'{self.combiner.data}' does not scatter; known: {', '.join(SCATTERS)}")
        if len(self.out_access.data) != len(cast(TensorType, self.result.type).dims):
            raise VerifyException(f"output access {self.out_access.text()} does not fit {self.result.type}")
        slots = {slot(n).name for n in range(len(self.indices))}
        unknown = [n for n in self.out_access.ranks if n.startswith("at") and n[2:].isdigit() and n not in slots]
        if unknown:
            raise VerifyException(
                f"output access {self.out_access.text()} uses {unknown[0]}, which is no rank, size or index tensor"
            )
        if self.init is not None and self.init.type != self.result.type:
            raise VerifyException(f"the initial tensor is {self.init.type}, expected {self.result.type}")
        what, elements = "the map region", [element_compute_type(v) for v in self.inputs]
        verify_scalar_region(self.body, elements, [element_compute_type(self.result)], what)

    @property
    def yielded(self) -> SSAValue:
        """The scalar that is combined into the result."""
        return cast(YieldOp, self.body.block.last_op).values[0]
