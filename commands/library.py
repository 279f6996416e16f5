"""`fusecade compile --spec kernels.toml`: the packages of a library, those that are not there yet as they have to be.

DIR/attend-f16-8xnx64_8xmx64_8xmx64.fcade     a package for each function, call and dtype
DIR/library.json                              what is there, for `fusecade inspect` and `fusecade.load_library`
DIR/build.json                                what each was made from; without it everything is built again
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..autotune.workers import DONE, Outcome, Pool, python_worker
from ..errors import InvalidArgument
from ..report import counted_noun
from ..runtime.files import write_whole
from ..runtime.package.library import INDEX, index_text
from . import exits
from .library_spec import PACKAGE, Entry, read_spec
from .library_worker import FEWER

BUILD = "build.json"
SCRATCH = ".building-"
KEPT, BUILT, DUE, FAILED, INTERRUPTED = "kept", "built", "due", "failed", "interrupted"
TELLING = 0.2  # seconds
CRASHED = "try it alone: `fusecade compile` with this function and these shapes; the lines above are its last"
SLOW = "give more time with --timeout, or smaller shapes"


@dataclass(frozen=True)
class Done:
    """What became of an entry.  state: one of the above.  reasons: why it was built, or is due.  record: for build.json."""

    entry: Entry
    state: str
    reasons: Sequence[str] = ()
    record: Mapping[str, Any] | None = None
    failed: str = ""
    next_step: str = ""
    seconds: float = 0.0


@dataclass
class _Folder:
    """The folder of a library.  known: what build.json says, by package.  index: the text of library.json."""

    path: Path
    known: dict[str, Any] = field(default_factory=dict)
    index: bytes = b""

    @classmethod
    def read(cls, path: Path) -> _Folder:
        """A build.json that is damaged knows nothing."""
        try:
            data = json.loads((path / BUILD).read_text(encoding="utf-8"))
            known = {str(name): record for name, record in data["packages"].items() if _is_record(name, record)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            known = {}
        return cls(path, known, (path / INDEX).read_bytes() if (path / INDEX).is_file() else b"")

    def write(self) -> None:
        text = json.dumps({"packages": self.known}, indent=1, sort_keys=True)
        write_whole(self.path / BUILD, text.encode() + b"\n")

    def unnamed(self, entries: Sequence[Entry]) -> list[str]:
        """Packages that were built here for a specification that named them."""
        return [name for name in sorted(set(self.known) - {e.file for e in entries}) if (self.path / name).is_file()]


def run(chosen: Namespace, console: Console) -> int:
    """Exit status 1 where a package failed or was not reached; with --check, also where one is due."""
    jobs = chosen.jobs if chosen.jobs is not None else len(os.sched_getaffinity(0))
    if jobs < 1 or chosen.timeout <= 0:
        raise InvalidArgument("--jobs and --timeout have to be more than 0", next_step="leave them out, or give more")
    entries = read_spec(chosen.spec)
    path, dry = chosen.out or chosen.spec.with_suffix(""), chosen.dry_run or chosen.check
    if path.suffix == PACKAGE or (path.exists() and not path.is_dir()):
        raise InvalidArgument(f"{path} is no folder, and a library is one", next_step="give -o a folder")
    with _ours(path, dry):
        folder = _Folder.read(path)
        errors = Console(stderr=True)
        done = _all(entries, folder, chosen.spec.absolute().parent, jobs, chosen.timeout, dry, errors)
        unnamed = folder.unnamed(entries)
        index = index_text(_indexed(done, folder))
        due = any(d.state == DUE for d in done) or folder.index != index
        if not dry:
            if chosen.prune:
                for name in unnamed:
                    (path / name).unlink()
                    del folder.known[name]
            folder.write()
            write_whole(path / INDEX, index)
    if chosen.json:
        console.print(json.dumps(_as_data(path, done, unnamed, chosen.prune and not dry), indent=1), markup=False,
                      highlight=False, soft_wrap=True)  # fmt: skip
    else:
        _show(path, done, unnamed, chosen.prune and not dry, console)
    wrong = any(d.state in (FAILED, INTERRUPTED) for d in done) or (chosen.check and due)
    return exits.INCOMPLETE if wrong else exits.FINE


@contextmanager
def _ours(path: Path, dry: bool) -> Iterator[None]:
    """The folder for one process at a time; what one that was killed left behind is cleared away."""
    if dry:
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(
            f"the folder {path} cannot be made: {error.strerror}", next_step="give -o a folder that you can write to"
        ) from error
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidArgument(
                f"another process is building in {path}", next_step="wait for it, or give -o another folder"
            ) from None
        for left in path.glob(f"{SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


# --- building -----------------------------------------------------------------------------------------------------------


def _all(
    entries: Sequence[Entry], folder: _Folder, beside: Path, jobs: int, timeout: float, dry: bool, errors: Console
) -> list[Done]:
    """What became of each, in order; Ctrl-C ends it with what is done by then."""
    done: dict[str, Done] = {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    jobs = min(jobs, len(entries))
    pool = Pool(python_worker(f"{__package__}.library_worker"), jobs, memory_bytes=memory // jobs)
    scratch = tempfile.TemporaryDirectory(prefix=SCRATCH, dir=None if dry else folder.path)
    with scratch as place, pool, _told(errors, len(entries)) as tell:
        try:
            asked = {
                pool.submit(_request(n, e, folder, beside, None if dry else Path(place)), timeout): e
                for n, e in enumerate(entries)
            }
            waiting: set[Future[Outcome]] = set(asked)
            while waiting:
                ended, waiting = wait(waiting, TELLING, "FIRST_COMPLETED")
                for future in ended:
                    found = done[asked[future].file] = _outcome(asked[future], future.result())
                    if found.state == BUILT:
                        found = _put_in_place(found, _scratch(Path(place), entries.index(found.entry)), folder)
                        done[found.entry.file] = found
                tell([done[asked[f].file] for f in ended], [asked[f] for f in waiting if f.running()], len(done))
        except (KeyboardInterrupt, CancelledError):
            errors.print("interrupted: what runs is ended", markup=False, highlight=False)
    return [done.get(e.file) or Done(e, INTERRUPTED, failed="interrupted", next_step="run it again") for e in entries]


def _request(n: int, entry: Entry, folder: _Folder, beside: Path, scratch: Path | None) -> dict[str, Any]:
    return {
        "entry": entry.to_json(),
        "folder": str(beside),
        "package": str(folder.path / entry.file),
        "before": folder.known.get(entry.file),
        "out": str(_scratch(scratch, n)) if scratch is not None else None,
    }


def _scratch(place: Path, n: int) -> Path:
    return place / f"{n}{PACKAGE}"


def _put_in_place(found: Done, made: Path, folder: _Folder) -> Done:
    """What is known is written at once: who is killed later need not build this again."""
    try:
        os.replace(made, folder.path / found.entry.file)
        folder.known[found.entry.file] = found.record
        folder.write()
        return found
    except OSError as error:
        return replace(found, state=FAILED, record=None, failed=f"it cannot be written: {error.strerror}",
                       next_step="give -o a folder that you can write to")  # fmt: skip


def _outcome(entry: Entry, outcome: Outcome) -> Done:
    value, seconds = outcome.value, outcome.seconds
    if outcome.state == DONE and "failed" not in value:
        return Done(entry, value["state"], value["reasons"], value["record"], seconds=seconds)
    if outcome.state == DONE:
        return Done(entry, FAILED, failed=value["failed"], next_step=value["next"], seconds=seconds)
    step = {"hung": SLOW, "out_of_memory": FEWER}.get(outcome.state, CRASHED)
    return Done(entry, FAILED, failed=f"{outcome.state}: {outcome.note}", next_step=step, seconds=seconds)


@contextmanager
def _told(errors: Console, total: int) -> Iterator[Callable[[Sequence[Done], Sequence[Entry], int], None]]:
    """Tells a person where it is: a bar on a terminal, else a line for each package."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("starting", total=total)

        def tell(ended: Sequence[Done], running: Sequence[Entry], count: int) -> None:
            now = ", ".join(dict.fromkeys(e.name for e in running))
            progress.update(task, description=now[:60] or "starting", completed=count)
            if not errors.is_terminal:
                for d in ended:
                    line = f"{d.entry.file}: {_state(d)}"
                    errors.print(line, markup=False, highlight=False, soft_wrap=True)

        yield tell


# --- what is said of it -------------------------------------------------------------------------------------------------


def _indexed(done: Sequence[Done], folder: _Folder) -> list[dict[str, Any]]:
    """What is listed: packages that are as they have to be; those that were not reached, as they were listed before."""
    try:
        before = {entry["package"]: entry for entry in json.loads(folder.index)["packages"]}
    except (ValueError, KeyError, TypeError):
        before = {}
    found = [
        _index_entry(d) if d.state in (KEPT, BUILT) else before.get(d.entry.file) if d.state == INTERRUPTED else None
        for d in done
    ]
    return [entry for entry in found if entry is not None]


def _index_entry(done: Done) -> dict[str, Any]:
    assert done.record is not None
    e = done.entry
    return {
        "package": e.file, "name": e.name, "function": e.function, "digest": done.record["digest"],
        "bytes": done.record["bytes"], "shapes": list(e.shapes), "dtypes": e.dtypes, "targets": list(e.targets),
        "buckets": list(e.options.get("buckets", ())),
    }  # fmt: skip


def _state(done: Done) -> str:
    why = f" ({', '.join(done.reasons)})" if done.reasons else ""
    return f"{done.state}{why}" + (f": {_first_line(done.failed)}" if done.state == FAILED else "")


def _show(path: Path, done: Sequence[Done], unnamed: Sequence[str], pruned: bool, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("package", "kernels", "bytes", "seconds", "state"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("bytes", "seconds") else "left")
    for d in done:
        kernels = ", ".join(f"{t} {n}" for t, n in d.record["kernels"].items()) if d.record else ""
        size, seconds = str(d.record["bytes"]) if d.record else "", f"{d.seconds:.1f}" if d.seconds else ""
        table.add_row(*map(Text, (d.entry.file, kernels, size, seconds, _state(replace(d, failed="")).rstrip(": "))))
    console.print(table)
    say = lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    for d in done:
        for warning in d.record["eager"] if d.record else ():
            say(f"{d.entry.file}: {warning}")
        if d.state == FAILED:
            say(f"{d.entry.file} failed: {d.failed}\nnext: {d.next_step}")
    for name in unnamed:
        say(f"{path / name}: no entry names it" + ("; deleted" if pruned else "; --prune deletes it"))
    counts = {state: sum(d.state == state for d in done) for state in (BUILT, KEPT, DUE, FAILED, INTERRUPTED)}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    say(f"{path}: {counted_noun(len(done), 'package')}, {said}")


def _as_data(path: Path, done: Sequence[Done], unnamed: Sequence[str], pruned: bool) -> dict[str, Any]:
    return {
        "folder": str(path),
        "packages": [
            {
                "package": d.entry.file, "name": d.entry.name, "function": d.entry.function, "state": d.state,
                "reasons": list(d.reasons), "digest": d.record["digest"] if d.record else None,
                "kernels": d.record["kernels"] if d.record else None, "eager": d.record["eager"] if d.record else [],
                "seconds": round(d.seconds, 3), "failed": d.failed or None, "next": d.next_step or None,
            }
            for d in done
        ],
        "unnamed": list(unnamed),
        "pruned": pruned,
    }  # fmt: skip


def _is_record(name: str, record: Any) -> bool:
    """Whether build.json has what `library_worker.py` wrote, of a file in this folder."""
    if "/" in name or not name.endswith(PACKAGE):
        return False
    kinds = {"inputs": dict, "digest": str, "bytes": int, "kernels": dict, "eager": list, "tuned": dict}
    return isinstance(record, dict) and all(isinstance(record.get(k), kind) for k, kind in kinds.items())


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
