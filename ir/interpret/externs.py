"""Opaque ATen calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import InternalCompilerError
from .. import symbols
from .values import size_of


def call_extern(
    target: str, tensors: Sequence[Tensor], arguments: str | None, sizes: Mapping[str, int]
) -> list[Tensor]:
    """Call an ATen operator by its name, `aten.topk.default` or `aten.topk`; see `cascade.ExternOp` for `arguments`."""
    namespace, *path = target.removeprefix("torch.ops.").split(".")
    function: Any = getattr(torch.ops, namespace)
    try:
        for part in path:
            function = getattr(function, part)
    except AttributeError:
        raise InternalCompilerError(f"cascade.extern calls {target}, and torch has no such operator") from None
    if not path or not callable(function):
        raise InternalCompilerError(f"cascade.extern calls {target}, which is not an operator")
    read: Any = json.loads(arguments) if arguments is not None else [{"tensor": n} for n in range(len(tensors))]
    given: dict[str, Any] = {"args": read} if isinstance(read, list) else read

    def value(x: Any) -> Any:
        if isinstance(x, list):
            return [value(y) for y in x]
        if not isinstance(x, dict):
            return x
        match list(x.items()):
            case [("tensor", n)]:
                return tensors[n]
            case [("size", text)]:
                return size_of(symbols.from_text(text), sizes)
            case [("float", text)]:
                return float(text)
            case [("dtype", name)]:
                dtype = getattr(torch, name)
                return torch.float64 if dtype.is_floating_point else dtype
            case [("device" | "layout" | "memory_format", _)]:
                return None
        raise InternalCompilerError(f"cascade.extern {target}: cannot read the argument {json.dumps(x)}")

    result = function(*value(given.get("args", [])), **{k: value(v) for k, v in given.get("kwargs", {}).items()})
    results = result if isinstance(result, list | tuple) else [result]
    return [r if isinstance(r, Tensor) else torch.tensor(r) for r in results]
