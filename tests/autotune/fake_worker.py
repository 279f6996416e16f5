"""A worker that does what candidates do: it answers, or does not.  `python fake_worker.py`, one request a line."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from fusecade.autotune.timing import Timed, TimingOptions, compare, wall
from fusecade.autotune.worker_side import Failed, serve


def handle(request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "echo":
            return {"said": request.get("word"), "pid": os.getpid()}
        case "sleep":
            time.sleep(request["seconds"])
            return {}
        case "segfault":
            print("about to read address 0", file=sys.stderr, flush=True)
            ctypes.string_at(0)
        case "exit":
            os._exit(request["status"])
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1)
        case "hang with child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            with open(request["note"], "w") as note:
                note.write(str(child.pid))
            time.sleep(600)
        case "crash with child":  # which holds the pipes open
            if (child := os.fork()) == 0:
                time.sleep(600)
            with open(request["note"], "w") as note:
                note.write(str(child))
            os._exit(3)
        case "allocate":
            bytearray(request["bytes"])
        case "bad_alloc":
            print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
            os.abort()
        case "print":
            print("a kernel that prints", flush=True)
            os.write(1, b'{"id": 0, "done": {"said": "a lie"}}\n')
            subprocess.run(["echo", "and its child"], check=True)
            return {"said": "the truth"}
        case "flood":
            for _ in range(request["megabytes"]):
                os.write(2, b"x" * 2**20)
            print("the last line", file=sys.stderr, flush=True)
            return request.get("answer") or os._exit(1)
        case "read stdin":
            return {"read": sys.stdin.read() + os.read(0, 10).decode()}
        case "close":
            for fd in range(3, 20):
                try:
                    os.close(fd)
                except OSError:
                    pass
            time.sleep(600)
        case "raise":
            raise RuntimeError(request["text"])
        case "wrong":
            raise Failed("wrong", "0.5 off at [3, 4]")
        case "unspeakable":
            return {"value": object()}
        case "compile":
            time.sleep(0.05)
            return {"registers": 64, "spill_bytes": request["spills"], "shared_bytes": 1024}
        case "time":
            return timed(request["us"], request["reference_us"])
        case "big":
            return {"length": len(request["body"]), "body": "y" * len(request["body"])}
    raise AssertionError(request)


def timed(us: float, reference_us: float) -> dict[str, Any]:
    """What a worker that times sends home: a comparison, of two calls that take as long as they are told to."""
    now = 0.0

    def call(seconds: float) -> Callable[[int], None]:
        def run(_: int) -> None:
            nonlocal now
            now += seconds

        return run

    candidate, reference = Timed(call(us * 1e-6)), Timed(call(reference_us * 1e-6))
    return compare(candidate, reference, TimingOptions(), wall(lambda: now), lambda: now).to_json()


def babble() -> None:
    """No protocol at all: it answers the setup, and then writes rubbish."""
    for n, line in enumerate(sys.stdin):
        answer = {"id": json.loads(line)["id"], "done": {}}
        print(json.dumps(answer) if n == 0 else sys.argv[2], flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            sys.exit(serve(handle))
        case ["broken"]:
            sys.exit("no module named torch")
        case ["babble", _]:
            babble()
