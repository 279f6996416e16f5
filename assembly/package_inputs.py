"""What a package is made from, as hashes: whoever has one with the same need not make it again.

    before = package_inputs(fn, captured, {"n": 1024}, {"targets": ["cpu"], "fuse": "by_cost"})
    # {"function": "5b1e...", "tensors": "90aa...", "options": "...", "versions": "..."}

What was tuned is no part of it: `Tuning.current` says of each kernel whether that is still so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from ..frontend.capture import Captured
from ..ir.target import get_target
from ..runtime.triton_compile import triton_version
from .package import constants_data
from .package_signature import signature_data
from .plan_cache import SOURCES, graph_text, source_version, versions

WRITERS = (*SOURCES, "__init__.py", "aot.py", "assembly", "report.py", "runtime")  # what decides what is in a package


def package_inputs(
    fn: Callable[..., Any], captured: Captured, hints: Mapping[str, int], options: Mapping[str, Any]
) -> dict[str, str]:
    """hints: likely values of dynamic sizes.  options: those of `export` that change a package, as JSON, with its "targets".

    Raises UnsupportedProgram for a function that no package can be called like, or whose tensors none can hold.
    """
    entries, members = constants_data(captured)
    parts = {
        "function": [graph_text(captured.gm), signature_data(fn, captured), dict(hints)],
        "tensors": [entries, {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}],
        "options": [options, [asdict(get_target(name)) for name in options["targets"]]],
        "versions": {**versions(), "triton": triton_version(), "fusecade": _writers()},
    }
    return {name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in parts.items()}


@cache
def _writers() -> str:
    return source_version(Path(__file__).parent.parent, WRITERS)
