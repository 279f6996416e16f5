"""Programs of which Inductor is shown the kernels, and the code that it writes for them.

`python visible_programs.py FOLDER NAME...` writes that code, without a GPU; it has to run where Triton's interpreter is off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / 4, dim=-1) @ v


def attend_and_scan(q, k, v):
    return torch.cumsum(attend(q, k, v), -1) + 1


def packed(x):
    """The kernel's inputs are parts of what Inductor computes."""
    q, k, v = torch.cumsum(x, -1).chunk(3, -1)
    return torch.cumsum(attend(q, k, v), 1)


def shifted(x, k, v):
    """An input that begins in the middle of 16 bytes, with gaps between its rows, in memory that Inductor plans."""
    q = torch.as_strided(torch.cumsum(x, -1), (2, 48, 16), (960, 20, 1), 3)
    return torch.cumsum(attend(q, k, v), 1)


def turned(x, k, v):
    """An input that Inductor could as well lay out the other way round."""
    return torch.cumsum(attend(torch.cumsum(x.transpose(1, 2), -1), k, v), 1)


def wide(x):
    """An input whose rows Inductor could as well keep farther apart, at multiples of 128 bytes."""
    return torch.cumsum(torch.softmax(torch.cumsum(x, 0), -1), 0)


def twice(q, k, v):
    """A kernel that reads what another wrote, and what lies between them."""
    return torch.cumsum(attend(torch.cumsum(attend(q, k, v), 1), k, v), 1)


def long_row(x):
    """A few long rows, cut into parts: two kernels with a workspace between them."""
    return torch.cumsum(torch.logsumexp(x, -1, keepdim=True).expand(2, 16), 1)


@dataclass(frozen=True)
class Program:
    """shapes: of its float32 arguments.  dynamic: as in `fusecade.compile`.  others: shapes that the same code is to take."""

    fn: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    dynamic: dict[int, dict[int, str]] | None = None
    others: tuple[tuple[tuple[int, ...], ...], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    cpp: bool = False


_NAMED = {0: {1: "n"}, 1: {1: "m"}, 2: {1: "m"}}
_HEADS = ((2, 48, 16), (2, 40, 16), (2, 40, 16))
PROGRAMS = {
    "static": Program(attend_and_scan, _HEADS),
    "dynamic": Program(
        attend_and_scan, _HEADS, _NAMED, (((2, 7, 16), (2, 33, 16), (2, 33, 16)), ((2, 64, 16), (2, 3, 16), (2, 3, 16)))
    ),
    "dynamic_cpp": Program(attend_and_scan, _HEADS, _NAMED, cpp=True),
    "packed": Program(packed, ((2, 48, 48),)),
    "shifted": Program(shifted, ((2, 48, 20), *_HEADS[1:])),
    "turned": Program(turned, ((2, 16, 48), *_HEADS[1:])),
    "wide": Program(wide, ((32, 1033),)),
    "twice": Program(twice, _HEADS),
    "long_row": Program(long_row, ((2, 1 << 16),)),
}


def write(name: str, folder: Path) -> None:
    """NAME.py or NAME.cpp with Inductor's code, NAME.json with what was planned."""
    from fake_gpu import Stop, fake_gpu
    from torch._inductor import compile_fx
    from torch._subclasses.fake_tensor import FakeTensorMode

    from fusecade.assembly.build import make_plan, place_kernels
    from fusecade.assembly.remainder import Session, compile_with_inductor
    from fusecade.assembly.splice import splice
    from fusecade.assembly.visible_kernels import shown
    from fusecade.driver import Options
    from fusecade.frontend.capture import capture
    from fusecade.ir.target import get_target

    program = PROGRAMS[name]
    with FakeTensorMode():
        tensors = [torch.empty(shape, device="cuda") for shape in program.shapes]
    captured = capture(program.fn, tensors, dynamic=program.dynamic)
    options, fallbacks = Options("sm_90", "inductor", fuse="always", **program.options), list[tuple[str, str]]()
    plan = make_plan(captured.gm, get_target("sm_90"), options, folder / "cache", fallbacks)
    placed, hidden = shown(place_kernels(plan, options, folder / "cache", fallbacks))
    graph = splice(plan.gm, placed)
    inner = partial(compile_fx.compile_fx_inner, cpp_wrapper=program.cpp)
    with fake_gpu() as written, suppress(Stop), patch.object(compile_fx, "compile_fx_inner", inner):
        why = compile_with_inductor(graph, captured.example, inference=True, session=Session())
        raise RuntimeError(f"{name}: {why}")
    (folder / f"{name}.{'cpp' if program.cpp else 'py'}").write_text(written[0])
    about = {
        "hidden": hidden, "fallbacks": fallbacks,
        "kernels": [kernel.to_json() for call in plan.calls for kernel in call.artifact.kernels],
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(about))


class Module(torch.nn.Module):
    def forward(self, q, k, v):
        return attend_and_scan(q, k, v)


def write_ahead(folder: Path) -> None:
    """ahead.cpp with AOTInductor's code, ahead.json with what it was given of ours."""
    from fake_gpu import Stop, fake_gpu
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    import fusecade

    given: dict[str, Any] = {}
    package = torch._inductor.aoti_compile_and_package

    def spy(program, *, inductor_configs, **named):
        given.update(graph=str(program.graph), metadata=inductor_configs["aot_inductor.metadata"])
        return package(program, inductor_configs=inductor_configs, **named)

    n, m = torch.export.Dim("n", min=8), torch.export.Dim("m", min=8)
    with FakeTensorMode(shape_env=ShapeEnv()):
        tensors = tuple(torch.empty(shape, device="cuda") for shape in _HEADS)
        with torch.no_grad():
            program = torch.export.export(Module(), tensors, dynamic_shapes=({1: n}, {1: m}, {1: m}))
    with fake_gpu() as written, suppress(Stop), patch.object(torch._inductor, "aoti_compile_and_package", spy):
        fusecade.aot_inductor(program, path=folder / "model.pt2", target="sm_90", fuse="always")
    (folder / "ahead.cpp").write_text(written[0])
    (folder / "ahead.json").write_text(json.dumps(given))


if __name__ == "__main__":
    for one in sys.argv[2:]:
        if one == "ahead":
            write_ahead(Path(sys.argv[1]))
        else:
            write(one, Path(sys.argv[1]))
