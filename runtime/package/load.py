"""`fusecade.load`: a packaged function, to be called like the one that was exported; nothing is compiled.

attend = fusecade.load("attend.fcade")
out = attend(q, k, v)
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.compiler import is_compiling

from ...codegen.artifact import KernelArtifact
from ...errors import InvalidArgument, InvalidPackage, UnsupportedProgram
from .. import cpu
from ..loaded import Launch, Stages
from ..loaded import load as load_artifact
from . import operator
from .devices import default_device, describe, fitting, nearest
from .direct import Direct, direct_of
from .forms import Builder
from .gpu import Launcher, driver_of
from .manifest import Bucket, Package, TargetEntry
from .signature import Checks, ConstantLeaf, TensorLeaf
from .steps import Program
from .tile_text import TRITON, check, load_function
from .values import dtype_of, expression

FALLBACKS = ("error", "compile")


def load(path: str | Path, *, digest: str | None = None, fallback: str = "error") -> LoadedFunction:
    """The function of a package.  It runs where its tensors are, with the kernels for that device.

    digest: what the package has to be, as `fusecade.export` and `fusecade inspect` print it.  fallback: "error" raises
    where the package has nothing for a device; "compile" compiles the packaged source for it, with Triton, in this process.

    Raises InvalidPackage for a file that is no package, was changed, or has another digest.
    """
    if fallback not in FALLBACKS:
        raise InvalidArgument.choice("fallback", fallback, FALLBACKS)
    package = Package.open(path)
    if digest is not None and digest != package.digest:
        raise InvalidPackage(
            f"{path} has the digest {package.digest}, and {digest} was asked for",
            next_step="get the package that belongs to the digest; `fusecade inspect` shows that of a file",
        )
    return LoadedFunction(package, str(path), fallback)


class LoadedFunction:
    """A packaged function.  It takes what the exported one takes, and gives what that gives, without gradients.

    Arguments of other shapes, dtypes or number raise UnsupportedProgram before anything is launched; tensors of other
    strides are copied.  The device decides which of the package's targets runs; sizes decide between its buckets.
    """

    def __init__(self, package: Package, path: str, fallback: str = "error") -> None:
        self.package, self.path, self.fallback = package, path, fallback
        self.__name__ = package.signature.name
        self._signature = package.signature
        self._checks = Checks(package.signature)
        signature = self._signature
        self._build = Builder(signature.result)
        self._one = signature.result == "*" and isinstance(signature.results[0], TensorLeaf)
        self._plain = self._one and not signature.mutates
        self._tensors = sum(isinstance(x, TensorLeaf) for x in self._signature.results)
        self._directs: dict[Any, Direct] = {}  # by device, the shortest way there is
        self._places: dict[torch.device, _Place] = {}
        self._making = threading.Lock()
        for target in package.targets.values():  # what is in it is looked at once, not when it is first needed
            if target.kind == "cpu":
                self._place(torch.device("cpu"))
        self._key = operator.register(f"{package.digest}.{fallback}", self)

    def __repr__(self) -> str:
        targets = ", ".join(self.package.targets)
        return f"<fusecade.LoadedFunction {self.__name__} for {targets}: {self.path}>"

    @property
    def digest(self) -> str:
        """What says that this is the very package: `load` takes it."""
        return self.package.digest

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return self._traced(args, kwargs)
        if args and not kwargs and (direct := self._directs.get(getattr(args[0], "device", None))) is not None:
            if (result := direct(args)) is not None:
                return result
        tensors, leaves, sizes, device = self._checks.check(args, kwargs)
        found = self.run(tensors, sizes, device)
        return found[0] if self._plain else self._give(found, leaves)

    def takes(self, *args: Any, **kwargs: Any) -> bool:
        """Whether these arguments are such as it was compiled for.  Nothing is run."""
        try:
            self._checks.check(args, kwargs)
        except UnsupportedProgram:
            return False
        return True

    def run(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int], device: torch.device | None) -> list[Any]:
        """The results that are tensors, then the new values of arguments that change; nothing is checked."""
        if device is None:
            device = default_device(self.package)
        place = self._places.get(device) or self._place(device)
        # No `no_grad`, which takes its time: that no tensor needs a gradient is checked.
        return place.program(sizes)([*place.constants, *tensors], sizes)

    def _give(self, found: Sequence[Any], leaves: Sequence[Any]) -> Any:
        for position, value in zip(self._signature.mutates, found[self._tensors :], strict=True):
            leaves[position].copy_(value)
        if self._one:
            return found[0]
        tensors = iter(found)
        every = [x.value if isinstance(x, ConstantLeaf) else next(tensors) for x in self._signature.results]
        return self._build(iter(every))

    def _traced(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Inside of torch.compile: one operator, which other compilers take as it stands."""
        leaves = self._checks.flat(args, kwargs)
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        return self._give(torch.ops.fusecade.package(self._key, tensors), leaves)

    def _place(self, device: torch.device) -> _Place:
        with self._making:
            if device not in self._places:
                place = self._places[device] = _Place(self.package, device, self.fallback, self.path)
                if self._plain and (direct := place.direct(self._checks)) is not None:
                    self._directs[device] = direct
            return self._places[device]


class _Place:
    """A package on one device: its constants, and the program of each bucket."""

    def __init__(self, package: Package, device: torch.device, fallback: str, path: str) -> None:
        self._package, self._path = package, path
        self._device = device
        kind, arch = describe(device)
        found = fitting(package, kind, arch)
        self._compiles = False
        self._folder: TemporaryDirectory[str] | None = None  # of sources that Triton compiles
        if found is None and fallback == "compile":
            found, self._compiles = _to_compile(package, kind, arch), True
        if found is None:
            have = ", ".join(package.targets)
            what = "the CPU" if kind == "cpu" else f"{device} ({arch or kind})"
            raise InvalidArgument(
                f"the package {path} has kernels for {have}, and none for {what}",
                next_step=f"export it with a target for {what} in `targets`; or load it with fallback='compile', which "
                "compiles the packaged source of a GPU's kernels with Triton",
            )
        self.target = found
        self.constants = [constant(package, n, device) for n in range(len(package.constants))]
        names = package.signature.sizes
        inputs = [c.layout for c in package.constants]
        inputs += [x.layout for x in package.signature.leaves if isinstance(x, TensorLeaf)]
        launches = {}
        for name in dict.fromkeys(s.kernel for b in found.buckets for s in b.steps if s.kernel is not None):
            launches[name] = (package.kernels[name].artifact, self._launch(name))
        self._programs = [
            (_bound(bucket, names), Program(bucket, inputs, names, launches, device)) for bucket in found.buckets
        ]
        self._only = self._programs[0][1] if len(self._programs) == 1 else None

    def program(self, sizes: Sequence[int]) -> Program:
        """That of the first bucket that the sizes fit into; else the last, which is for the largest."""
        if self._only is not None:
            return self._only
        for bound, program in self._programs:
            if all(sizes[n] <= most for n, most in bound):
                return program
        return self._programs[-1][1]

    def direct(self, checks: Checks) -> Direct | None:
        """A shorter way to the results, where there is one."""
        if self.constants or not checks.alike or not any(program.short for _, program in self._programs):
            return None
        return direct_of(checks, lambda sizes: self.program(sizes).short, self._device)

    def _launch(self, name: str) -> Launch:
        kernel = self._package.kernels[name]
        if kernel.artifact.kind == "torch":
            launches = [self._cpu(k, m) for k, m in zip(kernel.artifact.kernels, kernel.sources, strict=True)]
        elif self._compiles:
            launches = [self._compiled(k, m) for k, m in zip(kernel.artifact.kernels, kernel.sources, strict=True)]
        else:
            driver = driver_of(self.target.kind)
            launches = [
                Launcher(driver, binary, self._package.data(binary.member), k)
                for k, binary in zip(kernel.artifact.kernels, kernel.binaries, strict=True)
            ]
        return Stages(kernel.artifact, launches) if kernel.artifact.stages else launches[0]

    def _cpu(self, artifact: KernelArtifact, member: str) -> Launch:
        function = load_function(artifact.source, artifact.function, f"{self._path}/{member}")
        return cpu.Launcher(function, artifact)

    def _compiled(self, artifact: KernelArtifact, member: str) -> Launch:
        """The source, checked as that of the CPU is, and then handed to Triton, which reads it from a file."""
        check(artifact.source, TRITON, f"{self._path}/{member}")
        self._folder = self._folder or TemporaryDirectory(prefix="fusecade-package-")
        return load_artifact(artifact, Path(self._folder.name, "kernels")).launch


def constant(package: Package, number: int, device: torch.device) -> torch.Tensor:
    """A tensor that the package holds; one that stays on the CPU is made there.  Raises InvalidPackage."""
    c = package.constants[number]
    shape, strides = expression((c.layout.shape, c.layout.strides), (), "constant")(())
    data = bytearray(package.data(c.member))
    dtype = dtype_of(c.layout.dtype)
    values = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    try:
        values = values.view(shape)
        for n, stride in enumerate(strides):  # what is expanded is there once
            values = values.narrow(n, 0, 1) if stride == 0 and shape[n] > 1 else values
        # Made where it goes: a copy to another device may come in other strides.
        place = torch.device("cpu") if c.device == "cpu" else device
        return torch.empty_strided(values.shape, strides, dtype=dtype, device=place).copy_(values).expand(shape)
    except (RuntimeError, TypeError) as error:
        raise InvalidPackage(f"constant {number} of the package has strides that no tensor has: {error}") from error


def _to_compile(package: Package, kind: str, arch: str) -> TargetEntry | None:
    """What a device's own target would be made from; under Triton's interpreter the CPU runs any of them."""
    if kind != "cpu":
        return nearest(package, kind, arch)
    return next(iter(package.targets.values()), None)


def _bound(bucket: Bucket, names: tuple[str, ...]) -> list[tuple[int, int]]:
    return [(names.index(name), most) for name, most in bucket.upto.items()]
