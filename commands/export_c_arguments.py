"""The arguments of `fusecade export-c`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("package", type=Path, metavar="PACKAGE", help="a file that `fusecade.export` wrote")
    verb.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the folder that is written")
    add_options(verb)


def add_options(verb: argparse.ArgumentParser) -> None:
    """Those that `compile --format c` has, too."""
    verb.add_argument("--prefix", metavar="NAME", help="of C: what all names begin with (default: fusecade_FUNCTION)")
    verb.add_argument(
        "--example", metavar="NAME=SIZE,...", help="of C: the dynamic sizes of the call in main.c (default: small ones)"
    )
