"""In which order a product is contracted: the exact optimum over all binary orders, by price on a target.

A step takes two factors and sums over the ranks that nothing else needs.  Steps are priced apart, as library calls: what
they multiply, and what they read and write.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...ir.target import Target
from ..cost import CPU_MAP_RATE, HBM_EFFICIENCY

Ranks = frozenset[str]


@dataclass(frozen=True)
class Cost:
    """Predicted microseconds of operations left apart, and what they multiply and add."""

    us: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.us + other.us, self.flops + other.flops)


@dataclass(frozen=True)
class Prices:
    """sizes: the extent of every rank, as a number.  width: bytes of an element.  rate: of the operands' dtype."""

    target: Target
    sizes: Mapping[str, int]
    width: int
    rate: str

    def points(self, ranks: Iterable[str]) -> float:
        return math.prod(float(self.sizes[r]) for r in ranks)

    def step(self, operands: Sequence[Ranks], out: Ranks) -> Cost:
        """One operation: a contraction of two operands, or a map, or a plain sum."""
        space: Ranks = frozenset().union(out, *operands)
        moved = self.width * (sum(map(self.points, operands)) + self.points(out))
        points, summed = self.points(space), space - out
        cpu = self.target.kind == "cpu"
        memory = moved / (self.target.hbm_bytes_per_s * (1.0 if cpu else HBM_EFFICIENCY))
        if summed and len(operands) == 2:
            flops = 2 * points
            a, b = operands
            m, n = self.points((a - b) & out), self.points((b - a) & out)
            arithmetic = flops / (self.target.dot_flops(self.rate) * self._efficiency(m, n, self.points(summed)))
        else:
            flops = points * max(1, len(operands))
            arithmetic = flops / (CPU_MAP_RATE * self.target.sms if cpu else self.target.vector_flops / 2)
        seconds = arithmetic + memory if cpu else max(arithmetic, memory)
        return Cost(seconds * 1e6 + self.target.launch_us, flops)

    def _efficiency(self, m: float, n: float, k: float) -> float:
        power = 0.3 if self.target.kind == "cpu" else 0.5
        return min(1.0, m / 64) ** 0.5 * min(1.0, n / 64) ** 0.5 * min(1.0, k / 32) ** power


@dataclass(frozen=True)
class Tree:
    """A contraction order: a factor (by number), or two trees that are multiplied; `ranks` are those of its result."""

    ranks: Ranks
    leaf: int | None = None
    sides: tuple[Tree, Tree] | None = None

    def text(self, names: Sequence[str]) -> str:
        if self.sides is None:
            assert self.leaf is not None
            return names[self.leaf]
        a, b = (t.text(names) for t in self.sides)
        return f"({a} {b})"


def best_order(
    factors: Sequence[Ranks], inverse: Sequence[bool], out: Ranks, prices: Prices
) -> tuple[Tree, Cost] | None:
    """The cheapest order in which to multiply `factors` and sum all ranks that are not in `out`.

    inverse: factors that divide; these meet one other side, and nothing is summed where they do.  None: no legal order.
    """
    count = len(factors)
    every = (1 << count) - 1
    of = [frozenset().union(*(factors[n] for n in range(count) if s >> n & 1)) for s in range(every + 1)]
    needed = [of[s] & (out | of[every ^ s]) for s in range(every + 1)]
    best: dict[int, tuple[Tree, Cost]] = {}
    for n in range(count):
        s = 1 << n
        cost = Cost()
        if needed[s] != factors[n]:
            if inverse[n]:
                return None
            cost = prices.step([factors[n]], needed[s])
        best[s] = Tree(needed[s], leaf=n), cost
    divides = sum(1 << n for n in range(count) if inverse[n])
    for s in range(1, every + 1):
        if s & (s - 1) == 0:
            continue
        low = s & -s
        a = (s - 1) & s
        while a:
            b = s ^ a
            if a & low and a in best and b in best and _legal(a, b, divides, needed, needed[s]):
                (tree_a, cost_a), (tree_b, cost_b) = best[a], best[b]
                before = cost_a.us + cost_b.us
                if s not in best or before < best[s][1].us:
                    total = cost_a + cost_b + prices.step([needed[a], needed[b]], needed[s])
                    if s not in best or total.us < best[s][1].us:
                        best[s] = Tree(needed[s], sides=(tree_a, tree_b)), total
            a = (a - 1) & s
    return best.get(every)


def _legal(a: int, b: int, divides: int, needed: Sequence[Ranks], out: Ranks) -> bool:
    inverse_a, inverse_b = a & divides == a, b & divides == b
    if not (inverse_a or inverse_b):
        return True
    single = (a if inverse_a else b).bit_count() == 1
    return single and not (inverse_a and inverse_b) and (needed[a] | needed[b]) == out
