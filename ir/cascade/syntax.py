"""The textual form that operations share: accessed values, bindings of block arguments, regions, attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xdsl.ir import Attribute, Operation, Region, SSAValue
from xdsl.parser import Parser
from xdsl.printer import Printer

from ..attributes import AccessMap


def print_accessed(printer: Printer, word: str, pairs: Iterable[tuple[SSAValue, AccessMap]]) -> None:
    """` ins(%x[i, d] : T, %y[d] : U)`."""
    printer.print_string(f" {word}(")
    for n, (value, access) in enumerate(pairs):
        if n:
            printer.print_string(", ")
        print_one(printer, value, access)
    printer.print_string(")")


def print_one(printer: Printer, value: SSAValue, access: AccessMap) -> None:
    """`%x[i, d] : T`."""
    printer.print_ssa_value(value)
    printer.print_string(f"{access.text()} : ")
    printer.print_attribute(value.type)


def parse_accessed(parser: Parser, word: str) -> list[tuple[SSAValue, AccessMap]]:
    parser.parse_characters(word)
    return parser.parse_comma_separated_list(parser.Delimiter.PAREN, lambda: parse_one(parser))


def parse_one(parser: Parser) -> tuple[SSAValue, AccessMap]:
    unresolved = parser.parse_unresolved_operand()
    access = AccessMap.parse_bare(parser)
    parser.parse_punctuation(":")
    return parser.resolve_operand(unresolved, parser.parse_type()), access


def print_tail(op: Operation, printer: Printer, regions: Sequence[tuple[str, Region]]) -> None:
    """Labelled regions, then the attributes that are no properties."""
    for label, region in regions:
        printer.print_string(f" {label}" if label else "")
        printer.print_string(" ")
        printer.print_region(region, print_empty_block=False)
    if op.attributes:
        printer.print_string(" attributes ")
        printer.print_attr_dict(op.attributes)


def parse_attributes(parser: Parser) -> dict[str, Attribute]:
    if parser.parse_optional_keyword("attributes") is None:
        return {}
    return parser.parse_optional_dictionary_attr_dict()
