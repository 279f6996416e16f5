"""A printed kernel as something to call: its source in a file, its outputs allocated, its grid run.

kernel = load(artifact, folder)
(out,) = kernel(q, k, v)                     # allocates what it returns
(out,) = kernel(x, sizes={"n": 4096})        # sizes that no input has as a dimension
"""

from __future__ import annotations

import linecache
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..codegen.artifact import KernelArtifact, Layout
from ..errors import CacheWarning, InternalCompilerError, InvalidArgument, UserError
from . import cpu, triton_launch
from .expressions import function_of
from .files import private_folder, write_kept

DTYPES: dict[str, torch.dtype] = {
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
    "i1": torch.bool, "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64, "ui8": torch.uint8,
}  # fmt: skip


def load(artifact: KernelArtifact, folder: Path, given: Sequence[Layout] | None = None) -> LoadedKernel:
    """Write the kernel's source under `folder` and load it from there.

    given: how the inputs come, where that is not how the kernel reads them: the same elements in other dimensions.
    Raises InternalCompilerError when the source does not run, or the artifact is not one that this version knows.
    """
    if artifact.stages:
        loaded = [load(stage.kernel, folder) for stage in artifact.stages]
        return LoadedKernel(artifact, Stages(artifact, [k.launch for k in loaded]), loaded[0].path, given)
    path = write_source(artifact, folder)
    try:
        function = getattr(_module(artifact, path), artifact.function)
        return LoadedKernel(artifact, _launcher(function, artifact), path, given)
    except (InternalCompilerError, MemoryError):
        raise
    except Exception as error:
        raise InternalCompilerError(
            f"kernel {artifact.name} for {artifact.target} does not load: {type(error).__name__}: {error}",
            stage="emit", dump=path,
        ) from error  # fmt: skip


def write_source(artifact: KernelArtifact, folder: Path) -> Path:
    """The file that holds the kernel's source: all of it or nothing, whoever else writes or deletes it at the same time.

    Where it cannot be written there is one warning: what runs is the artifact's text.  Raises UserError for a folder that
    others can open.
    """
    path = folder / f"{file_name(artifact.name)}_{artifact.fingerprint[:12]}.py"
    text = artifact.source.encode()
    try:
        if _contents(path) != text:
            write_kept(path, text)
        else:
            private_folder(folder)
    except OSError as error:
        _warn_unwritten(folder, error.strerror)
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        _warn_unwritten(folder, error.message)
    return path


def _contents(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@cache
def _warn_unwritten(folder: Path, why: str | None) -> None:
    what = f"the sources of kernels cannot be written to {folder} ({why})"
    warnings.warn(CacheWarning(what, folder), stacklevel=5)


def file_name(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)[:100]


def _module(artifact: KernelArtifact, path: Path) -> types.ModuleType:
    """The source as a module of that file.

    What runs is the artifact's text, not what the file holds by now; tracebacks and `triton.jit`, which read the text
    back through `linecache`, are given the same.
    """
    name = f"fusecade_generated.{path.stem}"
    linecache.cache[str(path)] = (len(artifact.source), None, artifact.source.splitlines(keepends=True), str(path))
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(artifact.source, str(path), "exec"), module.__dict__)
    return module


Launch = Callable[[Sequence[torch.Tensor], Sequence[int]], None]  # on inputs, then outputs, and sizes


def _launcher(function: Callable[..., Any], artifact: KernelArtifact) -> Launch:
    if artifact.kind == "torch":
        return cpu.Launcher(function, artifact)
    if artifact.kind == "triton":
        return triton_launch.Launcher(function, artifact)
    raise ValueError(f"{artifact.kind!r} is no kind of kernel")


class Stages:
    """Launches the kernels of a call one after the other, with workspaces of that call between them.

    Nothing waits for the device: the launches are ordered by its stream, and so is what frees the workspaces.
    """

    def __init__(self, artifact: KernelArtifact, launches: Sequence[Launch]) -> None:
        self.launches = list(launches)
        self._inputs = len(artifact.inputs)
        self._workspaces = [Sized(x, artifact.sizes) for x in artifact.workspaces]
        place = {name: n for n, name in enumerate(artifact.sizes)}
        self._steps = [
            (launch, (*stage.reads, *stage.writes), [place[name] for name in stage.kernel.sizes])
            for launch, stage in zip(launches, artifact.stages, strict=True)
        ]

    def __call__(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> None:
        device = tensors[-1].device
        between = [layout.empty(sizes, device) for layout in self._workspaces]
        given = [*tensors[: self._inputs], *between, *tensors[self._inputs :]]
        for launch, used, named in self._steps:
            launch([given[n] for n in used], [sizes[n] for n in named])


class LoadedKernel:
    """One kernel call.  Called with its inputs, it returns its outputs, in tensors of their own."""

    def __init__(
        self, artifact: KernelArtifact, launch: Launch, path: Path, given: Sequence[Layout] | None = None
    ) -> None:
        self.artifact, self.launch, self.path = artifact, launch, path
        self.given = given = artifact.inputs if given is None else given
        self._inputs = [_Input(g, x, artifact.sizes) for g, x in zip(given, artifact.inputs, strict=True)]
        self._outputs = [Sized(x, artifact.sizes) for x in artifact.outputs]

    def __repr__(self) -> str:
        return f"<fusecade kernel {self.artifact.name} for {self.artifact.target}: {self.path}>"

    def __call__(
        self,
        *tensors: torch.Tensor,
        sizes: Mapping[str, int] | None = None,
        device: torch.device | str | None = None,
    ) -> list[torch.Tensor]:
        """Run the kernel.

        sizes: values of `artifact.sizes`; those that are a dimension of an input may be left out.
        device: where the outputs go when there is no input to tell.
        Raises InvalidArgument for tensors of another number, shape or dtype.  Other strides are copied, once.
        """
        values = self._sizes(tensors, dict(sizes or {}))
        self.check(tensors, values)
        return self.run(tensors, values, device)

    def run(
        self, tensors: Sequence[torch.Tensor], sizes: Sequence[int], device: torch.device | str | None = None
    ) -> list[torch.Tensor]:
        """The same without the checks: `sizes` in the order of `artifact.sizes`."""
        place = device_of(tensors) or torch.device(device or self._device_type)
        inputs = [layout.fit(t, sizes, place) for layout, t in zip(self._inputs, tensors, strict=True)]
        outputs = [layout.empty(sizes, place) for layout in self._outputs]
        if any(t.numel() for t in outputs):
            self.launch([*inputs, *outputs], sizes)
        return outputs

    def outputs_like(self, sizes: Sequence[Any], device: torch.device) -> list[torch.Tensor]:
        """Empty outputs for sizes that may be symbolic."""
        return [layout.empty(sizes, device) for layout in self._outputs]

    def fit_outputs(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        """Results that were computed some other way, in the layouts of this kernel's outputs."""
        return [layout.fit(t, sizes, t.device) for layout, t in zip(self._outputs, tensors, strict=True)]

    @property
    def _device_type(self) -> str:
        return "cpu" if self.artifact.kind == "torch" else "cuda"

    def _sizes(self, tensors: Sequence[torch.Tensor], given: dict[str, int]) -> list[int]:
        if unknown := set(given) - set(self.artifact.sizes):
            raise InvalidArgument.choice(
                f"a size of kernel {self.artifact.name}", sorted(unknown)[0], self.artifact.sizes
            )
        for layout, tensor in zip(self.artifact.inputs, tensors, strict=False):
            for dim, size in zip(layout.shape, tensor.shape, strict=False):
                if isinstance(dim, str) and dim in self.artifact.sizes:
                    given.setdefault(dim, size)
        if missing := [name for name in self.artifact.sizes if name not in given]:
            raise InvalidArgument(
                f"kernel {self.artifact.name} needs the size {missing[0]}, which is no dimension of its inputs",
                next_step=f"pass it: sizes={{{missing[0]!r}: ...}}",
            )
        return [given[name] for name in self.artifact.sizes]

    def check(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> None:
        """Raises InvalidArgument for tensors of another number, shape or dtype than the kernel was compiled for."""
        name = self.artifact.name
        if len(tensors) != len(self._inputs):
            raise InvalidArgument(
                f"kernel {name} takes {len(self._inputs)} tensors, and was given {len(tensors)}",
                next_step="pass the tensors that `artifact.inputs` lists, in that order",
            )
        for n, (layout, tensor) in enumerate(zip(self._inputs, tensors, strict=True)):
            shape, _ = layout.given.of(sizes)
            if tensor.dtype != layout.given.dtype or tuple(tensor.shape) != shape:
                raise InvalidArgument(
                    f"input {n} of kernel {name} is {tensor.dtype} {list(tensor.shape)}, and was compiled for "
                    f"{layout.given.dtype} {list(shape)}",
                    next_step="convert the tensor, or compile for this shape and dtype",
                )


def device_of(tensors: Sequence[torch.Tensor]) -> torch.device | None:
    """Where a kernel runs: with its tensors; a number that PyTorch keeps on the CPU says nothing."""
    if not tensors:
        return None
    return next((t.device for t in tensors if t.dim()), tensors[0].device)


class Sized:
    """A layout as a function of the sizes."""

    def __init__(self, layout: Layout, names: tuple[str, ...]) -> None:
        if layout.dtype not in DTYPES:
            raise ValueError(f"{layout.dtype!r} is no dtype that a kernel can have")
        self.dtype = DTYPES[layout.dtype]
        self.of = function_of((layout.shape, layout.strides), names)

    def empty(self, sizes: Sequence[Any], device: torch.device) -> torch.Tensor:
        shape, strides = self.of(sizes)
        return torch.empty_strided(shape, strides, dtype=self.dtype, device=device)

    def fit(self, tensor: torch.Tensor, sizes: Sequence[int], device: torch.device) -> torch.Tensor:
        """The tensor in this layout: itself, as good as always.  Raises ValueError for another shape."""
        shape, strides = self.of(sizes)
        if tensor.device != device:
            tensor = tensor.to(device)
        if tensor.shape != shape:
            raise ValueError(f"a tensor of shape {list(tensor.shape)} where {list(shape)} was compiled for")
        if tensor.stride() == strides:
            return tensor
        if not tensor.numel() or all(n == 1 or a == b for n, a, b in zip(shape, tensor.stride(), strides, strict=True)):
            return tensor.as_strided(shape, strides)  # the stride of a dimension of size 1 means nothing
        return torch.empty_strided(shape, strides, dtype=self.dtype, device=device).copy_(tensor)


class _Input:
    """A tensor as a graph has it, in the dimensions in which the kernel reads it."""

    def __init__(self, given: Layout, read: Layout, names: tuple[str, ...]) -> None:
        self.given, self.read = Sized(given, names), Sized(read, names)
        self.same = given == read

    def fit(self, tensor: torch.Tensor, sizes: Sequence[int], device: torch.device) -> torch.Tensor:
        fitted = self.given.fit(tensor, sizes, device)
        return fitted if self.same else fitted.as_strided(*self.read.of(sizes))
