"""The arguments of `fusecade tune`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SAMPLERS = ("cost", "tpe", "random", "exhaustive")


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """What it takes besides the program, its shapes and its target."""
    verb.add_argument("--case", action="append", default=[], metavar="SHAPES",
                      help='one set of shapes, may be repeated: "8,1024,64 8,1024,64 8,1024,64"')  # fmt: skip
    verb.add_argument("--mode", default="quick", choices=("quick", "full"),
                      help="of each kernel: at most 24 trials in 25 s, or 120 in 15 min (default quick)")  # fmt: skip
    verb.add_argument(
        "--budget", type=_positive(float), metavar="SECONDS", help="of each kernel, in place of the mode's"
    )
    verb.add_argument("--trials", type=_positive(int), metavar="N", help="of each kernel, in place of the mode's")
    verb.add_argument("--sampler", choices=SAMPLERS, help="cost: measure nothing (default tpe)")
    verb.add_argument("--seed", type=int, default=0, help="of the sampler and of inputs (default 0)")
    verb.add_argument("--offline", action="store_true", help="rank by the cost model and the compiler; needs no device")
    verb.add_argument(
        "--resume", action="store_true", help="go on with kernels that are tuned already, from what is known"
    )
    verb.add_argument(
        "--cluster", metavar="ADDRESS", help="on each model of GPU in a Ray cluster: ray://host:port, auto (the one that "
        "this machine is in), local (all GPUs of this machine)",
    )  # fmt: skip
    verb.add_argument(
        "--working-dir", type=Path, metavar="DIR", help="of a cluster: the folder of the programs, sent to all machines"
    )
    verb.add_argument("--plot", type=Path, metavar="FILE",
                      help="write a page with the trials, parameter importance, and predicted against measured")  # fmt: skip
    verb.add_argument("--json", action="store_true", help="the outcome as JSON")


def _positive(kind: type) -> Any:
    def read(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value

    read.__name__ = kind.__name__
    return read
