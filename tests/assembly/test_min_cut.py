"""Cuts: as cheap as the cheapest of all, on graphs small enough to try every one."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from fusecade.assembly.min_cut import Network


def price(edges: list[tuple[int, int, float]], below: set[int]) -> float:
    return sum(c for a, b, c in edges if a not in below and b in below)


@pytest.mark.parametrize("seed", range(40))
def test_no_cut_is_cheaper(seed: int):
    draw = random.Random(seed)
    vertices = 7
    edges = [
        (a, b, math.inf if draw.random() < 0.2 and a else float(draw.randint(0, 9)))
        for a in range(vertices) for b in range(vertices) if a != b and draw.random() < 0.5
    ]  # fmt: skip
    inner = range(1, vertices - 1)
    cuts = [
        {vertices - 1, *chosen} for n in range(vertices - 1) for chosen in itertools.combinations(inner, n)
    ]  # fmt: skip
    best = min(price(edges, below) for below in cuts)
    network = Network()
    for a, b, c in edges:
        network.edge(a, b, c)
    if math.isinf(best):
        with pytest.raises(ValueError, match="no finite cut"):
            network.sink_side(0, vertices - 1)
        return
    below = network.sink_side(0, vertices - 1)
    assert 0 not in below
    assert price(edges, below) == best


def test_a_long_chain():
    network = Network()
    for n in range(5000):
        network.edge(n, n + 1, 2.0 if n != 3210 else 1.0)
    assert network.sink_side(0, 5000) == set(range(3211, 5001))
