"""Bands as both printers write them, against the interpreter: all signs, either side, tiles that are cut."""

from __future__ import annotations

import pytest


def band_kernel(of: str, own: str, i: str, j: str, n: int, m: int, p: int) -> str:
    """y[i, j] = Σ_d x[own, d] e[of, d], zero where that leaves e.  own: the rank of x.  i, j: how these are walked."""
    rows = n if own == "i" else m
    body = f"""
    %x_1 = tile.load %x<[{own}, d]> guard ["{own}", "d"] : B<[{rows}, 18], [18, 1], f32> -> T<[{own}, d], f32>
    %e_1 = tile.load %e<[r, d]> guard ["r", "d"] : B<[{p}, 18], [18, 1], f32> -> T<[r, d], f32>
    %s = tile.dot %x_1, %e_1 over "d" precision "ieee" : T<[{own}, d], f32>, T<[r, d], f32> -> T<[{own}, r], f32>
    %y_1 = tile.pick %s at "r" : T<[{own}, r], f32> -> T<[i, j], f32>
    tile.store %y_1, %y<[i, j]> guard ["i", "j"] : T<[i, j], f32>, B<[{n}, {m}], [{m}, 1], f32>"""
    if j.startswith("loop"):
        body = f"  tile.for j from 0 to {m} () {{{body}\n    tile.yield\n  }}"
    grid = ", ".join(r for r, walked in (("i", i), ("j", j)) if walked.startswith("grid"))
    ranks = f"[i = {n} {i}, j = {m} {j}, r = {p} band {of}, d = 18 whole]"
    text = f"""tile.kernel @k {ranks} grid ({grid}) params {{BI = 16, BJ = 8}} (
  %x : B<[{rows}, 18], [18, 1], f32>, %e : B<[{p}, 18], [18, 1], f32>) -> (%y : B<[{n}, {m}], [{m}, 1], f32>) {{
{body}
  tile.return
}}"""
    return text.replace("T<", "!tile.tile<").replace("B<", "!tile.buffer<")


@pytest.mark.parametrize("j", ["loop BJ", "grid BJ", "whole"])
@pytest.mark.parametrize("own", ["i", "j"])
@pytest.mark.parametrize("of", ["j - i + 36", "i - j + 20", "i + j", "57 - i - j", "j - i + 5", "i - j - 3"])
def test_bands(runner, random_tensor, of: str, own: str, j: str):
    n, m, p = 37, 21, 58
    text = band_kernel(of, own, "grid BI", j, n, m, p)
    runner.check(text, [random_tensor(n if own == "i" else m, 18), random_tensor(p, 18)])


def test_a_band_of_even_tiles(runner, random_tensor):
    runner.check(
        band_kernel("j - i + 31", "i", "grid BI", "loop BJ", 32, 16, 47), [random_tensor(32, 18), random_tensor(47, 18)]
    )
