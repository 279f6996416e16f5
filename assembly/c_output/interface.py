"""What a C program calls: the names of tensors and sizes, and where each result lies, the same for every target and bucket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...codegen.artifact import Layout
from ...errors import SourceLine, UnsupportedProgram
from ...runtime.package.devices import archs
from ...runtime.package.manifest import Package
from ...runtime.package.signature import ConstantLeaf, TensorLeaf
from ...runtime.package.values import expression
from .constants import Constants
from .memory import Builder, Number, Program, Result
from .names import checked_prefix, identifier, identifiers
from .samples import samples

LineOf = Callable[[str, int, int], SourceLine | None]  # of a target's bucket's step
KINDS = ("cuda", "hip")


@dataclass(frozen=True)
class Argument:
    """A tensor that the caller passes.  used: whether any kernel reads it, or a call changes it."""

    leaf: int
    path: str
    name: str
    layout: Layout
    changed: bool
    used: bool


@dataclass(frozen=True)
class Target:
    name: str
    kind: str
    archs: tuple[str, ...]
    programs: tuple[Program, ...]


class Interface:
    """prefix: of all names.  outputs: names of the memory for results, output_bytes: of each.  results: of each tensor among
    the results where it lies, by its path.  constants: the block of them."""

    def __init__(
        self,
        package: Package,
        prefix: str | None,
        example: Mapping[str, int] | None = None,
        line_of: LineOf | None = None,
    ) -> None:
        """Raises UnsupportedProgram for a package that has no form in C."""
        signature = package.signature
        self.package = package
        self.prefix = checked_prefix(prefix if prefix is not None else f"fusecade_{identifier(signature.name)}")
        self.skipped = [t.name for t in package.targets.values() if t.kind not in KINDS]
        found = [t for t in package.targets.values() if t.kind in KINDS]
        if not found:
            raise UnsupportedProgram(
                f"the package has kernels for {', '.join(package.targets)} alone, and these are programs of torch: "
                "they have no form in C",
                next_step="export with a GPU among the targets: targets=['sm_90']",
            )
        self.samples = samples(package, example)
        constants = Constants()
        builder = Builder(package, self.samples, constants)
        self.targets = []
        for target in found:
            programs = []
            for n, bucket in enumerate(target.buckets):
                line = (lambda step, t=target.name, n=n: line_of(t, n, step)) if line_of else (lambda step: None)
                programs.append(builder.program(bucket, line))
            self.targets.append(Target(target.name, target.kind, tuple(archs(package, target)), tuple(programs)))
        self.constants = constants.data
        self.sizes = dict(zip(signature.sizes, identifiers("size", signature.sizes), strict=True))
        first = self.targets[0].programs[0]
        for t in self.targets:
            for p in t.programs:
                self._check_alike(first, p)
        self.output_bytes, self.results = first.outputs, first.results
        self.arguments = self._arguments()
        self.result_paths = [x.path for x in signature.results if isinstance(x, TensorLeaf)]
        self.outputs = identifiers("out", [self._path_of(n) for n in range(len(self.output_bytes))])
        self.fixed = [(x.path, x.value) for x in signature.leaves if isinstance(x, ConstantLeaf)]

    def _arguments(self) -> list[Argument]:
        signature = self.package.signature
        used = {
            place.root.number
            for t in self.targets
            for p in t.programs
            for place in (*(i for c in p.calls for i in c.inputs), *(c.source for c in p.copies))
            if place.root.kind == "argument"
        }
        leaves = [(n, x) for n, x in enumerate(signature.leaves) if isinstance(x, TensorLeaf)]
        names = identifiers("in", [self._spoken(x.path) for _, x in leaves])
        return [
            Argument(n, x.path, name, x.layout, n in signature.mutates, n in used or n in signature.mutates)
            for (n, x), name in zip(leaves, names, strict=True)
        ]

    def _spoken(self, path: str) -> str:
        """An argument by the name of its parameter: paths number those that are passed by position."""
        first, dot, rest = path.partition(".")
        parameters = self.package.signature.parameters or ()
        if first.isdigit() and int(first) < len(parameters) and parameters[int(first)][1] != "var_positional":
            return f"{parameters[int(first)][0]}{dot}{rest}"
        return path

    def _path_of(self, output: int) -> str:
        return next(path for r, path in zip(self.results, self.result_paths, strict=True) if r.output == output)

    def _check_alike(self, one: Program, other: Program) -> None:
        """A caller does not know which of the package's programs runs: results lie where they lie, in all of them."""
        alike = len(one.results) == len(other.results) and len(one.outputs) == len(other.outputs)
        alike = alike and all(self._same(a, b) for a, b in zip(one.outputs, other.outputs, strict=True))
        alike = alike and all(self._same_result(a, b) for a, b in zip(one.results, other.results, strict=True))
        if not alike:
            raise UnsupportedProgram(
                "results of the function lie in memory otherwise in one of the package's targets or buckets than in another",
                next_step="export it for one target at a time, or call `.contiguous()` on the results",
            )

    def _same_result(self, a: Result, b: Result) -> bool:
        if (a.output, a.argument) != (b.output, b.argument) or len(a.layout.strides) != len(b.layout.strides):
            return False
        sides = zip((*a.layout.strides, a.offset), (*b.layout.strides, b.offset), strict=True)
        return all(self._same(x, y) for x, y in sides)

    def _same(self, a: Number, b: Number) -> bool:
        names = self.package.signature.sizes
        return a == b or all(
            expression((a, b), names, "")(s)[0] == expression((a, b), names, "")(s)[1] for s in self.samples
        )
