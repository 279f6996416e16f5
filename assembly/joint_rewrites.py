"""Rewrites of a joint graph, so that its backward asks less of the forward: the winners of a maximum, the sums of rows."""

from __future__ import annotations

import logging

from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import FusecadeError
from ..frontend.importer import import_graph
from ..frontend.realise import realise, trial_of
from ..passes.canonicalise import canonicalise_program
from ..passes.known_sums import known_sums
from ..passes.one_hot import one_hot

log = logging.getLogger("fusecade")


def rewritten(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of `gm` after the passes `one-hot` and `known-sums`; `gm` itself where there is nothing for them."""
    try:
        with (
            _disable_current_modes()
        ):  # PyTorch calls us while it traces; what we compute on the way is no part of that
            imported = import_graph(gm)
            program, places = trial_of(imported)
            canonicalise_program(program)
            rewrites = [*one_hot(program), *known_sums(program)]
            if not rewrites:
                return gm
            edited, _, done = realise(gm, imported, places, [(r.old, r.ops) for r in rewrites])
    except FusecadeError as error:
        log.debug("the joint graph is left as it is: %s", error.message)
        return gm
    for n in done:
        log.debug("joint graph: %s: %s", rewrites[n].name, rewrites[n].certificate)
    return edited
