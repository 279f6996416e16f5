"""Counting passes: in which traversal of the rank can each reduction be finished?

A traversal that can start only after another has ended adds a pass under every mapping, so this number is a property
of the algebra, not of a schedule.  Reductions are taken in order; each joins the traversal of the latest results it
needs if an online form lets it (`derive`), and otherwise starts the next one.  Results of earlier traversals are
constants.  Greedy is optimal for a fixed set of repairs: finishing a result earlier never delays another.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sympy import Expr, Symbol

from .anchored import derive_anchored
from .derive import derive as derive_raw
from .forms import Cascade, OnlineForm, Reduction, Refused

REPAIRS = ("none", "defer", "stable", "full")


@dataclass(frozen=True)
class Levels:
    """passes: traversals of the rank.  level: reduction name -> the traversal (from 1) in which it is finished.
    forms: how it is folded there.  reasons: for each reduction that had to wait, for what and why.
    map_levels: the traversal of each of the cascade's maps; map_reasons: what each waits for ("" for nothing).
    pairs: traversal (from 2) -> the pairs (earlier, later) that force it: later, a reduction or a map of the cascade,
    cannot be computed in the traversal that finishes earlier.  A reduction that joins the traversal of a result that it
    reads is in no pair."""

    passes: int
    level: Mapping[Symbol, int]
    forms: Mapping[Symbol, OnlineForm]
    reasons: Mapping[Symbol, str]
    map_levels: tuple[int, ...] = ()
    map_reasons: tuple[str, ...] = ()
    pairs: Mapping[int, tuple[tuple[Symbol, Symbol | Expr], ...]] = field(default_factory=dict)


def count(cascade: Cascade, repair: str = "full", anchored: bool = False) -> Levels:
    """The levels of a cascade.  repair: "none" (as written), "defer" (only factors and monotone maps leave a reduction,
    one plain accumulator each), "stable" (also rescaled ones, one accumulator each: no moments, which cancel in fp32),
    "full" (everything `derive` finds).  anchored: moments are taken from anchors.

    Raises ValueError for a name that is used before it is defined, or defined twice.
    """
    if repair not in REPAIRS:
        raise ValueError(f"unknown repair {repair!r}; known: {', '.join(REPAIRS)}")
    derive = derive_anchored if anchored else derive_raw
    names = [r.name for r in cascade.reductions]
    if len(set(names)) != len(names) or set(names) & cascade.leaves:
        raise ValueError("a reduction name is used twice")
    level: dict[Symbol, int] = {}
    forms: dict[Symbol, OnlineForm] = {}
    reasons: dict[Symbol, str] = {}
    pairs: dict[int, list[tuple[Symbol, Symbol | Expr]]] = {}
    for r in cascade.reductions:
        if early := r.expr.free_symbols & set(names) - set(level):
            raise ValueError(f"{r.name} uses {min(map(str, early))}, which is not defined before it")
        deps = r.expr.free_symbols & set(level)
        base = max((level[d] for d in deps), default=1)
        in_flight = frozenset(d for d in deps if level[d] == base)
        form = derive(r, in_flight, cascade.leaves)
        if in_flight and not _allowed(form, repair):
            base += 1
            culprits, why = _culprits(r, in_flight, form, repair, lambda d, r=r: derive(r, d, cascade.leaves))
            reasons[r.name] = f"{r.name} waits for {', '.join(map(str, culprits))}: {why}"
            pairs.setdefault(base, []).extend((c, r.name) for c in culprits)
            form = derive(r, frozenset(), cascade.leaves)
        if isinstance(form, Refused):  # nothing moves: the map itself is its form, so this cannot be
            raise AssertionError(f"{r}: {form.reason}")
        level[r.name], forms[r.name] = base, form
    map_levels, map_reasons = [], []
    for m in cascade.maps:
        deps = m.free_symbols & set(level)
        latest = max((level[d] for d in deps), default=0)
        culprits = sorted((d for d in deps if level[d] == latest), key=str)
        pairs.setdefault(latest + 1, []).extend((c, m) for c in culprits)
        map_levels.append(latest + 1)
        waits = f"{m} is written for every element: it waits for {', '.join(map(str, culprits))}"
        map_reasons.append(waits if culprits else "")
    passes = max([*level.values(), *map_levels], default=0)
    forced = {n: tuple(pairs[n]) for n in sorted(pairs) if pairs[n]}
    return Levels(passes, level, forms, reasons, tuple(map_levels), tuple(map_reasons), forced)


def _culprits(
    r: Reduction,
    in_flight: frozenset[Symbol],
    form: OnlineForm | Refused,
    repair: str,
    derive_over: Callable[[frozenset[Symbol]], OnlineForm | Refused],
) -> tuple[list[Symbol], str]:
    """The results that r cannot be computed beside, each for itself if that says it all, else all together; and why."""
    alone = {} if repair == "none" else {d: derive_over(frozenset([d])) for d in sorted(in_flight, key=str)}
    culprits = [d for d, found in alone.items() if not _allowed(found, repair)]
    if len(culprits) == 1:
        form = alone[culprits[0]]
    why = form.reason if isinstance(form, Refused) else f"repair {repair!r} does not use: {form.form}"
    return culprits or sorted(in_flight, key=str), why


def _allowed(form: OnlineForm | Refused, repair: str) -> bool:
    if isinstance(form, Refused) or repair == "none" or form.cancels:
        return False
    single = form.J <= 1
    return repair == "full" or (
        single and (repair == "stable" or all(a.gauge is None and a.moves is None for a in form.accumulators))
    )


def passes_over(cascade: Cascade, levels: Levels, leaf: Symbol) -> int:
    """How many traversals read one leaf."""
    reads = {levels.level[r.name] for r in cascade.reductions if _reads(r, levels, leaf)}
    reads |= {n for m, n in zip(cascade.maps, levels.map_levels, strict=True) if leaf in m.free_symbols}
    return len(reads)


def _reads(r: Reduction, levels: Levels, leaf: Symbol) -> bool:
    return any(leaf in a.psi.free_symbols for a in levels.forms[r.name].accumulators)
