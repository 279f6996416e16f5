"""What one derivation holds in its hands: the context, the separator, and the accumulators found so far."""

# sympy's annotations call every argument a Basic.
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable

import sympy as sp
from sympy import Expr, Symbol

from .context import Context, NotSeparable
from .expressions import eq, select
from .forms import Accumulator, Reduction, moved_to
from .separate import Separator

MAX_ACCUMULATORS = 8


class Workspace:
    """Collects accumulators; equal ones are shared, and they are numbered in the order in which they are asked for."""

    def __init__(self, reduction: Reduction, context: Context):
        self.context = context
        self.separator = Separator(context)
        self._prefix = f"{reduction.name}_a"
        self._taken = {str(s) for s in reduction.expr.free_symbols}
        self._found: dict[tuple[str, Expr, Expr | None], Symbol] = {}
        self._place: dict[Symbol, Symbol] = {}

    def accumulate(self, combiner: str, psi: Expr, gauge: Expr = sp.S.Zero) -> Symbol:
        """The symbol of the accumulator `combiner psi`."""
        key = (combiner, psi, None if gauge == 0 else gauge)
        if key not in self._found:
            if len(self._found) >= MAX_ACCUMULATORS:
                raise NotSeparable(f"it takes more than {MAX_ACCUMULATORS} accumulators")
            name = f"{self._prefix}{len(self._found)}"
            while name in self._taken:
                name += "_"
            self._found[key] = Symbol(name, real=True)
        return self._found[key]

    def carry(self, psi: Expr, place: Symbol) -> Symbol:
        """The symbol of what the winner at `place` carries along: `sum psi`, dropped when another element wins."""
        symbol = self.accumulate("sum", psi)
        self._place[symbol] = place
        return symbol

    def accumulators(self) -> tuple[Accumulator, ...]:
        return tuple(
            Accumulator(s, combiner, psi, gauge, self._kept(s)) for (combiner, psi, gauge), s in self._found.items()
        )

    def _kept(self, s: Symbol) -> Expr | None:
        place = self._place.get(s)
        return None if place is None else select(eq(place, moved_to(place)), s, sp.S.Zero)


def moving_selects(e: Expr, context: Context) -> Expr | None:
    """The condition of the first `select` in e that holds leaves and moving values together, but whose condition has no
    leaf.  None when there is none."""
    for node in sp.preorder_traversal(e):
        if isinstance(node, select) and context.mixed(node) and not context.carries_leaf(node.args[0]):
            return node.args[0]
    return None


def lift_select(e: Expr, work: Workspace, fold: Callable[[Expr], Expr]) -> Expr | None:
    """Conditions of the row leave the reduction.

    before:  ⊕_k g(select(c, a, b))          c has no leaf
    after:   select(c, ⊕_k g(a), ⊕_k g(b))
    why:     c is the same for every k, so one of the two holds for all k.  Neither branch is evaluated with the other's
             values, so a guard against 0/0 (a fully masked row) keeps guarding.
    """
    condition = moving_selects(e, work.context)
    if condition is None:
        return None
    sides = []
    for i in (1, 2):
        swap = {n: n.args[i] for n in e.atoms(select) if n.args[0] == condition}
        side = e.xreplace(swap)
        for _ in range(4):  # a branch may hold the same condition again
            swap = {n: n.args[i] for n in side.atoms(select) if n.args[0] == condition}
            if not swap:
                break
            side = side.xreplace(swap)
        sides.append(side)
    return select(condition, *[fold(side) for side in sides])


def shielded(e: Expr, context: Context) -> frozenset[Expr]:
    """Conditions of leaves that decide in e whether a moving value is looked at.

    Where such a condition holds nowhere in a row, the moving value may be anything: 1/l of a row without elements is
    infinite, and what leaves the reduction with it must not be multiplied by it (inf * 0).
    """
    return frozenset(
        n.args[0]
        for n in e.atoms(select)
        if not context.moves(n.args[0]) and context.carries_leaf(n.args[0]) and any(map(context.moves, n.args[1:]))
    )


def unless_nothing(identity: Expr, accumulator: Expr, value: Expr, psi: Expr, shields: frozenset[Expr]) -> Expr:
    """`value`, or the identity where the accumulator has seen nothing else and ψ is under one of the `shields`."""
    under = any(n.args[0] in shields for n in psi.atoms(select))
    return select(eq(accumulator, identity), identity, value) if under else value
