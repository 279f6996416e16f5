"""`torch.compile(model, backend="fusecade")`: the entry point that PyTorch finds by name.

    torch.compile(model, backend="fusecade", options={"remainder": "eager", "strict": True})

AOTAutograd makes functional ATen graphs of the model, forward and backward; in each, what fuses becomes kernels, and
Inductor, or PyTorch itself, runs the rest.  `scaled_dot_product_attention` is traced by its definition, so that it
needs no rule of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition

from .assembly.build import Built, build, make_plan, plan_quietly
from .assembly.devices import check_device, devices_of, hints_of
from .assembly.partition import Partitioner
from .assembly.remainder import Session, inductor_problem, settings_of
from .assembly.saved import Saved
from .driver import Environment, Options, Plan, check_parameters, pick_target, tuned_for
from .errors import InvalidArgument
from .frontend.decompositions import by_definition, decompositions
from .passes.fingerprint import Known
from .report import Report, report_of

# The graphs that this process compiled, the last ones: what `fusecade.reports()` shows.
compiled: deque[Built] = deque(maxlen=64)


def backend(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile what Dynamo captured.

    options: `target` (default: where the tensors are), `remainder`, `tune`, `fuse`, `skip`, `lazy`, `save`, `parameters`,
    `strict`, and for Inductor `mode` and `inductor`, its settings by name.  mode: the same; `torch.compile` takes either
    a mode or options.
    Raises InvalidArgument for an option that there is not.
    """
    chosen = read_options(options or {})
    devices = devices_of([*example_inputs, *gm.parameters(), *gm.buffers()])
    if "meta" in devices:  # there is nothing to compute, and PyTorch's operators say what becomes of it
        return gm.forward
    session = Session(settings_of(mode or chosen.mode, chosen.inductor))
    environment = Environment.read()
    target = pick_target(chosen.target, devices)
    check_parameters(chosen, target)
    check_device(target, devices, environment.interpret)
    tuning = tuned_for(environment, target, chosen.tune)
    if chosen.remainder == "inductor" and target.kind == "cpu" and inductor_problem() is None:
        session.checks.start(gm)
    saved: list[Saved] = []
    later: list[fx.GraphModule] = []  # the backward graph, when there is one and it has not been planned
    known = Known()  # the forward is planned twice, and the backward computes parts of it again

    def only_plan(graph: fx.GraphModule) -> Plan | None:
        # Only looked at, so that nothing is tuned for it.
        looked_up = tuned_for(environment, target)
        return plan_quietly(graph, target, chosen, environment.cache_dir, hints_of(graph), looked_up, known)

    def partition(joint: fx.GraphModule, inputs: Any, **rest: Any) -> Any:
        by_cost = Partitioner(target, only_plan, saved.extend, chosen.strict)
        split = by_cost if chosen.save == "by_cost" else min_cut_rematerialization_partition
        forward, backward = split(joint, inputs, **rest)
        later[:] = [backward]
        return forward, backward

    def compile_graph(role: str) -> Callable[[fx.GraphModule, Sequence[Any]], Any]:
        def compiler(graph: fx.GraphModule, inputs: Sequence[Any]) -> Any:
            fallbacks: list[tuple[str, str]] = []
            folder = environment.cache_dir
            scripts = environment.reproductions
            plan = make_plan(
                graph, target, chosen, folder, fallbacks, hints=hints_of(graph), tuning=tuning, scripts=scripts,
                known=known,
            )  # fmt: skip
            if later and session.checks.running and chosen.tune == "off":
                only_plan(later[0])  # Inductor has to wait; the plan is kept, and found when its turn comes
            later.clear()
            built = build(
                plan, inputs, chosen, folder, session=session, fallbacks=fallbacks,
                backward=role == "backward", inference=role == "inference", scripts=scripts,
            )  # fmt: skip
            if role == "forward":
                built.saved = tuple(saved)
            else:
                known.clear()
            compiled.append(built)
            return built.run

        return compiler

    # On a CPU the library's attention stays one call, and is taken apart only where that is predicted to pay.
    with nullcontext() if target.kind == "cpu" else by_definition():
        return aot_autograd(
            fw_compiler=compile_graph("forward"),
            bw_compiler=compile_graph("backward"),
            inference_compiler=compile_graph("inference"),
            decompositions=decompositions(),
            partition_fn=partition,
        )(gm, example_inputs)


def reports() -> list[Report]:
    """What `torch.compile` made of each graph in this process, the last ones last."""
    return [report_of(built.plan, built.fallbacks, saved=built.saved) for built in compiled]


def read_options(given: Mapping[str, Any]) -> Options:
    """The options of `torch.compile` as a record.  Raises InvalidArgument for an unknown name or value."""
    known = [f.name for f in fields(Options)]
    for name in given:
        if name not in known:
            raise InvalidArgument.choice("an option of the backend", name, known)
    return Options(**given)
