"""Which database a session gets, and what it gets where that one cannot be had."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...errors import CacheWarning, InvalidArgument, MissingTool, UserError
from ..records import Versions
from .database import Database
from .failures import Failure
from .sqlite_file import FILE, InMemory, SqliteFile
from .store import NEXT, TuningCache

Opener = Callable[[], Database]


def open_cache(
    folder: Path, url: str | None = None, *, versions: Versions | None = None, packaged: Path | None = None,
    strict: bool = False, make: bool = True,
) -> TuningCache:  # fmt: skip
    """The tuning cache of a user, or with a URL that of a team.

    folder: `tuning.sqlite` lies there; it is made with mode 0700.  url: postgresql://user@host/database, or
    sqlite:////a/file.  versions: of this process, to tell what was tuned with others.  packaged: the folder of packaged
    defaults, where it is not the package's own.  make: whether a file that is not there is made.

    strict: raises UserError where the database cannot be used.  Without it, a team's database that cannot be had is
    replaced by the user's own file, and that by one that lives in this process, each with a warning.
    Raises InvalidArgument for a URL of another kind.
    """
    ways = [_opener(folder / FILE, url, make=make)]
    if not strict:
        ways += [_opener(folder / FILE, None, make=make)] if url else []
        ways += [InMemory]
    failed: list[str] = []

    def first() -> Database:
        for way in ways[:-1]:
            try:
                return way()
            except (Failure, MissingTool) as failure:
                if strict:
                    raise
                reason = failure.reason if isinstance(failure, Failure) else failure.message
                if reason not in failed:
                    failed.append(reason)
                    instead = "the user's own cache is used" if way is ways[0] and len(ways) > 2 else "nothing is kept"
                    what = f"the tuning cache {shown(url) if way is ways[0] and url else folder / FILE}"
                    warnings.warn(CacheWarning(f"{what}: {reason}; {instead}", folder, NEXT), stacklevel=4)
        return ways[-1]()

    try:
        database = first()
    except Failure as failure:
        raise UserError(
            f"the tuning cache {shown(url) if url else folder / FILE}: {failure.reason}", next_step=_next_step(failure)
        ) from failure
    cache = TuningCache(database, reopen=first, versions=versions, packaged=packaged, strict=strict)
    cache.say_what_was_salvaged()
    if cache.read_only and not strict:
        cache.report(f"the tuning cache {cache.place} is read only: {cache.read_only}")
    return cache


def open_database(place: str) -> TuningCache:
    """A cache that a person names, to be read: a URL, or the path of a SQLite file that is there.  Raises UserError."""
    if "://" in place and not place.startswith("sqlite"):
        return open_cache(Path("."), place, strict=True, make=False)
    path = _file_of(place) if "://" in place else Path(place)

    def opened() -> Database:
        return SqliteFile(path.absolute(), look=True)

    try:
        return TuningCache(opened(), reopen=opened, strict=True)
    except Failure as failure:
        raise UserError(f"the tuning cache {path}: {failure.reason}", next_step=_next_step(failure)) from failure


def _file_of(url: str) -> Path:
    path = Path(unquote(url.partition(":///")[2].partition("?")[0]))
    if not path.name:
        raise InvalidArgument(f"{url} names no file", next_step="write it as sqlite:////folder/tuning.sqlite")
    return path.absolute()


def shown(url: str | None) -> str:
    """Without the password."""
    if not url:
        return ""
    head, _, rest = url.partition("://")
    user, at, where = rest.rpartition("@")
    return f"{head}://{user.partition(':')[0]}{at}{where}"


def _opener(file: Path, url: str | None, *, make: bool) -> Opener:
    if not url:
        return lambda: SqliteFile(file, make=make)
    scheme = urlsplit(url).scheme.partition("+")[0]
    if scheme == "sqlite":
        return lambda: SqliteFile(_file_of(url), make=make)
    if scheme in ("postgresql", "postgres"):

        def open_postgres() -> Database:
            from .postgres import Postgres

            return Postgres(url)

        return open_postgres
    raise InvalidArgument(
        f"{shown(url)} is no database that the tuning cache knows",
        next_step="set FUSECADE_CACHE_URL to postgresql://USER@HOST/DATABASE, or leave it out",
    )


def _next_step(failure: Failure) -> str:
    from .failures import Missing, Newer, Unsafe

    match failure:
        case Newer():
            return "use the version of Fusecade that wrote it, or a later one; nothing in it was changed"
        case Unsafe():
            return "`chmod 700` the folder if it is yours, or set FUSECADE_CACHE_DIR to a folder of your own"
        case Missing():
            return "tune something first, or name a database that is there"
    return "see that it can be reached and written to, and that the disk is not full; then try again"
