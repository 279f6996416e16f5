"""How a captured function is called, as the data of a package's manifest."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from torch import fx
from torch.utils import _pytree as pytree

from ..errors import UnsupportedProgram
from ..frontend.capture import Captured, signature_of
from ..frontend.sizes import Opaque, size
from ..ir import symbols
from ..runtime.package.forms import LEAF, RETURNED, can_be_named
from ..runtime.package.values import dtype_name, encode_constant
from .guards import argument_names

_SIGNS = {
    sympy.StrictLessThan: "<", sympy.LessThan: "<=", sympy.StrictGreaterThan: ">", sympy.GreaterThan: ">=",
    sympy.Equality: "==", sympy.Unequality: "!=",
}  # fmt: skip


def home_of(captured: Captured) -> str:
    """The type of device that a package calls "target": where the tensors of the example are, numbers aside."""
    devices = [x.device.type for x in captured.example if x.dim()] or [x.device.type for x in captured.example]
    return devices[0] if devices else "cpu"


def text_of(value: int | torch.SymInt, names: Mapping[str, str]) -> int | str:
    """A size as a manifest has it.  Raises Opaque where it is no expression over the named sizes."""
    found = symbols.to_python(size(value, names))
    unknown = symbols.names(size(value, names)) - set(names.values())
    if unknown:
        raise Opaque(f"it depends on {sorted(unknown)[0]}, which is not known before the program runs")
    return found


def layout_of(x: torch.Tensor, names: Mapping[str, str]) -> dict[str, Any]:
    """Raises Opaque as `text_of` does."""
    return {
        "shape": [text_of(n, names) for n in x.shape],
        "strides": [text_of(n, names) for n in x.stride()],
        "dtype": dtype_name(x.dtype),
    }


def signature_data(fn: Callable[..., Any], captured: Captured) -> dict[str, Any]:
    """Raises UnsupportedProgram for a function that a package cannot be called like, with what stands in the way."""
    names, home = captured.size_names, home_of(captured)
    examples = {
        int(key): x for (kind, key), x in zip(captured.inputs, captured.example, strict=True) if kind == "argument"
    }
    paths = argument_names(captured.in_spec)
    leaves = []
    for position, path in enumerate(paths):
        if position in examples:
            leaves.append({"path": path, "alias": None, **_tensor(examples[position], names, home, f"argument {path}")})
        else:
            leaves.append({"path": path, "constant": _constant(captured.constants[position], f"argument {path}")})
    count = len(captured.inputs)
    mutates = []
    for n in captured.mutated:
        kind, key = captured.inputs[n]
        if kind != "argument":
            raise UnsupportedProgram(
                f"the function changes {key}, which belongs to it and not to its caller: a package has no state",
                next_step="pass that tensor as an argument (`torch.func.functional_call`), or put the module in eval mode",
            )
        mutates.append(int(key))
    assert count == len(captured.example)
    return {
        "name": str(getattr(fn, "__name__", type(fn).__name__))[:200],
        "arguments": form_of(captured.in_spec, "the arguments"),
        "parameters": _parameters(fn),
        "leaves": leaves,
        "sizes": sorted(names.values()),
        "relations": _relations(captured),
        "result": form_of(captured.out_spec, "the result"),
        "results": _results(captured, names, home),
        "mutates": mutates,
    }


def form_of(spec: pytree.TreeSpec, what: str) -> Any:
    """As `runtime/package/forms.py` has it.  Raises UnsupportedProgram for other containers."""
    if spec.is_leaf():
        return LEAF
    parts = [form_of(child, what) for child in spec.children()]
    if spec.type in (tuple, list):
        return {spec.type.__name__: parts}
    if spec.type is namedtuple and can_be_named(name := spec.context.__name__, fields := list(spec.context._fields)):
        return {"named": [name, fields, parts]}
    if spec.type in RETURNED.values():
        return {"returned": [spec.type.__name__, parts]}
    if spec.type is dict and all(type(k) in (str, int) for k in spec.context):
        return {"dict": [[k, p] for k, p in zip(spec.context, parts, strict=True)]}
    raise UnsupportedProgram(
        f"{what} of the function has a {getattr(spec.type, '__name__', spec.type)}, and packages know tuples, named ones "
        "too, lists, and dictionaries with texts or integers for keys",
        next_step="wrap the function in one that takes, and gives, one of these",
    )


def _tensor(x: torch.Tensor, names: Mapping[str, str], home: str, what: str) -> dict[str, Any]:
    try:
        layout = layout_of(x, names)
    except Opaque as error:
        raise UnsupportedProgram(f"{what} has a shape that packages have no word for: {error}") from error
    return {**layout, "device": "target" if x.device.type == home else "cpu"}


def _constant(value: Any, what: str) -> Any:
    try:
        return encode_constant(value)
    except ValueError as error:
        raise UnsupportedProgram(
            f"{what} is {error}, which packages have no word for",
            next_step="pass tensors, numbers and texts; what else the function needs it can close over",
        ) from error


def _results(captured: Captured, names: Mapping[str, str], home: str) -> list[dict[str, Any]]:
    nodes = outputs_of(captured.gm)[: captured.out_spec.num_leaves]
    owners: dict[int, list[Any]] = {}
    placeholders = [n for n in captured.gm.graph.nodes if n.op == "placeholder"]
    for (kind, key), node in zip(captured.inputs, placeholders, strict=True):
        if kind == "argument":
            owners.setdefault(_storage(node.meta["val"]), ["argument", int(key)])
    results = []
    for n, node in enumerate(nodes):
        path = str(n)
        value = node.meta.get("val") if isinstance(node, fx.Node) else node
        if isinstance(value, torch.Tensor):
            alias = owners.get(_storage(value))
            results.append({"path": path, "alias": alias, **_tensor(value, names, home, f"result {n}")})
            owners.setdefault(_storage(value), ["result", n])
        elif isinstance(node, fx.Node):
            raise UnsupportedProgram(
                f"result {n} of the function is a size or a number that is computed, and packages give tensors",
                next_step="leave it out of the result, or make a tensor of it",
            )
        else:
            results.append({"path": path, "constant": _constant(value, f"result {n}")})
    return results


def outputs_of(gm: fx.GraphModule) -> list[Any]:
    results: Any = gm.graph.output_node().args[0]
    return list(results) if isinstance(results, tuple | list) else [results]


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata


def _parameters(fn: Callable[..., Any]) -> list[list[Any]] | None:
    signature = signature_of(fn)
    if signature is None:
        return None
    return [
        [p.name, p.kind.name.lower(), p.default is not inspect.Parameter.empty]
        for p in signature.parameters.values()
    ]  # fmt: skip


def _relations(captured: Captured) -> list[list[Any]]:
    """What tracing found out about dynamic sizes, because the program asked: `n > 16`."""
    symints = [n for x in captured.example for n in [*x.shape, *x.stride()] if isinstance(n, torch.SymInt)]
    if not symints:
        return []
    found: list[list[Any]] = []
    pending: list[Any] = [guard.expr for guard in symints[0].node.shape_env.guards]
    while pending:
        e = pending.pop(0)
        if isinstance(e, sympy.And):
            pending = [*e.args, *pending]
        elif e not in (sympy.true, True):
            found.append(_relation(e, captured.size_names))
    return found


def _relation(e: Any, names: Mapping[str, str]) -> list[Any]:
    sign = next((sign for kind, sign in _SIGNS.items() if isinstance(e, kind)), None)
    try:
        if sign is None:
            raise Opaque("it is no comparison")
        left, right = (symbols.to_python(size(side, names)) for side in e.args)
    except Opaque as error:
        raise UnsupportedProgram(
            f"the program asks of its sizes whether {e}, which packages have no word for: {error}",
            next_step="fix the sizes that it asks about: leave them out of `dynamic`",
        ) from error
    return [f"{left} {sign} {right}", sign, left, right]
