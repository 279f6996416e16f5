"""What code generation hands over: a printed kernel with everything needed to run, report and package it.

A call may take several kernels, run one after the other: then it has *stages*, each a printed kernel, and *workspaces*
that lie between them, and no text of its own.

Plain data: it goes to JSON and back, so that caches and packages hold no code but the printed text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Of the code that is printed for given parameters.  Raise it when times of earlier kernels say nothing of those of now:
# tuned configurations are kept with it, and a configuration that is used wrongly is slow, never wrong.
GENERATOR = "1"


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
            `num_stages`, and `described`, the positions of buffers that descriptors need aligned; for torch, `programs`
            (Python expression: size of the flattened grid), and `shared_by`, how many cores are to share each operation,
            where they are not to take programs of their own.
    facts: what the report shows (passes, bytes, flops, footprint, predicted time, certificates, the tile program's text).
    stages: the kernels of a call that takes several, in order; it has no source, function and launch of its own then.
    workspaces: the memory between them, allocated for the call.
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
    stages: tuple[Stage, ...] = ()
    workspaces: tuple[Layout, ...] = ()

    @property
    def kernels(self) -> tuple[KernelArtifact, ...]:
        """The printed kernels: itself, or its stages."""
        return tuple(s.kernel for s in self.stages) or (self,)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides what runs (facts excluded)."""
        data = asdict(self)
        for part in (data, *(s["kernel"] for s in data["stages"])):
            part.pop("facts")
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> KernelArtifact:
        """Rebuild from `to_json`.  Raises KeyError or TypeError on data of another shape."""
        layouts: dict[str, Any] = {
            side: tuple(Layout(tuple(x["shape"]), tuple(x["strides"]), x["dtype"]) for x in data[side])
            for side in ("inputs", "outputs", "workspaces")
        }
        plain = {k: data[k] for k in ("name", "kind", "target", "source", "function", "params", "launch", "facts")}
        stages = tuple(
            Stage(KernelArtifact.from_json(s["kernel"]), tuple(s["reads"]), tuple(s["writes"])) for s in data["stages"]
        )
        return KernelArtifact(**plain, **layouts, sizes=tuple(data["sizes"]), stages=stages)


@dataclass(frozen=True)
class Stage:
    """One kernel of a call.

    reads, writes: which tensors it is given, in the order of its arguments: positions among the call's inputs, its
    workspaces and its outputs, counted through.
    """

    kernel: KernelArtifact
    reads: tuple[int, ...]
    writes: tuple[int, ...]


def in_stages(
    name: str, kernels: Sequence[KernelArtifact], reads: Sequence[Sequence[int]], facts: dict[str, Any], of: int
) -> KernelArtifact:
    """A call of several kernels: all that one writes is read by the next, behind inputs of the call.

    reads: which inputs of the call each reads.  of: the kernel whose parameters are those of the call.
    """
    inputs: dict[int, Layout] = {}
    for kernel, places in zip(kernels, reads, strict=True):
        inputs |= dict(zip(places, kernel.inputs, strict=False))
    end = len(inputs)
    before: tuple[int, ...] = ()
    stages = []
    for kernel, places in zip(kernels, reads, strict=True):
        written = tuple(range(end, end + len(kernel.outputs)))
        stages.append(Stage(kernel, (*places, *before), written))
        end, before = end + len(written), written
    return KernelArtifact(
        name=name,
        kind=kernels[0].kind,
        target=kernels[0].target,
        source="",
        function="",
        inputs=tuple(inputs[n] for n in range(len(inputs))),
        outputs=kernels[-1].outputs,
        sizes=tuple(sorted({n for k in kernels for n in k.sizes})),
        params=kernels[of].params,
        facts=facts,
        stages=tuple(stages),
        workspaces=tuple(layout for k in kernels[:-1] for layout in k.outputs),
    )
