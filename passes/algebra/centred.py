"""Centred moments: the anchor is the running maximum that stabilises the sum anyway.

before:  A1 = Σ e^{x - m} (x - c)                          c: a constant of the row
after:   A1 = Σ e^{x - m} (x - m),  moved to m' by  A1' = f A1 + (m - m') f A0,   f = e^{m - m'},  A0 = Σ e^{x - m}
when:    the anchored value is what the maximum is taken of, and every accumulator that holds the anchor is weighted by it
why:     Taylor: ψ(c') = Σ_i (c' - c)^i / i! ∂_c^i ψ(c) is exact for polynomials, and the derivatives are again multiples of
         accumulators (a binomial triangle).  Terms that count are those near the maximum, where x - m is small: nothing
         large is subtracted, and no masked or stray element can be a bad anchor.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportAssignmentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import sympy as sp
from sympy import Expr, Symbol

from .expressions import lt, select
from .forms import Accumulator, OnlineForm, moved_to

MAX_DEGREE = 4


def centre(form: OnlineForm, maxima: Mapping[Expr, Symbol]) -> OnlineForm:
    """`form` with those anchors replaced for which `maxima` has the running maxima of the anchored value's terms."""
    for anchor, z in form.anchors:
        m = follows(z, maxima)
        if m is None:
            continue
        holding = [a for a in form.accumulators if anchor in a.psi.free_symbols]
        if not all(
            a.combiner == "sum" and a.gauge is not None and a.gauge.free_symbols & m.free_symbols for a in holding
        ):
            continue
        moves = {a.symbol: _triangle(a, anchor, m, form.accumulators) for a in holding}
        if any(moved is None for moved in moves.values()):
            continue
        accumulators = tuple(
            replace(a, psi=a.psi.xreplace({anchor: m}), moves=moves[a.symbol]) if a in holding else a
            for a in form.accumulators
        )
        form = replace(
            form,
            accumulators=accumulators,
            readout=form.readout.xreplace({anchor: m}),
            anchors=tuple(x for x in form.anchors if x[0] != anchor),
            certificate=f"{form.certificate}; {anchor} follows {m}, moved by Taylor's formula",
        )
    return form


def follows(z: Expr, maxima: Mapping[Expr, Symbol]) -> Expr | None:
    """The running maximum of z; for a linear combination of values that have one, that combination of theirs."""
    if z in maxima:
        return maxima[z]
    terms = [t.as_coeff_Mul() for t in sp.Add.make_args(z)]
    return sp.Add(*[c * maxima[t] for c, t in terms]) if all(t in maxima for _, t in terms) else None


def _triangle(a: Accumulator, anchor: Symbol, m: Expr, all_of_them: tuple[Accumulator, ...]) -> Expr | None:
    """What `a`, already multiplied by the change of its gauge, becomes when the anchor moves from m to its new value.

    None when a derivative is not a multiple of an accumulator.  The step is taken as 0 when it is infinite: then nothing
    was folded before.
    """
    steps = {s: moved_to(s) - s for s in m.free_symbols}
    step = m.xreplace({s: select(lt(sp.Abs(d), sp.oo), d, 0) for s, d in steps.items()})
    total, term = a.symbol, a.psi
    for degree in range(1, MAX_DEGREE + 1):
        term = sp.diff(term, anchor)
        if term == 0:
            return total
        for other in all_of_them:
            ratio = term / other.psi
            if not ratio.is_Number and ratio.free_symbols & a.psi.free_symbols:
                ratio = sp.cancel(ratio)
            if other.combiner == "sum" and other.gauge == a.gauge and not ratio.free_symbols & a.psi.free_symbols:
                total += step**degree / sp.factorial(degree) * ratio * other.symbol
                break
        else:
            return None
    return None
