"""The cheapest cut between two sides of a directed graph (Dinic's algorithm)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable


class Network:
    """Vertices are any hashable values; an edge may be infinite."""

    def __init__(self) -> None:
        self._number: dict[Hashable, int] = {}
        self._edges: list[list[int]] = []  # of each vertex, the numbers of its edges; edge n goes back as n ^ 1
        self._to: list[int] = []
        self._room: list[float] = []

    def edge(self, a: Hashable, b: Hashable, capacity: float) -> None:
        for end, start, room in ((b, a, capacity), (a, b, 0.0)):
            self._edges[self._at(start)].append(len(self._to))
            self._to.append(self._at(end))
            self._room.append(room)

    def _at(self, vertex: Hashable) -> int:
        if vertex not in self._number:
            self._number[vertex] = len(self._edges)
            self._edges.append([])
        return self._number[vertex]

    def sink_side(self, source: Hashable, sink: Hashable) -> set[Hashable]:
        """The smallest set of vertices with `sink` that a cheapest cut leaves on its side.

        Raises ValueError where every cut is infinite.
        """
        s, t = self._at(source), self._at(sink)
        largest = sum(r for r in self._room if r < math.inf) + 1.0
        self._room = [min(r, largest) for r in self._room]
        total = 0.0
        while (level := self._levels(s, self._edges)) and level[t] >= 0:
            turn = [0] * len(self._edges)
            while pushed := self._push(s, t, level, turn):
                total += pushed
                if total >= largest:
                    raise ValueError("no finite cut")
        before = self._reaching(t)
        return {v for v, n in self._number.items() if before[n]}

    def _levels(self, s: int, edges: list[list[int]]) -> list[int]:
        level = [-1] * len(edges)
        level[s] = 0
        waiting = deque([s])
        while waiting:
            v = waiting.popleft()
            for e in edges[v]:
                if self._room[e] > 0 and level[self._to[e]] < 0:
                    level[self._to[e]] = level[v] + 1
                    waiting.append(self._to[e])
        return level

    def _push(self, s: int, t: int, level: list[int], turn: list[int]) -> float:
        """Flow along one more path of the level graph, 0 when there is none; without recursion, for long graphs."""
        path: list[int] = []
        v = s
        while v != t:
            while turn[v] < len(self._edges[v]):
                e = self._edges[v][turn[v]]
                if self._room[e] > 0 and level[self._to[e]] == level[v] + 1:
                    break
                turn[v] += 1
            if turn[v] < len(self._edges[v]):
                path.append(self._edges[v][turn[v]])
                v = self._to[path[-1]]
            elif path:
                v = self._to[path.pop() ^ 1]
                turn[v] += 1
            else:
                return 0.0
        flow = min(self._room[e] for e in path)
        for e in path:
            self._room[e] -= flow
            self._room[e ^ 1] += flow
        return flow

    def _reaching(self, t: int) -> list[bool]:
        found = [False] * len(self._edges)
        found[t] = True
        waiting = [t]
        while waiting:
            v = waiting.pop()
            for e in self._edges[v]:
                u = self._to[e]  # the edge back, e ^ 1, goes from u to v
                if self._room[e ^ 1] > 0 and not found[u]:
                    found[u] = True
                    waiting.append(u)
        return found
