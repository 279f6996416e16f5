"""A kernel's launches as nodes that Inductor and AOTInductor know, in place of one call of an operator that they do not.

before   c = fusecade.call("3fa9…", [x], [n]);  o = c[0]
after    e = empty_strided([n, 64], [64, 1])
         c = triton_kernel_wrapper_functional(kernel, grid=(cdiv(n, 128), 1, 1), {x_ptr: x, o_ptr: e, n: n}, clone=[o_ptr])
         o = c["o_ptr"]

The functional form is what AOTAutograd makes of `torch.library.wrap_triton`: Inductor finds that nobody else reads `e`, and
launches the kernel on it without a copy.  Which kernels can go this way is said in `visible_kernels`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table, triton_kernel_wrapper_functional
from torch.fx.node import map_aggregate
from torch.fx.proxy import GraphAppendingTracer

from ..codegen.artifact import KernelArtifact, Layout, Stage
from ..runtime.loaded import LoadedKernel, Sized, Stages
from ..runtime.triton_launch import OPTIONS, Launcher


def insert_launches(
    graph: fx.Graph,
    kernel: LoadedKernel,
    tensors: Sequence[fx.Node],
    sizes: Sequence[fx.Node | int],
    like: torch.Tensor,
    known: dict[str, Any],
) -> list[fx.Node]:
    """Nodes that compute the kernel's outputs, at the graph's insertion point; each knows its value.

    tensors, sizes: what the kernel is given, in its order.  like: an output as the graph knows it, a fake tensor.
    known: kernels that the graph has launches of, by fingerprint: one that is launched several times is compiled once.
    """
    artifact, make = kernel.artifact, _Maker(graph, like)
    values = {name: make.size(size) for name, size in zip(artifact.sizes, sizes, strict=True)}
    places = [
        *tensors,
        *(make.empty(layout, values, like.device) for layout in (*artifact.workspaces, *artifact.outputs)),
    ]
    for stage, launch in zip(stages_of(artifact), launchers_of(kernel), strict=True):
        if (fingerprint := stage.kernel.fingerprint) not in known:
            known[fingerprint] = launch.configured()
        given = [values[name] for name in stage.kernel.sizes]
        written = make.launch(known[fingerprint], launch, stage, places, given)
        for place, node in zip(stage.writes, written, strict=True):
            places[place] = node
    return places[len(places) - len(artifact.outputs) :]


def stages_of(artifact: KernelArtifact) -> tuple[Stage, ...]:
    """The kernels of a call, one or several, with the places of their tensors."""
    if artifact.stages:
        return artifact.stages
    end = len(artifact.inputs)
    return (Stage(artifact, tuple(range(end)), tuple(range(end, end + len(artifact.outputs)))),)


def launchers_of(kernel: LoadedKernel) -> list[Launcher]:
    """In the order of `stages_of`, for kernels that are Triton's."""
    return cast(list[Launcher], kernel.launch.launches if isinstance(kernel.launch, Stages) else [kernel.launch])


class _Maker(GraphAppendingTracer):
    """Makes nodes that know their values; arithmetic on its proxies makes nodes, too."""

    def __init__(self, graph: fx.Graph, like: torch.Tensor) -> None:
        super().__init__(graph)
        mode = detect_fake_mode([like])
        assert mode is not None, "values are computed, and must not be real"
        self._mode = mode

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *named: Any, **more: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *named, **more)
        known_args, known_kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        with self._mode:
            node.meta["val"] = target(*known_args, **known_kwargs)
        if target is triton_kernel_wrapper_functional:
            # Inductor gives the tensors the strides that they have here: the kernel was printed for these.
            node.meta["eager_input_vals"] = (known_args, known_kwargs)
        return node

    def size(self, size: fx.Node | int) -> Any:
        """For arithmetic; a size that is known is a number."""
        value = size.meta["val"] if isinstance(size, fx.Node) else size
        return fx.Proxy(size, self) if isinstance(size, fx.Node) and not isinstance(value, int) else value

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        args, kwargs = map_aggregate((args, kwargs), lambda x: x.node if isinstance(x, fx.Proxy) else x)
        return self.create_node("call_function", target, args, kwargs)

    def empty(self, layout: Layout, sizes: Mapping[str, Any], device: torch.device) -> fx.Node:
        sized = Sized(layout, tuple(sizes))
        shape, strides = sized.of(list(sizes.values()))
        return self.call(torch.ops.aten.empty_strided.default, shape, strides, dtype=sized.dtype, device=device)

    def launch(
        self, kernel: Any, launch: Launcher, stage: Stage, places: Sequence[fx.Node], sizes: Sequence[Any]
    ) -> list[fx.Node]:
        """What the launch writes, one node each."""
        tensors = [places[n] for n in (*stage.reads, *stage.writes)]
        names = launch.kernel.arg_names
        constants = {**launch.constants, **launch.whole_constants(sizes)}
        given = {name: value for name, value in constants.items() if name not in OPTIONS}
        outputs = list(names[len(stage.reads) : len(tensors)])
        call = self.call(
            triton_kernel_wrapper_functional,
            kernel_idx=kernel_side_table.add_kernel(kernel),
            constant_args_idx=kernel_side_table.add_constant_args({}),
            grid=[(launch.grid(sizes), 1, 1)],
            tma_descriptor_metadata={},
            kwargs={**dict(zip(names, [*tensors, *sizes], strict=False)), **given},
            tensors_to_clone=outputs,
        )
        return [self.call(operator.getitem, call, name) for name in outputs]


__all__ = ["insert_launches", "launchers_of", "stages_of"]
