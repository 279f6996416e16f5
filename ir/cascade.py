"""The `cascade` dialect: the algorithm, as a DAG of extended Einsums over named ranks, with no schedule.

cascade.program @attention(%q : !cascade.tensor<[n, 64], f32>, ...) {
  %s = cascade.einsum [i = n, j = m, d = 64]
         ins(%q[i, d] : !cascade.tensor<[n, 64], f32>, %k[j, d] : !cascade.tensor<[m, 64], f32>)
         outs(sum [i, j] : !cascade.tensor<[n, m], f32>) {
  ^bb0(%a : f32, %b : f32):
    %p = arith.mulf %a, %b : f32
    cascade.yield %p : f32
  }
  cascade.return %s : !cascade.tensor<[n, m], f32>
}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import sympy
from xdsl.dialects.builtin import ArrayAttr, FunctionType, IntAttr, IntegerType, StringAttr, i64
from xdsl.ir import Attribute, Block, Dialect, Operation, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, IsTerminator, Pure, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

from . import scalar, symbols
from .attributes import AccessMap, RankSpace, TensorType, compute_type

MAP = "map"
REDUCTIONS = ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin")
COMBINERS = (MAP, *REDUCTIONS)


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
class ReturnOp(IRDLOperation):
    """`cascade.return %o : !cascade.tensor<[n], f32>` ends a program or a kernel."""

    name = "cascade.return"
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


class _Structured(IRDLOperation):
    """What einsum and online share: a rank space, accessed inputs, combined outputs."""

    inputs = var_operand_def(TensorType)
    ranks = prop_def(RankSpace)
    accesses = prop_def(ArrayAttr[AccessMap])
    combiners = prop_def(ArrayAttr[StringAttr])
    out_maps = prop_def(ArrayAttr[AccessMap])
    outs = var_result_def(TensorType)

    @property
    def operand_accesses(self) -> tuple[tuple[SSAValue, AccessMap], ...]:
        return tuple(zip(self.inputs, self.accesses.data, strict=True))

    @property
    def extents(self) -> dict[str, sympy.Expr]:
        return self.ranks.extents

    @property
    def combiner_names(self) -> tuple[str, ...]:
        return tuple(c.data for c in self.combiners.data)

    def out_ranks(self, index: int = 0) -> tuple[str, ...]:
        """Rank names of result `index`, in dimension order."""
        names = self.out_maps.data[index].bare()
        assert names is not None
        return names

    def out_shape(self, index: int = 0) -> tuple[sympy.Expr, ...]:
        extents = self.extents
        return tuple(extents[r] for r in self.out_ranks(index))

    def _verify_space(self) -> None:
        inputs = self.inputs
        known = set(self.ranks.names)
        if len(known) != len(self.ranks.names):
            raise VerifyException(f"a rank is declared twice in {self.ranks.text()}")
        if len(self.accesses.data) != len(inputs):
            raise VerifyException(f"{len(inputs)} inputs but {len(self.accesses.data)} access maps")
        if not len(self.combiners.data) == len(self.out_maps.data) == len(self.results):
            raise VerifyException("combiners, output maps and results must be equally many")
        if not self.results:
            raise VerifyException("an operation without results computes nothing")
        for value, access in zip(inputs, self.accesses.data, strict=True):
            if not isinstance(value.type, TensorType):
                raise VerifyException(f"input of type {value.type} is not a !cascade.tensor")
            if len(access.data) != len(value.type.dims):
                raise VerifyException(f"access {access.text()} has {len(access.data)} indices for {value.type}")
        for combiner, out, result in zip(self.combiner_names, self.out_maps.data, self.results, strict=True):
            if combiner not in COMBINERS:
                raise VerifyException(f"'{combiner}' is not a combiner; known: {', '.join(COMBINERS)}")
            names = out.bare()
            if names is None or len(set(names)) != len(names) or not set(names) <= known:
                raise VerifyException(f"output map {out.text()} must list distinct ranks of {self.ranks.text()}")
            if not isinstance(result.type, TensorType):
                raise VerifyException(f"result of type {result.type} is not a !cascade.tensor")
            expected = tuple(self.extents[n] for n in names)
            if result.type.dims != expected:
                raise VerifyException(
                    f"result {result.type} does not have the extents of {out.text()} in {self.ranks.text()}"
                )

    def _print_space(self, printer: Printer) -> None:
        printer.print_string(f" {self.ranks.text()} ins(")
        for n, (value, access) in enumerate(self.operand_accesses):
            if n:
                printer.print_string(", ")
            printer.print_ssa_value(value)
            printer.print_string(f"{access.text()} : ")
            printer.print_attribute(value.type)
        printer.print_string(") outs(")
        for n, (combiner, out, result) in enumerate(
            zip(self.combiner_names, self.out_maps.data, self.results, strict=True)
        ):
            if n:
                printer.print_string(", ")
            printer.print_string(f"{combiner} {out.text()} : ")
            printer.print_attribute(result.type)
        printer.print_string(")")

    @staticmethod
    def _parse_space(parser: Parser):
        ranks = RankSpace.parse_bare(parser)

        def one_in() -> tuple[SSAValue, AccessMap]:
            unresolved = parser.parse_unresolved_operand()
            access = AccessMap.parse_bare(parser)
            parser.parse_punctuation(":")
            return parser.resolve_operand(unresolved, parser.parse_type()), access

        def one_out() -> tuple[str, AccessMap, Attribute]:
            combiner = parser.parse_identifier(" for a combiner")
            out = AccessMap.parse_bare(parser)
            parser.parse_punctuation(":")
            return combiner, out, parser.parse_type()

        parser.parse_characters("ins")
        ins = parser.parse_comma_separated_list(parser.Delimiter.PAREN, one_in)
        parser.parse_characters("outs")
        outs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, one_out)
        return ranks, ins, outs

    @staticmethod
    def _print_tail(op: Operation, printer: Printer, regions: Sequence[tuple[str, Region]]) -> None:
        for label, region in regions:
            printer.print_string(f" {label}" if label else "")
            printer.print_string(" ")
            printer.print_region(region, print_empty_block=False)
        if op.attributes:
            printer.print_string(" attributes ")
            printer.print_attr_dict(op.attributes)

    @staticmethod
    def _parse_attributes(parser: Parser) -> dict[str, Attribute]:
        if parser.parse_optional_keyword("attributes") is None:
            return {}
        return parser.parse_optional_dictionary_attr_dict()


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


@irdl_op_definition
class EinsumOp(_Structured):
    """An extended Einsum: for every point of the rank space, map the accessed elements, reduce, populate.

    The region is the *map* action: it takes one scalar per input (in the compute type of its elements) and yields one
    scalar per result.  Each result names its *reduce* action; ranks that are not in its output map are reduced.
    `map` reduces nothing.  `argmax`/`argmin` (one reduced rank) give the index of the first extreme element; a NaN
    counts as extreme, as in torch.  All results have the same ranks.  A GEMM is mul and sum.
    """

    name = "cascade.einsum"
    body = region_def("single_block")
    traits = traits_def(Pure())

    def __init__(
        self,
        ranks: RankSpace,
        inputs: Sequence[tuple[SSAValue, AccessMap]],
        outs: Sequence[tuple[str, AccessMap, Attribute]],
        body: Region,
        attributes: dict[str, Attribute] | None = None,
    ):
        """`outs`: one (combiner, output map, result type) per result; the type may be an element type."""
        extents = ranks.extents
        types = []
        for _, out, kind in outs:
            if not isinstance(kind, TensorType):
                kind = TensorType.of([extents[r] for r in out.bare() or ()], kind)
            types.append(kind)
        super().__init__(
            operands=[[v for v, _ in inputs]],
            properties={
                "ranks": ranks,
                "accesses": ArrayAttr([a for _, a in inputs]),
                "combiners": ArrayAttr([StringAttr(c) for c, _, _ in outs]),
                "out_maps": ArrayAttr([o for _, o, _ in outs]),
            },
            regions=[body],
            result_types=[types],
            attributes=attributes or {},
        )

    @property
    def reduced(self) -> tuple[str, ...]:
        """The reduced ranks, in the order of the rank space."""
        kept = set(self.out_ranks(0))
        return tuple(r for r in self.ranks.names if r not in kept)

    @property
    def is_map(self) -> bool:
        return all(c == MAP for c in self.combiner_names)

    @property
    def yields(self) -> tuple[SSAValue, ...]:
        last = self.body.block.last_op
        assert isinstance(last, YieldOp)
        return tuple(last.values)

    def print(self, printer: Printer) -> None:
        self._print_space(printer)
        self._print_tail(self, printer, [("", self.body)])

    @classmethod
    def parse(cls, parser: Parser) -> EinsumOp:
        ranks, ins, outs = cls._parse_space(parser)
        body = parser.parse_region()
        return cls(ranks, ins, outs, body, cls._parse_attributes(parser))

    def verify_(self) -> None:
        self._verify_space()
        kept = set(self.out_ranks(0))
        reduced = [r for r in self.ranks.names if r not in kept]
        yields: list[Attribute] = []
        argument_types = [compute_type(cast(TensorType, v.type).element_type) for v in self.inputs]
        last = self.body.block.last_op if self.body.blocks else None
        for n, (combiner, result) in enumerate(zip(self.combiner_names, self.results, strict=True)):
            if set(self.out_ranks(n)) != kept:
                raise VerifyException("all results of an einsum have the same ranks; use two einsums")
            if combiner == MAP and reduced:
                raise VerifyException(f"'map' reduces nothing, but {reduced} are in no output map")
            if combiner != MAP and not reduced:
                raise VerifyException(f"'{combiner}' needs a rank that is in no output map")
            if combiner in ("argmax", "argmin"):
                if len(reduced) != 1:
                    raise VerifyException(f"'{combiner}' reduces exactly one rank, not {reduced}")
                if compute_type(cast(TensorType, result.type).element_type) != i64:
                    raise VerifyException(f"'{combiner}' gives an index, so its elements are integers")
                if isinstance(last, YieldOp) and n < len(last.values):
                    yields.append(last.values[n].type)
            else:
                yields.append(compute_type(cast(TensorType, result.type).element_type))
        verify_scalar_region(self.body, argument_types, yields, "the map region")


@irdl_op_definition
class OnlineOp(_Structured):
    """Several cascaded reductions over one rank, folded in a single pass with a product monoid.

    State: one accumulator per result, combined by that result's combiner.  Results listed in `gauges` are *gauges*:
    their running value is what the other accumulators are expressed in.  `step` takes the input elements, then the
    gauges, and yields one contribution per result (a gauge's own contribution must not depend on gauges).  `transport`
    takes the old gauges, the new gauges, then the accumulators that are not gauges, and yields those accumulators
    re-expressed.  Only the streamed rank is reduced: a contribution depends on no rank but that and its result's own.

    Folding a chunk into the state: combine the gauges; transport the other accumulators from the old gauges to the new
    ones; add the contributions taken at the new gauges.  Two states merge in the same way, each transported to the
    combined gauge.  The first state is the combiners' identities, and a transport has to leave it alone.  Where a new
    gauge is infinite in its combiner's neutral direction (-inf for max), `step` and `transport` see 0 for the *new* one
    (never for the old), so that masked prefixes and fully masked rows stay exact.
    """

    name = "cascade.online"
    over = prop_def(StringAttr)
    gauges = prop_def(ArrayAttr[IntAttr])
    step = region_def("single_block")
    transport = region_def("single_block")
    traits = traits_def(Pure())

    def __init__(
        self,
        ranks: RankSpace,
        over: str,
        inputs: Sequence[tuple[SSAValue, AccessMap]],
        outs: Sequence[tuple[str, AccessMap, Attribute]],
        gauges: Sequence[int],
        step: Region,
        transport: Region,
        attributes: dict[str, Attribute] | None = None,
    ):
        extents = ranks.extents
        types = []
        for _, out, kind in outs:
            if not isinstance(kind, TensorType):
                kind = TensorType.of([extents[r] for r in out.bare() or ()], kind)
            types.append(kind)
        super().__init__(
            operands=[[v for v, _ in inputs]],
            properties={
                "ranks": ranks,
                "over": StringAttr(over),
                "accesses": ArrayAttr([a for _, a in inputs]),
                "combiners": ArrayAttr([StringAttr(c) for c, _, _ in outs]),
                "out_maps": ArrayAttr([o for _, o, _ in outs]),
                "gauges": ArrayAttr([IntAttr(g) for g in gauges]),
            },
            regions=[step, transport],
            result_types=[types],
            attributes=attributes or {},
        )

    @property
    def gauge_indices(self) -> tuple[int, ...]:
        return tuple(g.data for g in self.gauges.data)

    def print(self, printer: Printer) -> None:
        self._print_space(printer)
        gauges = ", ".join(map(str, self.gauge_indices))
        printer.print_string(f" over {self.over.data} gauges [{gauges}]")
        self._print_tail(self, printer, [("step", self.step), ("transport", self.transport)])

    @classmethod
    def parse(cls, parser: Parser) -> OnlineOp:
        ranks, ins, outs = cls._parse_space(parser)
        parser.parse_keyword("over")
        over = parser.parse_identifier()
        parser.parse_keyword("gauges")
        gauges = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
        parser.parse_keyword("step")
        step = parser.parse_region()
        parser.parse_keyword("transport")
        transport = parser.parse_region()
        return cls(ranks, over, ins, outs, gauges, step, transport, cls._parse_attributes(parser))

    def verify_(self) -> None:
        self._verify_space()
        over = self.over.data
        if over not in self.ranks.names:
            raise VerifyException(f"the streamed rank '{over}' is not in {self.ranks.text()}")
        for n, combiner in enumerate(self.combiner_names):
            if combiner == MAP:
                raise VerifyException("a result of cascade.online is an accumulator; 'map' is none")
            if combiner in ("argmax", "argmin"):
                raise VerifyException(f"'{combiner}' is no accumulator of one value; leave it a cascade.einsum")
            if over in self.out_ranks(n):
                raise VerifyException(f"result {n} carries the streamed rank '{over}'")
        gauges = self.gauge_indices
        if any(not 0 <= g < len(self.results) for g in gauges) or len(set(gauges)) != len(gauges):
            raise VerifyException(f"gauges {list(gauges)} are not distinct results")
        types = [compute_type(cast(TensorType, r.type).element_type) for r in self.results]
        elements = [compute_type(cast(TensorType, v.type).element_type) for v in self.inputs]
        at = [types[g] for g in gauges]
        rest = [t for n, t in enumerate(types) if n not in gauges]
        verify_scalar_region(self.step, elements + at, types, "the step region")
        verify_scalar_region(self.transport, at + at + rest, rest, "the transport region")


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
        return symbols.symbol(f"at{n}")

    def print(self, printer: Printer) -> None:
        printer.print_string(f" {self.ranks.text()} from ")
        printer.print_ssa_value(self.source)
        printer.print_string(f"{self.source_access.text()} : ")
        printer.print_attribute(self.source.type)
        printer.print_string(" at(")
        for n, (value, access) in enumerate(zip(self.indices, self.index_accesses.data, strict=True)):
            if n:
                printer.print_string(", ")
            printer.print_ssa_value(value)
            printer.print_string(f"{access.text()} : ")
            printer.print_attribute(value.type)
        printer.print_string(")")
        _Structured._print_tail(self, printer, [])

    @classmethod
    def parse(cls, parser: Parser) -> GatherOp:
        def accessed() -> tuple[SSAValue, AccessMap]:
            unresolved = parser.parse_unresolved_operand()
            access = AccessMap.parse_bare(parser)
            parser.parse_punctuation(":")
            return parser.resolve_operand(unresolved, parser.parse_type()), access

        ranks = RankSpace.parse_bare(parser)
        parser.parse_characters("from")
        source, access = accessed()
        parser.parse_characters("at")
        indices = parser.parse_comma_separated_list(parser.Delimiter.PAREN, accessed)
        return cls(ranks, source, access, indices, _Structured._parse_attributes(parser))

    def verify_(self) -> None:
        if not isinstance(self.source.type, TensorType) or len(self.source_access.data) != len(self.source.type.dims):
            raise VerifyException("the source access needs one index per dimension of the source")
        if len(self.index_accesses.data) != len(self.indices):
            raise VerifyException(f"{len(self.indices)} index tensors but {len(self.index_accesses.data)} access maps")
        for value, access in zip(self.indices, self.index_accesses.data, strict=True):
            if not isinstance(value.type, TensorType) or len(access.data) != len(value.type.dims):
                raise VerifyException(f"access {access.text()} does not fit {value.type}")
        expected = TensorType.of([e for _, e in self.ranks.data], self.source.type.element_type)
        if self.result.type != expected:
            raise VerifyException(f"the result is {self.result.type}, expected {expected}")


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
        return cls(target, inputs, kind.outputs.data, reason, arguments, _Structured._parse_attributes(parser))

    def verify_(self) -> None:
        if not self.reason.data:
            raise VerifyException("an extern says why it is opaque")


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
        op.attributes.update(_Structured._parse_attributes(parser))
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
        return cls(name, [v for _, v in pairs], body, _Structured._parse_attributes(parser))

    def verify_(self) -> None:
        self._verify_body(self.body, [v.type for v in self.inputs], [r.type for r in self.results])


Cascade = Dialect(
    "cascade",
    [YieldOp, ReturnOp, IndexOp, EinsumOp, OnlineOp, GatherOp, ExternOp, ProgramOp, KernelOp],
    [RankSpace, AccessMap, TensorType],
)
