"""`cascade.online`: cascaded reductions in one pass."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, IntAttr, StringAttr, i64
from xdsl.ir import Attribute, Region, SSAValue
from xdsl.irdl import irdl_op_definition, prop_def, region_def, traits_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from ..attributes import AccessMap, RankSpace
from .region import YieldOp, verify_scalar_region
from .structured import MAP, Structured, element_compute_type, parse_space, result_types
from .syntax import parse_attributes, print_tail


@irdl_op_definition
class OnlineOp(Structured):
    """Several cascaded reductions over one rank, folded in a single pass with a product monoid.

    State: one accumulator per result, combined by that result's combiner.  Results listed in `gauges` are *gauges*:
    their running value is what the other accumulators are expressed in.  `step` takes the input elements, then the
    gauges, and yields one contribution per result (a gauge's own contribution must not depend on gauges).  `transport`
    takes the old gauges, the new gauges, the accumulators that are not gauges, then the inputs that do not carry the
    streamed rank (`row_inputs`: a temperature), and yields those accumulators re-expressed.  Only the streamed rank is
    reduced: a contribution depends on no rank but that and its result's own.

    An argmax or argmin may be a gauge: its extreme is kept with the index, and what is measured at it is the index of the
    best element so far, the first of several.

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
            result_types=[result_types(ranks, outs)],
            attributes=attributes or {},
        )

    @property
    def gauge_indices(self) -> tuple[int, ...]:
        return tuple(g.data for g in self.gauges.data)

    @property
    def yields(self) -> tuple[SSAValue, ...]:
        """The contribution to each result."""
        last = self.step.block.last_op
        assert isinstance(last, YieldOp)
        return tuple(last.values)

    @property
    def row_inputs(self) -> tuple[int, ...]:
        """Which inputs do not carry the streamed rank, so that a transport may read them."""
        return tuple(n for n, a in enumerate(self.accesses.data) if self.over.data not in a.ranks)

    def print(self, printer: Printer) -> None:
        self.print_space(printer)
        gauges = ", ".join(map(str, self.gauge_indices))
        printer.print_string(f" over {self.over.data} gauges [{gauges}]")
        print_tail(self, printer, [("step", self.step), ("transport", self.transport)])

    @classmethod
    def parse(cls, parser: Parser) -> OnlineOp:
        ranks, ins, outs = parse_space(parser)
        parser.parse_keyword("over")
        over = parser.parse_identifier()
        parser.parse_keyword("gauges")
        gauges = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
        parser.parse_keyword("step")
        step = parser.parse_region()
        parser.parse_keyword("transport")
        transport = parser.parse_region()
        return cls(ranks, over, ins, outs, gauges, step, transport, parse_attributes(parser))

    def verify_(self) -> None:
        self.verify_space()
        over = self.over.data
        if over not in self.ranks.names:
            raise VerifyException(f"the streamed rank '{over}' is not in {self.ranks.text()}")
        for n, combiner in enumerate(self.combiner_names):
            if combiner == MAP:
                raise VerifyException("a result of cascade.online is an accumulator; 'map' is none")
            if combiner in ("argmax", "argmin") and n not in self.gauge_indices:
                raise VerifyException(
                    f"'{combiner}' is a gauge (the others are measured at its place) or a cascade.einsum"
                )
            if combiner in ("argmax", "argmin") and element_compute_type(self.results[n]) != i64:
                raise VerifyException(f"'{combiner}' gives an index, so its elements are integers")
            if over in self.out_ranks(n):
                raise VerifyException(f"result {n} carries the streamed rank '{over}'")
        gauges = self.gauge_indices
        if any(not 0 <= g < len(self.results) for g in gauges) or len(set(gauges)) != len(gauges):
            raise VerifyException(f"gauges {list(gauges)} are not distinct results")
        types = [element_compute_type(r) for r in self.results]
        elements = [element_compute_type(v) for v in self.inputs]
        at = [types[g] for g in gauges]
        rest = [t for n, t in enumerate(types) if n not in gauges]
        last = self.step.block.last_op if self.step.blocks else None
        yields = list(types)
        if isinstance(last, YieldOp) and len(last.values) == len(types):  # an extreme is of anything; its place is kept
            places = [n for n, c in enumerate(self.combiner_names) if c in ("argmax", "argmin")]
            yields = [last.values[n].type if n in places else t for n, t in enumerate(types)]
        verify_scalar_region(self.step, elements + at, yields, "the step region")
        row = [elements[n] for n in self.row_inputs]
        verify_scalar_region(self.transport, [*at, *at, *rest, *row], rest, "the transport region")
