"""The command line in this process."""

from __future__ import annotations

import pytest

from fusecade import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The exit status, and what was printed to standard output and to standard error."""
    try:
        status = cli.main([*map(str, arguments)])
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err
