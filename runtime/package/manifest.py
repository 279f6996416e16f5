"""The manifest of a package: what is in it, for whom, and the hash of every member.

    package = Package.open(path)                  # or Package.of(data)
    package.targets["sm_90"].buckets[0].steps;  package.kernels["sm_90/attend-3fa9"];  package.text("cpu/attend-3fa9.py")

Reading runs nothing: text is parsed, checked field by field, and kept.  Raises InvalidPackage for anything that
`fusecade.export` does not write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...codegen.artifact import KernelArtifact, Layout
from ...errors import InvalidPackage
from ...ir.target import KINDS
from ..cache import read_artifact
from . import archive
from .fields import LARGEST, Fields, parse
from .operators import find
from .signature import ConstantLeaf, Signature, TensorLeaf, is_size, read_layout
from .values import DEVICES, dtype_of, expression, is_constant, references

FORMAT = "fusecade package"
SCHEMA = 1  # raise it when a field changes meaning
MOST_THREADS = 1024
ARGUMENTS = ("pointer", "i32", "i64", "scratch")  # what a kernel's parameters are to the driver


@dataclass(frozen=True)
class Constant:
    """A tensor that the program holds: weights of a module, what it closes over."""

    layout: Layout
    device: str
    member: str


@dataclass(frozen=True)
class Binary:
    """What a GPU's driver is handed.

    symbol: of the kernel in it.  arch: what it was compiled for ("sm_90a").  parameters: in order, of ARGUMENTS; the buffers
    and sizes of the kernel, then scratch that the compiler asks for.  constants: those of the kernel's whole blocks.
    scratch_bytes: a program's part of the first scratch.
    """

    member: str
    symbol: str
    arch: str
    threads: int
    shared_bytes: int
    scratch_bytes: int
    parameters: tuple[str, ...]
    constants: Mapping[str, int]


@dataclass(frozen=True)
class Kernel:
    """A call's kernel, or the kernels of its stages, in order; binaries: of each, where the target is a GPU."""

    artifact: KernelArtifact
    sources: tuple[str, ...]
    binaries: tuple[Binary, ...]
    others: tuple[str, ...]  # members that are only looked at: assembly, Triton's IR


@dataclass(frozen=True)
class Step:
    """One kernel call (kernel, inputs, sizes), or one operator (operator, args, kwargs).

    gives: of each result its layout; "number" where it is one, None where it is nothing.  listed: whether the operator gives
    a list.  title: of a kernel call, what profilers show.
    """

    gives: tuple[Layout | str | None, ...]
    kernel: str | None = None
    inputs: tuple[int, ...] = ()
    sizes: tuple[int | str, ...] = ()
    operator: str = ""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    listed: bool = False
    title: str = ""


@dataclass(frozen=True)
class Bucket:
    """The program for sizes up to some; upto: {} stands for all sizes.

    results: for each tensor of the result the value; for each argument that changes, its new value behind them.
    """

    upto: Mapping[str, int]
    steps: tuple[Step, ...]
    results: tuple[int, ...]
    workspace: Mapping[str, Any]
    report: str


@dataclass(frozen=True)
class TargetEntry:
    name: str
    kind: str
    buckets: tuple[Bucket, ...]


class Package:
    """Everything in a package, checked."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self._members = members
        self.digest = archive.digest(members[archive.MANIFEST])
        top = Fields(parse(members[archive.MANIFEST], "manifest"), "manifest")
        if top.text("format") != FORMAT:
            raise InvalidPackage("its manifest is not that of a Fusecade package")
        schema = top.integer("schema")
        if schema != SCHEMA:
            raise InvalidPackage(
                f"it is written in schema {schema}, and this version reads {SCHEMA}",
                next_step="install the version of fusecade that wrote it, or export it again with this one",
            )
        self._check_members(top.table("members"))
        self.versions: dict[str, str] = {k: str(v)[:100] for k, v in top.table("versions").items()}
        self.signature = Signature.read(top.inside("signature"))
        self.constants = tuple(self._constant(f) for f in top.each("constants"))
        self._used = {archive.MANIFEST, *(c.member for c in self.constants)}
        kernels = top.table("kernels")
        self.kernels = {name: self._kernel(Fields(kernels[name], f"manifest.kernels.{name[:80]}")) for name in kernels}
        self.targets: dict[str, TargetEntry] = {}
        for entry in top.each("targets"):
            target = self._target(entry)
            if target.name in self.targets:
                raise InvalidPackage(f"its manifest has two targets {target.name[:80]}")
            self.targets[target.name] = target
        top.done()
        if unused := set(members) - self._used:
            raise InvalidPackage(f"nothing refers to its member {sorted(unused)[0]}")

    @staticmethod
    def open(path: str | Path) -> Package:
        return Package.of(archive.read_file(Path(path)), str(path))

    @staticmethod
    def of(data: bytes, name: str = "package") -> Package:
        try:
            return Package(archive.read(data))
        except InvalidPackage as error:
            raise InvalidPackage(f"{name} is no valid package: {error.message}", next_step=error.next_step) from error
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            # No check named it; what is written is read again when it is written, so it is not what was written.
            raise InvalidPackage(f"{name} is no valid package: {type(error).__name__}: {str(error)[:200]}") from error

    def data(self, member: str) -> bytes:
        return self._members[member]

    def text(self, member: str) -> str:
        """Raises InvalidPackage where it is no text."""
        try:
            return self._members[member].decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidPackage(f"its member {member} is no text") from error

    @property
    def members(self) -> dict[str, int]:
        """Bytes by name."""
        return {name: len(data) for name, data in sorted(self._members.items())}

    # --- reading ----------------------------------------------------------------------------------------------------

    def _check_members(self, listed: Mapping[str, Any]) -> None:
        others = {name: data for name, data in self._members.items() if name != archive.MANIFEST}
        if missing := sorted(set(listed) - set(others)):
            raise InvalidPackage(f"its member {missing[0][:200]} is missing")
        if unknown := sorted(set(others) - set(listed)):
            raise InvalidPackage(f"its manifest does not list the member {unknown[0]}")
        for name, data in others.items():
            fields = Fields(listed[name], f"manifest.members.{name}")
            size, wanted = fields.integer("bytes"), fields.text("sha256")
            fields.done()
            if size != len(data) or wanted != archive.digest(data):
                raise InvalidPackage(f"its member {name} is not what was written: its hash differs")

    def _member(self, fields: Fields, name: str) -> str:
        found = fields.text(name)
        if found not in self._members or found == archive.MANIFEST:
            raise fields.wrong(name, f"refers to {found[:80]!r}, which is no member")
        self._used.add(found)
        return found

    def _constant(self, fields: Fields) -> Constant:
        self._used = getattr(self, "_used", set())
        layout, device, member = read_layout(fields, ()), fields.choice("device", DEVICES), self._member(fields, "data")
        fields.done()
        size = dtype_of(layout.dtype).itemsize
        for n in layout.shape:
            size *= int(n)
        if size != len(self._members[member]):
            raise InvalidPackage(f"{fields.where} has {len(self._members[member])} bytes, and {size} are needed")
        return Constant(layout, device, member)

    def _kernel(self, fields: Fields) -> Kernel:
        sources = []

        def with_source(data: Any) -> Any:
            """The artifact's JSON with the text of each kernel in its place."""
            own = Fields(data, f"{fields.where}.artifact")
            if own.data.get("stages"):
                stages = [Fields(s, f"{own.where}.stages") for s in own.listing("stages", 100)]
                return {**own.data, "stages": [{**s.data, "kernel": with_source(s.take("kernel"))} for s in stages]}
            sources.append(self._member(own, "source"))
            return {**own.data, "source": self.text(sources[-1])}

        data, said = fields.take("artifact"), fields.text("fingerprint")
        try:
            artifact = read_artifact(with_source(data))
        except (ValueError, TypeError, RecursionError, ArithmeticError) as error:
            raise InvalidPackage(f"{fields.where}: {str(error)[:200]}") from error
        if artifact.fingerprint != said:
            raise InvalidPackage(f"{fields.where} is not the kernel that its fingerprint says")
        _check_artifact(artifact, fields.where)
        binaries = tuple(self._binary(f) for f in fields.each("binaries"))
        if len(binaries) != (0 if artifact.kind == "torch" else len(artifact.kernels)):
            raise InvalidPackage(f"{fields.where} has {len(binaries)} binaries for {len(artifact.kernels)} kernels")
        for binary, kernel in zip(binaries, artifact.kernels, strict=False):
            _check_binary(binary, kernel, fields.where)
        others = fields.texts("others")
        if unknown := [x for x in others if x not in self._members or x == archive.MANIFEST]:
            raise fields.wrong("others", f"refers to {unknown[0][:80]!r}, which is no member")
        self._used.update(others)
        fields.done()
        return Kernel(artifact, tuple(sources), binaries, others)

    def _binary(self, fields: Fields) -> Binary:
        constants = fields.table("constants")
        if not all(type(n) is int and 0 < n < 1 << 31 for n in constants.values()):
            raise fields.wrong("constants", "has something that is no number of lanes")
        parameters = fields.texts("parameters")
        if not set(parameters) <= set(ARGUMENTS) or len(parameters) > 1000:
            raise fields.wrong("parameters", "has something that no kernel is given")
        made = Binary(
            member=self._member(fields, "data"), symbol=fields.text("symbol"), arch=fields.text("arch", 40),
            threads=fields.integer("threads", 1, MOST_THREADS), shared_bytes=fields.integer("shared_bytes", 0, 1 << 24),
            scratch_bytes=fields.integer("scratch_bytes", 0, 1 << 30), parameters=parameters, constants=constants,
        )  # fmt: skip
        fields.done()
        return made

    def _target(self, fields: Fields) -> TargetEntry:
        name, kind = fields.text("name", 40), fields.choice("kind", KINDS)
        buckets = tuple(self._bucket(f, name) for f in fields.each("buckets"))
        fields.done()
        if not buckets:
            raise InvalidPackage(f"{fields.where} has no bucket")
        return TargetEntry(name, kind, buckets)

    def _bucket(self, fields: Fields, target: str) -> Bucket:
        names, upto = self.signature.sizes, fields.table("upto")
        if not set(upto) <= set(names) or not all(type(n) is int and 0 < n <= LARGEST for n in upto.values()):
            raise fields.wrong("upto", "is no table of sizes")
        inputs: list[Layout | str | None] = [c.layout for c in self.constants]
        inputs += [x.layout for x in self.signature.leaves if isinstance(x, TensorLeaf)]
        values, steps = inputs, []
        for f in fields.each("steps"):
            steps.append(self._step(f, values, names, target))
            values = [*values, *steps[-1].gives]
        results = fields.integers("results", 0, len(values))
        wanted = [x for x in self.signature.results if isinstance(x, TensorLeaf)]
        wanted += [x for n in self.signature.mutates if isinstance(x := self.signature.leaves[n], TensorLeaf)]
        if len(results) != len(wanted):
            raise fields.wrong("results", "has another number of tensors than the signature")
        for n, leaf in zip(results, wanted, strict=True):
            _check_same(values[n], leaf.layout, f"{fields.where}.results")
        report, workspace = self._member(fields, "report"), fields.table("workspace")
        fields.done()
        return Bucket(upto, tuple(steps), results, workspace, report)

    def _step(self, fields: Fields, values: list[Any], names: tuple[str, ...], target: str) -> Step:
        gives = tuple(_read_result(x, names, f"{fields.where}.gives") for x in fields.listing("gives", 1000))
        if "kernel" in fields.data:
            kernel, inputs = fields.text("kernel"), fields.integers("inputs", 0, len(values))
            sizes = tuple(fields.listing("sizes", 1000))
            title = fields.text("title", 200) if "title" in fields.data else ""
            fields.done()
            if not title.isprintable():
                raise fields.wrong("title", "has characters that cannot be printed")
            if kernel not in self.kernels or self.kernels[kernel].artifact.target != target:
                raise fields.wrong("kernel", f"is {kernel[:80]!r}, and there is none of that name for {target}")
            artifact = self.kernels[kernel].artifact
            if not all(is_size(n) for n in sizes):
                raise fields.wrong("sizes", "has something that is no size")
            expression(sizes, names, f"{fields.where}.sizes")
            counts = (len(inputs), len(sizes), len(gives))
            if counts != (len(artifact.inputs), len(artifact.sizes), len(artifact.outputs)):
                raise InvalidPackage(f"{fields.where} calls {kernel} with another number of tensors or sizes")
            for n, layout in zip(inputs, artifact.inputs, strict=True):
                _check_dtype(values[n], layout, fields.where)
            for given, layout in zip(gives, artifact.outputs, strict=True):
                _check_dtype(given, layout, fields.where)
            return Step(gives, kernel, inputs, sizes, title=title)
        name, args = fields.text("operator", 200), fields.listing("args", 1000)
        kwargs, listed = fields.table("kwargs"), fields.flag("listed")
        fields.done()
        try:
            find(name)
        except ValueError as error:
            raise InvalidPackage(f"{fields.where}: {error}") from error
        for n in references([args, *kwargs.values()]):
            if not 0 <= n < len(values):
                raise InvalidPackage(f"{fields.where} refers to value {n}, and there are {len(values)} by then")
        if not listed and len(gives) != 1:
            raise fields.wrong("gives", "has more than one result of an operator that gives one")
        return Step(gives, operator=name, args=tuple(args), kwargs=kwargs, listed=listed)


def _read_result(data: Any, names: tuple[str, ...], where: str) -> Layout | str | None:
    if data is None or data == "number":
        return data
    fields = Fields(data, where)
    layout = read_layout(fields, names)
    fields.done()
    return layout


def _check_same(value: Any, layout: Layout, where: str) -> None:
    """Strides follow from what runs; a caller relies on the shape and the dtype."""
    if not isinstance(value, Layout) or (value.shape, value.dtype) != (layout.shape, layout.dtype):
        raise InvalidPackage(f"{where} has a tensor of another shape or dtype than the signature says")


def _check_dtype(value: Any, layout: Layout, where: str) -> None:
    if not isinstance(value, Layout) or value.dtype != layout.dtype:
        raise InvalidPackage(f"{where} has a tensor of another dtype than its kernel")


def _check_artifact(artifact: KernelArtifact, where: str) -> None:
    for one in (artifact, *artifact.kernels):
        for layout in (*one.inputs, *one.outputs, *one.workspaces):
            if not all(is_size(n) for n in (*layout.shape, *layout.strides)):
                raise InvalidPackage(f"{where} has a layout that no tensor has")
    for kernel in artifact.kernels:
        if kernel.target != artifact.target or kernel.kind != artifact.kind:
            raise InvalidPackage(f"{where} has a stage of another target")
        if kernel.kind == "torch":
            continue
        launch = kernel.launch
        names = [*(str(n) for n in launch.get("constexprs", {})), *(str(n) for n in launch.get("whole", {}))]
        arguments = launch.get("arguments")
        signature = launch.get("signature")
        count = len(kernel.inputs) + len(kernel.outputs) + len(kernel.sizes)
        if not isinstance(arguments, list) or not isinstance(signature, dict) or len(arguments) != count:
            raise InvalidPackage(f"{where} has a launch without its arguments")
        if not all(isinstance(a, str) and isinstance(signature.get(a), str) and a not in names for a in arguments):
            raise InvalidPackage(f"{where} has an argument without a type")
        divisible = launch.get("divisible", [])
        if not isinstance(divisible, list) or not set(map(str, divisible)) <= set(arguments):
            raise InvalidPackage(f"{where} knows something of an argument that there is not")
        for name, pair in launch.get("whole", {}).items():
            if not isinstance(pair, list) or len(pair) != 2 or type(pair[1]) is not int:
                raise InvalidPackage(f"{where} has a block {str(name)[:80]!r} without its extent")
            if not is_size(pair[0]):
                raise InvalidPackage(f"{where} has a block {str(name)[:80]!r} without its extent")
            expression(pair[0], kernel.sizes, where)


def _check_binary(binary: Binary, kernel: KernelArtifact, where: str) -> None:
    """The parameters are those of the kernel, in its order, then scratch."""
    kinds = [kernel.launch["signature"][a] for a in kernel.launch["arguments"]]
    wanted = ["pointer" if kind.startswith("*") else kind for kind in kinds]
    own = [p for p in binary.parameters if p != "scratch"]
    if own != wanted or list(binary.parameters[: len(own)]) != own or len(binary.parameters) - len(own) > 2:
        raise InvalidPackage(f"{where} has a binary with other parameters than its kernel")
    if set(binary.constants) != set(kernel.launch.get("whole", {})):
        raise InvalidPackage(f"{where} has a binary for other blocks than its kernel's")


__all__ = ["ConstantLeaf", "Package", "TensorLeaf", "is_constant"]
