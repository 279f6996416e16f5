"""The process that builds packages of a library, one at a time; requests and answers are lines of JSON.

    python -m fusecade.commands.library_worker          # autotune/workers.py

A request: {"entry": what `Entry.to_json` gives, "folder": of the specification, "package": the file that is there, "before":
what is known of it or null, "out": the file to write, or null for a look only}.  The answer: {"state": "kept", "built" or
"due", "reasons": what changed, "record": what is known of the package from now on}, or {"failed": why, "next": what to do}.

Every request is answered by a child of this process, which has imported everything and seen nothing: no package depends on
what was built before it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import aot
from ..assembly.package_choices import Choices
from ..autotune.worker_side import NO_MEMORY, Failed, serve, speaks_of
from ..errors import FallbackWarning, FusecadeError, InternalCompilerError, InvalidPackage
from ..runtime.package.manifest import Package
from .library_spec import Entry
from .program import Shape, arguments, check_arguments, find_function

FEWER = "give fewer --jobs: each has its share of the memory"
UNKNOWN = "this is a mistake in Fusecade or in the function; please report it with the lines above"
SEED = 0  # of what a model draws for its weights


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """The answer of a child.  Raises Failed for one that ends without."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w", encoding="utf-8") as answers:
            json.dump(answer(request), answers)
        sys.stderr.flush()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answers:
        text = answers.read()
    _, status = os.waitpid(child, 0)
    if not text or os.waitstatus_to_exitcode(status) != 0:
        code = os.waitstatus_to_exitcode(status)
        raise Failed(
            "crashed", f"its process ended by signal {-code}" if code < 0 else f"its process ended with {code}"
        )
    return json.loads(text)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return _built(request)
    except FusecadeError as error:
        if isinstance(error, InternalCompilerError):
            traceback.print_exc()
        text, step = str(error).removesuffix(f"\nnext: {error.next_step}"), error.next_step
    except BaseException as error:
        traceback.print_exc()
        text, step = f"{type(error).__name__}: {error}", UNKNOWN
    return {"failed": text, "next": FEWER if speaks_of(NO_MEMORY, text) else step}


def _built(request: Mapping[str, Any]) -> dict[str, Any]:
    entry, folder, before = Entry.from_json(request["entry"]), Path(request["folder"]), request["before"]
    sys.path.insert(0, str(folder))
    random.seed(SEED)
    torch.manual_seed(SEED)
    place, _, name = entry.function.rpartition(":")
    inside = place.endswith(".py") or os.sep in place
    function = find_function(f"{folder / place}:{name}" if inside else entry.function, entry.factory)
    tensors, dynamic = arguments([Shape.read(text, entry.dtype) for text in entry.shapes])
    check_arguments(function, entry.function, tensors, shape="shape", factory="add factory = true")
    options = {**entry.options, "targets": entry.targets, "dynamic": dynamic or None}
    inputs = aot.inputs_of(function, tensors, Choices(**options))
    reasons = _changed(inputs, before, Path(request["package"]))
    if not reasons:
        return {"state": "kept", "reasons": [], "record": before}
    if request["out"] is None:
        return {"state": "due", "reasons": reasons, "record": None}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", FallbackWarning)
        made = aot.export(function, tensors, request["out"], **options)
    eager = [str(w.message) for w in said if isinstance(w.message, FallbackWarning)]
    record = {
        "inputs": inputs,
        "digest": made.digest,
        "bytes": made.path.stat().st_size,
        "kernels": {target: sum(len(r.kernels) for r in reports) for target, reports in made.reports.items()},
        "eager": list(dict.fromkeys(eager)),
        "tuned": {t: [{k: about.get(k) for k in ("subject", "found")} for about in x] for t, x in made.tuned.items()},
    }
    return {"state": "built", "reasons": reasons, "record": record}


def _changed(inputs: Mapping[str, str], before: Mapping[str, Any] | None, package: Path) -> Sequence[str]:
    """Why a package has to be built; nothing where it has not."""
    if before is None or not package.exists():
        return ["new"]
    if reasons := [name for name, value in inputs.items() if before["inputs"].get(name) != value]:
        return reasons
    try:
        if Package.open(package).digest != before["digest"]:
            return ["the file"]
    except InvalidPackage:
        return ["the file"]
    return [] if aot.still_tuned(before["tuned"]) else ["tuning"]


def _warm() -> None:
    """What PyTorch imports and builds for the first function that it traces, once and not in every child."""
    aot.inputs_of(_nothing, [torch.empty(4, 4, device="meta")], Choices(dynamic={0: {0: "n"}}))


def _nothing(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x @ x.t(), -1)


def main() -> int:
    _warm()
    return serve(handle)


if __name__ == "__main__":
    sys.exit(main())
