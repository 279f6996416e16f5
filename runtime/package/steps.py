"""The steps of a packaged program, run in their order on one device: kernels, and PyTorch's operators between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd import profiler

from ...codegen.artifact import KernelArtifact, Layout
from ...errors import FusecadeError, InvalidPackage, PackagedKernelFailed, UnsupportedProgram
from ..loaded import Launch, Sized
from .direct import Short
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
        # Values that come in the strides that the package says: what it holds, arguments, and what kernels write.
        exact = set(range(len(inputs)))
        self.results = bucket.results
        self.steps: list[tuple[Run, tuple[int, ...]]] = []
        dying = _last_uses(bucket, len(inputs))
        for n, step in enumerate(bucket.steps):
            where = f"step {n}"
            if step.kernel is not None:
                run: Run = KernelStep(step, *launches[step.kernel], values, exact, names, device)
                exact |= set(range(len(values), len(values) + len(step.gives)))
            else:
                run = OperatorStep(step, len(values), names, device, where)
            self.steps.append((run, dying.get(n, ())))
            values += step.gives

        self.short = self._short(len(inputs))

    def _short(self, count: int) -> Short | None:
        """Its kernel, where it is one that takes the inputs as they are, in their order, and gives one result."""
        if len(self.steps) != 1 or not isinstance(step := self.steps[0][0], KernelStep) or self.results != (count,):
            return None
        return step.as_it_is(count)

    def __call__(self, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[Any]:
        if torch._C._is_any_autocast_enabled():  # of the caller: the program has its dtypes already
            with torch._C._DisableAutocast():
                return self._run(inputs, sizes)
        return self._run(inputs, sizes)

    def _run(self, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[Any]:
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
        exact: set[int],
        names: tuple[str, ...],
        device: torch.device,
    ) -> None:
        """exact: the values that need no look at their strides."""
        self.artifact, self.launch, self.device = artifact, launch, device
        self.title = f"fusecade::{step.title or artifact.name}"
        self._launch = self._seen(launch)
        self._sizes = expression(step.sizes, names, artifact.name)
        alike = set(artifact.sizes) <= set(names) and tuple(step.sizes) == artifact.sizes  # sizes go by the same names
        self._inputs = [
            _Input(n, values[n], read, names, artifact.sizes, n in exact, alike)
            for n, read in zip(step.inputs, artifact.inputs, strict=True)
        ]
        self._outputs = [_Output(x, artifact.sizes) for x in artifact.outputs]
        self._fixed = not names
        self._own: Sequence[int] | None = self._sizes(()) if self._fixed else None
        self._empty = self._fixed and all(0 in x.layout_of(())[0] for x in self._outputs)

    def __call__(self, values: list[Any], sizes: Sequence[int]) -> None:
        own, device = self._own if self._own is not None else self._sizes(sizes), self.device
        tensors = [x.fit(values[x.number], sizes, own, device) for x in self._inputs]
        if not self._fixed and any(not t.numel() for t in tensors):
            raise UnsupportedProgram(
                f"kernel {self.artifact.name} of the package is given a tensor without elements",
                next_step="export a package for these sizes",
            )
        outputs = [x.made(own, device) for x in self._outputs]
        if not (self._empty or (not self._fixed and not any(t.numel() for t in outputs))):
            self._launch([*tensors, *outputs], own)
        values += outputs

    def as_it_is(self, count: int) -> Short | None:
        """The kernel by itself, where it takes `count` inputs as they are and gives one result."""
        inputs = [x.number for x in self._inputs if x.same and x.exact]
        if not count or inputs != list(range(count)) or len(inputs) != len(self._inputs) or len(self._outputs) != 1:
            return None
        (output,) = self._outputs
        return Short(self._sizes, output.layout_of, output.dtype, self._bound)

    def _bound(self, own: Sequence[int]) -> Callable[[list[Any]], None]:
        """What launches it for these sizes."""
        bind = getattr(self.launch, "bound", None)  # what depends on sizes alone is done here, once
        return self._seen(bind(own) if bind is not None else lambda tensors: self.launch(tensors, own))

    def _seen(self, launch: Callable[..., None]) -> Callable[..., None]:
        """A launch that is a range in profiles, and whose errors name the kernel."""
        name, target, title = self.artifact.name, self.artifact.target, self.title

        def run(*args: Any) -> None:
            try:
                if profiler._is_profiler_enabled:
                    with profiler.record_function(title):
                        launch(*args)
                else:
                    launch(*args)
            except (FusecadeError, torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:
                raise PackagedKernelFailed(name, target, error) from error

        return run


class _Output:
    """What a kernel writes, allocated; of fixed sizes, in the fewest steps."""

    def __init__(self, layout: Layout, names: tuple[str, ...]) -> None:
        self.dtype, self._of = dtype_of(layout.dtype), expression((layout.shape, layout.strides), names, "a result")
        self.fixed = self._of(()) if all(isinstance(n, int) for n in (*layout.shape, *layout.strides)) else None

    def layout_of(self, sizes: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        return self.fixed or self._of(sizes)

    def made(self, sizes: Sequence[int], device: torch.device) -> torch.Tensor:
        shape, strides = self.layout_of(sizes)
        return torch.empty_strided(shape, strides, dtype=self.dtype, device=device)


class _Input:
    """A value of the program in the dimensions in which a kernel reads it."""

    def __init__(
        self,
        number: int,
        given: Layout,
        read: Layout,
        names: tuple[str, ...],
        own: tuple[str, ...],
        exact: bool,
        alike: bool,
    ) -> None:
        self.number, self.exact = number, exact
        self.given, self.of = Sized(given, names), expression((read.shape, read.strides), own, "an input")
        sizes = (*given.shape, *given.strides, *read.shape, *read.strides)
        self.fixed = self.of(()) if all(isinstance(n, int) for n in sizes) else None
        self.same = (alike and given == read) or (self.fixed is not None and _alike(self.given.of(()), self.fixed))

    def fit(self, tensor: torch.Tensor, sizes: Sequence[int], own: Sequence[int], device: torch.device) -> torch.Tensor:
        if self.same and self.exact and tensor.device == device:
            return tensor
        try:
            if not self.exact or tensor.device != device:
                tensor = self.given.fit(tensor, sizes, device)
            return tensor if self.same else tensor.as_strided(*(self.fixed or self.of(own)))
        except (ValueError, RuntimeError) as error:
            raise InvalidPackage(f"a tensor of the program is not as the package says: {error}") from error


def _alike(a: Any, b: Any) -> bool:
    """Whether two layouts are the same memory; the stride of a dimension of size 1 means nothing."""
    return a[0] == b[0] and all(n <= 1 or s == t for n, s, t in zip(a[0], a[1], b[1], strict=True))
