"""A graph that something went wrong with, as a script that shows it again: `FUSECADE_REPRO_DIR=folder`.

The script holds the graph as text and, of its inputs, shapes, strides, dtypes and devices; values are drawn anew, from the
same range where they are integers.  `fusecade.testing.reproduce` runs it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.fx.graph_module import _format_import_block
from torch.package import sys_importer

from ..driver import Options, package_version
from ..runtime.files import write_whole
from ..runtime.loaded import file_name

log = logging.getLogger("fusecade")

LARGEST = 64  # elements of a constant that is written out; of a larger one, only the layout is
# What a script does not take over: it shows what failed with everything else switched off.
LEFT_OUT = ("target", "remainder", "strict", "print_after_all", "tune", "save", "mode", "inductor")

TEMPLATE = '''"""Written by Fusecade {version} with PyTorch {torch}: {what} failed.

{why}

`python {name}` shows it again, and compares with eager where nothing fails; `--smaller` looks for a part of the graph that
still fails, and writes it beside this file.
"""

import sys
{imports}

from fusecade.testing import reproduce

{body}
# Of each input: shape, strides, dtype, device, and the least and the largest value of integers; or a size.
INPUTS = [
{inputs}
]
OPTIONS = {options}

if __name__ == "__main__":
    reproduce(Graph(), INPUTS, OPTIONS, dynamic={dynamic}, smaller="--smaller" in sys.argv)
'''


def write_reproduction(
    folder: Path,
    what: str,
    why: str,
    gm: fx.GraphModule,
    options: dict[str, Any],
    values: Sequence[Any] | None = None,
) -> Path | None:
    """Write a script for a graph; None, and a line in the log, where the graph cannot be written as text.

    values: what the graph was given, where that is known; else what its placeholders say.
    """
    try:
        text = _script(what, why, gm, options, values)
        name = f"{file_name(what)}_{hashlib.sha256(text.encode()).hexdigest()[:8]}.py"
        folder.mkdir(parents=True, exist_ok=True)
        path = (folder / name).absolute()
        write_whole(path, text.replace(_NAME, str(path)).encode())
    except Exception as error:
        log.warning("no reproduction of %s is written: %s: %s", what, type(error).__name__, error)
        return None
    log.info("a reproduction of %s: %s", what, path)
    return path


_NAME = "{name}"


def options_for(options: Options, target: str) -> dict[str, Any]:
    """Those of a script: what decides which kernels are made."""
    defaults = Options()
    chosen = {
        f.name: getattr(options, f.name)
        for f in fields(Options)
        if f.name not in LEFT_OUT and getattr(options, f.name) != getattr(defaults, f.name)
    }
    return {"target": target, "remainder": "eager", **chosen}


def _script(what: str, why: str, gm: fx.GraphModule, options: dict[str, Any], values: Sequence[Any] | None) -> str:
    placeholders = gm.graph.find_nodes(op="placeholder")
    # A size that the kernel takes, and nothing else does, has no value.
    values = [node.meta.get("val", 1) for node in placeholders] if values is None else values
    symbolic = [node.meta.get("val") for node in placeholders]
    dynamic = any(_is_symbolic(value) for value in [*values, *symbolic])
    code = gm.graph.python_code(root_module="self")
    return TEMPLATE.format(
        version=package_version(),
        torch=torch.__version__,
        what=what,
        why=_quoted(why),
        name=_NAME,
        imports=_format_import_block({"torch": torch, **code.globals}, sys_importer).strip(),
        body=_module(gm, code.src),
        inputs="\n".join(f"    {_layout(value)}," for value in values),
        options=options,
        dynamic=dynamic,
    )


def _quoted(why: str) -> str:
    return why.replace("\\", "\\\\").replace('"""', "'''")


def _module(gm: fx.GraphModule, forward: str) -> str:
    lines = ["", "class Graph(torch.nn.Module):"]
    constants = {str(node.target): attrgetter(str(node.target))(gm) for node in gm.graph.find_nodes(op="get_attr")}
    if constants:
        lines += ["    def __init__(self):", "        super().__init__()"]
        lines += [f"        self.{name} = {_constant(value)}" for name, value in constants.items()]
        lines.append("")
    lines += [f"    {line}" if line.strip() else "" for line in forward.strip().splitlines()]
    return "\n".join([*lines, "", ""])


def _constant(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"a {type(value).__name__} in the graph has no text")
    if value.numel() <= LARGEST and not value.is_meta:
        return f"torch.tensor({value.detach().cpu().tolist()!r}, dtype={value.dtype}, device={str(value.device)!r})"
    return f"torch.zeros({list(value.shape)}, dtype={value.dtype}, device={str(value.device)!r})"


def _layout(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(_number(value))
    shape, strides = (tuple(map(_number, sizes)) for sizes in (value.shape, value.stride()))
    parts = [repr(shape), repr(strides), str(value.dtype), repr(str(value.device))]
    whole = not value.dtype.is_floating_point and not value.dtype.is_complex and value.dtype != torch.bool
    if whole and type(value) in (torch.Tensor, torch.nn.Parameter) and not value.is_meta and value.numel():
        parts += [str(int(value.min())), str(int(value.max()))]
    return f"({', '.join(parts)})"


def _number(value: Any) -> Any:
    """A size; of a symbolic one, the value in the example."""
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return value.node.hint
    return value


def _is_symbolic(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return any(isinstance(n, torch.SymInt) for n in value.shape)
    return isinstance(value, torch.SymInt)


__all__ = ["options_for", "write_reproduction"]
