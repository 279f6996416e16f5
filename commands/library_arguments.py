"""The arguments of `fusecade compile --spec`."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path


def add_arguments(verb: ArgumentParser) -> None:
    group = verb.add_argument_group("kernel libraries")
    group.add_argument("--spec", type=Path, metavar="FILE.toml",
                       help="build the packages that it names, where something changed, in -o DIR")  # fmt: skip
    group.add_argument("--jobs", type=int, metavar="N", help="packages at a time (default: as many as there are cores)")
    group.add_argument(
        "--timeout", type=float, default=3600.0, metavar="SECONDS", help="for one package (default 3600)"
    )
    group.add_argument("--dry-run", action="store_true", help="say what would be built, and why; write nothing")
    group.add_argument("--check", action="store_true", help="the same; exit status 1 where something would be built")
    group.add_argument("--prune", action="store_true", help="delete packages that the specification names no more")
    group.add_argument("--json", action="store_true", help="what was done, as JSON")
