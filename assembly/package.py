"""Plans for one function, several targets and buckets, as the bytes of one package."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..codegen.artifact import KernelArtifact
from ..driver import Plan
from ..errors import InternalCompilerError, UnsupportedProgram
from ..frontend.capture import Captured
from ..runtime.loaded import file_name
from ..runtime.package import archive
from ..runtime.package.manifest import FORMAT, SCHEMA, Package
from ..runtime.package.values import dtype_name
from ..runtime.triton_compile import Compiled, CompileFailure, triton_version
from .binaries import blocks_of
from .package_signature import home_of, signature_data
from .package_steps import Steps, constants_of

MOST_CONSTANT_BYTES = 64 << 20
EXTRAS = ("ttir", "assembly")  # what may be kept besides binaries: Triton's IR; PTX or amdgcn


@dataclass
class Part:
    """One target for one bucket: a plan, and the graph that it is for.

    upto: the bucket's bounds.  sizes: those that blocks of whole ranks were compiled for.  report: what `explain` says.
    """

    plan: Plan
    captured: Captured
    upto: Mapping[str, int]
    sizes: Mapping[str, int]
    compiled: Mapping[str, Compiled | CompileFailure]
    report: dict[str, Any]


@dataclass
class _Contents:
    members: dict[str, bytes] = field(default_factory=dict)
    kernels: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, suffix: str, data: bytes) -> str:
        """A member named by its contents: equal ones are there once."""
        path = f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.{suffix}"
        self.members[path] = data
        return path


def largest(names: Sequence[str], upto: Mapping[str, int], hints: Mapping[str, int]) -> dict[str, int]:
    """The sizes that a bucket's blocks have to hold: its bounds; where it has none, at least 4096."""
    return {name: upto.get(name) or max(4096, hints.get(name, 0)) for name in names}


def check_compiled(plan: Plan, compiled: Mapping[str, Compiled | CompileFailure]) -> None:
    """compiled: by the kernel's fingerprint.  Raises InternalCompilerError for a kernel that did not compile."""
    for call in plan.calls:
        for kernel in call.artifact.kernels:
            found = compiled.get(kernel.fingerprint)
            if isinstance(found, CompileFailure):
                raise InternalCompilerError(
                    f"Triton did not compile {kernel.name} for {kernel.target}: {found.reason}", stage="emit"
                )


def pack(fn: Callable[..., Any], parts: Mapping[str, Sequence[Part]], keep: Sequence[str], version: str) -> bytes:
    """The package.  parts: of each target, its buckets in order.

    Raises UnsupportedProgram for a function that a package cannot hold, with what stands in the way.
    """
    first = next(iter(parts.values()))[0]
    contents = _Contents()
    signature = signature_data(fn, first.captured)
    constants = _constants(first.captured, contents)
    targets = [
        {
            "name": name,
            "kind": buckets[0].plan.target.kind,
            "buckets": [_bucket(part, n, contents, keep) for n, part in enumerate(buckets)],
        }
        for name, buckets in parts.items()
    ]
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "versions": {"fusecade": version, "torch": torch.__version__, "triton": triton_version()},
        "signature": signature,
        "constants": constants,
        "kernels": contents.kernels,
        "targets": targets,
        "members": {
            name: {"bytes": len(data), "sha256": archive.digest(data)} for name, data in contents.members.items()
        },
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()
    data = archive.write({archive.MANIFEST: text, **contents.members})
    Package.of(data)  # what is written can be read
    return data


def constants_data(captured: Captured) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What the function holds, as a manifest lists it, and as members.  Raises UnsupportedProgram where no package can."""
    contents = _Contents()
    return _constants(captured, contents), contents.members


def _constants(captured: Captured, contents: _Contents) -> list[dict[str, Any]]:
    found, home = constants_of(captured), home_of(captured)
    total = sum(x.numel() * x.element_size() for x in found.values())
    if total > MOST_CONSTANT_BYTES:
        name, x = max(found.items(), key=lambda item: item[1].numel() * item[1].element_size())
        raise UnsupportedProgram(
            f"the function holds {total >> 20} MiB of tensors, and a package holds up to {MOST_CONSTANT_BYTES >> 20} MiB; "
            f"the largest is {name}, {x.dtype} {list(x.shape)}",
            next_step="pass the weights as arguments: export a function that calls "
            "`torch.func.functional_call(model, weights, (x,))`",
        )
    made = []
    for name, x in found.items():
        if x.is_meta:
            raise UnsupportedProgram(
                f"the tensor {name}, which the function holds, is on the meta device: it has no values",
                next_step="export the function with its real weights, or pass them as arguments",
            )
        made.append(
            {
                "shape": list(x.shape),
                "strides": list(x.stride()),
                "dtype": dtype_name(x.dtype),
                "device": "target" if x.device.type == home else "cpu",
                "data": contents.add("constants/tensor", "bin", _bytes(x)),
            }
        )
    return made


def _bytes(x: torch.Tensor) -> bytes:
    flat = x.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _bucket(part: Part, n: int, contents: _Contents, keep: Sequence[str]) -> dict[str, Any]:
    plan = part.plan
    steps = Steps(plan, part.captured)
    called = {s["kernel"] for s in steps.steps if "kernel" in s}
    keys = {
        call.artifact.fingerprint: _kernel(call.artifact, part, contents, keep, n)
        for call in plan.calls
        if call.artifact.fingerprint in called
    }
    for step in steps.steps:
        if "kernel" in step:
            step["kernel"] = keys[step["kernel"]]
    report = json.dumps(part.report, indent=1, sort_keys=True, default=str).encode()
    return {
        "upto": dict(part.upto),
        "steps": steps.steps,
        "results": steps.results,
        "workspace": asdict(plan.memory) if plan.memory is not None else {},
        "report": contents.add(f"{plan.target.name}/report", "json", report),
    }


def _kernel(artifact: KernelArtifact, part: Part, contents: _Contents, keep: Sequence[str], bucket: int) -> str:
    """Adds a kernel, and returns its name in the manifest."""
    target, others = artifact.target, list[str]()
    data = artifact.to_json()
    found = [data, *(s["kernel"] for s in data["stages"])]
    for one, kernel in zip(found[1:] or found, artifact.kernels, strict=True):
        path = f"{target}/{file_name(kernel.name)}"
        one["source"] = contents.add(path, "py", kernel.source.encode())
        if "tile" in kernel.facts:
            others.append(contents.add(path, "mlir", str(kernel.facts["tile"]).encode()))
    for one in found:
        one["facts"] = {}
    binaries = []
    if artifact.kind == "triton":
        for kernel in artifact.kernels:
            compiled = part.compiled[kernel.fingerprint]
            assert isinstance(compiled, Compiled)
            path = f"{target}/{file_name(kernel.name)}"
            binaries.append(_binary(kernel, compiled, path, contents, part.sizes))
            if "assembly" in keep:
                suffix = "ptx" if compiled.kind == "cuda" else "amdgcn"
                others.append(contents.add(path, suffix, compiled.assembly.encode()))
            if "ttir" in keep:
                others.append(contents.add(path, "ttir", compiled.ttir.encode()))
    entry = {
        "artifact": data, "fingerprint": artifact.fingerprint, "binaries": binaries, "others": sorted(set(others))
    }  # fmt: skip
    name = f"{target}/{file_name(artifact.name)}-{artifact.fingerprint[:12]}"
    if contents.kernels.get(name, entry) != entry:  # the same source, compiled for larger blocks
        name = f"{name}.{bucket}"
    contents.kernels[name] = entry
    return name


def _binary(
    kernel: KernelArtifact, compiled: Compiled, path: str, contents: _Contents, sizes: Mapping[str, int]
) -> dict[str, Any]:
    about = compiled.metadata
    suffix = "cubin" if compiled.kind == "cuda" else "hsaco"
    warp = int(about.get("warp_size") or (64 if compiled.kind == "hip" else 32))
    if about.get("num_ctas", 1) != 1 or about.get("launch_cooperative_grid") or about.get("profile_scratch_size"):
        raise InternalCompilerError(f"kernel {kernel.name} needs a launch that packages do not have", stage="emit")
    kinds = [kernel.launch["signature"][a] for a in kernel.launch["arguments"]]
    own = ["pointer" if kind.startswith("*") else kind for kind in kinds]
    count, arch = declared(compiled)
    if not len(own) <= count <= len(own) + 2:
        raise InternalCompilerError(f"kernel {kernel.name} declares {count} parameters for {len(own)} arguments")
    return {
        "data": contents.add(path, suffix, compiled.binary),
        "symbol": str(about.get("name") or compiled.kernel_name),
        "arch": arch,
        "threads": warp * compiled.num_warps,
        "shared_bytes": compiled.shared_bytes,
        "scratch_bytes": int(about.get("global_scratch_size") or 0),
        "parameters": [*own, *["scratch"] * (count - len(own))],
        "constants": blocks_of(kernel, sizes),
    }


def declared(compiled: Compiled) -> tuple[int, str]:
    """How many parameters the assembly declares, those that the compiler adds included, and what it is for."""
    if compiled.kind == "hip":
        listed = re.search(r"^\s*\.args:(.*?)^\s*\.group_segment", compiled.assembly, re.M | re.S)
        kinds = re.findall(r"\.value_kind:\s*(\w+)", listed[1] if listed else compiled.assembly)
        return len([k for k in kinds if not k.startswith("hidden_")]), str(compiled.arch)
    entry = re.search(rf"\.entry {re.escape(str(compiled.metadata.get('name')))}\((.*?)\)", compiled.assembly, re.S)
    target = re.search(r"^\.target (sm_\w+)", compiled.assembly, re.M)
    if entry is None or target is None:
        raise InternalCompilerError(f"the assembly of {compiled.kernel_name} declares no entry")
    return entry[1].count(".param "), target[1]
