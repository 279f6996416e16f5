"""Counting passes: in which traversal of the rank can each reduction be finished?

A traversal that can start only after another has ended adds a pass under every mapping, so this number is a property
of the algebra, not of a schedule.  Reductions are taken in order; each joins the traversal of the latest results it
needs if an online form lets it (`derive`), and otherwise starts the next one.  Results of earlier traversals are
constants.  Greedy is optimal for a fixed set of repairs: finishing a result earlier never delays another.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sympy import Symbol

from .anchored import derive_anchored
from .derive import derive as derive_raw
from .forms import Cascade, OnlineForm, Reduction, Refused

REPAIRS = ("none", "defer", "stable", "full")


@dataclass(frozen=True)
class Levels:
    """passes: traversals of the rank.  level: reduction name -> the traversal (from 1) in which it is finished.
    forms: how it is folded there.  reasons: for each reduction that had to wait, for what and why.
    map_levels: the traversal of each of the cascade's maps."""

    passes: int
    level: Mapping[Symbol, int]
    forms: Mapping[Symbol, OnlineForm]
    reasons: Mapping[Symbol, str]
    map_levels: tuple[int, ...] = ()


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
    for r in cascade.reductions:
        if early := r.expr.free_symbols & set(names) - set(level):
            raise ValueError(f"{r.name} uses {min(map(str, early))}, which is not defined before it")
        deps = r.expr.free_symbols & set(level)
        base = max((level[d] for d in deps), default=1)
        in_flight = frozenset(d for d in deps if level[d] == base)
        form = derive(r, in_flight, cascade.leaves)
        if in_flight and not _allowed(form, repair):
            waits = ", ".join(sorted(map(str, in_flight)))
            why = form.reason if isinstance(form, Refused) else f"repair {repair!r} does not use: {form.form}"
            reasons[r.name] = f"{r.name} waits for {waits}: {why}"
            base += 1
            form = derive(r, frozenset(), cascade.leaves)
        if isinstance(form, Refused):  # nothing moves: the map itself is its form, so this cannot be
            raise AssertionError(f"{r}: {form.reason}")
        level[r.name], forms[r.name] = base, form
    maps = tuple(1 + max((level[d] for d in m.free_symbols & set(level)), default=0) for m in cascade.maps)
    passes = max([*level.values(), *maps], default=0)
    return Levels(passes, level, forms, reasons, maps)


def _allowed(form: OnlineForm | Refused, repair: str) -> bool:
    if isinstance(form, Refused) or repair == "none":
        return False
    single = form.J <= 1
    return repair == "full" or (single and (repair == "stable" or all(a.gauge is None for a in form.accumulators)))


def passes_over(cascade: Cascade, levels: Levels, leaf: Symbol) -> int:
    """How many traversals read one leaf."""
    reads = {levels.level[r.name] for r in cascade.reductions if _reads(r, levels, leaf)}
    reads |= {n for m, n in zip(cascade.maps, levels.map_levels, strict=True) if leaf in m.free_symbols}
    return len(reads)


def _reads(r: Reduction, levels: Levels, leaf: Symbol) -> bool:
    return any(leaf in a.psi.free_symbols for a in levels.forms[r.name].accumulators)
