"""Running what the printers print: generated torch on the CPU, generated Triton in its interpreter, the reference."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from xdsl.ir import SSAValue

from fusecade.codegen.bind import bind
from fusecade.codegen.torch_source import print_torch
from fusecade.codegen.triton_source import print_triton
from fusecade.ir import symbols, tile
from fusecade.ir.interpret import run_kernel
from fusecade.ir.text import parse_module

PROGRAMS = Path(__file__).parent / "programs"
DTYPES = {
    "f16": torch.float16, "f32": torch.float32, "f64": torch.float64,
    "i1": torch.bool, "i32": torch.int32, "i64": torch.int64,
}  # fmt: skip
TOLERANCE = {torch.float16: 2e-3, torch.float32: 1e-5, torch.float64: 1e-12}


def parse_kernel(text: str) -> tile.KernelOp:
    return cast(tile.KernelOp, parse_module(text).body.block.first_op)


@dataclass
class Runner:
    """One hand-written tile program, printed twice and run."""

    folder: Path

    def kernel(
        self, name: str, params: Mapping[str, int] | None = None, replaced: Mapping[str, str] | None = None
    ) -> tile.KernelOp:
        text = (PROGRAMS / f"{name}.mlir").read_text()
        for old, new in (replaced or {}).items():
            text = text.replace(old, new)
        return bind(parse_kernel(text), params)

    def parse(self, text: str) -> tile.KernelOp:
        return parse_kernel(text)

    def inputs(self, kernel: tile.KernelOp, sizes: Mapping[str, int]) -> list[Tensor]:
        """Tensors to be filled, with the strides that the kernel declares."""
        return self._tensors(kernel.inputs, sizes)

    def empty(self, kernel: tile.KernelOp, sizes: Mapping[str, int]) -> list[Tensor]:
        """Outputs with the strides that the kernel declares, full of what must not be left."""
        return self._tensors(kernel.written, sizes)

    def _tensors(self, values: Sequence[SSAValue], sizes: Mapping[str, int]) -> list[Tensor]:
        found = []
        for value in values:
            kind = cast(tile.BufferType, value.type)
            shape, strides = ([symbols.evaluate(e, sizes) for e in x.data] for x in (kind.shape, kind.strides))
            dtype = DTYPES[str(kind.element_type)]
            fill = math.nan if dtype.is_floating_point else 0
            length = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if all(shape) else 0
            found.append(torch.full((length,), fill, dtype=dtype).as_strided(shape, strides))
        return found

    def torch(self, kernel: tile.KernelOp, inputs: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        source = print_torch(kernel)
        module = self.load(source.name, source.text, "torch")
        outputs = self.empty(kernel, sizes)
        arguments = [*inputs, *outputs, *(sizes[s] for s in source.sizes)]
        count = source.programs(sizes)
        middle = count // 2  # in two calls, as two threads would
        for start, stop in ((middle, count), (0, middle)):
            getattr(module, f"{source.name}_programs")(*arguments, start, stop)
        again = self.empty(kernel, sizes)
        getattr(module, source.name)(*inputs, *again, *(sizes[s] for s in source.sizes))
        for a, b in zip(outputs, again, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        return outputs

    def triton(
        self, kernel: tile.KernelOp, inputs: Sequence[Tensor], sizes: Mapping[str, int], wide: bool = False
    ) -> list[Tensor]:
        source = print_triton(kernel, wide=wide)
        module = self.load(source.name, source.text, "triton")
        outputs = self.empty(kernel, sizes)
        programs = source.programs(sizes)
        if programs:
            arguments = [*inputs, *outputs, *(sizes[s] for s in source.sizes)]
            getattr(module, source.name)[(programs,)](*arguments, **source.constants(sizes))
        return outputs

    def load(self, name: str, text: str, kind: str):
        path = self.folder / f"{name}_{kind}_{len(list(self.folder.iterdir()))}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def check(
        self,
        kernel: tile.KernelOp | str,
        inputs: Sequence[Tensor],
        sizes: Mapping[str, int] | None = None,
        printers: Sequence[str] = ("torch", "triton"),
        tolerance: float | None = None,
    ) -> list[Tensor]:
        """Both printers' code gives what the reference interpreter gives; the reference's results."""
        if isinstance(kernel, str):
            kernel = parse_kernel(kernel)
        sizes = sizes or {}
        expected = run_kernel(kernel, inputs, sizes)
        for printer in printers:
            for given, wanted in zip(getattr(self, printer)(kernel, inputs, sizes), expected, strict=True):
                assert_right(given, wanted, printer, tolerance)
        return expected


def assert_right(given: Tensor, wanted: Tensor, printer: str, tolerance: float | None = None) -> None:
    """Equal to the float64 reference, up to rounding of the result's dtype at the scale of the results."""
    if not given.dtype.is_floating_point:
        assert torch.equal(given.to(wanted.dtype), wanted), printer
        return
    finite = wanted[wanted.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    allowed = (TOLERANCE[given.dtype] if tolerance is None else tolerance) * max(scale, 1e-30)
    torch.testing.assert_close(
        given.double(), wanted, rtol=0, atol=allowed, equal_nan=True, msg=lambda m: f"{printer}: {m}"
    )


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.fixture
def random_tensor() -> Callable[..., Tensor]:
    """`random_tensor(2, 3, dtype=..., spread=...)`: normal numbers, the same in every run."""
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int, dtype: torch.dtype = torch.float32, spread: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * spread).to(dtype)

    return make
