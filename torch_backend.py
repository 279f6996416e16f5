"""`torch.compile(model, backend="fusecade")`: the entry point that PyTorch finds by name.

    torch.compile(model, backend="fusecade", options={"remainder": "eager", "strict": True})

AOTAutograd makes functional ATen graphs of the model, forward and backward; in each, what fuses becomes kernels, and
Inductor, or PyTorch itself, runs the rest.  `scaled_dot_product_attention` is traced by its definition, so that it needs
no rule of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.nn.attention import SDPBackend, sdpa_kernel

from .build import Built, build, make_plan
from .driver import Environment, Options, pick_target
from .errors import InvalidArgument
from .frontend.decompositions import decompositions
from .ir.target import Target
from .remainder import modes

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

    options: `target` (default: where the tensors are), `remainder`, `tune`, `strict`.  mode: passed on to Inductor.
    Raises InvalidArgument for an option that there is not.
    """
    chosen = read_options(options or {})
    if mode not in (None, "default") and mode not in modes():
        raise InvalidArgument.choice("mode", mode, ["default", *modes()])
    environment = Environment.read()
    devices = devices_of([*example_inputs, *gm.parameters(), *gm.buffers()])
    target = pick_target(chosen.target, devices)
    check_device(target, devices, environment.interpret)

    def compile_graph(role: str) -> Callable[[fx.GraphModule, Sequence[Any]], Any]:
        def compiler(graph: fx.GraphModule, inputs: Sequence[Any]) -> Any:
            fallbacks: list[tuple[str, str]] = []
            folder = environment.cache_dir
            plan = make_plan(graph, target, chosen, folder, fallbacks, hints=hints_of(graph))
            built = build(
                plan, inputs, chosen, folder, mode=mode, fallbacks=fallbacks,
                backward=role == "backward", inference=role == "inference",
            )  # fmt: skip
            compiled.append(built)
            return built.run

        return compiler

    with sdpa_kernel(SDPBackend.MATH):
        return aot_autograd(
            fw_compiler=compile_graph("forward"),
            bw_compiler=compile_graph("backward"),
            inference_compiler=compile_graph("inference"),
            decompositions=decompositions(),
            partition_fn=min_cut_rematerialization_partition,
        )(gm, example_inputs)


def read_options(given: Mapping[str, Any]) -> Options:
    """The options of `torch.compile` as a record.  Raises InvalidArgument for an unknown name or value."""
    known = [f.name for f in fields(Options)]
    for name in given:
        if name not in known:
            raise InvalidArgument.choice("an option of the backend", name, known)
    return Options(**given)


def devices_of(values: Sequence[Any]) -> set[str]:
    return {x.device.type for x in values if isinstance(x, torch.Tensor)}


def check_device(target: Target, devices: set[str], interpret: bool) -> None:
    """Raises InvalidArgument where kernels for `target` cannot run on tensors of these devices."""
    wanted = "cpu" if target.kind == "cpu" else "cuda"
    runs = not devices or wanted in devices or (interpret and devices == {"cpu"})
    if not runs:
        raise InvalidArgument(
            f"target {target.name} needs tensors on {wanted}, and these are on {', '.join(sorted(devices))}",
            next_step="leave `target` out, and it follows the tensors; `fusecade.explain(fn, *args, target=...)` looks "
            "at a target that is not here",
        )


def hints_of(graph: fx.GraphModule) -> dict[str, int]:
    """The values that dynamic sizes have in the example: they steer prices, not results."""
    found: dict[str, int] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            for size in [*value.shape, *value.stride()] if isinstance(value, torch.Tensor) else [value]:
                if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol and size.node.hint is not None:
                    found.setdefault(str(size.node.expr), int(size.node.hint))
    return found
