"""How an accumulator is moved when its gauge moves: the spelling of exp(gauge(new) - gauge(old)).

before:  exp((-c·m' + h) - (-c·m + h))
after:   exp(-c·(m' - m))
when:    terms of the gauge are a constant times a running value, or do not move
why:     in fp32 the two products are rounded apart from each other: at m = 1e4 and c = 3 each is off by 1e-3, and so is
         the factor; the difference of two running maxima is nearly always exact.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp
from sympy import Add, Expr, Mul, Symbol


def grows(gauge: Expr, name: Symbol, combiner: str) -> bool:
    """Whether the factor may be infinite while the running value `name` still equals its combiner's identity.

    exp((m - m')/t) with m = -oo is 0 for t > 0, and infinite for t < 0.  Where the sign of a constant of the row is not
    known, an accumulator has to be left alone until something was folded.
    """
    for term in Add.make_args(sp.expand_mul(gauge)):
        if name in term.free_symbols:
            still = Mul(*[f for f in Mul.make_args(term) if name not in f.free_symbols])
            if still.free_symbols and not (still.is_nonpositive if combiner == "max" else still.is_nonnegative):
                return True
    return False


def transport_exponent(gauge: Expr, fresh: Mapping[Symbol, Symbol]) -> Expr:
    """gauge(new) - gauge(old), where `fresh` names the new value of each running value; 0 when nothing moves."""
    linear: dict[Expr, list[Expr]] = {}
    rest = []
    for term in Add.make_args(sp.expand_mul(gauge)):
        moving = [f for f in Mul.make_args(term) if f.free_symbols & set(fresh)]
        still = Mul(*[f for f in Mul.make_args(term) if f not in moving])
        new = Mul(*moving).xreplace(fresh)
        if len(moving) == 1:
            sign, still = (-1, -still) if still.could_extract_minus_sign() else (1, still)
            linear.setdefault(still, []).append(sign * new - sign * moving[0])
        elif moving:
            rest.append(still * new - term)
    # evaluated, a number would be distributed over the difference again
    products = [Add(*moves) if c == 1 else Mul(c, Add(*moves), evaluate=False) for c, moves in linear.items()]
    return Add(*products, *rest)
