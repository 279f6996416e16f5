"""A scheduled kernel becomes an artifact: bound, printed for its target, with everything that running it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    IntegerType,
    Signedness,
)
from xdsl.ir import Attribute, SSAValue

from ..ir import symbols, tile
from ..ir.launch import available
from ..ir.target import Target
from .artifact import KernelArtifact, Layout
from .bind import bind
from .text import NotPrintable
from .torch_source import print_torch
from .triton_descriptors import describable
from .triton_source import print_triton

__all__ = ["NotPrintable", "choices_of", "dtype_name", "emit", "index_fits"]

_FLOATS = {Float16Type: "f16", BFloat16Type: "bf16", Float32Type: "f32", Float64Type: "f64"}


def emit(kernel: tile.KernelOp, target: Target, multiples: Mapping[str, int] | None = None) -> KernelArtifact:
    """Print `kernel` for `target`.

    multiples: sizes known to be multiples of a number.  Raises NotPrintable where the target has no such program.
    """
    bound = bind(kernel, multiples=multiples)
    inputs = tuple(_layout(v) for v in bound.inputs)
    outputs = tuple(_layout(v) for v in bound.written)
    idle: set[str] = set()  # launch parameters that change nothing in this kernel
    if target.kind == "cpu":
        printed = print_torch(bound)
        kind, launch = "torch", {"programs": symbols.to_python(symbols.from_text(printed.grid))}
        if kernel.parameters.get("share_operations"):
            launch["shared_by"] = target.sms
    else:
        printed = print_triton(bound, wide=not index_fits(bound))
        kind = "triton"
        launch = {
            "arguments": list(printed.arguments),
            "signature": dict(printed.signature),
            "constexprs": dict(printed.constexprs),
            "whole": {k: list(v) for k, v in printed.whole.items()},
            "divisible": list(printed.divisible_by_16),
            "grid": symbols.to_python(symbols.from_text(printed.grid)),
            "num_warps": printed.num_warps,
            "num_stages": printed.num_stages,
        }
        if printed.described:
            launch["described"] = [printed.arguments.index(p) for p in printed.described]
        there = (printed.described, "warp_specialize" in printed.constexprs, bound.grid_ranks)
        idle = {n for n, x in zip(("descriptors", "warp_specialize", "persistent"), there, strict=True) if not x}
    return KernelArtifact(
        name=printed.name,
        kind=kind,
        target=target.name,
        source=printed.text,
        function=printed.name if kind == "triton" else f"{printed.name}_programs",
        inputs=inputs,
        outputs=outputs,
        sizes=tuple(printed.sizes),
        params={n: v for n, v in kernel.parameters.items() if n not in idle},
        launch=launch,
    )


def choices_of(
    kernel: tile.KernelOp, target: Target, choices: Sequence[tuple[str, tuple[int, ...]]]
) -> dict[str, list[int]]:
    """The values that each parameter may take, the present one first, with descriptors where some load has one."""
    found = {name: list(values) for name, values in choices}
    if "descriptors" in available(target) and describable(bound := bind(kernel), not index_fits(bound)):
        given = kernel.parameters.get("descriptors", 0)
        found["descriptors"] = [given, 1 - given]
    return found


def index_fits(kernel: tile.KernelOp) -> bool:
    """Whether every index into every rank, up to the end of its last tile, fits in 32 bits.

    A size that is not known is taken to: `Launcher` refuses others.  Offsets into buffers are another matter: they are in
    64 bits wherever they may need it (`triton_addresses.py`).
    """
    return all(
        int(r.extent) + kernel.parameters.get(r.tile or "", 1) < 2**31 for r in kernel.ranks.data if r.extent.is_Integer
    )


def _layout(value: SSAValue) -> Layout:
    kind = value.type
    assert isinstance(kind, tile.BufferType)
    shape = tuple(symbols.to_python(e) for e in kind.shape.data)
    strides = tuple(symbols.to_python(e) for e in kind.strides.data)
    return Layout(shape, strides, dtype_name(kind.element_type))


def dtype_name(element: Attribute) -> str:
    """ "f16", "bf16", "f32", "f64", "i1", "i8", "ui8", "i16", "i32" or "i64"."""
    for kind, name in _FLOATS.items():
        if isinstance(element, kind):
            return name
    assert isinstance(element, IntegerType)
    unsigned = element.signedness.data == Signedness.UNSIGNED
    return f"{'ui' if unsigned else 'i'}{element.width.data}"
