"""Programs spread over the devices of several machines: every one on each model of device, one at a time on each device.

Which cluster it is, and how a process gets started there, is behind `Cluster`; what is lost with a machine is done again by
another, and what fails is reported without holding up the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..autotune.workers import DONE, Outcome
from .jobs import Job

ATTEMPTS = 2  # of a job whose machine is gone
LOOK_S = 1.0  # how often those who watch are told that time passes
CPU = "cpu"
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Slot:
    """A device on which one program is tuned at a time.

    model: of the device, "H100" say; of a CPU, with the number of its cores, because times depend on it.  machine: its name in
    the cluster; host: its name for a person.  cpus: that a program takes there.
    """

    model: str
    machine: str
    host: str
    gpu: bool
    cpus: float


@dataclass(frozen=True)
class Lost:
    """The machine is gone, and nothing is wrong with what ran there."""

    note: str


class Cluster(Protocol):
    """What a fleet needs of a cluster."""

    def slots(self) -> list[Slot]: ...

    def start(self, slot: Slot, request: Mapping[str, Any]) -> Any:
        """Has a request of `tune_worker.py` answered there; returns what stands for the answer."""
        ...

    def wait(self, running: Sequence[Any], seconds: float) -> list[Any]:
        """Those that are done, or none after so many seconds."""
        ...

    def outcome(self, done: Any) -> Outcome | Lost:
        """What became of it, also where its process or its machine died."""
        ...

    def cancel(self, running: Iterable[Any]) -> None: ...


@dataclass(frozen=True)
class Task:
    """One job for one model.  target: that a device of that model has."""

    job: Job
    model: str
    target: str
    attempts: int = 0


@dataclass(frozen=True)
class Done:
    """What became of a task.  value: the worker's answer.  failed: why there is none.  host: where it ran."""

    task: Task
    value: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""
    host: str = ""


@dataclass(frozen=True)
class Watched:
    """Where a fleet is.  running: (what, on which host)."""

    done: int
    total: int
    running: tuple[tuple[Task, str], ...]


def tune_all(
    cluster: Cluster,
    jobs: Sequence[Job],
    about: Mapping[str, Any],
    on_change: Callable[[Watched], None] = lambda watched: None,
) -> list[Done]:
    """Every job on each model that it is for, those that are for none last; Ctrl-C ends it with what is done by then.

    about: what goes into every request.  A job without a target is for all GPUs that there are; where there is none, for CPUs.
    """
    slots = cluster.slots()
    wants_gpu = any(job.target != CPU for job in jobs)
    try:
        targets, broken = _targets(cluster, [s for s in slots if wants_gpu or not s.gpu], about)
    except KeyboardInterrupt:
        return [Done(Task(job, "", job.target or ""), failed=INTERRUPTED) for job in jobs]
    tasks: list[Task] = []
    lost: list[Done] = []
    gpus = any(s.gpu for s in slots)
    for job in jobs:
        fits = [m for m, t in targets.items() if (job.target == t if job.target else (t != CPU) == gpus)]
        tasks += [Task(replace(job, target=targets[m]), m, targets[m]) for m in fits]
        if not fits:
            have = ", ".join(f"{m}: {t}" for m, t in targets.items()) or "nothing that can be used"
            wanted = job.target or "a GPU that can be used"
            why = "; ".join([f"no machine of the cluster has {wanted} ({have})", *broken])
            lost.append(Done(Task(job, "", job.target or ""), failed=why))
    done = _Run(cluster, [s for s in slots if s.model in targets], tasks, about, on_change).run()
    return [*done, *lost]


def _targets(cluster: Cluster, slots: Sequence[Slot], about: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The target of each model, asked of one device of each that answers; and why others have none."""
    found: dict[str, str] = {s.model: CPU for s in slots if not s.gpu}
    reasons: list[str] = []
    models = dict.fromkeys(s.model for s in slots if s.gpu)
    asked = {
        model: cluster.start(next(s for s in slots if s.model == model), {**about, "probe": True}) for model in models
    }
    for model, handle in asked.items():
        try:
            while not cluster.wait([handle], LOOK_S):
                pass
        except KeyboardInterrupt:
            cluster.cancel(asked.values())
            raise
        outcome = cluster.outcome(handle)
        target = str(outcome.value.get("target", CPU)) if isinstance(outcome, Outcome) else CPU
        if target != CPU:
            found[model] = target
        else:
            reasons.append(f"{model} is of no use: {outcome.note or 'PyTorch sees no GPU there'}")
    return found, reasons


@dataclass
class _Run:
    cluster: Cluster
    free: list[Slot]
    tasks: list[Task]
    about: Mapping[str, Any]
    on_change: Callable[[Watched], None]
    running: dict[Any, tuple[Task, Slot]] = field(default_factory=dict)
    done: dict[int, Done] = field(default_factory=dict)

    def run(self) -> list[Done]:
        waiting = deque(enumerate(self.tasks))
        numbers: dict[Any, int] = {}
        try:
            while waiting or self.running:
                self._start(waiting, numbers)
                self.on_change(
                    Watched(len(self.done), len(self.tasks), tuple((t, s.host) for t, s in self.running.values()))
                )
                if not self.running:
                    self._give_up(waiting)
                    break
                for handle in self.cluster.wait(list(self.running), LOOK_S):
                    self._end(handle, numbers.pop(handle), waiting)
        except KeyboardInterrupt:
            self.cluster.cancel(self.running)
        return [self.done.get(n) or Done(t, failed=INTERRUPTED) for n, t in enumerate(self.tasks)]

    def _start(self, waiting: deque[tuple[int, Task]], numbers: dict[Any, int]) -> None:
        """Gives every free device the first of the waiting tasks that is for its model."""
        for slot in list(self.free):
            found = next((entry for entry in waiting if entry[1].model == slot.model), None)
            if found is None:
                continue
            waiting.remove(found)
            self.free.remove(slot)
            number, task = found
            handle = self.cluster.start(slot, {**self.about, "job": task.job.to_json()})
            self.running[handle], numbers[handle] = (task, slot), number

    def _end(self, handle: Any, number: int, waiting: deque[tuple[int, Task]]) -> None:
        task, slot = self.running.pop(handle)
        outcome = self.cluster.outcome(handle)
        if isinstance(outcome, Lost):
            self.free = [s for s in self.free if s.machine != slot.machine]
            if task.attempts + 1 < ATTEMPTS:
                waiting.appendleft((number, replace(task, attempts=task.attempts + 1)))
            else:
                self.done[number] = Done(task, failed=outcome.note, host=slot.host)
            return
        self.free.append(slot)
        failed = str(outcome.value.get("failed", "")) if outcome.state == DONE else f"{outcome.state}: {outcome.note}"
        self.done[number] = Done(task, outcome.value, failed, slot.host)

    def _give_up(self, waiting: deque[tuple[int, Task]]) -> None:
        """Nothing runs, and no device is left for what waits."""
        for number, task in waiting:
            self.done[number] = Done(task, failed=f"every machine with {task.model} is gone")
