"""Loops that no program enters go: what bounds leave of a walk may be nothing, once tiles and sizes are known.

tile.for k from BK * (n floordiv BK) to n       with n = 4096 and BK = 128: gone
"""

from __future__ import annotations

from xdsl.ir import Operation

from ..ir import symbols, tile
from .share_of_steps import ahead_of, shares_of
from .trips import Bounds, Trips


def drop_idle_loops(kernel: tile.KernelOp) -> None:
    """Erase the loops that take no step in any program, as far as extents are known; what they carry passes by them."""
    ranks = kernel.ranks.data
    params = kernel.parameters
    extent = {r.name: symbols.evaluate(r.extent, params) for r in ranks if symbols.names(r.extent) <= set(params)}
    walk = Trips(
        kernel.grid_ranks,
        {r.name: extent.get(r.name, 1) for r in ranks},
        {r.name: params[r.tile] if r.tile else 1 for r in ranks},
        params,
        ahead_of(shares_of(kernel, params), kernel) if kernel.share is not None and len(extent) == len(ranks) else None,
    )
    names = {*params, *extent, *([walk.ahead[0]] if walk.ahead is not None else [])}
    for op in list(kernel.body.walk()):
        if not isinstance(op, tile.ForOp) or op.bounds == (0, kernel.ranks[op.rank.data].extent):
            continue
        around = _loops_around(op)
        bounds = [Bounds(o.rank.data, *o.bounds) for o in around]
        known = all(n in names for b in bounds for n in b.names)
        if known and walk.total((), [b.rank for b in bounds], bounds) == 0:
            for result, start in zip(op.results, op.init, strict=True):
                start.name_hint = start.name_hint or result.name_hint
                result.replace_all_uses_with(start)
            op.detach()
            op.erase()


def _loops_around(op: tile.ForOp) -> list[tile.ForOp]:
    """The loops that a loop is in, outermost first, with itself."""
    found = [op]
    parent: Operation | None = op.parent_op()
    while parent is not None:
        if isinstance(parent, tile.ForOp):
            found.insert(0, parent)
        parent = parent.parent_op()
    return found
