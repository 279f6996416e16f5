"""Launch parameters: what a kernel may be given besides its tile sizes.  None changes what it computes.

    num_warps        warps of a program
    num_stages       steps of a loop for which loads are on their way at the same time
    persistent       so many programs, each of which computes one result after the other (0: one program a result);
                     True: as many as the target runs at the same time
    warp_specialize  loads and dots of the loops in warps of their own, where the compiler can
    descriptors      loads of whole tiles by tensor descriptor (TMA), where they have one
    share_operations on a CPU: one program after the other, the cores share each operation; else each core takes programs

The first two and the last are chosen by price.  Of the others the price says nothing, so they are off unless asked for; a
tuner, which measures, finds them among a kernel's choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidArgument
from .target import Target

Given = tuple[tuple[str, int], ...]  # parameters that a user chose, by name; `persistent` may be True

SWITCHES = ("warp_specialize", "descriptors", "share_operations")  # off or on
MOST_STAGES = 8
MOST_WARPS = 32
# The first architectures that have them.  On sm_90 Triton 3.9 leaves loops as they are with 8 warps, and does not compile
# most of them with 4.
SINCE = {"descriptors": 90, "warp_specialize": 100}

LAUNCH_PARAMETERS = ("num_warps", "num_stages", "persistent", *SWITCHES)


def launch_values(name: str) -> str:
    """In words, what a parameter may be."""
    return {
        "num_warps": f"a power of two up to {MOST_WARPS}",
        "num_stages": f"1 to {MOST_STAGES}",
        "persistent": "False, True, or a number of programs",
    }.get(name, "False or True")


def checked(given: Mapping[str, Any]) -> Given:
    """What a user gave, sorted by name.  Raises InvalidArgument for names and values that there are not."""
    if not isinstance(given, Mapping):
        raise InvalidArgument(
            f"parameters are {type(given).__name__}, and must be names with values",
            next_step=f"pass a dictionary, such as {{'persistent': True}}; there are {', '.join(LAUNCH_PARAMETERS)}",
        )
    for name, value in given.items():
        if name not in LAUNCH_PARAMETERS:
            raise InvalidArgument.choice("a launch parameter", name, LAUNCH_PARAMETERS)
        if not _fits(name, value):
            raise InvalidArgument(
                f"launch parameter {name} is {value!r}; it may be {launch_values(name)}",
                next_step=f"give {name} such a value, or leave it out: the cost model decides, or it is off",
            )
    return tuple(sorted((n, v if n == "persistent" else int(v)) for n, v in given.items()))


def _fits(name: str, value: Any) -> bool:
    if name in SWITCHES:
        return isinstance(value, bool | int) and value in (0, 1)
    if name == "persistent":
        return isinstance(value, bool | int) and value >= 0
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    if name == "num_warps":
        return 1 <= value <= MOST_WARPS and value & (value - 1) == 0
    return 1 <= value <= MOST_STAGES


def check_target(given: Given, target: Target) -> None:
    """Raises InvalidArgument for parameters that a target has not."""
    there = available(target)
    for name, value in given:
        if name not in there and value:
            raise InvalidArgument(
                f"target {target.name} has no launch parameter {name}: it has {', '.join(there)}",
                next_step=f"leave {name} out, or compile for another target",
            )
        if name == "num_warps" and value * target.warp_size > target.max_threads:
            raise InvalidArgument(
                f"num_warps is {value}, and a program of {target.name} has at most "
                f"{target.max_threads // target.warp_size} warps",
                next_step="give it fewer warps",
            )


def available(target: Target) -> tuple[str, ...]:
    """The launch parameters that kernels of a target have."""
    if target.kind == "cpu":
        return ("share_operations",)
    arch = int(target.arch.removeprefix("sm_").rstrip("af")) if target.kind == "cuda" else 0
    return tuple(n for n in LAUNCH_PARAMETERS if n != "share_operations" and arch >= SINCE.get(n, 0))
