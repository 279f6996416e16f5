"""Run a torch tile program on the CPU: its grid, cut into pieces, over a few threads.

Each thread runs torch with one thread, so that each core works on a tile of its own and keeps it in its own cache;
scratch tiles are allocated by the piece, hence one set a worker.  A grid of few programs, and one that is priced so, runs
on the calling thread, where torch spreads each operation over the cores instead.

The threads are torch's own (`team.py`), or a pool of workers where it has none that can be had.

Measured on two cores with generated kernels: sharing the operations takes 0.31 of the time that workers take for four
programs of 0.1 ms, 0.5 to 0.8 for kernels of 1 to 10 ms, as much for long ones with products of whole matrices, and 1.2
times as much where a product of one head is cut in two; of two heads, it takes 0.8.  Workers lose Python's lock to each
other at each operation.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue

import torch

from ..codegen.artifact import KernelArtifact
from . import team
from .expressions import function_of

PIECES_PER_WORKER = 4  # more than one, so that a worker that was held up is helped out by the others


class Launcher:
    """One torch tile program, ready to be run on tensors and sizes."""

    def __init__(self, function: Callable[..., object], artifact: KernelArtifact) -> None:
        self.function = function
        self.programs = function_of(artifact.launch["programs"], artifact.sizes)
        # Cores that are to share each operation: what more of them would do with one, nobody has priced.
        self.shared_by = int(artifact.launch.get("shared_by", 0))

    def __call__(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> None:
        """Run it; the tensors are inputs, then outputs."""
        run_grid(partial(self.function, *tensors, *sizes), self.programs(sizes), self._threads())

    def bound(self, sizes: Sequence[int]) -> Callable[[Sequence[torch.Tensor]], None]:
        """The same for these sizes, to be called with tensors alone."""
        function, programs = self.function, self.programs(sizes)
        return lambda tensors: run_grid(partial(function, *tensors, *sizes), programs, self._threads())

    def _threads(self) -> int | None:
        return 1 if torch.get_num_threads() <= self.shared_by else None


def run_grid(program: Callable[[int, int], object], programs: int, threads: int | None = None) -> None:
    """Call `program(start, stop)` over pieces that cover `range(programs)`; its exceptions come out here.

    threads: how many workers; by default as many as torch uses in the calling thread.
    """
    if programs <= 0:
        return
    workers = torch.get_num_threads() if threads is None else threads
    if workers <= 1 or programs < 2 * workers or team.is_member() or _Worker.is_current():
        _guarded(program, 0, programs)
    elif team.available():
        job = _Job(program, programs, workers)
        team.run(job.work, workers)
        job.raise_error()
    else:
        _Pool.of_process().run(program, programs, workers)


def _guarded(program: Callable[[int, int], object], start: int, stop: int) -> None:
    """Generated programs write into given memory: no autograd, and no autocast, whose state belongs to the caller."""
    with torch._C._InferenceMode(True):  # `torch.inference_mode` without its Python, 1 us less
        if torch._C._is_any_autocast_enabled():
            with torch._C._DisableAutocast():
                program(start, stop)
        else:
            program(start, stop)


class _Job:
    """One grid that is being run: the pieces not yet taken, the workers still at it, the first exception."""

    def __init__(self, program: Callable[[int, int], object], programs: int, workers: int):
        self.program, self.programs = program, programs
        self.step = max(1, -(-programs // (workers * PIECES_PER_WORKER)))
        self.starts = itertools.count(0, self.step)  # taking the next number is atomic
        self.error: BaseException | None = None
        self.cancelled = False
        self.left = workers
        self.lock = threading.Lock()
        self.done = threading.Event()

    def work(self) -> None:
        try:
            while not self.cancelled and (start := next(self.starts)) < self.programs:
                _guarded(self.program, start, min(start + self.step, self.programs))
        except BaseException as error:
            self.cancelled = True
            with self.lock:
                self.error = self.error or error
        finally:
            with self.lock:
                self.left -= 1
                if self.left == 0:
                    self.done.set()

    def wait(self) -> None:
        try:
            self.done.wait()
        except BaseException:  # an interrupt: the workers write into memory that the caller is about to give up
            self.cancelled = True
            self.done.wait()
            raise
        self.raise_error()

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error


class _Worker(threading.Thread):
    """A thread in which torch uses one thread."""

    def __init__(self, jobs: SimpleQueue[_Job], number: int):
        super().__init__(name=f"fusecade-{number}", daemon=True)
        self.jobs, self.ready = jobs, threading.Event()

    def run(self) -> None:
        torch.get_num_threads()  # lets torch set up this thread; otherwise it would do so later, over our setting
        torch.set_num_threads(1)
        self.ready.set()
        while True:
            job = self.jobs.get()
            job.work()
            del job  # what it holds on to is the caller's

    @staticmethod
    def is_current() -> bool:
        return isinstance(threading.current_thread(), _Worker)


class _Pool:
    """The workers of this process.  They wait in one queue, so that several callers at a time share them."""

    _instance: _Pool | None = None
    _making = threading.Lock()

    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.workers: list[_Worker] = []
        self.growing = threading.Lock()

    @classmethod
    def of_process(cls) -> _Pool:
        with cls._making:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    @classmethod
    def forget(cls) -> None:
        """In a child after a fork: the threads stayed with the parent."""
        cls._instance, cls._making = None, threading.Lock()

    def run(self, program: Callable[[int, int], object], programs: int, workers: int) -> None:
        workers = min(workers, programs)
        self._grow(workers)
        job = _Job(program, programs, workers)
        for _ in range(workers):
            self.jobs.put(job)
        job.wait()

    def _grow(self, workers: int) -> None:
        if len(self.workers) >= workers:
            return
        with self.growing:
            threads = torch.get_num_threads()
            while len(self.workers) < workers:
                worker = _Worker(self.jobs, len(self.workers))
                worker.start()
                worker.ready.wait()
                self.workers.append(worker)
            # Setting it in a worker changes what threads that start later take for their default; this sets it back.
            torch.set_num_threads(threads)


os.register_at_fork(after_in_child=_Pool.forget)
