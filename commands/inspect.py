"""`fusecade inspect`: what is in a package, or a library of them, without running any of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import InvalidArgument, MissingTool
from ..runtime.package.fields import parse
from ..runtime.package.manifest import Binary, Kernel, Package, TargetEntry
from ..runtime.package.signature import ConstantLeaf, Leaf
from ..runtime.resources import find_tool
from . import exits, inspect_library

_RESOURCES = (
    "registers",
    "spills",
    "shared_bytes",
    "tensor_cores",
    "predicted_us",
    "bound_by",
    "hbm_bytes",
    "params",
    "grid",
)


def run(chosen: Namespace, console: Console) -> int:
    if inspect_library.is_library(chosen.package):
        return inspect_library.run(chosen, console)
    package = Package.open(chosen.package)
    kernels = _chosen(package, chosen.kernel)
    if chosen.json:
        print(json.dumps(as_data(package, kernels), indent=1))
        return exits.FINE
    if chosen.source or chosen.sass:
        for name, kernel in kernels.items():
            for text in _texts(package, name, kernel, chosen.source, chosen.sass):
                sys.stdout.write(text.rstrip() + "\n\n")
        return exits.FINE
    _show(package, kernels, console)
    return exits.FINE


def as_data(package: Package, kernels: dict[str, Kernel]) -> dict[str, Any]:
    """Everything but sources and binaries."""
    signature = package.signature
    used = _where(package)
    return {
        "digest": package.digest,
        "name": signature.name,
        "versions": package.versions,
        "arguments": [_leaf_data(x) for x in signature.leaves],
        "results": [_leaf_data(x) for x in signature.results],
        "sizes": list(signature.sizes),
        "mutates": [signature.leaves[n].path for n in signature.mutates],
        "constants": [
            {"shape": list(c.layout.shape), "dtype": c.layout.dtype, "device": c.device} for c in package.constants
        ],
        "targets": [_target_data(package, t) for t in package.targets.values()],
        "kernels": {
            name: {
                "kernels": [k.name for k in kernel.artifact.kernels],
                "sources": list(kernel.sources),
                "binaries": [_binary_data(b) for b in kernel.binaries],
                "others": list(kernel.others),
                "used": used.get(name, []),
                "resources": _resources(package, name, kernel),
            }
            for name, kernel in kernels.items()
        },
        "members": package.members,
    }


def _chosen(package: Package, name: str | None) -> dict[str, Kernel]:
    if name is None:
        return package.kernels
    found = {
        key: kernel
        for key, kernel in package.kernels.items()
        if key.startswith(name) or any(k.name.startswith(name) for k in kernel.artifact.kernels)
    }
    if not found:
        raise InvalidArgument.choice("a kernel of the package", name, package.kernels)
    return found


def _show(package: Package, kernels: dict[str, Kernel], console: Console) -> None:
    say = lambda *lines: [console.print(x, markup=False, highlight=False, soft_wrap=True) for x in lines]  # noqa: E731
    signature, made = package.signature, package.versions
    size = sum(package.members.values())
    say(f"{signature.name}: {size} bytes, sha256 of the manifest {package.digest}")
    say("written with " + ", ".join(f"{k} {v}" for k, v in sorted(made.items())))
    say(*(f"  takes {_leaf(x)}" for x in signature.leaves), *(f"  gives {_leaf(x)}" for x in signature.results))
    for n in signature.mutates:
        say(f"  changes {signature.leaves[n].path}")
    for text, *_ in signature.relations:
        say(f"  where {text}")
    if package.constants:
        count = sum(package.members[c.member] for c in package.constants)
        say(f"  holds {len(package.constants)} tensors of {count} bytes")
    console.print(_targets(package))
    table = _table("kernel", "binary", "registers", "spills", "shared", "us", "bound by", "parameters")
    for name, kernel in kernels.items():
        for at, found in enumerate(_resources(package, name, kernel)):
            binary = kernel.binaries[at].arch if kernel.binaries else ""
            shown = [found.get(k) for k in ("registers", "spills", "shared_bytes")]
            params = ", ".join(f"{k}={v}" for k, v in sorted((found.get("params") or {}).items()))
            us = found.get("predicted_us")
            row = (name if at == 0 else "", binary, *("" if x is None else str(x) for x in shown))
            row += ("" if us is None else f"{us:.4g}", str(found.get("bound_by") or ""), params)
            table.add_row(*map(Text, row))
    console.print(table)


def _targets(package: Package) -> Table:
    table = _table("target", "sizes up to", "kernel calls", "other operators")
    for target in package.targets.values():
        for bucket in target.buckets:
            bounds = ", ".join(f"{k}={v}" for k, v in sorted(bucket.upto.items())) or "all"
            calls = sum(s.kernel is not None for s in bucket.steps)
            names = sorted({s.operator for s in bucket.steps if s.kernel is None})
            others = ": ".join([str(len(bucket.steps) - calls), *([", ".join(names)] if names else [])])
            table.add_row(*map(Text, (target.name, bounds, str(calls), others)))
    return table


def _target_data(package: Package, target: TargetEntry) -> dict[str, Any]:
    return {
        "name": target.name,
        "kind": target.kind,
        "buckets": [
            {
                "upto": dict(b.upto),
                "steps": [s.kernel or s.operator for s in b.steps],
                "workspace": dict(b.workspace),
                "report": b.report,
            }
            for b in target.buckets
        ],
    }


def _where(package: Package) -> dict[str, list[str]]:
    used: dict[str, list[str]] = {}
    for target in package.targets.values():
        for n, bucket in enumerate(target.buckets):
            for name in dict.fromkeys(s.kernel for s in bucket.steps if s.kernel is not None):
                used.setdefault(name, []).append(f"{target.name}[{n}]")
    return used


def _resources(package: Package, name: str, kernel: Kernel) -> list[dict[str, Any]]:
    """What the report says of each of the kernels of a call."""
    target = package.targets.get(kernel.artifact.target)
    buckets = [b for b in target.buckets if any(s.kernel == name for s in b.steps)] if target else []
    reports = [parse(package.data(b.report), "report") for b in buckets[:1]]
    listed = reports[0].get("kernels", []) if reports and isinstance(reports[0], dict) else []
    known = {k.get("source"): k for k in listed if isinstance(k, dict)}
    found = [known.get(k.source, {}) for k in kernel.artifact.kernels]
    return [{x: k.get(x) for x in _RESOURCES} for k in found]


def _texts(package: Package, name: str, kernel: Kernel, source: bool, sass: bool) -> list[str]:
    found = []
    if source:
        found += [f"# {member}\n{package.text(member)}" for member in kernel.sources]
    if sass and not kernel.binaries:
        found.append(f"# {name} has no binary: it is source for {kernel.artifact.target}")
    if sass:
        found += [f"// {b.member}\n{disassembled(package, b)}" for b in kernel.binaries]
    return found


def disassembled(package: Package, binary: Binary) -> str:
    """The machine code of a binary.  Raises MissingTool where there is nothing to take it apart with."""
    nvidia = binary.arch.startswith("sm_")
    tool = "nvdisasm" if nvidia else "llvm-objdump"
    path = find_tool(tool)
    if path is None:
        raise MissingTool(
            tool,
            needed_for="disassembling",
            install="pip install triton"
            if nvidia
            else "install LLVM; `keep=['assembly']` puts the assembly into a package",
        )
    with tempfile.TemporaryDirectory(prefix="fusecade-inspect-") as folder:
        file = Path(folder, "kernel.bin")
        file.write_bytes(package.data(binary.member))
        options = ["-c"] if nvidia else ["-d", f"--mcpu={binary.arch}"]
        done = subprocess.run(
            [path, *options, str(file)], capture_output=True, text=True, errors="replace", timeout=120
        )
    if done.returncode != 0:
        raise InvalidArgument(
            f"{tool} cannot take {binary.member} apart: {done.stderr.strip()[:300]}",
            next_step="is it a kernel of a GPU?",
        )
    return done.stdout


def _leaf(x: Leaf) -> str:
    if isinstance(x, ConstantLeaf):
        return f"{x.path} = {x.value!r}"
    shape = ", ".join(map(str, x.layout.shape))
    alias = f", the memory of {x.alias[0]} {x.alias[1]}" if x.alias else ""
    return f"{x.path}: {x.layout.dtype}[{shape}], strides {list(x.layout.strides)}{alias}"


def _leaf_data(x: Leaf) -> dict[str, Any]:
    if isinstance(x, ConstantLeaf):
        return {"path": x.path, "constant": repr(x.value)}
    return {
        "path": x.path,
        "shape": list(x.layout.shape),
        "strides": list(x.layout.strides),
        "dtype": x.layout.dtype,
        "alias": list(x.alias) if x.alias else None,
    }


def _binary_data(b: Binary) -> dict[str, Any]:
    return {
        "member": b.member, "symbol": b.symbol, "arch": b.arch, "threads": b.threads, "shared_bytes": b.shared_bytes,
        "parameters": list(b.parameters), "blocks": dict(b.constants),
    }  # fmt: skip


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("kernel", "parameters", "other operators"))
    return table
