"""`fusecade.compile` and `fusecade.explain`: one function as kernels to call, or to look at.

kernel = fusecade.compile(attend, (q, k, v));  out = kernel(q, k, v);  print(kernel.report)
print(fusecade.explain(attend, q, k, v, target="sm_90"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from .assembly.binaries import Binaries
from .assembly.build import build, make_plan
from .assembly.devices import check_device, devices_of, hints_of
from .assembly.guards import Guards
from .assembly.plan_cache import cached_plan
from .assembly.tunable import Subject
from .autotune.cache import study_storage
from .driver import Environment, Options, check_parameters, pick_target, tuned_for, tuner_for
from .frontend.capture import Captured, callable_of, capture
from .report import Report, report_of
from .runtime.files import usable_folder

if TYPE_CHECKING:
    from .assembly.tuning import Outcome, Tuner
    from .autotune.history import History
    from .autotune.search import Progress
    from .driver import Plan


def compile(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | None = None,
    dynamic: Mapping[Any, Mapping[int, str]] | None = None,
    tune: str = "off",
    fuse: str = "by_cost",
    skip: str = "by_cost",
    lazy: str = "off",
    parameters: Mapping[str, int] | None = None,
    remainder: str = "inductor",
    strict: bool = False,
) -> CompiledFunction:
    """`fn` compiled for arguments like these; what comes back is called like `fn`, forward only.

    fn: a function, a module, or a program of `torch.export`, which brings its own example arguments.
    target: "cpu", "sm_90", ...; by default that of the tensors.  dynamic: {argument: {dimension: size name}}, the
    argument by its position or name; other sizes are fixed.  tune: "off" uses what was tuned before, "quick" and "full" also
    measure kernels that were not (`docs/tuning.md`).  fuse: "by_cost" leaves apart what is predicted to be faster
    so, "always" makes a kernel of whatever can be one.  skip: whether kernels ask a mask which tiles it closes before they
    load them: "by_cost" where asking is predicted to cost next to nothing, "always", "never"; "bounds"
    has a kernel ahead find where a mask is open, and loops walk no further.  lazy: "on" moves the running maximum of a
    softmax, and the state with it, only when it is exceeded by a factor of 256; it has not been seen to be faster.
    parameters: launch parameters of the kernels by name, in place of what the cost model or the default says
    (num_warps, num_stages, persistent, warp_specialize, descriptors; `ir/launch.py`).  remainder: what runs
    the parts that do not fuse: "inductor", "eager", or "kernels", a kernel for each operation that can be one, and else
    PyTorch.  strict: raise where a part would run eagerly.

    Raises UnsupportedProgram when `fn` cannot be traced, InvalidArgument for an option that there is not.
    """
    environment = Environment.read()
    options = Options(
        target or "auto", remainder, tune, fuse, strict, skip=skip, lazy=lazy, parameters=parameters or {}
    )
    fn, args, kwargs = callable_of(fn, args, kwargs)
    captured = capture(fn, args, kwargs, dynamic)
    devices = devices_of(captured.example)
    chosen = pick_target(options.target, devices)
    check_parameters(options, chosen)
    if chosen.kind == "cpu":
        check_device(chosen, devices, environment.interpret)
    if options.remainder == "inductor" and (dynamic or (chosen.kind != "cpu" and devices == {"cpu"})):
        # Inductor's guards on sizes are not ours to check; and it has nothing to win where tensors are elsewhere.
        options = replace(options, remainder="eager")
    fallbacks: list[tuple[str, str]] = []
    folder = usable_folder(environment.cache_dir)
    tuning = tuned_for(environment, chosen, options.tune)
    hints = named_hints(captured)
    scripts = environment.reproductions
    plan = make_plan(captured.gm, chosen, options, folder, fallbacks, captured.size_names, hints, tuning, scripts)
    built = build(
        plan, captured.example, options, folder, inference=True, fallbacks=fallbacks, size_names=captured.size_names,
        scripts=scripts,
    )  # fmt: skip
    return CompiledFunction(fn, captured, built)


class CompiledFunction:
    """A compiled function.

    It takes what `fn` takes, and gives what `fn` gives, without gradients.  Arguments of other shapes, dtypes, devices
    or number than those it was compiled for raise UnsupportedProgram.  Tensors of other strides are copied into the
    strides it was compiled for, which costs one pass over them and never compiles again.
    """

    def __init__(self, fn: Callable[..., Any], captured: Captured, built: Any) -> None:
        self.__wrapped__ = fn
        self.__name__ = getattr(fn, "__name__", type(fn).__name__)
        self.__doc__ = fn.__doc__
        self._captured, self._built = captured, built
        self._guards = Guards(captured, self.__name__, fn)
        kinds = [kind for kind, _ in captured.inputs]
        # Those of a module come ahead of the arguments, what a function closes over behind them.
        ahead = kinds.index("argument") if "argument" in kinds else len(kinds)
        held = [captured.parameters[str(key)] for kind, key in captured.inputs if kind == "parameter"]
        self._parameters, self._closed_over = held[:ahead], held[ahead:]

    def __repr__(self) -> str:
        kernels = len(self._built.plan.calls)
        return f"<fusecade.CompiledFunction {self.__name__}: {kernels} kernel calls for {self._built.plan.target.name}>"

    @property
    def report(self) -> Report:
        """What was compiled, and what was not."""
        return report_of(self._built.plan, self._built.fallbacks)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = self._guards.check(args, kwargs)
        results = self._built.run([*self._parameters, *tensors, *self._closed_over])
        # Those of other strides were copied: what changes is what was given.
        return self._give(results, self._guards.given(args, kwargs) if self._captured.mutated else tensors)

    def launch_for_testing(self, *args: Any, **kwargs: Any) -> Callable[[], Any]:
        """A closure that runs every kernel of the program once: what `fusecade.testing.count_io` counts."""
        return lambda: self(*args, **kwargs)

    def _give(self, results: Sequence[Any], tensors: Sequence[torch.Tensor]) -> Any:
        """The results in the form in which `fn` gives them; the inputs that it changes are changed."""
        spec, mutated = self._captured.out_spec, self._captured.mutated
        if mutated:
            inputs = [*self._parameters, *tensors]
            for position, value in zip(mutated, results[spec.num_leaves :], strict=True):
                inputs[position].copy_(value)
        return results[0] if spec.is_leaf() else pytree.tree_unflatten(list(results[: spec.num_leaves]), spec)

    @cached_property
    def kernels(self) -> Sequence[Any]:
        """The artifacts of the kernels, in the order of their calls."""
        return [call.artifact for call in self._built.plan.calls]


def explain(
    fn: Callable[..., Any],
    *args: Any,
    target: str = "sm_90",
    dynamic: Mapping[Any, Mapping[int, str]] | None = None,
    fuse: str = "by_cost",
    remainder: str = "eager",
    skip: str = "by_cost",
    lazy: str = "off",
    parameters: Mapping[str, int] | None = None,
    compile_binaries: bool = True,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
    **kwargs: Any,
) -> Report:
    """What `fn` would become on `target`, which need not be in this machine; nothing runs, and meta tensors will do.

    fuse, remainder, skip, lazy, parameters: as in `compile`.  compile_binaries: also compile each GPU kernel, for its
    registers, spills, shared memory and matrix instructions; `on_progress(done, total)` is called after each.
    """
    environment = Environment.read()
    options = Options(target, remainder, fuse=fuse, skip=skip, lazy=lazy, parameters=parameters or {})
    fn, args, kwargs = callable_of(fn, args, kwargs)
    captured = capture(fn, args, kwargs, dynamic)
    chosen = pick_target(target, devices_of(captured.example))
    check_parameters(options, chosen)
    fallbacks: list[tuple[str, str]] = []
    folder = usable_folder(environment.cache_dir)
    tuning = tuned_for(environment, chosen)
    hints = named_hints(captured)
    plan = make_plan(captured.gm, chosen, options, folder, fallbacks, captured.size_names, hints, tuning)
    if not compile_binaries:
        return report_of(plan, fallbacks)
    with Binaries(folder) as binaries:
        return report_of(plan, fallbacks, binaries.of(plan, on_progress=on_progress))


@dataclass(frozen=True)
class Tuning:
    """What `tune` did.  outcomes: of each kernel that was searched.  report: what is compiled from now on.  histories: what
    the tuning cache knows of each kernel by now, those included that were not searched this time.
    """

    outcomes: tuple[Outcome, ...]
    report: Report
    histories: Mapping[Subject, History] = field(default_factory=dict)

    def to_html(self, path: str | Path) -> Path:
        """Write a page with the trials of each kernel, which parameters mattered, and predicted against measured times."""
        from .tuning_page import write_page

        return write_page(Path(path), list(self.histories.values()))


def tune(
    fn: Callable[..., Any],
    *args: Any,
    target: str | None = None,
    dynamic: Mapping[Any, Mapping[int, str]] | None = None,
    fuse: str = "by_cost",
    parameters: Mapping[str, int] | None = None,
    mode: str = "quick",
    sampler: str | None = None,
    trials: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    offline: bool = False,
    resume: bool = False,
    on_kernel: Callable[[str, str], None] = lambda name, operations: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    on_wait: Callable[[str], None] = lambda why: None,
    environment: Environment | None = None,
    **kwargs: Any,
) -> Tuning:
    """Search the configurations of the kernels of `fn`, and keep what is learnt in the tuning cache.

    The arguments say shapes and dtypes (meta tensors will do): inputs are made up.  target: by default what is in this
    machine.  mode, sampler, trials, seconds, seed: of the search for each kernel (`autotune/options.py`).  offline: by the
    cost model and the target's compiler, measuring nothing.  resume: search further where there is a decision already.
    on_kernel, on_progress, on_outcome, on_wait: as in `assembly.tuning.Tuner`.  environment: where things are kept, in place
    of what environment variables say.

    Raises InvalidArgument for a target that is not in this machine, if it is not offline.
    """
    from .assembly.tuning import options_of

    environment = environment or Environment.read()
    options = Options(target=target or "auto", remainder="eager", fuse=fuse, parameters=parameters or {})
    chosen = pick_target("sm_90" if offline and target is None else options.target)
    check_parameters(options, chosen)
    searched = options_of(mode, sampler="cost" if offline else sampler, trials=trials, seconds=seconds, seed=seed)
    fn, args, kwargs = callable_of(fn, args, kwargs)
    captured = capture(fn, args, kwargs, dynamic)
    folder = usable_folder(environment.cache_dir)
    tuner = tuner_for(environment, chosen, searched, offline=offline)
    tuner.again, tuner.strict = resume, True
    tuner.storage = partial(study_storage, tuner.tuned.cache)
    tuner.on_kernel, tuner.on_progress, tuner.on_outcome, tuner.on_wait = on_kernel, on_progress, on_outcome, on_wait
    try:
        hints = named_hints(captured)
        plan = cached_plan(captured.gm, chosen, options, folder, captured.size_names, hints, tuner)
    finally:
        tuner.close()
    return Tuning(tuple(tuner.outcomes), report_of(plan), _histories(tuner, plan))


def _histories(tuner: Tuner, plan: Plan) -> dict[Subject, History]:
    """Of the kernels of a plan, in their order."""
    found: dict[Subject, History] = {}
    for call in plan.calls:
        about = call.artifact.facts.get("tuning", {})
        if "subject" in about and (subject := Subject.from_json(about["subject"])) not in found:
            found[subject] = tuner.history(subject, call.artifact.name, ", ".join(dict.fromkeys(call.nodes)))
    return found


def named_hints(captured: Captured) -> dict[str, int]:
    return {captured.size_names.get(name, name): value for name, value in hints_of(captured.gm).items()}
