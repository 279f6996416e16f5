"""The process in which candidates run: it loads one, checks it, and times it in turns with the default.

    python -m fusecade.assembly.tuning_worker       # requests and answers are lines of JSON (autotune/workers.py)

A request: {"candidate": artifact, "reference": artifact, "program": text or null, "places": [{"ranks": [names], "access":
[index expressions]}], "sizes": {...}, "device": "cpu", "threads": 2, "seed": 0, "cache_bytes": 67108864, "timing": {...},
"folder": where sources go}.  The answer is a comparison; without a candidate, nothing.

What a candidate has to give is what its program gives in float64, run by the reference interpreter, where that is small
enough ("program"); else what the default gives, which is the same program in other tiles.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..autotune.timing import Comparison, Timed, Timer, TimingOptions, compare, wall
from ..autotune.worker_side import Failed, serve
from ..codegen.artifact import KernelArtifact, Layout
from ..ir import symbols
from ..ir.interpret.access import index_value, symbol_values
from ..ir.interpret.programs import run_program
from ..ir.text import parse_module
from ..runtime.cache import read_artifact
from ..runtime.expressions import function_of
from ..runtime.loaded import DTYPES, LoadedKernel, load

# What may separate a result from the right one, in parts of the largest result: rounding of operands and sums.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 8e-3, torch.bfloat16: 6e-2}
TIES = (
    1e-3  # the part of integer results that may differ where they follow from rounded numbers: ties are broken anyhow
)
MOST_BYTES = 1 << 30  # of inputs that rotate
SETS = 3


class Case:
    """A kernel's inputs, several sets of them, and what it is to give for the first.

    All are made from a seed: normal numbers, or where these have no result (a root, a logarithm) positive ones; integers
    are valid indices of every rank.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.reference = _loaded(request["reference"], request["folder"])
        artifact = self.reference.artifact
        self.sizes = {name: int(request["sizes"][name]) for name in artifact.sizes}
        self.device = torch.device(request["device"])
        layouts = [_shape(layout, artifact, self.sizes) for layout in artifact.inputs]
        least = min((n for shape, _ in layouts for n in shape if n > 1), default=1)
        one = sum(
            _elements(*layout) * DTYPES[x.dtype].itemsize for layout, x in zip(layouts, artifact.inputs, strict=True)
        )
        count = max(1, min(SETS, MOST_BYTES // max(one, 1)))

        def made(positive: bool) -> list[list[torch.Tensor]]:
            generator = torch.Generator().manual_seed(int(request["seed"]))
            return [
                [
                    _tensor(layout, DTYPES[x.dtype], least, positive, generator).to(self.device)
                    for layout, x in zip(layouts, artifact.inputs, strict=True)
                ]
                for _ in range(count)
            ]

        self.sets = made(False)
        self.wanted = self._right(request["program"], request["places"])
        if any(t.is_floating_point() and t.isnan().float().mean() > 0.5 for t in self.wanted):
            self.sets = made(True)
            self.wanted = self._right(request["program"], request["places"])

    def _right(self, program: str | None, places: Sequence[Mapping[str, Any]]) -> list[torch.Tensor]:
        given = self.sets[0]
        if program is None:
            return [t.cpu() for t in self.reference(*given, sizes=self.sizes, device=self.device)]
        parsed: Any = parse_module(program).body.block.first_op
        results = run_program(parsed, [t.cpu() for t in given], self.sizes)
        shape_of = function_of(tuple(x.shape for x in self.reference.artifact.outputs), self.reference.artifact.sizes)
        shapes = shape_of([self.sizes[n] for n in self.reference.artifact.sizes])
        return [placed(r, p, shape, self.sizes) for r, p, shape in zip(results, places, shapes, strict=True)]

    def check(self, kernel: LoadedKernel) -> None:
        """Raises Failed where a kernel gives something else."""
        exact = not any(t.is_floating_point() for t in self.sets[0])
        results = kernel(*self.sets[0], sizes=self.sizes, device=self.device)
        for n, (result, wanted) in enumerate(zip(results, self.wanted, strict=True)):
            if (why := against(result.cpu(), wanted, exact)) is not None:
                raise Failed("wrong", f"result {n}: {why}")


def against(result: torch.Tensor, wanted: torch.Tensor, exact: bool) -> str | None:
    """Why a result is wrong, None where it is right."""
    if result.shape != wanted.shape:
        return f"shape {list(result.shape)} where {list(wanted.shape)} is right"
    if not result.numel():
        return None
    if not result.is_floating_point():
        part = float((result.to(wanted.dtype) != wanted).double().mean())
        return None if part <= (0.0 if exact else TIES) else f"{100 * part:.3g} % of it differ"
    given, right = result.double(), wanted.double()
    finite = right.isfinite()
    if not torch.equal(given[~finite], right[~finite]) and not _same(given[~finite], right[~finite]):
        return "infinite or not a number at other places"
    if not bool(given[finite].isfinite().all()):
        return "infinite or not a number where the right result is finite"
    if not bool(finite.any()):
        return None
    scale = float(right[finite].abs().max())
    worst = float((given[finite] - right[finite]).abs().max())
    allowed = TOLERANCE[result.dtype] * max(scale, 1e-30)
    return None if worst <= allowed else f"off by {worst:.3g}, more than {allowed:.3g}"


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def placed(
    result: torch.Tensor, place: Mapping[str, Any], shape: Sequence[int], sizes: Mapping[str, int]
) -> torch.Tensor:
    """A result of a program as the kernel stores it: at `place["access"]` for each point of `place["ranks"]`.

    The order of dimensions may be another, heads may be merged, and there may be dimensions of length 1.
    """
    table = symbol_values({r: range(n) for r, n in zip(place["ranks"], result.shape, strict=True)}, sizes)
    at = tuple(index_value(symbols.from_text(text), table).over(place["ranks"]) for text in place["access"])
    stored = result.new_zeros(tuple(shape))
    if at:
        stored[at] = result
    else:
        stored.copy_(result)
    return stored


def _shape(
    layout: Layout, artifact: KernelArtifact, sizes: Mapping[str, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return function_of((layout.shape, layout.strides), artifact.sizes)([sizes[n] for n in artifact.sizes])


def _elements(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Of the memory behind a tensor."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def _tensor(
    layout: tuple[Sequence[int], Sequence[int]],
    dtype: torch.dtype,
    least: int,
    positive: bool,
    generator: torch.Generator,
) -> torch.Tensor:
    """least: integers are below it."""
    shape, strides = layout
    count = _elements(shape, strides)
    if dtype.is_floating_point:
        flat = torch.randn(count, generator=generator)
        flat = (flat.abs() + 0.1 if positive else flat).to(dtype)
    elif dtype == torch.bool:
        flat = torch.rand(count, generator=generator) < 0.9
    else:
        flat = torch.randint(0, max(1, min(least, 127)), (count,), generator=generator).to(dtype)
    return flat.as_strided(tuple(shape), tuple(strides))


_kernels: dict[str, LoadedKernel] = {}
_cases: dict[tuple[str, str], Case] = {}


def _loaded(data: Mapping[str, Any], folder: str) -> LoadedKernel:
    artifact = read_artifact(data)
    if artifact.fingerprint not in _kernels:
        _kernels[artifact.fingerprint] = load(artifact, Path(folder))
    return _kernels[artifact.fingerprint]


def _case(request: Mapping[str, Any]) -> Case:
    """One is kept: kernels are tuned one after the other."""
    if request["device"] == "cpu":
        torch.set_num_threads(int(request["threads"]))
    name = (read_artifact(request["reference"]).fingerprint, repr(sorted(request["sizes"].items())))
    if name not in _cases:
        _cases.clear()
        _cases[name] = Case(request)
    return _cases[name]


def timer_of(device: torch.device) -> Timer:
    """Of whole calls: by the clock on a CPU; by events around a call of an idle GPU, so that its launch counts."""
    if device.type == "cpu":
        return wall()

    def timer(call: Callable[[], None]) -> float:
        torch.accelerator.synchronize()
        begin, end = (torch.Event(device, enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    return timer


def timed(request: Mapping[str, Any]) -> Comparison:
    """Checks the candidate, and times it in turns with the reference.  Raises Failed."""
    case = _case(request)
    candidate = _loaded(request["candidate"], request["folder"])
    case.check(candidate)
    flushed = torch.empty(max(1, int(request["cache_bytes"]) // 4), dtype=torch.float32, device=case.device)

    def runs(kernel: LoadedKernel) -> Timed:
        sizes = [case.sizes[n] for n in kernel.artifact.sizes]

        def call(n: int) -> None:
            kernel.run(case.sets[n], sizes, case.device)

        return Timed(call, lambda: void(flushed.fill_(1.0)))

    limits = request["timing"]
    options = TimingOptions(
        inputs=len(case.sets), rounds=(8, int(limits["rounds"])), seconds=float(limits["seconds"]), warmups=1
    )
    return compare(runs(candidate), runs(case.reference), options, timer_of(case.device))


def void(_: object) -> None:
    """Of a call whose result is not wanted."""


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """A request without a candidate only has inputs and the right results made, so that no candidate has to wait for them."""
    if "candidate" not in request:
        _case(request)
        return {}
    return timed(request).to_json()


def main() -> int:
    return serve(handle)


__all__ = ["Case", "against", "handle", "main", "timed"]

if __name__ == "__main__":
    sys.exit(main())
