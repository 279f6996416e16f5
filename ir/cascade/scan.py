"""`cascade.scan`: an iterative rank, whose running combination is the result."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, StringAttr, UnitAttr
from xdsl.ir import Attribute, Region, SSAValue
from xdsl.irdl import irdl_op_definition, opt_prop_def, prop_def, region_def, traits_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from ..attributes import AccessMap, RankSpace
from .region import YieldOp, verify_scalar_region
from .structured import Structured, element_compute_type, parse_space, result_types
from .syntax import parse_attributes, print_tail

LINEAR = "linear"
SCANS = ("sum", "prod", "max", "min", "any", "all", LINEAR)


@irdl_op_definition
class ScanOp(Structured):
    """Running combinations along one rank, which the results still carry.

        %y = cascade.scan [i = n, j = m] ins(%x[i, j] : T) outs(sum [i, j] : T) over j {
        ^bb0(%a : f32):
          cascade.yield %a : f32
        }

    The region maps the accessed elements, as in an einsum.  An element of a result is the combination of the mapped
    scalars up to its own index in `over`, that one included; `exclusive`: that one left out, so that the first is the
    combiner's identity; `reversed`: from the last index down.  Results carry all ranks: a scan reduces nothing.

    `linear` is the affine recurrence h = a h' + b, from 0: it takes two scalars of the region, the decay a and the
    contribution b, where the others take one.  A start other than 0 is part of the first contribution.
    """

    name = "cascade.scan"
    over = prop_def(StringAttr)
    exclusive = opt_prop_def(UnitAttr)
    reversed = opt_prop_def(UnitAttr)
    body = region_def("single_block")
    traits = traits_def(Pure())

    def __init__(
        self,
        ranks: RankSpace,
        over: str,
        inputs: Sequence[tuple[SSAValue, AccessMap]],
        outs: Sequence[tuple[str, AccessMap, Attribute]],
        body: Region,
        exclusive: bool = False,
        reversed: bool = False,
        attributes: dict[str, Attribute] | None = None,
    ):
        """`outs`: one (combiner, output map, result type) per result; the type may be an element type."""
        super().__init__(
            operands=[[v for v, _ in inputs]],
            properties={
                "ranks": ranks,
                "over": StringAttr(over),
                "accesses": ArrayAttr([a for _, a in inputs]),
                "combiners": ArrayAttr([StringAttr(c) for c, _, _ in outs]),
                "out_maps": ArrayAttr([o for _, o, _ in outs]),
                "exclusive": UnitAttr() if exclusive else None,
                "reversed": UnitAttr() if reversed else None,
            },
            regions=[body],
            result_types=[result_types(ranks, outs)],
            attributes=attributes or {},
        )

    @property
    def yields(self) -> tuple[tuple[SSAValue, ...], ...]:
        """What the region yields for each result: (decay, contribution) for `linear`, one scalar for the others."""
        last = self.body.block.last_op
        assert isinstance(last, YieldOp)
        values = iter(last.values)
        return tuple((next(values), next(values)) if c == LINEAR else (next(values),) for c in self.combiner_names)

    def print(self, printer: Printer) -> None:
        self.print_space(printer)
        printer.print_string(f" over {self.over.data}")
        printer.print_string(" exclusive" if self.exclusive is not None else "")
        printer.print_string(" reversed" if self.reversed is not None else "")
        print_tail(self, printer, [("", self.body)])

    @classmethod
    def parse(cls, parser: Parser) -> ScanOp:
        ranks, ins, outs = parse_space(parser)
        parser.parse_keyword("over")
        over = parser.parse_identifier()
        exclusive = parser.parse_optional_keyword("exclusive") is not None
        reversed = parser.parse_optional_keyword("reversed") is not None
        body = parser.parse_region()
        return cls(ranks, over, ins, outs, body, exclusive, reversed, parse_attributes(parser))

    def verify_(self) -> None:
        self.verify_space(SCANS)
        if self.over.data not in self.ranks.names:
            raise VerifyException(f"the scanned rank '{self.over.data}' is not in {self.ranks.text()}")
        yields: list[Attribute] = []
        for n, (combiner, result) in enumerate(zip(self.combiner_names, self.results, strict=True)):
            missing = [r for r in self.ranks.names if r not in self.out_ranks(n)]
            if missing:
                raise VerifyException(f"a scan reduces nothing, but result {n} does not carry {missing}")
            yields += [element_compute_type(result)] * (2 if combiner == LINEAR else 1)
        elements = [element_compute_type(v) for v in self.inputs]
        verify_scalar_region(self.body, elements, yields, "the map region")
