"""Runs the scripts that `reproduction.py` writes: compiles a graph by itself, and holds its results against eager's."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import fx

from ..driver import Options
from ..errors import FallbackWarning
from ..runtime import operator
from .reproduction import options_for, write_reproduction

SEED = 0


def reproduce(
    graph: torch.nn.Module,
    inputs: Sequence[Any],
    options: Mapping[str, Any],
    *,
    dynamic: bool = False,
    smaller: bool = False,
) -> None:
    """Compile a graph, run it on made up inputs, and compare with eager; what goes wrong is raised.

    inputs: of each its layout, (shape, strides, dtype, device) and, for integers, the least and the largest value; or a size.
    options: of `torch.compile`.  dynamic: whether sizes were symbols.
    smaller: look for a part of the graph that still fails, and write a script for it beside the running one.
    """
    values = made(inputs)
    if smaller:
        _shrink(graph, values, dict(options))
        return
    _check(graph, values, dict(options), dynamic)
    print("nothing went wrong: it compiles, and the results are eager's")


def made(inputs: Sequence[Any]) -> list[Any]:
    """Tensors with these layouts, always the same."""
    generator = torch.Generator().manual_seed(SEED)
    return [_made(*x, generator=generator) if isinstance(x, tuple) else x for x in inputs]


def _made(
    shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype, device: str, least: int = 0, largest: int = 1,
    *, generator: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    elements = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if 0 not in shape else 0
    if dtype.is_floating_point or dtype.is_complex:
        flat = torch.randn(elements, generator=generator).to(dtype)
    else:
        flat = torch.randint(least, largest + 1, (elements,), generator=generator).to(dtype)
    return torch.as_strided(flat, tuple(shape), tuple(strides)).to(device)


def _check(graph: torch.nn.Module, values: Sequence[Any], options: dict[str, Any], dynamic: bool) -> None:
    with torch.no_grad():
        wanted = graph(*values)
        torch._dynamo.reset()
        # A kernel that failed before is not tried again in this process, unless nothing is known of it.
        with warnings.catch_warnings(), patch.dict(operator._TABLE, clear=True):
            warnings.simplefilter("error", FallbackWarning)
            found = torch.compile(graph, backend="fusecade", dynamic=dynamic, options=options)(*values)
    # A kernel sums in another order; what is wrong in earnest is farther away.
    for mine, eager in zip(_tensors(found), _tensors(wanted), strict=True):
        low = mine.dtype in (torch.float16, torch.bfloat16)
        torch.testing.assert_close(mine, eager, rtol=2e-2 if low else 1e-3, atol=2e-2 if low else 1e-3, equal_nan=True)


def _tensors(results: Any) -> list[torch.Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(results) if isinstance(x, torch.Tensor)]


def _failure(graph: torch.nn.Module, values: Sequence[Any], options: dict[str, Any]) -> str | None:
    """What goes wrong, in a line without numbers of this graph; None where nothing does."""
    try:
        _check(graph, values, options, dynamic=False)
    except AssertionError:
        return "other results"
    except Exception as error:
        while (inner := getattr(error, "inner_exception", None)) is not None or isinstance(error, FallbackWarning):
            cause = inner if inner is not None else error.__context__
            if cause is None:
                break
            error = cause
        return f"{type(error).__name__}: {''.join(c for c in str(error).split(chr(10))[0] if not c.isdigit())}"
    return None


def _shrink(graph: torch.nn.Module, values: Sequence[Any], options: dict[str, Any]) -> None:
    from torch._functorch.fx_minifier import minifier

    if any(not isinstance(x, torch.Tensor) for x in values):
        raise ValueError("a graph that takes sizes cannot be made smaller; fix them first")
    failure = _failure(graph, values, options)
    if failure is None:
        print("nothing went wrong, so nothing is made smaller")
        return
    print(f"looking for less that fails with {failure}")

    def fails(part: fx.GraphModule, given: Sequence[Any]) -> bool:
        return _failure(part, given, options) == failure

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        part, given = minifier(
            fx.symbolic_trace(graph), list(values), fails, dump_state=lambda *_: None, skip_offload=True
        )
    folder = Path(sys.argv[0]).absolute().parent
    chosen = Options(**options)
    path = write_reproduction(folder, "smaller", failure, part, options_for(chosen, chosen.target), given)
    print(f"{len(part.graph.nodes)} of {len(fx.symbolic_trace(graph).graph.nodes)} nodes are left: {path}")


__all__ = ["made", "reproduce"]
