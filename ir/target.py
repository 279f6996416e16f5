"""Targets: what the cost model and the printers know about a machine.  One frozen record each, and a table of them.

The shipped figures are those of data sheets (dense rates, without sparsity); the source stands at each row, and "est."
marks what vendors do not publish.  This file imports nothing but the standard library and the error catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import InvalidArgument

KINDS = ("cpu", "cuda", "hip")
DTYPES = ("f64", "f32", "tf32", "bf16", "f16", "f8", "i8")  # what a matrix unit multiplies


class Rates(dict[str, float]):
    """A dictionary that does not change: operations a second, by the name of what is multiplied."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a target is frozen; make another with dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return Rates, (dict(self),)


@dataclass(frozen=True)
class Target:
    """One machine.

    name: key of the table.  kind: "cpu", "cuda" or "hip".  arch: what the compiler calls it (80 → "sm_80", "gfx942").
    On a CPU, an SM is a core, its SRAM is the core's share of the last private cache, and a launch is a torch call.
    """

    name: str
    kind: str
    arch: str
    hbm_bytes_per_s: float  # main memory
    l2_bytes: int  # the last cache that all SMs share
    l2_bytes_per_s: float
    sram_bytes: int  # shared memory of an SM
    max_sram_per_program: int  # the part of it that one program may have
    registers: int  # 32-bit registers of an SM
    max_registers_per_thread: int
    sms: int
    warp_size: int
    max_threads: int  # in one program
    max_threads_per_sm: int
    vector_flops: float  # f32, outside matrix units; a fused multiply-add counts two
    exp_per_s: float
    flops: Mapping[str, float] = field(hash=False)  # of matrix units, by the names in DTYPES
    launch_us: float
    dot_min: tuple[int, int, int] = (16, 16, 16)  # smallest (m, n, k) of one dot
    dots_from_sram: bool = False  # matrix units read their operands there, not in registers
    library_rate: float = 0.8  # part of `flops` that the vendor's products reach, on large operands
    l2_merge: float = 1.0  # how often the shared cache answers several SMs, which ask for the same, by reading it once

    def __post_init__(self) -> None:
        object.__setattr__(self, "flops", Rates(self.flops))
        if self.kind not in KINDS:
            raise InvalidArgument.choice(f"kind of target {self.name!r}", self.kind, KINDS)
        if not self.name or not self.arch:
            raise InvalidArgument("a target has a name and an arch")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type in ("int", "float") and not value > 0:
                raise InvalidArgument(f"{f.name} of target {self.name!r} is {value}; it must be more than 0")
            if f.type == "int" and not isinstance(value, int):
                raise InvalidArgument(f"{f.name} of target {self.name!r} is {value}; it must be an integer")
        if self.max_sram_per_program > self.sram_bytes:
            raise InvalidArgument(f"target {self.name!r}: a program cannot have more SRAM than an SM has")
        if not self.flops:
            raise InvalidArgument(f"target {self.name!r} has no matrix rates; give those of its vector units instead")
        for dtype, rate in self.flops.items():
            if dtype not in DTYPES:
                raise InvalidArgument.choice(f"dtype in flops of target {self.name!r}", dtype, DTYPES)
            if not rate > 0:
                raise InvalidArgument(f"flops[{dtype!r}] of target {self.name!r} is {rate}; it must be more than 0")
        if len(self.dot_min) != 3 or min(self.dot_min) < 1:
            raise InvalidArgument(f"dot_min of target {self.name!r} is {self.dot_min}; it is three sizes, at least 1")

    def dot_flops(self, dtype: str) -> float:
        """Operations a second of a dot on `dtype`: of the matrix units, or of the vector units where they cannot."""
        if dtype not in DTYPES:
            raise InvalidArgument.choice("dtype of a dot", dtype, DTYPES)
        return self.flops.get(dtype, self.vector_flops)

    def ridge(self, dtype: str) -> float:
        """Operations per byte of main memory above which a kernel is bound by arithmetic."""
        return self.dot_flops(dtype) / self.hbm_bytes_per_s


_KB = 1024
_MB = 1024 * 1024

_ROWS = (
    # Two cores of a server with AVX-512, measured: torch calls on tiles; `runtime/probe.py` measures your machine.
    Target(
        name="cpu", kind="cpu", arch="x86_64",
        hbm_bytes_per_s=12e9, l2_bytes=32 * _MB, l2_bytes_per_s=110e9,
        sram_bytes=1 * _MB, max_sram_per_program=1 * _MB,
        registers=512, max_registers_per_thread=512,  # 32 vector registers of 16 lanes
        sms=2, warp_size=1, max_threads=1, max_threads_per_sm=1,
        vector_flops=27e9, exp_per_s=3.5e9,
        flops={"f64": 95e9, "f32": 190e9},  # on tiles that stay in cache
        launch_us=3.0, dot_min=(1, 1, 1),
    ),
    # NVIDIA A100 80GB SXM: data sheet (June 2021); A100 architecture white paper; CUDA programming guide, 8.0.
    # L2: 5120 B/clock at 1.41 GHz.  exp: 16 a clock and SM.
    Target(
        name="sm_80", kind="cuda", arch="sm_80",
        hbm_bytes_per_s=2.039e12, l2_bytes=40 * _MB, l2_bytes_per_s=7.2e12,
        sram_bytes=164 * _KB, max_sram_per_program=163 * _KB,
        registers=65536, max_registers_per_thread=255,
        sms=108, warp_size=32, max_threads=1024, max_threads_per_sm=2048,
        vector_flops=19.5e12, exp_per_s=2.4e12,
        flops={"f64": 19.5e12, "tf32": 156e12, "bf16": 312e12, "f16": 312e12, "i8": 624e12},
        launch_us=4.0,
    ),
    # NVIDIA L40S: data sheet (2023); Ada architecture white paper; CUDA programming guide, 8.9.  L2 bandwidth: est.
    Target(
        name="sm_89", kind="cuda", arch="sm_89",
        hbm_bytes_per_s=864e9, l2_bytes=96 * _MB, l2_bytes_per_s=5.0e12,
        sram_bytes=100 * _KB, max_sram_per_program=99 * _KB,
        registers=65536, max_registers_per_thread=255,
        sms=142, warp_size=32, max_threads=1024, max_threads_per_sm=1536,
        vector_flops=91.6e12, exp_per_s=5.7e12,
        flops={"tf32": 183e12, "bf16": 362e12, "f16": 362e12, "f8": 733e12, "i8": 733e12},
        launch_us=4.0,
    ),
    # NVIDIA H100 SXM5: data sheet (2023); H100 architecture white paper; CUDA programming guide, 9.0.
    # L2: 5120 B/clock, as on the A100, at 1.755 GHz.  exp: 3.9 T/s, as FlashAttention-3 (2024) counts.
    Target(
        name="sm_90", kind="cuda", arch="sm_90",
        hbm_bytes_per_s=3.35e12, l2_bytes=50 * _MB, l2_bytes_per_s=9.0e12,
        sram_bytes=228 * _KB, max_sram_per_program=227 * _KB,
        registers=65536, max_registers_per_thread=255,
        sms=132, warp_size=32, max_threads=1024, max_threads_per_sm=2048,
        vector_flops=66.9e12, exp_per_s=3.9e12,
        flops={"f64": 66.9e12, "tf32": 494e12, "bf16": 989e12, "f16": 989e12, "f8": 1979e12, "i8": 1979e12},
        launch_us=4.0, dots_from_sram=True,
        library_rate=0.7,  # at the clock that 700 W allow
        # 10 TB/s arrive in products on tiles, where 0.8 of 9 leave the cache.  Triton's persistent product of 8192 x 8192
        # x 4096 in f16 on tiles of 128 x 256 (0.69 ms, meta-pytorch/tritonbench#894) draws 9.3, and the vendor's product
        # on tiles of 128 x 128 in f8 10.0 (8192 x 8192 x 4096 at 1278 T/s, triton-lang/triton#5461).
        l2_merge=1.4,
    ),
    # NVIDIA B200: HGX B200 data sheet (2025); CUDA programming guide, 10.0.  L2 bandwidth and merging, exp: est.
    Target(
        name="sm_100", kind="cuda", arch="sm_100",
        hbm_bytes_per_s=8.0e12, l2_bytes=126 * _MB, l2_bytes_per_s=10e12,
        sram_bytes=228 * _KB, max_sram_per_program=227 * _KB,
        registers=65536, max_registers_per_thread=255,
        sms=148, warp_size=32, max_threads=1024, max_threads_per_sm=2048,
        vector_flops=75e12, exp_per_s=4.4e12,
        flops={"f64": 37e12, "tf32": 1.1e15, "bf16": 2.25e15, "f16": 2.25e15, "f8": 4.5e15, "i8": 4.5e15},
        launch_us=4.0, dots_from_sram=True, l2_merge=1.4,
    ),
    # AMD Instinct MI300X: data sheet (2023); CDNA 3 white paper and ISA guide.  The shared cache is the Infinity Cache
    # (each die's own L2 has 4 MB); an SM is a compute unit with 512 KB of vector registers.  exp: est., 16 a clock.
    Target(
        name="gfx942", kind="hip", arch="gfx942",
        hbm_bytes_per_s=5.3e12, l2_bytes=256 * _MB, l2_bytes_per_s=17.2e12,
        sram_bytes=64 * _KB, max_sram_per_program=64 * _KB,
        registers=131072, max_registers_per_thread=512,
        sms=304, warp_size=64, max_threads=1024, max_threads_per_sm=2048,
        vector_flops=163.4e12, exp_per_s=10e12,
        flops={
            "f64": 163.4e12, "f32": 163.4e12, "tf32": 653.7e12, "bf16": 1307.4e12, "f16": 1307.4e12,
            "f8": 2614.9e12, "i8": 2614.9e12,
        },
        launch_us=6.0,
    ),
)  # fmt: skip

TARGETS: dict[str, Target] = {row.name: row for row in _ROWS}


def get_target(name: str) -> Target:
    """The shipped record of that name.  Raises InvalidArgument, which lists the known names."""
    try:
        return TARGETS[name]
    except (KeyError, TypeError):
        raise InvalidArgument.choice("target", name, TARGETS) from None
