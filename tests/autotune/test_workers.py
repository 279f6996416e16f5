"""Workers that crash, hang, fill the memory and talk: the pool goes on, and nothing is left behind."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from fusecade.autotune.pipeline import Prefetch, pipeline
from fusecade.autotune.workers import Outcome, Pool
from fusecade.errors import InternalCompilerError, InvalidArgument

FAKE = Path(__file__).with_name("fake_worker.py")
COMMAND = [sys.executable, str(FAKE)]
SOON = 20.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(COMMAND, 1, memory_bytes=2 * 2**30) as pool:
        yield pool


def ask(pool: Pool, do: str, deadline_s: float = SOON, **rest: object) -> Outcome:
    return pool.submit({"do": do, **rest}, deadline_s).result(timeout=60)


def goes_on(pool: Pool) -> None:
    assert ask(pool, "echo", word="still there").value["said"] == "still there"


def gone(pid: int) -> bool:
    """Whether a process ends within a few seconds; a zombie that nobody waits for has ended."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):  # before it is opened, or before it is read
            return True
        time.sleep(0.05)
    return False


def test_an_answer(pool: Pool):
    outcome = ask(pool, "echo", word="héllo")
    assert outcome.state == "done" and outcome.value["said"] == "héllo" and outcome.failure is None
    assert 0 < outcome.seconds < SOON


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"do": "segfault"}, ["SIGSEGV", "about to read address 0"]),
        ({"do": "abort"}, ["SIGABRT"]),
        ({"do": "kill"}, ["SIGKILL"]),
        ({"do": "exit", "status": 7}, ["status 7"]),
        ({"do": "exit", "status": 0}, ["status 0"]),
        ({"do": "close"}, ["closed its pipe"]),
        ({"do": "flood", "megabytes": 8}, ["status 1", "the last line"]),
        ({"do": "raise", "text": "CUDA error: an illegal memory access was encountered"}, ["illegal memory access"]),
    ],
)
def test_a_crash_is_an_outcome(pool: Pool, request_: dict, words: list[str]):
    before = ask(pool, "echo").value["pid"]
    outcome = pool.submit(request_, SOON).result(timeout=60)
    assert outcome.state == "crashed" and outcome.failure is not None
    assert all(word in outcome.note for word in words), outcome.note
    assert ask(pool, "echo").value["pid"] != before
    assert gone(before)


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "allocate", "bytes": 16 * 2**30},
        {"do": "bad_alloc"},
        {"do": "raise", "text": "CUDA out of memory. Tried to allocate 20.00 GiB"},
    ],
)
def test_no_memory_is_an_outcome(pool: Pool, request_: dict):
    assert pool.submit(request_, SOON).result(timeout=60).state == "out_of_memory"
    goes_on(pool)


def test_a_hang_ends_at_its_deadline(pool: Pool):
    before, start = ask(pool, "echo").value["pid"], time.monotonic()
    outcome = ask(pool, "hang", deadline_s=0.3)
    assert outcome.state == "hung" and "0.3 s" in outcome.note
    assert time.monotonic() - start < 5
    assert gone(before)
    goes_on(pool)


@pytest.mark.parametrize(("do", "state"), [("hang with child", "hung"), ("crash with child", "crashed")])
def test_what_a_worker_started_ends_with_it(pool: Pool, tmp_path: Path, do: str, state: str):
    note = tmp_path / "pid"
    assert ask(pool, do, deadline_s=1.5, note=str(note)).state == state
    assert gone(int(note.read_text()))
    goes_on(pool)


def test_what_is_printed_is_no_answer(pool: Pool):
    assert ask(pool, "print").value["said"] == "the truth"
    assert ask(pool, "read stdin").value["read"] == ""
    goes_on(pool)


@pytest.mark.parametrize(
    ("do", "state", "words"),
    [
        ("wrong", "wrong", "0.5 off"),
        ("raise", "invalid", "RuntimeError: no such tile"),
        ("unspeakable", "invalid", "object"),
    ],
)
def test_a_refusal_keeps_the_worker(pool: Pool, do: str, state: str, words: str):
    before = ask(pool, "echo").value["pid"]
    outcome = ask(pool, do, text="no such tile")
    assert outcome.state == state and words in outcome.note
    assert ask(pool, "echo").value["pid"] == before


def test_floods_and_long_lines(pool: Pool):
    assert ask(pool, "flood", megabytes=8, answer={"fine": 1}).value == {"fine": 1}
    outcome = ask(pool, "big", body="x" * 2**21)
    assert outcome.value["length"] == len(outcome.value["body"]) == 2**21


@pytest.mark.parametrize(
    "rubbish",
    ["no JSON", "[]", '{"id": 99, "done": {}}', '{"id": 1}', '{"id": 1, "failed": "tired", "note": "", "fresh": true}'],
)
def test_rubbish_is_invalid(rubbish: str):
    with Pool([*COMMAND, "babble", rubbish], 1) as pool:
        assert ask(pool, "echo").state == "invalid"


def test_workers_that_never_start_are_nobodys_fault():
    for command in ([*COMMAND, "broken"], ["/no/such/program"]):
        with Pool(command, 1) as pool, pytest.raises(InternalCompilerError, match="does not start"):
            ask(pool, "echo")


def test_several_work_at_once():
    with Pool(COMMAND, 3) as pool:
        for future in [pool.submit({"do": "echo"}, SOON) for _ in range(3)]:
            future.result()  # so that starting them is not counted
        start = time.monotonic()
        futures = [pool.submit({"do": "sleep", "seconds": 1.0}, SOON) for _ in range(3)]
        assert all(f.result().state == "done" for f in futures)
        assert time.monotonic() - start < 2.5


def test_closing_ends_everything():
    with Pool(COMMAND, 2) as pool:
        ask(pool, "echo")
        running = [pool.submit({"do": "hang"}, SOON) for _ in range(2)]
        waiting = pool.submit({"do": "echo"}, SOON)
        give_up = time.monotonic() + SOON
        while len(pids := pool.processes) < 2 or not all(f.running() for f in running):
            assert time.monotonic() < give_up
            time.sleep(0.01)
    assert all(map(gone, pids)) and waiting.cancelled()
    for future in running:
        with pytest.raises(CancelledError):
            future.result(timeout=1)
    pool.close()
    with pytest.raises(InvalidArgument, match="closed"):
        pool.submit({}, 1.0)


def test_a_forgotten_pool_is_closed():
    pool = Pool(COMMAND, 1)
    pid = ask(pool, "echo").value["pid"]
    del pool
    gc.collect()
    assert gone(pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_orphans_when_the_parent_ends(tmp_path: Path, how: signal.Signals):
    """A worker that hangs in a kernel, and the compiler that it started."""
    script = f"""
import signal, sys, time
from pathlib import Path
from fusecade.autotune.workers import Pool
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its jobs in the background ignore
pool, note = Pool([sys.executable, {str(FAKE)!r}], 2), Path({str(tmp_path / "child")!r})
hanging = pool.submit({{"do": "hang with child", "note": str(note)}}, 60)
while not (note.exists() and note.read_text()) and not hanging.done():
    time.sleep(0.01)
# Only now: a worker that is not busy yet might take both requests, and the other would never start.
assert pool.submit({{"do": "echo"}}, 60).result(timeout=60).value["pid"] in pool.processes
print(note.read_text(), *pool.processes, flush=True)
time.sleep(60)
"""
    with (
        open(tmp_path / "errors", "w") as errors,
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=errors) as parent,
    ):
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.send_signal(how)
    assert len(pids) == 3, (tmp_path / "errors").read_text()
    assert all(map(gone, pids))


# --- ahead of the one that is timed ----------------------------------------------------------------------------------


def test_a_pipeline_keeps_its_order_and_its_distance():
    drawn: list[int] = []

    def candidates() -> Iterator[int]:
        for n in range(6):
            drawn.append(n)
            yield n

    with Pool(COMMAND, 2) as pool:
        seen = []
        for n, outcome in pipeline(candidates(), lambda n: pool.submit({"do": "echo", "word": n}, SOON), ahead=2):
            assert outcome.value["said"] == n
            assert drawn[-1] <= n + 2
            seen.append(n)
        assert seen == list(range(6))


def test_candidates_compile_while_another_is_timed():
    with Pool(COMMAND, 2) as pool:
        for future in [pool.submit({"do": "echo"}, SOON) for _ in range(2)]:
            future.result()
        start, spent = time.monotonic(), 0.0
        submitted = pipeline(range(6), lambda n: pool.submit({"do": "sleep", "seconds": 0.3}, SOON), ahead=2)
        for _, outcome in submitted:
            assert outcome.state == "done"
            time.sleep(0.15)  # the timing
            spent += outcome.seconds + 0.15
        assert time.monotonic() - start < 0.75 * spent


def test_what_was_announced_is_taken_once():
    with Pool(COMMAND, 1) as pool:
        ready: Prefetch[str] = Prefetch(lambda word: pool.submit({"do": "echo", "word": word}, SOON))
        for word in ("a", "b"):
            ready.prepare(word)
        assert [ready.take(w).value["said"] for w in ("b", "a", "c")] == ["b", "a", "c"]
        ready.prepare("d")
        ready.cancel()
