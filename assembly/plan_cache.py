"""Plans that outlive the process: the same graph, target, options and versions give the same kernels, so keep them.

    plan = cached_plan(gm, target, options, folder)

The key is a hash of all that decides what is generated: the graph as text, the target's numbers, the options, and the
versions of PyTorch, of Triton and of this package (its very files, so that a changed compiler never meets old kernels).
Likely values of dynamic sizes are left out: they steer prices, not results.  An entry refers to nodes of the graph by
their position, and every reference is checked against the graph at hand.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import fx

from ..driver import Call, Options, Plan, plan_graph
from ..frontend.edit import Edit, replay
from ..ir.target import Target
from ..passes.fingerprint import Known
from ..passes.fuse import Refusal
from ..passes.plan_memory import MemoryPlan
from ..runtime.cache import Store, read_artifact
from ..runtime.loaded import DTYPES
from ..runtime.triton_compile import triton_version
from .tunable import Configured, Tunable

log = logging.getLogger("fusecade")

SOURCES = ("codegen", "frontend", "ir", "passes", "driver.py")  # what decides which kernels are generated
SMALL = 1  # tensors that a graph holds: the value of a number may become part of a kernel


def cached_plan(
    gm: fx.GraphModule,
    target: Target,
    options: Options,
    folder: Path | None,
    size_names: Mapping[str, str] | None = None,
    hints: Mapping[str, int] | None = None,
    tuning: Tuning | None = None,
    known: Known | None = None,
) -> Plan:
    """The plan for `gm`, from `folder` where it was made before.  No folder: made anew.

    tuning: what says which configurations kernels are to have.  A plan that it would make otherwise by now is made anew.
    known: what was decided for clusters of other graphs; it grows.
    """
    configure = tuning.configure if tuning is not None else None
    if folder is None:
        return plan_graph(gm, target, options, size_names, hints, configure, known)
    store = store_at(folder)
    key = key_of(gm, target, options, size_names or {})
    body = store.read(key)
    if body is not None:
        try:
            plan = decode(body, gm, target)
            if tuning is None or all(tuning.current(about) for about in tuned_kernels(plan)):
                log.info("a plan from the cache: %s", store.path(key))
                return plan
        except ValueError as error:
            store.reject(key, f"does not fit ({error})")
    began = time.perf_counter()
    plan = plan_graph(gm, target, options, size_names, hints, configure, known)
    log.info("planned in %.2f s, kept as %s", time.perf_counter() - began, store.path(key))
    store.write(key, encode(plan))
    return plan


class Tuning(Protocol):
    """Says which configuration a kernel is to have, and whether what it said once still holds."""

    def configure(self, tunable: Tunable) -> Configured | None: ...

    def current(self, about: Mapping[str, Any]) -> bool: ...

    def close(self) -> None:
        """Ends what it has started."""
        ...


def tuned_kernels(plan: Plan) -> list[Mapping[str, Any]]:
    """What was said of the plan's kernels, of each once; a plan that was made without tuning is not current."""
    found = [call.artifact.facts.get("tuning", {}) for call in plan.calls]
    return list({json.dumps(about, sort_keys=True): about for about in found}.values())


@cache
def store_at(folder: Path) -> Store:
    return Store(folder / "plans")


def key_of(gm: fx.GraphModule, target: Target, options: Options, size_names: Mapping[str, str]) -> str:
    about = {
        "graph": graph_text(gm),
        "target": asdict(target),
        "tune": options.tune,
        "fuse": options.fuse,
        "complete": options.remainder == "kernels",
        "skip": options.skip,
        "lazy": options.lazy,
        "parameters": options.loops.launch,
        "size_names": dict(size_names),
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "triton": ".".join(triton_version().split(".")[:2]),
        "fusecade": source_version(Path(__file__).parent.parent),
    }


def source_version(root: Path, places: Sequence[str] = SOURCES) -> str:
    """Hash of the files that decide what is generated."""
    total = hashlib.sha256()
    for place in places:
        path = root / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            total.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()[:32]


# --- the graph as text --------------------------------------------------------------------------------------------


def graph_text(gm: fx.GraphModule) -> str:
    """One line a node: what it computes, from what, and what its value looks like."""
    number = {node: n for n, node in enumerate(gm.graph.nodes)}

    def text(x: Any) -> str:
        if isinstance(x, fx.Node):
            return f"%{number[x]}"
        if isinstance(x, tuple | list):
            return f"[{', '.join(map(text, x))}]"
        if isinstance(x, dict):
            return f"{{{', '.join(f'{k}: {text(v)}' for k, v in x.items())}}}"
        if isinstance(x, slice):
            return f"slice({text(x.start)}, {text(x.stop)}, {text(x.step)})"
        return repr(x)

    return "\n".join(
        f"%{n} {node.name} = {node.op} {_target_text(gm, node)} {text(node.args)} {text(node.kwargs)} : "
        f"{_value_text(node.meta.get('val'))}"
        for node, n in number.items()
    )


def _target_text(gm: fx.GraphModule, node: fx.Node) -> str:
    target = node.target
    if node.op == "get_attr":
        value: Any = gm
        for part in str(target).split("."):
            value = getattr(value, part)
        if isinstance(value, torch.Tensor) and value.numel() <= SMALL and not value.is_meta:
            return f"{target} = {value.detach().cpu().tolist()!r}"
        return str(target)
    if isinstance(target, str) or isinstance(target, torch._ops.OpOverload):
        return str(target)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"


def _value_text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        shape, strides = ([str(n) for n in sizes] for sizes in (value.shape, value.stride()))
        return f"{value.dtype} {value.device.type} {shape} {strides}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value_text, value))}]"
    return str(value)


# --- entries ------------------------------------------------------------------------------------------------------


def encode(plan: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    number = {node: n for n, node in enumerate(plan.gm.graph.nodes)}

    def source(x: fx.Node | tuple[fx.Node, int] | int) -> dict[str, int]:
        if isinstance(x, int):
            return {"value": x}
        return {"node": number[x]} if isinstance(x, fx.Node) else {"node": number[x[0]], "dim": x[1]}

    kernels: dict[str, Any] = {}
    for call in plan.calls:
        kernels.setdefault(call.artifact.fingerprint, call.artifact.to_json())
    calls = [
        {
            "kernel": call.artifact.fingerprint,
            "inputs": [number[n] for n in call.inputs],
            "outputs": [number[n] for n in call.outputs],
            "sizes": {name: source(x) for name, x in call.sizes.items()},
            "nodes": list(call.nodes),
        }
        for call in plan.calls
    ]
    return {
        "kernels": kernels,
        "calls": calls,
        "externs": [list(x) for x in plan.externs],
        "refusals": [[list(r.what), r.reason] for r in plan.refusals],
        "rewrites": [list(x) for x in plan.rewrites],
        "memory": asdict(plan.memory) if plan.memory is not None else None,
        "hbm_bytes_unfused": plan.hbm_bytes_unfused,
        "program_text": plan.program_text,
        "edit": plan.edit.to_json() if plan.edit is not None else None,
    }


def decode(body: Mapping[str, Any], gm: fx.GraphModule, target: Target) -> Plan:
    """The plan that an entry describes, on the nodes of `gm`.  Raises ValueError where they do not belong together."""
    try:
        edit = Edit.from_json(body["edit"]) if body["edit"] is not None else None
        gm = replay(gm, edit) if edit is not None else gm
        nodes = list(gm.graph.nodes)
        kernels = {key: read_artifact(data) for key, data in body["kernels"].items()}
        for key, artifact in kernels.items():
            if artifact.fingerprint != key or artifact.target != target.name:
                raise ValueError("a kernel is not the one that its name says")
        calls = [_decode_call(data, kernels, nodes) for data in body["calls"]]
        memory = body["memory"]
        return Plan(
            gm, target, calls,
            externs=[(str(a), str(b)) for a, b in body["externs"]],
            refusals=[Refusal(tuple(map(str, what)), str(why)) for what, why in body["refusals"]],
            rewrites=[(str(a), str(b), str(c)) for a, b, c in body["rewrites"]],
            memory=MemoryPlan(**memory) if memory is not None else None,
            hbm_bytes_unfused=int(body["hbm_bytes_unfused"]),
            program_text=str(body["program_text"]),
            edit=edit,
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _decode_call(data: Mapping[str, Any], kernels: Mapping[str, Any], nodes: list[fx.Node]) -> Call:
    artifact = kernels[data["kernel"]]
    inputs, outputs = ([_node(n, nodes) for n in data[side]] for side in ("inputs", "outputs"))
    for layouts, found in ((artifact.inputs, inputs), (artifact.outputs, outputs)):
        if len(layouts) != len(found):
            raise ValueError(f"kernel {artifact.name} has another number of tensors")
        for layout, node in zip(layouts, found, strict=True):
            _check_layout(layout, node)
    sizes: dict[str, Any] = {}
    for name, source in data["sizes"].items():
        if "value" in source:
            sizes[name] = int(source["value"])
        elif "dim" in source:
            sizes[name] = (_node(source["node"], nodes), int(source["dim"]))
        else:
            sizes[name] = _node(source["node"], nodes)
    if set(artifact.sizes) - set(sizes):
        raise ValueError(f"kernel {artifact.name} lacks a size")
    return Call(artifact, inputs, outputs, sizes, tuple(map(str, data["nodes"])))


def _node(number: Any, nodes: list[fx.Node]) -> fx.Node:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(nodes):
        raise ValueError(f"there is no node {number!r}")
    return nodes[number]


def _check_layout(layout: Any, node: fx.Node) -> None:
    """The dtype, and what is known of the shape, are the node's."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype != DTYPES[layout.dtype]:
        raise ValueError(f"{node.name} is not a tensor of {layout.dtype}")
