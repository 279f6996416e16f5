"""From a plan to something that runs: kernels loaded and put into the graph, the rest compiled around them."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from ..codegen.artifact import Layout
from ..driver import Call, Options, Plan
from ..errors import FallbackWarning, FusecadeError, InternalCompilerError, UnsupportedProgram
from ..frontend.importer import source_line
from ..frontend.one_at_a_time import compiling
from ..frontend.sizes import Opaque, size
from ..ir import symbols
from ..ir.target import Target
from ..passes.fingerprint import Known
from ..runtime.files import usable_folder
from ..runtime.loaded import load
from ..runtime.operator import Entry, register
from .log_lines import log_built
from .plan_cache import Tuning, cached_plan
from .regions import Region, region_of
from .remainder import (
    Boxed,
    Session,
    compile_with_inductor,
    computes,
    failure_of,
    fall_back,
    inductor_problem,
    run_eagerly,
)
from .reproduction import options_for, write_reproduction
from .saved import Saved
from .splice import Placed, splice
from .titles import title_of
from .visible_kernels import Hidden, all_hidden, shown

log = logging.getLogger("fusecade")


@dataclass
class Built:
    """A graph, compiled.

    run: takes the graph's inputs as one list (and empties it), returns its outputs.
    fallbacks: (part, reason) of what was to be compiled and runs eagerly; it can grow when the graph first runs.
    saved: what the graph, a forward, keeps for its backward.  entries: the kernels that it calls.
    hidden: (kernel, reason) of those that Inductor calls through our operator; the others are part of its program.
    """

    run: Boxed
    plan: Plan
    graph: fx.GraphModule
    remainder: str
    fallbacks: list[tuple[str, str]] = field(default_factory=list)
    saved: tuple[Saved, ...] = ()
    entries: tuple[Entry, ...] = ()
    hidden: tuple[Hidden, ...] = ()


def make_plan(
    gm: fx.GraphModule,
    target: Target,
    options: Options,
    folder: Path | None,
    fallbacks: list[tuple[str, str]],
    size_names: dict[str, str] | None = None,
    hints: dict[str, int] | None = None,
    tuning: Tuning | None = None,
    scripts: Path | None = None,
    known: Known | None = None,
) -> Plan:
    """The plan for a graph; one without kernels, and a warning, where none can be made.  `strict` raises instead.

    scripts: the folder for a script that shows what failed.
    """
    try:
        with (
            compiling(),
            _disable_current_modes(),
        ):  # PyTorch calls us while it traces; what we compute on the way is no part of that
            kept = usable_folder(folder) if folder else None
            plan = cached_plan(gm, target, options, kept, size_names, hints, tuning, known)
    except Exception as error:
        reason = _reason(error)
        step = _shown_by(scripts, "graph", reason, gm, options_for(options, target.name))
        if options.strict:
            raise _as_ours(error) from error
        fallbacks.append(("graph", reason))
        warnings.warn(FallbackWarning("a graph", reason, getattr(error, "source", None), step), stacklevel=4)
        log.debug("planning failed", exc_info=True)
        return Plan(gm, target)
    finally:
        if tuning is not None:
            tuning.close()
    if options.strict and plan.externs:
        operator, reason = plan.externs[0]
        node = next((n for n in gm.graph.nodes if str(n.target) == operator), None)
        raise UnsupportedProgram(f"{operator} is not compiled: {reason}", source=source_line(node) if node else None)
    return plan


def plan_quietly(
    gm: fx.GraphModule,
    target: Target,
    options: Options,
    folder: Path,
    hints: dict[str, int],
    tuning: Tuning,
    known: Known | None = None,
) -> Plan | None:
    """The plan for a graph that is only looked at; None where none can be made."""
    try:
        with _disable_current_modes():
            return cached_plan(gm, target, options, usable_folder(folder), None, hints, tuning, known)
    except Exception:
        log.debug("planning failed", exc_info=True)
        return None
    finally:
        tuning.close()


def build(
    plan: Plan,
    example_inputs: Sequence[Any],
    options: Options,
    folder: Path,
    *,
    backward: bool = False,
    inference: bool = False,
    session: Session | None = None,
    fallbacks: list[tuple[str, str]] | None = None,
    size_names: Mapping[str, str] | None = None,
    scripts: Path | None = None,
) -> Built:
    """Load the plan's kernels, splice them in, compile what is left as `options.remainder` says.

    session: shared with the other graphs of this compilation.  scripts: the folder for scripts that show which kernels failed.
    """
    fallbacks = [] if fallbacks is None else fallbacks
    with compiling():
        placed = place_kernels(plan, options, folder, fallbacks, size_names, scripts)
        built = _assemble(plan, placed, example_inputs, options, backward, inference, session, fallbacks)
    built.entries = tuple(one.entry for one in placed)
    # Other compilers know kernels by their keys only; what runs holds them, for it may outlive `built`.
    with suppress(AttributeError):
        built.run.fusecade_entries = built.entries  # type: ignore[attr-defined]
    log_built(built, "backward" if backward else "inference" if inference else "forward")
    return built


def place_kernels(
    plan: Plan,
    options: Options,
    folder: Path,
    fallbacks: list[tuple[str, str]],
    size_names: Mapping[str, str] | None = None,
    scripts: Path | None = None,
) -> list[Placed]:
    """The plan's calls with their kernels loaded, without those that do not load; arguments as in `build`."""
    loading = _Loading(plan, usable_folder(folder), options, fallbacks, size_names or {}, scripts)
    with _disable_current_modes():
        return [one for call in plan.calls if (one := loading.place(call)) is not None]


def _assemble(
    plan: Plan,
    placed: Sequence[Placed],
    example_inputs: Sequence[Any],
    options: Options,
    backward: bool,
    inference: bool,
    session: Session | None,
    fallbacks: list[tuple[str, str]],
) -> Built:
    session = session or Session()
    try:
        if options.remainder == "inductor" and (session.records or computes(splice(plan.gm, placed))):
            compile_graph = partial(
                compile_with_inductor,
                example_inputs=example_inputs, backward=backward, inference=inference, session=session,
            )  # fmt: skip
            built = _compiled(plan, placed, compile_graph, fallbacks)
            if built is not None:
                return built
        graph = splice(plan.gm, placed, through_operator=False)
    except InternalCompilerError as error:
        if options.strict:
            raise
        fallbacks.append(("graph", error.message))
        warnings.warn(FallbackWarning("a graph", error.message), stacklevel=4)
        graph = plan.gm
    return Built(run_eagerly(graph), plan, graph, "eager", fallbacks)


def _compiled(
    plan: Plan,
    placed: Sequence[Placed],
    compile_graph: Callable[[fx.GraphModule], Boxed | str],
    fallbacks: list[tuple[str, str]],
) -> Built | None:
    """By Inductor, with the kernels as part of its program; where it fails, with calls of them; None where it fails again."""
    try:
        seen, hidden = shown(placed)
        if inductor_problem() is None and any(one.visible for one in seen):
            graph = splice(plan.gm, seen)
            compiled = compile_graph(graph)
            if not isinstance(compiled, str):
                return Built(compiled, plan, graph, "inductor", fallbacks, hidden=tuple(hidden))
            hidden = all_hidden(placed, hidden, compiled)
    except Exception as error:
        log.debug("kernels cannot be shown", exc_info=True)
        hidden = all_hidden(placed, (), failure_of(error, "making the graph"))
    graph = splice(plan.gm, placed)
    compiled = compile_graph(graph)
    if not isinstance(compiled, str):
        return Built(compiled, plan, graph, "inductor", fallbacks, hidden=tuple(hidden))
    fall_back(compiled, fallbacks)
    return None


@dataclass(frozen=True)
class _Loading:
    """What all kernels of a plan have in common when they are loaded."""

    plan: Plan
    folder: Path
    options: Options
    fallbacks: list[tuple[str, str]]
    size_names: Mapping[str, str]
    scripts: Path | None

    def place(self, call: Call) -> Placed | None:
        """The call with its kernel loaded; None, and a warning, where it does not load."""
        source, name, strict = source_line(call.outputs[-1]), call.artifact.name, self.options.strict
        region = region_of(self.plan.gm, call.inputs, call.outputs, len(call.artifact.sizes))
        try:
            given = [
                _layout(node, layout, self.size_names)
                for node, layout in zip(call.inputs, call.artifact.inputs, strict=True)
            ]
            kernel = load(call.artifact, self.folder / "kernels", given)
        except (InternalCompilerError, Opaque) as error:
            step = self._shown_by(name, region, _reason(error))
            if strict:
                raise _as_ours(error) from error
            self.fallbacks.append((name, _reason(error)))
            warnings.warn(FallbackWarning(f"kernel {name}", _reason(error), source, step), stacklevel=5)
            return None
        entry = Entry(
            _key(call, region, strict, given),
            kernel,
            _Lazily(region) if region is not None else None,
            call.outputs[0].meta["val"].device,
            strict,
            source,
            on_failure=partial(self._note, name, region),
            title=title_of(call),
        )
        entry = register(entry)
        if entry.failed is not None:
            self.fallbacks.append((name, entry.failed))
        return Placed(call, entry, region)

    def _note(
        self,
        name: str,
        region: Region | None,
        reason: str,
        inputs: Sequence[torch.Tensor] | None,
        sizes: Sequence[int],
    ) -> str | None:
        """A kernel failed when it ran on these tensors, or refused what it was given (None).  Gives the next step."""
        if not self.options.strict:
            self.fallbacks.append((name, reason))
        return self._shown_by(name, region, reason, [*inputs, *sizes]) if inputs is not None else None

    def _shown_by(self, name: str, region: Region | None, why: str, values: Sequence[Any] | None = None) -> str | None:
        if region is None:
            return None
        options = {**options_for(self.options, self.plan.target.name), "fuse": "always"}
        with _disable_current_modes():
            return _shown_by(self.scripts, f"kernel_{name}", why, region.module(), options, values)


def _layout(node: fx.Node, read: Layout, size_names: Mapping[str, str]) -> Layout:
    """The shape and the strides that the graph says a tensor has."""
    value = node.meta["val"]
    shape, strides = (
        [symbols.to_python(size(n, size_names)) for n in sizes] for sizes in (value.shape, value.stride())
    )
    return Layout(tuple(shape), tuple(strides), read.dtype)


def _shown_by(
    scripts: Path | None,
    what: str,
    why: str,
    gm: fx.GraphModule,
    options: dict[str, Any],
    values: Sequence[Any] | None = None,
) -> str | None:
    """Writes a script, where a folder is given, and says what to do with it."""
    if scripts is None or (path := write_reproduction(scripts, what, why, gm, options, values)) is None:
        return None
    return f"`python {path}` shows it again; please report it with that file"


def _key(call: Call, region: Region | None, strict: bool, given: Sequence[Layout]) -> str:
    """Names a kernel together with how it is called and what stands in for it: the same in every process."""
    about = hashlib.sha256(f"{call.artifact.fingerprint}\n{strict}\n{given}\n".encode())
    if region is not None:
        about.update(str(region.graph).encode())
        for node in region.graph.find_nodes(op="get_attr"):
            value = attrgetter(str(node.target))(region.owner)
            about.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return about.hexdigest()


class _Lazily:
    """A region as a function; its code is made when it is first needed, which is hardly ever."""

    def __init__(self, region: Region) -> None:
        self._region = region

    @cached_property
    def _module(self) -> fx.GraphModule:
        return self._region.module()

    def __call__(self, *arguments: Any) -> Sequence[torch.Tensor]:
        return self._module(*arguments)


def _as_ours(error: Exception) -> FusecadeError:
    return error if isinstance(error, FusecadeError) else InternalCompilerError(_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, FusecadeError):
        return error.message
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


__all__ = ["Built", "build", "make_plan", "place_kernels", "plan_quietly"]
