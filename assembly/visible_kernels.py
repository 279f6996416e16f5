"""Which kernels Inductor and AOTInductor are shown, and why the others stay calls of the operator `fusecade::call`.

A kernel that is shown is compiled into Inductor's own program: its source is part of it, its outputs are part of the plan
of memory, it is launched without PyTorch's dispatcher and recorded in CUDA graphs like any other.  What the operator looks
at when it runs has to hold before: shapes, strides and dtypes hold by the guards of the graph, what is asked here by
the graph itself, or by a guard more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, statically_known_true

from ..runtime.loaded import Sized
from ..runtime.triton_launch import LARGEST_TILE, is_interpreted
from .launch_nodes import launchers_of, stages_of
from .splice import Placed

log = logging.getLogger("fusecade")

# What Inductor must not do to the tensors of a kernel, whatever its settings say: give them other strides.
LAYOUT = {"triton_kernel_default_layout_constraint": "needs_fixed_stride_order"}

Hidden = tuple[str, str]  # the name of a kernel, and why it stays a call of the operator


def shown(placed: Sequence[Placed], *, ahead: bool = False) -> tuple[list[Placed], list[Hidden]]:
    """The same kernels, marked where they can be shown, and why the others cannot.

    ahead: for a program that runs without guards, so that only what is known for all its sizes counts.
    """
    found, hidden = [], []
    for one in placed:
        reason = next(_obstacles(one, ahead), None)
        found.append(replace(one, visible=reason is None))
        if reason is not None:
            hidden.append((one.call.artifact.name, reason))
    return found, hidden


def all_hidden(placed: Sequence[Placed], hidden: Sequence[Hidden], why: str) -> list[Hidden]:
    """The reasons where the compiler that was shown kernels failed.  That is logged: the program runs, but slower."""
    log.warning("kernels are called through an operator, for with them in its program %s", why)
    known = dict(hidden)
    return [(name, known.get(name, why)) for name in dict.fromkeys(one.call.artifact.name for one in placed)]


def log_hidden(hidden: Sequence[Hidden]) -> None:
    for name, reason in hidden:
        log.info("not part of Inductor's program: %s: %s", name, reason)


def _obstacles(one: Placed, ahead: bool) -> Iterator[str]:
    """Why a kernel cannot be shown, the plainest reasons first."""
    artifact, entry = one.call.artifact, one.entry
    if any(part.kind != "triton" for part in artifact.kernels):
        yield "it is no Triton kernel"
        return
    launches = launchers_of(entry.kernel)
    if any(is_interpreted(launch.kernel) for launch in launches):
        yield "Triton's interpreter runs it"
    if entry.failed is not None:
        yield entry.failed
    if any(launch.described for launch in launches):
        yield "it has tensor descriptors: their memory is provided when it is launched"
    sizes = [_value(one.call.sizes[name]) for name in artifact.sizes]
    known = dict(zip(artifact.sizes, sizes, strict=True))
    for stage, launch in zip(stages_of(artifact), launches, strict=True):
        given = [known[name] for name in stage.kernel.sizes]
        if any(not isinstance(extent(given), int) for extent, _ in launch.whole.values()):
            yield "a block holds a dynamic size whole: each size takes another kernel"
        if launch.narrow and not ahead and not all(_holds(n < 2**31 - LARGEST_TILE, ahead) for n in given):
            yield "it counts in 32 bits, and a size may need more"
    inputs = [node.meta["val"] for node in one.call.inputs]
    if any(tensor.device != entry.device for tensor in inputs):
        yield "an input is on another device"
    outputs = [node.meta["val"] for node in one.call.outputs]
    if not all(_holds(tensor.numel() != 0, ahead) for tensor in (*inputs, *outputs)):
        yield "a tensor of it is empty, or may be"
    layouts = [Sized(layout, artifact.sizes).of(sizes) for layout in artifact.outputs]
    if not all(_same(wanted, tensor, ahead) for wanted, tensor in zip(layouts, outputs, strict=True)):
        yield "it writes other strides than the graph has"


def _value(source: fx.Node | tuple[fx.Node, int] | int) -> Any:
    if isinstance(source, int):
        return source
    return source.meta["val"] if isinstance(source, fx.Node) else source[0].meta["val"].shape[source[1]]


def _same(wanted: tuple[Sequence[Any], Sequence[Any]], tensor: torch.Tensor, ahead: bool) -> bool:
    pairs = [*zip(wanted[0], tensor.shape, strict=True), *zip(wanted[1], tensor.stride(), strict=True)]
    return all(_holds(a == b, ahead) for a, b in pairs)


def _holds(condition: Any, ahead: bool) -> bool:
    """Whether it is known, or true now and guarded from now on."""
    if not isinstance(condition, torch.SymBool) or statically_known_true(condition):
        return bool(condition)
    if ahead or free_unbacked_symbols(condition) or condition.node.shape_env.frozen:
        return False
    return bool(condition)


__all__ = ["LAYOUT", "Hidden", "all_hidden", "log_hidden", "shown"]
