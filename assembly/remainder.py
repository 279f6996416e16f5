"""What is left of a graph when the kernels are in place: Inductor compiles it, or PyTorch runs it as it stands."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import fx
from torch._guards import TracingContext, detect_fake_mode
from torch.fx.traceback import preserve_node_meta

from ..errors import FallbackWarning, InvalidArgument
from ..runtime.operator import OPERATOR
from .early_checks import EarlyChecks
from .visible_kernels import LAYOUT

Boxed = Callable[[list[Any]], Sequence[Any]]

# Nothing is computed by these: a graph that has only them and kernels gains nothing from another compiler.
_VIEWS = {
    getattr(torch.ops.aten, name)
    for name in (
        "view _unsafe_view reshape permute transpose t expand slice select unsqueeze squeeze split split_with_sizes "
        "unbind alias detach as_strided sym_size"
    ).split()
}


def computes(gm: fx.GraphModule) -> bool:
    """Whether anything but kernels and views is left."""
    return any(
        node.op == "call_function"
        and node.target not in (OPERATOR, operator.getitem)
        and getattr(node.target, "overloadpacket", None) not in _VIEWS
        and isinstance(node.target, torch._ops.OpOverload)
        for node in gm.graph.nodes
    )


def run_eagerly(gm: fx.GraphModule) -> Boxed:
    """The graph as PyTorch runs it, one operator after the other."""

    def run(arguments: list[Any]) -> Sequence[Any]:
        return gm.forward(*arguments)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def compile_with_inductor(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    backward: bool = False,
    inference: bool = False,
    session: Session,
) -> Boxed | str:
    """The graph compiled by Inductor, which takes our operator as it stands, and launches; or why it cannot be."""
    if (why := inductor_problem()) is not None:
        return why
    from torch._inductor import compile_fx, config
    from torch._inductor.fx_passes.replace_random import replace_random_passes
    from torch._inductor.virtualized import V

    try:
        gm = _decompose(gm, example_inputs)
        fake = detect_fake_mode(list(example_inputs))
        with V.set_fake_mode(fake) if fake is not None else nullcontext():
            replace_random_passes(gm)  # by draws of Inductor's own, if they are not to be those of eager mode
        output = gm.graph.output_node()
        results = output.args[0]
        assert isinstance(results, tuple | list)
        # Every output keeps the strides that were traced: AOTAutograd, and the user, rely on them.
        output.meta["user_visible_output_idxs"] = [n for n, x in enumerate(results) if isinstance(x, fx.Node)]
        session.checks.finish()
        with session.settings_on(), config.patch(LAYOUT):
            return compile_fx.compile_fx_inner(
                gm, list(example_inputs), is_backward=backward, is_inference=inference,
                static_input_idxs=_saved_inputs(gm) if backward else _static_inputs(), **session.arguments(backward),
            )  # type: ignore[return-value]  # fmt: skip
    except Exception as error:
        return failure_of(error, "Inductor")


def failure_of(error: Exception, compiler: str) -> str:
    """Why a compiler gave up, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{compiler} failed: {type(error).__name__}: {lines[0] if lines else ''}"


_warned: set[str] = set()


def fall_back(reason: str, fallbacks: list[tuple[str, str]]) -> None:
    """The rest runs eagerly, which is warned of once for each reason."""
    fallbacks.append(("the rest of the graph", reason))
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(FallbackWarning("the rest of the graph", reason), stacklevel=5)


@cache
def inductor_problem() -> str | None:
    """Why Inductor cannot compile for the CPU here; None where it can.  Looked at once."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    except Exception as error:
        return f"Inductor has no C++ compiler ({type(error).__name__}); install g++, or pass remainder='eager'"
    return None


def settings_of(mode: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Inductor's settings: those of a mode, and those that are given by name.  Raises InvalidArgument for unknown ones."""
    if mode in (None, "default") and not given:
        return {}
    from torch._inductor import list_mode_options, list_options

    modes = list_mode_options()
    if mode is not None and mode not in modes:
        raise InvalidArgument.choice("mode", mode, modes)
    known = list_options() if given else []
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise InvalidArgument(
                f"{name!r} is not a setting of Inductor",
                next_step=f"use {near[0]!r} instead" if near else "`torch._inductor.list_options()` lists them",
            )
    return {**modes[mode or "default"], **given}


class Session:
    """What the graphs of one compilation, a forward and its backward, share in Inductor.

    settings: Inductor's, by name.  checks: what it asks of the machine, as far as that was begun earlier.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self.settings = dict(settings or {})
        self.checks = EarlyChecks()
        self._shared: dict[str, Any] = {}

    def settings_on(self) -> AbstractContextManager[Any]:
        if not self.settings:
            return nullcontext()
        from torch._inductor import config

        return config.patch(self.settings)

    @property
    def records(self) -> bool:
        """Whether calls are recorded as CUDA graphs: then a graph of kernels alone gains from Inductor too."""
        from torch._inductor import config

        return bool(self.settings.get("triton.cudagraphs", config.triton.cudagraphs))

    def arguments(self, backward: bool) -> dict[str, Any]:
        """Of `compile_fx_inner`: the backward goes into the same CUDA graphs, on the device of its forward."""
        if not self.records:
            return {}
        from torch._inductor.compile_fx import _graph_counter
        from torch._inductor.cudagraph_utils import BoxedDeviceIndex
        from torch._inductor.utils import BoxedBool

        if not self._shared:
            self._shared = {
                "cudagraphs": BoxedBool(True),
                "graph_id": next(_graph_counter),
                "boxed_forward_device_index": BoxedDeviceIndex(None),
            }
        if backward and self._shared["boxed_forward_device_index"].value is None:
            # The forward is none of Inductor's, or not recorded: neither is this.
            return {**self._shared, "cudagraphs": BoxedBool(False)}
        return self._shared


def _decompose(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> fx.GraphModule:
    """Take apart what was kept whole for import and is still there: Inductor fuses the parts, not the wholes."""
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    table = select_decomp_table()
    if not any(node.target in table for node in gm.graph.nodes):
        return gm
    mode = detect_fake_mode(list(example_inputs))
    if mode is None:
        return gm
    fakes = [node.meta["val"] for node in gm.graph.nodes if node.op == "placeholder"]
    with (
        mode,
        preserve_node_meta(),
        patch.object(mode, "allow_non_fake_inputs", True),
    ):  # constants of the graph are real
        flat = make_fx(_Reshaping(gm).run, decomposition_table=table, tracing_mode="real")(*fakes)
    flat.meta.update(gm.meta)
    return flat


class _Reshaping(fx.Interpreter):
    """Runs `view` as `reshape`: taken apart, an operator may give other strides, which a view would not go with."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.aten.view.default:
            return torch.reshape(*args, **kwargs)
        return super().call_function(target, args, kwargs)


def _saved_inputs(gm: fx.GraphModule) -> Sequence[int]:
    """Of a backward: all but incoming gradients lies where the forward put it."""
    from torch._inductor.utils import count_tangents

    return tuple(range(count_tangents(gm)))


def _static_inputs() -> Sequence[int]:
    """Parameters: they stay where they are from call to call."""
    context = TracingContext.try_get()
    metadata = context.fw_metadata if context else None
    return tuple(metadata.static_input_indices) if metadata is not None else ()
