"""Derivation of one-pass (online) forms of cascaded reductions: pure algebra on sympy expressions."""

from .derive import derive
from .forms import Accumulator, Cascade, OnlineForm, Reduction, Refused

__all__ = ["Accumulator", "Cascade", "OnlineForm", "Reduction", "Refused", "derive"]
