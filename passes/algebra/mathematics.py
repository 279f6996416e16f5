"""A derivation as readable mathematics: the state of each traversal, its step, its merge, what is read out of it, its guards.

pass 1 over j
  state    m    = max_j s
           l_a0 = Σ_j exp(s - m)
           o_a0 = Σ_j v*exp(s - m)
  step     when m becomes m':  l_a0, o_a0 times exp(m - m')
  merge    m' = max of both;  l_a0, o_a0 of each side moved to m', then added
  readout  l = l_a0
           o = o_a0/l
  guard    m = -oo: nothing is masked out of nothing; differences are taken from a finite stand-in
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp
from sympy import Expr, Symbol
from sympy.printing.str import StrPrinter

from .forms import Accumulator, OnlineForm, Reduction, moved_to
from .transport import grows, transport_exponent

_SIGN = {"sum": "Σ", "prod": "Π"}
_BOTH = {"sum": "added", "prod": "multiplied", "max": "max of both", "min": "min of both"}


class _Printer(StrPrinter):
    """Positive terms first, so that a difference reads as one; `select` and its kin by their names."""

    def _print_Symbol(self, expr):  # a constant that has no short fraction is named after its value
        name = expr.name
        return f"{float(name[2:]):.6g}" if name.startswith("c_") and name[2:3].isdigit() else name

    def __init__(self, close: Sequence[tuple[Expr, Expr]] = ()):
        super().__init__()
        self.close = close

    def _print_Add(self, expr, order=None):  # sympy calls it by this name
        terms = sorted(expr.args, key=lambda t: (t.could_extract_minus_sign(), sp.default_sort_key(t)))
        text = ""
        for a, b in self.close if len(terms) > 2 else ():
            for sign in (1, -1):
                if sign * a in terms and -sign * b in terms:
                    terms = [t for t in terms if t not in (sign * a, -sign * b)]
                    text += {1: " + " if text else "", -1: " - "}[sign] + f"({a} - {b})"
        for t in terms:
            negative = t.could_extract_minus_sign() and bool(text)
            shown = self.parenthesize(-t if negative else t, 35)
            text += f" - {shown}" if negative else (f" + {shown}" if text else shown)
        return text


def formula(e: Expr, close: Sequence[tuple[Expr, Expr]] = ()) -> str:
    """An expression as text.  close: pairs whose difference is written, and taken, first."""
    return _Printer(close).doprint(e)


def derivation(
    rank: str,
    reductions: Sequence[Reduction],
    level: Mapping[Symbol, int],
    forms: Mapping[Symbol, OnlineForm],
    anchors: Mapping[Symbol, Expr],
    reasons: Mapping[Symbol, str],
    close: Sequence[tuple[Expr, Expr]] = (),
    exchanged: Mapping[Symbol, str] | None = None,
) -> list[str]:
    """The lines of a kernel's derivation along `rank`.

    forms: how each reduction is folded; without one, it is folded as written.  anchors: what the constants that moments are
    measured from are near.  reasons: why a reduction waits for the pass before.  exchanged: accumulators that are not folded,
    and what they are instead.
    """
    lines: list[str] = []
    for n in sorted(set(level.values())):
        members = [r for r in reductions if level[r.name] == n]
        lines.append(f"pass {n} over {rank}")
        lines += [f"  because  {reasons[r.name]}" for r in members if r.name in reasons]
        lines += _pass(rank, members, set(level), forms, anchors, close, exchanged or {})
    return lines


def _pass(
    rank: str,
    members: Sequence[Reduction],
    names: set[Symbol],
    forms: Mapping[Symbol, OnlineForm],
    anchors: Mapping[Symbol, Expr],
    close: Sequence[tuple[Expr, Expr]],
    exchanged: Mapping[Symbol, str],
) -> list[str]:
    state: dict[tuple, Accumulator] = {}
    same: dict[Symbol, Symbol] = {}
    readouts: list[tuple[str, str]] = []
    for r in members:
        form = forms.get(r.name)
        if form is None or (form.J == 1 and form.readout == form.accumulators[0].symbol):
            a = form.accumulators[0] if form else Accumulator(r.name, r.combiner, r.expr)
            same[a.symbol] = r.name
            state.setdefault((a.combiner, a.psi, a.gauge), Accumulator(r.name, a.combiner, a.psi, a.gauge, a.moves))
            continue
        for a in form.accumulators:
            first = state.setdefault((a.combiner, a.psi, a.gauge), a)
            same[a.symbol] = first.symbol
        readouts.append((str(r.name), formula(form.readout.xreplace(same))))
    readouts[:0] = [(str(a.symbol), exchanged[a.symbol]) for a in state.values() if a.symbol in exchanged]
    held = [a for a in state.values() if a.symbol not in exchanged]
    rows = _column("state", [(str(a.symbol), f"{_sign(a.combiner, rank)} {_summand(a.psi, close)}") for a in held])
    what = "about the mean of {} over the first elements; any finite value is exact"
    near = [(str(c), what.format(formula(z))) for c, z in anchors.items() if any(c in a.psi.free_symbols for a in held)]
    rows += _column("anchor", near)
    gauges = sorted({g for a in held if a.gauge is not None for g in a.gauge.free_symbols & names}, key=str)
    moving = [a for a in held if a.gauge is not None]
    for a in moving:
        new = {g: Symbol(f"{g}'", real=True) for g in a.gauge.free_symbols & names}
        factor = sp.exp(transport_exponent(a.gauge, new))
        text = f"{a.symbol}*{formula(factor)}"
        if a.moves is not None:
            names = {g for g in a.moves.free_symbols if moved_to(g) in a.moves.free_symbols}
            renamed = a.moves.xreplace({**same, **{moved_to(g): Symbol(f"{g}'", real=True) for g in names}})
            text = f"{formula(_finite_steps(renamed))}, each times {formula(factor)} first"
        rows += _column("step" if a is moving[0] else "", [(f"{a.symbol}'", text)])
    carried = [a for a in held if a.gauge is None and a.moves is not None]
    for a in carried:
        at = next(s for s in a.psi.free_symbols if moved_to(s) in a.moves.free_symbols)
        text = f"{a.symbol} where {at}' = {at}, else 0: the winner keeps what it carries"
        rows += _column("" if moving or a is not carried[0] else "step", [(f"{a.symbol}'", text)])
    merge = [f"{g}' = {_BOTH.get(_combiner(g, held), 'combined')}" for g in gauges]
    if moving:
        merge.append("each side moved to it by the step, then " + _BOTH["sum"])
    if carried:
        merge.append("what is carried: by the step, then added")
    others = sorted({a.combiner for a in held if a.gauge is None and a.moves is None and a.symbol not in gauges})
    merge += [f"{c}: {_BOTH.get(c, 'the better of both, the earlier on a tie')}" for c in others]
    rows.append(f"  {'merge':8} {'; '.join(merge)}")
    rows += _column("readout", readouts)
    if gauges:
        names = ", ".join(map(str, gauges))
        rows.append(f"  {'guard':8} {names} infinite: a finite stand-in in differences, for nothing was folded yet")
        if any(grows(a.gauge, g, _combiner(g, held)) for a in moving for g in gauges):
            rows.append(f"  {'':8} a factor of unknown sign: nothing is moved before something was folded")
    return rows


def _summand(psi: Expr, close: Sequence[tuple[Expr, Expr]]) -> str:
    text = formula(psi, close)
    return f"({text})" if psi.is_Add else text


def _finite_steps(e: Expr) -> Expr:
    """Without the guards of `centred`, which the last line of a derivation speaks of."""
    from .expressions import select

    return e.xreplace({n: n.args[1] for n in e.atoms(select) if n.args[2] == 0})


def _combiner(name: Symbol, held: Sequence[Accumulator]) -> str:
    return next((a.combiner for a in held if a.symbol == name), "")


def _sign(combiner: str, rank: str) -> str:
    return f"{_SIGN.get(combiner, combiner)}_{rank}"


def _column(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {title if n == 0 else '':8} {name:{width}} = {text}" for n, (name, text) in enumerate(rows)]
