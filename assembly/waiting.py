"""Kernels that wait for each other's results in the graph, though none does in the program.

The program is simpler than the graph: a mask that turns out to be constant, an index that is a position.  A kernel can read
a node whose own inputs the program has done without, and which are results of that kernel.  Such a kernel is given up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

if TYPE_CHECKING:
    from ..driver import Call


def one_that_waits(gm: fx.GraphModule, calls: Sequence[Call]) -> Call | None:
    """Of the calls on a circle of the graph the one that computes least; None where there is no circle."""
    made_by = {node: n for n, call in enumerate(calls) for node in call.outputs}
    needs: dict[fx.Node | int, set[Any]] = {}  # of nodes, and of calls by their numbers
    for node in gm.graph.nodes:
        needs[node] = {made_by[node]} if node in made_by else set(node.all_input_nodes)
    for n, call in enumerate(calls):
        sizes = [s[0] if isinstance(s, tuple) else s for s in call.sizes.values()]
        needs[n] = {*call.inputs, *(s for s in sizes if isinstance(s, fx.Node))}
    circle = _left(_left(needs, needs), _turned(needs))
    waiting = [call for n, call in enumerate(calls) if n in circle]
    return min(waiting, key=lambda c: len(c.nodes)) if waiting else None


def _left(among: Iterable[Any], needs: Mapping[Any, set[Any]]) -> set[Any]:
    """What remains when everything is taken away that needs nothing, again and again."""
    left = set(among)
    waits = {x: sum(y in left for y in needs[x]) for x in left}
    users = _turned({x: needs[x] & left for x in left})
    ready = [x for x, n in waits.items() if not n]
    while ready:
        x = ready.pop()
        left.discard(x)
        for user in users[x]:
            waits[user] -= 1
            if not waits[user]:
                ready.append(user)
    return left


def _turned(needs: Mapping[Any, set[Any]]) -> dict[Any, set[Any]]:
    users: dict[Any, set[Any]] = {x: set() for x in needs}
    for x, found in needs.items():
        for y in found:
            users[y].add(x)
    return users
