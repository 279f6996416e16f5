"""What a kernel call is called where people read it: its kernel and the operations that it computes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..driver import Call

LONGEST = 80
_COUNTED = re.compile(r"_\d+$")


def title_of(call: Call) -> str:
    """`k0_bmm_div_softmax_bmm`: repeated operations are named once where they follow each other."""
    names = [_COUNTED.sub("", name).strip("_") for name in dict.fromkeys(call.nodes)]
    parts = [name for n, name in enumerate(names) if n == 0 or names[n - 1] != name]
    title = "_".join([call.artifact.kernels[0].name if call.artifact.stages else call.artifact.name, *parts])
    return title if len(title) <= LONGEST else title[: LONGEST - 1] + "…"
