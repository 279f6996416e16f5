"""Inductor's code for a GPU, run on the CPU: what it launches, ours and its own, runs under Triton's interpreter.

call, launches = load(code, folder);  (out,) = call([q, k, v])
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.runtime import triton_helpers, triton_heuristics

_HEURISTICS = ("user_autotune", "pointwise", "reduction", "persistent_reduction")
_BLOCKS = {"XBLOCK": 8, "R0_BLOCK": 64}  # of Inductor's own kernels, of those kinds that are met here
_EMPTY = "lambda shape, strides, dtype: torch.empty_strided(shape, strides, dtype=dtype)"
_NUMBER = count()


@dataclass(frozen=True)
class Launch:
    """kernel: its function's name.  user: whether Inductor was given it.  divisible: places of arguments at multiples of 16."""

    kernel: str
    user: bool
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    divisible: frozenset[int]


@dataclass
class _Kernel:
    """What Inductor's decorators make of a kernel here."""

    fn: Any
    about: dict[str, Any]
    launches: list[Launch]

    def run(self, *arguments: Any, stream: int) -> None:
        meta, user = self.about["triton_meta"], "configs" in self.about
        constants = dict(meta["constants"])
        if user:
            [configuration] = self.about["configs"]
            *arguments, x, y, z = arguments
            grid = (x, y, z)
        else:
            asked = {name for name, kind in meta["signature"].items() if kind == "constexpr"} - set(constants)
            configuration = {name: _BLOCKS[name] for name in asked}
            grid = (-(-arguments[list(meta["signature"]).index("xnumel")] // _BLOCKS["XBLOCK"]), 1, 1)
        names = self.fn.arg_names
        constants |= {name: value for name, value in configuration.items() if name in names}
        divisible = frozenset(place for (place,) in meta["configs"][0])
        for place in divisible:
            value = arguments[place]
            assert (value.data_ptr() if isinstance(value, torch.Tensor) else value) % 16 == 0, names[place]
        self.launches.append(Launch(self.fn.__name__, user, grid, tuple(arguments), divisible))
        self.fn[grid](*arguments, **constants)


def load(code: str, folder: Path) -> tuple[Callable[[list[torch.Tensor]], Any], list[Launch]]:
    """The code's function on tensors of the CPU, and the list that its launches go into."""
    launches: list[Launch] = []

    def compiled(_: Any, name: str, source: str, device_str: str = "cuda") -> _Kernel:
        kernel = getattr(_module(source, folder), name)
        assert isinstance(kernel, _Kernel)
        kernel.launches = launches
        return kernel

    with _without_a_device(), patch.object(AsyncCompile, "triton", compiled):
        module = _module(re.sub(r"(?m)^(empty_strided_cuda = ).*", rf"\1{_EMPTY}", code), folder)

    def call(arguments: list[torch.Tensor]) -> Any:
        with _without_a_device():
            return module.call(arguments)

    return call, launches


@contextmanager
def _without_a_device() -> Iterator[None]:
    def heuristic(**about: Any) -> Callable[[Any], _Kernel]:
        return lambda fn: _Kernel(fn, about, [])

    with ExitStack() as stack:
        for name in _HEURISTICS:
            stack.enter_context(patch.object(triton_heuristics, name, heuristic))
        stack.enter_context(patch.object(triton_helpers, "set_driver_to_gpu", lambda: None))
        stack.enter_context(patch.object(torch.cuda, "_DeviceGuard", lambda _: nullcontext()))
        stack.enter_context(patch.object(torch.cuda, "set_device", lambda _: None))
        stack.enter_context(patch.object(torch._C, "_cuda_getCurrentRawStream", lambda _: 0, create=True))
        yield


def _module(source: str, folder: Path) -> ModuleType:
    path = folder / f"wrapper_{next(_NUMBER)}.py"  # Triton reads a kernel's text back from its file
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
