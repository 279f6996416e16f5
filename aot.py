"""`fusecade.export`: a function as one file, with kernels for several targets, to be run where no compiler is.

fusecade.export(attend, (q, k, v), "attend.fcade", targets=["cpu", "sm_80", "sm_90"])
attend = fusecade.load("attend.fcade");  out = attend(q, k, v)

fusecade.export(attend, (q, k, v), "attend", targets=["sm_90"], format="c")  # a folder: C source, without Python
fusecade.export_c("attend.fcade", "attend")  # the same, from a package
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .api import named_hints
from .assembly.binaries import Binaries
from .assembly.build import make_plan
from .assembly.c_output.write import write as write_c
from .assembly.package import Part, check_compiled, largest, pack
from .assembly.package_choices import Choices
from .assembly.package_inputs import package_inputs
from .assembly.package_steps import Steps
from .assembly.plan_cache import tuned_kernels
from .driver import Environment, Plan, tuned_for
from .errors import InvalidArgument, SourceLine, UnsupportedProgram
from .frontend.capture import Captured, callable_of, capture
from .ir.target import get_target
from .report import Report, report_of
from .runtime.files import usable_folder, write_whole
from .runtime.package.archive import MANIFEST, digest, read
from .runtime.package.manifest import Package

FORMATS = ("package", "c")
NO_CPU = "the kernels for the CPU are programs of torch, and have no form in C"


@dataclass(frozen=True)
class Exported:
    """What `export` wrote: a file, or a folder of C.

    digest: of the package, to be given to `fusecade.load`.  reports: by target, one a bucket.  tuned: by target, what the
    tuning cache said of the kernels.
    """

    path: Path
    digest: str
    reports: Mapping[str, tuple[Report, ...]]
    tuned: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)


def export(
    fn: Callable[..., Any],
    args: Sequence[Any],
    path: str | Path,
    *,
    kwargs: Mapping[str, Any] | None = None,
    targets: Sequence[str] = ("cpu",),
    dynamic: Mapping[Any, Mapping[int, str]] | None = None,
    buckets: Sequence[Mapping[str, int]] = (),
    keep: Sequence[str] = (),
    tune: str = "off",
    fuse: str = "by_cost",
    remainder: str | None = None,
    skip: str = "by_cost",
    lazy: str = "off",
    parameters: Mapping[str, int] | None = None,
    format: str = "package",
    prefix: str | None = None,
    example: Mapping[str, int] | None = None,
    on_progress: Callable[[str, int, int], object] = lambda target, done, total: None,
) -> Exported:
    """Write a package for calls with arguments like these (meta tensors will do); nothing runs, no GPU is needed.

    targets: "cpu", "sm_80", ... .  dynamic, tune, fuse, skip, lazy, parameters: as in `fusecade.compile`.  buckets: sizes by
    name, from small to large: kernels are chosen for each, and a call takes the first that its sizes do not exceed; what is
    larger than all takes the last.  keep: "ttir" and "assembly" (PTX, amdgcn) are kept besides the binaries.
    remainder: what becomes of operations that are in no fused kernel: they are left to PyTorch, "eager", or become a kernel
    each where they can, "kernels"; by default the latter for C, which has no PyTorch.
    format: "package" writes a file for `fusecade.load`, "c" a folder of C (`docs/aot.md`), where prefix is that of all names
    and example the dynamic sizes of the call in its main.c.

    Raises UnsupportedProgram for a function that a package, or C, cannot hold, with the line that stands in the way.
    """
    path = Path(path)
    fn, args, kwargs = callable_of(fn, args, kwargs)
    if format not in FORMATS:
        raise InvalidArgument.choice("format", format, FORMATS)
    if format == "package" and (prefix is not None or example is not None):
        raise InvalidArgument("prefix and example are for C", next_step="add format='c', or leave them out")
    if format == "c" and targets and all(get_target(target).kind == "cpu" for target in targets):
        raise UnsupportedProgram(NO_CPU, next_step="name a GPU: targets=['sm_90']")
    remainder = remainder or ("kernels" if format == "c" else "eager")
    choices = Choices(targets, dynamic, buckets, keep, tune, fuse, remainder, skip, lazy, parameters)
    environment = Environment.read()
    folder = usable_folder(environment.cache_dir)
    reports: dict[str, tuple[Report, ...]] = {}
    parts: dict[str, list[Part]] = {}
    with Binaries(folder) as binaries:
        planned = [
            _planned(fn, args, kwargs, choices, name, upto, environment, binaries)
            for name in choices.target_names
            for upto in choices.bounds
        ]
        for p in planned:  # their binaries were begun while others were planned
            target = p.plan.target.name
            compiled = binaries.of(p.plan, p.sizes, partial(on_progress, target))
            check_compiled(p.plan, compiled)
            report = report_of(p.plan, p.fallbacks, compiled)
            reports[target] = (*reports.get(target, ()), report)
            parts.setdefault(target, []).append(Part(p.plan, p.captured, p.upto, p.sizes, compiled, report.to_dict()))
    from . import __version__

    data = pack(fn, parts, tuple(keep), __version__)
    if format == "c":
        write_c(Package.of(data), path, prefix=prefix, example=example, line_of=_Lines(parts))
    else:
        write_whole(path, data)
    tuned = {name: tuple(about for part in made for about in tuned_kernels(part.plan)) for name, made in parts.items()}
    return Exported(path, digest(read(data)[MANIFEST]), reports, tuned)


@dataclass(frozen=True)
class _Planned:
    """One target for one bucket, whose binaries are under way."""

    plan: Plan
    captured: Captured
    upto: Mapping[str, int]
    sizes: Mapping[str, int]
    fallbacks: list[tuple[str, str]]


def _planned(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    choices: Choices,
    target: str,
    upto: Mapping[str, int],
    environment: Environment,
    binaries: Binaries,
) -> _Planned:
    captured = capture(fn, args, kwargs, choices.dynamic)
    chosen, hints = get_target(target), named_hints(captured) | dict(upto)
    fallbacks: list[tuple[str, str]] = []
    tuning = tuned_for(environment, chosen, choices.tune)
    # Without the plans of the cache: there one plan serves all likely sizes, whichever came first.
    plan = make_plan(captured.gm, chosen, choices.options(target), None, fallbacks, captured.size_names, hints, tuning)
    sizes = largest(sorted(choices.names), upto, hints)
    binaries.begin(plan, sizes)
    return _Planned(plan, captured, upto, sizes, fallbacks)


def export_c(
    package: str | Path, folder: str | Path, *, prefix: str | None = None, example: Mapping[str, int] | None = None
) -> Path:
    """Write the GPU kernels of a package as a folder of C, as `export(..., format="c")` does.

    Raises UnsupportedProgram for what has no form in C, InvalidPackage for a file that is no package.
    """
    write_c(Package.open(package), Path(folder), prefix=prefix, example=example)
    return Path(folder)


class _Lines:
    """The line of the program that a step of a package comes from."""

    def __init__(self, parts: Mapping[str, Sequence[Part]]) -> None:
        self._parts = parts

    def __call__(self, target: str, bucket: int, step: int) -> SourceLine | None:
        part = self._parts[target][bucket]
        return Steps(part.plan, part.captured).lines[step]


def inputs_of(fn: Callable[..., Any], args: Sequence[Any], choices: Choices) -> dict[str, str]:
    """Hashes of all that decides what `export` would write, by what it is, but for what was tuned: `still_tuned`.

    The function is captured, and nothing else is done.  Raises as `export` does, for what can be seen by then.
    """
    fn, args, kwargs = callable_of(fn, args, None)
    captured = capture(fn, args, kwargs, choices.dynamic)
    return package_inputs(fn, captured, named_hints(captured), choices.to_json())


def still_tuned(tuned: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Whether the tuning cache says of the kernels of a package what it said when that was written.  tuned: of `Exported`."""
    environment = Environment.read()
    for name, kernels in tuned.items():
        tuning = tuned_for(environment, get_target(name))
        if not all(tuning.current(about) for about in kernels):
            return False
    return True


__all__ = ["Exported", "export", "export_c"]
