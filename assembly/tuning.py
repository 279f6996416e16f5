"""Tuning: the configurations of a kernel searched, on this machine or offline, and what was learnt kept.

    tuner = Tuner.of(folder, url, machine, QUICK, kept)      # in place of `Tuned`: it measures what is not known
    plan = cached_plan(gm, target, options, folder, ..., tuning=tuner)
    tuner.outcomes                                        # of each kernel that was searched

Only kernels without a measured decision for exactly their key are searched.  Candidates are emitted here, and run in a
worker process (`tuning_worker.py`); for GPUs they are compiled ahead in further processes, and what registers or shared
memory rule out is not run.  A target that is not in this machine can be searched by price and by what its compiler
reports: such decisions are marked as predicted, and any measurement replaces them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..autotune.cache import Decision
from ..autotune.claims import claim
from ..autotune.history import History, history_of
from ..autotune.options import COST, MODES, Options
from ..autotune.pruning import Limits, Resources
from ..autotune.records import MEASURED, PREDICTED, Configuration, Failure, Key, Sample
from ..autotune.search import Progress, Result, search
from ..autotune.space import Inadmissible, Prediction, Space
from ..autotune.timing import Comparison, Verdict
from ..autotune.workers import Pool, python_worker
from ..codegen.artifact import KernelArtifact
from ..errors import InternalCompilerError, InvalidArgument
from ..ir.target import Target
from ..passes.algebra.forms import Refused
from ..passes.schedule import ALIKE
from ..runtime import resources
from ..runtime.files import private_folder, usable_folder
from ..runtime.triton_compile import CompileFailure, CompilerPool
from .binaries import request_of
from .devices import Machine, TimedDevice
from .tunable import Configured, Subject, Tunable
from .tuned import Tuned

log = logging.getLogger("fusecade")

MOST_POINTS = 1 << 24  # of a program's largest operation, that the reference interpreter is given
STANDS_FOR = 4096  # a size that nothing is known of
LOAD_S = 60.0  # that inputs and the reference may take, once a kernel
BUSY = "another process is measuring it"
INTERRUPTED = "interrupted"
COMPILERS = 2


@dataclass(frozen=True)
class Outcome:
    """What came of one kernel.  result: None where it could not be searched, for the `reason`.  predicted_us: of the
    default; winner_us: of the winner."""

    kernel: str
    operations: str
    subject: Subject
    result: Result | None
    predicted_us: float | None = None
    winner_us: float | None = None
    reason: str = ""


@dataclass
class Tuner:
    """Looks up what was tuned, and tunes what was not.

    options: of each kernel's search.  offline: by price and compiler only.  on_kernel: is told of a kernel (its name and
    its operations) before it is searched; on_progress: of each of its trials; on_outcome: when it is done; on_wait: for
    what it waits before it can measure.
    devices: that kernels are timed on, by one process at a time; without any, nobody is asked.
    storage: makes Optuna's storage, where trials of searches that measure are to be seen in its dashboard as well.
    again: search kernels further that have a decision.
    strict: raise where a kernel cannot be searched for want of a worker.
    """

    tuned: Tuned
    options: Options
    folder: Path
    offline: bool = False
    again: bool = False
    strict: bool = False
    on_kernel: Callable[[str, str], None] = lambda name, operations: None
    on_progress: Callable[[Progress], None] = lambda progress: None
    on_outcome: Callable[[Outcome], None] = lambda outcome: None
    on_wait: Callable[[str], None] = lambda why: log.warning("tuning waits: %s", why)
    devices: tuple[TimedDevice, ...] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    storage: Callable[[], Any] | None = None
    _seen: set[Subject] = field(default_factory=set)
    _pool: Pool | None = None
    _device: TimedDevice | None = None
    _interrupted: bool = False

    @staticmethod
    def of(
        folder: Path, url: str | None, machine: Machine, options: Options, kept: Path, *, offline: bool = False
    ) -> Tuner:
        """folder, url: of the cache.  kept: the cache folder, for the sources of candidates."""
        return Tuner(Tuned.of(folder, url, machine, make=True), options, usable_folder(kept) / "candidates", offline)

    # --- the face towards the driver --------------------------------------------------------------------------------

    def configure(self, tunable: Tunable) -> Configured:
        if self._to_be_tuned(tunable.subject):
            try:
                with self._claimed():
                    if self._to_be_tuned(tunable.subject):  # not by another process, while this one waited
                        self.tune(tunable)
            except KeyboardInterrupt:  # while it waited; a search ends with what it has
                self._interrupted = True
                name, operations, subject = tunable.name, tunable.operations, tunable.subject
                self.outcomes.append(Outcome(name, operations, subject, None, reason=INTERRUPTED))
        return self.tuned.configure(tunable)

    def current(self, about: Mapping[str, Any]) -> bool:
        try:
            wanted = self._to_be_tuned(Subject.from_json(about["subject"]))
        except (KeyError, TypeError, ValueError):
            return False
        return not wanted and self.tuned.current(about)

    def _to_be_tuned(self, subject: Subject) -> bool:
        if subject in self._seen or self._interrupted:
            return False
        key = self._key(subject)
        found = self.tuned.cache.lookup(key)
        enough = (MEASURED, PREDICTED) if self.offline else (MEASURED,)
        return self.again or not (found is not None and found.kind in enough and found.exact and found.key == key)

    def _key(self, subject: Subject) -> Key:
        """Under which samples are kept: of this machine, or of any device of that name."""
        return self.tuned.keys(subject)[-1 if self.offline else 0]

    def history(self, subject: Subject, name: str, operations: str) -> History:
        """What is known of a kernel by now."""
        return history_of(self.tuned.cache, self._key(subject), name, operations)

    # --- one kernel -------------------------------------------------------------------------------------------------

    def tune(self, tunable: Tunable) -> Outcome:
        """Searches the configurations of a kernel, and decides."""
        self._seen.add(tunable.subject)
        self.on_kernel(tunable.name, tunable.operations)
        try:
            outcome = self._searched(tunable)
        except InternalCompilerError as error:
            if self.strict:
                raise
            log.warning("kernel %s is not tuned: %s", tunable.name, error.message)
            outcome = Outcome(tunable.name, tunable.operations, tunable.subject, None, reason=error.message)
        self._interrupted = outcome.result is not None and outcome.result.stopped == "interrupted"
        self.outcomes.append(outcome)
        self.on_outcome(outcome)
        return outcome

    def compare(self, tunable: Tunable, candidate: Configuration, reference: Configuration) -> Comparison | Failure:
        """Two configurations of a kernel timed in turns, with all the time that a last comparison may take."""
        with _Candidates(tunable, self.folder) as candidates:
            return _Timing(self, tunable, candidates).confirm(candidate, reference)

    def _searched(self, tunable: Tunable) -> Outcome:
        subject = tunable.subject
        found = tunable.space
        if isinstance(found, Refused):
            return Outcome(tunable.name, tunable.operations, subject, None, reason=found.reason)
        space, cache, key, began = Space.of(found.variants), self.tuned.cache, self._key(subject), time.time()

        def predict(c: Configuration) -> Prediction | Inadmissible:
            p = found.predict(c.variant, dict(c.values))
            if p is None:
                return Inadmissible("it does not fit the target's registers and shared memory")
            return Prediction(p.us, p.bound_by, p.sram_bytes)

        def keep(sample: Sample) -> None:
            if sample.note != BUSY:
                cache.record(key, sample)

        with _Candidates(tunable, self.folder) as candidates:
            timing = _Timing(self, tunable, candidates) if self._measures else None
            if timing is not None:
                timing.begin(space.default)
            result = search(
                space,
                predict,
                timing.measure if timing else None,
                self.options,
                self._known(subject),
                on_sample=keep,
                on_progress=self.on_progress,
                inspect=candidates.inspect,
                prepare=candidates.prepare,
                confirm=timing.confirm if timing else None,
                limits=Limits.of(tunable.target),
                versions=cache.versions,
                storage=self.storage() if self.storage is not None and not self.offline else None,
                study=f"{tunable.name} {key.digest[:12]}",
            )
        result = settled(result)
        self._decide(key, result, began)
        default_us, us = (
            p.us if isinstance(p := predict(c), Prediction) else None for c in (space.default, result.winner)
        )
        return Outcome(tunable.name, tunable.operations, subject, result, default_us, us)

    def _known(self, subject: Subject) -> list[Sample]:
        """Samples of earlier runs: those of this machine; of predictions, those made for any such device as well."""
        first, *others = self.tuned.keys(subject)
        if self.offline:
            return self.tuned.cache.samples([first, *others][-1])
        predicted = (s for key in others for s in self.tuned.cache.samples(key) if s.state == PREDICTED)
        return [*predicted, *self.tuned.cache.samples(first)]

    def _decide(self, key: Key, result: Result, began: float) -> None:
        """What was measured is decided, also that nothing is faster than the default; predictions where nothing was.

        What another process decided meanwhile stays if it gains more: each has measured a part of the candidates.
        """
        sample, default = result.sample, result.default
        if sample is None or sample.state not in (MEASURED, PREDICTED):
            return
        us = sample.us if sample.us is not None else sample.predicted_us
        if us is None:
            return
        if sample.state == PREDICTED:
            usual = default.predicted_us if default is not None else None
        elif default is None or default.state != MEASURED:
            usual = None  # it does not run
        else:
            usual = max(us, sample.default_us or us) if sample.configuration != default.configuration else us
        made = Decision(key, result.winner, sample.state, us, usual, self.tuned.cache.versions, time.time())
        other = self.tuned.cache.lookup(key)
        if other is None or other.key != key or other.at < began or (other.gain or 1.0) <= (made.gain or 1.0):
            self.tuned.cache.decide(key, made)

    # --- workers ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Holds a device for a kernel: the one of the last kernel, if it is free."""
        if not self._measures or not self.devices:
            yield
            return
        ordered = sorted(self.devices, key=lambda d: d != self._device)
        folder = private_folder(self.folder.parent / "devices")
        with claim(folder, [d.name for d in ordered], on_wait=self.on_wait) as name:
            device = next(d for d in ordered if d.name == name)
            if device != self._device:
                self.close()  # the worker sees the other one
                self._device = device
            yield

    @property
    def _measures(self) -> bool:
        return not self.offline and self.options.sampler != COST

    def ask(self, request: Mapping[str, Any], deadline_s: float) -> Mapping[str, Any] | Failure:
        if self._pool is None:
            memory = self.tuned.machine.memory_bytes * 3 // 4 if self.tuned.machine.target.kind == "cpu" else None
            variables = self._device.variables if self._device is not None else ()
            self._pool = Pool(worker_command(variables), 1, memory_bytes=memory or None)
        outcome = self._pool.submit(request, deadline_s).result()
        return outcome.failure or outcome.value

    def close(self) -> None:
        """Ends the worker; the next kernel starts another."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


def settled(result: Result) -> Result:
    """With the default in place of what is only predicted to be faster, and by no more than prices tell."""
    default, sample = result.default, result.sample
    if default is None or sample is None or PREDICTED not in (sample.state, default.state) or sample == default:
        return result
    if sample.state != default.state or sample.predicted_us is None or default.predicted_us is None:
        return result
    if default.predicted_us > ALIKE * sample.predicted_us:
        return result
    why = Verdict(False, "prices of what else compiles are as good as the same")
    return replace(result, winner=default.configuration, sample=default, verdict=why)


def worker_command(variables: Sequence[tuple[str, str]] = ()) -> list[str]:
    """Starts a worker.  variables: that its environment has besides."""
    return python_worker(f"{__package__}.tuning_worker", dict(variables))


@dataclass
class _Timing:
    """What measures the candidates of a kernel."""

    tuner: Tuner
    tunable: Tunable
    candidates: _Candidates

    def begin(self, default: Configuration) -> None:
        """Starts the worker, and has it make inputs and the right results; what fails here fails again with a candidate."""
        usual = self.candidates.artifact(default)
        if isinstance(usual, KernelArtifact):
            self.tuner.ask(self._request(usual), LOAD_S)

    def measure(self, candidate: Configuration, reference: Configuration) -> Comparison | Failure:
        seconds = self.tuner.options.candidate_seconds
        lease = self.tuner.tuned.cache.claim(
            self.tuner._key(self.tunable.subject), candidate, seconds + LOAD_S, again=candidate == reference
        )
        if lease is None:
            return Failure("pruned", BUSY)
        try:
            return self._compared(candidate, reference, min(seconds / 8, 2.0), 48)
        finally:
            lease.release()

    def confirm(self, candidate: Configuration, reference: Configuration) -> Comparison | Failure:
        return self._compared(candidate, reference, min(self.tuner.options.candidate_seconds / 3, 6.0), 128)

    def _compared(
        self, candidate: Configuration, reference: Configuration, seconds: float, rounds: int
    ) -> Comparison | Failure:
        made, usual = self.candidates.artifact(candidate), self.candidates.artifact(reference)
        if isinstance(made, Refused) or isinstance(usual, Refused):
            refused = made if isinstance(made, Refused) else usual
            assert isinstance(refused, Refused)
            return Failure("invalid", refused.reason)
        request = self._request(usual) | {
            "candidate": made.to_json(),
            "timing": {"seconds": seconds, "rounds": rounds},
        }
        answer = self.tuner.ask(request, self.tuner.options.candidate_seconds + LOAD_S / 4)
        return answer if isinstance(answer, Failure) else Comparison.from_json(answer)

    def _request(self, reference: KernelArtifact) -> dict[str, Any]:
        machine = self.tuner.tuned.machine
        return {
            "reference": reference.to_json(),
            "program": self.candidates.program,
            "places": self.tunable.places if self.candidates.program is not None else [],
            "sizes": {name: self.tunable.hints.get(name, STANDS_FOR) for name in reference.sizes},
            "device": "cpu" if machine.target.kind == "cpu" else "cuda",
            "threads": machine.sms,
            "seed": self.tuner.options.seed,
            "cache_bytes": 2 * machine.target.l2_bytes,
            "folder": str(self.tuner.folder),
        }


class _Candidates:
    """The artifacts of a kernel's configurations, and what a GPU's compiler says of them, made ahead."""

    def __init__(self, tunable: Tunable, folder: Path) -> None:
        self._tunable, self._folder = tunable, folder
        self._made: dict[Configuration, KernelArtifact | Refused] = {}
        self._compiled: dict[Configuration, Future[Resources | Failure]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._compilers: list[CompilerPool] = []
        self.program = tunable.program if tunable.points <= MOST_POINTS else None

    def __enter__(self) -> _Candidates:
        if self._tunable.target.kind != "cpu":
            self._threads = ThreadPoolExecutor(COMPILERS)
            self._compilers = [CompilerPool(cache_dir=self._folder, jobs=1, timeout_s=60.0) for _ in range(COMPILERS)]
        return self

    def __exit__(self, *_: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        for pool in self._compilers:
            pool.close()

    def artifact(self, c: Configuration) -> KernelArtifact | Refused:
        if c not in self._made:
            self._made[c] = self._tunable.artifact(c.variant, dict(c.values))
        return self._made[c]

    def prepare(self, c: Configuration) -> None:
        """Emits a candidate, and has it compiled."""
        made = self.artifact(c)
        if self._threads is not None and isinstance(made, KernelArtifact) and c not in self._compiled:
            self._compiled[c] = self._threads.submit(self._compile, made)

    def inspect(self, c: Configuration) -> Resources | Failure | None:
        made = self.artifact(c)
        if isinstance(made, Refused):
            return Failure("invalid", made.reason)
        if self._threads is None:
            return None
        self.prepare(c)
        return self._compiled[c].result()

    def _compile(self, artifact: KernelArtifact) -> Resources | Failure:
        pool = self._compilers.pop()  # one for each thread
        try:
            found = pool.compile([request_of(kernel, self._folder) for kernel in artifact.kernels])
        finally:
            self._compilers.append(pool)
        used: list[Resources] = []
        for kernel, compiled in zip(artifact.kernels, found, strict=True):
            if isinstance(compiled, CompileFailure):
                return Failure("crashed" if compiled.crashed else "invalid", compiled.reason)
            used.append(used_by(resources.read_resources(compiled, disassemble=False), kernel, self._tunable.target))
        known = [u.occupancy_percent for u in used if u.occupancy_percent is not None]
        return Resources(
            max(u.registers for u in used),
            max(u.spill_bytes for u in used),
            max(u.shared_bytes for u in used),
            min(known, default=None),
        )


def used_by(found: resources.Resources, kernel: KernelArtifact, target: Target) -> Resources:
    """What a compiler reported, with the part of an SM's threads that so many programs as it holds have."""
    registers, shared = found.registers or 0, found.shared_bytes
    threads = int(kernel.launch.get("num_warps", 4)) * target.warp_size
    beside = target.max_threads_per_sm // threads
    if registers:
        beside = min(beside, target.registers // (registers * threads))
    if shared:
        beside = min(beside, target.sram_bytes // shared)
    occupancy = min(100, 100 * beside * threads // target.max_threads_per_sm)
    return Resources(registers, found.spills_bytes or 0, shared, occupancy)


def options_of(
    mode: str = "quick",
    *,
    sampler: str | None = None,
    trials: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> Options:
    """The options of a mode with some of them chosen.  Raises InvalidArgument."""
    if mode not in MODES:
        raise InvalidArgument.choice("mode", mode, MODES)
    given = {"sampler": sampler, "trials": trials, "seconds": seconds}
    return replace(MODES[mode], seed=seed, **{name: value for name, value in given.items() if value is not None})


__all__ = ["Outcome", "Tuner", "options_of", "used_by", "worker_command"]
