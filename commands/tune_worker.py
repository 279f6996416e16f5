"""The process that tunes programs on a machine of a cluster, one at a time; requests and answers are lines of JSON.

    python -m fusecade.commands.tune_worker          # autotune/workers.py

A request: {"version": of the one who asks, "place": {"folder": of the cache or null, "url": its database or null}} with
"job" (what `Job.to_json` gives), or with "probe": what is in this machine.  The answer to a job: {"target", "rows": as
`fusecade tune --json` has them, "kernels": [{"name", "operations", "key"}]}, or {"failed": why}.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..autotune.cache.codec import key_body, parse
from ..autotune.worker_side import Failed, serve
from ..driver import package_version, pick_target
from ..environment import Environment
from ..errors import FusecadeError
from .jobs import Job
from .tune_views import rows_of


def handle(request: dict[str, Any]) -> dict[str, Any]:
    if request["version"] != (version := package_version()):
        raise Failed("invalid", f"this machine has Fusecade {version}, and {request['version']} asks")
    if "probe" in request:
        return {"target": pick_target("auto").name}
    environment, place = Environment.read(), request["place"]
    folder = Path(place["folder"]) if place["folder"] else environment.cache_dir
    environment = replace(environment, cache_dir=folder, cache_url=place["url"] or environment.cache_url)
    try:
        tuning = Job.from_json(request["job"]).tune(environment)
    except FusecadeError as error:
        return {"failed": error.message}
    kernels = [
        {"name": h.name, "operations": h.operations, "key": parse(key_body(h.key))} for h in tuning.histories.values()
    ]
    return {"target": tuning.report.target, "rows": rows_of(tuning), "kernels": kernels}


def main() -> int:
    return serve(handle)


if __name__ == "__main__":
    sys.exit(main())
