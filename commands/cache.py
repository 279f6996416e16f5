"""`fusecade cache`: what the tuning cache holds; out of it, into it, and away."""

from __future__ import annotations

import json
import re
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from ..autotune.cache import Contents, TuningCache, diff, merge, open_cache, open_database, read_file, to_text
from ..autotune.cache.failures import Missing
from ..autotune.cache.inspect import Filter, only, prune, read_all, remove, statistics, structure, take_in, winners
from ..autotune.cache.opening import shown
from ..autotune.cache.sqlite_file import FILE, InMemory
from ..autotune.history import histories_of
from ..environment import Environment
from ..errors import InvalidArgument, UserError
from . import cache_views as views
from . import exits

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
CHANGES = ("import", "merge", "prune", "rm")
SQLITE = b"SQLite format 3\0"


def run(chosen: Namespace, console: Console) -> int:
    """Exit status 1 where something that was asked for is not there: a key, an entry that is whole, two equal sides."""
    show: Callable[[Any, Any], None] = lambda text, data: _show(console, chosen, text, data)  # noqa: E731
    verb = _VERBS[chosen.verb]
    if chosen.verb == "path":
        return _path(chosen, show)
    if chosen.verb == "merge" and chosen.out:
        return _merge_files(chosen, show)
    with _opened(chosen) as cache:
        return verb(cache, chosen, show)


def age(text: str) -> float:
    """Seconds since 1970, so long ago: 30d, 12h, 90m, 10s, 2w."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not found:
        raise InvalidArgument(f"{text!r} is no age", next_step="write it as 30d, 12h, 90m, 10s or 2w")
    return time.time() - float(found[1]) * SECONDS[found[2]]


def _place(chosen: Namespace) -> tuple[Path, str | None]:
    """The folder and the URL of the cache that is meant."""
    environment = Environment.read()
    named: str | None = chosen.cache
    if named and "://" not in named:
        return Path(
            named
        ).absolute().parent, f"sqlite:///{Path(named).absolute().as_posix().replace('%', '%25').replace('?', '%3F')}"
    return environment.cache_dir / "tuning", named or environment.cache_url


def _opened(chosen: Namespace) -> TuningCache:
    changes = chosen.verb in CHANGES and not getattr(chosen, "dry_run", False)
    folder, url = _place(chosen)
    try:
        return open_cache(folder, url, strict=True, make=changes)
    except UserError as error:
        if not isinstance(error.__cause__, Missing) or chosen.cache:
            raise
    empty = InMemory(str(folder / FILE))  # nothing was tuned here yet
    return TuningCache(empty, reopen=InMemory, strict=True)


def _show(console: Console, chosen: Namespace, text: Any, data: Any) -> None:
    if chosen.json:
        console.print(json.dumps(data, indent=1, sort_keys=True), markup=False, highlight=False, soft_wrap=True)
        return
    for part in text if isinstance(text, list) else [text]:
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))


def _filter(chosen: Namespace) -> Filter:
    return Filter(chosen.target, chosen.kernel, chosen.older, chosen.newer)


def _path(chosen: Namespace, show: Any) -> int:
    folder, url = _place(chosen)
    place = shown(url) if url and not chosen.cache else chosen.cache or str(folder / FILE)
    show(place, {"path": place})
    return exits.FINE


def _ls(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    contents = only(read_all(cache).contents, _filter(chosen))
    show(views.table_of_keys(contents), views.keys_as_data(contents))
    return exits.FINE


def _show_keys(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    contents = only(read_all(cache).contents, _filter(chosen))
    show(views.details(contents), views.details_as_data(contents))
    return exits.FINE if contents.keys else exits.INCOMPLETE


def _stats(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    found = read_all(cache)
    found.contents = only(found.contents, _filter(chosen))
    data = statistics(found) | {"place": cache.place, "read_only": cache.read_only}
    show(views.statistics_as_text(data), data)
    return exits.FINE


def _plot(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    from ..tuning_page import write_page  # with the report's drawings, which the other verbs need not wait for

    histories = histories_of(only(read_all(cache).contents, _filter(chosen)))
    if not histories:
        show("nothing is known of any kernel that was asked for", {"kernels": 0, "file": None})
        return exits.INCOMPLETE
    file = write_page(chosen.out, histories)
    show(f"written to {file}", {"kernels": len(histories), "file": str(file)})
    return exits.FINE


def _export(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    contents = only(read_all(cache).contents, _filter(chosen))
    contents = winners(contents) if chosen.winners else contents
    if chosen.out is None:
        print(to_text(contents), end="")
        return exits.FINE
    _write(chosen.out, contents)
    show(f"{views.count(contents)} written to {chosen.out}", views.count_as_data(contents) | {"file": str(chosen.out)})
    return exits.FINE


def _import(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    return _into(cache, [(str(file), read_file(file)) for file in chosen.files], chosen, show)


def _merge(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    return _into(cache, [(source, _contents(source)) for source in chosen.sources], chosen, show)


def _into(cache: TuningCache, sources: list[tuple[str, Contents]], chosen: Namespace, show: Any) -> int:
    done = [(name, take_in(cache, contents, dry_run=chosen.dry_run)) for name, contents in sources]
    said = [views.merged(name, merged, chosen.dry_run) for name, merged in done]
    show(said, [{"source": name} | views.merged_as_data(merged) for name, merged in done])
    return exits.FINE


def _merge_files(chosen: Namespace, show: Any) -> int:
    """Into a file: the cache is not asked."""
    whole, done = Contents(), []
    for source in chosen.sources:
        merged = merge(whole, _contents(source))
        whole = merged.contents
        done.append((source, merged))
    if not chosen.dry_run:
        _write(chosen.out, whole)
    said = [views.merged(name, merged, chosen.dry_run) for name, merged in done]
    data = [{"source": name} | views.merged_as_data(merged) for name, merged in done]
    show([*said, f"{views.count(whole)} {'would be ' if chosen.dry_run else ''}written to {chosen.out}"], data)
    return exits.FINE


def _diff(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    second = _contents(chosen.b) if chosen.b else read_all(cache).contents
    keep = _filter(chosen)
    found = diff(only(_contents(chosen.a), keep), only(second, keep))
    show(views.difference(found, chosen.a, chosen.b or cache.place), views.difference_as_data(found))
    return exits.INCOMPLETE if found else exits.FINE


def _prune(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    gone = prune(cache, _filter(chosen), time.time(), invalid=chosen.invalid, dry_run=chosen.dry_run)
    show(f"{'would delete' if chosen.dry_run else 'deleted'}: {gone}", vars(gone) | {"dry_run": chosen.dry_run})
    return exits.FINE


def _verify(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    found = read_all(cache)
    bad = [{"table": table, "row": row, "why": why} for table, _, row, why in found.bad]
    bad += [{"table": "the file", "row": "", "why": why} for why in structure(cache)]
    data = views.count_as_data(found.contents) | {"place": cache.place, "damaged": bad, "orphans": found.orphans}
    data["salvaged"] = str(getattr(cache.database, "salvaged", None) or "")
    show(views.verified(data), data)
    return exits.INCOMPLETE if bad or data["salvaged"] else exits.FINE


def _rm(cache: TuningCache, chosen: Namespace, show: Any) -> int:
    gone = remove(cache, _filter(chosen), dry_run=chosen.dry_run)
    show(f"{'would delete' if chosen.dry_run else 'deleted'}: {gone}", vars(gone) | {"dry_run": chosen.dry_run})
    return exits.FINE if gone.keys else exits.INCOMPLETE


_VERBS: dict[str, Callable[[TuningCache, Namespace, Any], int]] = {
    "path": lambda cache, chosen, show: exits.FINE,  # needs no cache: see run
    "ls": _ls,
    "show": _show_keys,
    "stats": _stats,
    "plot": _plot,
    "export": _export,
    "import": _import,
    "merge": _merge,
    "diff": _diff,
    "prune": _prune,
    "verify": _verify,
    "rm": _rm,
}


def _contents(source: str) -> Contents:
    """Of an export, a SQLite file or a URL."""
    if "://" not in source:
        try:
            with open(source, "rb") as file:
                is_database = file.read(len(SQLITE)) == SQLITE
        except OSError as error:
            raise InvalidArgument(
                f"{source} cannot be read: {error.strerror}", next_step="give an export, a SQLite file, or a URL"
            ) from error
        if not is_database:
            return read_file(Path(source))
    with open_database(source) as cache:
        return read_all(cache).contents


def _write(path: Path, contents: Contents) -> None:
    """All of the file or none of it: a repository may hold it."""
    new = path.with_name(f".{path.name}.writing")
    try:
        new.write_text(to_text(contents), encoding="ascii")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
