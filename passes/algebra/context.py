"""What an expression contains: leaves (values that carry the rank), values in flight (still being reduced), or both."""

# sympy's annotations call every argument a Basic.
# pyright: reportReturnType=false

from __future__ import annotations

import sympy as sp


class Context:
    """Which symbols are leaves and which are in flight; says what an expression contains, remembering the answers."""

    LEAF, FLIGHT, MIXED = 1, 2, 3

    def __init__(self, leaves: frozenset[sp.Symbol], in_flight: frozenset[sp.Symbol]):
        self.leaves = leaves
        self.in_flight = in_flight
        self._kinds: dict[sp.Basic, int] = {}

    def kind(self, e: sp.Basic) -> int:
        """0 for a constant of the row, else LEAF, FLIGHT or both (MIXED)."""
        known = self._kinds.get(e)
        if known is None:
            if e.is_Symbol:
                known = (e in self.leaves) | ((e in self.in_flight) << 1)
            else:
                known = 0
                for a in e.args:
                    known |= self.kind(a)
            self._kinds[e] = known
        return known

    def carries_leaf(self, e: sp.Basic) -> bool:
        return bool(self.kind(e) & self.LEAF)

    def moves(self, e: sp.Basic) -> bool:
        """Does e depend on a value that is still being reduced?"""
        return bool(self.kind(e) & self.FLIGHT)

    def mixed(self, e: sp.Basic) -> bool:
        return self.kind(e) == self.MIXED

    def flights(self, e: sp.Basic) -> list[sp.Symbol]:
        return sorted(e.free_symbols & self.in_flight, key=str)

    def ties(self, e: sp.Basic) -> str:
        """'x to m': the leaves and the moving values that e holds together, for messages."""
        leaves = ", ".join(sorted(map(str, e.free_symbols & self.leaves)))
        return f"{leaves} to {', '.join(map(str, self.flights(e)))}"


class NotSeparable(Exception):
    """Internal: the structure at hand does not split; carries the reason in words."""
