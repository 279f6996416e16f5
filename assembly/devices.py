"""What the tensors of a call say: on which devices they are, and how large dynamic sizes are likely to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..autotune.records import Place
from ..errors import InvalidArgument
from ..ir.target import Target


@dataclass(frozen=True)
class Machine:
    """What there is to run kernels of a target.  present: whether it is in this machine; sms, memory_bytes: of it."""

    target: Target
    present: bool
    sms: int
    memory_bytes: int
    driver: str = ""

    @property
    def places(self) -> tuple[Place, ...]:
        """Where a configuration may have been found: on this device, or offline, for any of its name."""
        any_device = Place(self.target.name, self.target.sms, 0)
        return (Place(self.target.name, self.sms, self.memory_bytes), any_device) if self.present else (any_device,)


@dataclass(frozen=True)
class TimedDevice:
    """One on which a process takes times while no other does.

    name: the same for all processes of the machine.  variables: environment variables with which a process sees it alone.
    """

    name: str
    variables: tuple[tuple[str, str], ...] = ()


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
