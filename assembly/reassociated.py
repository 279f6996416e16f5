"""The passes `one-hot` and `reassociate` on a graph: their new values become nodes, and the graph is imported again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from ..frontend.edit import Edit
from ..frontend.importer import Imported, import_graph
from ..frontend.realise import realise, trial_of
from ..ir.target import Target
from ..passes.canonicalise import canonicalise_program
from ..passes.one_hot import one_hot
from ..passes.reassociate import reassociate_program


@dataclass(frozen=True)
class Reassociated:
    """A graph with its program, neither of which anything has changed since.

    edit: what was done to the graph, None for nothing.  rewrites: (rule, what, certificate).  externs: (operator, reason)
    of what is opaque in the graph as it was given.
    """

    gm: fx.GraphModule
    imported: Imported
    edit: Edit | None
    rewrites: list[tuple[str, str, str]]
    externs: list[tuple[str, str]]


def reassociated(
    gm: fx.GraphModule,
    target: Target,
    hints: Mapping[str, int] | None = None,
    size_names: Mapping[str, str] | None = None,
) -> Reassociated:
    """`gm` imported, with one-hot maps in short, and its sums of products in the cheapest order on `target`."""
    imported = import_graph(gm, size_names=size_names)
    unchanged = Reassociated(gm, imported, None, [], imported.externs)
    program, places = trial_of(imported)
    canonicalise_program(program)
    rewrites = one_hot(program)
    once = len(rewrites)
    rewrites += reassociate_program(program, target, hints, lambda value: value in places)
    if not rewrites:
        return unchanged
    edited, edit, done = realise(gm, imported, places, [(r.old, r.ops) for r in rewrites], size_names)
    if not done:
        return unchanged
    texts = [("one-hot" if n < once else "reassociate", rewrites[n].name, rewrites[n].certificate) for n in done]
    return Reassociated(edited, import_graph(edited, size_names=size_names), edit, texts, unchanged.externs)
