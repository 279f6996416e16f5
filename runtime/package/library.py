"""`fusecade.load_library`: the packages of a folder that `fusecade compile --spec` filled, by name and arguments.

library = fusecade.load_library("kernels")
out = library["attend"](q, k, v)                 # by the package for these dtypes and shapes
attend = library["attend"].package_for(q, k, v)  # that package itself
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InvalidArgument, InvalidPackage, UnsupportedProgram
from . import archive
from .fields import Fields, parse
from .load import FALLBACKS, LoadedFunction, load

INDEX = "library.json"
FORMAT = "fusecade library"
SCHEMA = 1  # raise it when a field changes meaning
MOST_KNOWN = 1024  # kinds of arguments whose package is remembered
MOST_LISTED = 20  # packages in an error


@dataclass(frozen=True)
class Listed:
    """A package of a library.

    package: its file.  name: what it is called by; packages for other shapes and dtypes have the same.  function: where it
    comes from.  shapes: of each argument, dynamic sizes with a name and an example (`8,n=1024,64`).
    """

    package: str
    name: str
    function: str
    digest: str
    size: int
    shapes: tuple[str, ...]
    dtypes: tuple[str, ...]
    targets: tuple[str, ...]
    buckets: tuple[Mapping[str, int], ...]

    @property
    def arguments(self) -> str:
        """`f16[8,n=1024,64] f16[8,1024,64]`"""
        sizes = (text.rpartition(":")[2] for text in self.shapes)
        return " ".join(f"{dtype}[{size}]" for dtype, size in zip(self.dtypes, sizes, strict=True))

    @property
    def dynamic(self) -> bool:
        return any("=" in text for text in self.shapes)


def index_text(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """The index of a library, the same for the same packages."""
    data = {"format": FORMAT, "schema": SCHEMA, "packages": list(entries)}
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=True).encode() + b"\n"


def read_index(text: bytes) -> tuple[Listed, ...]:
    """Raises InvalidPackage for anything but what `index_text` gives."""
    top = Fields(parse(text, "index"), "index")
    if top.text("format") != FORMAT or top.integer("schema") != SCHEMA:
        raise InvalidPackage("it is no index of a library that this version knows")
    found = tuple(_listed(f) for f in top.each("packages"))
    top.done()
    if len({x.package for x in found}) != len(found):
        raise InvalidPackage("its index names a package twice")
    return found


def _listed(f: Fields) -> Listed:
    package = f.text("package")
    if archive.name_problem(package) is not None or "/" in package:
        raise f.wrong("package", "is no name of a file in the same folder")
    name, function, digest = f.text("name"), f.text("function"), f.text("digest")
    size, shapes, dtypes = f.integer("bytes"), f.texts("shapes"), f.texts("dtypes")
    if len(shapes) != len(dtypes):
        raise f.wrong("dtypes", "has another number of arguments than shapes")
    buckets = tuple(f.listing("buckets"))
    if not all(isinstance(b, dict) and all(type(n) is int for n in b.values()) for b in buckets):
        raise f.wrong("buckets", "has something that is no table of sizes")
    found = Listed(package, name, function, digest, size, shapes, dtypes, f.texts("targets"), buckets)
    f.done()
    return found


def open_index(path: str | Path) -> tuple[Path, str, tuple[Listed, ...]]:
    """The folder, the digest and the packages of a library: of its folder or its index.  Raises InvalidPackage."""
    path = Path(path)
    index = path / INDEX if path.is_dir() else path
    try:
        text = archive.read_file(index)
        return index.parent, archive.digest(text), read_index(text)
    except InvalidPackage as error:
        step = f"give the folder of a library, or its {INDEX}; `fusecade compile --spec` writes them"
        raise InvalidPackage(f"{index} is no valid index of a library: {error.message}", next_step=step) from error


def load_library(path: str | Path, *, digest: str | None = None, fallback: str = "error") -> Library:
    """The functions of a library, from its folder or its `library.json`; packages are loaded when they are needed.

    digest: what the index has to be, as `fusecade inspect` prints it; it has the digest of every package.  fallback: as of
    `fusecade.load`.  Raises InvalidPackage for what is no library, or another one.
    """
    if fallback not in FALLBACKS:
        raise InvalidArgument.choice("fallback", fallback, FALLBACKS)
    folder, found, listed = open_index(path)
    if digest is not None and digest != found:
        raise InvalidPackage(
            f"{path} has the digest {found}, and {digest} was asked for",
            next_step="get the library that belongs to the digest; `fusecade inspect` shows that of an index",
        )
    return Library(folder, found, listed, fallback)


class Library(Mapping[str, "LibraryFunction"]):
    """The functions of a library, by name.  packages: all of them, in the order of the specification."""

    def __init__(self, folder: Path, digest: str, packages: tuple[Listed, ...], fallback: str) -> None:
        self.folder, self.digest, self.packages = folder, digest, packages
        names = dict.fromkeys(x.name for x in packages)
        self._functions = {
            name: LibraryFunction(name, folder, [x for x in packages if x.name == name], fallback) for name in names
        }

    def __getitem__(self, name: str) -> LibraryFunction:
        if name not in self._functions:
            raise InvalidArgument.choice(f"a function of the library {self.folder}", name, self._functions)
        return self._functions[name]

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def __repr__(self) -> str:
        return f"<fusecade.Library {', '.join(self._functions)}: {self.folder}>"


class LibraryFunction:
    """One function of a library, for all the shapes and dtypes that it was packaged for."""

    def __init__(self, name: str, folder: Path, packages: Sequence[Listed], fallback: str) -> None:
        self.__name__, self._folder, self._fallback = name, folder, fallback
        self.packages = tuple(
            sorted(packages, key=lambda x: x.dynamic)
        )  # what is for one size goes before what is for all
        self._loaded: dict[str, LoadedFunction] = {}
        self._known: dict[Any, LoadedFunction] = {}  # by dtypes and shapes
        self._loading = threading.Lock()

    def __repr__(self) -> str:
        return f"<fusecade.LibraryFunction {self.__name__} in {len(self.packages)} packages: {self._folder}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.package_for(*args, **kwargs)(*args, **kwargs)

    def package_for(self, *args: Any, **kwargs: Any) -> LoadedFunction:
        """The package that takes these arguments.  Raises UnsupportedProgram where none does."""
        try:
            key = tuple((x.dtype, x.shape) for x in args) if not kwargs else None
        except AttributeError:  # it is no tensor
            key = None
        if key is not None and (known := self._known.get(key)) is not None:
            return known
        for listed in self.packages:
            if (found := self.load(listed)).takes(*args, **kwargs):
                if key is not None:
                    if len(self._known) >= MOST_KNOWN:
                        self._known.clear()
                    self._known[key] = found
                return found
        have = "; ".join(x.arguments or "no arguments" for x in self.packages[:MOST_LISTED])
        more = f" and {len(self.packages) - MOST_LISTED} more" if len(self.packages) > MOST_LISTED else ""
        raise UnsupportedProgram(
            f"{self.__name__} of the library {self._folder} has no package for these arguments; it has {have}{more}",
            next_step="add these shapes and dtypes to the specification, and build the library again",
        )

    def load(self, listed: Listed) -> LoadedFunction:
        """One of `packages`.  Raises InvalidPackage for one that is not as the index says."""
        with self._loading:
            if listed.package not in self._loaded:
                path = self._folder / listed.package
                self._loaded[listed.package] = load(path, digest=listed.digest, fallback=self._fallback)
            return self._loaded[listed.package]
