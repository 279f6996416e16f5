"""Predicates of indices, and what they say about one rank: where a tile can be true at all, where it is true throughout.

    predicate                               tile [i, i + BI)      may be true in      is true in
    k <= i                                                        (-oo, i + BI)       (-oo, i + 1)
    k <= i and i - k < 100                                        [i - 99, i + BI)    [i + BI - 100, i + 1)
    k // 64 == i // 64                                            [i // 64 * 64, ((i + BI - 1) // 64 + 1) * 64), ...

Predicates are kept in negation normal form over `e >= 0`, with index expressions `e`, and over what data decides, of which
nothing is known here.  Bounds are conservative: "may" is
never too narrow, "is" never too wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import sympy
from xdsl.ir import SSAValue

from ..ir import symbols


@dataclass(frozen=True)
class AtLeast:
    """`e >= 0`."""

    e: sympy.Expr


@dataclass(frozen=True)
class Every:
    """All parts hold; without parts: true."""

    parts: tuple[Predicate, ...] = ()


@dataclass(frozen=True)
class Some:
    """At least one part holds; without parts: false."""

    parts: tuple[Predicate, ...] = ()


@dataclass(frozen=True)
class Equals:
    """A scalar of a map region that data decides is this number; not `so`: it is another one."""

    value: SSAValue
    number: float | int | bool
    so: bool = True


Predicate = AtLeast | Every | Some | Equals

TRUE, FALSE = Every(), Some()


def every(*parts: Predicate) -> Predicate:
    """The conjunction, flattened; x and (x or y) is x."""
    return _flattened(Every, Some, parts)


def some(*parts: Predicate) -> Predicate:
    """The disjunction, flattened; x or (x and y) is x."""
    return _flattened(Some, Every, parts)


def _flattened(
    kind: type[Every] | type[Some], other: type[Every] | type[Some], parts: tuple[Predicate, ...]
) -> Predicate:
    kept: dict[Predicate, None] = {}
    for p in parts:
        kept.update(dict.fromkeys(p.parts if isinstance(p, kind) else [p]))
    if other() in kept:  # no part of the other kind: false in a conjunction, true in a disjunction
        return other()
    for p in list(kept):
        if isinstance(p, other) and any(q in kept for q in p.parts):
            del kept[p]
    return next(iter(kept)) if len(kept) == 1 else kind(tuple(kept))


def opposite(p: Predicate) -> Predicate:
    """The negation."""
    match p:
        case AtLeast(e):
            return at_least(-e - 1)
        case Equals(value, number, so):
            return Equals(value, number, not so)
        case Every(parts):
            return some(*map(opposite, parts))
        case Some(parts):
            return every(*map(opposite, parts))


def at_least(e: sympy.Expr) -> Predicate:
    """`e >= 0` for an integer `e`; sums with a minimum or a maximum are taken apart."""
    e = sympy.expand(e)
    if e.is_Integer:
        return TRUE if int(e) >= 0 else FALSE
    for term in sympy.Add.make_args(e):
        number, rest = term.as_coeff_Mul()
        if isinstance(rest, sympy.Min | sympy.Max):
            join = every if isinstance(rest, sympy.Min) == bool(number.is_positive) else some
            return join(*(at_least(e - term + number * cast(sympy.Expr, a)) for a in rest.args))
    return AtLeast(e)


def comparison(name: str, a: sympy.Expr, b: sympy.Expr) -> Predicate:
    """`a name b` of integers; name: lt, le, gt, ge, eq, ne."""
    match name:
        case "lt":
            return at_least(b - a - 1)
        case "le":
            return at_least(b - a)
        case "gt":
            return at_least(a - b - 1)
        case "ge":
            return at_least(a - b)
        case "eq":
            return every(at_least(a - b), at_least(b - a))
        case "ne":
            return some(at_least(a - b - 1), at_least(b - a - 1))
    raise ValueError(f"{name} is no comparison")


def implied(p: Predicate, by: Predicate) -> bool:
    """Whether `p` visibly holds wherever `by` does."""
    if p == by:
        return True
    match p:
        case Every(parts):
            return all(implied(q, by) for q in parts)
        case Some(parts) if any(implied(q, by) for q in parts):
            return True
    held = by.parts if isinstance(by, Every) else (by,)
    if p in held:
        return True
    if isinstance(p, AtLeast):
        return any(isinstance(h, AtLeast) and sympy.expand(p.e - h.e).is_nonnegative for h in held)
    return False


def about(p: Predicate, rank: str) -> Predicate:
    """The conjunction of those parts of `p`, which hold together, that `rank` has a part in."""
    return every(*(q for q in (p.parts if isinstance(p, Every) else (p,)) if rank in _names(q)))


def of_indices(p: Predicate) -> Predicate:
    """What `p` says of indices: true wherever it may be, whatever data decides."""
    match p:
        case Every(parts):
            return every(*map(of_indices, parts))
        case Some(parts):
            return some(*map(of_indices, parts))
        case Equals():
            return TRUE
    return p


def _names(p: Predicate) -> set[str]:
    match p:
        case AtLeast(e):
            return symbols.names(e)
        case Equals():
            return set()
    return set().union(*map(_names, p.parts))


def to_text(p: Predicate) -> str:
    """`k <= i`, `i - k <= 99 and k <= i`."""
    match p:
        case AtLeast(e):
            terms = sympy.Add.make_args(e)
            left = sum((-t for t in terms if t.could_extract_minus_sign()), sympy.Integer(0))
            right = sympy.expand(e + left)
            return f"{symbols.to_text(left)} <= {symbols.to_text(right)}"
        case Equals(value, number, so):
            return f"{value.name_hint or 'a value'} {'is' if so else 'is not'} {number}"
        case Every(parts):
            return " and ".join(f"({to_text(q)})" if isinstance(q, Some) else to_text(q) for q in parts) or "true"
        case Some(parts):
            return " or ".join(f"({to_text(q)})" if isinstance(q, Every) else to_text(q) for q in parts) or "false"


# --- one rank -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """Indices of a rank from `lower` up to, not including, `upper`; None where there is no bound."""

    lower: sympy.Expr | None = None
    upper: sympy.Expr | None = None


Range = tuple[sympy.Expr, sympy.Expr]  # the least and the greatest value of something
Wanted = Literal["may", "is"]


def span(p: Predicate, rank: str, others: Mapping[str, Range], wanted: Wanted) -> Span | None:
    """Where along `rank` the predicate may be true for some of the other ranks' indices, or is for all of them.

    others: what values the other ranks take.  None: nowhere, as far as is known.
    """
    match p:
        case AtLeast(e):
            return _half(e, rank, others, wanted)
        case Equals():
            return Span() if wanted == "may" else None
        case Every(parts):
            return _meet([span(q, rank, others, wanted) for q in parts])
        case Some(parts):
            spans = [s for q in parts if (s := span(q, rank, others, wanted)) is not None]
            return _hull(spans) if wanted == "may" else _largest(spans)


def _meet(spans: Sequence[Span | None]) -> Span | None:
    lower: sympy.Expr | None = None
    upper: sympy.Expr | None = None
    for s in spans:
        if s is None:
            return None
        lower = _joined(sympy.Max, lower, s.lower)
        upper = _joined(sympy.Min, upper, s.upper)
    return Span(lower, upper)


def _joined(of: Callable, a: sympy.Expr | None, b: sympy.Expr | None) -> sympy.Expr | None:
    return b if a is None else a if b is None else of(a, b)


def _hull(spans: Sequence[Span]) -> Span | None:
    if not spans:
        return None
    lowers, uppers = [s.lower for s in spans], [s.upper for s in spans]
    return Span(
        None if None in lowers else sympy.Min(*lowers),
        None if None in uppers else sympy.Max(*uppers),
    )


def _largest(spans: Sequence[Span]) -> Span | None:
    """One span within the union: all that have no lower (or no upper) bound together, else the first."""
    if not spans:
        return None
    below, above = ([s for s in spans if getattr(s, end) is None] for end in ("lower", "upper"))
    chosen = below if below else above
    return _hull(chosen) if chosen else spans[0]


def _half(e: sympy.Expr, rank: str, others: Mapping[str, Range], wanted: Wanted) -> Span | None:
    """The span of `e >= 0`."""
    unknown = Span() if wanted == "may" else None
    k = symbols.symbol(rank)
    e = _without_rounding(e, k)
    linear = symbols.affine(e, [rank])
    if linear is None or k in linear[1].free_symbols:
        return unknown
    coefficient = linear[0].get(rank, sympy.Integer(0))
    reach = range_of(linear[1], others)
    if reach is None or not coefficient.is_Integer:
        return unknown
    rest = reach[1] if wanted == "may" else reach[0]  # of the rest of `e`: the most that it can be, or the least
    if coefficient == 0:
        if wanted == "may":
            return None if rest.is_negative else Span()
        return Span() if rest.is_nonnegative else None
    if coefficient > 0:
        return Span(lower=symbols.ceildiv(-rest, coefficient))
    return Span(upper=symbols.floordiv(rest, -coefficient) + 1)


def _without_rounding(e: sympy.Expr, k: sympy.Symbol) -> sympy.Expr:
    """`e >= 0` with `k` inside of one rounded quotient, as a condition without the rounding: k // 64 >= g is k >= 64 g."""
    rounded = [t for t in sympy.Add.make_args(e) if k in t.free_symbols]
    if len(rounded) != 1:
        return e
    sign, quotient = rounded[0].as_coeff_Mul()
    if not isinstance(quotient, sympy.floor) or sign not in (1, -1):
        return e
    rest = e - rounded[0]
    top, bottom = symbols.fraction(quotient)
    if not bottom.is_Integer:
        return e
    if sign == 1:  # floor(t / b) >= -rest
        return sympy.expand(top + bottom * rest)
    return sympy.expand(bottom * rest + bottom - 1 - top)  # floor(t / b) <= rest


def range_of(e: sympy.Expr, ranks: Mapping[str, Range]) -> Range | None:
    """The least and the greatest value of an index expression, or bounds of them; None when it has an unknown part."""
    if not symbols.names(e) & set(ranks):
        return e, e
    if isinstance(e, sympy.Symbol):
        return ranks[e.name]
    if isinstance(e, sympy.Add):
        parts = [range_of(cast(sympy.Expr, t), ranks) for t in e.args]
        known = [p for p in parts if p is not None]
        if len(known) < len(parts):
            return None
        return sympy.Add(*(p[0] for p in known)), sympy.Add(*(p[1] for p in known))
    if isinstance(e, sympy.Mul):
        number, rest = e.as_coeff_Mul()
        of = range_of(rest, ranks) if number != 1 else None
        if of is None:
            return None
        return (number * of[0], number * of[1]) if number > 0 else (number * of[1], number * of[0])
    if isinstance(e, sympy.floor | sympy.ceiling):
        top, bottom = symbols.fraction(e)
        of = range_of(top, ranks) if bottom.is_Integer else None
        rounding = symbols.floordiv if isinstance(e, sympy.floor) else symbols.ceildiv
        return None if of is None else (rounding(of[0], bottom), rounding(of[1], bottom))
    if isinstance(e, sympy.Mod) and e.args[1].is_Integer:
        return sympy.Integer(0), cast(sympy.Expr, e.args[1]) - 1
    return None


# --- loops --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """A part of a walk, from `lower` to `upper`; full: its tiles are whole, and the predicate is true throughout."""

    lower: sympy.Expr
    upper: sympy.Expr
    full: bool


def segments(
    p: Predicate, rank: str, extent: sympy.Expr, tile: sympy.Expr, others: Mapping[str, Range], full_tiles: bool = True
) -> list[Segment]:
    """The walks along `rank`, one after the other, that visit every index at which `p` may be true.

    tile: the step, of which every `lower` is a multiple.  full_tiles: walk the tiles that are full apart.
    """
    return list(_segments(p, rank, extent, tile, tuple(others.items()), full_tiles))


@lru_cache(maxsize=1024)
def _segments(
    p: Predicate,
    rank: str,
    extent: sympy.Expr,
    tile: sympy.Expr,
    reach: tuple[tuple[str, Range], ...],
    full_tiles: bool,
) -> Sequence[Segment]:
    zero, others = sympy.Integer(0), dict(reach)
    may = span(p, rank, others, "may")
    if may is None:  # nowhere: one walk without steps
        return [Segment(zero, zero, False)]
    begin = zero if may.lower is None else symbols.floordiv(_within(may.lower, extent), tile) * tile
    end = extent if may.upper is None else _within(may.upper, extent)
    certain = span(about(p, rank), rank, others, "is") if full_tiles else None
    if certain is None or certain == Span():
        return [Segment(begin, end, False)]
    first = zero if certain.lower is None else symbols.ceildiv(_within(certain.lower, extent), tile) * tile
    last = symbols.floordiv(extent if certain.upper is None else _within(certain.upper, extent), tile) * tile
    first = sympy.Max(begin, first)
    found = []
    if first != begin:
        found.append(Segment(begin, sympy.Min(first, end), False))
    found.append(Segment(first, last, True))
    found.append(Segment(last if first == 0 else sympy.Max(first, last), end, False))
    return found


def _within(e: sympy.Expr, extent: sympy.Expr) -> sympy.Expr:
    """`e`, no less than 0 and no more than the extent."""
    return sympy.Max(0, sympy.Min(e, extent))
