"""Spaces that look like those of kernels, with a cost model and what a machine would make of it.

A price is that of a roofline with waves, fill, and loads that repeat with small tiles.  The machine deviates from it: by a
factor everywhere, by up to 30 % in terms of single parameters, of pairs and of nothing in particular, by cliffs (registers
of a thread run out) that no model of bytes sees, and it fails in regions.  All of it from a seed.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from dataclasses import dataclass, field
from functools import cached_property

from fusecade.autotune.records import Configuration, Failure
from fusecade.autotune.space import Inadmissible, Prediction, Space
from fusecade.autotune.statistics import half_quartile_range, median, median_interval
from fusecade.autotune.timing import Comparison

DEVIATION = math.log(1.3)
SRAM = 232_448
SMS = 132


@dataclass
class Landscape:
    """One kernel on one machine.  m, n, k: its extents.  choices: of each walk; the cheapest is put first."""

    name: str
    choices: dict[str, dict[str, list[int]]]
    m: int
    n: int
    k: int
    seed: int = 0
    noise: float = 0.03
    factor: float = 1.0  # by which the whole model is wrong
    terms: float = 0.6  # the part of the deviations that single parameters explain; pairs and nothing have the rest
    cliff: float = 2.5
    registers: int = 240  # of a thread, before the cliff
    fails: str = ""  # where candidates fail: "", "wide", "deep"
    measured: dict[Configuration, int] = field(default_factory=dict)
    drawn: dict[tuple[object, ...], float] = field(default_factory=dict)

    @cached_property
    def space(self) -> Space:
        """With the cost model's choice first."""
        given = Space.of(self.choices)
        best = min((c for c in given if isinstance(self.predict(c), Prediction)), key=lambda c: self.price(c).us)
        walks = sorted(self.choices, key=lambda walk: walk != best.variant)
        values = dict(best.values)

        def first(walk: str, name: str, options: list[int]) -> list[int]:
            kept = values[name] if walk == best.variant else options[0]
            return [kept, *(v for v in options if v != kept)]

        return Space.of({w: {n: first(w, n, o) for n, o in self.choices[w].items()} for w in walks})

    # --- the model -----------------------------------------------------------------------------------------------

    def predict(self, c: Configuration) -> Prediction | Inadmissible | None:
        v = {"BI": 64, "BJ": 64, "BK": 32, "num_warps": 4, "num_stages": 2, "parts": 1} | dict(c.values)
        footprint = 2 * v["num_stages"] * (v["BI"] * v["BK"] + v["BJ"] * v["BK"]) + 4 * v["BI"] * v["BJ"] // 8
        if footprint > SRAM:
            return Inadmissible(f"{footprint} bytes of shared memory")
        if v["BI"] * v["BJ"] > 32768 or v["BI"] * v["BJ"] < 32 * v["num_warps"]:
            return None
        programs = math.ceil(self.m / v["BI"]) * math.ceil(self.n / v["BJ"]) * v["parts"]
        waves = math.ceil(programs / SMS) / (programs / SMS)
        flops = 2 * self.m * self.n * self.k
        bytes_moved = 2 * (
            self.m * self.k * math.ceil(self.n / v["BJ"]) + self.n * self.k * math.ceil(self.m / v["BI"])
        )
        rate = 6e8 * min(1.0, (v["BI"] * v["BJ"] / 128 / 128) ** 0.3) * (1 - 0.3 / v["num_stages"])
        dots, moved = flops / rate * waves, bytes_moved / 1.2e7 * waves
        merge = 4 * self.m * self.n * (v["parts"] - 1) / 3e6
        us = max(dots, moved) + 0.2 * min(dots, moved) + merge + 4
        return Prediction(us, "dots" if dots > moved else "hbm", footprint)

    def price(self, c: Configuration) -> Prediction:
        """Of an admissible one."""
        prediction = self.predict(c)
        assert isinstance(prediction, Prediction)
        return prediction

    # --- the machine ---------------------------------------------------------------------------------------------

    def true_us(self, c: Configuration) -> float | Failure:
        v = dict(c.values)
        if self.fails == "wide" and v.get("BI", 0) * v.get("BJ", 0) >= 128 * 256 and v.get("num_warps", 8) < 8:
            return Failure("crashed", "a register too many")
        if self.fails == "deep" and v.get("num_stages", 0) >= 4 and v.get("BK", 0) >= 64:
            return Failure("out_of_memory", "out of resource: shared memory")
        singles = [self._draw(c.variant, n, x) for n, x in c.values] + [self._draw(c.variant)]
        pairs = [self._draw(c.variant, a, b) for a, b in itertools.combinations(c.values, 2)]
        rest = 1 - self.terms
        deviation = (
            math.sqrt(self.terms) * sum(singles) / math.sqrt(len(singles))
            + math.sqrt(rest / 2) * sum(pairs) / math.sqrt(max(len(pairs), 1))
            + math.sqrt(rest / 2) * self._draw(c)
        )
        us = self.price(c).us * self.factor * math.exp(max(-DEVIATION, min(DEVIATION, deviation * DEVIATION / 1.6)))
        used = v.get("BI", 64) * v.get("BJ", 64) / (32 * v.get("num_warps", 4)) + 8 * v.get("num_stages", 2)
        return us * self.cliff if used > self.registers else us

    def _draw(self, *what: object) -> float:
        """A normal number that belongs to something."""
        if what not in self.drawn:
            digest = hashlib.sha256(f"{self.name} {self.seed} {what}".encode()).digest()
            one, two = (int.from_bytes(part) + 1 for part in (digest[:7], digest[7:14]))
            self.drawn[what] = math.sqrt(-2 * math.log(one / 2**56)) * math.cos(2 * math.pi * two / 2**56)
        return self.drawn[what]

    def measure(self, c: Configuration, reference: Configuration, rounds: int = 12) -> Comparison | Failure:
        """As in turns: noise of each round, and a machine that is slower now and then for both."""
        self.measured[c] = again = self.measured.get(c, 0) + 1
        mine, theirs = self.true_us(c), self.true_us(reference)
        if isinstance(mine, Failure):
            return mine
        assert isinstance(theirs, float)
        luck = random.Random(f"{self.name} {self.seed} {c} {again}")
        speed = luck.choice((1.0, 1.0, 1.15))
        times = [mine * speed * math.exp(luck.gauss(0, self.noise)) for _ in range(rounds)]
        others = [theirs * speed * math.exp(luck.gauss(0, self.noise)) for _ in range(rounds)]
        ratios = [a / b for a, b in zip(times, others, strict=True)]
        spread, interval = half_quartile_range(times), median_interval(ratios, 0.05)
        return Comparison(median(times), spread, rounds, median(others), median(ratios), interval)

    def confirm(self, c: Configuration, reference: Configuration) -> Comparison | Failure:
        return self.measure(c, reference, rounds=64)

    # --- the truth -----------------------------------------------------------------------------------------------

    @cached_property
    def truth(self) -> dict[Configuration, float]:
        """The time of everything that is admissible and runs."""
        admissible = (c for c in self.space if isinstance(self.predict(c), Prediction))
        return {c: us for c in admissible if isinstance(us := self.true_us(c), float)}

    def regret(self, c: Configuration) -> float:
        """How much slower than the fastest, as a part of it; infinite where it fails."""
        return self.truth.get(c, math.inf) / min(self.truth.values()) - 1


TILES = {"BI": [64, 16, 32, 128, 256], "BJ": [64, 16, 32, 128, 256], "BK": [32, 16, 64, 128]}
LAUNCH = {"num_warps": [4, 2, 8], "num_stages": [2, 3, 4, 5]}
FLAGS = {"descriptors": [0, 1], "persistent": [0, 1], "GROUP": [1, 4, 8]}
SPLIT = {
    f"j in {parts} parts": {"BI": [16, 32, 64], "BJ": [32, 64, 128, 256], "parts": [parts]} for parts in (4, 8, 16)
}


def landscapes() -> list[Landscape]:
    whole = TILES | LAUNCH
    small = {"BI": [64, 16, 32, 128], "BJ": [64, 32, 128, 256]} | LAUNCH
    walks = {"i grid, j loop": whole, "j grid, i loop": small | {"GROUP": [1, 8]}}
    split = {"i grid, j loop": small} | {w: p | LAUNCH for w, p in SPLIT.items()}
    shares = {
        "i grid, j loop": whole,
        "132 shares": small | {"each": [4, 8, 16]},
        "264 shares": small | {"each": [2, 4, 8]},
    }
    rows = {"rows": {"BI": [1, 2, 4, 8, 16, 64], "BJ": [256, 512, 1024], "num_warps": [4, 8, 16], "num_stages": [2, 3]}}
    return [
        Landscape("product", {"ij grid": whole | {"descriptors": [0, 1]}}, 4096, 4096, 4096, registers=160),
        Landscape(
            "product, flags", {"ij grid": TILES | LAUNCH | {"descriptors": [0, 1], "GROUP": [1, 8]}}, 2048, 4096, 512
        ),
        Landscape("streamed", walks, 8192, 4096, 64, factor=1.6),
        Landscape("streamed, interacting", walks, 8192, 8192, 128, seed=1, terms=0.2),
        Landscape("streamed, crashes", walks, 4096, 4096, 128, seed=2, fails="wide", factor=0.7),
        Landscape("decode", split, 16, 8192, 128, seed=3),
        Landscape("decode, deep fails", split, 64, 32768, 128, seed=4, fails="deep"),
        Landscape("shares", shares, 4096, 2048, 256, seed=5, cliff=4.0),
        Landscape("shares, odd sizes", shares, 3001, 1999, 300, seed=6, factor=2.2),
        Landscape("rows", rows, 8192, 2048, 1, seed=7),
        Landscape("low cliff", {"ij grid": whole}, 1024, 1024, 1024, seed=8, registers=80, cliff=3.0),
        Landscape("no terms", {"ij grid": whole | {"GROUP": [1, 4]}}, 2048, 2048, 2048, seed=9, terms=0.0),
        Landscape("small", {"ij grid": small}, 512, 512, 512, seed=10, noise=0.03, factor=1.3),
    ]
