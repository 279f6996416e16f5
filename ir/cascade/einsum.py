"""`cascade.einsum`: map, reduce, populate."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, StringAttr, i64
from xdsl.ir import Attribute, Region, SSAValue
from xdsl.irdl import irdl_op_definition, region_def, traits_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from ..attributes import AccessMap, RankSpace
from .region import YieldOp, verify_scalar_region
from .structured import MAP, Structured, element_compute_type, parse_space, result_types
from .syntax import parse_attributes, print_tail


@irdl_op_definition
class EinsumOp(Structured):
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
        super().__init__(
            operands=[[v for v, _ in inputs]],
            properties={
                "ranks": ranks,
                "accesses": ArrayAttr([a for _, a in inputs]),
                "combiners": ArrayAttr([StringAttr(c) for c, _, _ in outs]),
                "out_maps": ArrayAttr([o for _, o, _ in outs]),
            },
            regions=[body],
            result_types=[result_types(ranks, outs)],
            attributes=attributes or {},
        )

    @property
    def reduced(self) -> tuple[str, ...]:
        """The reduced ranks, in the order of the rank space."""
        kept = set(self.out_ranks(0))
        return tuple(r for r in self.ranks.names if r not in kept)

    @property
    def is_map(self) -> bool:
        return MAP in self.combiner_names  # and no other: `verify_`

    @property
    def yields(self) -> tuple[SSAValue, ...]:
        last = self.body.block.last_op
        assert isinstance(last, YieldOp)
        return tuple(last.values)

    @property
    def results_spec(self) -> list[tuple[str, AccessMap, Attribute]]:
        """(combiner, output map, element type) of each result, as the constructor takes them."""
        types = [r.type.element_type for r in self.results]  # pyright: ignore
        return list(zip(self.combiner_names, self.out_maps.data, types, strict=True))

    def print(self, printer: Printer) -> None:
        self.print_space(printer)
        print_tail(self, printer, [("", self.body)])

    @classmethod
    def parse(cls, parser: Parser) -> EinsumOp:
        ranks, ins, outs = parse_space(parser)
        body = parser.parse_region()
        return cls(ranks, ins, outs, body, parse_attributes(parser))

    def verify_(self) -> None:
        self.verify_space()
        kept = set(self.out_ranks(0))
        reduced = [r for r in self.ranks.names if r not in kept]
        yields: list[Attribute] = []
        argument_types = [element_compute_type(v) for v in self.inputs]
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
                if element_compute_type(result) != i64:
                    raise VerifyException(f"'{combiner}' gives an index, so its elements are integers")
                if isinstance(last, YieldOp) and n < len(last.values):
                    yields.append(last.values[n].type)
            else:
                yields.append(element_compute_type(result))
        verify_scalar_region(self.body, argument_types, yields, "the map region")
