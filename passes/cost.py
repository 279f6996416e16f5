"""The IO model: the time that a tile kernel takes on a target, from what it moves and computes (`census.py`).

Main-memory traffic follows from the traffic on chip: an operand is read once as long as what runs at the same time shares
it in cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.target import Target
from .census import Dot, Work
from .held_tiles import Nested
from .rate_classes import FULL_RATE

HBM_EFFICIENCY = 0.85  # of the data sheet's bandwidth, in a good kernel
BATCHED = 0.5  # of the rate of dots, where their tiles have batch ranks: they are issued by single warps
STREAMED = 16  # registers of a thread for tiles that are worked on an element at a time, and for addresses
SHORT_LOAD = 6  # registers for a load of 4 bytes or less, with its address and mask, where a warp has several rows
ASYNCHRONOUS = 4  # bytes that a copy past the registers has at least
AROUND_RESULTS = 32  # registers of a thread for what a loop over results keeps (9 to 38 on sm_90)
ISSUE_S = 20e-9  # seconds of an SM that one tile operation takes at least, however small its tile
SCHEDULERS = 4  # of an SM, each with its part of the vector units and a matrix unit
OVERLAPPED = 0.7  # of the time of vector units counts where several warps take turns: the rest goes on beside dots
LATENCY_S = 0.6e-6  # from asking for a tile to having it, out of the shared cache under load

# Elements a second of one core, a torch call on a tile that stays in cache (measured, AVX-512 server core).
CPU_RATES = {
    "exp": 2.6e9, "exp2": 1.9e9, "expm1": 1.0e9, "log": 1.5e9, "log2": 1.5e9, "log1p": 0.55e9, "sqrt": 2.8e9,
    "rsqrt": 2.0e9, "tanh": 1.9e9, "sin": 1.4e9, "cos": 1.4e9, "erf": 0.88e9, "pow": 0.3e9, "div": 1.9e9,
    "lt": 0.55e9, "le": 0.55e9, "gt": 0.55e9, "ge": 0.55e9, "eq": 0.55e9, "ne": 0.55e9, "inside": 0.4e9,
    "ilt": 0.55e9, "ile": 0.55e9, "igt": 0.55e9, "ige": 0.55e9, "ieq": 0.55e9, "ine": 0.55e9, "select": 0.95e9,
    "reduce": 5.5e9, "any": 10e9, "all": 10e9, "argmin": 2.5e9, "argmax": 2.5e9, "fill": 8.0e9, "pick": 30.0e9,
}  # fmt: skip
CPU_MAP_RATE = 3.0e9
CPU_VECTOR_RATE = (
    4.5e9  # elements of a matrix that a core multiplies by a vector in a second, from its cache (measured)
)


# Of programs that the cores take in turns: Python's lock goes from one to the other at each operation (measured).
CPU_TEAM_US = 300.0  # that the beginning and the end of a launch cost
CPU_HANDOVER_US = 2.5
# Of operations that the cores share.
CPU_SHARED_US = 1.0  # for one more core to begin and to end
CPU_SHARED_DOT = 1.03  # of the time of a product that is cut by rows
CPU_SPLIT_DOT = 1.4  # of one that a core has to itself otherwise: what follows finds the rows in the other's cache
CPU_GRAIN = 32768  # elements that PyTorch gives a core at least
CPU_SWEEPS = 0.4  # of tile operations go over a tile; the others are views


@dataclass(frozen=True)
class Price:
    """Predicted cost of a launch: microseconds, what bounds it, and whether it fits the target.

    busy_us: of all resources together; it decides between choices that the same resource bounds alike.
    beside: how many programs an SM holds at the same time.
    """

    us: float
    bound_by: str
    hbm_bytes: int
    sram_bytes: int
    register_bytes: int
    fits: bool
    busy_us: float
    beside: int = 1


def _operand_bytes(made: list[tuple[int, int, bool]], warps: int) -> int:
    """Bytes of registers that the computed operands of dots hold, beyond the two tiles that a loop holds anyway.

    made: of each operand its elements, the rows of its dot, and whether what it is converted from is read again.  The
    matrix unit reads a computed operand from registers while the rest goes on: one of them is among the two tiles, each
    further one is held in both formats, and what it is made of as well where that is read again.  Warps that share rows
    hold the operand once each.
    """
    total = 0
    for n, (elements, rows, read_again) in enumerate(sorted(made, reverse=True)):
        total += 2 * elements * (max(1, 16 * warps // max(1, rows)) - 1)
        if n:
            total += (12 if read_again else 6) * elements
    return total


def price(
    w: Work, target: Target, warps: int = 4, stages: int = 2, persistent: bool = False, shared: bool = False
) -> Price:
    """Time of one launch on `target`, from what it does.

    That programs are persistent changes what fits, not the time: each begins its next result when the one before is done,
    as the machine begins the next program, and nothing of the next one is asked for earlier.
    """
    return _price_cpu(w, target, shared) if target.kind == "cpu" else _price_gpu(w, target, warps, stages, persistent)


def price_with(w: Work, target: Target, params: Mapping[str, int]) -> Price:
    """`price` with launch parameters by name."""
    warps, stages = params.get("num_warps", 4), params.get("num_stages", 2)
    return price(w, target, warps, stages, bool(params.get("persistent")), bool(params.get("share_operations")))


def hbm_bytes(w: Work, target: Target) -> int:
    """Main-memory traffic: what a transfer touches, once more each time it comes back after the cache has lost it."""
    total = 0
    resident = w.hbm_bytes_bound <= 0.8 * target.l2_bytes
    for t in w.loads:
        times = math.prod(n for n, between in t.again if between > 0.8 * target.l2_bytes)
        total += t.distinct if resident else min(t.bytes, t.distinct * times)
    return min(total, w.load_bytes) + w.store_bytes


def _price_gpu(w: Work, target: Target, warps: int, stages: int, persistent: bool) -> Price:
    hbm = hbm_bytes(w, target)
    sram = w.kept_load_bytes + stages * w.loop_load_bytes + w.picked_bytes  # threads read from each other's rows there
    operands = max((_operand_bytes(made, warps) for made in w.made_operands.values()), default=0)
    registers = w.held_bytes + operands
    limit = target.max_registers_per_thread
    if target.kind == "cuda" and w.wide_operand_bytes:  # no matrix unit: operands go through registers, and spill early
        registers += w.wide_operand_bytes
        limit = 108
    elif target.kind == "cuda" and not w.dots:  # more of it, and the assembler spills to have more warps
        limit = min(limit, 200)
    threads = warps * target.warp_size
    per_thread = registers / (4 * threads) + w.column_elements / 4 + 32  # a thread has two of each eight columns
    if w.dots and not w.wide_operand_bytes and not target.dots_from_sram:
        per_thread += max(_fragments(d.shape[0] * d.shape[1], warps) * _steps_ahead(d) for d in w.dots)
        per_thread += w.address_registers / threads
    short = [n for rows, n, at_once in w.short_loads if (at_once < ASYNCHRONOUS if w.dots else rows > warps)]
    per_thread += max((SHORT_LOAD * n / threads for n in short), default=0.0)
    registers = max(registers, w.behind_bytes)
    per_thread = max(per_thread, (w.behind_bytes + operands) / (4 * threads) + 32)
    if w.nested is not None:
        around = _nested_registers(w.nested, w.loop_load_bytes, target, threads)
        per_thread = max(per_thread, around + operands / (4 * threads))
    per_thread += AROUND_RESULTS if persistent else 0
    room = target.registers // threads
    if w.kept_bytes is not None and room < limit:  # the assembler makes do with these, as long as it may
        needed, per_thread, limit = w.kept_bytes / (4 * threads) + STREAMED, min(per_thread, room), room
        per_thread = per_thread if needed <= room else needed
    fits = sram <= target.max_sram_per_program and per_thread <= limit
    beside = [target.registers // (threads * max(per_thread, 32)), target.max_threads_per_sm // threads]
    if sram:
        beside.append(target.sram_bytes // sram)
    resident = max(1.0, min(*beside, w.programs / target.sms))  # programs that an SM runs at the same time
    waves = w.programs / target.sms
    full = math.ceil(waves) / waves if w.programs else 1.0  # idle multiprocessors: in the last wave, or in the only one
    full = max(full, w.heaviest / waves) if w.programs else full  # and at the end, while the heaviest program runs
    drawn = min(1.0, 2 * waves) if w.programs else 1.0  # half of the multiprocessors draw the whole bandwidth
    dots = sum(d.flops / (target.dot_flops(d.dtype) * _gpu_efficiency(d, target)) for d in w.dots)
    quick = sum(n for f, n in w.elements.items() if f in FULL_RATE)
    vector = (w.map_elements * 2 - quick + w.reduce_elements) / (target.vector_flops / 2)
    vector = max(vector, w.transcendental_elements / target.exp_per_s)
    issue = w.operations * ISSUE_S / target.sms  # beside dots, where the matrix unit works on its own
    vector *= 1.0 if _in_step(w, warps, resident) else OVERLAPPED
    waits = w.programs * w.waits * LATENCY_S / (target.sms * resident)
    merged = sum(t.bytes * (1 - 1 / target.l2_merge) for t in w.loads if t.together > 1)
    l2 = (w.load_bytes + w.store_bytes - merged) / (target.l2_bytes_per_s * 0.8 * drawn)
    if w.loop_load_bytes:  # no more comes than was asked for before it is needed
        asked = target.sms * resident * (stages - 1) * w.loop_load_bytes
        l2 = max(l2, (w.load_bytes + w.store_bytes) * LATENCY_S / asked)
    times = {
        "compute": ((max(dots, issue) if target.dots_from_sram else dots + issue) + vector + waits) * full,
        "HBM": hbm / (target.hbm_bytes_per_s * HBM_EFFICIENCY * drawn),
        "L2": l2,
    }
    bound_by = max(times, key=lambda k: times[k])
    us = times[bound_by] * 1e6 + target.launch_us
    return Price(
        us, bound_by, hbm, sram, registers, fits, (sum(times.values()) + issue) * 1e6, max(1, int(min(beside)))
    )


def _in_step(w: Work, warps: int, resident: float) -> bool:
    """Whether vector units wait for dots and dots for them: a scheduler has one warp, or all its warps share their rows.

    resident: programs that an SM runs at the same time.  Warps that share rows reduce them together, and meet there.
    """
    if not w.dots:
        return False
    share_rows = bool(w.reduce_elements) and all(16 * warps > d.shape[0] for d in w.dots)
    return resident * warps <= SCHEDULERS or (share_rows and resident < 2)


def _nested_registers(n: Nested, loop_load_bytes: int, target: Target, threads: int) -> float:
    """Registers of a thread around an inner loop: the tiles, and what waits there for the inner loop to start again.

    That is a quarter of each vector along the columns (a thread has two of each eight), also of a row that is made beside
    the tile, an address of 64 bits for every 16 bytes that it loads, and the operands of two steps where the matrix unit
    reads them from registers.
    """
    held = n.held_bytes / (4 * threads) + n.column_elements / 4 + 2 * loop_load_bytes / (16 * threads)
    if not target.dots_from_sram:
        held += _fragments(n.points, threads // target.warp_size)
    return held + 32


def _fragments(points: int, warps: int) -> float:
    """Registers of a thread for the operands of one step of a dot, where the matrix unit reads them from registers."""
    return (points / warps) ** 0.5


def _steps_ahead(dot: Dot) -> float:
    """Operands of how many steps the assembler has in registers: of a tile 64 deep they fit (230 registers of 255 for a
    product on tiles of 128 x 128), of one 128 deep they are spilled.  A power that keeps the two apart."""
    return max(1.0, dot.shape[2] / 64) ** 1.5 if dot.stepped else 1.0


def _gpu_efficiency(dot: Dot, target: Target) -> float:
    """The part of the rate of dots that tiles of this shape get."""
    if target.kind == "cuda" and dot.dtype in ("f32", "f64"):  # no matrix unit for full precision: tiles may be small
        return 0.75
    efficiency = 0.75 * _filled(dot, 0.5)
    m, n, _ = dot.shape
    if 0 not in dot.shape:
        efficiency *= min(1.0, 2 * m * n / (m + n) / 64) ** 0.5
    return efficiency * (BATCHED if dot.batch > 1 else 1.0)


def _filled(dot: Dot, depth: float) -> float:
    """How well a dot's tile fills the units that multiply.  depth: the power at which a short contracted rank counts."""
    if 0 in dot.shape:
        return 1.0
    m, n, k = dot.shape
    return min(1.0, m / 64) ** 0.5 * min(1.0, n / 64) ** 0.5 * min(1.0, k / 32) ** depth


def _cpu_dot(dot: Dot, target: Target) -> float:
    """Seconds of a dot on all cores."""
    return dot.flops / (target.dot_flops(dot.dtype if dot.dtype in target.flops else "f32") * _filled(dot, 0.3))


def _price_cpu(w: Work, target: Target, shared: bool = False) -> Price:
    """A tile program as torch calls: dots, sweeps over tiles, transcendental functions, and the calls themselves.

    shared: whether the cores share each operation, where there are programs enough for each to take its own.
    """
    hbm = hbm_bytes(w, target)
    live = w.carried_bytes + 2 * w.temporary_bytes + w.loop_load_bytes + w.kept_load_bytes
    vectors = sum(d.flops / (2 * CPU_VECTOR_RATE * target.sms) for d in w.dots if 1 in d.shape[:2])
    matrices = [d for d in w.dots if 1 not in d.shape[:2]]
    sweep = sum(n / CPU_RATES.get(f, CPU_MAP_RATE) for f, n in w.elements.items()) / target.sms
    sweep *= 1.0 if live <= target.sram_bytes else min(2.0, (live / target.sram_bytes) ** 0.12)
    if shared:
        dots = sum(_cpu_dot(d, target) * _cpu_sharing(d, target) for d in matrices)
        each = sum(w.elements.values()) / max(1.0, CPU_SWEEPS * w.operations)
        sweep *= target.sms / min(target.sms, max(1.0, each / CPU_GRAIN))
        calls = w.operations * (target.launch_us + CPU_SHARED_US) * 1e-6
    else:
        apart = w.programs >= 2 * target.sms  # of fewer programs, the cores share each operation
        uneven = max(w.heaviest, math.ceil(w.programs / target.sms)) / (w.programs / target.sms) if apart else 1.0
        dots, sweep = uneven * sum(_cpu_dot(d, target) for d in matrices), uneven * sweep
        calls = w.operations * target.launch_us * 1e-6  # Python makes one at a time, for all cores
        calls += (CPU_TEAM_US + w.operations * CPU_HANDOVER_US) * 1e-6 if apart else 0.0
    times = {
        "compute": dots,
        "sweeps": sweep,
        "calls": calls,
        "memory": max(0.5 * hbm / target.hbm_bytes_per_s, vectors),  # a matrix is multiplied by a vector as it comes
    }
    bound_by = max(times, key=lambda k: times[k])
    us = sum(times.values()) * 1e6
    return Price(us, bound_by, hbm, live, w.carried_bytes, True, us)


def _cpu_sharing(dot: Dot, target: Target) -> float:
    """Times that a product takes where the cores share it."""
    if not dot.batch:
        return CPU_SHARED_DOT
    return min(CPU_SPLIT_DOT, math.ceil(dot.batch / target.sms) * target.sms / dot.batch)
