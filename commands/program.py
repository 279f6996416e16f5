"""From a command line to a function and its arguments.

    fusecade explain model.py:attend --shape 8,4096,64 --shape 8,n=4096,64 --shape 8,n=4096,64 --dtype f16
    fusecade explain package.module:build_model --factory --shape i64:32,128

Arguments are meta tensors: nothing of their size is allocated.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument, SourceLine

DTYPES = {
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
    "i1": "bool", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64", "ui8": "uint8",
}  # fmt: skip


DEFAULT_TARGET = "sm_90"


@dataclass(frozen=True)
class Shape:
    """One tensor argument: its sizes, the names of those that are dynamic, its dtype."""

    sizes: tuple[int, ...]
    names: dict[int, str]
    dtype: str

    @classmethod
    def read(cls, text: str, dtype: str) -> Shape:
        """`8,n=4096,64` or `i64:32,128`; nothing after the colon is a number.  Raises InvalidArgument."""
        kind, colon, rest = text.rpartition(":")
        chosen = dtype_name(kind) if colon else dtype
        sizes, names = [], {}
        for n, part in enumerate(p for p in re.sub(r"(?<=\d)x", ",", rest).split(",") if p):
            name, equals, size = part.rpartition("=")
            if not size.isdigit() or (equals and not name.isidentifier()):
                raise InvalidArgument(
                    f"{part!r} in the shape {text!r} is not a size",
                    next_step="write sizes as 8,4096,64, and dynamic ones with a name and an example: 8,n=4096,64",
                )
            sizes.append(int(size))
            if equals:
                names[n] = name
        return cls(tuple(sizes), names, chosen)


def parameters(texts: Sequence[str]) -> dict[str, int]:
    """`persistent=true`, `num_warps=8` as names and values.  Raises InvalidArgument."""
    found: dict[str, int] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        known = {"true": True, "false": False}.get(value.lower())
        if not equals or (known is None and not value.isdigit()):
            raise InvalidArgument(
                f"{text!r} is no launch parameter with its value",
                next_step="write it as persistent=true or num_warps=8",
            )
        found[name] = int(value) if known is None else known
    return found


def shapes_of(text: str) -> tuple[str, ...]:
    """The shapes of one call: `8,1024,64 8,1024,64 i64:8`."""
    return tuple(text.split())


def sizes(text: str) -> dict[str, int]:
    """`n=512,m=64`, of a bucket or an example.  Raises InvalidArgument."""
    found = {}
    for part in text.split(","):
        name, equals, size = part.partition("=")
        if not equals or not name.isidentifier() or not size.isdigit():
            raise InvalidArgument(f"{part!r} in {text!r} is no size", next_step="write sizes as n=512,m=64")
        found[name] = int(size)
    return found


def dtype_name(text: str) -> str:
    """ "f16" and "float16" are the same.  Raises InvalidArgument."""
    if text in DTYPES:
        return text
    for name, torch_name in DTYPES.items():
        if text == torch_name:
            return name
    raise InvalidArgument.choice("dtype", text, DTYPES)


def arguments(shapes: Sequence[Shape]) -> tuple[list[Any], dict[int | str, dict[int, str]]]:
    """Meta tensors, and what is dynamic about them."""
    import torch

    tensors = [torch.empty(s.sizes, dtype=getattr(torch, DTYPES[s.dtype]), device="meta") for s in shapes]
    return tensors, {n: s.names for n, s in enumerate(shapes) if s.names}


def find_function(text: str, factory: bool = False) -> Callable[..., Any]:
    """`package.module:function` or `path/to/file.py:function`.  Raises InvalidArgument that says what is there."""
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise InvalidArgument(f"{text!r} names no function", next_step="write module:function or file.py:function")
    module = _from_file(Path(place)) if place.endswith(".py") or os.sep in place else _from_module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            callables = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise InvalidArgument.choice(f"a function of {place}", part, callables)
        found = getattr(found, part)
    if not callable(found):
        raise InvalidArgument(
            f"{text} is {type(found).__name__}, which cannot be called", next_step="name a function or a module"
        )
    if not factory:
        return found
    try:
        made: Any = found()
    except Exception as error:
        raise _of_the_user(f"{text} made no model", error) from error
    return made


def check_arguments(
    function: Callable[..., Any],
    name: str,
    shapes: Sequence[object],
    *,
    shape: str = "--shape",
    factory: str = "add --factory",
) -> None:
    """Raises InvalidArgument where the function does not take as many tensors as there are shapes.

    shape, factory: how whoever asks writes one shape, and that a model is to be made first.
    """
    from ..frontend.capture import signature_of

    if isinstance(function, type):
        raise InvalidArgument(f"{name} is a class", next_step=f"{factory}, and the model that it makes is called")
    signature = signature_of(function)
    if signature is None:
        return
    try:
        signature.bind(*shapes)
    except TypeError as error:
        parameters = ", ".join(signature.parameters)
        count = f"{len(shapes)} {shape}" if shapes else f"no {shape}"
        step = f"give one {shape} per argument ({parameters})" if parameters else f"leave out {shape}"
        raise InvalidArgument(f"{name} cannot be called with {count}: {error}", next_step=step) from error


def _of_the_user(what: str, error: Exception) -> InvalidArgument:
    """An error of the user's own code, with the line that raised it."""
    if isinstance(error, SyntaxError):
        reason, place = error.msg, (error.filename, error.lineno)
    else:
        here = str(Path(__file__).parent)
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(("<", here))]
        reason, place = str(error), (frames[-1].filename, frames[-1].lineno) if frames else (None, None)
    at = f"\n  at {SourceLine.at(place[0], place[1])}" if place[0] and place[1] else ""
    return InvalidArgument(
        f"{what}: {type(error).__name__}: {reason}{at}",
        next_step="mend that line; Python shows the whole traceback when it runs the file itself",
    )


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise InvalidArgument(f"there is no file {path}", next_step="give the path of a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent.resolve()))  # as `python file.py` does
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _of_the_user(f"{path} does not load", error) from error
    return module


def _from_module(name: str) -> Any:
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name is not None and name.startswith(error.name):
            raise InvalidArgument(
                f"there is no module {name}", next_step="install it, or run in the folder it is in"
            ) from error
        raise _of_the_user(f"{name} does not load", error) from error
