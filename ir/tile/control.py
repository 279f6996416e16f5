"""Loops and conditionals, and the kernel itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import sympy
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntAttr, IntegerAttr, StringAttr, i1, i64
from xdsl.ir import Attribute, Block, Region, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, IsTerminator, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

from .. import symbols
from ..attributes import AccessMap
from .memory import StoreOp
from .shares import Share
from .types import TileRank, TileRanks, TileType, rank_names, strings, tile_type
from .values import PickOp

QUANTIFIERS = ("any", "all")
ONCE = "once"  # of a loop: every program takes one step


@irdl_op_definition
class YieldOp(IRDLOperation):
    """`tile.yield %m, %l : T, T` ends the body of a loop or a conditional with the carried state."""

    name = "tile.yield"
    values = var_operand_def(TileType)
    assembly_format = "attr-dict ($values^ `:` type($values))?"
    traits = traits_def(IsTerminator())

    def __init__(self, *values: SSAValue):
        super().__init__(operands=[values])


@irdl_op_definition
class ForOp(IRDLOperation):
    """`%r:2 = tile.for j from 0 to n (%m = %m0 : T, %l = %l0 : T) { ... tile.yield }`: walk a loop rank, tile by tile.

    A unit rank that is not in the grid is walked element by element.

    `from` and `to` are index expressions in elements; `from` is a multiple of the rank's tile.  In them a unit rank
    stands for its index, a grid rank (or the rank of a loop around this one) for its first index here, and a parameter
    for its value: `to min(n, i + BI)`.  The last tile is cut at the rank's extent, not at `to`.  In a kernel with shares
    there is `Share.ahead` as well.  The attribute `once` says that every program takes one step, with the parameters that
    are bound.

    `within %first, %last`, two i64 tiles without ranks, leaves out the tiles before the one with element `first`, and those
    from element `last` on; of both, what is less than 0 or more than the extent counts as that.
    """

    name = "tile.for"
    init = var_operand_def(TileType)
    within = var_operand_def(TileType)
    rank = prop_def(StringAttr)
    lower = prop_def(AccessMap)
    upper = prop_def(AccessMap)
    body = region_def("single_block")
    outs = var_result_def(TileType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    def __init__(
        self,
        rank: str,
        init: Sequence[SSAValue],
        body: Region,
        lower: sympy.Expr | int,
        upper: sympy.Expr | int,
        within: Sequence[SSAValue] = (),
    ):
        super().__init__(
            operands=[init, within],
            properties={
                "rank": StringAttr(rank),
                "lower": AccessMap.of([lower]),
                "upper": AccessMap.of([upper]),
            },
            regions=[body],
            result_types=[[v.type for v in init]],
        )

    @property
    def bounds(self) -> tuple[sympy.Expr, sympy.Expr]:
        return self.lower.data[0], self.upper.data[0]

    def print(self, printer: Printer) -> None:
        lower, upper = self.bounds
        printer.print_string(f" {self.rank.data} from {symbols.to_text(lower)} to {symbols.to_text(upper)} ")
        if self.within:
            printer.print_string("within ")
            printer.print_list(self.within, printer.print_ssa_value)
            printer.print_string(" ")
        printer.print_string("(")
        _print_state(printer, self.body, self.init)
        _print_attributes(printer, self)

    @classmethod
    def parse(cls, parser: Parser) -> ForOp:
        rank = parser.parse_identifier()
        parser.parse_keyword("from")
        lower = symbols.parse(parser)
        parser.parse_keyword("to")
        upper = symbols.parse(parser)
        within: list[SSAValue] = []
        if parser.parse_optional_keyword("within") is not None:
            names = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_unresolved_operand)
            within = [parser.resolve_operand(name, TileType.of([], i64)) for name in names]
        init, body = _parse_state(parser)
        op = cls(rank, init, body, lower, upper, within)
        op.attributes.update(_parse_attributes(parser))
        return op

    def verify_(self) -> None:
        if self.within and [v.type for v in self.within] != [TileType.of([], i64)] * 2:
            raise VerifyException("a loop is within two numbers: i64 tiles without ranks")
        _verify_state(self.body, self.init, "a loop body", "in the loop")


@irdl_op_definition
class IfOp(IRDLOperation):
    """`%r = tile.if any %open : !tile.tile<[i, j], i1> (%m = %m0 : T) { ... tile.yield %n : T }`: a step or none.

    The body runs where any (or `all`) of the condition's elements are true, lanes beyond an extent not counted; its
    arguments stand for what is given, and the results are what it yields.  Else the results are what was given.
    """

    name = "tile.if"
    quantifier = prop_def(StringAttr)
    condition = operand_def(TileType)
    init = var_operand_def(TileType)
    body = region_def("single_block")
    outs = var_result_def(TileType)

    def __init__(self, quantifier: str, condition: SSAValue, init: Sequence[SSAValue], body: Region):
        super().__init__(
            operands=[condition, init],
            properties={"quantifier": StringAttr(quantifier)},
            regions=[body],
            result_types=[[v.type for v in init]],
        )

    def print(self, printer: Printer) -> None:
        printer.print_string(f" {self.quantifier.data} ")
        printer.print_ssa_value(self.condition)
        printer.print_string(" : ")
        printer.print_attribute(self.condition.type)
        printer.print_string(" (")
        _print_state(printer, self.body, self.init)
        _print_attributes(printer, self)

    @classmethod
    def parse(cls, parser: Parser) -> IfOp:
        quantifier = parser.parse_identifier()
        unresolved = parser.parse_unresolved_operand()
        parser.parse_punctuation(":")
        condition = parser.resolve_operand(unresolved, parser.parse_type())
        init, body = _parse_state(parser)
        op = cls(quantifier, condition, init, body)
        op.attributes.update(_parse_attributes(parser))
        return op

    def verify_(self) -> None:
        if self.quantifier.data not in QUANTIFIERS:
            raise VerifyException(f"'{self.quantifier.data}' is not {' or '.join(QUANTIFIERS)}")
        if tile_type(self.condition).element_type != i1:
            raise VerifyException(f"a condition is a tile of i1, not of {tile_type(self.condition).element_type}")
        _verify_state(self.body, self.init, "a conditional body", "where the condition holds")


def _print_state(printer: Printer, body: Region, init: Sequence[SSAValue]) -> None:
    """`%m = %m0 : T, ...) { ... }`: what a body carries, and the body."""
    for n, (arg, value) in enumerate(zip(body.block.args, init, strict=True)):
        if n:
            printer.print_string(", ")
        printer.print_ssa_value(arg)
        printer.print_string(" = ")
        printer.print_ssa_value(value)
        printer.print_string(" : ")
        printer.print_attribute(value.type)
    printer.print_string(") ")
    printer.print_region(body, print_entry_block_args=False)


def _parse_state(parser: Parser) -> tuple[list[SSAValue], Region]:
    """What a body is given, and the body."""

    def one() -> tuple[Parser.Argument, SSAValue]:
        inner = parser.parse_argument(expect_type=False)
        parser.parse_punctuation("=")
        unresolved = parser.parse_unresolved_operand()
        parser.parse_punctuation(":")
        kind = parser.parse_type()
        return inner.resolve(kind), parser.resolve_operand(unresolved, kind)

    pairs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, one)
    return [v for _, v in pairs], parser.parse_region([a for a, _ in pairs])


def _print_attributes(printer: Printer, op: IRDLOperation) -> None:
    if op.attributes:
        printer.print_string(" attributes ")
        printer.print_attr_dict(op.attributes)


def _parse_attributes(parser: Parser) -> Mapping[str, Attribute]:
    found = parser.parse_optional_keyword("attributes") and parser.parse_optional_dictionary_attr_dict()
    return found or {}


def _verify_state(body: Region, init: Sequence[SSAValue], what: str, where: str) -> None:
    last = body.block.last_op
    if not isinstance(last, YieldOp):
        raise VerifyException(f"{what} ends in tile.yield")
    expected = [v.type for v in init]
    if [a.type for a in body.block.args] != expected or [v.type for v in last.values] != expected:
        raise VerifyException(f"the carried state changes its type {where}")


@irdl_op_definition
class ReturnOp(IRDLOperation):
    """`tile.return` ends a kernel."""

    name = "tile.return"
    assembly_format = "attr-dict"
    traits = traits_def(IsTerminator())

    def __init__(self):
        super().__init__()


def empty_body(arguments: Sequence[Attribute]) -> Region:
    return Region(Block(arg_types=arguments))


@irdl_op_definition
class KernelOp(IRDLOperation):
    """One kernel: a rank table, parameters, buffers, a body.

    The last `outputs` arguments are written, the others read.

    `grid` is the order of the grid and unit ranks, outermost (slowest) first.

    `share`: programs have equal shares of the steps of all tiles (`shares.py`), in place of one tile each.
    """

    name = "tile.kernel"
    sym_name = prop_def(StringAttr)
    ranks = prop_def(TileRanks)
    grid = prop_def(ArrayAttr[StringAttr])
    params = prop_def(DictionaryAttr)
    outputs = prop_def(IntAttr)
    share = opt_prop_def(Share)
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove(), SymbolOpInterface())

    def __init__(
        self,
        name: str,
        ranks: TileRanks,
        grid: Sequence[str],
        params: Mapping[str, int],
        outputs: int,
        body: Region,
        attributes: dict[str, Attribute] | None = None,
        share: Share | None = None,
    ):
        super().__init__(
            properties={
                **({"share": share} if share is not None else {}),
                "sym_name": StringAttr(name),
                "ranks": ranks,
                "grid": strings(grid),
                "params": DictionaryAttr({k: IntegerAttr(v, i64) for k, v in sorted(params.items())}),
                "outputs": IntAttr(outputs),
            },
            regions=[body],
            attributes=attributes or {},
        )

    @property
    def grid_ranks(self) -> tuple[str, ...]:
        return rank_names(self.grid)

    @property
    def parameters(self) -> dict[str, int]:
        return {k: cast(IntegerAttr, v).value.data for k, v in self.params.data.items()}

    @property
    def arguments(self) -> tuple[SSAValue, ...]:
        return tuple(self.body.block.args)

    @property
    def inputs(self) -> tuple[SSAValue, ...]:
        return self.arguments[: len(self.arguments) - self.outputs.data]

    @property
    def written(self) -> tuple[SSAValue, ...]:
        return self.arguments[len(self.arguments) - self.outputs.data :]

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_symbol_name(self.sym_name.data)
        printer.print_string(f" {self.ranks.text()} grid ({', '.join(self.grid_ranks)}) params {{")
        printer.print_string(", ".join(f"{k} = {v}" for k, v in self.parameters.items()))
        printer.print_string("} " + (f"share {self.share.text()} (" if self.share is not None else "("))
        reads, writes = (self.body.block.args[: len(self.inputs)], self.body.block.args[len(self.inputs) :])
        printer.print_list(reads, printer.print_block_argument)
        printer.print_string(") -> (")
        printer.print_list(writes, printer.print_block_argument)
        printer.print_string(") ")
        printer.print_region(self.body, print_entry_block_args=False)
        if self.attributes:
            printer.print_string(" attributes ")
            printer.print_attr_dict(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> KernelOp:
        name = parser.parse_symbol_name().data
        ranks = TileRanks.parse_bare(parser)
        parser.parse_keyword("grid")
        grid = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_identifier)

        def binding() -> tuple[str, int]:
            key = parser.parse_identifier()
            parser.parse_punctuation("=")
            return key, parser.parse_integer()

        parser.parse_keyword("params")
        params = dict(parser.parse_comma_separated_list(parser.Delimiter.BRACES, binding))
        share = Share.parse_bare(parser) if parser.parse_optional_keyword("share") is not None else None
        reads = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_argument)
        parser.parse_punctuation("->")
        writes = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_argument)
        body = parser.parse_region([*reads, *writes])
        op = cls(name, ranks, grid, params, len(writes), body, share=share)
        if parser.parse_optional_keyword("attributes") is not None:
            op.attributes.update(parser.parse_optional_dictionary_attr_dict())
        return op

    def verify_(self) -> None:
        table = self.ranks.data
        if len(set(self.ranks.names)) != len(table):
            raise VerifyException("a rank is declared twice")
        walked = {op.rank.data for op in self.body.walk() if isinstance(op, ForOp)}
        apart = [r.name for r in table if r.name in walked and r.role == "unit" and r.name not in self.grid_ranks]
        expected = {r.name for r in table if r.role in ("unit", "grid")} - set(apart)
        if set(self.grid_ranks) != expected or len(self.grid_ranks) != len(expected):
            raise VerifyException(f"the grid must list the unit and grid ranks {sorted(expected)} once each")
        for r in table:
            self._verify_band(r)
        unbound = [r.tile for r in table if r.tile is not None and r.tile not in self.parameters]
        if unbound:
            raise VerifyException(f"parameters {unbound} are not bound")
        if not isinstance(self.body.block.last_op, ReturnOp):
            raise VerifyException("a kernel ends in tile.return")
        self._verify_share()
        for op in self.body.walk():
            for kind in (r.type for r in op.results):
                wrong = [n for n in kind.names if not self._is_dimension(n)] if isinstance(kind, TileType) else []
                if wrong:
                    raise VerifyException(f"{op.name} gives a tile over {wrong}, no dimensions of {self.ranks.text()}")
            if isinstance(op, PickOp):
                self._verify_pick(op)
            if isinstance(op, ForOp) and op.rank.data not in [*apart, *(r.name for r in table if r.role == "loop")]:
                raise VerifyException(f"tile.for walks '{op.rank.data}', which is no loop rank of {self.ranks.text()}")

    def _verify_share(self) -> None:
        share = self.share
        if share is None:
            return
        if share.part not in self.ranks.names or self.ranks[share.part].role != "unit":
            raise VerifyException(f"the pieces '{share.part}' of a share are no unit rank of {self.ranks.text()}")
        if self.grid_ranks[-1:] != (share.part,):
            raise VerifyException(f"the pieces '{share.part}' of a share are not the last rank of the grid")
        if self.parameters.get(share.each, 0) < 1:
            raise VerifyException(f"the steps of a share, '{share.each}', are no parameter of at least 1")
        wrong = symbols.names(share.steps) & set(self.ranks.names) - set(self.grid_ranks[:-1])
        if wrong:
            raise VerifyException(f"the steps of a tile depend on {sorted(wrong)}, no other ranks of the grid")
        for op in self.body.walk():
            if isinstance(op, StoreOp) and (lacking := set(self.grid_ranks) - set(op.access.ranks)):
                raise VerifyException(f"pieces of several tiles along {sorted(lacking)} are stored in one place")

    def _verify_pick(self, op: PickOp) -> None:
        band = self.ranks[op.band.data]
        if band.of is None:
            raise VerifyException(f"tile.pick picks along '{band.name}', which is no band of {self.ranks.text()}")
        sides = {side.name for side in self.ranks.sides(band) if side.role != "unit"}
        if not sides <= set(tile_type(op.result).names):
            raise VerifyException(f"what is picked along '{band.name}' has the ranks {sorted(sides)}")

    def _verify_band(self, rank: TileRank) -> None:
        if rank.of is None:
            return
        linear = symbols.affine(rank.of, self.ranks.names)
        if linear is None or not all(c in (1, -1) for c in linear[0].values()):
            raise VerifyException(f"the band {rank.name} must be a sum or a difference of ranks")
        if any(self.ranks[n].role == "band" for n in linear[0]):
            raise VerifyException(f"the band {rank.name} follows from a band")

    def _is_dimension(self, name: str) -> bool:
        """Whether tiles may have this rank: it is in the table, and more than one element at a time."""
        return name in self.ranks.names and self.ranks[name].role != "unit"
