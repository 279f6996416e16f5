"""Worker processes that may crash, hang, fill the memory or print what they like: a request ends as an `Outcome`, always.

    with Pool([sys.executable, "-m", "some.worker"], workers=2) as pool:     # whose main calls worker_side.serve
        outcome = pool.submit({"source": ...}, deadline_s=60).result()

Each worker leads a process group of its own, which is killed as a whole: at a deadline, after a crash, when the pool is
closed, and by a watchdog when this process is killed.  A request that ends its worker is not repeated; the next one
gets a new process.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..errors import InternalCompilerError, InvalidArgument
from .records import FAILURES, Failure
from .worker_side import NO_MEMORY, speaks_of

DONE = "done"
NOTE_LINES = 8  # of standard error, in the note of an outcome
KEPT_BYTES = 16_384  # of standard error
LONGEST_ANSWER = 64 * 2**20
GLANCE_S = 0.1  # how often a silent worker is looked after: a child of it may hold its pipes open
WATCHDOG = Path(__file__).with_name("watchdog.py")


def python_worker(module: str, variables: Mapping[str, str | None] | None = None) -> list[str]:
    """The command that runs `main()` of a module, in a process that finds the same modules as this one.

    variables: environment variables that differ there; None: that are not set there.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; sys.exit(main())"
    changes = variables or {}
    without = [word for name, value in changes.items() if value is None for word in ("-u", name)]
    given = [f"{name}={value}" for name, value in changes.items() if value is not None]
    return [*(["env", *without, *given] if changes else []), sys.executable, "-c", code]


@dataclass(frozen=True)
class Outcome:
    """What became of a request.  state: "done", or one of records.FAILURES.  value: the answer of a handler.
    note: why it failed, with the last lines of standard error.  seconds: from sending it to its end.
    """

    state: str
    value: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    seconds: float = 0.0

    @property
    def failure(self) -> Failure | None:
        return None if self.state == DONE else Failure(self.state, self.note)


class Pool:
    """A few workers that take requests from one queue.

    command: starts one of them.  memory_bytes: that each may have for itself.  nice: by how much its priority is lower.
    environment: of the workers, this process's own where it is None.  start_s: how long one may take to start.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        *,
        memory_bytes: int | None = None,
        nice: int = 0,
        environment: Mapping[str, str] | None = None,
        start_s: float = 120.0,
    ) -> None:
        if workers < 1 or (memory_bytes is not None and memory_bytes < 1):
            raise InvalidArgument(f"{workers} workers with {memory_bytes} bytes each")
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._watchdog = _Watchdog()
        setup = {"memory_bytes": memory_bytes, "nice": nice}
        self._workers = [
            _Worker(list(command), setup, environment, start_s, self._watchdog, self._closed) for _ in range(workers)
        ]
        self._threads = [
            threading.Thread(target=_work, args=(worker, self._requests, self._closed), daemon=True)
            for worker in self._workers
        ]
        # Not a method of the pool: one that nobody closes is closed when it is collected, and at exit.
        self._finish = weakref.finalize(self, _close, self._closed, self._requests, self._threads, self._watchdog)
        for thread in self._threads:
            thread.start()

    def submit(self, request: Mapping[str, Any], deadline_s: float) -> Future[Outcome]:
        """Hands a request to the next worker that is free.  deadline_s: for the request itself, from when it is sent.

        The future raises InternalCompilerError where no worker starts; it is cancelled when the pool closes first.
        """
        future: Future[Outcome] = Future()
        with self._lock:
            if self._closed.is_set():
                raise InvalidArgument("this pool of workers is closed")
            self._requests.put(_Request(dict(request), deadline_s, future))
        return future

    @property
    def processes(self) -> list[int]:
        """The ids of the worker processes that run."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    def close(self) -> None:
        """Kills the workers, whatever they do, and all that they started."""
        with self._lock:
            self._closed.set()
        self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Request:
    body: dict[str, Any]
    deadline_s: float
    future: Future[Outcome]


def _work(worker: _Worker, requests: queue.SimpleQueue[_Request | None], closed: threading.Event) -> None:
    """What the thread of a worker does."""
    while (request := requests.get()) is not None:
        if closed.is_set():
            request.future.cancel()
        elif request.future.set_running_or_notify_cancel():
            try:
                request.future.set_result(worker.ask(request.body, request.deadline_s))
            except BaseException as error:
                request.future.set_exception(error)
    worker.end()


def _close(
    closed: threading.Event,
    requests: queue.SimpleQueue[_Request | None],
    threads: list[threading.Thread],
    watchdog: _Watchdog,
) -> None:
    closed.set()
    with contextlib.suppress(queue.Empty):
        while (request := requests.get_nowait()) is not None:
            request.future.cancel()
    for _ in threads:
        requests.put(None)
    for thread in threads:
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(timeout=10)
    watchdog.close()


class _Watchdog:
    """The process of `watchdog.py`.  Without it workers still end, but for when this process is killed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the collector may come upon a forgotten pool, and close it, within `say`
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(WATCHDOG)], stdin=subprocess.PIPE, start_new_session=True, text=True
        )

    def say(self, sign: str, group: int) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(f"{sign} {group}\n")
            self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


class _Ended(Exception):
    """A worker is of no more use.  state, note: of the request."""

    def __init__(self, state: str, note: str) -> None:
        super().__init__(state, note)
        self.state, self.note = state, note


class _Worker:
    """One process after another, each of them asked by one thread."""

    def __init__(
        self,
        command: list[str],
        setup: dict[str, Any],
        environment: Mapping[str, str] | None,
        start_s: float,
        watchdog: _Watchdog,
        closed: threading.Event,
    ) -> None:
        self._command, self._setup, self._environment, self._start_s = command, setup, environment, start_s
        self._watchdog, self._closed = watchdog, closed
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: deque[bytes] = deque()
        self._ids = itertools.count()

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None else None

    def ask(self, request: dict[str, Any], deadline_s: float) -> Outcome:
        self._start()
        self._errors.clear()
        start = time.monotonic()
        try:
            answer = self._exchange({"request": request}, deadline_s)
        except _Ended as ended:
            self.end()
            return Outcome(ended.state, note=ended.note, seconds=time.monotonic() - start)
        except BaseException:
            self.end()
            raise
        seconds = time.monotonic() - start
        if DONE in answer:
            return Outcome(DONE, answer[DONE], seconds=seconds)
        if answer["fresh"]:
            self.end()
        return Outcome(answer["failed"], note=self._note(answer["note"]), seconds=seconds)

    def end(self) -> None:
        """Kills the process and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        # Before it is waited for: until then its number, and that of its group, belong to nobody else.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self._watchdog.say("-", process.pid)
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        process.wait()

    def _start(self) -> None:
        """Raises InternalCompilerError where it does not come up: that is no fault of a request."""
        if self._process is not None and _exited(self._process.pid) is None:
            return
        self.end()
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                self._command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment, process_group=0
            )
        except OSError as error:
            raise InternalCompilerError(f"a worker process does not start: {error}", stage="tune") from error
        self._watchdog.say("+", self._process.pid)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
        self._errors.clear()
        try:
            self._exchange({"setup": self._setup}, self._start_s)
        except _Ended as ended:
            self.end()
            raise InternalCompilerError(f"a worker process does not start: {ended.note}", stage="tune") from None

    def _exchange(self, message: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """One line there, one line back.  Raises _Ended."""
        assert self._process is not None
        process, number = self._process, next(self._ids)
        unsent = memoryview(json.dumps({"id": number, **message}).encode() + b"\n")
        answer, end = bytearray(), time.monotonic() + deadline_s
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if self._closed.is_set():
                    raise CancelledError
                if (left := end - time.monotonic()) <= 0:
                    raise _Ended("hung", self._note(f"no answer within {deadline_s:g} s"))
                ready = {key.fileobj for key, _ in selector.select(min(left, GLANCE_S))}
                if stderr in ready and not self._drain():
                    selector.unregister(stderr)
                if stdin in ready:
                    try:
                        unsent = unsent[os.write(stdin.fileno(), unsent[:65536]) :]
                    except BrokenPipeError:
                        unsent = unsent[:0]
                    if not unsent:
                        selector.unregister(stdin)
                if stdout in ready:
                    chunk = os.read(stdout.fileno(), 1 << 20)
                    answer += chunk
                    if not chunk or len(answer) > LONGEST_ANSWER:
                        raise self._ended("closed its pipe without an answer" if not chunk else "a boundless answer")
                elif _exited(process.pid):
                    with contextlib.suppress(BlockingIOError):
                        answer += os.read(stdout.fileno(), LONGEST_ANSWER)
                    if not answer.endswith(b"\n"):
                        raise self._ended("ended without an answer")
        return self._checked(bytes(answer), number)

    def _checked(self, line: bytes, number: int) -> dict[str, Any]:
        """An answer as `worker_side` writes it."""
        answer: Any = None
        try:
            answer = json.loads(line)
            right = answer["id"] == number and (
                isinstance(answer.get(DONE), dict)
                or (
                    answer["failed"] in FAILURES
                    and isinstance(answer["note"], str)
                    and isinstance(answer["fresh"], bool)
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            right = False
        if not right:
            raise _Ended("invalid", self._note(f"answered {line[:200].decode(errors='replace').strip()!r}"))
        return answer

    def _ended(self, what: str) -> _Ended:
        """Why a worker that said nothing is gone."""
        assert self._process is not None
        for _ in range(20):  # a pipe closes a moment before its process is gone
            if (exited := _exited(self._process.pid)) is not None:
                what = _how(exited)
                break
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # so that what it started writes no more
        self._drain()
        note = self._note(what)
        return _Ended("out_of_memory" if speaks_of(NO_MEMORY, note) else "crashed", note)

    def _drain(self) -> bool:
        """Takes what is on standard error, keeping the last of it; False at its end."""
        assert self._process is not None and self._process.stderr is not None
        for _ in range(64):  # a worker that writes without end is still answered
            try:
                chunk = os.read(self._process.stderr.fileno(), 65536)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._errors.append(chunk[-KEPT_BYTES:])
            while sum(map(len, self._errors)) > 2 * KEPT_BYTES:
                self._errors.popleft()
        return True

    def _note(self, what: str) -> str:
        lines = b"".join(self._errors)[-KEPT_BYTES:].decode(errors="replace").splitlines()
        return "\n".join([what, *(line[-300:] for line in lines[-NOTE_LINES:] if line.strip())])


def _exited(pid: int) -> os.waitid_result | None:
    """How a child has ended, if it has; it is not waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def _how(exited: os.waitid_result) -> str:
    if exited.si_code == os.CLD_EXITED:
        return f"ended with status {exited.si_status}"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(exited.si_status).name}"
    return f"ended by signal {exited.si_status}"
