"""`fusecade completion`: a script that completes the commands in a shell."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..errors import MissingTool
from . import exits

SHELLS = ("bash", "zsh", "fish")


def run(chosen: Namespace, parser: ArgumentParser) -> int:
    """Raises MissingTool where shtab is not installed."""
    try:
        import shtab
    except ImportError as error:
        raise MissingTool("shtab", needed_for="completing commands in a shell", install="pip install shtab") from error
    print(shtab.complete(parser, shell=chosen.shell))
    return exits.FINE
