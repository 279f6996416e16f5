"""`fusecade.export`: a function as one file, with kernels for several targets, to be run where no compiler is.

fusecade.export(attend, (q, k, v), "attend.fcade", targets=["cpu", "sm_80", "sm_90"])
attend = fusecade.load("attend.fcade");  out = attend(q, k, v)

fusecade.export(attend, (q, k, v), "attend", targets=["sm_90"], format="c")  # a folder: C source, without Python
fusecade.export_c("attend.fcade", "attend")  # the same, from a package
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .api import named_hints
from .assembly.build import make_plan
from .assembly.c_output.write import write as write_c
from .assembly.devices import devices_of
from .assembly.package import EXTRAS, Part, binaries_for, largest, pack
from .assembly.package_inputs import package_inputs
from .assembly.package_steps import Steps
from .assembly.plan_cache import tuned_kernels
from .driver import Environment, Options, check_parameters, pick_target, tuned_for
from .errors import InvalidArgument, SourceLine, UnsupportedProgram
from .frontend.capture import callable_of, capture
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
    names = {name for sizes in (dynamic or {}).values() for name in sizes.values()}
    chosen_targets, bounds = _targets(targets, keep), bounds_of(buckets, names)
    environment = Environment.read()
    folder = usable_folder(environment.cache_dir)
    reports: dict[str, tuple[Report, ...]] = {}
    parts: dict[str, list[Part]] = {}
    for name in chosen_targets:
        options = Options(name, "eager", tune, fuse, skip=skip, lazy=lazy, parameters=parameters or {})
        found = []
        for upto in bounds:
            captured = capture(fn, args, kwargs, dynamic)
            chosen = pick_target(name, devices_of(captured.example))
            check_parameters(options, chosen)
            hints = named_hints(captured) | dict(upto)
            fallbacks: list[tuple[str, str]] = []
            tuning = tuned_for(environment, chosen, tune)
            # Without the plans of the cache: there one plan serves all likely sizes, whichever came first.
            plan = make_plan(captured.gm, chosen, options, None, fallbacks, captured.size_names, hints, tuning)
            compiled, sizes = {}, largest(sorted(names), upto, hints)
            if chosen.kind != "cpu":
                tick = lambda done, total, name=name: on_progress(name, done, total)  # noqa: E731
                compiled = binaries_for(plan, folder, sizes, tick)
            report = report_of(plan, fallbacks, compiled)
            found.append((Part(plan, captured, upto, sizes, compiled, report.to_dict()), report))
        parts[name], reports[name] = [part for part, _ in found], tuple(report for _, report in found)
    from . import __version__

    data = pack(fn, parts, tuple(keep), __version__)
    if format == "c":
        write_c(Package.of(data), path, prefix=prefix, example=example, line_of=_Lines(parts))
    else:
        write_whole(path, data)
    tuned = {name: tuple(about for part in made for about in tuned_kernels(part.plan)) for name, made in parts.items()}
    return Exported(path, digest(read(data)[MANIFEST]), reports, tuned)


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


def inputs_of(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    targets: Sequence[str] = ("cpu",),
    dynamic: Mapping[Any, Mapping[int, str]] | None = None,
    buckets: Sequence[Mapping[str, int]] = (),
    keep: Sequence[str] = (),
    tune: str = "off",
    fuse: str = "by_cost",
    skip: str = "by_cost",
    lazy: str = "off",
    parameters: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Hashes of all that decides what `export` would write, by what it is, but for what was tuned: `still_tuned`.

    The function is captured, and nothing else is done.  Raises as `export` does, for what can be seen by then.
    """
    fn, args, kwargs = callable_of(fn, args, None)
    names = {name for sizes in (dynamic or {}).values() for name in sizes.values()}
    chosen, bounds = _targets(targets, keep), bounds_of(buckets, names)
    for name in chosen:
        check_parameters(
            Options(name, "eager", tune, fuse, skip=skip, lazy=lazy, parameters=parameters or {}), get_target(name)
        )
    options = {
        "targets": chosen, "buckets": bounds, "keep": sorted(set(keep)), "tune": tune, "fuse": fuse, "skip": skip, "lazy": lazy,
        "parameters": dict(parameters or {}),
    }  # fmt: skip
    captured = capture(fn, args, kwargs, dynamic)
    return package_inputs(fn, captured, named_hints(captured), options)


def still_tuned(tuned: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Whether the tuning cache says of the kernels of a package what it said when that was written.  tuned: of `Exported`."""
    environment = Environment.read()
    for name, kernels in tuned.items():
        tuning = tuned_for(environment, get_target(name))
        if not all(tuning.current(about) for about in kernels):
            return False
    return True


def _targets(targets: Sequence[str], keep: Sequence[str]) -> list[str]:
    """Their names, each once.  Raises InvalidArgument for those that there are not, and for other things to keep."""
    if not targets:
        raise InvalidArgument("a package needs a target", next_step="name one: targets=['cpu']")
    for name in keep:
        if name not in EXTRAS:
            raise InvalidArgument.choice("keep", name, EXTRAS)
    return list(dict.fromkeys(get_target(target).name for target in targets))


def bounds_of(buckets: Sequence[Mapping[str, int]], names: set[str]) -> list[dict[str, int]]:
    """The bounds of each bucket; without buckets, one for all sizes.  Raises InvalidArgument."""
    found: list[dict[str, int]] = []
    for bucket in buckets:
        for name, size in bucket.items():
            if name not in names:
                raise InvalidArgument.choice("a size of a bucket", name, sorted(names))
            if isinstance(size, bool) or not isinstance(size, int) or size < 2:
                raise InvalidArgument(f"the size {name} of a bucket is {size!r}, and has to be an integer of 2 or more")
        bounds = {name: bucket[name] for name in sorted(bucket)}
        if found and any(bounds.get(n, 0) < most for n, most in found[-1].items()):
            raise InvalidArgument(
                f"the bucket {bounds} does not cover the one before it, {found[-1]}",
                next_step="give buckets from small to large, each with all the sizes",
            )
        found.append(bounds)
    return found or [{}]


__all__ = ["Exported", "export", "export_c"]
