"""Numbers that check the algebra: structure accepts, a probe rejects.

`agrees` samples data, folds the map expression directly and through its online form, and compares; it also checks the
law of transport.  `rank` samples g on a grid of leaves and moving values: a matrix of high rank cannot be separated, so
that no other spelling need be tried.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import sympy as sp
from sympy import Expr, Symbol

from . import expressions as ex
from .forms import Accumulator, OnlineForm, Reduction, moved_to
from .numeric import evaluate, fold

ROWS, EXTENT, GRID, MAX_RANK, GAP = 3, 5, 9, 6, 1e-7
TOLERANCE = 1e-7


def _flags(*expressions: Expr) -> set[Symbol]:
    """Symbols that stand where a truth value is wanted."""
    found = set()
    for e in expressions:
        for n in sp.preorder_traversal(e):
            if isinstance(n, ex.select):
                found.update(a for a in n.args[:1] if a.is_Symbol)
            elif isinstance(n, ex.land | ex.lor | ex.lnot | ex.lxor):
                found.update(a for a in n.args if a.is_Symbol)
    return found


@lru_cache(maxsize=256)
def _noise(index: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1000 + index).normal(size=shape)


def sample(s: Symbol, index: int, shape: tuple[int, ...], flags: set[Symbol]) -> np.ndarray:
    """Values that obey the assumptions of s; the same for the same arguments."""
    v = _noise(index, shape)
    if s in flags:
        return (v > 0) * 1.0
    if isinstance(s, ex.Position):
        return np.broadcast_to(np.arange(shape[-1], dtype=float), shape)
    if isinstance(s, ex.Place):
        return np.floor(np.abs(v) * 3) % EXTENT
    if s.is_integer:
        v = np.rint(3 * v)
        return np.abs(v) + 1.0 if s.is_positive else np.abs(v) if s.is_nonnegative else v
    if s.is_nonnegative:
        return np.abs(v) + 0.25
    if s.is_nonpositive:
        return -np.abs(v) - 0.25
    return v


def agrees(reduction: Reduction, form: OnlineForm, leaves: frozenset[Symbol], in_flight: frozenset[Symbol]) -> str:
    """ "" when the form computes the reduction at sampled points, else what differed."""
    e = reduction.expr
    flags = _flags(e)
    symbols = sorted(e.free_symbols | {s for a in form.accumulators for s in a.psi.free_symbols}, key=str)
    env, moved = {}, {}
    for i, s in enumerate(symbols):
        if s in leaves:
            env[s] = moved[s] = sample(s, i, (ROWS, EXTENT), flags)
        else:
            env[s] = moved[s] = sample(s, i, (ROWS, 1), flags)
    gauges = {s for a in form.accumulators if a.gauge is not None for s in a.gauge.free_symbols & in_flight}
    for i, s in enumerate(sorted(gauges, key=str)):
        moved[s] = sample(s, 100 + i, (ROWS, 1), flags)
    memo, moved_memo, final = {}, {}, dict(env)
    direct = fold(reduction.combiner, evaluate(e, env, memo), EXTENT)
    for a in form.accumulators:
        psi = evaluate(a.psi, env, memo)
        final[a.symbol] = fold(a.combiner, psi, EXTENT)[..., None]
        if a.gauge is not None:
            step = np.exp(evaluate(a.gauge, moved, moved_memo) - evaluate(a.gauge, env, memo))
            if not _close(psi * step, evaluate(a.psi, moved, moved_memo)):
                return f"{a.psi} does not move by exp of {a.gauge}"
        if a.moves is not None and not _carried(a, env):
            return f"{a.symbol} is not carried as {a.moves}"
    online = np.broadcast_to(evaluate(form.readout, final), (ROWS, 1))[..., 0]
    direct = np.broadcast_to(direct, (ROWS,))
    return "" if _close(direct, online) else f"the readout gives {online}, the reduction {direct}"


def _carried(a: Accumulator, env: Mapping[Symbol, np.ndarray]) -> bool:
    """The law of an accumulator that is kept while a place stays, and dropped when an element that is new takes it."""
    places, seen = [s for s in a.psi.free_symbols if isinstance(s, ex.Place)], EXTENT // 2 + 1
    part = {s: v[..., :seen] if np.shape(v)[-1] == EXTENT else v for s, v in env.items()}
    for old in range(seen):
        for new in (old, *range(seen, EXTENT)):
            at, there = dict.fromkeys(places, float(old)), dict.fromkeys(places, float(new))
            held, wanted = (fold(a.combiner, evaluate(a.psi, {**part, **i}), seen)[..., None] for i in (at, there))
            moved = {**env, **at, **{moved_to(s): float(new) for s in places}, a.symbol: held}
            if not _close(wanted, evaluate(a.moves, moved)):
                return False
    return True


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to rounding wherever a is finite."""
    a, b = np.broadcast_arrays(a, b)
    finite = np.isfinite(a)
    a, b = a[finite], b[finite]
    return bool(np.all(np.abs(a - b) <= TOLERANCE * (1 + np.abs(a) + np.abs(b))))


def rank(e: Expr, leaves: frozenset[Symbol], in_flight: frozenset[Symbol]) -> int | None:
    """The numeric rank of e as a matrix (leaves by moving values) if it is at most MAX_RANK with a clear gap.

    A smooth kernel looks low-rank to any tolerance, so the next singular value has to vanish, not just be small.
    """
    flags = _flags(e)
    env = {}
    for i, s in enumerate(sorted(e.free_symbols, key=str)):
        shape = (GRID, 1) if s in leaves else (1, GRID) if s in in_flight else (1, 1)
        env[s] = sample(s, 200 + i, shape, flags)
    matrix = np.broadcast_to(evaluate(e, env), (GRID, GRID))
    if not np.all(np.isfinite(matrix)):
        return None
    sigma = np.linalg.svd(matrix, compute_uv=False)
    if sigma[0] == 0:
        return 0
    for j in range(1, MAX_RANK + 1):
        if sigma[j] < GAP * sigma[j - 1] and sigma[j] < 1e-9 * sigma[0]:
            return j
    return None
