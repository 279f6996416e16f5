"""From the forms that were derived, each by itself, to those that are folded together.

The forms of one traversal share what they fold, so equal sums are given equal spellings; anchors are chosen; and what can be
decided once for each row, a guard or a bounded factor, moves from the sum into the readout.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportReturnType=false, reportOptionalMemberAccess=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import sympy as sp
from sympy import Expr, Symbol

from .centred import centre, follows
from .exponentials import above, finite
from .expressions import eq, select
from .forms import Accumulator, Cascade, OnlineForm, as_written
from .levels import Levels


@dataclass(frozen=True)
class Settled:
    """forms: how each reduction is folded.  anchors: constants of the row, and what each should be near.
    near: values and their running maxima, whose differences are small where they count.
    close: anchors, and extremes of what they are near, up to sign: pairs whose difference is small too."""

    forms: Mapping[Symbol, OnlineForm]
    anchors: Mapping[Symbol, Expr]
    near: tuple[tuple[Expr, Symbol], ...]
    close: tuple[tuple[Expr, Expr], ...]


def settle(cascade: Cascade, levels: Levels, size: Expr | None) -> Settled:
    """The forms of `levels`, settled.  size: the extent of the rank as the reductions write it, if they do."""
    work = _Settler(cascade, levels, size)
    forms = {s: work._guard_at_the_end(work._anchored(f)) for s, f in levels.forms.items()}
    forms = {s: work._gauged_by_maximum(f) for s, f in forms.items()}
    if work.anchors:
        forms = {s: work._through_anchors(f, forms) for s, f in forms.items()}
    forms = {s: work._short(f, forms) for s, f in forms.items()}
    return Settled(forms, work.anchors, tuple(work.near), work.close())


class _Settler:
    def __init__(self, cascade: Cascade, levels: Levels, size: Expr | None):
        self.levels, self.size = levels, size
        self.combiner = {r.name: r.combiner for r in cascade.reductions}
        self.map = {r.name: r.expr for r in cascade.reductions}
        self.names = set(self.map)
        self.anchors: dict[Symbol, Expr] = {}
        self.near: list[tuple[Expr, Symbol]] = []

    def close(self) -> tuple[tuple[Expr, Expr], ...]:
        """(anchor, extreme of the same values), or sums of extremes, with their signs."""
        extremes = {self.map[m]: m for m in self.map if self.combiner[m] in ("max", "min")}
        followed = ((c, follows(z, extremes)) for c, z in self.anchors.items())
        return tuple((c, m) for c, m in followed if m is not None)

    def _anchored(self, form: OnlineForm) -> OnlineForm:
        """The form with each anchor following a running maximum, or else shared by all that measure the same value."""
        if not form.anchors:
            return form
        level = self.levels.level
        maxima = {
            self.map[m]: m
            for m in self.map
            if self.combiner[m] == "max" and level[m] == level[form.reduction] and as_written(self.levels.forms[m])
        }
        form = centre(form, maxima)
        self.near += [pair for pair in maxima.items() if pair not in self.near]
        shared: dict[Symbol, sp.Symbol] = {}
        for c, z in form.anchors:
            same = [name for name, other in self.anchors.items() if other == z]
            shared[c] = same[0] if same else Symbol(f"near_{len(self.anchors)}", real=True)
            self.anchors[shared[c]] = z
        accumulators = tuple(replace(a, psi=a.psi.xreplace(shared)) for a in form.accumulators)
        return replace(form, accumulators=accumulators, readout=form.readout.xreplace(shared))

    def _through_anchors(self, form: OnlineForm, forms: Mapping[Symbol, OnlineForm]) -> OnlineForm:
        """Σ z w = Σ (z - c) w + c Σ w where another form folds the two on the right: one sum less, and a more exact one."""
        level = self.levels.level
        beside = [
            a
            for s, f in forms.items()
            if level[s] == level[form.reduction]
            for a in f.accumulators
            if a.combiner == "sum" and a.moves is None
        ]
        for a in form.accumulators:
            if a.combiner != "sum" or a.moves is not None or a.psi.free_symbols & set(self.anchors):
                continue
            for b in beside:
                for c in b.psi.free_symbols & set(self.anchors):
                    if b.gauge != a.gauge or not a.psi.free_symbols & self.anchors[c].free_symbols:
                        continue
                    weight = sp.expand(a.psi - b.psi) / c
                    d = next((d for d in beside if d.gauge == a.gauge and sp.expand(d.psi - weight) == 0), None)
                    if d is None:
                        continue
                    rest = tuple(x for x in form.accumulators if x.symbol != a.symbol)
                    known = {x.symbol for x in rest}
                    added = tuple(x for x in dict.fromkeys((b, d)) if x.symbol not in known)
                    readout = form.readout.xreplace({a.symbol: b.symbol + c * d.symbol})
                    text = f"; {a.symbol} = {b.symbol} + {c}*{d.symbol}"
                    form = replace(
                        form, accumulators=rest + added, readout=readout, certificate=form.certificate + text
                    )
                    return self._through_anchors(form, forms)
        return form

    def _short(self, form: OnlineForm, forms: Mapping[Symbol, OnlineForm]) -> OnlineForm:
        """The readout over results that are known by a name, and with c - (c + d), an anchor and a result that was measured
        from it, written as -d."""
        level = self.levels.level
        counts = {
            a.symbol: self.size
            for f in forms.values()
            for a in f.accumulators
            if a.combiner == "sum" and a.psi == 1 and a.gauge is None and self.size is not None
        }
        order = list(self.map)
        earlier = {s: forms[s] for s in order[: order.index(form.reduction)] if s in forms}
        plain = {
            _key(f.accumulators[0]): s for s, f in earlier.items() if f.J == 1 and f.readout == f.accumulators[0].symbol
        }
        counts |= {a.symbol: plain[_key(a)] for f in forms.values() for a in f.accumulators if _key(a) in plain}
        measured = {
            s: f.readout.xreplace(counts)
            for s, f in forms.items()
            if f.readout.free_symbols & set(self.anchors) and level[s] == level[form.reduction]
        }

        def visit(e: Expr) -> Expr:
            if not e.args:
                return e
            e = e.func(*[visit(a) for a in e.args])
            here = e.free_symbols & set(self.anchors)
            if e.is_Add and here and e.free_symbols & set(measured):
                other = sp.expand(e.xreplace(measured))
                if not other.free_symbols & here:
                    return other
            return e

        readout = visit(form.readout.xreplace(counts))
        if readout.free_symbols & set(self.anchors):  # (A + c n)/n is A/n + c, which rounds once
            readout = min(readout, sp.expand(readout), key=lambda e: e.count_ops())
        held = {a.symbol for a in form.accumulators}
        beside = [a for f in forms.values() for a in f.accumulators if a.symbol in readout.free_symbols - held]
        read = readout.free_symbols.union(*(a.moves.free_symbols for a in form.accumulators if a.moves is not None))
        kept = [a for a in (*form.accumulators, *dict.fromkeys(beside)) if a.symbol in read]
        return replace(form, readout=readout, accumulators=tuple(kept))

    def _gauged_by_maximum(self, form: OnlineForm) -> OnlineForm:
        """Σ exp(x - Max(m, c)) with m = max x and a constant c of the row is Σ exp(x - m), times exp(m - Max(m, c)) at the end.

        The factor is at most 1, and the running sum is that of every other softmax of x.  A guard that puts 0 in the place of
        an infinite Max(m, c) stays in the factor; the sum is oo where m is.
        """
        accumulators, readout = [], form.readout
        for a in form.accumulators:
            for m in (a.gauge.free_symbols if a.gauge is not None else set()) & self.names:
                over = -a.gauge  # pyright: ignore[reportOptionalOperand]
                largest = finite(over) or over
                bounded = isinstance(largest, sp.Max) and m in largest.args and largest.free_symbols - {m}
                if bounded and not over.free_symbols & (self.names - {m}) and self.combiner[m] == "max":
                    exponentials = [e for e in a.psi.atoms(sp.exp) if -over in sp.Add.make_args(e.args[0])]
                    if len(exponentials) != 1:  # a product holds one
                        continue
                    guarded = largest != over and over.has(sp.oo)
                    if guarded and a.psi != sp.exp(sp.Add(self.map[m], -over)):  # pyright: ignore[reportOperatorIssue]
                        continue  # where m is oo, the guarded sum is known for exp(x) alone
                    moved = {e: sp.exp(e.args[0] + over - m) for e in exponentials}
                    a = replace(a, psi=a.psi.xreplace(moved), gauge=-m)
                    total = a.symbol * sp.exp(m - over)
                    readout = readout.xreplace({a.symbol: select(eq(m, sp.oo), sp.oo, total) if guarded else total})
            accumulators.append(a)
        if tuple(accumulators) == form.accumulators:
            return form
        note = "; exp(m - Max(m, c)) is a factor of the row"
        return replace(form, accumulators=tuple(accumulators), readout=readout, certificate=form.certificate + note)

    def _guard_at_the_end(self, form: OnlineForm) -> OnlineForm:
        """Σ exp(x - above(m)) with m = max x is +oo when m is, and Σ exp(x - m) otherwise: one test for each row.

        So the running sum is the same as that of an unguarded softmax, and can be shared with it.
        """
        accumulators, readout = [], form.readout
        for a in form.accumulators:
            for m in a.psi.free_symbols & self.names:
                plain = {above(m): m}
                if self.combiner[m] != "max" or a.psi.xreplace(plain) == a.psi or a.gauge is None:
                    continue
                if a.psi.xreplace(plain) == sp.exp(self.map[m] - m):
                    a = replace(a, psi=a.psi.xreplace(plain), gauge=a.gauge.xreplace(plain))
                    readout = readout.xreplace({a.symbol: select(eq(m, sp.oo), sp.oo, a.symbol)})
            accumulators.append(a)
        if tuple(accumulators) == form.accumulators:
            return form
        note = "; a row whose maximum is oo sums to oo"
        return replace(form, accumulators=tuple(accumulators), readout=readout, certificate=form.certificate + note)


def _key(a: Accumulator) -> tuple:
    """Accumulators that are equal here are one sum."""
    return a.combiner, a.psi, a.gauge
