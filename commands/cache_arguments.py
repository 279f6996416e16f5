"""The arguments of `fusecade cache`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path

from ..errors import InvalidArgument

CACHE_HELP = "another cache than the one of FUSECADE_CACHE_DIR and FUSECADE_CACHE_URL: a SQLite file or a URL"
SOURCE = "an export, a SQLite file, or a URL"


def add_arguments(verb: ArgumentParser) -> None:
    verbs = verb.add_subparsers(dest="verb", required=True, metavar="what")

    def add(name: str, text: str, *, filters: bool = False, dry_run: bool = False) -> ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.add_argument("--json", action="store_true", help="as JSON")
        made.add_argument("--cache", metavar="PLACE", help=CACHE_HELP)
        if filters:
            _add_filters(made)
        if dry_run:
            made.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
        return made

    add("path", "where the tuning cache lies")
    add("ls", "the kernels and sizes that something is known of", filters=True)
    add("show", "everything that is known of some kernels", filters=True)
    add("stats", "how much there is, by target and by outcome", filters=True)
    plot = add("plot", "a page of how kernels were tuned; status 1 where nothing is known of any", filters=True)
    plot.add_argument("out", type=Path, metavar="FILE", help="of HTML that needs nothing else; or a folder for it")
    export = add("export", "into one text file that a repository can hold", filters=True)
    export.add_argument("-o", "--out", type=Path, metavar="FILE", help="without it, to standard output")
    export.add_argument("--winners", action="store_true", help="the decisions without the samples, to be shipped")
    taken = add("import", "one or more exports into the cache", dry_run=True)
    taken.add_argument("files", nargs="+", type=Path, metavar="FILE")
    merged = add("merge", "other caches and exports into this cache, or with -o into a file", dry_run=True)
    merged.add_argument("sources", nargs="+", metavar="SOURCE", help=SOURCE)
    merged.add_argument("-o", "--out", type=Path, metavar="FILE", help="an export; the cache is not touched")
    compared = add("diff", "what one has and the other has not; status 1 where they differ", filters=True)
    compared.add_argument("a", metavar="A", help=SOURCE)
    compared.add_argument("b", nargs="?", metavar="B", help=f"{SOURCE}; this cache where it is left out")
    pruned = add(
        "prune", "delete damaged rows and old leases, and by age the samples of what was not decided for",
        filters=True, dry_run=True,
    )  # fmt: skip
    pruned.add_argument("--invalid", action="store_true", help="only what is damaged")
    add("verify", "check every row; status 1 where one is damaged")
    add("rm", "delete all that is known of some kernels; it takes at least one filter", filters=True, dry_run=True)


def _add_filters(verb: ArgumentParser) -> None:
    verb.add_argument("--target", metavar="NAME", help="tuned for this one: sm_90")
    verb.add_argument("--kernel", metavar="DIGITS", help="how the hash of the program, or of the key, begins")
    verb.add_argument("--older", type=_age, metavar="AGE", help="nothing newer is known of it: 30d, 12h, 90m, 10s, 2w")
    verb.add_argument("--newer", type=_age, metavar="AGE", help="something newer is known of it")


def _age(text: str) -> float:
    from .cache import age

    try:
        return age(text)
    except InvalidArgument as error:
        raise ArgumentTypeError(f"{error.message}; {error.next_step}") from None
