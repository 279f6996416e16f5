"""Splitting an expression into a sum of products of a moving factor and a leaf factor.

`Separator.split(g)` writes g as a list of `Term`s whose values `φ(d) * exp(shift(d)) * ψ(x)` add up to g, or raises
`NotSeparable`.  d are the values that are still being reduced, x the leaves.  The rules, one method each:

    x-only and d-only subtrees      ->  one term, as written
    a + b, a * b, a**n              ->  union, product, power of the terms
    exp(X(x) + D(d)), 2**(X + D)    ->  ψ = exp(X + D) as written, gauge D: what ψ is multiplied by when d moves
    |h x|, sign(h x), relu(h x)     ->  |h| |x|, sign h sign x, h relu x for h >= 0
    log(h x)                        ->  log h + log x for h, x > 0
    Max(h x, h' x)                  ->  Max(h, h') x for x >= 0
    sin, cos of X + D               ->  the addition theorems
    select(c(x), a, b)              ->  the terms of both, each selected or 0

ψ may mention d only through its gauge: ψ(x; d') = ψ(x; d) * exp(gauge(d') - gauge(d)).
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy as sp
from sympy import Add, Expr, Mul, Pow, S

from . import expressions as ex
from .context import Context, NotSeparable
from .exponentials import exponent, unguarded
from .expressions import select
from .rank import fewest, group

MAX_TERMS = 24
MAX_POWER = 8


@dataclass(frozen=True)
class Term:
    """φ(d) * exp(shift(d)) * ψ(x; gauge).  shift is kept apart because it may still be wanted inside ψ."""

    phi: Expr = S.One
    shift: Expr = S.Zero
    psi: Expr = S.One
    gauge: Expr = S.Zero

    def __mul__(self, other: Term) -> Term:
        return Term(self.phi * other.phi, self.shift + other.shift, self.psi * other.psi, self.gauge + other.gauge)


class Separator:
    """Splits expressions in one context; remembers what it has split."""

    def __init__(self, context: Context):
        self.context = context
        self._memo: dict[Expr, list[Term] | NotSeparable] = {}

    # -- the two questions ---------------------------------------------------------------------------------------

    def split(self, e: Expr) -> list[Term]:
        """The terms of e, grouped.  Raises NotSeparable."""
        known = self._memo.get(e)
        if known is None:
            try:
                known = self._grouped(self._split(e))
            except NotSeparable as reason:
                known = reason
            self._memo[e] = known
        if isinstance(known, NotSeparable):
            raise known
        return known

    def single(self, e: Expr) -> Term:
        """e as one product.  Raises NotSeparable, also when e needs several."""
        terms = self.shortest(self.split(e))
        if len(terms) == 1:
            return terms[0]
        if not terms:
            return Term(phi=S.Zero)
        raise NotSeparable(f"{e} ties {self.context.ties(e)}: it is a sum of {len(terms)} products, not one")

    def shortest(self, terms: list[Term]) -> list[Term]:
        """The same sum with the fewest terms; terms of different gauge or shift are never merged."""
        result: list[Term] = []
        for (shift, gauge), members in self._by_gauge(terms).items():
            for phi, psi in fewest([(t.phi, t.psi) for t in members], self._is_constant):
                result.append(Term(phi, shift, psi, gauge))
        return result

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    def _is_constant(self, e: Expr) -> bool:
        return not self.context.kind(e)

    @staticmethod
    def _by_gauge(terms: list[Term]) -> dict[tuple[Expr, Expr], list[Term]]:
        groups: dict[tuple[Expr, Expr], list[Term]] = {}
        for t in terms:
            groups.setdefault((t.shift, t.gauge), []).append(t)
        return groups

    def _grouped(self, terms: list[Term]) -> list[Term]:
        result = []
        for (shift, gauge), members in self._by_gauge(terms).items():
            result += [Term(phi, shift, psi, gauge) for phi, psi in group((t.phi, t.psi) for t in members)]
        if len(result) > MAX_TERMS:
            raise NotSeparable(f"more than {MAX_TERMS} terms")
        return result

    def _stop(self, e: Expr) -> NotSeparable:
        name = "the power" if e.is_Pow else e.func.__name__
        return NotSeparable(f"{name} ties {self.context.ties(e)} in {e}")

    # -- the rules -------------------------------------------------------------------------------------------------

    def _split(self, e: Expr) -> list[Term]:
        c = self.context
        if not c.carries_leaf(e):
            return [self._scalar(e)]
        if not c.moves(e):
            return [self._leaf(e)]
        if e.is_Add:
            return self._add(e)
        if e.is_Mul:
            return self._mul(e)
        if (z := exponent(e, c)) is not None and c.carries_leaf(z):
            return self._exp(e, z)
        if e.is_Pow:
            return self._pow(e)
        rule = _RULES.get(e.func)
        if rule is not None:
            return rule(self, e)
        if isinstance(e, sp.Piecewise):
            return self.split(ex.from_piecewise(e))
        if e.func in ex.REWRITES:
            return self.split(ex.REWRITES[e.func](*e.args))
        raise self._stop(e)

    def _scalar(self, e: Expr, beside: Sequence[Expr] = ()) -> Term:
        """d-only: exponentials are kept apart.

        Not so a power of a base of its own, which nothing `beside` it has to be measured from: as part of an exponent,
        z log b would be rounded.
        """
        shift, rest = [], []
        for f in Mul.make_args(e):
            z = exponent(f, self.context)
            own = f.is_Pow and not any(p.base == f.base for b in beside for p in b.atoms(Pow))
            (rest if z is None or own else shift).append(f if z is None or own else z)
        return Term(phi=Mul(*rest), shift=Add(*shift))

    def _leaf(self, e: Expr) -> Term:
        """x-only, as written; constant factors other than exponentials (which may stabilise) move to φ."""
        if not e.is_Mul:
            return Term(psi=e)
        out = [f for f in e.args if not self.context.kind(f) and exponent(f, self.context) is None]
        return Term(phi=Mul(*out), psi=Mul(*[f for f in e.args if f not in out])) if out else Term(psi=e)

    def _parts(self, e: Expr) -> tuple[list[Expr], list[Expr], list[Expr]]:
        """The arguments of e without leaves, with leaves only, with both."""
        parts: dict[int, list[Expr]] = {0: [], 1: [], 3: []}
        for a in e.args:
            k = self.context.kind(a)
            parts[0 if k == Context.FLIGHT else k].append(a)
        return parts[0], parts[1], parts[3]

    def _add(self, e: Expr) -> list[Term]:
        scalars, leaves, mixed = self._parts(e)
        terms = [self._leaf(Add(*leaves))] if leaves else []
        if scalars:
            terms.append(Term(phi=Add(*scalars)))
        for a in mixed:
            terms += self.split(a)
        return terms

    def _mul(self, e: Expr) -> list[Term]:
        scalars, leaves, mixed = self._parts(e)
        start = self._scalar(Mul(*scalars), [*leaves, *mixed])
        if leaves:
            start = start * self._leaf(Mul(*leaves))
        terms = [start]
        for a in mixed:
            terms = self._grouped([s * t for s in terms for t in self.split(a)])
        return terms

    def _pow(self, e: Expr) -> list[Term]:
        base, p = e.base, e.exp
        if self.context.kind(p):
            raise self._stop(e)
        try:
            t = self.single(base)
        except NotSeparable:
            if not (p.is_Integer and 1 < p <= MAX_POWER):
                raise
            terms = factor = self.split(base)
            for _ in range(int(p) - 1):
                terms = self._grouped([s * t for s in terms for t in factor])
            return terms
        if not (p.is_integer or t.phi.is_nonnegative or t.psi.is_nonnegative):
            raise NotSeparable(f"{e}: ({t.phi})*({t.psi}) has no known sign, so the power does not split")
        return [Term(Pow(t.phi, p), t.shift * p, self._power(t.psi, p), t.gauge * p)]

    @staticmethod
    def _power(psi: Expr, p: Expr) -> Expr:
        """psi**p, taken apart so far that no exponential is left under the power."""
        done, rest = [], []
        for f in Mul.make_args(psi):
            if isinstance(f, sp.exp):
                done.append(sp.exp(f.args[0] * p))
            else:
                rest.append(f)
        return Mul(Pow(Mul(*rest), p), *done)

    def _exp(self, e: Expr, z: Expr) -> list[Term]:
        c = self.context
        x_part, d_part = [], []
        for t in self.split(z):
            if t.psi == 1 and t.gauge == 0:
                d_part.append(t.phi * sp.exp(t.shift))
            elif t.shift == 0 and t.gauge == 0 and not c.moves(t.phi):
                x_part.append(t.phi * t.psi)
            else:
                raise self._stop(e)
        shift = Add(*d_part)
        gauge, phi = [], []
        for a in Add.make_args(sp.expand_mul(shift)):
            coefficient, factor = a.as_independent(sp.log, as_Add=False)
            if isinstance(factor, sp.log) and c.moves(factor) and not c.moves(coefficient):
                phi.append(Pow(factor.args[0], coefficient))  # exp(c log u) = u**c: deferred, not a gauge
            elif c.moves(a):
                gauge.append(a)
        moving, spelled = unguarded(Add(*gauge), c), unguarded(e, c)
        if not x_part:
            return [Term(phi=Mul(*phi), shift=shift - sum(sp.log(f) for f in phi))]
        known = moving.free_symbols
        if phi or any(s not in known for s in c.flights(spelled)):
            still = Add(*[a for a in Add.make_args(sp.expand_mul(shift)) if not c.moves(a)])
            spelled = sp.exp(Add(*x_part) + moving + still)
        return [Term(phi=Mul(*phi), psi=spelled, gauge=moving)]

    def _abs(self, e: Expr) -> list[Term]:
        t = self.single(e.args[0])
        return [Term(e.func(t.phi), t.shift, e.func(t.psi), t.gauge)]

    def _sign(self, e: Expr) -> list[Term]:
        t = self.single(e.args[0])
        psi = sp.sign(t.psi * sp.exp(-t.gauge))
        if self.context.moves(psi):
            raise self._stop(e)
        return [Term(phi=sp.sign(t.phi), psi=psi)]

    def _extremum(self, e: Expr) -> list[Term]:
        """Max(h x, h y) = h Max(x, y) for h >= 0; Max(h + x, h + y) = h + Max(x, y)."""
        args = [a for a in e.args if a != 0]
        flipped = {sp.Max: sp.Min, sp.Min: sp.Max}[e.func]
        zero = [S.Zero] if len(args) < len(e.args) else []
        try:
            terms = [self.single(a) for a in args]
        except NotSeparable:
            terms = []
        if terms and len({t.psi for t in terms}) == 1 and terms[0].psi.is_nonnegative:  # Max(h x, h' x), x >= 0
            if all(t.gauge == 0 for t in terms):
                return [Term(phi=e.func(*[t.phi * sp.exp(t.shift) for t in terms], *zero), psi=terms[0].psi)]
        if terms and len({(t.phi, t.shift, t.gauge) for t in terms}) == 1:
            t = terms[0]
            inner = [s.psi for s in terms] + zero
            if t.phi.is_nonnegative or (t.phi.is_nonpositive and self.context.moves(t.phi)):
                outer = e.func if t.phi.is_nonnegative else flipped
                return [Term(t.phi, t.shift, outer(*inner), t.gauge)]
        if not zero:
            split = [self._translation(a) for a in args]
            if split and len({h for h, _ in split}) == 1:
                return [Term(phi=split[0][0]), Term(psi=e.func(*[x for _, x in split]))]
        raise self._stop(e)

    def _translation(self, e: Expr) -> tuple[Expr, Expr]:
        """(h, x) with e = h(d) + x.  Raises NotSeparable."""
        h, x = [], []
        for t in self.split(e):
            if t.psi == 1 and t.gauge == 0:
                h.append(t.phi * sp.exp(t.shift))
            elif t.shift == 0 and t.gauge == 0 and not self.context.moves(t.phi):
                x.append(t.phi * t.psi)
            else:
                raise self._stop(e)
        return Add(*h), Add(*x)

    def _positive_scale(self, e: Expr) -> tuple[Expr, Expr] | None:
        """(h, x) with e = h(d) * x and h > 0 moving, or None."""
        try:
            t = self.single(e)
        except NotSeparable:
            return None
        h = t.phi * sp.exp(t.shift)
        return (h, t.psi) if t.gauge == 0 and h.is_positive and self.context.moves(h) else None

    def _log(self, e: Expr) -> list[Term]:
        t = self.single(e.args[0])
        if not (t.phi.is_positive and t.psi.is_positive):
            raise NotSeparable(f"{e}: ({t.phi})*({t.psi}) is not known to be a product of positives")
        psi = t.psi * sp.exp(-t.gauge)
        if self.context.moves(psi):
            raise self._stop(e)
        return [Term(phi=sp.log(t.phi) + t.shift + t.gauge), Term(psi=sp.log(psi))]

    def _trig(self, e: Expr) -> list[Term]:
        d, x = self._translation(e.args[0])
        sin, cos = sp.sin, sp.cos
        if isinstance(e, sin):
            return [Term(phi=cos(d), psi=sin(x)), Term(phi=sin(d), psi=cos(x))]
        return [Term(phi=cos(d), psi=cos(x)), Term(phi=-sin(d), psi=sin(x))]

    def _select(self, e: Expr) -> list[Term]:
        """select(c, a, b) for a condition of leaves only; selecting is linear, and no branch is multiplied by 0."""
        condition, a, b = e.args
        if self.context.moves(condition):
            raise NotSeparable(f"the condition {condition} ties {self.context.ties(e)}")
        if a.is_infinite or b.is_infinite:  # select(c, h + x, -oo) = h + select(c, x, -oo)
            kept = b if a.is_infinite else a
            product = self._positive_scale(kept)
            if product is not None:  # select(c, h x, -oo) = h select(c, x, -oo) for h > 0
                h, x = product
                return [Term(phi=h, psi=select(condition, a, x) if a.is_infinite else select(condition, x, b))]
            h, x = self._translation(kept)
            inner = select(condition, a, x) if a.is_infinite else select(condition, x, b)
            return [Term(phi=h), Term(psi=inner)]
        table: dict[tuple[Expr, Expr, Expr], list[Expr]] = {}
        for side, branch in enumerate((a, b)):
            for t in self.split(branch):
                key = (t.phi, t.shift, t.gauge)
                pair = table.setdefault(key, [S.Zero, S.Zero])
                pair[side] = pair[side] + t.psi
        return [Term(phi, shift, select(condition, p, q), gauge) for (phi, shift, gauge), (p, q) in table.items()]


_RULES = {
    sp.Abs: Separator._abs,
    sp.sign: Separator._sign,
    sp.Max: Separator._extremum,
    sp.Min: Separator._extremum,
    sp.log: Separator._log,
    sp.sin: Separator._trig,
    sp.cos: Separator._trig,
    select: Separator._select,
}
