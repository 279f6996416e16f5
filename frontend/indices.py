"""Index expressions that know `0 <= rank < extent`: what views compose to, and how ranks split.

    (b * H + h) floordiv H     ->  b
    (b * H + h) mod H          ->  h
    (r floordiv 64) * 64 + r mod 64  ->  r
    (r mod 768) floordiv 64    ->  (r floordiv 64) mod 12

A *digit* is `(x floordiv a) mod m`, or `x floordiv a`: the only quasi-affine atoms that reshapes make, and always
written in this order.  Everything here is a pure function of its arguments, and cached: models repeat themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import sympy

from ..ir import symbols

Expr = sympy.Expr
ZERO, ONE = sympy.Integer(0), sympy.Integer(1)
Bounds = tuple[tuple[str, Expr], ...]  # (symbol name, extent): 0 <= symbol < extent


def dim(k: int, letter: str = "d") -> sympy.Symbol:
    """The symbol of dimension `k`: of a node (`d`), or of a value (`v`)."""
    return symbols.symbol(f"{letter}{k}")


def bounds_of(shape: Sequence[Expr], letter: str = "d") -> Bounds:
    """The bounds of the dimension symbols of a tensor of this shape."""
    return tuple((f"{letter}{k}", n) for k, n in enumerate(shape))


# --- facts about sizes --------------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def exact_quotient(a: Expr, b: Expr) -> Expr | None:
    """`a / b` when that is an integer for all sizes, else None."""
    if a.is_Integer and b.is_Integer:
        return sympy.Integer(int(a) // int(b)) if int(b) and int(a) % int(b) == 0 else None
    q = a / b
    if _integral(q):
        return q
    if b.is_Add or (b.is_Mul and any(f.is_Add for f in b.args)):
        q = sympy.cancel(q)
        if _integral(q):
            return q
    return None


def _integral(e: Expr) -> bool:
    if e.is_Number:
        return bool(e.is_Integer)
    if isinstance(e, sympy.Add | sympy.Mul):
        return all(_integral(a) for a in e.args)
    if isinstance(e, sympy.Pow):
        return _integral(e.base) and e.exp.is_Integer and int(e.exp) > 0
    return isinstance(e, sympy.Symbol | sympy.floor | sympy.ceiling | sympy.Mod | sympy.Min | sympy.Max)


@lru_cache(maxsize=65536)
def same(a: Expr, b: Expr) -> bool:
    """Whether two size expressions are provably equal."""
    return a == b or (not (a.is_Integer and b.is_Integer) and sympy.expand(a - b) == 0)


@lru_cache(maxsize=65536)
def nonnegative(e: Expr) -> bool:
    """Whether `e` is provably >= 0 for all sizes >= 1 (a rank with no points has no index to be wrong about)."""
    if e.is_Integer:
        return int(e) >= 0
    shifted = sympy.expand(e.subs({s: cast(Expr, s) + 1 for s in e.free_symbols}))
    return all(c.is_Number and c >= 0 for c in (t.as_coeff_Mul()[0] for t in sympy.Add.make_args(shifted)))


def arguments(e: Any) -> tuple[Expr, ...]:
    """The operands of an index expression (sympy types them as less than expressions)."""
    return e.args


def product(factors: Iterable[Expr]) -> Expr:
    total: Expr = ONE
    for f in factors:
        total = total * f
    return total


# --- ranges -------------------------------------------------------------------------------------------------------


def _atoms_range(atom: Expr, bounds: Mapping[str, Expr]) -> tuple[Expr, Expr] | None:
    """The least and the largest value of an atom, or None when unknown."""
    if isinstance(atom, sympy.Symbol):
        extent = bounds.get(atom.name)
        return (atom, atom) if extent is None else (ZERO, extent - 1)
    if isinstance(atom, sympy.Mod):
        return ZERO, arguments(atom)[1] - 1
    if isinstance(atom, sympy.floor):
        x, a = split_floor(atom)
        inner = _range(x, bounds)
        if inner is None:
            return None
        low, high = (_quotient_down(v, a) for v in inner)
        return None if low is None or high is None else (low, high)
    return None


def _quotient_down(v: Expr, a: Expr) -> Expr | None:
    """`v floordiv a` where it is known."""
    if v.is_Integer and a.is_Integer:
        return sympy.Integer(int(v) // int(a))
    exact = exact_quotient(v, a)
    if exact is not None:
        return exact
    exact = exact_quotient(sympy.expand(v + 1), a)  # an extent minus one
    return None if exact is None else exact - 1


def _range(e: Expr, bounds: Mapping[str, Expr]) -> tuple[Expr, Expr] | None:
    low: Expr = ZERO
    high: Expr = ZERO
    for t in sympy.Add.make_args(e):
        coefficient, atom = _split_term(t, bounds)
        if atom is None:
            low, high = low + coefficient, high + coefficient
            continue
        part = _atoms_range(atom, bounds)
        if part is None:
            return None
        a, b = coefficient * part[0], coefficient * part[1]
        if nonnegative(coefficient):
            low, high = low + a, high + b
        elif nonnegative(-coefficient):
            low, high = low + b, high + a
        else:
            return None
    return low, high


def _split_term(t: Expr, bounds: Mapping[str, Expr]) -> tuple[Expr, Expr | None]:
    """A product as (coefficient of sizes, the one factor that varies); the factor is None for a constant."""
    if t.is_Integer:
        return t, None
    varying = [f for f in sympy.Mul.make_args(t) if _varies(f, bounds)]
    if not varying:
        return t, None
    if len(varying) == 1:
        return (ONE, t) if varying[0] == t else (t / varying[0], varying[0])
    return ONE, t


def _varies(e: Expr, bounds: Mapping[str, Expr]) -> bool:
    return any(name in bounds for name in symbols.names(e))


def within(e: Expr, extent: Expr, bounds: Bounds) -> bool:
    """Whether `0 <= e < extent` is provable."""
    return _within(e, extent, bounds)


@lru_cache(maxsize=65536)
def _within(e: Expr, extent: Expr, bounds: Bounds) -> bool:
    found = _range(e, dict(bounds))
    if found is None:
        return False
    low, high = found
    return nonnegative(sympy.expand(low)) and nonnegative(sympy.expand(extent - 1 - high))


# --- digits -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def split_floor(e: sympy.floor) -> tuple[Expr, Expr]:
    """`floor(x / a)` as (x, a)."""
    argument = e.args[0]
    if isinstance(argument, sympy.Mul) and len(argument.args) == 2 and isinstance(argument.args[0], sympy.Rational):
        return argument.args[0].p * argument.args[1], sympy.Integer(argument.args[0].q)
    return cast(Any, sympy.together(argument)).as_numer_denom()


@lru_cache(maxsize=65536)
def _raw_floor(x: Expr, a: Expr) -> Expr:
    # sympy's own evaluation takes milliseconds and has nothing to say about one symbol.
    return sympy.floor(x / a, evaluate=not isinstance(x, sympy.Symbol))


@lru_cache(maxsize=65536)
def _raw_mod(x: Expr, m: Expr) -> Expr:
    simple = isinstance(x, sympy.Symbol) or (isinstance(x, sympy.floor) and isinstance(split_floor(x)[0], sympy.Symbol))
    return sympy.Mod(x, m, evaluate=not simple)


def _divide(e: Expr, c: Expr) -> tuple[Expr, Expr]:
    """(q, r) with e == q * c + r, term by term."""
    q: Expr = ZERO
    r: Expr = ZERO
    for t in sympy.Add.make_args(e):
        exact = exact_quotient(t, c)
        if exact is not None:
            q = q + exact
            continue
        coefficient, rest = t.as_coeff_Mul()
        if c.is_Integer and coefficient.is_Integer and int(coefficient) >= int(c) > 0:
            q = q + (int(coefficient) // int(c)) * rest
            r = r + (int(coefficient) % int(c)) * rest
        else:
            r = r + t
    return q, r


def _strides(e: Expr, c: Expr, bounds: Mapping[str, Expr]) -> list[Expr]:
    """Divisors of c among the coefficients of e, the largest first: places where e may split into two digits."""
    found: dict[Expr, None] = {}
    for t in sympy.Add.make_args(e):
        coefficient = _split_term(t, bounds)[0]
        if coefficient.is_Integer and c.is_Integer:
            coefficient = sympy.Integer(sympy.igcd(int(coefficient), int(c)))
        if coefficient != ONE and exact_quotient(c, coefficient) is not None:
            found.setdefault(coefficient)
    return sorted(found, key=lambda g: (len(sympy.Mul.make_args(g)), int(g) if g.is_Integer else 0), reverse=True)


@lru_cache(maxsize=65536)
def floordiv(e: Expr, c: Expr, bounds: Bounds) -> Expr:
    """`e floordiv c`, simplified; c is positive."""
    if c == ONE:
        return e
    q, r = _divide(e, c)
    if r == ZERO or within(r, c, bounds):
        return q
    table = dict(bounds)
    for g in _strides(r, c, table):
        big, small = _divide(r, g)
        if big != ZERO and within(small, g, bounds):
            return q + floordiv(big, exact_quotient(c, g) or c, bounds)
    if isinstance(r, sympy.floor):
        x, a = split_floor(r)
        return q + floordiv(x, a * c, bounds)
    if isinstance(r, sympy.Mod):
        x, m = r.args
        rest = exact_quotient(m, c)
        if rest is not None:
            return q + mod(floordiv(x, c, bounds), rest, bounds)
    return q + _raw_floor(r, c)


@lru_cache(maxsize=65536)
def mod(e: Expr, m: Expr, bounds: Bounds) -> Expr:
    """`e mod m`, simplified; m is positive."""
    if m == ONE:
        return ZERO
    _, r = _divide(e, m)
    if r == ZERO or within(r, m, bounds):
        return r
    for g in _strides(r, m, dict(bounds)):
        big, small = _divide(r, g)
        if big != ZERO and within(small, g, bounds):
            return tidy(g * mod(big, exact_quotient(m, g) or m, bounds) + small)
    if isinstance(r, sympy.Mod) and exact_quotient(r.args[1], m) is not None:
        return mod(r.args[0], m, bounds)
    return _raw_mod(r, m)


def digit_of(atom: Expr) -> tuple[Expr, Expr, Expr | None] | None:
    """(x, a, m) for `(x floordiv a) mod m`, with m None when there is no mod; None for anything else."""
    if isinstance(atom, sympy.floor):
        return (*split_floor(atom), None)
    if isinstance(atom, sympy.Mod):
        inner, m = arguments(atom)
        return (*split_floor(inner), m) if isinstance(inner, sympy.floor) else (inner, ONE, m)
    return None


@lru_cache(maxsize=65536)
def tidy(e: Expr) -> Expr:
    """A sum with neighbouring digits of one number put together: `m*a*(x floordiv m*a) + a*((x floordiv a) mod m)`."""
    if not isinstance(e, sympy.Add):
        return e
    changed = True
    while changed and isinstance(e, sympy.Add):
        changed = False
        digits = []
        for t in e.args:
            for f in sympy.Mul.make_args(t):
                digit = digit_of(f)
                if digit is not None:
                    digits.append((t, t / f, *digit))
        for low, scale, x, a, m in digits:
            if m is None:
                continue
            for high, upper, y, b, n in digits:
                if high is not low and y == x and same(b, a * m) and same(upper, scale * m):
                    joined = _plain_floor(x, a) if n is None else _plain_mod(_plain_floor(x, a), m * n)
                    e = e - low - high + scale * joined
                    changed = True
                    break
            # `m*y + x mod m` where y is all that x floordiv m can be is handled by bounds, in `floordiv`.
            if changed:
                break
    return e


def _plain_floor(x: Expr, a: Expr) -> Expr:
    return x if a == ONE else _raw_floor(x, a)


def _plain_mod(x: Expr, m: Expr) -> Expr:
    return _raw_mod(x, m)


# --- substitution -------------------------------------------------------------------------------------------------


def substitute(e: Expr, table: Mapping[str, Expr], bounds: Bounds) -> Expr:
    """`e` with symbols replaced, and simplified under `bounds` (those of the new symbols)."""
    if e.is_Integer:
        return e
    return _substitute(e, tuple((n, table[n]) for n in sorted(symbols.names(e)) if n in table), bounds)


@lru_cache(maxsize=65536)
def _substitute(e: Expr, table: tuple[tuple[str, Expr], ...], bounds: Bounds) -> Expr:
    replacement = dict(table)

    def go(x: Expr) -> Expr:
        if x.is_Integer:
            return x
        if isinstance(x, sympy.Symbol):
            return replacement.get(x.name, x)
        if isinstance(x, sympy.Add):
            total: Expr = ZERO
            for a in x.args:
                total = total + go(a)
            return tidy(total)
        if isinstance(x, sympy.Mul):
            total = ONE
            for a in x.args:
                total = total * go(a)
            return sympy.expand_mul(total) if any(f.is_Add for f in sympy.Mul.make_args(total)) else total
        if isinstance(x, sympy.floor):
            top, bottom = split_floor(x)
            return floordiv(go(top), go(bottom), bounds)
        if isinstance(x, sympy.Mod):
            return mod(*(go(a) for a in arguments(x)), bounds)
        return x.func(*(go(a) for a in arguments(x)))

    return go(e)


# --- reshapes -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def reshape(old: tuple[Expr, ...], new: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The dimensions of a tensor of shape `old` as expressions over d0, d1, …, the dimensions of its reshape to `new`.

    Dimensions are matched in groups of equal product, so that only those that really merge or split are divided.
    """
    if any(n == ZERO for n in (*old, *new)):
        return tuple(dim(k) if k < len(new) and old[k] == new[k] and old[k] != ONE else ZERO for k in range(len(old)))
    bounds = bounds_of(new)
    result: list[Expr] = [ZERO] * len(old)
    left = [k for k, n in enumerate(old) if n != ONE]
    right = [k for k, n in enumerate(new) if n != ONE]
    for olds, news in _groups(old, new, left, right):
        if len(olds) == len(news) == 1:
            result[olds[0]] = dim(news[0])
            continue
        flat: Expr = ZERO
        stride: Expr = ONE
        for k in reversed(news):
            flat = flat + dim(k) * stride
            stride = stride * new[k]
        stride = ONE
        for k in reversed(olds):
            q = floordiv(sympy.expand(flat), stride, bounds)
            result[k] = q if k == olds[0] else mod(q, old[k], bounds)
            stride = stride * old[k]
    return tuple(result)


def _groups(old: Sequence[Expr], new: Sequence[Expr], left: list[int], right: list[int]):
    """The dimensions of two shapes of equal size, in groups of equal product, as few to a group as possible."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start = (i, j)
        p, q = old[left[i]], new[right[j]]
        i, j = i + 1, j + 1
        while not same(p, q):
            if j < len(right) and (i == len(left) or _divides(q, p)):
                q, j = q * new[right[j]], j + 1
            elif i < len(left) and (j == len(right) or _divides(p, q)):
                p, i = p * old[left[i]], i + 1
            else:
                i, j = len(left), len(right)
                break
        groups.append((left[start[0] : i], right[start[1] : j]))
    if groups:  # what is left over has product 1, though that could not be seen
        groups[-1] = (groups[-1][0] + left[i:], groups[-1][1] + right[j:])
    return groups


def _divides(a: Expr, b: Expr) -> bool:
    """Whether the product `a` should grow to meet `b`."""
    if a.is_Integer and b.is_Integer:
        return int(a) < int(b)
    return exact_quotient(b, a) is not None


# --- splitting ranks ----------------------------------------------------------------------------------------------


def split_points(name: str, extent: Expr, accesses: Iterable[Sequence[Expr]]) -> list[Expr]:
    """Where rank `name` has to be split so that the digits of it in `accesses` become ranks: a divisor chain.

    [12, 768] for an extent of 768·n means three ranks, of extents n, 64 and 12, the outermost first.
    """
    rank = symbols.symbol(name)
    found: dict[Expr, None] = {}
    for access in accesses:
        for e in access:
            if not (e.is_Integer or isinstance(e, sympy.Symbol)):
                for atom in e.atoms(sympy.floor, sympy.Mod):
                    digit = digit_of(atom)
                    if digit is not None and digit[0] == rank:
                        _, a, m = digit
                        for point in (a, *([] if m is None else [a * m])):
                            if point != ONE and not same(point, extent):
                                found.setdefault(point)
    chain: list[Expr] = []
    last: Expr = ONE
    for point in sorted(
        found, key=lambda p: (len(sympy.Mul.make_args(p)) * (not p.is_Integer), int(p) if p.is_Integer else 0, str(p))
    ):
        if exact_quotient(point, last) is not None and exact_quotient(extent, point) is not None and point != last:
            chain.append(point)
            last = point
    return chain
