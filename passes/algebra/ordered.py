"""Ordered merges: reductions that read a value which is still running, and how a part of the row learns what lies before it.

A *running leaf* p holds, at each element, the total c = Σ g up to that element: the log-decay of a gated recurrence.

    h_t = e^{g_t} h_{t-1} + b_t      is      h = Σ_s b_s e^{c - p_s}      with p running, c its end

A part of the row that starts later counts p from its own first element.  With δ the total of what lies before, each
running value of the part moves (c by δ, a maximum of `i - p` by -δ), and each accumulator by what its ψ then is:

    ψ(p + δ, s + σ) = ψ(p, s) · e^Δ   (sum)        ψ(p + δ, s + σ) = ψ(p, s) + Δ   (max, min)

when: Δ is free of leaves and running values; why legal: e^Δ leaves the sum, +Δ leaves the maximum.  The merge of two
neighbours is then the usual one, after the right one has moved; it is associative, and does not commute.
Source: h is an affine map of what lies before it, and affine maps compose (Blelloch, 1990, "Prefix sums", 1.4).
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp
from sympy import Expr, Mul, Symbol

from .forms import Accumulator, OnlineForm, Refused

Shifts = Mapping[Symbol, Expr]


def before(total: Symbol) -> Symbol:
    """The symbol of what a running total has come to before a part of the row begins."""
    return Symbol(f"{total.name}_before", real=True)


def shifts(forms: Sequence[OnlineForm], running: Mapping[Symbol, Symbol]) -> Shifts | Refused:
    """Δ of each accumulator (by its symbol) and of each reduction whose value moves (by its name), over `before(total)`.

    forms: of one traversal, in order.  running: leaf -> the reduction whose running value it is.
    """
    moved: dict[Symbol, Expr] = {p: p + before(c) for p, c in running.items()}
    found: dict[Symbol, Expr] = {c: before(c) for c in running.values()}
    names = {f.reduction for f in forms}
    for form in forms:
        if form.reduction in found:
            moved[form.reduction] = form.reduction + found[form.reduction]
            continue
        for a in form.accumulators:
            delta = _shift(a, moved)
            if delta is None or delta.free_symbols - {before(c) for c in running.values()}:
                return Refused(f"{a.symbol} of a part cannot learn what lies before it: {a.psi} does not split")
            found[a.symbol] = delta
        value = _value_shift(form, found)
        if value is None:
            if _is_read(form.reduction, forms):
                return Refused(f"{form.reduction} is read by others, and moves by no constant")
        elif value != 0:
            found[form.reduction] = value
            moved[form.reduction] = form.reduction + value
    return {s: d for s, d in found.items() if d != 0 or s in names}


def _shift(a: Accumulator, moved: Mapping[Symbol, Expr]) -> Expr | None:
    """Δ of one accumulator: an exponent for sums, a summand for max and min; None where there is none."""
    if not a.psi.free_symbols & set(moved):
        return sp.S.Zero
    if a.combiner in ("max", "min"):
        return sp.expand(a.psi.xreplace(dict(moved)) - a.psi)
    if a.combiner != "sum" or a.moves is not None:
        return None
    exponent, rest = sp.S.Zero, sp.S.One
    for f in Mul.make_args(a.psi):
        if isinstance(f, sp.exp):
            exponent += f.args[0]
        else:
            rest *= f
    if rest.free_symbols & set(moved):
        return None
    return sp.expand(exponent.xreplace(dict(moved)) - exponent)


def _value_shift(form: OnlineForm, found: Mapping[Symbol, Expr]) -> Expr | None:
    """By how much the value of a reduction moves with its accumulators; None where that is no constant."""
    symbols = [a.symbol for a in form.accumulators]
    if all(found[s] == 0 for s in symbols):
        return sp.S.Zero
    if form.J == 1 and form.readout == symbols[0] and form.accumulators[0].combiner in ("max", "min"):
        return found[symbols[0]]
    return None


def _is_read(name: Symbol, forms: Sequence[OnlineForm]) -> bool:
    return any(name in a.psi.free_symbols for f in forms for a in f.accumulators)
