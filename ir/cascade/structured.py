"""What operations over a rank space share: accessed inputs, combined outputs, and their textual form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import sympy
from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import IRDLOperation, prop_def, var_operand_def, var_result_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from ..attributes import AccessMap, RankSpace, TensorType, compute_type
from .syntax import parse_accessed, print_accessed

MAP = "map"
REDUCTIONS = ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin")
COMBINERS = (MAP, *REDUCTIONS)


class Structured(IRDLOperation):
    """What einsum, online and scan share: a rank space, accessed inputs, combined outputs."""

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
        return tuple(c.data for c in self.properties["combiners"].data)  # pyright: ignore

    def out_ranks(self, index: int = 0) -> tuple[str, ...]:
        """Rank names of result `index`, in dimension order."""
        names = self.out_maps.data[index].bare()
        assert names is not None
        return names

    def out_shape(self, index: int = 0) -> tuple[sympy.Expr, ...]:
        extents = self.extents
        return tuple(extents[r] for r in self.out_ranks(index))

    def verify_space(self, combiners: Sequence[str] = COMBINERS) -> None:
        """Raise VerifyException unless ranks, accesses, combiners and results fit together."""
        known = set(self.ranks.names)
        if len(known) != len(self.ranks.names):
            raise VerifyException(f"a rank is declared twice in {self.ranks.text()}")
        check_accessed(self.inputs, self.accesses.data)
        if not len(self.combiners.data) == len(self.out_maps.data) == len(self.results):
            raise VerifyException("combiners, output maps and results must be equally many")
        if not self.results:
            raise VerifyException("an operation without results computes nothing")
        for combiner, out, result in zip(self.combiner_names, self.out_maps.data, self.results, strict=True):
            if combiner not in combiners:
                raise VerifyException(f"'{combiner}' is not a combiner; known: {', '.join(combiners)}")
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

    def print_space(self, printer: Printer) -> None:
        """` [i = n, j = m] ins(...) outs(sum [i] : T, ...)`."""
        printer.print_string(f" {self.ranks.text()}")
        print_accessed(printer, "ins", self.operand_accesses)
        printer.print_string(" outs(")
        for n, (combiner, out, result) in enumerate(
            zip(self.combiner_names, self.out_maps.data, self.results, strict=True)
        ):
            if n:
                printer.print_string(", ")
            printer.print_string(f"{combiner} {out.text()} : ")
            printer.print_attribute(result.type)
        printer.print_string(")")


def parse_space(
    parser: Parser,
) -> tuple[RankSpace, list[tuple[SSAValue, AccessMap]], list[tuple[str, AccessMap, Attribute]]]:
    """Ranks, inputs and results, as `Structured.print_space` writes them."""
    ranks = RankSpace.parse_bare(parser)

    def one_out() -> tuple[str, AccessMap, Attribute]:
        combiner = parser.parse_identifier(" for a combiner")
        out = AccessMap.parse_bare(parser)
        parser.parse_punctuation(":")
        return combiner, out, parser.parse_type()

    ins = parse_accessed(parser, "ins")
    parser.parse_characters("outs")
    return ranks, ins, parser.parse_comma_separated_list(parser.Delimiter.PAREN, one_out)


def result_types(ranks: RankSpace, outs: Sequence[tuple[str, AccessMap, Attribute]]) -> list[Attribute]:
    """The types of results given as (combiner, output map, type); an element type gets the extents of the map."""
    extents = ranks.extents
    return [
        kind if isinstance(kind, TensorType) else TensorType.of([extents[r] for r in out.bare() or ()], kind)
        for _, out, kind in outs
    ]


def check_accessed(inputs: Sequence[SSAValue], accesses: Sequence[AccessMap], what: str = "inputs") -> None:
    """Raise VerifyException unless there is one access map a value, with one index a dimension."""
    if len(accesses) != len(inputs):
        raise VerifyException(f"{len(inputs)} {what} but {len(accesses)} access maps")
    for value, access in zip(inputs, accesses, strict=True):
        if not isinstance(value.type, TensorType):
            raise VerifyException(f"input of type {value.type} is not a !cascade.tensor")
        if len(access.data) != len(value.type.dims):
            raise VerifyException(f"access {access.text()} has {len(access.data)} indices for {value.type}")


def element_compute_type(value: SSAValue) -> Attribute:
    """The type in which a map computes on the elements of a tensor."""
    return compute_type(cast(TensorType, value.type).element_type)
