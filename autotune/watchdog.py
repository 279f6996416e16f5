"""Ends workers whose parent is gone, and what they started: a process that waits for the end of its standard input.

    python watchdog.py      # "+ 123" and "- 123": a process group to end, and no more

It stands alone, in a session of its own, so that what ends the parent (kill -9, Ctrl-C) does not end it too.
"""

import contextlib
import os
import signal
import sys


def main() -> int:
    groups: set[int] = set()
    for line in sys.stdin:
        sign, group = line.split()
        (groups.add if sign == "+" else groups.discard)(int(group))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
