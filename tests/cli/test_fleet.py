"""Jobs spread over the devices of a cluster that is made up: who gets what, and what becomes of what fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from fusecade.autotune.workers import Outcome
from fusecade.commands.fleet import Done, Lost, Slot, Watched, tune_all
from fusecade.commands.jobs import Job
from fusecade.commands.ray_cluster import slots_of

ABOUT = {"version": "1", "place": {}}
TARGETS = {"H100": "sm_90", "A100": "sm_80"}


def gpu(model: str, machine: str) -> Slot:
    return Slot(model, machine, f"host-{machine}", True, 1.0)


def cpu(machine: str, cores: int = 8) -> Slot:
    return Slot(f"{cores}-core CPU", machine, f"host-{machine}", False, cores)


class MadeUp:
    """Ends what runs in the order in which it was started.  answer: to a job, on a slot; may raise KeyboardInterrupt."""

    def __init__(self, slots: Sequence[Slot], answer: Callable[[Job, Slot], Outcome | Lost] | None = None) -> None:
        self._slots = list(slots)
        self._answer = answer or (
            lambda job, slot: Outcome("done", {"target": job.target, "rows": [{"kernel": str(job)}]})
        )
        self._asked: dict[int, tuple[Slot, Mapping[str, Any]]] = {}
        self._numbers = itertools.count()
        self.busy: set[int] = set()
        self.ran: list[tuple[str, str]] = []
        self.cancelled: list[int] = []

    def slots(self) -> list[Slot]:
        return self._slots

    def start(self, slot: Slot, request: Mapping[str, Any]) -> int:
        assert request["version"] == "1"
        number = next(self._numbers)
        self._asked[number] = slot, request
        self.busy.add(number)
        together = [self._asked[n][0] for n in self.busy if self._asked[n][0].machine == slot.machine]
        assert len(together) <= sum(s.machine == slot.machine for s in self._slots)
        return number

    def wait(self, running: Sequence[int], seconds: float) -> list[int]:
        return [min(running)]

    def outcome(self, done: int) -> Outcome | Lost:
        self.busy.discard(done)
        slot, request = self._asked[done]
        if "probe" in request:
            return Outcome("done", {"target": TARGETS.get(slot.model, "cpu")})
        job = Job.from_json(request["job"])
        self.ran.append((job.program, slot.host))
        return self._answer(job, slot)

    def cancel(self, running: Iterable[int]) -> None:
        self.cancelled += running


def jobs(count: int, target: str | None = None) -> list[Job]:
    return [Job(f"m.py:f{n}", ("8,64",), target=target) for n in range(count)]


def told(done: Sequence[Done]) -> list[tuple[str, str, str]]:
    return [(d.task.job.program.rpartition(":")[2], d.task.target, d.failed) for d in done]


def test_each_job_is_tuned_once_on_each_model():
    cluster = MadeUp([gpu("H100", "a"), gpu("H100", "a"), gpu("A100", "b"), cpu("a"), cpu("b")])
    watched: list[Watched] = []
    done = tune_all(cluster, jobs(3), ABOUT, watched.append)
    assert told(done) == [(f"f{n}", t, "") for n in range(3) for t in ("sm_90", "sm_80")]
    assert [d.value["rows"][0]["kernel"] for d in done][:2] == ["m.py:f0 8,64 f32 sm_90", "m.py:f0 8,64 f32 sm_80"]
    assert sorted(cluster.ran) == sorted((f"m.py:f{n}", f"host-{m}") for n in range(3) for m in "ab")
    assert watched[0] == Watched(0, 6, watched[0].running) and len(watched[0].running) == 3 and watched[-1].done < 6


def test_a_target_chooses_the_model_and_without_gpus_it_is_the_cpu():
    cluster = MadeUp([gpu("H100", "a"), gpu("A100", "b"), cpu("a"), cpu("b", 4)])
    assert told(tune_all(cluster, jobs(1, "sm_80"), ABOUT)) == [("f0", "sm_80", "")]
    assert [d.task.model for d in tune_all(cluster, jobs(1, "cpu"), ABOUT)] == ["8-core CPU", "4-core CPU"]
    (done,) = tune_all(MadeUp([cpu("a"), cpu("c")]), jobs(1), ABOUT)
    assert done.task.target == "cpu" and done.host == "host-a"


def test_what_no_machine_has_is_said_and_the_rest_is_done():
    cluster = MadeUp([gpu("H100", "a"), gpu("Voodoo2", "b")])
    done = tune_all(cluster, [*jobs(1, "gfx942"), *jobs(1, "sm_90")], ABOUT)
    assert not done[0].failed
    assert done[1].failed == (
        "no machine of the cluster has gfx942 (H100: sm_90); Voodoo2 is of no use: PyTorch sees no GPU there"
    )


def test_a_job_that_dies_is_reported_and_others_are_not_lost():
    def answer(job: Job, slot: Slot) -> Outcome:
        if job.program.endswith("f1"):
            return Outcome("crashed", note="killed by SIGSEGV")
        return Outcome("done", {"failed": "no kernel"} if job.program.endswith("f2") else {})

    cluster = MadeUp([gpu("H100", "a")], answer)
    failed = [d.failed for d in tune_all(cluster, jobs(4), ABOUT)]
    assert failed == ["", "crashed: killed by SIGSEGV", "no kernel", ""]
    assert len(cluster.ran) == 4  # none was tried twice


def test_what_a_lost_machine_ran_is_done_by_another():
    def answer(job: Job, slot: Slot) -> Outcome | Lost:
        if slot.machine == "a":
            return Lost("the machine is gone")
        return Outcome("done", {})

    cluster = MadeUp([gpu("H100", "a"), gpu("H100", "a"), gpu("H100", "b")], answer)
    done = tune_all(cluster, jobs(5), ABOUT)
    assert [d.failed for d in done] == [""] * 5 and {d.host for d in done} == {"host-b"}
    assert sum(host == "host-a" for _, host in cluster.ran) == 2


def test_when_all_machines_are_gone_that_is_the_end():
    cluster = MadeUp([gpu("H100", "a"), gpu("H100", "b")], lambda job, slot: Lost(f"{slot.host} is gone"))
    failed = [d.failed for d in tune_all(cluster, jobs(4), ABOUT)]
    assert failed == ["every machine with H100 is gone"] * 4


def test_a_job_that_takes_every_machine_along_is_not_tried_for_ever():
    def answer(job: Job, slot: Slot) -> Outcome | Lost:
        return Lost(f"{slot.host} is gone") if job.program.endswith("f0") else Outcome("done", {})

    cluster = MadeUp([gpu("H100", machine) for machine in "abc"], answer)
    failed = [d.failed for d in tune_all(cluster, jobs(3), ABOUT)]
    assert failed[1:] == ["", ""] and failed[0].endswith("is gone")


def test_an_interrupted_fleet_keeps_what_is_done():
    def answer(job: Job, slot: Slot) -> Outcome:
        if job.program.endswith("f2"):
            raise KeyboardInterrupt
        return Outcome("done", {})

    cluster = MadeUp([gpu("H100", "a")], answer)
    assert [d.failed for d in tune_all(cluster, jobs(4), ABOUT)] == ["", "", "interrupted", "interrupted"]


def test_a_fleet_that_is_interrupted_before_it_knows_its_devices(monkeypatch: pytest.MonkeyPatch):
    def interrupted(running: Sequence[int], seconds: float) -> list[int]:
        raise KeyboardInterrupt

    cluster = MadeUp([gpu("H100", "a"), gpu("A100", "b")])
    monkeypatch.setattr(cluster, "wait", interrupted)
    assert [d.failed for d in tune_all(cluster, jobs(2), ABOUT)] == ["interrupted"] * 2
    assert cluster.cancelled == [0, 1] and not cluster.ran


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (
            {"CPU": 64.0, "GPU": 2.0, "accelerator_type:H100": 1.0},
            [("64-core CPU", 64), ("H100", 1.0), ("H100", 1.0)],
        ),
        ({"CPU": 1.0, "GPU": 4.0}, [("1-core CPU", 1)] + [("the GPU of h", 0.25)] * 4),
        ({"memory": 1e9}, []),
    ],
)
def test_the_devices_of_a_machine_of_ray(resources: dict[str, float], expected: list[tuple[str, float]]):
    found = slots_of({"Resources": resources, "NodeID": "n", "NodeManagerHostname": "h"})
    assert [(s.model, s.cpus) for s in found] == expected and all(s.gpu != s.model.endswith("CPU") for s in found)
