"""A specification of a kernel library: functions, and for which shapes, dtypes and targets each is packaged.

[defaults]                               # of every key below but the first three
targets = ["cpu", "sm_90"]

[[kernel]]
name = "attend"                          # of its packages, and of the entry of the library
function = "model.py:attend"             # a file is looked for beside this one; or "package.module:function"
shapes = ["8,n=1024,64 8,m=1024,64 8,m=1024,64", "8,1,64 8,m=4096,64 8,m=4096,64"]     # one call each
dtypes = ["f16", "bf16"]                 # of the arguments that name none
buckets = [{ n = 512, m = 512 }, { n = 4096, m = 4096 }]
dynamic = ["m"]                          # of the named sizes; without it all of them
keep, factory, fuse, remainder, skip, lazy, tune, parameters = ...       # as `fusecade.export` and `--factory`

Each set of shapes in each dtype is one package, `attend-f16-8xnx64_8xmx64_8xmx64.fcade`.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..assembly.package import EXTRAS
from ..assembly.package_choices import REMAINDERS, bounds_of
from ..driver import FUSING, SKIPPING, SWITCH, TUNING
from ..errors import InvalidArgument, UserError
from ..ir.launch import checked
from ..ir.target import get_target
from .program import Shape, dtype_name, shapes_of

PACKAGE = ".fcade"
LONGEST_LABEL = 80
OWN = ("name", "function", "shapes")  # these are never shared
OPTIONS = {"fuse": FUSING, "remainder": REMAINDERS, "skip": SKIPPING, "lazy": SWITCH, "tune": TUNING}
EXAMPLE = "`docs/aot.md` has an example"


@dataclass(frozen=True)
class Entry:
    """One package of a library.

    file: its name.  function: as the specification has it.  shapes: as `Shape.read` has them.  dtype: of those that name none.
    options: further arguments of `fusecade.export`.
    """

    name: str
    file: str
    function: str
    shapes: tuple[str, ...]
    dtype: str
    targets: tuple[str, ...]
    factory: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        return cls(**{**data, "shapes": tuple(data["shapes"]), "targets": tuple(data["targets"])})

    @property
    def dtypes(self) -> list[str]:
        """Of each argument."""
        return [Shape.read(text, self.dtype).dtype for text in self.shapes]


def read_spec(path: Path) -> list[Entry]:
    """All packages of a specification, in its order.  Raises InvalidArgument with the table, the key and the line."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise InvalidArgument(
            f"{path} cannot be read: {error.strerror}", next_step="give --spec a file that is there"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} is no TOML: {error}", next_step="correct that line") from error
    return _Reader(path, text, data).entries()


class _Reader:
    def __init__(self, path: Path, text: str, data: dict[str, Any]) -> None:
        self.path, self.text, self.data = path, text, data

    def entries(self) -> list[Entry]:
        for key in self.data:
            if key not in ("defaults", "kernel"):
                raise self._choice("", None, key, ("[defaults]", "[[kernel]]"), table=True)
        defaults, kernels = self.data.get("defaults", {}), self.data.get("kernel")
        if not isinstance(defaults, dict):
            raise self._wrong("the file", None, "defaults", "is no table", "write it as a table [defaults]")
        if not isinstance(kernels, list) or not kernels or not all(isinstance(k, dict) for k in kernels):
            raise self._wrong(
                "the file", None, "", "has no [[kernel]]", f"write a table [[kernel]] for each function; {EXAMPLE}"
            )
        for key, value in defaults.items():
            self._check("[defaults]", None, key, value, SHARED)
        found: dict[str, Entry] = {}
        for n, kernel in enumerate(kernels):
            for entry in self._kernel(n, kernel, defaults):
                if entry.file in found:
                    what = f"makes {entry.file}, and so does {found[entry.file].name!r}"
                    step = "give one of the two another name; likely values of dynamic sizes make no difference, buckets do"
                    raise self._wrong(self._title(n, kernel), n, "shapes", what, step)
                found[entry.file] = entry
        return list(found.values())

    def _kernel(self, n: int, own: dict[str, Any], defaults: Mapping[str, Any]) -> list[Entry]:
        where = self._title(n, own)
        for key in OWN:
            if key not in own:
                raise self._wrong(where, n, "", f"has no {key}", f"add {KEYS[key].example}")
        for key, value in own.items():
            self._check(where, n, key, value, KEYS)
        try:
            calls = [shapes_of(item) if isinstance(item, str) else tuple(item) for item in own["shapes"]]
            named = [{name for text in call for name in Shape.read(text, "f32").names.values()} for call in calls]
        except InvalidArgument as error:
            raise self._inner(where, n, "shapes", error) from error
        every = sorted(set().union(*named))
        of_buckets = [name for bucket in own.get("buckets", ()) for name in bucket]
        for key, names in (("dynamic", own.get("dynamic", ())), ("buckets", of_buckets)):
            for name in names:
                if name not in every:
                    raise self._inner(where, n, key, InvalidArgument.choice("a named size", name, every))
        chosen = {**defaults, **own}
        dtypes = dict.fromkeys(dtype_name(text) for text in chosen.get("dtypes", ["f32"]))
        try:
            return [
                _entry(chosen, call, dtype, names & set(chosen.get("dynamic", names)))
                for call, names in zip(calls, named, strict=True)
                for dtype in dtypes
            ]
        except InvalidArgument as error:
            raise self._inner(where, n, "buckets", error) from error

    # --- what is wrong, and where -------------------------------------------------------------------------------------

    def _check(self, where: str, n: int | None, key: str, value: Any, known: Mapping[str, _Key]) -> None:
        if key not in known:
            raise self._choice(where, n, key, known)
        try:
            why = known[key].problem(value)
        except UserError as error:
            raise self._inner(where, n, key, error) from error
        if why is not None:
            raise self._wrong(where, n, key, f"{why}, and is {value!r}", f"write it as {known[key].example}")

    def _title(self, n: int, kernel: Mapping[str, Any]) -> str:
        name = kernel.get("name")
        return f"[[kernel]] {n + 1}" + (f" ({name})" if isinstance(name, str) else "")

    def _wrong(self, where: str, n: int | None, key: str, what: str, step: str) -> InvalidArgument:
        return InvalidArgument(f"{self._place(n, key)}: {where}{': ' * bool(key)}{key} {what}", next_step=step)

    def _inner(self, where: str, n: int | None, key: str, error: UserError) -> InvalidArgument:
        return InvalidArgument(f"{self._place(n, key)}: {where}: {key}: {error.message}", next_step=error.next_step)

    def _choice(self, where: str, n: int | None, key: str, known: Any, table: bool = False) -> InvalidArgument:
        error = InvalidArgument.choice("a table" if table else "a key", key, known)
        return InvalidArgument(
            f"{self._place(n, key)}: {where}{': ' * bool(where)}{error.message}", next_step=error.next_step
        )

    def _place(self, n: int | None, key: str) -> str:
        line = line_of(self.text, self._has(n, key))
        return f"{self.path}, line {line}" if line else str(self.path)

    @staticmethod
    def _has(n: int | None, key: str) -> Callable[[dict[str, Any]], bool]:
        def has(data: dict[str, Any]) -> bool:
            if n is None:
                return key in data.get("defaults", {}) if key not in data else True
            kernels = data.get("kernel", [])
            return len(kernels) > n and (not key or key in kernels[n])

        return has


def _entry(chosen: Mapping[str, Any], call: tuple[str, ...], dtype: str, dynamic: set[str]) -> Entry:
    """Raises InvalidArgument for buckets in another order than from small to large."""
    shapes = tuple(_only(text, dynamic) for text in call)
    options = {key: chosen[key] for key in (*OPTIONS, "parameters", "keep") if key in chosen}
    # Of several calls each takes those sizes of the buckets that it has.
    filtered = [
        {name: bucket[name] for name in sorted(bucket) if name in dynamic} for bucket in chosen.get("buckets", ())
    ]
    buckets = [b for n, b in enumerate(filtered) if b and b not in filtered[:n]]
    bounds_of(buckets, dynamic)
    return Entry(
        chosen["name"], f"{chosen['name']}-{dtype}{_label(shapes, dtype)}{PACKAGE}", chosen["function"], shapes, dtype,
        tuple(dict.fromkeys(get_target(name).name for name in chosen.get("targets", ["cpu"]))),
        chosen.get("factory", False), options | ({"buckets": buckets} if buckets else {}),
    )  # fmt: skip


def line_of(text: str, has: Callable[[dict[str, Any]], bool]) -> int | None:
    """The line, from 1, of the statement with which a document comes to have something: its first lines are read, ever more."""
    lines = text.splitlines(keepends=True)
    start = 0
    for n in range(1, len(lines) + 1):
        try:
            data = tomllib.loads("".join(lines[:n]))
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a statement
        if has(data):
            blank = (k for k in range(start, n) if lines[k].strip() and not lines[k].lstrip().startswith("#"))
            return next(blank, n - 1) + 1
        start = n
    return None


# --- the keys -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """problem: what is wrong with a value, or None; it may raise UserError.  example: how it is written."""

    problem: Callable[[Any], str | None]
    example: str


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, str) for x in value)


def _named(value: Any) -> str | None:
    fits = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value)
    return None if fits else "has to be a text of letters, digits, '_', '.' and '-', for it names files"


def _function(value: Any) -> str | None:
    fits = isinstance(value, str) and all(value.rpartition(":"))
    return None if fits else "has to name a file or a module, and a function in it"


def _shapes(value: Any) -> str | None:
    fits = isinstance(value, list) and value and all(isinstance(x, str) or (x == [] or _texts(x)) for x in value)
    return None if fits else "has to be a list with one text, or one list of texts, for each call"


def _each(read: Callable[[str], object]) -> Callable[[Any], str | None]:
    def problem(value: Any) -> str | None:
        if not _texts(value):
            return "has to be a list of texts"
        for text in value:
            read(text)
        return None

    return problem


def _sizes(value: Any) -> str | None:
    fits = isinstance(value, list) and all(isinstance(x, str) for x in value)
    return None if fits else "has to be a list of names"


def _buckets(value: Any) -> str | None:
    tables = isinstance(value, list) and all(isinstance(b, dict) and b for b in value)
    fits = tables and all(type(size) is int and size >= 2 for b in value for size in b.values())
    return None if fits else "has to be a list of tables of sizes of 2 or more"


def _kept(text: str) -> None:
    if text not in EXTRAS:
        raise InvalidArgument.choice("keep", text, EXTRAS)


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "has to be true or false"


def _one_of(key: str, allowed: Sequence[str]) -> Callable[[Any], str | None]:
    def problem(value: Any) -> str | None:
        if value not in allowed:
            raise InvalidArgument.choice("it", value, allowed)
        return None

    return problem


def _parameters(value: Any) -> str | None:
    checked(value)
    return None


SHARED = {
    "dtypes": _Key(_each(dtype_name), 'dtypes = ["f16", "bf16"]'),
    "targets": _Key(_each(get_target), 'targets = ["cpu", "sm_90"]'),
    "dynamic": _Key(_sizes, 'dynamic = ["n"]'),
    "buckets": _Key(_buckets, "buckets = [{ n = 512 }, { n = 4096 }]"),
    "keep": _Key(_each(_kept), 'keep = ["assembly"]'),
    "factory": _Key(_flag, "factory = true"),
    **{key: _Key(_one_of(key, allowed), f'{key} = "{allowed[0]}"') for key, allowed in OPTIONS.items()},
    "parameters": _Key(_parameters, "parameters = { num_warps = 8 }"),
}
KEYS = {
    "name": _Key(_named, 'name = "attend"'),
    "function": _Key(_function, 'function = "model.py:attend"'),
    "shapes": _Key(_shapes, 'shapes = ["8,n=1024,64 8,n=1024,64"]'),
    **SHARED,
}


# --- names of files -----------------------------------------------------------------------------------------------------


def _only(text: str, dynamic: set[str]) -> str:
    """A shape without the names of sizes that are not dynamic."""
    return re.sub(r"([^\W\d]\w*)=", lambda m: m[0] if m[1] in dynamic else "", text)


def _label(texts: Sequence[str], dtype: str) -> str:
    """`-8xnx64_8xmx64`: dynamic sizes by name, arguments of a dtype of their own with that."""
    parts = []
    for text in texts:
        shape = Shape.read(text, dtype)
        sizes = "x".join(shape.names.get(n, str(size)) for n, size in enumerate(shape.sizes)) or "number"
        parts.append(f"{shape.dtype}.{sizes}" if ":" in text else sizes)
    label = "_".join(parts)
    if len(label) > LONGEST_LABEL:
        label = f"{label[:LONGEST_LABEL]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return f"-{label}" if label else ""
