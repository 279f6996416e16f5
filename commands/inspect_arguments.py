"""The arguments of `fusecade inspect`."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path


def add_arguments(verb: ArgumentParser) -> None:
    verb.add_argument(
        "package", type=Path, metavar="PACKAGE", help="a file that `fusecade.export` wrote, or the folder of a library"
    )
    verb.add_argument("--json", action="store_true", help="all of it as JSON")
    verb.add_argument("--kernel", metavar="NAME", help="only this kernel: its name, or how it begins")
    verb.add_argument("--source", action="store_true", help="print the kernels' sources")
    verb.add_argument("--sass", action="store_true", help="print the machine code of the binaries, disassembled")
