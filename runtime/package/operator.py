"""`fusecade::package`: the one operator that stands for a packaged function in a graph.

    fusecade::package(str key, Tensor[] tensors) -> Tensor[]

It is pure, and known to fake tensors: `torch.compile` takes a call of a loaded function as it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...errors import InvalidArgument
from ..own_memory import own_memory
from .signature import TensorLeaf

if TYPE_CHECKING:
    from .load import LoadedFunction

_TABLE: dict[str, LoadedFunction] = {}


def register(key: str, function: LoadedFunction) -> str:
    """Put a function into the table of this process, under a key that says all that it does."""
    _TABLE.setdefault(key, function)
    return key


def _find(key: str) -> LoadedFunction:
    if key not in _TABLE:
        raise InvalidArgument(
            f"a compiled graph calls the package {key[:20]}, which this process has not loaded",
            next_step="load it with `fusecade.load` first",
        )
    return _TABLE[key]


def _call(key: str, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    function = _find(key)
    checked = function._checks.check_tensors(tensors)
    found = function.run(checked.tensors, checked.sizes, checked.device)
    return list(own_memory(found, tensors))


def _fake(key: str, tensors: list[torch.Tensor]) -> list[Any]:
    function = _find(key)
    checked = function._checks.check_tensors(tensors)
    signature = function._checks.signature
    device = checked.device or torch.device("cpu")
    leaves = [x for x in signature.results if isinstance(x, TensorLeaf)]
    leaves += [x for n in signature.mutates if isinstance(x := signature.leaves[n], TensorLeaf)]
    return [function._checks.empty(leaf, checked.sizes, device) for leaf in leaves]


_LIBRARY = torch.library.Library("fusecade", "FRAGMENT")
_LIBRARY.define(
    "package(str key, Tensor[] tensors) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides),
)
_LIBRARY.impl("package", _call, "CompositeExplicitAutograd")
torch.library.register_fake("fusecade::package", _fake, lib=_LIBRARY)
