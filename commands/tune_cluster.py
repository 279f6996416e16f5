"""`fusecade tune --cluster`: the programs of one call on the devices of a Ray cluster, with what is learnt in one database."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..autotune.cache import TuningCache, open_cache
from ..autotune.cache.codec import read_key
from ..autotune.history import history_of
from ..driver import package_version
from ..environment import Environment
from ..errors import InvalidArgument
from .fleet import Done, Watched, tune_all
from .jobs import Job
from .ray_cluster import LOCAL, RayCluster, ray_module
from .tune_views import Answer


def tune_on_cluster(jobs: Sequence[Job], address: str, folder: Path | None) -> list[Answer]:
    """What became of each job on each model of device.  folder: with the programs, sent to all machines.

    Raises InvalidArgument, MissingTool without Ray, UserError where there is no such cluster.
    """
    if any(dict(job.search).get("offline") for job in jobs):
        raise InvalidArgument("--offline needs no devices", next_step="leave out --cluster, or leave out --offline")
    ray_module()
    if folder is not None and not folder.is_dir():
        raise InvalidArgument(f"there is no folder {folder}", next_step="give --working-dir the folder of the programs")
    environment = Environment.read()
    placed = [_placed(job, folder) for job in jobs]
    if address == LOCAL:
        for job in jobs:
            job.check()
    # Ray prints what its processes die of to standard output, which is for the outcome.
    with redirect_stdout(sys.stderr), RayCluster(address, folder, environment.threads) as cluster:
        remote = address.startswith("ray://") or cluster.elsewhere
        if remote and environment.cache_url is None:
            raise InvalidArgument(
                "the machines of a cluster keep what they learn in one database, and none is named",
                next_step="set FUSECADE_CACHE_URL to postgresql://USER@HOST/DATABASE, as all of them reach it",
            )
        place = {"folder": None if remote else str(environment.cache_dir), "url": environment.cache_url}
        with _progress() as progress:
            task = progress.add_task("looking for devices", total=None)

            def show(watched: Watched) -> None:
                now = ", ".join(dict.fromkeys(f"{t.job.program.rpartition(':')[2]} on {h}" for t, h in watched.running))
                progress.update(task, description=now[:100] or "done", total=watched.total, completed=watched.done)

            found = tune_all(cluster, placed, {"version": package_version(), "place": place}, show)
    with open_cache(environment.cache_dir / "tuning", environment.cache_url) as cache:
        return [_answer(done, cache) for done in found]


def _placed(job: Job, folder: Path | None) -> Job:
    """With the file of its program as the machines find it: in the folder that they are sent, else under its whole path."""
    if (file := job.place) is None:
        return job
    if folder is None:
        return job.at(file.absolute())
    try:
        return job.at(file.resolve().relative_to(folder.resolve()))
    except ValueError:
        raise InvalidArgument(
            f"{file} is not in {folder}, which is sent to the machines",
            next_step="give --working-dir a folder above it",
        ) from None


def _answer(done: Done, cache: TuningCache) -> Answer:
    value = done.value
    histories = [history_of(cache, read_key(k["key"]), k["name"], k["operations"]) for k in value.get("kernels", ())]
    target = str(value.get("target", done.task.target))
    return Answer(done.task.job, target, value.get("rows", ()), histories, done.failed, _where(done))


def _where(done: Done) -> str:
    return ", ".join(text for text in (done.host, done.task.model) if text)


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)
