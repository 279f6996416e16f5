"""What operators are called with, as JSON: numbers and texts as they are, everything else with its kind.

{"value": 3}          the tensor or number that came fourth       {"dtype": "float32"}
{"size": "n * 64"}    an expression over sizes                    {"device": "target"}, {"device": "cpu"}
{"float": "-inf"}     what JSON has no word for                   {"memory_format": "contiguous_format"}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...errors import InvalidPackage
from ..expressions import function_of
from ..loaded import DTYPES

NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
FORMATS = ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
DEVICES = ("target", "cpu")

Maker = Callable[[Sequence[Any], Sequence[Any]], Any]  # from the values so far, and the sizes


def dtype_name(dtype: torch.dtype) -> str:
    """ "f32", or PyTorch's own name for what kernels do not read."""
    return NAMES.get(dtype) or str(dtype).removeprefix("torch.")


def dtype_of(name: Any) -> torch.dtype:
    """Raises InvalidPackage for what is no dtype."""
    if isinstance(name, str):
        found = DTYPES.get(name) or (getattr(torch, name, None) if name.isidentifier() else None)
        if isinstance(found, torch.dtype):
            return found
    raise InvalidPackage(f"{str(name)[:80]!r} is no dtype")


def encode_constant(value: Any) -> Any:
    """A Python value as JSON.  Raises ValueError with the reason where packages have no word for it."""
    if value is None or isinstance(value, bool | str):
        return value
    if type(value) is int:
        if abs(value) >= 1 << 63:
            raise ValueError("an integer of more than 64 bits")
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, torch.dtype):
        return {"dtype": dtype_name(value)}
    if isinstance(value, torch.memory_format):
        return {"memory_format": str(value).removeprefix("torch.")}
    if isinstance(value, torch.layout):
        if value is not torch.strided:
            raise ValueError(f"the layout {value}")
        return {"layout": "strided"}
    raise ValueError(f"a value of type {type(value).__name__}")


def decode_constant(data: Any, where: str) -> Any:
    """Raises InvalidPackage."""
    if data is None or isinstance(data, bool | str | float):
        return data
    if isinstance(data, int):
        if abs(data) >= 1 << 63:
            raise InvalidPackage(f"{where} is an integer of more than 64 bits")
        return data
    if isinstance(data, dict) and len(data) == 1:
        [(kind, value)] = data.items()
        if kind == "float" and isinstance(value, str) and value in FLOATS:
            return FLOATS[value]
        if kind == "dtype":
            return dtype_of(value)
        if kind == "memory_format" and value in FORMATS:
            return getattr(torch, value)
        if kind == "layout" and value == "strided":
            return torch.strided
    raise InvalidPackage(f"{where} is no value that packages have")


def is_constant(data: Any) -> bool:
    return not (isinstance(data, list) or (isinstance(data, dict) and bool({"value", "size", "device"} & set(data))))


def maker_of(data: Any, where: str, known: int, names: tuple[str, ...], device: torch.device) -> tuple[bool, Any]:
    """(whether it is always the same, that value) or (False, a `Maker`).

    known: how many values there are by then.  device: what "target" is.  Raises InvalidPackage.
    """
    if is_constant(data):
        return True, decode_constant(data, where)
    if isinstance(data, list):
        parts = [maker_of(x, where, known, names, device) for x in data]
        if all(fixed for fixed, _ in parts):
            return True, [value for _, value in parts]
        makers = [_always(value) if fixed else value for fixed, value in parts]
        return False, lambda values, sizes: [make(values, sizes) for make in makers]
    if len(data) != 1:
        raise InvalidPackage(f"{where} is no value that packages have")
    [(kind, value)] = data.items()
    if kind == "device":
        if value not in DEVICES:
            raise InvalidPackage(f"{where} is on {str(value)[:80]!r}, which is no place that packages know")
        return True, device if value == "target" else torch.device("cpu")
    if kind == "value":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < known:
            raise InvalidPackage(f"{where} refers to value {str(value)[:80]}, and there are {known} by then")
        return False, lambda values, sizes: values[value]
    found = expression(value, names, where)
    return False, lambda values, sizes: found(sizes)


def references(data: Any) -> list[int]:
    """The values that an argument refers to."""
    if isinstance(data, list):
        return [n for x in data for n in references(x)]
    found = data.get("value") if isinstance(data, dict) else None
    return [found] if isinstance(found, int) else []


def expression(value: Any, names: tuple[str, ...], where: str) -> Callable[[Sequence[Any]], Any]:
    """A function of the sizes.  Raises InvalidPackage for text that is not arithmetic over their names."""
    try:
        return function_of(_hashable(value), names)
    except (ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise InvalidPackage(f"{where}: {str(error)[:200]}") from error


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _always(value: Any) -> Maker:
    return lambda values, sizes: value
