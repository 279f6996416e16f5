"""The records that the derivation engine takes and gives.  Plain, frozen, hashable; no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field

import sympy as sp
from sympy import Expr, Symbol

COMBINERS = ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin")


@dataclass(frozen=True)
class Reduction:
    """One cascaded reduction over one rank k: `name = combiner_k expr`.

    `expr` is written over leaves (symbols that carry k), constants of the row, and names of earlier reductions.
    """

    name: Symbol
    combiner: str
    expr: Expr

    def __post_init__(self) -> None:
        if self.combiner not in COMBINERS:
            raise ValueError(f"unknown combiner {self.combiner!r}; known: {', '.join(COMBINERS)}")
        object.__setattr__(self, "expr", sp.sympify(self.expr))

    def __str__(self) -> str:
        return f"{self.name} = {self.combiner}: {self.expr}"


@dataclass(frozen=True)
class Cascade:
    """Reductions over one rank in topological order, and what is made of their results.

    outputs carry no k.  maps do: each is a further traversal after the reductions it names.
    A symbol that is neither a leaf nor a reduction name is a constant of the row.
    """

    reductions: tuple[Reduction, ...]
    outputs: tuple[Expr, ...] = ()
    maps: tuple[Expr, ...] = ()
    leaves: frozenset[Symbol] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Accumulator:
    """One folded value: `symbol = combiner_k psi`.

    psi is over leaves and constants; a reduction name in it stands for that reduction's *running* value.
    gauge: when the running values move from old to new, the accumulator is multiplied by exp(gauge(new) - gauge(old));
    None: it never moves.  An accumulator that still equals its combiner's identity stays what it is.
    moves: where that factor is not all, what the accumulator becomes, over accumulators that are already multiplied by it,
    old gauge names and new ones (`moved_to`).
    """

    symbol: Symbol
    combiner: str
    psi: Expr
    gauge: Expr | None = None
    moves: Expr | None = None


def moved_to(name: Symbol) -> Symbol:
    """The symbol of a running value after it has moved."""
    return Symbol(f"{name.name}_new", real=True)


@dataclass(frozen=True)
class OnlineForm:
    """How one reduction is computed while the reductions it depends on are still running.

    form: "independent", "defer", "rescale", "rescale+defer", "moments", "monotone",
    "carried".
    readout: over accumulator symbols, constants and *final* values of earlier reductions; evaluated once, at the end.
    certificate: the identity that was used, in one line.
    anchors: further constants of the row that ψ and the readout name, each with an expression over leaves whose value
    at any one element of the row is a good choice (see `anchored`); every finite value is exact.
    cancels: moments that subtract large numbers from large ones, for which no anchor was found, or that multiply by a
    moving value to the power of how many elements there are, which overflows where the product does not.
    """

    reduction: Symbol
    form: str
    accumulators: tuple[Accumulator, ...]
    readout: Expr
    certificate: str
    anchors: tuple[tuple[Symbol, Expr], ...] = ()
    cancels: bool = False

    @property
    def J(self) -> int:
        """How many values are folded."""
        return len(self.accumulators)


@dataclass(frozen=True)
class Refused:
    """No online form was found.  Falsy, so that `form or ...` reads well."""

    reason: str

    def __bool__(self) -> bool:
        return False


def as_written(form: OnlineForm) -> bool:
    """True when the form is the reduction itself, so that there is nothing to rewrite."""
    return form.form == "independent" and form.J == 1 and form.readout == form.accumulators[0].symbol
