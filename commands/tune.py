"""`fusecade tune`: the kernels of a function, each in its fastest configuration, kept for whoever compiles it next.

fusecade tune model.py:attend --shape 8,4096,64 --shape 8,4096,64 --shape 8,4096,64      # on this machine
fusecade tune model.py:attend --case "8,1024,64 8,1024,64 8,1024,64" --case ...          # for several sets of shapes
fusecade tune model.py:attend --shape ... --offline --target sm_90                       # for a GPU that is not here
fusecade tune programs.toml --cluster ray://head:10001                                   # on the machines of a cluster
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..errors import FusecadeError, InternalCompilerError
from ..tuning_page import file_of, write_page
from . import exits
from .jobs import Job, jobs_of
from .tune_views import Answer, as_data, as_text, histories, time


def run(chosen: Namespace, console: Console) -> int:
    """Exit status 1 where a kernel could not be searched, a program failed, or the search was interrupted."""
    jobs = jobs_of(chosen)
    page = file_of(chosen.plot) if chosen.plot else None
    answers = _on_a_cluster(chosen, jobs) if chosen.cluster else _here(jobs)
    if page is not None:
        write_page(page, histories(answers))
    if chosen.json:
        console.print(json.dumps(as_data(answers), indent=1), markup=False, highlight=False, soft_wrap=True)
    else:
        for part in as_text(answers):
            console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))
        if page is not None:
            console.print(f"written to {page}", markup=False, highlight=False, soft_wrap=True)
    return exits.FINE if len(answers) >= len(jobs) and all(a.finished for a in answers) else exits.INCOMPLETE


def _on_a_cluster(chosen: Namespace, jobs: Sequence[Job]) -> list[Answer]:
    from .tune_cluster import tune_on_cluster

    return tune_on_cluster(jobs, chosen.cluster, chosen.working_dir)


def _here(jobs: Sequence[Job]) -> list[Answer]:
    """One after another.  Of several, one that fails does not keep the others from being tuned."""
    if len(jobs) == 1:
        return [_tuned(jobs[0])]
    for job in jobs:
        job.check()
    answers: list[Answer] = []
    for job in jobs:
        try:
            answers.append(_tuned(job))
        except InternalCompilerError:
            raise
        except FusecadeError as error:
            answers.append(Answer(job, job.target or "", failed=error.message))
        if answers[-1].interrupted:
            break
    return answers


def _tuned(job: Job) -> Answer:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[best]}"),
        TextColumn("{task.fields[left]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("planning", total=None, best="", left="")

        def begin(name: str, operations: str) -> None:
            progress.reset(task, description=f"{name}: {operations}"[:60], total=None, best="", left="")

        def wait(why: str) -> None:
            progress.reset(task, description=f"waiting: {why}", total=None, best="", left="")
            if not progress.console.is_terminal:
                progress.console.print(f"waiting: {why}", markup=False, highlight=False, soft_wrap=True)

        def tick(found: Any) -> None:
            best = f"best {time(found.best.us)}" if found.best is not None else ""
            left = f"{found.seconds_left:.0f} s left" if found.seconds_left is not None else ""
            progress.update(task, total=found.trials, completed=found.trial, best=best, left=left)

        return Answer.of(job, job.tune(on_kernel=begin, on_progress=tick, on_wait=wait))
