"""A Ray cluster as `fleet.py` wants it: its devices, and a process on one of them that answers a request.

Only this file knows Ray, which is an optional part of the package: `pip install 'fusecade[cluster]'`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from ..autotune.workers import Outcome, Pool, python_worker
from ..environment import Environment
from ..errors import MissingTool, UserError
from .fleet import Lost, Slot

LOCAL, AUTO = "local", "auto"
INSTALL = "pip install 'fusecade[cluster]'"
ACCELERATOR = "accelerator_type:"
REACH_S = 10.0
STORE_BYTES = 80_000_000  # of objects, of a cluster that is started here: answers are small


class RayCluster:
    """address: "local" (started here, and ended with `close`), "auto" (what this machine belongs to), ray://host:port.

    folder: sent to all machines, to work in.  threads: of kernels on a CPU; None: as many as PyTorch takes by itself.
    Raises MissingTool without Ray, UserError where there is no such cluster.
    """

    def __init__(self, address: str, folder: Path | None = None, threads: str | None = None) -> None:
        self._ray = ray = ray_module()
        self._threads = threads
        given: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if folder is not None:
            given["runtime_env"] = {"working_dir": str(folder)}
        if address == LOCAL:
            given |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        try:
            _reach(address)
            ray.init(address=address, **given)
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            step = (
                "`--cluster local` needs no cluster that runs; `ray start --head` starts one on this machine; one that asks "
                "for a token wants RAY_AUTH_MODE and the token here, too"
            )
            raise UserError(f"no Ray cluster at {address}: {_first_line(error)}", next_step=step) from error
        self._task = ray.remote(max_retries=0)(_answer)
        self.machines = [node for node in ray.nodes() if node["Alive"]]

    @property
    def elsewhere(self) -> bool:
        """Whether some of it is on other machines than this one."""
        return any(node["NodeManagerHostname"] != socket.gethostname() for node in self.machines)

    def slots(self) -> list[Slot]:
        return [slot for node in self.machines for slot in slots_of(node)]

    def start(self, slot: Slot, request: Mapping[str, Any]) -> Any:
        pinned = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(slot.machine, soft=False)
        options = {"num_cpus": slot.cpus, "num_gpus": 1 if slot.gpu else 0, "scheduling_strategy": pinned}
        return self._task.options(**options).remote(dict(request), self._threads)

    def wait(self, running: Sequence[Any], seconds: float) -> list[Any]:
        done, _ = self._ray.wait(list(running), num_returns=1, timeout=seconds)
        return done

    def outcome(self, done: Any) -> Outcome | Lost:
        errors = self._ray.exceptions
        try:
            return Outcome(**self._ray.get(done))
        except (errors.NodeDiedError, errors.TaskUnschedulableError) as error:
            return Lost(_first_line(error))
        except errors.RayError as error:
            return Outcome("crashed", note=_first_line(error))

    def cancel(self, running: Iterable[Any]) -> None:
        for handle in running:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(handle, force=True)

    def close(self) -> None:
        self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ray_module() -> ModuleType:
    """Raises MissingTool."""
    Environment.keep_ray_quiet()
    try:
        ray = importlib.import_module("ray")
        for part in ("exceptions", "util.scheduling_strategies"):
            importlib.import_module(f"ray.{part}")
    except ImportError as error:
        raise MissingTool("Ray", needed_for="--cluster", install=INSTALL) from error
    return ray


def slots_of(node: Mapping[str, Any]) -> list[Slot]:
    """The devices of a machine, as `ray.nodes()` describes it: each GPU, and all of its CPUs as one."""
    has, machine, host = node["Resources"], node["NodeID"], node["NodeManagerHostname"]
    cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    found = [Slot(f"{cpus}-core CPU", machine, host, False, cpus)] if cpus else []
    models = sorted(name.removeprefix(ACCELERATOR) for name in has if name.startswith(ACCELERATOR))
    model = models[0] if models else f"the GPU of {host}"
    share = math.floor(100 * min(1.0, cpus / gpus)) / 100 if gpus else 0.0
    return [*found, *([Slot(model, machine, host, True, share)] * gpus)]


def _answer(request: dict[str, Any], threads: str | None) -> dict[str, Any]:
    """In a process of Ray: has a process of its own answer, which ends with this one.

    Ray says how many threads its tasks are to use; what is tuned is looked up by processes that decide for themselves.
    """
    command = python_worker("fusecade.commands.tune_worker", {"OMP_NUM_THREADS": threads})
    with Pool(command, 1) as pool:
        outcome = pool.submit(request, math.inf).result()
    return {"state": outcome.state, "value": dict(outcome.value), "note": outcome.note, "seconds": outcome.seconds}


def _reach(address: str) -> None:
    """Raises OSError where nobody answers at once; Ray itself tries for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACH_S).close()


def _first_line(error: BaseException) -> str:
    """Of what a task raised, where it is that."""
    text = str(getattr(error, "cause", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
