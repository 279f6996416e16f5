"""What a compiled kernel uses: registers, spills, shared memory, tensor-core instructions.

NVIDIA: `cuobjdump -res-usage` (4 ms) and, for instruction counts, `nvdisasm` (half a second), both from the Triton
wheel. AMD: the metadata block and the instructions of the amdgcn text. Nothing here needs a GPU, and nothing here
raises for a tool that is not there: the `reason` says why a number is None.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .triton_compile import Compiled

# The matrix instructions of each kind of target; those that a kernel does not have are reported as 0.
NVIDIA_MATRIX: tuple[str, ...] = ("HGMMA", "IGMMA", "QGMMA", "UTCHMMA", "UTCIMMA", "UTCQMMA", "HMMA", "IMMA", "DMMA")
AMD_MATRIX: tuple[str, ...] = ("v_mfma", "v_smfmac", "v_wmma")

_SASS = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_]*)(?P<modifiers>(?:\.\w+)*)", re.M)
_NVIDIA_MATRIX = re.compile(r"[A-Z]*MMA(_\w+)?")
_AMD_INSTRUCTION = re.compile(r"^\s+(?P<opcode>[a-z]\w+_\w+)\b", re.M)
_WIDTH = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


@dataclass(frozen=True)
class Resources:
    """Per kernel. A number is None where it could not be read; `reason` says why."""

    shared_bytes: int
    registers: int | None = None  # 32-bit registers per thread; AMD: vector registers
    scalar_registers: int | None = None  # AMD only
    spills_bytes: int | None = None  # stack per thread, without what the program itself keeps there
    spill_store_bytes: int | None = None  # the bytes of all spill instructions, each counted once, as ptxas reports
    spill_load_bytes: int | None = None
    tensor_core_instructions: Mapping[str, int] = field(default_factory=dict)
    tensor_memory_columns: int = 0  # sm_100
    sass_lines: int | None = None  # machine instructions; AMD: of the amdgcn text
    reason: str | None = None

    @property
    def tensor_cores(self) -> int:
        """How many matrix instructions of any kind the kernel has."""
        return sum(self.tensor_core_instructions.values())


def read_resources(compiled: Compiled, *, disassemble: bool = True) -> Resources:
    """Read them; `disassemble=False` leaves out all that needs instructions (100 times faster on NVIDIA)."""
    if compiled.kind == "hip":
        return _read_amdgcn(compiled)
    return _read_cubin(compiled, disassemble)


def _read_cubin(compiled: Compiled, disassemble: bool) -> Resources:
    known: dict[str, object] = {
        "shared_bytes": compiled.shared_bytes,
        "tensor_memory_columns": compiled.metadata.get("tmem_size") or 0,
    }
    reasons = []
    with tempfile.TemporaryDirectory(prefix="fusecade-cubin-") as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.binary)
        usage = _run_tool("cuobjdump", "-res-usage", str(cubin))
        found = re.search(r"\bREG:(\d+) STACK:(\d+)\b.*?\bLOCAL:(\d+)", usage.text)
        if found:
            registers, stack, local = map(int, found.groups())
            known |= {"registers": registers, "spills_bytes": max(0, stack + local - _unread_stack(compiled.ptx))}
        else:
            reasons.append(usage.reason or f"cuobjdump -res-usage names no kernel: {usage.text[:200]!r}")
        if disassemble:
            sass = _run_tool("nvdisasm", "-c", str(cubin))
            if sass.reason:
                reasons.append(sass.reason)
            else:
                known |= _count_sass(sass.text)
    return Resources(**known, reason="; ".join(reasons) or None)  # type: ignore[arg-type]


def _unread_stack(ptx: str) -> int:
    """Bytes of stack that the compiler declares and nothing in the kernel reads or writes."""
    declared = re.findall(r"\.local \.align \d+ \.b8\s+(\w+)\[(\d+)\];", ptx)
    return sum(-(-int(size) // 8) * 8 for name, size in declared if len(re.findall(rf"\b{name}\b", ptx)) == 1)


def _count_sass(sass: str) -> dict[str, object]:
    matrix = Counter(dict.fromkeys(NVIDIA_MATRIX, 0))
    moved = Counter({"STL": 0, "LDL": 0})
    lines = 0
    for instruction in _SASS.finditer(sass):
        lines += 1
        opcode = instruction["opcode"]
        if _NVIDIA_MATRIX.fullmatch(opcode):
            matrix[opcode] += 1
        elif opcode in moved:
            modifiers = instruction["modifiers"].split(".")
            moved[opcode] += next((_WIDTH[m] for m in modifiers if m in _WIDTH), 4)
    return {
        "tensor_core_instructions": dict(matrix),
        "sass_lines": lines,
        "spill_store_bytes": moved["STL"],
        "spill_load_bytes": moved["LDL"],
    }


def _read_amdgcn(compiled: Compiled) -> Resources:
    text = compiled.assembly

    def entry(name: str) -> int | None:
        """A number of the kernel's metadata block."""
        found = re.search(rf"^\s*\.{name}:\s*(\d+)\s*$", text, re.M)
        return int(found[1]) if found else None

    registers = entry("vgpr_count")
    spilled = entry("vgpr_spill_count")
    matrix = Counter(dict.fromkeys(AMD_MATRIX, 0))
    lines = 0
    for instruction in _AMD_INSTRUCTION.finditer(text):
        lines += 1
        for family in AMD_MATRIX:
            matrix[family] += instruction["opcode"].startswith(family)
    return Resources(
        shared_bytes=compiled.shared_bytes,
        registers=registers,
        scalar_registers=entry("sgpr_count"),
        spills_bytes=entry("private_segment_fixed_size"),
        spill_store_bytes=None if spilled is None else 4 * spilled,
        spill_load_bytes=None if spilled is None else 4 * spilled,
        tensor_core_instructions=dict(matrix),
        sass_lines=lines,
        reason=None if registers is not None else "the amdgcn text has no metadata block with .vgpr_count",
    )


@dataclass(frozen=True)
class _Output:
    text: str
    reason: str | None = None


def _run_tool(tool: str, *arguments: str) -> _Output:
    path = find_tool(tool)
    if path is None:
        return _Output("", f"{tool} is neither in the Triton wheel nor on the PATH")
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, errors="replace", timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _Output("", f"{tool} could not be run: {error}")
    if done.returncode != 0:
        return _Output("", f"{tool} failed with exit status {done.returncode}: {done.stderr.strip()[:500]}")
    return _Output(done.stdout)


def find_tool(tool: str) -> str | None:
    """NVIDIA's binary utilities as the Triton wheel brings them, or as the CUDA toolkit does."""
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        wheel = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / tool
        if wheel.is_file():
            return str(wheel)
    return shutil.which(tool)
