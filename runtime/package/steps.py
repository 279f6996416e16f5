"""The steps of a packaged program, run in their order on one device: kernels, and PyTorch's operators between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...codegen.artifact import KernelArtifact, Layout
from ...errors import FusecadeError, InvalidPackage, PackagedKernelFailed, UnsupportedProgram
from ..loaded import Launch, Sized
from .manifest import Bucket, Step
from .operators import find
from .values import dtype_of, expression, maker_of, references

Run = Callable[[list[Any], Sequence[int]], None]  # reads and appends values, given sizes


class Program:
    """One bucket on one device.  Called with all inputs (constants first) and sizes, it gives the results in order."""

    def __init__(
        self,
        bucket: Bucket,
        inputs: Sequence[Layout],
        names: tuple[str, ...],
        launches: Mapping[str, tuple[KernelArtifact, Launch]],
        device: torch.device,
    ) -> None:
        """launches: of each kernel, its artifact and what runs it."""
        values: list[Any] = list(inputs)
        self.results = bucket.results
        self.steps: list[tuple[Run, tuple[int, ...]]] = []
        dying = _last_uses(bucket, len(inputs))
        for n, step in enumerate(bucket.steps):
            where = f"step {n}"
            if step.kernel is not None:
                run: Run = KernelStep(step, *launches[step.kernel], values, names, device)
            else:
                run = OperatorStep(step, len(values), names, device, where)
            self.steps.append((run, dying.get(n, ())))
            values += step.gives

    def __call__(self, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[Any]:
        values: list[Any] = [*inputs]
        for run, dying in self.steps:
            run(values, sizes)
            for n in dying:
                values[n] = None
        return [values[n] for n in self.results]


def _last_uses(bucket: Bucket, inputs: int) -> dict[int, tuple[int, ...]]:
    """step -> the values that nobody needs behind it, so that their memory is free for what follows."""
    last: dict[int, int] = {}
    count = inputs
    for n, step in enumerate(bucket.steps):
        used = step.inputs if step.kernel is not None else references([list(step.args), *step.kwargs.values()])
        last.update(dict.fromkeys(range(count, count + len(step.gives)), n))
        last.update(dict.fromkeys(used, n))
        count += len(step.gives)
    found: dict[int, list[int]] = {}
    for value, n in last.items():
        if value >= inputs and value not in bucket.results:
            found.setdefault(n, []).append(value)
    return {n: tuple(values) for n, values in found.items()}


class OperatorStep:
    """An operator of PyTorch, by its name; its results are those that were declared, or it is an error."""

    def __init__(self, step: Step, known: int, names: tuple[str, ...], device: torch.device, where: str) -> None:
        self.name, self.function, self.listed = step.operator, find(step.operator), step.listed
        made = [maker_of(a, f"{where}.args", known, names, device) for a in step.args]
        self._args = [a if not fixed else None for fixed, a in made]
        self._fixed = [a if fixed else None for fixed, a in made]
        self._kwargs = {k: maker_of(a, f"{where}.{k}", known, names, device) for k, a in step.kwargs.items()}
        self._gives = [
            (dtype_of(x.dtype), expression(x.shape, names, where)) if isinstance(x, Layout) else x for x in step.gives
        ]

    def __call__(self, values: list[Any], sizes: Sequence[int]) -> None:
        args = [f if m is None else m(values, sizes) for m, f in zip(self._args, self._fixed, strict=True)]
        kwargs = {k: a if fixed else a(values, sizes) for k, (fixed, a) in self._kwargs.items()}
        result = self.function(*args, **kwargs)
        if not self.listed:
            result = (result,)
        elif not isinstance(result, tuple | list) or len(result) != len(self._gives):
            raise self._other("other results")
        for x, wanted in zip(result, self._gives, strict=True):
            if isinstance(wanted, tuple):
                if not isinstance(x, torch.Tensor):
                    raise self._other(type(x).__name__)
                dtype, shape = wanted
                if x.dtype is not dtype or x.shape != shape(sizes):
                    raise self._other(f"{x.dtype} {list(x.shape)}")
            elif wanted == "number" and (isinstance(x, torch.Tensor) or not isinstance(x, int | float)):
                raise self._other(type(x).__name__)
            values.append(x if wanted is not None else None)

    def _other(self, what: str) -> InvalidPackage:
        return InvalidPackage(
            f"{self.name} of this PyTorch ({torch.__version__}) gives {what}, which is not what the package says of it",
            next_step="export the package again with this version of PyTorch",
        )


class KernelStep:
    """A kernel call: inputs in the kernel's dimensions, outputs allocated, launched."""

    def __init__(
        self,
        step: Step,
        artifact: KernelArtifact,
        launch: Launch,
        values: Sequence[Any],
        names: tuple[str, ...],
        device: torch.device,
    ) -> None:
        self.artifact, self.launch, self.device = artifact, launch, device
        self._sizes = expression(step.sizes, names, artifact.name)
        self._inputs = [
            _Input(n, values[n], read, names, artifact.sizes)
            for n, read in zip(step.inputs, artifact.inputs, strict=True)
        ]
        self._outputs = [Sized(x, artifact.sizes) for x in artifact.outputs]

    def __call__(self, values: list[Any], sizes: Sequence[int]) -> None:
        own = self._sizes(sizes)
        device = self.device
        inputs = [x.fit(values[x.number], sizes, own, device) for x in self._inputs]
        if self._inputs and sizes and any(not t.numel() for t in inputs):
            raise UnsupportedProgram(
                f"kernel {self.artifact.name} of the package is given a tensor without elements",
                next_step="export a package for these sizes",
            )
        outputs = [x.empty(own, device) for x in self._outputs]
        if any(t.numel() for t in outputs):
            try:
                self.launch([*inputs, *outputs], own)
            except (FusecadeError, torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:
                raise PackagedKernelFailed(self.artifact.name, self.artifact.target, error) from error
        values += outputs


class _Input:
    """A value of the program in the dimensions in which a kernel reads it."""

    def __init__(self, number: int, given: Layout, read: Layout, names: tuple[str, ...], own: tuple[str, ...]) -> None:
        self.number = number
        self.given, self.read = Sized(given, names), Sized(read, own)
        self.same = given == read and all(isinstance(n, int) for n in (*given.shape, *given.strides))

    def fit(self, tensor: torch.Tensor, sizes: Sequence[int], own: Sequence[int], device: torch.device) -> torch.Tensor:
        try:
            fitted = self.given.fit(tensor, sizes, device)
            return fitted if self.same else fitted.as_strided(*self.read.of(own))
        except (ValueError, RuntimeError) as error:
            raise InvalidPackage(f"a tensor of the program is not as the package says: {error}") from error
