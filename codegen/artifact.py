"""What code generation hands over: one printed kernel with everything needed to run, report and package it.

Plain data: it goes to JSON and back, so that caches and packages hold no code but the printed text.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Layout:
    """A tensor that a kernel reads or writes.

    shape, strides: one entry a dimension, each an integer or a Python expression over size names ("n * 64").
    dtype: "f16", "bf16", "f32", "f64", "i1", "i8", "i32", "i64", ...
    """

    shape: tuple[int | str, ...]
    strides: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class KernelArtifact:
    """One kernel, printed.

    kind: "triton" or "torch".  source: the module's text; function: the name to call in it.
    inputs, outputs: layouts in argument order (inputs first).  sizes: names of the size arguments, after the buffers.
    params: tile sizes and launch parameters bound in the source.
    launch: for Triton, `grid` (Python expression over sizes), `signature`, `constexprs`, `divisible`, `num_warps`,
            `num_stages`; for torch, `programs` (Python expression: size of the flattened grid).
    facts: what the report shows (passes, bytes, flops, footprint, predicted time, certificates, the tile program's text).
    """

    name: str
    kind: str
    target: str
    source: str
    function: str
    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    sizes: tuple[str, ...] = ()
    params: dict[str, int] = field(default_factory=dict)
    launch: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides what runs (facts excluded)."""
        data = asdict(self)
        data.pop("facts")
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> KernelArtifact:
        """Rebuild from `to_json`.  Raises KeyError or TypeError on data of another shape."""
        layouts: dict[str, Any] = {
            side: tuple(Layout(tuple(x["shape"]), tuple(x["strides"]), x["dtype"]) for x in data[side])
            for side in ("inputs", "outputs")
        }
        plain = {k: data[k] for k in ("name", "kind", "target", "source", "function", "params", "launch", "facts")}
        return KernelArtifact(**plain, **layouts, sizes=tuple(data["sizes"]))
