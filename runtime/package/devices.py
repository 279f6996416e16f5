"""Which of a package's targets runs on a device.  A loaded package has no driver module above it, and asks itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from .manifest import Package, TargetEntry


def describe(device: torch.device) -> tuple[str, str]:
    """kind and arch of a device: ("cpu", ""), ("cuda", "sm_90"), ("hip", "gfx942")."""
    if device.type == "cpu":
        return "cpu", ""
    if device.type != "cuda":
        return device.type, ""
    if torch.version.hip:
        return "hip", torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return "cuda", f"sm_{major}{minor}"


def default_device(package: Package) -> torch.device:
    """Where a function without tensors runs."""
    kinds = {t.kind for t in package.targets.values()}
    if kinds & {"cuda", "hip"} and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def fitting(package: Package, kind: str, arch: str) -> TargetEntry | None:
    """The target whose kernels run on such a device: its own, or on NVIDIA an older one of the same generation."""
    found = [t for t in package.targets.values() if t.kind == kind]
    if kind == "cpu":
        return found[0] if found else None
    exact = [t for t in found if set(archs(package, t)) <= {arch, f"{arch}a"}]
    if exact:
        return exact[0]
    older = [t for t in found if all(_runs(a, arch) for a in archs(package, t))]
    return max(older, key=lambda t: max(map(_number, archs(package, t))), default=None)


def nearest(package: Package, kind: str, arch: str) -> TargetEntry | None:
    """The target whose source is compiled for a device that none fits: of the same kind, the nearest that is older."""
    found = [t for t in package.targets.values() if t.kind == kind]
    older = [t for t in found if _number(t.name) <= _number(arch)]
    return (
        max(older, key=lambda t: _number(t.name)) if older else min(found, key=lambda t: _number(t.name), default=None)
    )


def archs(package: Package, target: TargetEntry) -> Sequence[str]:
    """What its binaries were compiled for; its name, where it has none."""
    kernels = [package.kernels[s.kernel] for b in target.buckets for s in b.steps if s.kernel is not None]
    return sorted({b.arch for k in kernels for b in k.binaries}) or [target.name]


def _runs(binary: str, device: str) -> bool:
    """A cubin for sm_80 runs on sm_86; one for sm_90a nowhere else."""
    a, b = (re.fullmatch(r"sm_(\d+)(\d)", text) for text in (binary, device))
    return a is not None and b is not None and a[1] == b[1] and int(a[2]) <= int(b[2])


def _number(arch: str) -> int:
    digits = re.sub(r"[^0-9]", "", arch)
    return int(digits) if digits else 0
