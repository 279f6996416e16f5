"""What was generated once, for the next process: JSON entries in a folder that only its owner can open.

    store = Store(folder)
    store.write(key, body);  store.read(key) -> body | None

An entry carries the hash of its contents.  One that is cut short, changed, or of another format is not there: it is
reported once, rebuilt and overwritten.  Entries are written whole or not at all, so that processes may share a folder.
Whoever reads an entry checks what is in it; `read_artifact` does that for kernels.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..codegen.artifact import KernelArtifact, Layout
from ..errors import CacheWarning, UserError
from .expressions import function_of
from .files import private_folder, write_kept
from .loaded import DTYPES

FORMAT = 1  # raise it when the contents of an entry change meaning
KINDS = ("torch", "triton")


class Store:
    """Entries under `folder`, one file each, named by their key."""

    def __init__(self, folder: Path) -> None:
        self.folder = private_folder(folder)
        self.hits = self.misses = 0
        self._reported = False

    def read(self, key: str) -> dict[str, Any] | None:
        """The body of an entry, or None where there is none to rely on."""
        path = self.path(key)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            self.misses += 1
            return None
        except OSError as error:
            return self.reject(key, f"cannot be read ({error.strerror})")
        try:
            entry = json.loads(text)
            body, digest, about = entry["body"], entry["sha256"], (entry["format"], entry["key"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return self.reject(key, "is not an entry of this cache")
        if about != (FORMAT, key) or not isinstance(body, dict):
            return self.reject(key, "belongs to another version or key")
        if digest != _digest(body):
            return self.reject(key, "is not what was written")
        self.hits += 1
        return body

    def write(self, key: str, body: Mapping[str, Any]) -> None:
        """Keep an entry.  A folder that cannot be written to costs time, not results."""
        entry = {"format": FORMAT, "key": key, "sha256": _digest(body), "body": body}
        try:
            write_kept(self.path(key), json.dumps(entry, sort_keys=True).encode())
        except (OSError, UserError) as error:
            why = error.strerror if isinstance(error, OSError) else error.message
            self._report(f"the cache folder {self.folder} cannot be written to ({why})")

    def reject(self, key: str, why: str) -> None:
        """An entry turned out to be of no use: say so once, and have it made anew."""
        self.misses += 1
        self._report(f"the cache entry {self.path(key)} {why}, and is made anew")

    def _report(self, what: str) -> None:
        if not self._reported:
            self._reported = True
            warnings.warn(CacheWarning(what, self.folder), stacklevel=3)

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def read_artifact(data: Any) -> KernelArtifact:
    """A kernel from JSON.  Raises ValueError for what no printer of this version writes."""
    try:
        artifact = KernelArtifact.from_json(data)
        _check(artifact)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a kernel: {type(error).__name__}: {error}") from error
    return artifact


def _check(artifact: KernelArtifact) -> None:
    """Types and expressions; the text of the kernel is covered by the hash of the entry."""
    if artifact.stages:
        _check_stages(artifact)
        return
    texts = (artifact.name, artifact.target, artifact.source, artifact.function, *artifact.sizes)
    if artifact.kind not in KINDS or not all(isinstance(x, str) for x in texts):
        raise ValueError(f"a kernel of kind {artifact.kind!r}")
    if not all(name.isidentifier() for name in (artifact.function, *artifact.sizes)):
        raise ValueError("a function or a size that is not a name")
    if not all(isinstance(x, dict) for x in (artifact.params, artifact.launch, artifact.facts)):
        raise ValueError("parameters that are not a table")
    for layout in (*artifact.inputs, *artifact.outputs):
        _check_layout(layout, artifact.sizes)
    described = artifact.launch.get("described", [])
    if not all(isinstance(n, int) and 0 <= n < len(artifact.inputs) for n in described):
        raise ValueError("a descriptor of a tensor that there is not")
    function_of(artifact.launch["programs" if artifact.kind == "torch" else "grid"], artifact.sizes)


def _check_stages(artifact: KernelArtifact) -> None:
    tensors = (*artifact.inputs, *artifact.workspaces, *artifact.outputs)
    if artifact.kind not in KINDS or not all(isinstance(x, str) for x in (artifact.name, *artifact.sizes)):
        raise ValueError(f"a call of kind {artifact.kind!r}")
    for layout in tensors:
        _check_layout(layout, artifact.sizes)
    for stage in artifact.stages:
        _check(stage.kernel)
        used = (*stage.reads, *stage.writes)
        if not all(isinstance(n, int) and 0 <= n < len(tensors) for n in used):
            raise ValueError("a stage takes a tensor that there is not")
        if (len(stage.reads), len(stage.writes)) != (len(stage.kernel.inputs), len(stage.kernel.outputs)):
            raise ValueError("a stage takes another number of tensors")
        if stage.kernel.kind != artifact.kind or not set(stage.kernel.sizes) <= set(artifact.sizes):
            raise ValueError("a stage that does not belong to its call")


def _check_layout(layout: Layout, names: tuple[str, ...]) -> None:
    if layout.dtype not in DTYPES or len(layout.shape) != len(layout.strides):
        raise ValueError(f"the layout {layout} is none that a tensor has")
    function_of((layout.shape, layout.strides), names)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
